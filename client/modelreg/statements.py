"""What is signed: an in-toto Statement v1 with the OMS v1.0 predicate (docs/spec/signature.md).

Ours carries, beside what OMS asks for, `annotations` with size and BLAKE3 on every resource and the artifact digest on
the subject: SHA-256 for the world, BLAKE3 for our own re-verification, one signature over both.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from modelreg import manifests
from modelreg.canonical import canonical_json, strict_json
from modelreg.digests import Digest, is_hex_64, sha256_of
from modelreg.errors import Invalid, ManifestInvalid, SignatureInvalid

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
OMS_PREDICATE = "https://model_signing/signature/v1.0"
OMS_PREDICATE_0_2 = "https://model_signing/Digests/v0.1"  # model-signing 0.2.0; behind a flag of the trust policy


@dataclass(frozen=True)
class SignedFile:
    """One resource. `size` (bytes) and `blake3` are None where another producer signed without our annotations."""

    path: str
    sha256: str
    size: int | None = None
    blake3: str | None = None


@dataclass(frozen=True)
class Statement:
    """A parsed statement: at least one file, unique harmless paths. Only as trusted as the signature around it."""

    name: str
    files: tuple[SignedFile, ...]
    root_digest: Digest | None
    artifact: Digest | None


def build(name: str, manifest: manifests.Manifest) -> bytes:
    """The OMS statement of a manifest, in the order the spec asks for (code point of the whole path).

    `name` is the subject's name: for people, no identity.
    """
    root = root_digest(entry.sha256 for entry in manifest.files)
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {
                    "name": name,
                    "digest": {"sha256": root.hex},
                    "annotations": {"artifact": str(manifest.digest)},
                }
            ],
            "predicateType": OMS_PREDICATE,
            "predicate": {
                "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
                "resources": [
                    {
                        "name": entry.path,
                        "algorithm": "sha256",
                        "digest": entry.sha256,
                        "annotations": {"size": entry.size, "blake3": entry.blake3},
                    }
                    for entry in manifest.files
                ],
            },
        }
    )


def root_digest(files_sha256: Iterable[str]) -> Digest:
    """What OMS calls a model: SHA-256 over the SHA-256 of its files, in their order (code point of the path)."""
    return sha256_of(b"".join(bytes.fromhex(value) for value in files_sha256))


def parse(raw_payload: bytes, *, legacy_0_2: bool = False) -> Statement:
    """Read the payload of an envelope. Signed `ignore_paths` are read and never honoured: an unsigned file is extra.

    Args:
        raw_payload: untrusted until the signature around it is checked.
        legacy_0_2: read the predicate of model-signing 0.2.0 instead of v1.0; never both.

    Raises:
        SignatureInvalid: any other type, predicate, serialisation or algorithm; a duplicate, escaping or colliding
            name; no file at all; a root digest that is not that of the resources.
    """
    try:
        members = _members(strict_json(raw_payload), "statement", "_type", "subject", "predicateType", "predicate")
    except ValueError as error:
        raise SignatureInvalid(f"the payload is not JSON: {error}") from None
    if len(members) != 4:
        raise SignatureInvalid(f"the statement has unknown members: {ascii(sorted(members))[:120]}")
    if members["_type"] != STATEMENT_TYPE:
        raise SignatureInvalid(f"statement type is {ascii(members['_type'])[:120]}, not {STATEMENT_TYPE}")
    expected = OMS_PREDICATE_0_2 if legacy_0_2 else OMS_PREDICATE
    if members["predicateType"] != expected:
        raise SignatureInvalid(f"predicate type is {ascii(members['predicateType'])[:120]}, not {expected}")
    subjects = members["subject"]
    if not isinstance(subjects, list):
        raise SignatureInvalid("subject is not a list")
    statement = _parse_0_2(subjects) if legacy_0_2 else _parse_1_0(subjects, members["predicate"])
    _require_file_names(statement.files)
    return statement


def _parse_1_0(subjects: list[Any], untrusted_predicate: Any) -> Statement:
    if len(subjects) != 1:
        raise SignatureInvalid(f"the statement has {len(subjects)} subjects; exactly one is one model")
    subject = _members(subjects[0], "subject[0]", "name", "digest")
    root = _members(subject["digest"], "subject[0].digest", "sha256")["sha256"]
    predicate = _members(untrusted_predicate, "predicate", "serialization", "resources")
    how = _members(predicate["serialization"], "predicate.serialization", "method", "hash_type", "allow_symlinks")
    if (how["method"], how["hash_type"], how["allow_symlinks"]) != ("files", "sha256", False):
        raise SignatureInvalid(
            f"serialization is {ascii(how)[:160]}; read are method files, hash_type sha256, allow_symlinks false"
        )
    if not isinstance(predicate["resources"], list):
        raise SignatureInvalid("predicate.resources is not a list")
    files = tuple(_resource(item, at) for at, item in enumerate(predicate["resources"]))
    measured = root_digest(file.sha256 for file in files)
    if root != measured.hex:
        raise SignatureInvalid(f"the subject's digest is {ascii(root)[:80]}, that of its resources {measured.hex}")
    return Statement(_text(subject["name"]), files, measured, _artifact(subject))


def _parse_0_2(subjects: list[Any]) -> Statement:
    files = []
    for at, item in enumerate(subjects):
        subject = _members(item, f"subject[{at}]", "name", "digest")
        digest = _members(subject["digest"], f"subject[{at}].digest", "sha256")["sha256"]
        files.append(SignedFile(_text(subject["name"]), _hex(digest, f"subject[{at}]")))
    return Statement("", tuple(files), None, None)


def _resource(untrusted: Any, at: int) -> SignedFile:
    where = f"resources[{at}]"
    members = _members(untrusted, where, "name", "digest", "algorithm")
    if members["algorithm"] != "sha256":
        raise SignatureInvalid(f"{where}.algorithm is {ascii(members['algorithm'])[:60]}, not sha256")
    annotations = members.get("annotations", {})
    size = annotations.get("size") if isinstance(annotations, dict) else None
    blake3 = annotations.get("blake3") if isinstance(annotations, dict) else None
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise SignatureInvalid(f"{where}.annotations.size is not a number of bytes")
    if blake3 is not None:
        _hex(blake3, f"{where}.annotations.blake3")
    return SignedFile(_text(members["name"]), _hex(members["digest"], where), size, blake3)


def _artifact(subject: dict[str, Any]) -> Digest | None:
    annotations = subject.get("annotations")
    if not isinstance(annotations, dict) or "artifact" not in annotations:
        return None
    try:
        return Digest.parse(_text(annotations["artifact"]))
    except Invalid as error:
        raise SignatureInvalid(f"subject[0].annotations.artifact: {error.detail}") from None


def _require_file_names(files: tuple[SignedFile, ...]) -> None:
    try:
        manifests.require_names([file.path for file in files])
    except ManifestInvalid as error:
        raise SignatureInvalid(f"the statement's files: {error.detail}") from None


def _members(untrusted: Any, where: str, *required: str) -> dict[str, Any]:
    if not isinstance(untrusted, dict) or any(name not in untrusted for name in required):
        raise SignatureInvalid(f"{where} is not an object with {', '.join(required)}")
    return untrusted


def _text(untrusted: Any) -> str:
    if not isinstance(untrusted, str):
        raise SignatureInvalid(f"{ascii(untrusted)[:80]} is not a string")
    return untrusted


def _hex(untrusted: Any, where: str) -> str:
    if not is_hex_64(untrusted):
        raise SignatureInvalid(f"{where} has no SHA-256 or BLAKE3 of 64 lowercase hex digits")
    return str(untrusted)
