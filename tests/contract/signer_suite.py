"""What every key behind the port `signing.DigestSigner` promises. An adapter's tests subclass `SignerSuite`.

They provide the fixture `open_key`: given a curve (`p256`, `p384`, `p521`) it opens a new key on it, ready to sign.
"""

import os

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from modelreg import pki, signing, trust
from support import keys, signed
from support.policies import certificate_authority, key_authority, policy_toml

HASHES = {"p256": hashes.SHA256(), "p384": hashes.SHA384(), "p521": hashes.SHA512()}


def digest_of(data, algorithm):
    hasher = hashes.Hash(algorithm)
    hasher.update(data)
    return hasher.finalize()


def der(public_key):
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class SignerSuite:
    @pytest.fixture(params=list(keys.CURVES))
    def curve(self, request):
        return request.param

    def test_the_public_key_is_on_its_curve_and_stays_the_same(self, open_key, curve):
        key = open_key(curve)

        assert key.public_key.curve.name == keys.CURVES[curve].name
        assert der(key.public_key) == der(key.public_key)

    def test_a_digest_is_signed_as_it_is(self, open_key, curve):
        """Not hashed once more, and not cut: whoever verifies the message itself accepts the signature."""
        key = open_key(curve)
        for message in (b"", b"message", os.urandom(5000)):
            signature = key.sign_digest(digest_of(message, HASHES[curve]))
            key.public_key.verify(signature, message, ec.ECDSA(HASHES[curve]))

    def test_every_signature_holds_also_those_with_short_numbers(self, open_key, curve):
        """Fifty signatures, and then on until an r or s began with a zero byte (for P-256 one in 128 does)."""
        key, size = open_key(curve), (keys.CURVES[curve].key_size + 7) // 8
        short = count = 0
        while count < 50 or not short:
            digest = digest_of(b"%d" % count, HASHES[curve])
            signature = key.sign_digest(digest)
            key.public_key.verify(signature, digest, ec.ECDSA(Prehashed(HASHES[curve])))
            short += any(number < 1 << (8 * (size - 1)) for number in decode_dss_signature(signature))
            count += 1
            assert count < 5000

    def test_a_bundle_of_the_key_method_is_accepted(self, open_key, curve):
        signer = signing.KeySigner(open_key(curve))
        policy = trust.parse(policy_toml(key_authority("ops", {"ops-1": signer.private_key.public_key}), allow={"ops": ["key:ops-1"]}).encode())  # fmt: skip

        verified = signed.verify(signed.sign(signer), policy)

        assert verified.signer.identity == "key:ops-1"

    def test_a_bundle_of_the_certificate_method_is_accepted(self, open_key, curve):
        key, chain = open_key(curve), keys.make_chain()
        leaf = issue_for(key.public_key, chain.intermediate)
        signer = signing.with_certificate(
            key, pki.certificate_pem(leaf) + pki.certificate_pem(chain.intermediate.certificate)
        )
        policy = trust.parse(policy_toml(certificate_authority("pki", chain), allow={"pki": [keys.ALICE]}).encode())

        verified = signed.verify(signed.sign(signer), policy)

        assert verified.signer.identity == keys.ALICE

    def test_a_certificate_of_another_key_is_refused(self, open_key, curve):
        chain = keys.make_chain()
        other = keys.make_certificate(chain.intermediate)
        with pytest.raises(trust.Misconfigured, match="not the signing key's"):
            signing.with_certificate(open_key(curve), pki.certificate_pem(other.certificate))


class _PublicHalf:
    """What `make_certificate` needs of a key that somebody else holds."""

    def __init__(self, public_key):
        self._public_key = public_key

    def public_key(self):
        return self._public_key


def issue_for(public_key, issuer, **more):
    """A certificate for a key whose private half is not here."""
    return keys.make_certificate(issuer, key=_PublicHalf(public_key), **more).certificate
