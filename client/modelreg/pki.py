"""A small PKI for signing without any network: offline root, one intermediate, short-lived signer leaves (P-256).

Made with `cryptography`; nothing here reads or writes a file (the `trust` commands do, with mode 0600).
Profile: RFC 5280; leaves carry KeyUsage digitalSignature and EKU codeSigning, as the OMS reference verifier asks.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from modelreg.errors import Invalid, Misconfigured

ROOT_DAYS = 3650
INTERMEDIATE_DAYS = 1825
LEAF_DAYS = 90
TSA_DAYS = 365
_BACKDATED = timedelta(minutes=5)  # clocks differ; a certificate made now must be valid on the next machine


@dataclass(frozen=True)
class Issuer:
    """A key and its certificate."""

    private_key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_root(name: str, now: datetime) -> Issuer:
    """A self-signed root that may sign one level of intermediates."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _issue_authority(f"{name} root", key, None, now, ROOT_DAYS, path_length=1)


def make_intermediate(name: str, root: Issuer, now: datetime) -> Issuer:
    """The authority for every day: it signs leaves only, so that the root's key can stay offline."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _issue_authority(f"{name} intermediate", key, root, now, INTERMEDIATE_DAYS, path_length=0)


def issue_signer(identity: str, issuer: Issuer, now: datetime, days: int = LEAF_DAYS) -> Issuer:
    """A signer's key and certificate. `identity` is `email:…` or `uri:…`, as trust policies name it.

    Raises:
        Invalid: the identity is neither, or `days` is not from 1 to those of an intermediate.
        Misconfigured: the issuer ends before the leaf would.
    """
    names = x509.SubjectAlternativeName([_general_name(identity)])
    end = _leaf_end(issuer, now, days)
    key = ec.generate_private_key(ec.SECP256R1())
    common_name = identity.partition(":")[2][-64:]
    builder = (
        _builder(common_name, key, issuer, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(names, critical=False)
    )
    return Issuer(key, builder.sign(issuer.private_key, hashes.SHA256()))


def issue_tsa(name: str, issuer: Issuer, now: datetime, days: int = TSA_DAYS) -> Issuer:
    """A time-stamping authority's key and certificate (RFC 3161 §2.3: critical, for time stamps and nothing else).

    Raises:
        Invalid: `days` is not from 1 to those of an intermediate.
        Misconfigured: the issuer ends before the leaf would.
    """
    end = _leaf_end(issuer, now, days)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(name[-64:], key, issuer, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    )
    return Issuer(key, builder.sign(issuer.private_key, hashes.SHA256()))


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """PEM text of a certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """PKCS #8 PEM text of a private key, encrypted when there is a password."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PEM text of the public half."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _leaf_end(issuer: Issuer, now: datetime, days: int) -> datetime:
    if not 1 <= days <= INTERMEDIATE_DAYS:
        raise Invalid(f"a certificate lasts 1 to {INTERMEDIATE_DAYS} days, not {days}", field="days")
    end = now + timedelta(days=days)
    if end > issuer.certificate.not_valid_after_utc:
        raise Misconfigured(
            f"the issuer ends at {issuer.certificate.not_valid_after_utc:%Y-%m-%d}; ask for fewer days or renew it"
        )
    return end


def _issue_authority(
    common_name: str, key: ec.EllipticCurvePrivateKey, issuer: Issuer | None, now: datetime, days: int, path_length: int
) -> Issuer:
    builder = (
        _builder(common_name, key, issuer, now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    return Issuer(key, builder.sign(issuer.private_key if issuer else key, hashes.SHA256()))


def _builder(
    common_name: str, key: ec.EllipticCurvePrivateKey, issuer: Issuer | None, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    issuer_key = issuer.private_key.public_key() if issuer else key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(identity: str) -> x509.GeneralName:
    kind, _, value = identity.partition(":")
    if value.isascii() and value.isprintable() and " " not in value:
        if kind == "email" and re.fullmatch(r"[^@]+@[^@]+", value):
            return x509.RFC822Name(value)
        if kind == "uri" and re.fullmatch(r"[a-z][a-z0-9+.-]*://.+", value):
            return x509.UniformResourceIdentifier(value)
    raise Invalid(
        f"{identity[:200]!r} is not a signer identity; write email:name@example.org or uri:spiffe://domain/path",
        field="identity",
        value=identity[:200],
    )
