"""What a Sigstore bundle proves, held against a pinned trusted root (steps 3 and 4 of verification, method `sigstore`).

sigstore-python does the cryptography, offline: Fulcio's chain and the leaf's usage at every verified time, one signed
certificate timestamp, one log entry with inclusion proof and checkpoint that is about this envelope, the signature. It
is imported when such a bundle is there and not before. Here is what it leaves to its caller, and where it is laxer than
the specification of trusted roots:

* the issuer, exactly;
* that what it verified is what we parsed: it gets our own writing of the bundle, and its answer is compared;
* when the signature was made;
* that Fulcio and the time-stamping authority were in use at that time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from modelreg import bundles
from modelreg.errors import Misconfigured, SignatureInvalid, SignerNotAllowed
from modelreg.trust import SigstoreAuthority
from modelreg.trusted_root import PinnedChain, TrustedRoot

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse
    from sigstore.verify import Verifier

# https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md: the older extension holds the bare text, the newer DER.
ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER_V2_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")

Disbelieved = Callable[[Sequence[x509.Certificate]], bool]


@dataclass(frozen=True)
class Proven:
    """The chain from leaf to root that made the signature, and when.

    `signed_at` is the latest of the verified times. Each of them only says that the signature existed by then; a
    revocation from a time on spares a signature when *every* source that speaks says that it is older, so that one wrong
    clock or one stolen time-stamping key is not enough to bring a revoked signer back.
    """

    chain: tuple[x509.Certificate, ...]
    signed_at: datetime


def prove(bundle: bundles.Bundle, authority: SigstoreAuthority, name: str, disbelieved: Disbelieved) -> Proven:
    """Verify an untrusted bundle against one Sigstore, called `name` in the trust policy.

    Args:
        disbelieved: whether a revocation takes belief from the time-stamping authority of these pinned certificates.

    Raises:
        SignatureInvalid: the bundle, its certificate, its log entry, its times or its signature do not hold.
        SignerNotAllowed: all of it holds, but the certificate was issued for another issuer's token.
        Misconfigured: the pinned trusted root is one that the library cannot use.
    """
    verifier = _verifier(authority.trusted_root.text)
    try:
        leaf, times = _verify(bundle, authority.trusted_root, verifier, disbelieved)
        chain = _chain(leaf, authority.trusted_root.authorities, times)
        issuers = _issuers(leaf)
    except SignatureInvalid:
        raise
    except Exception as error:  # noqa: BLE001
        # Beside its own errors the library lets through ValueError, KeyError, IndexError and what `cryptography` raises
        # for hostile bytes. Whatever it was: not verified.
        raise SignatureInvalid(
            f"the Sigstore bundle does not hold against {name}: {type(error).__name__}: {ascii(str(error))[1:400]}"
        ) from None
    if issuers != {authority.issuer}:
        raise SignerNotAllowed(
            f"signed with a token of {', '.join(map(ascii, sorted(issuers))) or 'no issuer'}, but {name} of the trust "
            f"policy takes those of {authority.issuer} only",
            issuers=sorted(issuers),
        )
    return Proven(chain, max(times))


def _verify(
    bundle: bundles.Bundle, root: TrustedRoot, verifier: "Verifier", disbelieved: Disbelieved
) -> tuple[x509.Certificate, list[datetime]]:
    """The leaf that made the signature, and every verified time."""
    from sigstore.models import Bundle  # noqa: PLC0415  # slow to import, and most verifications need none of it

    raw = bundles.serialise(bundle)
    parsed = Bundle.from_json(raw)
    kind, payload = verifier.verify_dsse(parsed, _AnyIdentity())
    leaf = parsed.signing_certificate
    if (kind, payload, leaf.public_bytes(Encoding.DER)) != (
        bundles.PAYLOAD_TYPE,
        bundle.payload,
        bundle.certificates[0],
    ):
        raise SignatureInvalid(
            "the Sigstore library verified something else than this bundle's payload and certificate"
        )
    times = _verified_times(raw, bundle.signature, root, disbelieved)
    if not times or not all(leaf.not_valid_before_utc <= at <= leaf.not_valid_after_utc for at in times):
        raise SignatureInvalid("no time at which the signer's certificate was valid is proven for the signature")
    return leaf, times


class _AnyIdentity:
    """Accepts every certificate: issuer and identity are judged once all else holds, and with our own errors."""

    def verify(self, cert: x509.Certificate) -> None:
        """Nothing to say."""


def _verifier(trusted_root: str) -> "Verifier":
    """Made anew each time (a millisecond): the library leaves out what is not in use yet when it is made."""
    from sigstore.models import TrustedRoot as LibraryRoot  # noqa: PLC0415
    from sigstore.verify import Verifier  # noqa: PLC0415
    from sigstore_models.trustroot import v1  # noqa: PLC0415

    try:
        return Verifier(trusted_root=LibraryRoot(v1.TrustedRoot.from_json(trusted_root)))
    except Exception as error:  # noqa: BLE001  # the operator's file; the library has no one error for what it dislikes
        raise Misconfigured(f"the trusted root of the trust policy cannot be used: {error}") from None


def _verified_times(raw: bytes, signature: bytes, root: TrustedRoot, disbelieved: Disbelieved) -> list[datetime]:
    """The times of a verified bundle that somebody pinned vouches for.

    The log's own time counts where the signed entry timestamp is there, which the library has verified with it. Stamps of
    authorities that are not pinned, or are revoked, are no times; they do no harm, since one that is believed must be there.
    """
    from rfc3161_client import decode_timestamp_response  # noqa: PLC0415
    from sigstore_models.bundle import v1  # noqa: PLC0415

    material = v1.Bundle.from_json(raw).verification_material
    believed = [authority for authority in root.timestamp_authorities if not disbelieved(authority.certificates)]
    times = [
        datetime.fromtimestamp(entry.integrated_time, UTC)
        for entry in material.tlog_entries
        if entry.integrated_time and entry.inclusion_promise
    ]
    stamps = material.timestamp_verification_data
    for stamp in stamps.rfc3161_timestamps if stamps else ():
        response = decode_timestamp_response(stamp.signed_timestamp)
        if any(_stamped(response, signature, authority) for authority in believed):
            times.append(response.tst_info.gen_time.astimezone(UTC))
    return times


def _stamped(response: "TimeStampResponse", signature: bytes, authority: PinnedChain) -> bool:
    from rfc3161_client import VerificationError, VerifierBuilder  # noqa: PLC0415

    if not authority.covers(response.tst_info.gen_time):
        return False
    stamping, *issuers = authority.certificates
    if not issuers:
        return False
    builder = VerifierBuilder().tsa_certificate(stamping).add_root_certificate(issuers[-1])
    for intermediate in issuers[:-1]:
        builder = builder.add_intermediate_certificate(intermediate)
    try:
        return builder.build().verify_message(response, signature)
    except VerificationError:
        return False


def _chain(
    leaf: x509.Certificate, authorities: Sequence[PinnedChain], times: Sequence[datetime]
) -> tuple[x509.Certificate, ...]:
    """The leaf with the pinned certificates above it, of an authority that was in use at all these times."""
    for authority in authorities:
        if all(map(authority.covers, times)) and _issued(leaf, authority.certificates):
            return (leaf, *authority.certificates)
    raise SignatureInvalid(
        "no Fulcio of the trusted root that was in use at the time of the signature issued this leaf"
    )


def _issued(leaf: x509.Certificate, issuers: Sequence[x509.Certificate]) -> bool:
    subject = leaf
    for issuer in issuers:
        try:
            subject.verify_directly_issued_by(issuer)
        except (InvalidSignature, TypeError, ValueError):
            return False
        subject = issuer
    return True


def _issuers(leaf: x509.Certificate) -> set[str]:
    """What the leaf says of the issuer; both extensions are read, since a verifier elsewhere may read either."""
    from cryptography.hazmat import asn1  # noqa: PLC0415  # comes with the release that sigstore asks for

    found = set()
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.UnrecognizedExtension):
            if extension.oid == ISSUER_OID:
                found.add(extension.value.value.decode())
            if extension.oid == ISSUER_V2_OID:
                found.add(asn1.decode_der(str, extension.value.value))
    return found
