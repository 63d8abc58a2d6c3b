"""The trusted root of a Sigstore: what a trust policy pins for the `sigstore` method (shape and value, no trust in here).

Source: sigstore protobuf-specs `sigstore_trustroot.proto`, JSON form. The certificates of Fulcio and of the time-stamping
authorities and the keys of the logs, each with the time it was in use.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from modelreg.canonical import strict_json
from modelreg.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sigstore_models.trustroot import v1

MEDIA_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
MAX_TRUSTED_ROOT_ENTRIES = 64  # logs and authorities of each kind; the public instance has 2


@dataclass(frozen=True)
class PinnedChain:
    """Certificates of one authority, the issuing (or stamping) one first, its root last, and when they were in use."""

    certificates: tuple[x509.Certificate, ...]
    start: datetime
    end: datetime | None

    def covers(self, at: datetime) -> bool:
        """Whether the authority was in use then."""
        return self.start <= at and (self.end is None or at <= self.end)


@dataclass(frozen=True)
class TrustedRoot:
    """A parsed trusted root. `text` is the JSON that was pinned."""

    text: str
    authorities: tuple[PinnedChain, ...]
    timestamp_authorities: tuple[PinnedChain, ...]


def parse_trusted_root(text: str, where: str) -> TrustedRoot:
    """Read a trusted root (JSON). It comes from the operator, but a wrong one must not be half understood.

    Raises:
        Misconfigured: unknown, missing or malformed members; no authority, no log; a certificate or key that cannot be
            read.
    """
    from sigstore_models.trustroot import v1  # noqa: PLC0415  # only where a policy has a Sigstore

    try:
        strict_json(text.encode())  # the models below take the last of two members of one name
        root = v1.TrustedRoot.from_json(text)
    except ValueError as error:
        raise Misconfigured(f"{where} is not the JSON of a trusted root: {error}") from None
    if root.media_type != MEDIA_TYPE:
        raise Misconfigured(f"{where}: the media type is {root.media_type}, not {MEDIA_TYPE}")
    for kind, count, least in (
        ("tlogs", len(root.tlogs), 1),
        ("certificateAuthorities", len(root.certificate_authorities), 1),
        ("ctlogs", len(root.ctlogs), 1),
        (
            "timestampAuthorities",
            len(root.timestamp_authorities),
            0,
        ),  # a log of the first version has a time of its own
    ):
        if not least <= count <= MAX_TRUSTED_ROOT_ENTRIES:
            raise Misconfigured(f"{where}: {kind} has {count} entries, not {least} to {MAX_TRUSTED_ROOT_ENTRIES}")
    try:
        for log in (*root.tlogs, *root.ctlogs):
            serialization.load_der_public_key(log.public_key.raw_bytes or b"")
        return TrustedRoot(text, _chains(root.certificate_authorities), _chains(root.timestamp_authorities))
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise Misconfigured(f"{where} holds a key or certificate that cannot be read: {error}") from None


def _chains(authorities: "Sequence[v1.CertificateAuthority]") -> tuple[PinnedChain, ...]:
    return tuple(
        PinnedChain(
            certificates=tuple(_certificates(authority)),
            start=_utc(authority.valid_for.start),
            end=None if authority.valid_for.end is None else _utc(authority.valid_for.end),
        )
        for authority in authorities
    )


def _certificates(authority: "v1.CertificateAuthority") -> "Sequence[x509.Certificate]":
    found = [x509.load_der_x509_certificate(entry.raw_bytes) for entry in authority.cert_chain.certificates]
    if not found:
        raise ValueError("an authority without a certificate")
    return found


def _utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError(f"the time {at} has no offset")
    return at.astimezone(UTC)
