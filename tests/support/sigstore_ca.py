"""The part of a local Sigstore that says who: an OIDC issuer, a CT log and a Fulcio. See `sigstore_local`."""

import base64
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import ECAlgorithm

from support.keys import der_element
from support.sigstore_log import MerkleTree

Clock = Callable[[], datetime]

ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER_V2_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
SCT_LIST_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
CERTIFICATE_LIFETIME = timedelta(minutes=10)
AUTHORITY_LIFETIME = timedelta(days=3650)


class Denied(Exception):
    """What the caller sent does not hold; the HTTP side answers 4xx."""


@dataclass
class OidcIssuer:
    """Issues and checks ES256 ID tokens."""

    url: str
    clock: Clock
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def token(
        self, *, email: str | None = None, subject: str | None = None, lifetime_seconds: int = 300, **claims: Any
    ) -> str:
        """A token for an e-mail address or for a subject that is a URI; `claims` replace what would stand there."""
        now = int(self.clock().timestamp())
        members = {
            "iss": self.url,
            "aud": "sigstore",
            "sub": subject or email,
            "iat": now,
            "exp": now + lifetime_seconds,
            **({"email": email, "email_verified": True} if email else {}),
            **claims,
        }
        return jwt.encode(members, self.key, algorithm="ES256", headers={"kid": "1"})

    def check(self, token: str) -> dict[str, Any]:
        """The claims, if this issuer signed them for Sigstore and they have not expired."""
        try:
            return jwt.decode(
                token,
                self.key.public_key(),
                algorithms=["ES256"],
                audience="sigstore",
                issuer=self.url,
                options={"require": ["aud", "sub", "iat", "exp", "iss"]},
            )
        except jwt.PyJWTError as error:
            raise Denied(f"identity token: {error}") from None

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }

    def jwks(self) -> dict[str, Any]:
        public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": "1", "use": "sig", "alg": "ES256"}]}


@dataclass
class CtLog:
    """Logs certificates of one authority and promises it with a signed certificate timestamp (RFC 6962)."""

    clock: Clock
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    tree: MerkleTree = field(default_factory=MerkleTree)

    @property
    def id(self) -> bytes:
        return hashlib.sha256(spki(self.key)).digest()

    def add(self, precertificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        """The TLS form of an SCT over a certificate that `issuer` really issued, without its SCT extension."""
        precertificate.verify_directly_issued_by(issuer)
        tbs = precertificate.tbs_certificate_bytes
        key_hash = hashlib.sha256(spki(issuer)).digest()
        timestamp = int(self.clock().timestamp() * 1000)
        entry = struct.pack("!BBQH", 0, 0, timestamp, 1) + key_hash + len(tbs).to_bytes(3, "big") + tbs + b"\0\0"
        self.tree.append(entry)
        signature = self.key.sign(entry, ec.ECDSA(hashes.SHA256()))
        sha256_with_ecdsa = b"\4\3"
        return (
            struct.pack("!B32sQH", 0, self.id, timestamp, 0)
            + sha256_with_ecdsa
            + len(signature).to_bytes(2, "big")
            + signature
        )


def issuer_extensions(url: str) -> list[tuple[x509.ObjectIdentifier, bytes]]:
    """What Fulcio says of the token's issuer, in the old way and in the new one."""
    return [(ISSUER_OID, url.encode()), (ISSUER_V2_OID, der_element(0x0C, url.encode()))]


@dataclass
class Fulcio:
    """Gives a short-lived certificate to whoever holds a good token and the private key."""

    issuer: OidcIssuer
    ct: CtLog
    clock: Clock
    extensions: Callable[[str], list[tuple[x509.ObjectIdentifier, bytes]]] = issuer_extensions
    root: "Authority" = field(init=False)
    intermediate: "Authority" = field(init=False)

    def __post_init__(self) -> None:
        self.root = make_authority("local-fulcio-root", None, self.clock())
        self.intermediate = make_authority(
            "local-fulcio", self.root, self.clock(), purposes=[ExtendedKeyUsageOID.CODE_SIGNING]
        )

    @property
    def chain(self) -> list[x509.Certificate]:
        return [self.intermediate.certificate, self.root.certificate]

    def issue(self, token: str, request_pem: bytes) -> list[x509.Certificate]:
        """Leaf and chain for a certificate request (the v2 API)."""
        claims = self.issuer.check(token)
        try:
            request = x509.load_pem_x509_csr(request_pem)
        except ValueError as error:
            raise Denied(f"certificate request: {error}") from None
        if not request.is_signature_valid:
            raise Denied("certificate request: no proof that the private key is held")
        return [self._certify(request.public_key(), _name(claims), claims["iss"]), *self.chain]

    def _certify(self, key: Any, name: x509.GeneralName, issuer_url: str) -> x509.Certificate:
        now = self.clock().replace(microsecond=0)
        parent = self.intermediate
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(parent.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + CERTIFICATE_LIFETIME)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.certificate.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
        )
        for oid, value in self.extensions(issuer_url):
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        sct = self.ct.add(builder.sign(parent.key, hashes.SHA256()), parent.certificate)
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        # Last, so that the rest is byte for byte what the log signed.
        final = builder.add_extension(
            x509.UnrecognizedExtension(SCT_LIST_OID, der_element(0x04, listed)), critical=False
        )
        return final.sign(parent.key, hashes.SHA256())


@dataclass(frozen=True)
class Authority:
    """A certificate and its private key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_authority(
    name: str, parent: Authority | None, now: datetime, *, ca: bool = True, purposes: Any = None
) -> Authority:
    """A root (no parent), an intermediate, or with `ca=False` a leaf such as a TSA's; purposes are critical there."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test"), _common_name(name)])
    signing = parent.key if parent else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.certificate.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.replace(microsecond=0) - timedelta(minutes=1))
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=not ca, sign_certificates=ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=not ca)
    return Authority(key, builder.sign(signing, hashes.SHA256()))


def spki(key: Any) -> bytes:
    """DER of a public key, of a private key's public half, or of a certificate's."""
    if hasattr(key, "public_key"):
        key = key.public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _name(claims: dict[str, Any]) -> x509.GeneralName:
    if "email" in claims:
        if claims.get("email_verified") is not True:
            raise Denied("identity token: the e-mail address is not verified")
        return x509.RFC822Name(claims["email"])
    if "://" not in claims["sub"]:
        raise Denied("identity token: neither an e-mail address nor a URI")
    return x509.UniformResourceIdentifier(claims["sub"])


def _common_name(name: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, name)


def _key_usage(*, digital_signature: bool = False, sign_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
