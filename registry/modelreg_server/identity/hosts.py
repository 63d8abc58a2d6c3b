"""Which machine sends a request: the host whose key signed it, or whose certificate a listed proxy saw.

    none      no host headers: the principal is a token's, on an unverified machine
    signed    `Signature-Input` and `Signature` (see `modelreg.host_signing`), the nonce used once on all workers
    mTLS      `Client-Cert` (RFC 9440) from a proxy of `behind_proxy`: the certificate's key is an enrolled host's key

A header that does not hold is a refusal, never "no host".

Replays: every accepted nonce is a row, kept while the signature's time would be accepted again. That is one small commit
a signed request. Memory would forget at a restart and know nothing of other workers, and a replayed request for read
URLs is a copy of the bytes.
"""

import base64
import hashlib
import ipaddress
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from sqlalchemy import delete
from sqlmodel import Session, col, select

from modelreg import host_signing
from modelreg.errors import Unauthenticated
from modelreg.host_signing import HostSignature, Message
from modelreg_server.access import HostClass, HostFacts
from modelreg_server.database import insert_if_absent
from modelreg_server.identity import Principal
from modelreg_server.tables import Host, UsedNonce

SIGNATURE_HEADERS = ("signature-input", "signature")
CERTIFICATE_HEADER = "client-cert"
# Sent twice, they would mean one thing to us and another to whoever is in between.
SINGLE_HEADERS = (*SIGNATURE_HEADERS, CERTIFICATE_HEADER, "authorization", "content-digest")
MAX_CERTIFICATE_CHARS = 16 * 1024
_BYTES_ITEM = re.compile(r":(?P<value>[A-Za-z0-9+/]*={0,2}):", re.ASCII)
_PURGE_ONE_IN = 64


@dataclass(frozen=True)
class Received:
    """A request as it arrived: nothing of it is trusted. `peer` is the address at the other end of the connection."""

    method: str
    authority: str
    path: str
    query: str
    headers: Mapping[str, Sequence[str]]
    peer: str | None

    def header(self, name: str) -> str | None:
        """The one value of a header.

        Raises:
            Unauthenticated: it was sent twice.
        """
        values = self.headers.get(name, ())
        if len(values) > 1:
            raise Unauthenticated(f"the header {name} stands in the request {len(values)} times; send it once")
        return values[0] if values else None

    @property
    def message(self) -> Message:
        """What a signature of this request must cover."""
        return Message(
            self.method,
            self.authority,
            self.path,
            self.query,
            self.header("authorization"),
            self.header("content-digest"),
        )


@dataclass(frozen=True)
class KnownHost:
    """A verified host, and the nonce that must still be used up."""

    facts: HostFacts
    host_id: str
    signature: HostSignature | None

    @property
    def principal(self) -> Principal:
        """The host itself as a principal, where no bearer credential says otherwise."""
        return Principal(f"host:{self.facts.name}", None, (), None)


def known_host(session: Session, received: Received, proxies: str | None, now: datetime) -> KnownHost | None:
    """The host that sent the request, or None where it claims none.

    Args:
        proxies: addresses and networks whose `Client-Cert` is believed, comma-separated; None believes nobody.

    Raises:
        Unauthenticated: it claims one and the claim does not hold.
    """
    for name in SINGLE_HEADERS:
        received.header(name)
    signed = _signed(session, received, now)
    certified = _certified(session, received, proxies)
    if signed and certified and signed.host_id != certified.host_id:
        raise host_signing.refusal()
    return signed or certified


def require_living(session: Session, host_id: str | None) -> None:
    """Go on only if the host, if there is one, was not revoked.

    Raises:
        Unauthenticated: it was.
    """
    if host_id is None:
        return
    living = select(Host.id).where(Host.id == host_id, col(Host.revoked_at).is_(None))
    if session.exec(living).one_or_none() is None:
        raise host_signing.refusal()


def signature_of(received: Received) -> HostSignature | None:
    """The signature the request carries, parsed and not verified.

    Raises:
        Unauthenticated: malformed, or one header without the other.
    """
    untrusted_input, untrusted_value = (received.header(name) for name in SIGNATURE_HEADERS)
    if untrusted_input is None and untrusted_value is None:
        return None
    return host_signing.parse(untrusted_input or "", untrusted_value or "")


def use_up(session: Session, known: KnownHost, now: datetime) -> None:
    """Remember the nonce inside the caller's transaction, so that the signature holds once.

    Raises:
        Unauthenticated: it was used before.
    """
    if known.signature is None:
        return
    # As long as any server would take it: `created` lacks a fraction of a second, and clocks of several servers differ.
    ends = datetime.fromtimestamp(known.signature.created, UTC) + timedelta(seconds=2 * host_signing.WINDOW_SECONDS)
    row = UsedNonce(host_id=known.host_id, nonce=known.signature.nonce, expires_at=ends)
    if insert_if_absent(session, [row]) != 1:
        raise host_signing.refusal()
    if secrets.randbelow(_PURGE_ONE_IN) == 0:
        session.connection().execute(delete(UsedNonce).where(col(UsedNonce.expires_at) < now))


def load_public_key(untrusted_der: bytes) -> Ed25519PublicKey | None:
    """An Ed25519 key from its canonical DER SubjectPublicKeyInfo; None for anything else."""
    try:
        key = load_der_public_key(untrusted_der)
    except ValueError:
        return None
    if not isinstance(key, Ed25519PublicKey) or host_signing.public_der(key) != untrusted_der:
        return None
    return key


def is_listed(address: str | None, proxies: str | None) -> bool:
    """Whether an address is one of the listed addresses and networks. `*` lists nobody: it names no proxy."""
    try:
        peer = ipaddress.ip_address(address or "")
        return any(peer in ipaddress.ip_network(item.strip()) for item in (proxies or "").split(",") if item.strip())
    except ValueError:
        return False


def _signed(session: Session, received: Received, now: datetime) -> KnownHost | None:
    signature = signature_of(received)
    if signature is None:
        return None
    row = _living(session, signature.key_id)
    key = load_public_key(row.public_key) if row else None
    if row is None or key is None:
        raise host_signing.refusal()
    host_signing.verify(signature, received.message, key, now)
    return KnownHost(facts_of(row), row.id, signature)


def _certified(session: Session, received: Received, proxies: str | None) -> KnownHost | None:
    untrusted_value = received.header(CERTIFICATE_HEADER)
    if untrusted_value is None:
        return None
    if not is_listed(received.peer, proxies):
        raise Unauthenticated(
            "the header Client-Cert is believed from the proxies of MODELREG_BEHIND_PROXY only, and only with "
            "MODELREG_CLIENT_CERT_HEADER; the proxy must remove what clients send under that name"
        )
    match = _BYTES_ITEM.fullmatch(untrusted_value) if len(untrusted_value) <= MAX_CERTIFICATE_CHARS else None
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(match["value"] if match else "", validate=True))
        der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unauthenticated("the header Client-Cert is not a certificate as RFC 9440 writes it") from None
    row = _living(session, f"sha256:{hashlib.sha256(der).hexdigest()}")
    if row is None:
        raise Unauthenticated("the key of the client's certificate is not that of an enrolled host")
    return KnownHost(facts_of(row), row.id, None)


def _living(session: Session, key_id: str) -> Host | None:
    return session.exec(select(Host).where(Host.key_id == key_id, col(Host.revoked_at).is_(None))).one_or_none()


def facts_of(row: Host) -> HostFacts:
    """What decisions may know of a host."""
    return HostFacts(row.name, HostClass(row.host_class), row.zone)
