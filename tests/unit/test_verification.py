"""DESIGN §6, step by step: what `verification` refuses, and the holes seen in other verifiers."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from modelreg import manifests, pki, signing, statements, verification
from modelreg.errors import (
    DigestMismatch,
    ManifestInvalid,
    Revoked,
    SignatureInvalid,
    SignatureMissing,
    SignerNotAllowed,
    StaleTrust,
)
from modelreg.hashing import check_files
from support import keys, policies, signed
from support.keys import ALICE, NOW

CHAIN = keys.make_chain()
LEAF = keys.make_certificate(CHAIN.intermediate)
SIGNER = keys.certificate_signer(LEAF, CHAIN.intermediate)
KEY = keys.make_key()
PKI = policies.certificate_authority("pki", CHAIN)
OPS = policies.key_authority("ops", {"ops-1": KEY})
POLICY = policies.policy(PKI, allow={"pki": [ALICE]})
KEY_POLICY = policies.policy(OPS, allow={"ops": ["key:ops-1"]})
BUNDLE = signed.sign(SIGNER)
KEY_BUNDLE = signed.sign(KEY)


def policy(**changes):
    return policies.policy(PKI, allow={"pki": [ALICE]}, **changes)


def resigned(change, signer=KEY):
    """A key bundle over the statement after a change: the signer means it, the verifier must still refuse."""
    return signed.sign(signer, signed.changed_payload(change))


@pytest.mark.parametrize(
    ("bundle", "trusted"), [(BUNDLE, POLICY), (KEY_BUNDLE, KEY_POLICY)], ids=["certificate", "key"]
)
def test_a_good_signature_is_verified(bundle, trusted):
    verified = signed.verify(bundle, trusted)

    assert verified.manifest == signed.MANIFEST
    assert verified.signer.identity in {ALICE, "key:ops-1"}
    assert verified.repository == signed.REPOSITORY


def test_verified_values_are_made_in_verification_only():
    root = Path(verification.__file__).parent.parent
    sources = [*root.rglob("*.py"), *(root.parent / "registry").rglob("*.py")]
    makers = {path.name for path in sources if re.search(r"\bVerified(Manifest|Statement)\(", path.read_text())}

    assert makers == {"verification.py"}


# 1. Shape and limits


@pytest.mark.parametrize("position", [0, 1])
def test_step_1_refuses_a_second_junk_signature(position):
    def add(bundle):
        bundle["dsseEnvelope"]["signatures"].insert(position, {"sig": "AAAA", "keyid": ""})

    with pytest.raises(SignatureInvalid, match="2 signatures"):
        signed.verify(signed.changed_bundle(BUNDLE, add), POLICY)


def test_step_1_refuses_an_empty_model():
    def empty(statement):
        statement["predicate"]["resources"] = []
        statement["subject"][0]["digest"]["sha256"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    with pytest.raises(SignatureInvalid, match="at least one file"):
        signed.verify(resigned(empty), KEY_POLICY)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "a\\b", "config.json", "CONFIG.JSON", "x\n"])
def test_step_1_refuses_duplicate_and_escaping_resource_names(name):
    def rename(statement):
        statement["predicate"]["resources"][1]["name"] = name

    with pytest.raises(SignatureInvalid, match="the statement's files"):
        signed.verify(resigned(rename), KEY_POLICY)


@pytest.mark.parametrize("kind", ["https://example.org/other/v1", statements.OMS_PREDICATE_0_2])
def test_step_1_refuses_another_predicate(kind):
    with pytest.raises(SignatureInvalid, match="predicate type"):
        signed.verify(resigned(lambda statement: statement.update(predicateType=kind)), KEY_POLICY)


# 2. The policy picks the method


def test_step_2_refuses_a_key_bundle_where_the_policy_demands_certificates():
    with pytest.raises(SignatureInvalid, match="does not use that"):
        signed.verify(KEY_BUNDLE, POLICY)


def test_step_2_refuses_a_certificate_bundle_where_the_policy_demands_a_key():
    with pytest.raises(SignatureInvalid, match="does not use that"):
        signed.verify(BUNDLE, KEY_POLICY)


def test_step_2_refuses_a_bundle_with_key_and_certificate():
    def smuggle(bundle):
        bundle["verificationMaterial"]["publicKey"] = {"hint": signing.hint_of(KEY.private_key.public_key())}

    with pytest.raises(SignatureInvalid, match="one kind must be there"):
        signed.verify(signed.changed_bundle(BUNDLE, smuggle), POLICY)


@pytest.mark.parametrize("field", ["publicKey", "certificate"])
def test_step_2_refuses_a_key_smuggled_in_a_field_the_policy_does_not_look_at(field):
    attacker = keys.make_key()

    def smuggle(bundle):
        pem = keys.public_pem(attacker).encode()
        material = bundle["verificationMaterial"]
        hint = material.pop("publicKey")["hint"]
        material[field] = (
            {"hint": hint, "rawBytes": signed.b64(pem)} if field == "publicKey" else {"rawBytes": signed.b64(pem)}
        )

    forged = signed.changed_bundle(
        signed.replaced(signed.sign(attacker), hint=signing.hint_of(KEY.private_key.public_key())), smuggle
    )
    with pytest.raises(SignatureInvalid):
        signed.verify(forged, KEY_POLICY)


def test_step_2_refuses_the_hint_of_another_key():
    with pytest.raises(SignatureInvalid, match="not made with a key of ops"):
        signed.verify(signed.sign(keys.make_key()), KEY_POLICY)


# 3. Signature


@pytest.mark.parametrize("signer", [SIGNER, KEY], ids=["certificate", "key"])
def test_step_3_refuses_a_changed_payload(signer):
    changed = signed.changed_payload(lambda statement: statement["subject"][0].update(name="other"))

    with pytest.raises(SignatureInvalid, match="not over these bytes"):
        signed.verify(signed.replaced(signed.sign(signer), payload=changed), POLICY if signer is SIGNER else KEY_POLICY)


def test_step_3_refuses_a_changed_signature():
    other = signed.replaced(KEY_BUNDLE, signature=b"\x30\x06\x02\x01\x01\x02\x01\x01")

    with pytest.raises(SignatureInvalid, match="not over these bytes"):
        signed.verify(other, KEY_POLICY)


def test_step_3_reads_the_encoding_of_0_2_only_with_the_flag():
    shared = Path(__file__).parents[3] / "shared" / "signatures" / "oms-real"
    if not shared.is_dir():
        pytest.skip(f"no shared data at {shared}")
    bundle = (shared / "v0.2.0-certificate" / "model.sig").read_bytes()
    root = (shared / "keys" / "ca-cert.pem").read_text()
    for legacy in (True, False):
        authority = policies.certificate_authority("pki", root, legacy=legacy)
        trusted = policies.policy(authority, allow={"pki": ["subject:CN=intermediate-ca"]})
        if legacy:
            assert verification.verify_statement(bundle, policy=trusted, repository="acme/x", now=NOW).statement.files
        else:
            with pytest.raises(SignatureInvalid, match="not over these bytes"):
                verification.verify_statement(bundle, policy=trusted, repository="acme/x", now=NOW)


# 4. Chain, usage, validity


def test_step_4_refuses_an_expired_leaf():
    expired = keys.certificate_signer(keys.expired_leaf(CHAIN.intermediate), CHAIN.intermediate)

    with pytest.raises(SignatureInvalid, match="valid from .* to .*push again"):
        signed.verify(signed.sign(expired), POLICY)


def test_step_4_refuses_a_leaf_that_is_not_valid_yet():
    with pytest.raises(SignatureInvalid, match="valid from"):
        signed.verify(BUNDLE, policy(updated_at=NOW - timedelta(days=9)), now=NOW - timedelta(days=3))


@pytest.mark.parametrize(
    "leaf",
    [keys.wrong_purpose_leaf(CHAIN.intermediate), keys.leaf_without_digital_signature(CHAIN.intermediate),
     keys.make_certificate(CHAIN.intermediate, purposes=None), keys.make_certificate(CHAIN.intermediate, key_usage=False)],
    ids=["server-auth", "no-digital-signature", "no-purpose", "no-key-usage"],
)  # fmt: skip
def test_step_4_refuses_a_leaf_for_another_purpose(leaf):
    with pytest.raises(SignatureInvalid):
        signed.verify(signed.sign(keys.certificate_signer(leaf, CHAIN.intermediate)), POLICY)


def test_step_4_refuses_a_chain_to_a_root_that_is_not_pinned():
    other = keys.make_chain()
    stranger = keys.certificate_signer(keys.make_certificate(other.intermediate), other.intermediate, other.root)

    with pytest.raises(SignatureInvalid, match="does not lead to a root of pki"):
        signed.verify(signed.sign(stranger), POLICY)


def test_step_4_trusts_no_web_roots_when_no_chain_is_given():
    alone = keys.certificate_signer(LEAF)

    with pytest.raises(SignatureInvalid, match="does not lead to a root of pki"):
        signed.verify(signed.sign(alone), POLICY)


def test_step_4_refuses_a_self_signed_leaf():
    with pytest.raises(SignatureInvalid, match="does not lead"):
        signed.verify(signed.sign(keys.certificate_signer(keys.make_certificate(None))), POLICY)


def test_step_4_refuses_a_leaf_issued_by_a_leaf():
    grandchild = keys.make_certificate(LEAF)

    with pytest.raises(SignatureInvalid, match="does not lead"):
        signed.verify(signed.sign(keys.certificate_signer(grandchild, LEAF, CHAIN.intermediate)), POLICY)


def test_step_4_refuses_an_intermediate_below_a_path_length_of_none():
    deeper = keys.make_certificate(CHAIN.intermediate, ca=True, path_length=0, purposes=None, names=None)
    leaf = keys.make_certificate(deeper)

    with pytest.raises(SignatureInvalid, match="does not lead"):
        signed.verify(signed.sign(keys.certificate_signer(leaf, deeper, CHAIN.intermediate)), POLICY)


@pytest.mark.parametrize("key", [keys.rsa_key(), keys.ed25519_key()], ids=["rsa", "ed25519"])
def test_step_4_refuses_a_leaf_with_another_kind_of_key(key):
    leaf = keys.make_certificate(CHAIN.intermediate, key=key)
    forged = signed.replaced(BUNDLE, certificates=tuple(
        issuer.certificate.public_bytes(keys.serialization.Encoding.DER) for issuer in (leaf, CHAIN.intermediate)
    ))  # fmt: skip

    with pytest.raises(SignatureInvalid):
        signed.verify(forged, POLICY)


def test_step_4_refuses_a_key_after_its_end():
    ended = policies.policy(
        policies.key_authority("ops", {"ops-1": KEY}, not_after={"ops-1": NOW - timedelta(seconds=1)}),
        allow={"ops": ["key:ops-1"]},
    )

    with pytest.raises(SignatureInvalid, match="ended at"):
        signed.verify(KEY_BUNDLE, ended)


# 5. Identity


def test_step_5_checks_the_subject_of_a_valid_certificate():
    mallory = keys.make_certificate(CHAIN.intermediate, names=[x509.RFC822Name("mallory@acme.example")])

    with pytest.raises(SignerNotAllowed, match=r"mallory@acme\.example"):
        signed.verify(signed.sign(keys.certificate_signer(mallory, CHAIN.intermediate)), POLICY)


def test_step_5_does_not_take_a_dns_name_for_an_email():
    twin = keys.make_certificate(CHAIN.intermediate, names=[x509.DNSName("alice@acme.example")])

    with pytest.raises(SignerNotAllowed):
        signed.verify(signed.sign(keys.certificate_signer(twin, CHAIN.intermediate)), POLICY)


def test_step_5_refuses_a_repository_no_rule_names():
    with pytest.raises(SignerNotAllowed, match="nobody may sign"):
        signed.verify(BUNDLE, POLICY, repository="other/llama")


def test_step_5_the_first_rule_that_names_the_repository_decides():
    first = policies.rule(["acme/llama"], {"pki": ["email:bob@acme.example"]})
    second = policies.rule(["acme/*"], {"pki": [ALICE]})

    with pytest.raises(SignerNotAllowed):
        signed.verify(BUNDLE, policies.policy(PKI, rules=[first, second]))
    assert signed.verify(BUNDLE, policies.policy(PKI, rules=[second, first]))


def test_step_5_any_entry_of_the_rule_may_allow_and_the_message_names_the_better_reason():
    other = policies.certificate_authority("other", keys.make_chain())
    both = policies.policy(PKI, other, allow={"other": [ALICE], "pki": [ALICE]})
    neither = policies.policy(PKI, other, allow={"other": [ALICE], "pki": ["email:bob@acme.example"]})

    assert signed.verify(BUNDLE, both).signer.authority == "pki"
    with pytest.raises(SignerNotAllowed):
        signed.verify(BUNDLE, neither)


@pytest.mark.parametrize("pattern", ["email:*", "email:al*@acme.example", "email:alice@*"])
def test_step_5_an_anchored_glob_matches_the_whole_identity(pattern):
    assert signed.verify(BUNDLE, policies.policy(PKI, allow={"pki": [pattern]}))


@pytest.mark.parametrize(
    "pattern", ["alice@acme.example", "email:alice", "*alice@acme.exampl", "email:ALICE@acme.example"]
)
def test_step_5_a_pattern_that_matches_a_part_refuses(pattern):
    with pytest.raises(SignerNotAllowed):
        signed.verify(BUNDLE, policies.policy(PKI, allow={"pki": [pattern]}))


# 6. Revocation and freshness


def test_step_6_refuses_an_expired_policy():
    with pytest.raises(StaleTrust, match="expired"):
        signed.verify(BUNDLE, policy(expires=NOW))


def test_step_6_refuses_a_revocation_list_that_is_too_old():
    with pytest.raises(StaleTrust, match="at most 3600 seconds"):
        signed.verify(BUNDLE, policy(updated_at=NOW - timedelta(hours=2), max_age_seconds=3600))


def test_step_6_refuses_a_revocation_list_from_the_future():
    with pytest.raises(StaleTrust, match="clock"):
        signed.verify(BUNDLE, policy(updated_at=NOW + timedelta(hours=1)))


def test_step_6_refuses_a_revoked_artifact():
    with pytest.raises(Revoked, match="artifact"):
        signed.verify(BUNDLE, policy(revoked_artifacts=[signed.MANIFEST.digest]))


def _fingerprint(issuer):
    return "sha256:" + issuer.certificate.fingerprint(keys.hashes.SHA256()).hex()


REVOKED = {
    "identity": {"identity": ALICE},
    "subject": {"identity": "subject:CN=someone"},
    "leaf": {"key": _fingerprint(LEAF)},
    "intermediate": {"key": _fingerprint(CHAIN.intermediate)},
    "root": {"key": _fingerprint(CHAIN.root)},
    "key": {"key": str(verification.key_id_of(LEAF.private_key.public_key()))},
    "from-now": {"identity": ALICE, "from": NOW},
    "from-later": {"identity": ALICE, "from": NOW + timedelta(days=9)},
}


@pytest.mark.parametrize("entry", REVOKED.values(), ids=REVOKED)
def test_step_6_refuses_a_revoked_signer_whatever_names_it(entry):
    """Also `from` a later time: without a trusted time nothing shows that the signature is older."""
    with pytest.raises(Revoked, match="signer"):
        signed.verify(BUNDLE, policy(revoked_signers=[entry]))


def test_step_6_refuses_a_revoked_key():
    key_id = str(verification.key_id_of(KEY.private_key.public_key()))

    with pytest.raises(Revoked):
        signed.verify(KEY_BUNDLE, policies.policy(OPS, allow={"ops": ["key:*"]}, revoked_signers=[{"key": key_id}]))


def test_step_6_another_signers_revocation_changes_nothing():
    assert signed.verify(BUNDLE, policy(revoked_signers=[{"identity": "email:bob@acme.example"}]))


def test_step_6_a_second_bundle_does_not_bring_back_a_revoked_artifact():
    revoking = policies.policy(
        PKI, OPS, allow={"pki": [ALICE], "ops": ["key:*"]}, revoked_artifacts=[signed.MANIFEST.digest]
    )

    with pytest.raises(Revoked):
        _verify_any([BUNDLE, KEY_BUNDLE], revoking)


# 7. Statement and manifest


@pytest.mark.parametrize("field", ["path", "size", "sha256", "blake3"])
def test_step_7_refuses_a_manifest_that_differs_from_the_statement(field):
    value = {"path": "other.json", "size": 3, "sha256": "0" * 64, "blake3": "1" * 64}[field]
    first, *rest = signed.MANIFEST.files
    other = manifests.build([replace(first, **{field: value}), *rest])

    with pytest.raises((SignatureInvalid, ManifestInvalid)):
        signed.verify(BUNDLE, POLICY, raw_manifest=other.raw, artifact=None)
    with pytest.raises(ManifestInvalid, match="asked for"):
        signed.verify(BUNDLE, POLICY, raw_manifest=other.raw)


@pytest.mark.parametrize("field", ["name", "size", "blake3"])
def test_step_7_refuses_a_statement_that_names_the_artifact_but_lists_other_files(field):
    def change(statement):
        resource = statement["predicate"]["resources"][0]
        if field == "name":
            resource["name"] = "other.json"
        else:
            resource["annotations"][field] = 3 if field == "size" else "1" * 64

    with pytest.raises(SignatureInvalid, match="differ at"):
        signed.verify(resigned(change), KEY_POLICY)


def test_step_7_refuses_a_root_digest_that_is_not_that_of_the_resources():
    def change(statement):
        statement["predicate"]["resources"][0]["digest"] = "0" * 64

    with pytest.raises(SignatureInvalid, match="subject's digest"):
        signed.verify(resigned(change), KEY_POLICY)


def test_step_7_refuses_another_artifact_than_the_one_asked_for():
    with pytest.raises(ManifestInvalid, match="asked for was"):
        signed.verify(BUNDLE, POLICY, artifact=signed.digest("0"))


def test_step_7_refuses_a_foreign_statement_in_place_of_ours():
    """Without our annotations a statement says nothing of sizes and chunks, so it cannot stand for a manifest."""

    def strip(statement):
        del statement["subject"][0]["annotations"]

    with pytest.raises(SignatureInvalid, match="of the artifact None"):
        signed.verify(resigned(strip), KEY_POLICY)


# 9. Bytes (with `hashing.check_files`, which takes what was verified)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(b"weights")
    return root


def test_step_9_refuses_an_unsigned_py_file_that_a_signed_ignore_paths_hides(folder):
    from modelreg.hashing import hash_tree
    from modelreg.verify import signed_entries

    manifest = manifests.build(hash_tree(folder))

    def hide(statement):
        statement["predicate"]["serialization"]["ignore_paths"] = ["evil.py"]

    bundle = signed.sign(KEY, signed.changed_payload(hide, statements.build("m", manifest)))
    verified = verification.verify_statement(bundle, policy=KEY_POLICY, repository="acme/m", now=NOW)
    check_files(folder, signed_entries(verified.statement))
    (folder / "evil.py").write_text("import os")

    with pytest.raises(DigestMismatch, match=r"evil\.py: not part of the artifact"):
        check_files(folder, signed_entries(verified.statement))


def test_step_9_refuses_other_bytes_of_the_same_size_and_time(folder):
    import os

    from modelreg.hashing import hash_tree

    entries = hash_tree(folder)
    path = folder / "model.safetensors"
    status = path.stat()
    path.write_bytes(b"weightz")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    with pytest.raises(DigestMismatch, match="wrong bytes"):
        check_files(folder, entries)


# Several bundles


def _verify_any(bundles_, trusted):
    return verification.verify_any(
        bundles_,
        signed.MANIFEST.raw,
        policy=trusted,
        repository=signed.REPOSITORY,
        now=NOW,
        artifact=signed.MANIFEST.digest,
    )


def test_no_bundle_is_a_missing_signature():
    with pytest.raises(SignatureMissing):
        _verify_any([], POLICY)


def test_one_good_bundle_among_bad_ones_is_enough():
    assert _verify_any([b"junk", KEY_BUNDLE, BUNDLE], POLICY).signer.identity == ALICE


def test_with_only_bad_bundles_the_first_refusal_is_raised_with_all_reasons():
    with pytest.raises(SignatureInvalid) as caught:
        _verify_any([b"junk", KEY_BUNDLE], POLICY)

    assert len(caught.value.facts["refusals"]) == 2


def test_issued_signers_verify_for_the_identity_they_were_issued_for():
    root = pki.make_root("t", NOW)
    intermediate = pki.make_intermediate("t", root, NOW)
    leaf = pki.issue_signer("uri:spiffe://acme/train", intermediate, NOW)
    trusted = policies.policy(policies.certificate_authority("pki", root), allow={"pki": ["uri:spiffe://acme/*"]})
    signer = signing.CertificateSigner(leaf.private_key, (leaf.certificate, intermediate.certificate))

    assert signed.verify(signed.sign(signer), trusted).signer.identity == "uri:spiffe://acme/train"
