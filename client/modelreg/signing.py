"""Making signatures: OMS v1.0 bundles with the `key` and `certificate` methods.

    signer = load_key(pem)                      or   load_certificate(key_pem, chain_pem)
    raw_bundle = sign(statements.build(name, manifest), signer)

A signer only turns bytes into a signature, so a KMS or the keyless method fit behind the same face. No IO in here.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelreg import bundles
from modelreg.errors import Misconfigured
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


@dataclass(frozen=True)
class KeySigner:
    """The `key` method: the bundle carries only the hint of the public key."""

    private_key: ec.EllipticCurvePrivateKey

    def bundle(self, payload: bytes) -> bundles.Bundle:
        """Sign; the hint is the SHA-256 of the public key's PEM text, as the reference verifier compares it."""
        return bundles.Bundle(
            "publicKey", payload, _signature(self.private_key, payload), hint=hint_of(self.private_key.public_key())
        )


@dataclass(frozen=True)
class CertificateSigner:
    """The `certificate` method: leaf first, then the intermediates, without the root."""

    private_key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    def bundle(self, payload: bytes) -> bundles.Bundle:
        """Sign and enclose the chain."""
        ders = tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in self.chain)
        return bundles.Bundle("x509CertificateChain", payload, _signature(self.private_key, payload), certificates=ders)


def sign(payload: bytes, signer: Signer, stamp: Callable[[bytes], bytes | None] | None = None) -> bytes:
    """Sign an in-toto statement; returns the bytes of the bundle file (`model.sig`).

    Args:
        stamp: turns the signature into an RFC 3161 time stamp over it, which goes into the bundle; None leaves it out.
    """
    bundle = signer.bundle(payload)
    if stamp is not None and (raw_stamp := stamp(bundle.signature)) is not None:
        bundle = replace(bundle, timestamps=(raw_stamp,))
    return bundles.serialise(bundle)


def load_key(key_pem: bytes, password: bytes | None = None) -> KeySigner:
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
    return KeySigner(key)


def load_certificate(key_pem: bytes, chain_pem: bytes, password: bytes | None = None) -> CertificateSigner:
    """Read a private key and its certificate chain, leaf first.

    Raises:
        Misconfigured: as `load_key`, or the chain is not PEM, or its first certificate is not of this key.
    """
    key = load_key(key_pem, password).private_key
    try:
        chain = tuple(x509.load_pem_x509_certificates(chain_pem))
        leaf_key = chain[0].public_key()
    except MALFORMED as error:
        raise Misconfigured(f"the certificate chain cannot be read: {error}") from None
    if leaf_key != key.public_key():
        raise Misconfigured("the first certificate of the chain is not the signing key's; put the leaf first")
    return CertificateSigner(key, chain)


def hint_of(public_key: ec.EllipticCurvePublicKey) -> str:
    """The reference implementation's name for a key: hex SHA-256 of its PEM text."""
    pem = public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _signature(private_key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    return private_key.sign(bundles.pae(payload), ec.ECDSA(HASH_OF_CURVE[private_key.curve.name]))
