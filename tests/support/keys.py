"""Keys, certificates and clocks for tests. Everything is made here, now; no private key is ever committed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from modelreg import pki, signing

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ALICE = "email:alice@acme.example"

CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
P256_ORDER = ec.SECP256R1().group_order


def clock(now: datetime = NOW) -> Callable[[], datetime]:
    """A clock that stands still."""
    return lambda: now


def make_key(curve: str = "p256") -> signing.KeySigner:
    return signing.KeySigner(ec.generate_private_key(CURVES[curve]))


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(key: Any) -> str:
    """PEM text of a public key, or of the public half of a private key or signer."""
    key = getattr(key, "private_key", key)
    if hasattr(key, "public_key"):
        key = key.public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def certificate_pem(certificate: x509.Certificate) -> str:
    return pki.certificate_pem(certificate).decode()


@dataclass(frozen=True)
class Chain:
    """A root and one intermediate."""

    root: pki.Issuer
    intermediate: pki.Issuer

    @property
    def root_pem(self) -> str:
        return certificate_pem(self.root.certificate)


def make_chain(name: str = "acme", now: datetime = NOW) -> Chain:
    root = pki.make_root(name, now)
    return Chain(root, pki.make_intermediate(name, root, now))


def make_certificate(
    issuer: pki.Issuer | None,
    *,
    key: Any = None,
    common_name: str = "someone",
    names: Sequence[x509.GeneralName] | None = (x509.RFC822Name("alice@acme.example"),),
    ca: bool = False,
    path_length: int | None = None,
    digital_signature: bool = True,
    key_usage: bool = True,
    purposes: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.CODE_SIGNING,),
    start: datetime | None = None,
    end: datetime | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Any:
    """A certificate as wrong as asked for; `issuer` None makes it self-signed. Returns `pki.Issuer`."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    signing_key = issuer.private_key if issuer else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start or NOW - timedelta(days=1))
        .not_valid_after(end or NOW + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if key_usage:
        builder = builder.add_extension(
            pki._key_usage(digital_signature=digital_signature, key_cert_sign=ca, crl_sign=ca), critical=True
        )
    if purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical)
    algorithm = None if isinstance(signing_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return pki.Issuer(key, builder.sign(signing_key, algorithm))


def expired_leaf(issuer: pki.Issuer) -> pki.Issuer:
    return make_certificate(issuer, start=NOW - timedelta(days=30), end=NOW - timedelta(days=1))


def wrong_purpose_leaf(issuer: pki.Issuer) -> pki.Issuer:
    return make_certificate(issuer, purposes=[ExtendedKeyUsageOID.SERVER_AUTH])


def leaf_without_digital_signature(issuer: pki.Issuer) -> pki.Issuer:
    return make_certificate(issuer, digital_signature=False)


def certificate_signer(leaf: pki.Issuer, *issuers: pki.Issuer) -> signing.CertificateSigner:
    """Sign with a leaf and enclose these issuers."""
    return signing.CertificateSigner(leaf.private_key, (leaf.certificate, *(issuer.certificate for issuer in issuers)))


def respelled(certificate: x509.Certificate, order: int = P256_ORDER) -> bytes:
    """The same certificate under another fingerprint: (r, n-s) is as good an ECDSA signature as (r, s).

    Needs no private key, so whoever holds a revoked certificate can do it.
    """
    r, s = decode_dss_signature(certificate.signature)
    signature = encode_dss_signature(r, order - s)
    der, tbs = certificate.public_bytes(serialization.Encoding.DER), certificate.tbs_certificate_bytes
    # What is left between the signed part and the signature names the algorithm.
    algorithm = der[der.index(tbs) + len(tbs) : -len(der_element(0x03, b"\0" + certificate.signature))]
    return der_element(0x30, tbs + algorithm + der_element(0x03, b"\0" + signature))


def der_element(tag: int, content: bytes) -> bytes:
    """One DER element: tag, length, content."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + content
