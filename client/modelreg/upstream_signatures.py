"""What a signature says that came with a source's files: an OMS bundle of somebody else's, checked and recorded.

    valid            the bundle holds, its signer is one the user's upstream trust allows, and it is about exactly these files
    invalid          it does not hold, or is about other bytes, or leaves a file unsigned
    unknown-signer   it is about exactly these files; nobody here says whom to believe
    none             there is no signature

The verdict is recorded, it does not decide: who may import what is for a promotion policy. It never stands for the
importer's own signature.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from modelreg import bundles, statements, verification
from modelreg.digests import sha256_of
from modelreg.errors import Invalid, Refused, SignatureInvalid, SignerNotAllowed, StaleTrust, Untrusted
from modelreg.signing import hint_of
from modelreg.statements import Statement
from modelreg.trees import LEFT_OUT, SIGNATURE_FILE
from modelreg.trust import MALFORMED, CertificateAuthority, KeyAuthority, SigstoreAuthority, TrustPolicy

VALID, INVALID, UNKNOWN_SIGNER, NONE = "valid", "invalid", "unknown-signer", "none"
_SUFFIXES = (".sigstore", ".sigstore.json", ".oms.sig")
_MAX_WHY_CHARS = 300
_MAX_IDENTITY_CHARS = 200


def find(paths: Mapping[str, str]) -> str | None:
    """The signature among a source's files: `model.sig`, else the only one at the top that is called like a bundle."""
    if SIGNATURE_FILE in paths:
        return SIGNATURE_FILE
    named = [path for path in paths if "/" not in path and path.endswith(_SUFFIXES)]
    return named[0] if len(named) == 1 else None


def check(
    root: Path, sha256: Mapping[str, str], *, trust: TrustPolicy | None, name: str, now: datetime
) -> dict[str, Any]:
    """The verdict as a provenance statement holds it.

    Args:
        root: where the files are.
        sha256: what was measured of each, by path, the signature among them.
        trust: whom the user believes about this source; None believes nobody.
        name: the source's name in the rules of `trust`.

    Raises:
        StaleTrust: `trust` is too old to say anything.
    """
    path = find(sha256)
    if path is None:
        return {"verdict": NONE}
    with (root / path).open("rb") as file:
        raw = file.read(bundles.MAX_BUNDLE_BYTES + 1)
    found: dict[str, Any] = {"file": path, "bundle": str(sha256_of(raw))}
    if trust is not None:
        found["trust"] = str(trust.digest)
    covered = {file: digest for file, digest in sha256.items() if file != path}
    try:
        bundle = bundles.parse(raw)
        if (claimed := claimed_identity(bundle)) is not None:
            found["identity"] = claimed
        if trust is None or not _knows(trust, name, bundle):
            _require_covers(statements.parse(bundle.payload), covered)
            which = "no --upstream-trust says" if trust is None else "the --upstream-trust does not say"
            return {**found, "verdict": UNKNOWN_SIGNER, "why": f"{which} whom to believe"}
        verified = verification.verify_statement(raw, policy=trust, repository=name, now=now)
        _require_covers(verified.statement, covered)
    except StaleTrust:
        raise
    except SignerNotAllowed as error:
        return {**found, "verdict": UNKNOWN_SIGNER, "why": _line(error.detail, _MAX_WHY_CHARS)}
    except (Untrusted, Refused, Invalid) as error:
        return {**found, "verdict": INVALID, "why": _line(error.detail, _MAX_WHY_CHARS)}
    return {**found, "identity": verified.signer.identity, "authority": verified.signer.authority, "verdict": VALID}


def _knows(trust: TrustPolicy, name: str, bundle: bundles.Bundle) -> bool:
    """Whether the trust has something to hold a bundle of this kind against: a stranger's is not a broken one."""
    authorities = [trust.authorities[entry.authority] for entry in trust.allowed_for(name)]
    match bundle.kind:
        case "publicKey":
            keys = [key for authority in authorities if isinstance(authority, KeyAuthority) for key in authority.keys]
            return any(bundle.hint in {None, hint_of(key.public_key)} for key in keys)
        case "x509CertificateChain":
            return any(isinstance(authority, CertificateAuthority) for authority in authorities)
        case "certificate":
            return any(isinstance(authority, SigstoreAuthority) for authority in authorities)


def claimed_identity(bundle: bundles.Bundle) -> str | None:
    """Whom the bundle names, unproven: the first name of its leaf certificate, or the hint of its key."""
    if bundle.kind == "publicKey":
        return f"key:{_line(bundle.hint, _MAX_IDENTITY_CHARS)}" if bundle.hint else None
    try:
        leaf = x509.load_der_x509_certificate(bundle.certificates[0])
        names = list(verification.identities_of(leaf))
    except MALFORMED:
        return None
    names = sorted(names, key=lambda name: name.startswith("subject:"))
    return _line(names[0], _MAX_IDENTITY_CHARS) if names else None


def _require_covers(statement: Statement, sha256: Mapping[str, str]) -> None:
    """Go on only if the statement is about these files, all of them and no other.

    What it signs of the names that are never part of an artifact was not fetched.
    """
    signed = {file.path: file.sha256 for file in statement.files if file.path.split("/")[0] not in LEFT_OUT}
    if missing := sorted(signed.keys() - sha256.keys()):
        raise SignatureInvalid(f"it signs {ascii(missing[0])[1:80]}, which the source does not have")
    if wrong := sorted(path for path, digest in signed.items() if sha256[path] != digest):
        path = wrong[0]
        raise SignatureInvalid(
            f"it signs sha256:{signed[path]} as {ascii(path)[1:80]}, which has sha256:{sha256[path]}"
        )
    if unsigned := sorted(sha256.keys() - signed.keys()):
        raise SignatureInvalid(f"it does not sign {ascii(unsigned[0])[1:80]} ({len(unsigned)} files are not signed)")


def _line(text: str | None, limit: int) -> str:
    return "".join(char if char.isprintable() else "?" for char in text or "")[:limit]
