"""Making signatures: OMS v1.0 bundles with the `key` and `certificate` methods.

    signer = load_key(pem)                      or   load_certificate(key_pem, chain_pem)
    raw_bundle = sign(statements.build(name, manifest), signer)

A signer only turns bytes into a signature. The private key behind it is a `DigestSigner`: in memory (`InMemoryKey`), in a
PKCS#11 token (`pkcs11_signer`) or in a KMS (`kms_signer`). No IO in here.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from modelreg import bundles
from modelreg.errors import Misconfigured, SignatureInvalid
from modelreg.trust import MALFORMED, require_curve

# OMS v1.0: the hash goes with the curve.
HASH_OF_CURVE: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
# A missing or needless password is a TypeError of the library's.
_UNREADABLE: tuple[type[Exception], ...] = (TypeError, *MALFORMED)


class Signer(Protocol):
    """Something that can sign an in-toto payload."""

    def bundle(self, payload: bytes) -> bundles.Bundle:
        """Sign exactly these bytes (DSSE) and say with what."""
        ...


class DigestSigner(Protocol):
    """A private key that signs a digest, wherever it lives. What it answers is verified before it is used."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Its public half, on a curve of `HASH_OF_CURVE`; the same one every time."""
        ...

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a digest of the curve's own algorithm (`HASH_OF_CURVE`); returns ECDSA in DER form.

        Raises:
            Misconfigured: the key cannot be used as it is set up.
            Forbidden: whoever holds the key does not let this user sign with it.
            Unreachable: whoever holds the key does not answer; trying again later may help.
        """
        ...


@dataclass(frozen=True)
class InMemoryKey:
    """The port's plainest adapter: a private key in this process."""

    private_key: ec.EllipticCurvePrivateKey

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key's public half."""
        return self.private_key.public_key()

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign; see `DigestSigner`."""
        return self.private_key.sign(digest, ec.ECDSA(Prehashed(HASH_OF_CURVE[self.private_key.curve.name])))


PrivateKey = ec.EllipticCurvePrivateKey | DigestSigner


@dataclass(frozen=True)
class KeySigner:
    """The `key` method: the bundle carries only the hint of the public key."""

    private_key: PrivateKey

    def bundle(self, payload: bytes) -> bundles.Bundle:
        """Sign; the hint is the SHA-256 of the public key's PEM text, as the reference verifier compares it."""
        key = _port(self.private_key)
        return bundles.Bundle("publicKey", payload, _signature(key, payload), hint=hint_of(key.public_key))


@dataclass(frozen=True)
class CertificateSigner:
    """The `certificate` method: leaf first, then the intermediates, without the root."""

    private_key: PrivateKey
    chain: tuple[x509.Certificate, ...]

    def bundle(self, payload: bytes) -> bundles.Bundle:
        """Sign and enclose the chain."""
        ders = tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in self.chain)
        return bundles.Bundle(
            "x509CertificateChain", payload, _signature(_port(self.private_key), payload), certificates=ders
        )


def sign(payload: bytes, signer: Signer, stamp: Callable[[bytes], bytes | None] | None = None) -> bytes:
    """Sign an in-toto statement; returns the bytes of the bundle file (`model.sig`).

    Args:
        stamp: turns the signature into an RFC 3161 time stamp over it, which goes into the bundle; None leaves it out.
            Not asked where the signer brought one.

    Raises:
        SignatureInvalid: the key answered with a signature that its own public key does not confirm.
    """
    bundle = signer.bundle(payload)
    if stamp is not None and not bundle.timestamps and (raw_stamp := stamp(bundle.signature)) is not None:
        bundle = replace(bundle, timestamps=(raw_stamp,))
    return bundles.serialise(bundle)


def load_private_key(key_pem: bytes, password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Read a private key in PEM form (PKCS #8 or SEC 1).

    Raises:
        Misconfigured: not such a key, not on a curve OMS names, or the password is wrong or missing.
    """
    try:
        key = serialization.load_pem_private_key(key_pem, password)
    except _UNREADABLE as error:
        raise Misconfigured(f"the signing key cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Misconfigured("the signing key is not ECDSA; make one with `modelreg trust issue`")
    require_curve(key.public_key(), "the signing key")
    return key


def load_key(key_pem: bytes, password: bytes | None = None) -> KeySigner:
    """Sign with a private key in PEM form; raises as `load_private_key`."""
    return KeySigner(load_private_key(key_pem, password))


def load_certificate(key_pem: bytes, chain_pem: bytes, password: bytes | None = None) -> CertificateSigner:
    """Sign with a private key in PEM form and its chain; raises as `load_private_key` and `with_certificate`."""
    return with_certificate(load_private_key(key_pem, password), chain_pem)


def with_certificate(private_key: PrivateKey, chain_pem: bytes) -> CertificateSigner:
    """Sign with a private key and its certificate chain, leaf first.

    Raises:
        Misconfigured: the chain is not PEM, or its first certificate is not of this key.
    """
    try:
        chain = tuple(x509.load_pem_x509_certificates(chain_pem))
        leaf_key = chain[0].public_key()
    except MALFORMED as error:
        raise Misconfigured(f"the certificate chain cannot be read: {error}") from None
    if leaf_key != _port(private_key).public_key:
        raise Misconfigured("the first certificate of the chain is not the signing key's; put the leaf first")
    return CertificateSigner(private_key, chain)


def hint_of(public_key: ec.EllipticCurvePublicKey) -> str:
    """The reference implementation's name for a key: hex SHA-256 of its PEM text."""
    pem = public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _port(private_key: PrivateKey) -> DigestSigner:
    return InMemoryKey(private_key) if isinstance(private_key, ec.EllipticCurvePrivateKey) else private_key


def _signature(key: DigestSigner, payload: bytes) -> bytes:
    public_key = key.public_key
    algorithm = HASH_OF_CURVE[public_key.curve.name]
    hasher = hashes.Hash(algorithm)
    hasher.update(bundles.pae(payload))
    digest = hasher.finalize()
    signature = key.sign_digest(digest)
    try:
        public_key.verify(signature, digest, ec.ECDSA(Prehashed(algorithm)))
    except InvalidSignature:
        # A token or a KMS that is broken, or another key's public half: found here, not by everybody who pulls.
        raise SignatureInvalid(
            "the signing key answered with a signature that its own public key does not confirm; nothing was signed. "
            "Check that the public half beside the key is the key's, and that the token or KMS signs a digest as it is"
        ) from None
    return signature
