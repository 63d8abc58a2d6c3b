from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg import pki, signing
from modelreg.errors import Invalid, Misconfigured
from support import keys, policies, signed
from support.keys import ALICE, NOW

CHAIN = keys.make_chain()
LEAF = pki.issue_signer(ALICE, CHAIN.intermediate, NOW)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def test_a_leaf_may_sign_code_and_nothing_else():
    usage = extension(LEAF.certificate, x509.KeyUsage)

    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert list(extension(LEAF.certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CODE_SIGNING]
    assert extension(LEAF.certificate, x509.BasicConstraints).value.ca is False


def test_authorities_may_sign_certificates_and_nothing_else():
    for issuer, path_length in ((CHAIN.root, 1), (CHAIN.intermediate, 0)):
        usage = extension(issuer.certificate, x509.KeyUsage).value
        constraints = extension(issuer.certificate, x509.BasicConstraints)

        assert usage.key_cert_sign
        assert not usage.digital_signature
        assert constraints.critical
        assert (constraints.value.ca, constraints.value.path_length) == (True, path_length)


def test_each_certificate_names_its_issuer_and_has_a_serial_number_of_its_own():
    certificates = [CHAIN.root.certificate, CHAIN.intermediate.certificate, LEAF.certificate]

    assert LEAF.certificate.issuer == CHAIN.intermediate.certificate.subject
    assert CHAIN.intermediate.certificate.issuer == CHAIN.root.certificate.subject
    assert len({certificate.serial_number for certificate in certificates}) == 3
    LEAF.certificate.verify_directly_issued_by(CHAIN.intermediate.certificate)
    CHAIN.intermediate.certificate.verify_directly_issued_by(CHAIN.root.certificate)


def test_validity_starts_five_minutes_ago_and_ends_when_asked():
    leaf = pki.issue_signer(ALICE, CHAIN.intermediate, NOW, days=7).certificate

    assert leaf.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert leaf.not_valid_after_utc == NOW + timedelta(days=7)


@pytest.mark.parametrize(
    ("identity", "kind", "value"),
    [
        ("email:alice@acme.example", x509.RFC822Name, "alice@acme.example"),
        ("uri:spiffe://acme.example/ci/train", x509.UniformResourceIdentifier, "spiffe://acme.example/ci/train"),
    ],
)
def test_the_identity_stands_in_the_certificate(identity, kind, value):
    leaf = pki.issue_signer(identity, CHAIN.intermediate, NOW).certificate

    assert extension(leaf, x509.SubjectAlternativeName).value.get_values_for_type(kind) == [value]


def test_a_leaf_passes_verification_under_its_identity():
    policy = policies.policy(policies.certificate_authority("pki", CHAIN), allow={"pki": [ALICE]})

    verified = signed.verify(signed.sign(keys.certificate_signer(LEAF, CHAIN.intermediate)), policy)

    assert verified.signer.identity == ALICE


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "alice@acme.example",
        "email:",
        "email:alice",
        "email:a@b@c",
        "email:@acme.example",
        "email:alice @acme.example",
        "email:älice@acme.example",
        "email:alice@acme.example\n",
        "email:alice@acme.example\x00",
        "uri:acme",
        "uri:/path",
        "uri:spiffe:///x y",
        "URI:spiffe://x/y",
        "dns:acme.example",
        "key:ops",
        "subject:CN=x",
    ],
    ids=ascii,
)
def test_what_is_no_identity_gets_no_certificate(identity):
    with pytest.raises(Invalid, match="is not a signer identity"):
        pki.issue_signer(identity, CHAIN.intermediate, NOW)


@pytest.mark.parametrize("days", [0, -1, 1826, 10**9, 10**12])
def test_a_leaf_lasts_a_sensible_number_of_days(days):
    with pytest.raises(Invalid, match="days"):
        pki.issue_signer(ALICE, CHAIN.root, NOW, days)


def test_a_leaf_may_not_outlive_its_issuer():
    with pytest.raises(Misconfigured, match="the issuer ends at"):
        pki.issue_signer(ALICE, CHAIN.intermediate, NOW + timedelta(days=pki.INTERMEDIATE_DAYS - 10))


def test_a_long_identity_fits_its_common_name():
    identity = "uri:spiffe://acme.example/" + "x" * 200

    assert pki.issue_signer(identity, CHAIN.intermediate, NOW).certificate


@pytest.mark.parametrize("password", [None, b"correct horse"])
def test_a_private_key_is_read_back_with_its_password_only(password):
    pem = pki.private_pem(LEAF.private_key, password)

    assert (b"ENCRYPTED" in pem) is (password is not None)
    assert signing.load_key(pem, password).private_key.private_numbers() == LEAF.private_key.private_numbers()
    for wrong in {None, b"wrong"} - {password}:
        with pytest.raises(Misconfigured, match="cannot be read"):
            signing.load_key(pem, wrong)


def test_a_public_key_is_written_as_pem():
    public = serialization.load_pem_public_key(pki.public_pem(LEAF.private_key))

    assert public == LEAF.private_key.public_key()


def test_a_chain_is_loaded_leaf_first():
    chain = pki.certificate_pem(LEAF.certificate) + pki.certificate_pem(CHAIN.intermediate.certificate)

    signer = signing.load_certificate(pki.private_pem(LEAF.private_key), chain)

    assert signer.chain == (LEAF.certificate, CHAIN.intermediate.certificate)


def _pem_of(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    "raw", [b"", b"x", b"\xff", pki.certificate_pem(LEAF.certificate), pki.public_pem(LEAF.private_key)]
)
def test_what_is_no_private_key_does_not_sign(raw):
    with pytest.raises(Misconfigured, match="cannot be read"):
        signing.load_key(raw)


def test_a_key_oms_does_not_name_does_not_sign():
    from cryptography.hazmat.primitives.asymmetric import ec

    for key in (keys.rsa_key(), keys.ed25519_key()):
        with pytest.raises(Misconfigured, match="not ECDSA"):
            signing.load_key(_pem_of(key))
    with pytest.raises(Misconfigured, match="P-256"):
        signing.load_key(_pem_of(ec.generate_private_key(ec.SECP256K1())))


@pytest.mark.parametrize("chain", [b"", b"x", pki.public_pem(LEAF.private_key)])
def test_what_is_no_chain_does_not_sign(chain):
    with pytest.raises(Misconfigured, match="chain cannot be read"):
        signing.load_certificate(pki.private_pem(LEAF.private_key), chain)


def test_a_chain_of_another_key_does_not_sign():
    chain = pki.certificate_pem(CHAIN.intermediate.certificate) + pki.certificate_pem(LEAF.certificate)

    with pytest.raises(Misconfigured, match="leaf first"):
        signing.load_certificate(pki.private_pem(LEAF.private_key), chain)
