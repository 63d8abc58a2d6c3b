"""Refusals, by the numbered steps of `verification` and docs/spec/verification.md."""

import ast
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier

from modelreg import bundles, manifests, pki, signing, statements, verification
from modelreg.digests import Digest
from modelreg.errors import (
    DigestMismatch,
    ManifestInvalid,
    Misconfigured,
    ModelregError,
    Quarantined,
    Revoked,
    SignatureInvalid,
    SignatureMissing,
    SignerNotAllowed,
    StaleTrust,
)
from modelreg.hashing import check_files, hash_tree
from modelreg.trust import key_id_of
from support import keys, signed
from support.fuzzing import assert_value_or_refusal, mutations
from support.keys import ALICE, NOW
from support.policies import certificate_authority, key_authority, policy, rule
from support.signed import MANIFEST, PAYLOAD, REPOSITORY, b64, changed_bundle, changed_payload, replaced, sign, verify

OPS = keys.make_key()
OTHER = keys.make_key()
CHAIN = keys.make_chain()
LEAF = pki.issue_signer(ALICE, CHAIN.intermediate, NOW)
SIGNER = keys.certificate_signer(LEAF, CHAIN.intermediate)

KEY_BUNDLE = sign(OPS)
CHAIN_BUNDLE = sign(SIGNER)


def key_policy(**changes):
    pinned = changes.pop("pinned", {"ops-1": OPS})
    legacy = changes.pop("legacy", None)
    not_after = changes.pop("not_after", None)
    authority = key_authority("ops", pinned, legacy=legacy, not_after=not_after)
    return policy(authority, **{"allow": {"ops": ["key:ops-1"]}, **changes})


def chain_policy(*roots, **changes):
    usage = changes.pop("usage", "codeSigning")
    authority = certificate_authority("pki", *(roots or (CHAIN,)), usage=usage)
    return policy(authority, **{"allow": {"pki": ["email:*@acme.example"]}, **changes})


def fingerprint(certificate):
    return Digest("sha256", certificate.fingerprint(hashes.SHA256()).hex())


def der(certificate):
    return certificate.public_bytes(serialization.Encoding.DER)


# What holds


def test_a_signature_by_an_allowed_key_is_verified():
    verified = verify(KEY_BUNDLE, key_policy())

    assert verified.manifest == MANIFEST
    assert verified.repository == REPOSITORY
    assert verified.verified_at == NOW
    assert verified.raw_bundle == KEY_BUNDLE
    assert verified.signer == verification.SignerIdentity(
        "ops", "key:ops-1", ("key:ops-1",), (key_id_of(OPS.private_key.public_key()),)
    )


def test_a_signature_by_an_allowed_certificate_is_verified():
    verified = verify(CHAIN_BUNDLE, chain_policy())

    assert (verified.signer.authority, verified.signer.identity) == ("pki", ALICE)
    assert verified.signer.identities == ("subject:CN=alice@acme.example", ALICE)
    assert {fingerprint(LEAF.certificate), fingerprint(CHAIN.root.certificate)} < set(verified.signer.key_ids)


@pytest.mark.parametrize("curve", keys.CURVES)
def test_every_curve_of_oms_verifies(curve):
    key = keys.make_key(curve)
    leaf = keys.make_certificate(CHAIN.intermediate, key=key.private_key)

    assert verify(sign(key), key_policy(pinned={"ops-1": key}))
    assert verify(sign(keys.certificate_signer(leaf, CHAIN.intermediate)), chain_policy())


def test_without_a_digest_asked_for_the_signed_one_counts():
    assert verify(KEY_BUNDLE, key_policy(), artifact=None).manifest.digest == MANIFEST.digest


def test_a_directory_without_a_manifest_is_verified_by_its_statement():
    verified = verification.verify_statement(KEY_BUNDLE, policy=key_policy(), repository=REPOSITORY, now=NOW)

    assert verified.statement == statements.parse(PAYLOAD)
    assert verified.signer.identity == "key:ops-1"


def test_an_enclosed_root_does_no_harm():
    assert verify(sign(keys.certificate_signer(LEAF, CHAIN.intermediate, CHAIN.root)), chain_policy())


def test_intermediates_may_come_in_any_order_and_with_strangers():
    middle = keys.make_certificate(CHAIN.root, ca=True, path_length=None, digital_signature=False, purposes=None, names=None, common_name="m")  # fmt: skip
    leaf = keys.make_certificate(middle)

    assert verify(sign(keys.certificate_signer(leaf, keys.make_chain("stranger").root, middle)), chain_policy())


def test_several_authorities_are_tried_and_the_fitting_one_named():
    both = policy(
        certificate_authority("elsewhere", keys.make_chain("elsewhere")),
        certificate_authority("pki", CHAIN),
        allow={"elsewhere": ["email:*@acme.example"], "pki": [ALICE]},
    )

    assert verify(CHAIN_BUNDLE, both).signer.authority == "pki"


# 1. Parse within limits, exactly one signature, types as expected


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("raw", [KEY_BUNDLE, CHAIN_BUNDLE], ids=["key", "certificate"])
def test_step_1_refuses_a_second_junk_signature(raw, position):
    with pytest.raises(SignatureInvalid, match="2 signatures"):
        verify(
            changed_bundle(raw, lambda it: it["dsseEnvelope"]["signatures"].insert(position, {"sig": b64(b"junk")})),
            both_policy(),
        )


def both_policy(**changes):
    return policy(
        key_authority("ops", {"ops-1": OPS}),
        certificate_authority("pki", CHAIN),
        **{"allow": {"ops": ["key:ops-1"], "pki": ["email:*@acme.example"]}, **changes},
    )


def test_step_1_refuses_two_signatures_that_are_both_good():
    with pytest.raises(SignatureInvalid, match="2 signatures"):
        verify(
            changed_bundle(
                KEY_BUNDLE, lambda it: it["dsseEnvelope"]["signatures"].append(it["dsseEnvelope"]["signatures"][0])
            ),
            key_policy(),
        )


def test_step_1_refuses_a_bundle_with_two_kinds_of_material():
    chain = json.loads(CHAIN_BUNDLE)["verificationMaterial"]["x509CertificateChain"]

    with pytest.raises(SignatureInvalid, match="publicKey and x509CertificateChain"):
        verify(
            changed_bundle(KEY_BUNDLE, lambda it: it["verificationMaterial"].update(x509CertificateChain=chain)),
            both_policy(),
        )


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a predicate that is not OMS", lambda it: it.update(predicateType="https://slsa.dev/provenance/v1")),
        ("a predicate of 0.2", lambda it: it.update(predicateType=statements.OMS_PREDICATE_0_2)),
        ("a statement of another type", lambda it: it.update(_type="https://in-toto.io/Statement/v0.1")),
        ("no file", lambda it: it["predicate"].update(resources=[])),
        ("two subjects", lambda it: it["subject"].append({"name": "x", "digest": {"sha256": "a" * 64}})),
        ("a duplicate resource", lambda it: it["predicate"]["resources"].append(it["predicate"]["resources"][0])),
        ("a resource outside", lambda it: it["predicate"]["resources"][0].update(name="../x")),
        ("an absolute resource", lambda it: it["predicate"]["resources"][0].update(name="/etc/passwd")),
        ("symlinks allowed", lambda it: it["predicate"]["serialization"].update(allow_symlinks=True)),
        ("shards", lambda it: it["predicate"]["serialization"].update(method="shards")),
    ],
)  # fmt: skip
def test_step_1_refuses_a_well_signed_statement_with(name, change):
    with pytest.raises(SignatureInvalid):
        verify(sign(OPS, changed_payload(change)), key_policy())


def _with_root(change):
    """A change to the resources, with the root digest that then is right."""

    def apply(it):
        change(it["predicate"]["resources"])
        it["subject"][0]["digest"]["sha256"] = hashlib.sha256(
            b"".join(bytes.fromhex(item["digest"]) for item in it["predicate"]["resources"])
        ).hexdigest()

    return apply


@pytest.mark.parametrize("first", ["right", "wrong"])
def test_step_1_refuses_duplicate_resource_names_of_which_one_is_right(first):
    # The reference keeps the last of the two.
    def add(resources):
        resources.insert(1 if first == "right" else 0, {**resources[0], "digest": "9" * 64})

    with pytest.raises(SignatureInvalid, match="same on some file systems"):
        verify(sign(OPS, changed_payload(_with_root(add))), key_policy())


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..\\x", "C:\\x"])
def test_step_1_refuses_a_resource_name_that_leaves_the_model(name):
    payload = changed_payload(_with_root(lambda it: it.append({**it[0], "name": name})))

    with pytest.raises(SignatureInvalid, match="the statement's files"):
        verify(sign(OPS, payload), key_policy())


def test_step_1_refuses_an_empty_model():
    with pytest.raises(SignatureInvalid, match="at least one file"):
        verify(sign(OPS, changed_payload(_with_root(list.clear))), key_policy())


def test_step_1_refuses_an_empty_bundle():
    with pytest.raises(SignatureInvalid, match="not JSON"):
        verify(b"", key_policy())


# 2. The trust policy picks the method


def test_step_2_refuses_a_key_bundle_where_a_certificate_is_demanded():
    with pytest.raises(SignatureInvalid, match="carries a publicKey; the trust policy does not use that"):
        verify(KEY_BUNDLE, chain_policy())


def test_step_2_refuses_a_certificate_bundle_where_a_key_is_demanded():
    # Even where the leaf's key is a pinned one.
    with pytest.raises(SignatureInvalid, match="carries a x509CertificateChain"):
        verify(CHAIN_BUNDLE, key_policy(pinned={"ops-1": LEAF}))


def test_step_2_refuses_a_leaf_key_used_as_a_bare_key():
    with pytest.raises(SignatureInvalid, match="was not made with a key of ops"):
        verify(sign(signing.KeySigner(LEAF.private_key)), both_policy())


def test_step_2_refuses_a_sigstore_bundle_where_no_sigstore_is_pinned():
    leaf = json.loads(CHAIN_BUNDLE)["verificationMaterial"]["x509CertificateChain"]["certificates"][0]

    with pytest.raises(SignatureInvalid, match="carries a certificate; the trust policy does not use that"):
        verify(
            changed_bundle(CHAIN_BUNDLE, lambda it: it.update(verificationMaterial={"certificate": leaf})),
            both_policy(),
        )


# 3. Signature over the exact payload bytes


def test_step_3_refuses_another_payload():
    for raw, trusted in ((KEY_BUNDLE, key_policy()), (CHAIN_BUNDLE, chain_policy())):
        with pytest.raises(SignatureInvalid, match="not over these bytes"):
            verify(replaced(raw, payload=PAYLOAD.replace(b"config.json", b"config.jsan")), trusted)


def test_step_3_refuses_the_same_statement_in_other_white_space():
    with pytest.raises(SignatureInvalid, match="not over these bytes"):
        verify(replaced(KEY_BUNDLE, payload=json.dumps(json.loads(PAYLOAD)).encode()), key_policy())


@pytest.mark.parametrize("bit", range(0, 70 * 8, 37))
def test_step_3_refuses_a_flipped_bit_in_the_signature(bit):
    signature = bytearray(bundles.parse(KEY_BUNDLE).signature)
    signature[bit // 8 % len(signature)] ^= 1 << bit % 8

    with pytest.raises(SignatureInvalid):
        verify(replaced(KEY_BUNDLE, signature=bytes(signature)), key_policy())


@pytest.mark.parametrize(
    "signature",
    [b"\x00", b"0\x06\x02\x01\x00\x02\x01\x00", b"0\x06\x02\x01\x01\x02\x01\x01", b"\x00" * 64, b"x" * 10_000],
    ids=["byte", "zeros", "ones", "raw zeros", "long"],
)
def test_step_3_refuses_a_signature_of_nothing(signature):
    with pytest.raises(SignatureInvalid, match="not over these bytes"):
        verify(replaced(KEY_BUNDLE, signature=signature), key_policy())


def test_step_3_refuses_a_signature_over_the_bare_payload():
    signature = OPS.private_key.sign(PAYLOAD, ec.ECDSA(hashes.SHA256()))

    with pytest.raises(SignatureInvalid, match="not over these bytes"):
        verify(replaced(KEY_BUNDLE, signature=signature), key_policy())


def test_step_3_refuses_a_hash_that_does_not_go_with_the_curve():
    key = keys.make_key("p384")
    signature = key.private_key.sign(bundles.pae(PAYLOAD), ec.ECDSA(hashes.SHA256()))

    with pytest.raises(SignatureInvalid, match="not over these bytes"):
        verify(replaced(sign(key), signature=signature), key_policy(pinned={"ops-1": key}))


def test_step_3_refuses_a_key_that_is_not_pinned():
    with pytest.raises(SignatureInvalid, match="not made with a key of ops"):
        verify(sign(OTHER), key_policy())


def test_step_3_refuses_the_hint_of_a_pinned_key_on_another_signature():
    with pytest.raises(SignatureInvalid, match="not over these bytes"):
        verify(replaced(sign(OTHER), hint=signing.hint_of(OPS.private_key.public_key())), key_policy())


def test_step_3_refuses_the_hint_of_another_key_on_a_good_signature():
    with pytest.raises(SignatureInvalid, match="not made with a key of ops"):
        verify(replaced(KEY_BUNDLE, hint=signing.hint_of(OTHER.private_key.public_key())), key_policy())


def _key_material(raw, **members):
    return changed_bundle(raw, lambda it: it["verificationMaterial"].update(publicKey=members))


def test_step_3_refuses_a_key_smuggled_into_the_bundle():
    # A verifier that prefers the enclosed key to the pinned one believes this.
    pem = b64(keys.public_pem(OTHER).encode())
    hint = signing.hint_of(OPS.private_key.public_key())

    for members in ({"rawBytes": pem}, {"rawBytes": pem, "hint": hint}):
        with pytest.raises(SignatureInvalid, match="not made with a key of ops"):
            verify(_key_material(sign(OTHER), **members), key_policy())


def test_step_3_refuses_a_key_without_hint_or_bytes():
    with pytest.raises(SignatureInvalid, match="not made with a key of ops"):
        verify(_key_material(KEY_BUNDLE, keyDetails="PKIX_ECDSA_P256_SHA_256"), key_policy())


def test_the_bytes_of_a_pinned_key_name_it_as_its_hint_does():
    assert verify(_key_material(KEY_BUNDLE, rawBytes=b64(keys.public_pem(OPS).encode())), key_policy())


@pytest.mark.parametrize(
    "smuggle",
    [
        lambda it: it["dsseEnvelope"]["signatures"][0].update(keyid=keys.public_pem(OTHER)),
        lambda it: it["verificationMaterial"].update(tlogEntries=[{"publicKey": keys.public_pem(OTHER)}]),
        lambda it: it["verificationMaterial"]["publicKey"].update(keyDetails=keys.public_pem(OTHER)),
        lambda it: it["verificationMaterial"].update(timestampVerificationData={"key": keys.public_pem(OTHER)}),
    ],
    ids=["keyid", "tlogEntries", "keyDetails", "timestamps"],
)
def test_step_3_refuses_a_key_smuggled_where_the_policy_does_not_look(smuggle):
    raw = _key_material(sign(OTHER), hint=signing.hint_of(OPS.private_key.public_key()))

    with pytest.raises(SignatureInvalid, match="not over these bytes|timestampVerificationData has unknown members"):
        verify(changed_bundle(raw, smuggle), key_policy())


# 3, for the encoding of model-signing 0.2.0


def sign_0_2(signer, payload):
    encoded = f"DSSEV1 28 application/vnd.in-toto+json {len(payload)} {payload!r}".encode()
    return replaced(sign(signer, payload), signature=signer.private_key.sign(encoded, ec.ECDSA(hashes.SHA256())))


PAYLOAD_0_2 = json.dumps(
    {
        "_type": statements.STATEMENT_TYPE,
        "subject": [{"name": "x", "digest": {"sha256": "a" * 64}}],
        "predicateType": statements.OMS_PREDICATE_0_2,
        "predicate": {"unused": ""},
    }
).encode()


def verify_directory(raw, trusted):
    return verification.verify_statement(raw, policy=trusted, repository=REPOSITORY, now=NOW)


def test_a_statement_of_0_2_is_believed_with_the_legacy_flag():
    verified = verify_directory(sign_0_2(OPS, PAYLOAD_0_2), key_policy(legacy=True))

    assert [file.path for file in verified.statement.files] == ["x"]


def test_step_3_refuses_the_encoding_of_0_2_without_the_legacy_flag():
    for trusted in (key_policy(), key_policy(legacy=False)):
        with pytest.raises(SignatureInvalid, match="not over these bytes by this key$"):
            verify_directory(sign_0_2(OPS, PAYLOAD_0_2), trusted)


def test_step_3_refuses_a_mixture_of_0_2_and_1_0():
    trusted = key_policy(legacy=True)
    for raw in (sign_0_2(OPS, PAYLOAD), sign(OPS, PAYLOAD_0_2)):
        with pytest.raises(SignatureInvalid, match="predicate type"):
            verify_directory(raw, trusted)


def test_step_3_refuses_another_key_in_either_encoding():
    raw = replaced(sign_0_2(OTHER, PAYLOAD_0_2), hint=signing.hint_of(OPS.private_key.public_key()))

    with pytest.raises(SignatureInvalid, match="in either encoding"):
        verify_directory(raw, key_policy(legacy=True))


def test_the_legacy_flag_does_not_change_what_1_0_means():
    assert verify(KEY_BUNDLE, key_policy(legacy=True))


def test_step_7_refuses_a_statement_of_0_2_for_a_manifest():
    with pytest.raises(SignatureInvalid, match="of the artifact None"):
        verify(sign_0_2(OPS, PAYLOAD_0_2), key_policy(legacy=True))


# 4. Chain to pinned roots, usage, validity


def chain_refusal(*certificates, match, **changes):
    with pytest.raises(SignatureInvalid, match=match) as caught:
        verify(sign(keys.certificate_signer(*certificates)), changes.pop("policy", chain_policy()), **changes)
    return caught.value


def test_step_4_refuses_an_expired_leaf():
    chain_refusal(keys.expired_leaf(CHAIN.intermediate), CHAIN.intermediate, match="is valid from .* not at")


def test_step_4_refuses_a_leaf_the_second_after_it_ended():
    end = LEAF.certificate.not_valid_after_utc
    trusted = chain_policy(expires=end + timedelta(days=900), max_age_seconds=10 * 365 * 86400)

    assert verify(CHAIN_BUNDLE, trusted, now=end)
    with pytest.raises(SignatureInvalid, match="push again with a current certificate"):
        verify(CHAIN_BUNDLE, trusted, now=end + timedelta(seconds=1))


def test_step_4_refuses_a_leaf_that_is_not_valid_yet():
    leaf = keys.make_certificate(CHAIN.intermediate, start=NOW + timedelta(days=1))

    chain_refusal(leaf, CHAIN.intermediate, match="is valid from")


def test_step_4_refuses_an_expired_intermediate():
    # cosign CVE-2026-24122.
    old = keys.make_certificate(CHAIN.root, ca=True, digital_signature=False, purposes=None, names=None, common_name="i", end=NOW - timedelta(days=1), start=NOW - timedelta(days=9))  # fmt: skip

    chain_refusal(keys.make_certificate(old), old, match="does not lead to a root of pki")


def test_step_4_refuses_an_expired_root():
    old = keys.make_certificate(None, ca=True, digital_signature=False, purposes=None, names=None, common_name="r", end=NOW - timedelta(hours=1))  # fmt: skip

    chain_refusal(keys.make_certificate(old), match="does not lead to a root", policy=chain_policy(old))


def test_step_4_refuses_a_chain_to_a_root_that_is_not_pinned():
    other = keys.make_chain("acme")  # the same names, other keys
    leaf = pki.issue_signer(ALICE, other.intermediate, NOW)

    chain_refusal(leaf, other.intermediate, match="does not lead to a root of pki")
    chain_refusal(leaf, other.intermediate, other.root, match="does not lead to a root of pki")


def test_step_4_refuses_roots_of_the_web():
    # With no chain given, the reference trusts certifi's bundle; here no policy can leave its roots out.
    certifi = pytest.importorskip("certifi")
    end = b"-----END CERTIFICATE-----\n"
    first = Path(certifi.where()).read_bytes().split(end)[:3]
    web = [x509.load_pem_x509_certificate(pem + end) for pem in first]

    raw = replaced(CHAIN_BUNDLE, certificates=(der(LEAF.certificate), *(der(root) for root in web)))
    with pytest.raises(SignatureInvalid, match="does not lead to a root"):
        verify(raw, chain_policy())
    with pytest.raises(Misconfigured, match="roots"):
        policy('[authorities.web]\nmethod = "certificate"\nusage = "codeSigning"\n', allow={"web": ["email:*"]})
    with pytest.raises(Misconfigured, match="at least one"):
        policy(
            '[authorities.web]\nmethod = "certificate"\nusage = "codeSigning"\nroots = []\n', allow={"web": ["email:*"]}
        )


def test_step_4_refuses_a_self_signed_leaf():
    chain_refusal(keys.make_certificate(None), match="does not lead to a root of pki")


def test_step_4_refuses_a_missing_intermediate():
    chain_refusal(LEAF, match="does not lead to a root of pki")


def test_step_4_refuses_the_intermediate_of_another_leaf():
    chain_refusal(LEAF, keys.make_chain("acme").intermediate, match="does not lead to a root of pki")


def test_step_4_refuses_a_leaf_used_as_an_authority():
    chain_refusal(keys.make_certificate(LEAF), LEAF, CHAIN.intermediate, match="does not lead to a root of pki")


def test_step_4_refuses_more_intermediates_than_the_issuer_permits():
    below = keys.make_certificate(CHAIN.intermediate, ca=True, digital_signature=False, purposes=None, names=None, common_name="below")  # fmt: skip

    chain_refusal(keys.make_certificate(below), below, CHAIN.intermediate, match="does not lead to a root of pki")


def chain_of(count):
    """A root, `count` intermediates (the one next to the leaf first) and a leaf."""
    root = issuer = keys.make_certificate(None, ca=True, digital_signature=False, purposes=None, names=None, common_name="r")  # fmt: skip
    between = []
    for at in range(count):
        issuer = keys.make_certificate(issuer, ca=True, digital_signature=False, purposes=None, names=None, common_name=f"i{at}")  # fmt: skip
        between.insert(0, issuer)
    return root, between, keys.make_certificate(issuer)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_chain_of_up_to_four_intermediates_is_followed(count):
    root, between, leaf = chain_of(count)

    assert verify(sign(keys.certificate_signer(leaf, *between)), chain_policy(root))


def test_step_4_refuses_a_chain_too_deep():
    root, between, leaf = chain_of(5)

    chain_refusal(leaf, *between, match="exceeds max depth", policy=chain_policy(root))


def test_step_4_refuses_a_certificate_for_another_purpose():
    leaf = keys.wrong_purpose_leaf(CHAIN.intermediate)

    chain_refusal(leaf, CHAIN.intermediate, match="not for code signing")
    assert verify(sign(keys.certificate_signer(leaf, CHAIN.intermediate)), chain_policy(usage="digitalSignature"))


def test_step_4_refuses_a_certificate_without_any_purpose():
    leaf = keys.make_certificate(CHAIN.intermediate, purposes=None)

    chain_refusal(leaf, CHAIN.intermediate, match="not for code signing")
    assert verify(sign(keys.certificate_signer(leaf, CHAIN.intermediate)), chain_policy(usage="digitalSignature"))


def test_step_4_refuses_a_certificate_that_may_not_sign():
    for usage in ("codeSigning", "digitalSignature"):
        chain_refusal(
            keys.leaf_without_digital_signature(CHAIN.intermediate),
            CHAIN.intermediate,
            match="not for digital signatures",
            policy=chain_policy(usage=usage),
        )


def test_step_4_refuses_a_certificate_without_key_usage():
    leaf = keys.make_certificate(CHAIN.intermediate, key_usage=False)

    for usage in ("codeSigning", "digitalSignature"):
        chain_refusal(leaf, CHAIN.intermediate, match="KeyUsage|key usage|missing", policy=chain_policy(usage=usage))


def test_step_4_refuses_a_root_or_intermediate_that_signs_artifacts_itself():
    chain_refusal(CHAIN.intermediate, match="not for digital signatures")
    chain_refusal(CHAIN.root, match="not for digital signatures")


def issuer_for(*purposes):
    return keys.make_certificate(CHAIN.root, ca=True, path_length=0, digital_signature=False, purposes=purposes, names=None, common_name="special")  # fmt: skip


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
def test_an_issuer_for_code_signing_is_followed(purpose):
    # Once refused: the library's own rule for issuers wants clientAuth.
    issuer = issuer_for(purpose, ExtendedKeyUsageOID.OCSP_SIGNING)

    assert verify(sign(keys.certificate_signer(keys.make_certificate(issuer), issuer)), chain_policy())


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
def test_step_4_refuses_an_issuer_for_another_purpose(purpose):
    # Once believed for clientAuth.
    issuer = issuer_for(purpose)
    leaf = keys.make_certificate(issuer)

    chain_refusal(leaf, issuer, match="may not issue certificates for code signing")
    assert verify(sign(keys.certificate_signer(leaf, issuer)), chain_policy(usage="digitalSignature"))


def test_step_4_refuses_a_name_the_issuer_may_not_give():
    constraint = x509.NameConstraints([x509.RFC822Name("other.example")], None)
    issuer = keys.make_certificate(CHAIN.root, ca=True, path_length=0, digital_signature=False, purposes=None, names=None, common_name="c", extra=[(constraint, True)])  # fmt: skip

    chain_refusal(keys.make_certificate(issuer), issuer, match="does not lead to a root of pki")


def test_step_4_refuses_an_unknown_critical_extension():
    extra = [(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]

    chain_refusal(keys.make_certificate(CHAIN.intermediate, extra=extra), CHAIN.intermediate, match="critical")


@pytest.mark.parametrize("make_key", [keys.rsa_key, keys.ed25519_key], ids=["rsa", "ed25519"])
def test_step_4_refuses_a_leaf_with_a_key_oms_does_not_name(make_key):
    key = make_key()
    leaf = keys.make_certificate(CHAIN.intermediate, key=key)
    raw = replaced(CHAIN_BUNDLE, certificates=(der(leaf.certificate), der(CHAIN.intermediate.certificate)))

    with pytest.raises(SignatureInvalid, match="only ECDSA keys"):
        verify(raw, chain_policy())


def test_step_4_refuses_a_leaf_on_a_curve_oms_does_not_name():
    leaf = keys.make_certificate(CHAIN.intermediate, key=ec.generate_private_key(ec.SECP256K1()))
    raw = replaced(CHAIN_BUNDLE, certificates=(der(leaf.certificate), der(CHAIN.intermediate.certificate)))

    with pytest.raises(SignatureInvalid):
        verify(raw, chain_policy())


def _unrecognized(oid, raw):
    return [(x509.UnrecognizedExtension(oid, raw), False)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"names": None, "extra": _unrecognized(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\xff")},
        {
            "names": None,
            "extra": _unrecognized(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x09\xa3\x07\x30\x05\x0c\x03abc"),
        },
        {"purposes": None, "extra": _unrecognized(ExtensionOID.EXTENDED_KEY_USAGE, b"\xff")},
        {"extra": _unrecognized(ExtensionOID.CERTIFICATE_POLICIES, b"\xff")},
    ],
    ids=["names", "x400 name", "purposes", "policies"],
)
def test_step_4_refuses_a_malformed_extension(arguments):
    # Once a ValueError or an UnsupportedGeneralNameType of the library, for what a pinned authority had signed.
    chain_refusal(
        keys.make_certificate(CHAIN.intermediate, **arguments), CHAIN.intermediate, match="malformed|does not lead"
    )


_VERSION = b"\xa0\x03\x02\x01"


@pytest.mark.parametrize("position", [0, 1], ids=["leaf", "intermediate"])
def test_step_4_refuses_a_certificate_of_a_version_that_is_not(position):
    # Once the library's InvalidVersion, which is no ValueError, for bytes that nobody had signed.
    certificates = list(bundles.parse(CHAIN_BUNDLE).certificates)
    certificates[position] = certificates[position].replace(_VERSION + b"\x02", _VERSION + b"\x12", 1)

    with pytest.raises(SignatureInvalid, match="malformed certificate"):
        verify(replaced(CHAIN_BUNDLE, certificates=tuple(certificates)), chain_policy())


@pytest.mark.parametrize("junk", [b"\x30\x00", b"x", der(LEAF.certificate)[:-1], der(LEAF.certificate) + b"\x00"])
@pytest.mark.parametrize("position", [0, 1])
def test_step_4_refuses_what_is_no_certificate(junk, position):
    certificates = list(bundles.parse(CHAIN_BUNDLE).certificates)
    certificates[position] = junk

    with pytest.raises(SignatureInvalid):
        verify(replaced(CHAIN_BUNDLE, certificates=tuple(certificates)), chain_policy())


def test_step_4_refuses_the_leaf_of_somebody_else():
    bob = pki.issue_signer("email:bob@acme.example", CHAIN.intermediate, NOW)
    raw = replaced(CHAIN_BUNDLE, certificates=(der(bob.certificate), der(CHAIN.intermediate.certificate)))

    with pytest.raises(SignatureInvalid, match="not over these bytes"):
        verify(raw, chain_policy())


def test_step_4_refuses_a_key_after_its_end():
    trusted = key_policy(not_after={"ops-1": NOW})

    assert verify(KEY_BUNDLE, trusted, now=NOW - timedelta(seconds=1))
    with pytest.raises(SignatureInvalid, match="the key ops-1 of ops ended at"):
        verify(KEY_BUNDLE, trusted)


# 5. Signer allowed for this repository


def test_step_5_refuses_a_signer_no_rule_allows():
    with pytest.raises(SignerNotAllowed, match="allows email:bob@acme.example of pki") as caught:
        verify(CHAIN_BUNDLE, chain_policy(allow={"pki": ["email:bob@acme.example"]}))

    assert caught.value.facts["identities"] == ["subject:CN=alice@acme.example", ALICE]


def test_step_5_refuses_a_repository_no_rule_names():
    for repository in ("evil/llama", "acme", "acme/llama/x", "", "Acme/llama"):
        with pytest.raises(SignerNotAllowed, match="nobody may sign"):
            verify(KEY_BUNDLE, key_policy(), repository=repository)


def test_step_5_refuses_everybody_under_an_empty_rule_list():
    trusted = replace(key_policy(), rules=())

    with pytest.raises(SignerNotAllowed, match="nobody may sign"):
        verify(KEY_BUNDLE, trusted)


@pytest.mark.parametrize("rules_change", ["no entry", "no identity"])
def test_step_5_refuses_everybody_under_an_empty_rule(rules_change):
    trusted = key_policy()
    only = trusted.rules[0]
    empty = replace(only, allow=() if rules_change == "no entry" else (replace(only.allow[0], identities=()),))

    with pytest.raises(SignerNotAllowed):
        verify(KEY_BUNDLE, replace(trusted, rules=(empty,)))


def test_step_5_refuses_by_the_first_rule_that_names_the_repository():
    authorities = [key_authority("ops", {"ops-1": OPS, "other": OTHER})]
    strict, open_ = rule(["acme/llama"], {"ops": ["key:other"]}), rule(["*/*"], {"ops": ["key:*"]})

    with pytest.raises(SignerNotAllowed):
        verify(KEY_BUNDLE, policy(*authorities, rules=[strict, open_]))
    assert verify(KEY_BUNDLE, policy(*authorities, rules=[open_, strict]))
    assert verify(KEY_BUNDLE, policy(*authorities, rules=[strict, open_]), repository="acme/other")


@pytest.mark.parametrize(
    "pattern",
    ["email:*@acme.exampl", "email:*@cme.example", "*@acme.example.", "mail:*", "dns:*", "alice@acme.example", "EMAIL:*", "email:a?ice@acme.example", "email:[a]lice@acme.example"],
)  # fmt: skip
def test_step_5_refuses_what_a_pattern_only_almost_matches(pattern):
    with pytest.raises(SignerNotAllowed):
        verify(CHAIN_BUNDLE, chain_policy(allow={"pki": [pattern]}))


@pytest.mark.parametrize(
    ("name", "refused_as"),
    [
        (x509.DNSName("alice@acme.example"), "email:*"),
        (x509.UniformResourceIdentifier("https://x/alice@acme.example"), "email:*@acme.example"),
        (x509.RFC822Name("alice@acme.example.evil.example"), "email:*@acme.example"),
        (x509.RFC822Name("alice@acme.example/x"), "email:*@acme.example"),
        (x509.DNSName("acme.example"), "email:*"),
        (x509.UniformResourceIdentifier("https://ci.example/evil/acme/x"), "uri:https://ci.example/acme/*"),
        (x509.UniformResourceIdentifier("https://ci.example/acme/x/../../evil"), "uri:https://ci.example/acme/*"),
    ],
)
def test_step_5_refuses_a_name_of_another_kind_or_place(name, refused_as):
    leaf = keys.make_certificate(CHAIN.intermediate, names=[name])

    with pytest.raises(SignerNotAllowed):
        verify(sign(keys.certificate_signer(leaf, CHAIN.intermediate)), chain_policy(allow={"pki": [refused_as]}))


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ([x509.RFC822Name("bob@x.example"), x509.DNSName("build.acme.example")], "dns:build.acme.example"),
        ([x509.UniformResourceIdentifier("spiffe://acme.example/ci")], "uri:spiffe://acme.example/ci"),
        (None, "subject:CN=someone"),
    ],
)
def test_every_kind_of_name_can_be_allowed(names, pattern):
    leaf = keys.make_certificate(CHAIN.intermediate, names=names)

    verified = verify(sign(keys.certificate_signer(leaf, CHAIN.intermediate)), chain_policy(allow={"pki": [pattern]}))

    assert verified.signer.identity == pattern


def test_step_5_refuses_a_certificate_that_names_nobody():
    builder = keys.make_certificate(CHAIN.intermediate, names=None)
    nameless = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(CHAIN.intermediate.certificate.subject)
        .public_key(builder.private_key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    for extension in builder.certificate.extensions:
        nameless = nameless.add_extension(extension.value, extension.critical)
    leaf = pki.Issuer(builder.private_key, nameless.sign(CHAIN.intermediate.private_key, hashes.SHA256()))

    with pytest.raises(SignerNotAllowed, match="signed by nobody named"):
        verify(sign(keys.certificate_signer(leaf, CHAIN.intermediate)), chain_policy(allow={"pki": ["*"]}))


def test_step_5_says_not_allowed_rather_than_invalid_where_one_authority_proved_the_signer():
    both = policy(
        certificate_authority("elsewhere", keys.make_chain("elsewhere")),
        certificate_authority("pki", CHAIN),
        allow={"elsewhere": ["email:*@acme.example"], "pki": ["email:bob@acme.example"]},
    )

    with pytest.raises(SignerNotAllowed):
        verify(CHAIN_BUNDLE, both)


def test_step_5_refuses_an_identity_allowed_of_another_authority():
    # The key's name is not the certificate's: each identity counts only under the authority that proves it.
    trusted = both_policy(allow={"ops": [ALICE], "pki": ["key:ops-1"]})

    for raw in (KEY_BUNDLE, CHAIN_BUNDLE):
        with pytest.raises(SignerNotAllowed):
            verify(raw, trusted)


@pytest.mark.parametrize("pattern", ["email:*", "email:al*@acme.example", "email:alice@*", "*@acme.example", "*"])
def test_a_glob_that_matches_the_whole_identity_allows_it(pattern):
    assert verify(CHAIN_BUNDLE, chain_policy(allow={"pki": [pattern]}))


# 6. Not revoked, nothing stale


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("policy expired", {"expires": NOW}),
        ("revocations stale", {"updated_at": NOW - timedelta(days=2), "max_age_seconds": 86400}),
        ("revocations from the future", {"updated_at": NOW + timedelta(hours=1)}),
    ],
)
def test_step_6_refuses_a_stale_trust_policy(name, changes):
    for raw, trusted in ((KEY_BUNDLE, key_policy(**changes)), (CHAIN_BUNDLE, chain_policy(**changes))):
        with pytest.raises(StaleTrust):
            verify(raw, trusted)


def test_step_6_refuses_a_revoked_artifact():
    with pytest.raises(Revoked, match="the artifact"):
        verify(KEY_BUNDLE, key_policy(revoked_artifacts=[MANIFEST.digest]))
    with pytest.raises(Revoked, match="the artifact"):
        verify_directory(KEY_BUNDLE, key_policy(revoked_artifacts=[MANIFEST.digest]))


def test_step_6_refuses_a_quarantined_artifact_with_the_reason():
    policy = key_policy(quarantined={MANIFEST.digest: "odd answers"})
    for check in (verify, verify_directory):
        with pytest.raises(Quarantined, match="odd answers"):
            check(KEY_BUNDLE, policy)
    assert verify(KEY_BUNDLE, key_policy(quarantined={signed.digest("0"): "another"}))


def test_no_other_bundle_saves_a_quarantined_artifact():
    with pytest.raises(Quarantined) as refused:
        verify_any([KEY_BUNDLE, CHAIN_BUNDLE], both_policy(quarantined={MANIFEST.digest: "odd"}))
    assert "refusals" not in refused.value.facts


def test_another_artifact_revoked_is_no_matter():
    assert verify(KEY_BUNDLE, key_policy(revoked_artifacts=[signed.digest("0")]))


SINCE = [{}, {"from": NOW}, {"from": NOW + timedelta(days=300)}, {"from": NOW - timedelta(days=300)}]


@pytest.mark.parametrize("since", SINCE, ids=["ever", "from now on", "from later on", "from earlier on"])
@pytest.mark.parametrize(
    ("raw", "revoked"),
    [
        (KEY_BUNDLE, {"identity": "key:ops-1"}),
        (KEY_BUNDLE, {"key": key_id_of(OPS.private_key.public_key())}),
        (CHAIN_BUNDLE, {"identity": ALICE}),
        (CHAIN_BUNDLE, {"identity": "email:*@acme.example"}),
        (CHAIN_BUNDLE, {"identity": "subject:CN=alice@acme.example"}),
        (CHAIN_BUNDLE, {"key": key_id_of(LEAF.private_key.public_key())}),
        (CHAIN_BUNDLE, {"key": fingerprint(LEAF.certificate)}),
        (CHAIN_BUNDLE, {"key": key_id_of(CHAIN.intermediate.private_key.public_key())}),
        (CHAIN_BUNDLE, {"key": fingerprint(CHAIN.intermediate.certificate)}),
        (CHAIN_BUNDLE, {"key": key_id_of(CHAIN.root.private_key.public_key())}),
        (CHAIN_BUNDLE, {"key": fingerprint(CHAIN.root.certificate)}),
    ],
    ids=["key name", "key", "identity", "identities", "other name", "leaf key", "leaf", "intermediate key", "intermediate", "root key", "root"],
)  # fmt: skip
def test_step_6_refuses_a_revoked_signer(raw, revoked, since):
    # Without a trusted time nothing shows that the signature is older than `from`, so it is not believed.
    with pytest.raises(Revoked, match="is revoked"):
        verify(raw, both_policy(revoked_signers=[{**revoked, **since}]))


def test_with_a_trusted_time_only_later_signatures_of_a_revoked_signer_are_refused():
    # No bundle carries one yet; this is what `from` will mean.
    trusted = key_policy(revoked_signers=[{"identity": "key:ops-1", "from": NOW}])
    credential = verification._Credential(("key:ops-1",), (), legacy_0_2=False, signed_at=NOW - timedelta(seconds=1))

    verification._require_not_revoked(credential, trusted)

    for signed_at in (NOW, NOW + timedelta(days=1), None):
        with pytest.raises(Revoked):
            verification._require_not_revoked(replace(credential, signed_at=signed_at), trusted)


@pytest.mark.parametrize(
    "revoked",
    [{"identity": "email:bob@acme.example"}, {"identity": "alice@acme.example"}, {"key": signed.digest("0")}],
)
def test_another_signer_revoked_is_no_matter(revoked):
    assert verify(CHAIN_BUNDLE, chain_policy(revoked_signers=[revoked]))


@pytest.mark.parametrize("which", [0, 1], ids=["leaf", "intermediate"])
def test_step_6_refuses_a_revoked_certificate_in_another_spelling(which):
    # Once believed: (r, n-s) is as good an ECDSA signature as (r, s), has another fingerprint, and takes no key to write.
    revoked = (LEAF, CHAIN.intermediate)[which].certificate
    certificates = list(bundles.parse(CHAIN_BUNDLE).certificates)
    certificates[which] = keys.respelled(revoked)
    assert certificates[which] != der(revoked)
    raw = replaced(CHAIN_BUNDLE, certificates=tuple(certificates))

    assert verify(raw, chain_policy())
    with pytest.raises(Revoked):
        verify(raw, chain_policy(revoked_signers=[{"key": fingerprint(revoked)}]))


@pytest.mark.parametrize("curve", keys.CURVES)
def test_step_6_knows_the_twin_of_every_certificate(curve):
    issuer = keys.make_certificate(None, key=keys.make_key(curve).private_key, ca=True, digital_signature=False, purposes=None, names=None)  # fmt: skip
    order = keys.CURVES[curve].group_order
    for _ in range(8):  # signatures differ in length
        leaf = keys.make_certificate(issuer)
        twin = x509.load_der_x509_certificate(keys.respelled(leaf.certificate, order))
        twin.verify_directly_issued_by(issuer.certificate)
        raw = replaced(sign(keys.certificate_signer(leaf)), certificates=(der(twin),))

        with pytest.raises(Revoked):
            verify(raw, chain_policy(issuer, revoked_signers=[{"key": fingerprint(leaf.certificate)}]))


@pytest.mark.parametrize("which", [0, 1], ids=["leaf", "intermediate"])
@pytest.mark.parametrize("issuer_key", ["ecdsa", "rsa"])
def test_step_6_refuses_a_certificate_with_unused_bits_in_its_signature(issuer_key, which):
    # Once believed, under another fingerprint: the library ignores how many bits of the signature are unused.
    root = keys.make_certificate(None, key=keys.rsa_key() if issuer_key == "rsa" else None, ca=True, digital_signature=False, purposes=None, names=None)  # fmt: skip
    while True:
        between = keys.make_certificate(root, ca=True, digital_signature=False, purposes=None, names=None, common_name="i")  # fmt: skip
        leaf = keys.make_certificate(between)
        if (leaf, between)[which].certificate.signature[-1] & 1 == 0:
            break
    certificates = [der(leaf.certificate), der(between.certificate)]
    signature = (leaf, between)[which].certificate.signature
    certificates[which] = certificates[which].replace(b"\x00" + signature, b"\x01" + signature)
    raw = sign(keys.certificate_signer(leaf, between))

    assert verify(raw, chain_policy(root))
    with pytest.raises(SignatureInvalid, match="is not DER"):
        verify(replaced(raw, certificates=tuple(certificates)), chain_policy(root))


def test_a_pinned_root_may_be_spelled_as_its_operator_likes():
    # Below the root only DER counts; the root's bytes come from the trust policy, and nobody else can respell those.
    while (root := keys.make_certificate(None, ca=True, digital_signature=False, purposes=None, names=None)) and (
        root.certificate.signature[-1] & 1
    ):
        pass
    between = keys.make_certificate(root, ca=True, digital_signature=False, purposes=None, names=None, common_name="i")
    leaf = keys.make_certificate(between)
    signature = root.certificate.signature
    ber = der(root.certificate).replace(b"\x00" + signature, b"\x01" + signature)
    assert ber != der(root.certificate)
    pem = f"-----BEGIN CERTIFICATE-----\n{b64(ber)}\n-----END CERTIFICATE-----\n"
    raw = sign(keys.certificate_signer(leaf, between))

    assert verify(raw, chain_policy(pem))
    # The operator's own fingerprint of it revokes it, and so does its key.
    for key in (f"sha256:{hashlib.sha256(ber).hexdigest()}", key_id_of(root.certificate.public_key())):
        with pytest.raises(Revoked):
            verify(raw, chain_policy(pem, revoked_signers=[{"key": key}]))


def test_step_6_refuses_a_certificate_whose_outer_algorithm_is_spelled_otherwise():
    leaf = LEAF.certificate
    ecdsa, with_null = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300c06082a8648ce3d0403020500")
    body = leaf.tbs_certificate_bytes + with_null + keys.der_element(0x03, b"\0" + leaf.signature)
    assert ecdsa in der(leaf)
    raw = replaced(CHAIN_BUNDLE, certificates=(keys.der_element(0x30, body), der(CHAIN.intermediate.certificate)))

    with pytest.raises(SignatureInvalid):
        verify(raw, chain_policy())


def test_an_rsa_authority_is_followed_and_its_certificates_revoked():
    root = keys.make_certificate(None, key=keys.rsa_key(), ca=True, digital_signature=False, purposes=None, names=None)
    leaf = keys.make_certificate(root)
    raw = sign(keys.certificate_signer(leaf))

    assert verify(raw, chain_policy(root))
    for revoked in (leaf, root):
        with pytest.raises(Revoked):
            verify(raw, chain_policy(root, revoked_signers=[{"key": fingerprint(revoked.certificate)}]))


def test_a_pinned_leaf_and_a_pinned_intermediate_are_roots_too():
    alone = keys.make_certificate(None)
    assert verify(sign(keys.certificate_signer(alone)), chain_policy(alone))
    assert verify(CHAIN_BUNDLE, chain_policy(CHAIN.intermediate))

    crossed = keys.make_certificate(
        None, key=keys.rsa_key(), ca=True, digital_signature=False, purposes=None, names=None
    )
    pinned = keys.make_certificate(
        crossed, ca=True, digital_signature=False, purposes=None, names=None, common_name="p"
    )
    assert verify(sign(keys.certificate_signer(keys.make_certificate(pinned))), chain_policy(pinned))


def test_step_6_refuses_a_signer_one_authority_revokes_though_another_would_allow():
    trusted = policy(
        certificate_authority("first", CHAIN),
        certificate_authority("second", CHAIN),
        allow={"first": [ALICE], "second": [ALICE]},
        revoked_signers=[{"identity": ALICE}],
    )

    with pytest.raises(Revoked):
        verify(CHAIN_BUNDLE, trusted)


# 7. Statement and manifest


def test_step_7_refuses_a_manifest_that_was_not_asked_for():
    with pytest.raises(ManifestInvalid, match="asked for was") as caught:
        verify(KEY_BUNDLE, key_policy(), artifact=signed.digest("0"))

    assert caught.value.facts == {"expected": str(signed.digest("0")), "measured": str(MANIFEST.digest)}


def test_step_7_refuses_another_manifest_under_a_good_signature():
    other = manifests.build([replace(MANIFEST.files[0], sha256="0" * 64), *MANIFEST.files[1:]])

    for artifact in (None, other.digest):
        with pytest.raises(SignatureInvalid, match="of the artifact"):
            verify(KEY_BUNDLE, key_policy(), raw_manifest=other.raw, artifact=artifact)


@pytest.mark.parametrize("field", ["path", "size", "sha256", "blake3"])
def test_step_7_refuses_a_manifest_that_differs_in(field):
    value = {"path": "other.json", "size": 3, "sha256": "0" * 64, "blake3": "1" * 64}[field]
    first, *rest = MANIFEST.files
    other = manifests.build([replace(first, **{field: value}), *rest])

    with pytest.raises(SignatureInvalid, match="of the artifact"):
        verify(KEY_BUNDLE, key_policy(), raw_manifest=other.raw, artifact=None)
    with pytest.raises(ManifestInvalid, match="asked for was"):
        verify(KEY_BUNDLE, key_policy(), raw_manifest=other.raw)


def test_step_7_refuses_a_root_digest_that_is_not_that_of_the_resources():
    payload = changed_payload(lambda it: it["predicate"]["resources"][0].update(digest="0" * 64))

    with pytest.raises(SignatureInvalid, match="subject's digest"):
        verify(sign(OPS, payload), key_policy())


def test_step_7_refuses_a_digest_of_the_other_algorithm():
    with pytest.raises(ManifestInvalid, match="asked for was"):
        verify(KEY_BUNDLE, key_policy(), artifact=Digest("blake3", MANIFEST.digest.hex))


@pytest.mark.parametrize("raw_manifest", [b"", b"{}", MANIFEST.raw + b"\n", MANIFEST.raw[:-1]])
def test_step_7_refuses_other_bytes_before_it_parses_them(raw_manifest, monkeypatch):
    monkeypatch.setattr(manifests, "parse", lambda raw: pytest.fail("parsed"))

    with pytest.raises(ManifestInvalid, match="asked for was"):
        verify(KEY_BUNDLE, key_policy(), raw_manifest=raw_manifest)
    with pytest.raises(SignatureInvalid, match="of the artifact"):
        verify(KEY_BUNDLE, key_policy(), raw_manifest=raw_manifest, artifact=None)


def test_step_7_refuses_signed_bytes_that_are_no_manifest():
    raw = MANIFEST.raw + b"\n"
    payload = changed_payload(
        lambda it: it["subject"][0].update(annotations={"artifact": "sha256:" + hashlib.sha256(raw).hexdigest()})
    )

    with pytest.raises(ManifestInvalid, match="canonical"):
        verify(sign(OPS, payload), key_policy(), raw_manifest=raw, artifact=None)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("another name", lambda it: it[0].update(name="config2.json")),
        ("another SHA-256", lambda it: it[0].update(digest="0" * 64)),
        ("another size", lambda it: it[0]["annotations"].update(size=3)),
        ("another BLAKE3", lambda it: it[0]["annotations"].update(blake3="0" * 64)),
        ("no size", lambda it: it[0]["annotations"].pop("size")),
        ("no BLAKE3", lambda it: it[0]["annotations"].pop("blake3")),
        ("no annotations", lambda it: it[0].pop("annotations")),
        ("a file less", lambda it: it.pop()),
        ("a file more", lambda it: it.append({**it[0], "name": "extra.py"})),
        ("two digests exchanged", lambda it: (it[0].update(digest=it[1]["digest"]), it[1].update(digest="a" * 64))),
    ],
)
def test_step_7_refuses_a_statement_with(name, change):
    with pytest.raises(SignatureInvalid, match="differ at"):
        verify(sign(OPS, changed_payload(_with_root(change))), key_policy())


@pytest.mark.parametrize(
    "annotations", [{}, {"artifact": str(signed.digest("0"))}, {"artifact": f"blake3:{MANIFEST.digest.hex}"}], ids=str
)
def test_step_7_refuses_a_statement_of_another_artifact(annotations):
    payload = changed_payload(lambda it: it["subject"][0].update(annotations=annotations))

    with pytest.raises(SignatureInvalid, match="of the artifact"):
        verify(sign(OPS, payload), key_policy())


def test_the_order_of_signed_files_does_not_matter():
    assert verify(sign(OPS, changed_payload(_with_root(list.reverse))), key_policy())


# 9. Bytes (the rest in test_hashing)


def test_step_9_refuses_an_unsigned_file_that_signed_ignore_paths_hide(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    manifest = manifests.build(hash_tree(tmp_path))
    payload = changed_payload(
        lambda it: it["predicate"]["serialization"].update(ignore_paths=["evil.py", "."]),
        statements.build("m", manifest),
    )
    (tmp_path / "evil.py").write_bytes(b"import os")

    verified = verify(sign(OPS, payload), key_policy(), raw_manifest=manifest.raw, artifact=manifest.digest)

    with pytest.raises(DigestMismatch, match=r"evil\.py: not part of the artifact"):
        check_files(tmp_path, verified.manifest.files)


# Several bundles


def verify_any(raw_bundles, trusted, **changes):
    arguments = {"policy": trusted, "repository": REPOSITORY, "now": NOW, "artifact": MANIFEST.digest, **changes}
    return verification.verify_any(raw_bundles, MANIFEST.raw, **arguments)


def test_no_bundle_at_all_is_a_missing_signature():
    with pytest.raises(SignatureMissing, match="has no signature"):
        verify_any([], key_policy())


def test_one_bundle_that_holds_is_enough():
    assert verify_any([b"junk", sign(OTHER), KEY_BUNDLE], key_policy()).raw_bundle == KEY_BUNDLE


def test_none_that_holds_raises_the_first_refusal_and_tells_all():
    with pytest.raises(SignatureInvalid, match="not JSON") as caught:
        verify_any([b"junk", sign(OTHER), CHAIN_BUNDLE], key_policy())

    assert len(caught.value.facts["refusals"]) == 3
    assert caught.value.facts["refusals"][1].startswith("signature-invalid: the bundle was not made with a key")


def test_a_second_signature_does_not_bring_back_a_revoked_artifact():
    with pytest.raises(Revoked):
        verify_any([KEY_BUNDLE, CHAIN_BUNDLE], both_policy(revoked_artifacts=[MANIFEST.digest]))


def test_an_artifact_signed_again_by_somebody_else_survives_the_revocation_of_its_first_signer():
    trusted = both_policy(revoked_signers=[{"identity": "key:ops-1"}])

    for bundles_in_any_order in ([KEY_BUNDLE, CHAIN_BUNDLE], [CHAIN_BUNDLE, KEY_BUNDLE]):
        assert verify_any(bundles_in_any_order, trusted).signer.identity == ALICE
    with pytest.raises(Revoked, match="key:ops-1"):
        verify_any([KEY_BUNDLE], trusted)


def test_the_bundle_of_a_revoked_artifact_does_not_refuse_the_artifact_it_is_laid_beside():
    # Once: whoever could add a bundle could refuse any artifact with a genuine signature of a revoked one.
    other = manifests.build([manifests.FileEntry("evil.bin", 2, "a" * 64, "b" * 64)])
    stray = sign(OPS, statements.build("other", other))
    trusted = both_policy(revoked_artifacts=[other.digest])

    for bundles_in_any_order in ([stray, KEY_BUNDLE], [KEY_BUNDLE, stray]):
        assert verify_any(bundles_in_any_order, trusted).raw_bundle == KEY_BUNDLE
    with pytest.raises(Revoked, match=str(other.digest)):
        verify_any([stray], trusted)


# Any bytes


@pytest.mark.parametrize("raw", [KEY_BUNDLE, CHAIN_BUNDLE], ids=["key", "certificate"])
def test_a_damaged_bundle_never_gives_anything_but_the_signed_manifest(raw):
    trusted = both_policy()
    for damaged in mutations(raw, 400):
        try:
            verified = verify(damaged, trusted)
        except ModelregError:
            continue
        assert (verified.manifest, bundles.parse(damaged).payload) == (MANIFEST, PAYLOAD)


@pytest.mark.filterwarnings("ignore")  # odd serial numbers and names are warnings of the library, not ours
@pytest.mark.parametrize("position", [0, 1], ids=["leaf", "intermediate"])
def test_a_damaged_certificate_gives_a_refusal(position):
    trusted = chain_policy()
    certificates = list(bundles.parse(CHAIN_BUNDLE).certificates)
    for damaged in mutations(certificates[position], 400):
        chain = [*certificates]
        chain[position] = damaged
        if damaged == certificates[position]:
            continue
        raw = json.dumps(
            {**json.loads(CHAIN_BUNDLE), "verificationMaterial": {"x509CertificateChain": {"certificates": [{"rawBytes": b64(der_)} for der_ in chain]}}}
        ).encode()  # fmt: skip
        with pytest.raises(SignatureInvalid):
            verify(raw, trusted)


def test_a_damaged_payload_under_a_good_signature_gives_a_refusal():
    trusted = key_policy()
    for damaged in mutations(PAYLOAD):
        if damaged != PAYLOAD:
            assert_value_or_refusal(lambda raw: verify(sign(OPS, raw or b"x"), trusted), damaged)


# What verified means


def test_verified_values_are_made_in_verification_only():
    packages = [Path(bundles.__file__).parent, Path(bundles.__file__).parents[2] / "registry" / "modelreg_server"]
    made = set()
    for path in (path for package in packages for path in package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in {"VerifiedManifest", "VerifiedStatement"}:
                    made.add((path.name, name))

    assert made == {("verification.py", "VerifiedManifest"), ("verification.py", "VerifiedStatement")}
