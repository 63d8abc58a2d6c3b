"""The verdict on somebody else's signature, with keys and certificates made here."""

import pytest

from modelreg import hashing, manifests, signing, statements, upstream_signatures
from modelreg.errors import StaleTrust
from support import keys, signed
from support.policies import certificate_authority, key_authority, policy

CHAIN = keys.make_chain()
NAME = "acme/upstream"


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "m"
    root.mkdir()
    (root / "a.bin").write_bytes(b"one")
    (root / "b.bin").write_bytes(b"two")
    return root


def sign(root, signer, name="model.sig"):
    manifest = manifests.build(hashing.hash_tree(root))
    (root / name).write_bytes(signing.sign(statements.build("m", manifest), signer))


def check(root, trust, now=keys.NOW, name=NAME):
    sha256 = {entry.path: entry.sha256 for entry in hashing.hash_tree(root)}
    return upstream_signatures.check(root, sha256, trust=trust, name=name, now=now)


def certificate_signer(identity="alice@acme.example"):
    from cryptography import x509

    leaf = keys.make_certificate(CHAIN.intermediate, names=[x509.RFC822Name(identity)])
    return keys.certificate_signer(leaf, CHAIN.intermediate)


TRUST = policy(certificate_authority("pki", CHAIN), allow={"pki": ["email:alice@acme.example"]})


@pytest.mark.parametrize("name", ["model.sig", "model.sigstore", "skill.oms.sig", "x.sigstore.json"])
def test_a_signature_by_a_certificate_that_is_trusted_is_valid(model, name):
    sign(model, certificate_signer(), name)

    found = check(model, TRUST)

    assert (found["verdict"], found["identity"], found["authority"], found["file"]) == (
        "valid", keys.ALICE, "pki", name,
    )  # fmt: skip
    assert found["trust"] == str(TRUST.digest)


def test_a_signature_by_a_key_that_is_trusted_is_valid_and_by_another_unknown(model):
    signer, other = keys.make_key(), keys.make_key()
    trust = policy(key_authority("ops", {"ops-1": signer}), allow={"ops": ["key:ops-1"]})

    sign(model, signer)
    assert check(model, trust)["verdict"] == "valid"
    (model / "model.sig").unlink()
    sign(model, other)
    found = check(model, trust)
    assert found["verdict"] == "unknown-signer"
    assert found["identity"].startswith("key:")


def test_somebody_whom_the_trust_does_not_name_is_unknown(model):
    sign(model, certificate_signer("mallory@acme.example"))

    found = check(model, TRUST)

    assert (found["verdict"], found["identity"]) == ("unknown-signer", "email:mallory@acme.example")


def test_a_kind_of_signature_that_the_trust_does_not_use_is_a_strangers(model):
    sign(model, certificate_signer())
    trust = policy(key_authority("ops", {"ops-1": keys.make_key()}), allow={"ops": ["key:ops-1"]})

    assert check(model, trust)["verdict"] == "unknown-signer"


def test_a_source_that_no_rule_of_the_trust_names_is_a_strangers(model):
    sign(model, certificate_signer())

    assert check(model, TRUST, name="other/model")["verdict"] == "unknown-signer"


@pytest.mark.parametrize("trust", [TRUST, None])
@pytest.mark.parametrize("change", ["changed", "extra", "missing"])
def test_a_signature_over_other_files_is_invalid_whoever_signed(model, trust, change):
    sign(model, certificate_signer())
    if change == "changed":
        (model / "a.bin").write_bytes(b"other")
    elif change == "extra":
        (model / "evil.py").write_bytes(b"import os")
    else:
        (model / "a.bin").unlink()

    found = check(model, trust)

    assert found["verdict"] == "invalid"
    assert found["why"]


def test_a_signature_that_does_not_hold_is_invalid(model):
    sign(model, certificate_signer())
    raw = (model / "model.sig").read_bytes()
    (model / "model.sig").write_bytes(signed.replaced(raw, signature=b"0" * 70))

    assert check(model, TRUST)["verdict"] == "invalid"


def test_a_revoked_signer_makes_it_invalid(model):
    sign(model, certificate_signer())
    trust = policy(
        certificate_authority("pki", CHAIN), allow={"pki": [keys.ALICE]}, revoked_signers=[{"identity": keys.ALICE}]
    )

    assert check(model, trust)["verdict"] == "invalid"


def test_a_trust_that_is_too_old_says_nothing(model):
    sign(model, certificate_signer())
    trust = policy(certificate_authority("pki", CHAIN), allow={"pki": [keys.ALICE]}, max_age_seconds=1)

    with pytest.raises(StaleTrust):
        check(model, trust)


@pytest.mark.parametrize("raw", [b"", b"{}", b"not json", b"\x00" * 100, b'{"mediaType": 1}'])
def test_what_is_no_bundle_is_invalid(model, raw):
    (model / "model.sig").write_bytes(raw)

    assert check(model, None)["verdict"] == "invalid"


def test_without_a_signature_or_with_several_of_no_agreed_name_there_is_none(model):
    assert check(model, TRUST) == {"verdict": "none"}
    for name in ("a.sigstore", "b.sigstore"):
        (model / name).write_bytes(b"{}")
    assert check(model, TRUST) == {"verdict": "none"}
