"""Trusted time: RFC 3161 time stamps over a signature (docs/spec/verification.md, step 4). No IO, no state.

A stamp of a time-stamping authority (TSA) proves that the signature existed at its time. Anybody may ask for one, at any
time after the signature was made and never before: so a later stamp says less, and none can make a signature older than
it is, unless the TSA lies. Of several, the earliest therefore counts.

`rfc3161-client` parses and checks the CMS signature (with OpenSSL, purpose time stamping). What is held against it here
are its own past and the holes it leaves: the leaf is picked by us and must be the only one of its name, the chain is
verified a second time to the pinned roots alone, only SHA-2 counts, and a panic is a refusal.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.x509 import verification as x509_verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg.bundles import MAX_CERTIFICATES, MAX_TIMESTAMP_BYTES
from modelreg.errors import SignatureInvalid
from modelreg.trust import MALFORMED, MAX_CLOCK_SKEW, TimeAuthority

if TYPE_CHECKING:  # a Rust extension that only artifacts with time stamps need
    from rfc3161_client import TimeStampRequest, TimeStampResponse

T = TypeVar("T")

_MAX_CHAIN_DEPTH = 4
_UNREADABLE: tuple[type[Exception], ...] = (TypeError, OverflowError, *MALFORMED)
_NO_CHAIN: tuple[type[Exception], ...] = (x509_verification.VerificationError, *MALFORMED)
_HASHES = {
    "2.16.840.1.101.3.4.2.1": hashlib.sha256,
    "2.16.840.1.101.3.4.2.2": hashlib.sha384,
    "2.16.840.1.101.3.4.2.3": hashlib.sha512,
}


@dataclass(frozen=True)
class TimeStamp:
    """A stamp that holds: the signature existed at `at`, says `authority`; `chain` is the TSA's, leaf to root."""

    authority: str
    at: datetime
    chain: tuple[x509.Certificate, ...]


@dataclass(frozen=True)
class _Parsed:
    """What a stamp says; nothing of it is proven. `generated_at` is aware, `at` is that and its stated accuracy."""

    response: "TimeStampResponse"
    generated_at: datetime
    at: datetime
    imprint: bytes
    imprint_algorithm: str
    nonce: int | None
    leaf: x509.Certificate
    others: tuple[x509.Certificate, ...]


def held(
    untrusted_stamps: Iterable[bytes], signature: bytes, authorities: Mapping[str, TimeAuthority], now: datetime
) -> list[TimeStamp]:
    """The stamps by authorities that are believed; those by anybody else say nothing here, and are left out.

    Args:
        untrusted_stamps: DER `TimeStampResp`, from a bundle.
        signature: the bytes the stamps must be over; it need not be verified yet.
        authorities: those to believe, by name; without one nothing is even parsed.
        now: aware.

    Raises:
        SignatureInvalid: a stamp is malformed, or is by one of these authorities and does not hold.
    """
    if not authorities:
        return []
    found = [prove(raw, signature, authorities, now) for raw in untrusted_stamps]
    return [stamp for stamp in found if stamp is not None]


def prove(
    untrusted_stamp: bytes, signature: bytes, authorities: Mapping[str, TimeAuthority], now: datetime
) -> TimeStamp | None:
    """Verify one stamp; None where it is by a TSA that none of the authorities is, or was at that time.

    Raises:
        SignatureInvalid: as in `held`.
    """
    parsed = _guarded(lambda: _parse(untrusted_stamp))
    refusals: list[SignatureInvalid] = []
    for name, authority in authorities.items():
        chain = _chain(parsed, authority, parsed.generated_at)
        # Not valid at that time: a stranger's stamp, or a wrong one of this authority? Its leaf once had a good chain.
        ours = chain is not None or _chain(parsed, authority, parsed.leaf.not_valid_before_utc) is not None
        if not ours or not authority.believed_at(parsed.at):
            continue
        try:
            if chain is None:
                raise SignatureInvalid(
                    f"the certificate of the time-stamping authority {name} was not valid when it stamped, at "
                    f"{parsed.generated_at:%Y-%m-%d %H:%M}Z"
                )
            _require_held(parsed, signature, authority, name, now)
            return TimeStamp(name, min(parsed.at, now.astimezone(UTC)), chain)
        except SignatureInvalid as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]
    return None


def query(signature: bytes) -> "TimeStampRequest":
    """What to send to a TSA for a stamp over these bytes: their SHA-256, a random nonce, and a wish for certificates."""
    import rfc3161_client  # noqa: PLC0415  # see above

    return (
        rfc3161_client.TimestampRequestBuilder()
        .data(signature)
        .hash_algorithm(rfc3161_client.HashAlgorithm.SHA256)
        .build()
    )


def require_answer(untrusted_reply: bytes, sent: "TimeStampRequest") -> None:
    """Hold a reply against the query it answers, before `prove` looks at who made it.

    Raises:
        SignatureInvalid: it is a reply to something else, or none.
    """
    parsed = _guarded(lambda: _parse(untrusted_reply))
    if sent.nonce is None or parsed.nonce != sent.nonce:
        raise SignatureInvalid("the time stamp answers another query: its nonce is not the one that was sent")
    if parsed.imprint != sent.message_imprint.message:
        raise SignatureInvalid("the time stamp is over something else than what was sent")


def enclosed(untrusted_stamp: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates that a stamp encloses, its signer's first; nothing of it is proven.

    Raises:
        SignatureInvalid: malformed, or without its signer's certificate.
    """
    parsed = _guarded(lambda: _parse(untrusted_stamp))
    return (parsed.leaf, *parsed.others)


def _guarded(action: Callable[[], T]) -> T:
    """Run what reads untrusted ASN.1 in other people's code; whatever it raises is a refusal."""
    from rfc3161_client import VerificationError  # noqa: PLC0415  # see above

    try:
        return action()
    except SignatureInvalid:
        raise
    except VerificationError as error:
        raise SignatureInvalid(f"a time stamp does not hold: {ascii(str(error))[:200]}") from None
    except _UNREADABLE as error:
        raise SignatureInvalid(f"a time stamp is malformed: {ascii(str(error))[:200]}") from None
    except BaseException as error:
        # Rust's panics derive from BaseException, so that nobody swallows them; here they are an attempt at ours.
        if type(error).__name__ != "PanicException":
            raise
        raise SignatureInvalid("a time stamp is malformed: its parser gave up") from None


def _parse(untrusted_stamp: bytes) -> _Parsed:
    import rfc3161_client  # noqa: PLC0415  # see above

    if len(untrusted_stamp) > MAX_TIMESTAMP_BYTES:
        raise SignatureInvalid(f"a time stamp has {len(untrusted_stamp)} bytes; the limit is {MAX_TIMESTAMP_BYTES}")
    response = rfc3161_client.decode_timestamp_response(untrusted_stamp)
    if response.status != rfc3161_client.PKIStatus.GRANTED:
        raise SignatureInvalid("the time-stamping authority did not grant a time stamp")
    info, signed = response.tst_info, response.signed_data
    if not {oid.dotted_string for oid in signed.digest_algorithms} <= _HASHES.keys():
        raise SignatureInvalid("a time stamp is signed over a digest that is not SHA-256, SHA-384 or SHA-512")
    signers, ders = list(signed.signer_infos), sorted(signed.certificates)
    if len(signers) != 1 or not 1 <= len(ders) <= MAX_CERTIFICATES:
        raise SignatureInvalid(f"a time stamp has {len(signers)} signers and {len(ders)} certificates")
    certificates = [x509.load_der_x509_certificate(der) for der in ders]
    named = [
        certificate
        for certificate in certificates
        if certificate.serial_number == signers[0].serial_number and certificate.issuer == signers[0].issuer
    ]
    # Two certificates of one name and number: one could be checked for its purpose, the other for the signature.
    if len(named) != 1:
        raise SignatureInvalid(
            f"a time stamp encloses {len(named)} certificates of its signer; exactly one must be there"
        )
    generated_at = info.gen_time
    if generated_at.tzinfo is None:
        raise SignatureInvalid("a time stamp has a time without an offset")
    accuracy = info.accuracy
    bound = timedelta()
    if accuracy is not None:
        bound = timedelta(
            seconds=accuracy.seconds or 0, milliseconds=accuracy.millis or 0, microseconds=accuracy.micros or 0
        )
    return _Parsed(
        response,
        generated_at,
        generated_at + bound,
        info.message_imprint.message,
        info.message_imprint.hash_algorithm.dotted_string,
        info.nonce,
        named[0],
        tuple(certificate for certificate in certificates if certificate is not named[0]),
    )


def _require_held(parsed: _Parsed, signature: bytes, authority: TimeAuthority, name: str, now: datetime) -> None:
    """The time itself, the purpose, the imprint, the CMS signature."""
    import rfc3161_client  # noqa: PLC0415  # see above

    at = parsed.generated_at
    if at > now + MAX_CLOCK_SKEW:
        raise SignatureInvalid(f"the time stamp of {name} is from the future: {at:%Y-%m-%d %H:%M}Z; check both clocks")
    _guarded(lambda: _require_purpose(parsed.leaf, name))
    hashed = _HASHES.get(parsed.imprint_algorithm)
    if hashed is None:
        raise SignatureInvalid(f"the time stamp of {name} is over a digest that is not SHA-256, SHA-384 or SHA-512")
    if hashed(signature).digest() != parsed.imprint:
        raise SignatureInvalid(f"the time stamp of {name} is over another signature")
    verifier = rfc3161_client.VerifierBuilder(roots=list(authority.roots)).build()
    _guarded(lambda: verifier.verify_message(parsed.response, signature))


def _require_purpose(leaf: x509.Certificate, name: str) -> None:
    # RFC 3161 §2.3: critical, and nothing but this; a certificate that may do more may also be in other hands.
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        raise SignatureInvalid(f"the certificate of {name} is not for time stamps") from None
    if not purposes.critical or list(purposes.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise SignatureInvalid(f"the certificate of {name} is not for time stamps alone, or does not say so critically")


def _chain(parsed: _Parsed, authority: TimeAuthority, at: datetime) -> tuple[x509.Certificate, ...] | None:
    """The certificates from the TSA's leaf to a pinned root, every one valid at this time; None where there are none."""
    ca_rules = x509_verification.ExtensionPolicy.webpki_defaults_ca().may_be_present(
        x509.ExtendedKeyUsage, x509_verification.Criticality.AGNOSTIC, _require_issuer_purpose
    )
    verifier = (
        x509_verification.PolicyBuilder()
        .store(x509_verification.Store(list(authority.roots)))
        .time(at.astimezone(UTC))
        .max_chain_depth(_MAX_CHAIN_DEPTH)
        .extension_policies(ca_policy=ca_rules, ee_policy=x509_verification.ExtensionPolicy.permit_all())
        .build_client_verifier()
    )
    try:
        return tuple(verifier.verify(parsed.leaf, list(parsed.others)).chain)
    except _NO_CHAIN:
        return None


def _require_issuer_purpose(_: object, issuer: x509.Certificate, purposes: x509.ExtendedKeyUsage | None) -> None:
    wanted = {ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if purposes is not None and not wanted & set(purposes):
        raise ValueError(f"{issuer.subject.rfc4514_string()} may not issue certificates for time stamps")
