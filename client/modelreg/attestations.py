"""What is said of an artifact beside its signature: in-toto statements, each in its own bundle (docs/spec/attestations.md).

People and pipelines sign them as they sign artifacts, and the trust policy says who may say what (`allowed_to_attest`). The
registry signs what it finds and decides itself (scans, verdicts, permits) with the key of its custody log, which clients
pin anyway: DSSE's encoding begins with other bytes than a checkpoint, so neither can be taken for the other.

The first subject is the artifact (or dataset) by its digest; further ones are other names of the same, such as the OMS root.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from modelreg import bundles, notes, verification
from modelreg.canonical import canonical_json, strict_json
from modelreg.digests import Digest, is_hex_64, sha256_of
from modelreg.errors import SignatureInvalid, SignerNotAllowed
from modelreg.statements import STATEMENT_TYPE
from modelreg.trust import LogTrust, TrustPolicy
from modelreg.verification import SignerIdentity

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_BUNDLE_BYTES = 16 * 1024 * 1024  # the provenance of an import names every file
MAX_SUBJECTS = 8
REGISTRY = "registry"  # the authority of what the registry signed


class Kind(StrEnum):
    """What a statement is about. The words are those of the trust policy's `attests`; the last two only registries say."""

    PROVENANCE = "provenance"
    DATASET = "dataset"
    SOURCE_CHECK = "source-check"
    SCAN = "scan"
    APPROVAL = "approval"
    WAIVER = "waiver"
    DECLASSIFICATION = "declassification"
    VERDICT = "verdict"
    PERMIT = "permit"


PREDICATE_TYPES: Mapping[Kind, str] = {
    Kind.PROVENANCE: "https://slsa.dev/provenance/v1",
    Kind.DATASET: "urn:modelreg:dataset:v1",
    Kind.SOURCE_CHECK: "urn:modelreg:source-check:v1",
    Kind.SCAN: "urn:modelreg:scan:v1",
    Kind.APPROVAL: "urn:modelreg:approval:v1",
    Kind.WAIVER: "urn:modelreg:waiver:v1",
    Kind.DECLASSIFICATION: "urn:modelreg:declassification:v1",
    Kind.VERDICT: "https://slsa.dev/verification_summary/v1",
    Kind.PERMIT: "urn:modelreg:permit:v1",
}
_KINDS = {predicate_type: kind for kind, predicate_type in PREDICATE_TYPES.items()}
# What the log's key may say; of the rest people and pipelines answer for with keys of their own.
REGISTRYS = frozenset({Kind.SCAN, Kind.VERDICT, Kind.PERMIT})


@dataclass(frozen=True)
class Attestation:
    """A parsed statement; only as trusted as the signature around it. `predicate` is JSON, read further by its kind."""

    kind: Kind
    name: str
    subjects: tuple[Digest, ...]
    predicate: dict[str, Any]
    payload: bytes

    @property
    def digest(self) -> Digest:
        """SHA-256 of the exact payload: by which other statements and the log name this one."""
        return sha256_of(self.payload)


@dataclass(frozen=True)
class VerifiedAttestation:
    """A statement by somebody who may make it, of the subject that was asked about. Made by `verify*` only."""

    attestation: Attestation
    signer: SignerIdentity
    repository: str
    verified_at: datetime
    raw_bundle: bytes


def build(
    kind: Kind, name: str, subject: Digest, predicate: Mapping[str, Any], *, also: Sequence[tuple[str, Digest]] = ()
) -> bytes:
    """The payload of a statement, canonical JSON.

    Args:
        name: the subject's repository or dataset: for people, no identity.
        also: further subjects by name, which are the same thing by other digests.
    """
    subjects = [{"name": label, "digest": {"sha256": digest.hex}} for label, digest in ((name, subject), *also)]
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": PREDICATE_TYPES[kind],
            "predicate": dict(predicate),
        }
    )


def parse(raw_payload: bytes) -> Attestation:
    """Read the payload of an envelope.

    Args:
        raw_payload: untrusted until the signature around it is checked.

    Raises:
        SignatureInvalid: not a statement of a known kind about 1 to 8 subjects with a sha256 each.
    """
    try:
        members = strict_json(raw_payload)
    except ValueError as error:
        raise SignatureInvalid(f"the statement is not JSON: {error}") from None
    if not isinstance(members, dict) or members.keys() != {"_type", "subject", "predicateType", "predicate"}:
        raise SignatureInvalid("this is no in-toto statement: _type, subject, predicateType and predicate")
    if members["_type"] != STATEMENT_TYPE:
        raise SignatureInvalid(f"statement type is {ascii(members['_type'])[:120]}, not {STATEMENT_TYPE}")
    predicate_type = members["predicateType"]
    kind = _KINDS.get(predicate_type) if isinstance(predicate_type, str) else None
    if kind is None:
        raise SignatureInvalid(f"predicate type {ascii(predicate_type)[:120]} is none that this version reads")
    if not isinstance(members["predicate"], dict):
        raise SignatureInvalid("the statement's predicate is not an object")
    name, subjects = _subjects(members["subject"])
    return Attestation(kind, name, subjects, members["predicate"], raw_payload)


def _subjects(untrusted: Any) -> tuple[str, tuple[Digest, ...]]:
    if not isinstance(untrusted, list) or not 1 <= len(untrusted) <= MAX_SUBJECTS:
        raise SignatureInvalid(f"the statement has not 1 to {MAX_SUBJECTS} subjects")
    found = []
    for at, item in enumerate(untrusted):
        digest = item.get("digest") if isinstance(item, dict) else None
        value = digest.get("sha256") if isinstance(digest, dict) else None
        if not is_hex_64(value) or not isinstance(item.get("name"), str):
            raise SignatureInvalid(f"subject[{at}] has no name, or no sha256 of 64 lowercase hex digits")
        found.append(Digest("sha256", str(value)))
    return untrusted[0]["name"], tuple(found)


def verify(
    raw_bundle: bytes,
    *,
    policy: TrustPolicy,
    repository: str,
    now: datetime,
    subject: Digest | None = None,
    kind: Kind | None = None,
) -> VerifiedAttestation:
    """Verify a statement that a person or pipeline signed.

    The kind is read before the signature is checked, because the policy's rule goes by it; then the rule for that kind
    decides over the same bytes.

    Args:
        raw_bundle: untrusted.
        repository: whose rules apply.
        subject: what it must be about, first of all; None takes any.
        kind: what it must be; None takes any that people may make.

    Raises:
        SignatureInvalid, SignerNotAllowed, StaleTrust, Revoked: it is not what was asked for, or not believed.
    """
    claimed = parse(_parsed(raw_bundle).payload)
    _require(claimed, subject, kind)
    if claimed.kind in {Kind.VERDICT, Kind.PERMIT}:
        raise SignerNotAllowed(f"only the registry itself states a {claimed.kind}")
    allowed = policy.allowed_to_attest(claimed.kind.value, repository)
    if not allowed:
        raise SignerNotAllowed(
            f"no rule of the trust policy lets anybody state a {claimed.kind} for {repository}; add one with "
            f'attests = ["{claimed.kind}"]'
        )
    believed = verification.verify_payload(raw_bundle, policy=policy, allowed=allowed, repository=repository, now=now)
    if believed.legacy_0_2:  # an authority's leave for old artifact signatures is none for statements
        raise SignatureInvalid(
            "the statement is signed in the encoding of model-signing 0.2.0, which signs no statements"
        )
    return VerifiedAttestation(parse(believed.payload), believed.signer, repository, now, raw_bundle)


def verify_registrys(
    raw_bundle: bytes, *, log: LogTrust, repository: str, now: datetime, kind: Kind, subject: Digest | None = None
) -> VerifiedAttestation:
    """Verify a statement that the registry signed, with the pinned keys of its log.

    Raises:
        SignatureInvalid: it does not hold, or is not what was asked for.
        SignerNotAllowed: signed by something else than a pinned key, or of a kind that no registry states.
    """
    if kind not in REGISTRYS:
        raise SignerNotAllowed(f"a {kind} is not the registry's to state")
    bundle = _parsed(raw_bundle)
    key = next((key for key in log.keys if bundle.kind == "publicKey" and bundle.hint == hint_of(key)), None)
    if key is None:
        raise SignerNotAllowed(f"the statement is not signed with a pinned key of the log {log.origin}")
    _verify_ed25519(key, bundle)
    claimed = parse(bundle.payload)
    _require(claimed, subject, kind)
    signer = SignerIdentity(REGISTRY, f"key:{key.name}", (f"key:{key.name}",), (sha256_of(key.raw),))
    return VerifiedAttestation(claimed, signer, repository, now, raw_bundle)


def claimed(raw_bundle: bytes) -> Attestation:
    """What an unverified bundle states; for showing it as such, never for a decision.

    Raises:
        SignatureInvalid: it is no bundle around a statement.
    """
    return parse(_parsed(raw_bundle).payload)


def sign_as_registry(payload: bytes, key: "Ed25519PrivateKey", origin: str) -> bytes:
    """The bundle around a statement of the registry's own, signed with its log key."""
    hint = hint_of(notes.key_of(origin, notes.ED25519, key.public_key()))
    return bundles.serialise(bundles.Bundle("publicKey", payload, key.sign(bundles.pae(payload)), hint=hint))


def hint_of(key: notes.VerifierKey) -> str:
    """How a bundle names a log's key: its name and id, as in a note."""
    return f"{key.name}+{key.key_id.hex()}"


def _parsed(raw_bundle: bytes) -> bundles.Bundle:
    if len(raw_bundle) > MAX_BUNDLE_BYTES:
        raise SignatureInvalid(f"the attestation has {len(raw_bundle)} bytes; the limit is {MAX_BUNDLE_BYTES}")
    return bundles.parse(raw_bundle)


def _require(claimed: Attestation, subject: Digest | None, kind: Kind | None) -> None:
    if kind is not None and claimed.kind != kind:
        raise SignatureInvalid(f"this is a {claimed.kind}, not a {kind}")
    if subject is not None and claimed.subjects[0] != subject:
        raise SignatureInvalid(f"the {claimed.kind} is about {claimed.subjects[0]}, not {subject}")


def _verify_ed25519(key: notes.VerifierKey, bundle: bundles.Bundle) -> None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # not for `--help`
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(bundle.signature, bundles.pae(bundle.payload))
    except (InvalidSignature, ValueError):
        raise SignatureInvalid(f"the signature of {key.name} on this statement does not hold") from None
