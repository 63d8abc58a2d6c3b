"""Every key behind the signer port keeps the suite's promises: in memory, in a PKCS#11 token, in a KMS."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from contract.signer_suite import SignerSuite
from modelreg import key_uris, kms_signer, pkcs11_signer, signing
from modelreg.errors import SignatureInvalid
from support import keys, signed, softhsm


class TestInMemoryKey(SignerSuite):
    @pytest.fixture
    def open_key(self):
        return lambda curve: signing.InMemoryKey(ec.generate_private_key(keys.CURVES[curve]))


class TestPkcs11Key(SignerSuite):
    @pytest.fixture
    def open_key(self, softhsm):
        opened = []

        def open_key(curve):
            uri = softhsm.make_key(curve)
            opened.append(pkcs11_signer.open_key(key_uris.parse(uri), softhsm_pin()))
            return opened[-1]

        yield open_key
        for key in opened:
            key.close()


class TestPkcs11KeyThatAsksForEachSignature(SignerSuite):
    """CKA_ALWAYS_AUTHENTICATE, as smart cards set it for signing keys."""

    @pytest.fixture
    def open_key(self, softhsm):
        opened = []

        def open_key(curve):
            uri = softhsm.make_key(curve, ALWAYS_AUTHENTICATE=True)
            opened.append(pkcs11_signer.open_key(key_uris.parse(uri), softhsm_pin()))
            return opened[-1]

        yield open_key
        for key in opened:
            key.close()


class TestKmsKey(SignerSuite):
    @pytest.fixture
    def open_key(self, kms):
        return lambda curve: kms_signer.open_key(key_uris.parse(kms.uri(kms.make_key(curve))))


def softhsm_pin():
    return softhsm.PIN


class BrokenKey:
    """A key whose holder signs something else, or nothing."""

    def __init__(self, answer):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._answer = answer

    @property
    def public_key(self):
        return self._key.public_key()

    def sign_digest(self, digest):
        return self._answer(signing.InMemoryKey(self._key), digest)


BROKEN = {
    "another digest": lambda key, digest: key.sign_digest(bytes(len(digest))),
    "hashed once more": lambda key, digest: key.private_key.sign(digest, ec.ECDSA(signing.HASH_OF_CURVE["secp256r1"])),
    "another key": lambda _key, digest: signing.InMemoryKey(ec.generate_private_key(ec.SECP256R1())).sign_digest(
        digest
    ),
    "nothing": lambda _key, _digest: b"",
    "no DER": lambda _key, _digest: b"\x01" * 64,
    "more than DER": lambda key, digest: key.sign_digest(digest) + b"\0",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("method", ["key", "certificate"])
def test_a_broken_key_makes_no_bundle(answer, method):
    key = BrokenKey(answer)
    signer = signing.KeySigner(key) if method == "key" else signing.CertificateSigner(key, ())
    with pytest.raises(SignatureInvalid, match="does not confirm; nothing was signed"):
        signed.sign(signer)
