"""Statements about artifacts: who may say what, about what, and that no part of one can be changed or taken for another."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import attestations, bundles, checkpoints, notes, signing, statements, verification
from modelreg.attestations import Kind
from modelreg.errors import (
    Misconfigured,
    Revoked,
    SignatureInvalid,
    SignerNotAllowed,
    StaleTrust,
)
from modelreg.trust import ATTESTABLE, LogTrust
from support import keys
from support.keys import NOW
from support.policies import certificate_authority, key_authority, policy, rule
from support.signed import MANIFEST, PAYLOAD, REPOSITORY, changed_bundle, changed_payload, digest, replaced

TRAINER, APPROVER, STRANGER = keys.make_key(), keys.make_key("p384"), keys.make_key()
CHAIN = keys.make_chain()
OPS = key_authority("ops", {"trainer": TRAINER, "approver": APPROVER})
SIGNS = rule(["acme/*"], {"ops": ["key:trainer"]})
APPROVES = rule(["acme/*"], {"ops": ["key:approver"]}, attests=["approval", "waiver", "declassification", "scan"])
POLICY = policy(OPS, rules=[SIGNS, APPROVES])
SUBJECT = MANIFEST.digest
PREDICATE = {"environment": "production", "artifact": str(SUBJECT)}
ORIGIN = "registry.test/log"
LOG_KEY = Ed25519PrivateKey.generate()
LOG = LogTrust(ORIGIN, (notes.key_of(ORIGIN, notes.ED25519, LOG_KEY.public_key()),))
PEOPLES = [kind for kind in Kind if kind.value in ATTESTABLE]


def statement(kind=Kind.PROVENANCE, subject=SUBJECT, predicate=PREDICATE, **more):
    return attestations.build(kind, REPOSITORY, subject, predicate, **more)


def signed(kind=Kind.PROVENANCE, signer=TRAINER, **more):
    return signing.sign(statement(kind, **more), signer)


def by_registry(kind=Kind.VERDICT, key=LOG_KEY, origin=ORIGIN, **more):
    return attestations.sign_as_registry(statement(kind, **more), key, origin)


def verify(raw_bundle, trusted=POLICY, **more):
    return attestations.verify(
        raw_bundle, policy=trusted, now=NOW, **{"repository": REPOSITORY, "subject": SUBJECT, **more}
    )


def verify_registrys(raw_bundle, kind=Kind.VERDICT, log=LOG, **more):
    return attestations.verify_registrys(
        raw_bundle, log=log, repository=REPOSITORY, now=NOW, kind=kind, **{"subject": SUBJECT, **more}
    )


# What is read


def test_a_statement_is_read_as_it_was_built_with_every_subject_and_its_digest():
    payload = statement(also=[("oms-root", digest("a"))])

    read = attestations.parse(payload)

    assert (read.kind, read.name, read.subjects) == (Kind.PROVENANCE, REPOSITORY, (SUBJECT, digest("a")))
    assert (read.predicate, read.payload) == (PREDICATE, payload)
    assert str(read.digest).startswith("sha256:")


def test_every_kind_has_a_predicate_type_of_its_own_and_the_policys_words_are_those_of_people():
    assert set(attestations.PREDICATE_TYPES) == set(Kind)
    assert len(set(attestations.PREDICATE_TYPES.values())) == len(Kind)
    assert {kind.value for kind in Kind} - ATTESTABLE == {"verdict", "permit"}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("subject"),
        lambda s: s.pop("predicate"),
        lambda s: s.update(extra=1),
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda s: s.update(predicateType="https://slsa.dev/provenance/v0.2"),
        lambda s: s.update(predicateType=["https://slsa.dev/provenance/v1"]),
        lambda s: s.update(predicateType=statements.OMS_PREDICATE),
        lambda s: s.update(predicate=[]),
        lambda s: s.update(predicate=None),
        lambda s: s.update(subject=[]),
        lambda s: s.update(subject={}),
        lambda s: s.update(subject=[None]),
        lambda s: s.update(subject=s["subject"] * 9),
        lambda s: s["subject"][0].pop("name"),
        lambda s: s["subject"][0].update(name=7),
        lambda s: s["subject"][0].pop("digest"),
        lambda s: s["subject"][0].update(digest={"sha512": "a" * 128}),
        lambda s: s["subject"][0].update(digest={"sha256": "A" * 64}),
        lambda s: s["subject"][0].update(digest={"sha256": "a" * 63}),
        lambda s: s["subject"][0].update(digest="a" * 64),
        lambda s: s["subject"].append({"name": "x", "digest": {}}),
    ],
)
def test_a_statement_of_another_shape_is_refused_also_where_its_signature_is_good(change):
    payload = changed_payload(change, statement())

    with pytest.raises(SignatureInvalid):
        attestations.parse(payload)
    with pytest.raises(SignatureInvalid):
        verify(signing.sign(payload, TRAINER))


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'{"_type":1,"_type":2}', b"\xff", b"[" * 100_000, b'{"_type": NaN}']
)
def test_what_is_no_statement_is_refused(raw):
    with pytest.raises(SignatureInvalid):
        attestations.parse(raw)


# By people


@pytest.mark.parametrize("kind", PEOPLES)
def test_people_state_what_the_policy_lets_them_and_the_answer_says_who(kind):
    signer = TRAINER if kind in {Kind.PROVENANCE, Kind.DATASET, Kind.SOURCE_CHECK} else APPROVER

    found = verify(signed(kind, signer), kind=kind)

    assert found.attestation.kind is kind
    assert found.signer.identity == ("key:trainer" if signer is TRAINER else "key:approver")
    assert (found.repository, found.verified_at) == (REPOSITORY, NOW)


@pytest.mark.parametrize(
    "kind", [kind for kind in PEOPLES if kind not in {Kind.PROVENANCE, Kind.DATASET, Kind.SOURCE_CHECK}]
)
def test_who_signs_artifacts_may_not_for_that_approve_waive_declassify_or_scan(kind):
    with pytest.raises(SignerNotAllowed, match="allows key:approver"):
        verify(signed(kind, TRAINER))
    only_artifacts = policy(OPS, rules=[SIGNS])
    with pytest.raises(SignerNotAllowed, match=f'attests = ."{kind}".'):
        verify(signed(kind, TRAINER), only_artifacts)


def test_who_approves_may_not_for_that_sign_artifacts_or_say_where_they_come_from():
    with pytest.raises(SignerNotAllowed):
        verify(signed(Kind.PROVENANCE, APPROVER))
    with pytest.raises(SignerNotAllowed):
        verification.verify(
            signing.sign(PAYLOAD, APPROVER), MANIFEST.raw, policy=POLICY, repository=REPOSITORY, now=NOW
        )


def test_a_rule_for_provenance_takes_the_place_of_the_artifacts_rule():
    strict = policy(OPS, rules=[SIGNS, rule(["acme/*"], {"ops": ["key:approver"]}, attests=["provenance"])])

    assert verify(signed(Kind.PROVENANCE, APPROVER), strict).signer.identity == "key:approver"
    with pytest.raises(SignerNotAllowed):
        verify(signed(Kind.PROVENANCE, TRAINER), strict)
    assert verify(signed(Kind.DATASET, TRAINER), strict).signer.identity == "key:trainer"


def test_the_first_rule_that_names_kind_and_repository_decides():
    ordered = policy(
        OPS,
        rules=[
            rule(["acme/open"], {"ops": ["key:trainer"]}, attests=["approval"]),
            rule(["acme/*"], {"ops": ["key:approver"]}, attests=["waiver"]),
            rule(["acme/*"], {"ops": ["key:approver"]}, attests=["approval"]),
            SIGNS,
        ],
    )

    assert verify(signed(Kind.APPROVAL, TRAINER), ordered, repository="acme/open")
    with pytest.raises(SignerNotAllowed):
        verify(signed(Kind.APPROVAL, TRAINER), ordered)
    with pytest.raises(SignerNotAllowed):
        verify(signed(Kind.APPROVAL, APPROVER), ordered, repository="acme/open")


def test_rules_about_statements_let_nobody_sign_artifacts():
    statements_only = policy(OPS, rules=[APPROVES])

    assert statements_only.allowed_for(REPOSITORY) == ()
    for kind in ATTESTABLE - {"approval", "waiver", "declassification", "scan"}:
        assert statements_only.allowed_to_attest(kind, REPOSITORY) == ()


def test_a_repository_that_no_rule_names_has_no_statements():
    for kind, signer in ((Kind.PROVENANCE, TRAINER), (Kind.APPROVAL, APPROVER)):
        with pytest.raises(SignerNotAllowed, match="lets anybody state"):
            verify(signed(kind, signer), repository="other/llama")


@pytest.mark.parametrize("attests", ['["verdict"]', '["permit"]', '["artifact"]', "[]", '"approval"', "[7]"])
def test_a_rule_attests_known_kinds_and_never_what_only_registries_state(attests):
    text = rule(["acme/*"], {"ops": ["key:trainer"]}, attests=["approval"]).replace('["approval"]', attests)

    with pytest.raises(Misconfigured, match="attests"):
        policy(OPS, rules=[SIGNS, text])


@pytest.mark.parametrize("kind", [Kind.VERDICT, Kind.PERMIT])
def test_nobody_but_the_registry_gives_a_verdict_or_a_permit(kind):
    for signer in (TRAINER, APPROVER):
        with pytest.raises(SignerNotAllowed, match="only the registry"):
            verify(signed(kind, signer))


def test_a_statement_about_something_else_or_of_another_kind_is_refused():
    with pytest.raises(SignatureInvalid, match="is about"):
        verify(signed(subject=digest("b")))
    with pytest.raises(SignatureInvalid, match="is about"):  # the first subject decides
        verify(signed(subject=digest("b"), also=[("again", SUBJECT)]))
    with pytest.raises(SignatureInvalid, match="not a scan"):
        verify(signed(), kind=Kind.SCAN)
    assert verify(signed(subject=digest("b")), subject=None).attestation.subjects == (digest("b"),)


def test_a_stale_policy_a_revoked_signer_and_a_stranger_are_refused():
    with pytest.raises(StaleTrust):
        verify(signed(), policy(OPS, rules=[SIGNS], max_age_seconds=60))
    with pytest.raises(Revoked):
        verify(signed(), policy(OPS, rules=[SIGNS], revoked_signers=[{"identity": "key:trainer"}]))
    with pytest.raises(SignatureInvalid, match="not made with a key"):
        verify(signed(signer=STRANGER))


def test_a_certificate_signs_statements_as_it_signs_artifacts():
    leaf = keys.make_certificate(CHAIN.intermediate)
    trusted = policy(
        certificate_authority("pki", CHAIN), rules=[rule(["acme/*"], {"pki": [keys.ALICE]}, attests=["approval"])]
    )
    signer = keys.certificate_signer(leaf, CHAIN.intermediate)

    assert verify(signed(Kind.APPROVAL, signer), trusted).signer.identity == keys.ALICE
    with pytest.raises(SignatureInvalid):
        verify(
            signed(Kind.APPROVAL, keys.certificate_signer(keys.expired_leaf(CHAIN.intermediate), CHAIN.intermediate)),
            trusted,
        )


def test_leave_for_old_artifact_signatures_is_none_for_statements():
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    lenient = policy(key_authority("ops", {"trainer": TRAINER}, legacy=True), rules=[SIGNS])
    payload = statement()
    old = f"DSSEV1 {len(bundles.PAYLOAD_TYPE)} {bundles.PAYLOAD_TYPE} {len(payload)} {payload!r}".encode()
    signature = TRAINER.private_key.sign(old, ec.ECDSA(hashes.SHA256()))

    with pytest.raises(SignatureInvalid, match="signs no statements"):
        verify(replaced(signed(), signature=signature), lenient)


# Tampering


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["subject"][0].update(name="acme/other"),
        lambda s: s["subject"][0]["digest"].update(sha256="b" * 64),
        lambda s: s["subject"].append({"name": "x", "digest": {"sha256": "b" * 64}}),
        lambda s: s["predicate"].update(environment="staging"),
        lambda s: s["predicate"].pop("artifact"),
        lambda s: s.update(predicateType=attestations.PREDICATE_TYPES[Kind.DATASET]),
    ],
    ids=["name", "digest", "subject", "predicate", "member", "kind"],
)
@pytest.mark.parametrize("whose", ["people", "registry"])
def test_no_part_of_a_signed_statement_can_be_changed(change, whose):
    raw = signed() if whose == "people" else by_registry(Kind.SCAN)
    payload = changed_payload(change, bundles.parse(raw).payload)
    tampered = replaced(raw, payload=payload)

    with pytest.raises(SignatureInvalid):
        verify(tampered, subject=None) if whose == "people" else verify_registrys(tampered, Kind.SCAN, subject=None)


@pytest.mark.parametrize("whose", ["people", "registry"])
def test_every_bit_of_the_payload_counts(whose):
    raw = signed() if whose == "people" else by_registry(Kind.SCAN)
    payload = bundles.parse(raw).payload
    for at in range(0, len(payload), 7):
        changed = bytearray(payload)
        changed[at] ^= 1
        with pytest.raises(SignatureInvalid):
            tampered = replaced(raw, payload=bytes(changed))
            verify(tampered, subject=None) if whose == "people" else verify_registrys(tampered, Kind.SCAN, subject=None)


def test_a_signature_of_another_statement_or_a_second_one_beside_it_is_refused():
    other = bundles.parse(signed(subject=digest("b"))).signature
    with pytest.raises(SignatureInvalid):
        verify(replaced(signed(), signature=other))

    def twice(members):
        members["dsseEnvelope"]["signatures"] *= 2

    for raw, check in ((signed(), verify), (by_registry(), verify_registrys)):
        with pytest.raises(SignatureInvalid, match="exactly one"):
            check(changed_bundle(raw, twice))


def test_a_bundle_beyond_the_limit_is_not_even_parsed(monkeypatch):
    monkeypatch.setattr(attestations, "MAX_BUNDLE_BYTES", 100)

    for raw, check in ((signed(), verify), (by_registry(), verify_registrys)):
        with pytest.raises(SignatureInvalid, match="the limit is 100"):
            check(raw)


# What an artifact's signature is, a statement is not


def test_an_artifacts_signature_is_no_statement_and_a_statement_signs_no_artifact():
    with pytest.raises(SignatureInvalid, match="predicate type"):
        verify(signing.sign(PAYLOAD, TRAINER))
    with pytest.raises(SignatureInvalid):
        verification.verify(signed(), MANIFEST.raw, policy=POLICY, repository=REPOSITORY, now=NOW)


# By the registry


@pytest.mark.parametrize("kind", sorted(attestations.REGISTRYS))
def test_the_registry_states_scans_verdicts_and_permits_with_the_pinned_key_of_its_log(kind):
    found = verify_registrys(by_registry(kind), kind)

    assert found.attestation.kind is kind
    assert (found.signer.authority, found.signer.identity) == (attestations.REGISTRY, f"key:{ORIGIN}")


@pytest.mark.parametrize("kind", sorted(set(Kind) - attestations.REGISTRYS))
def test_what_people_state_the_registry_does_not_even_with_its_own_key(kind):
    with pytest.raises(SignerNotAllowed, match="not the registry's to state"):
        verify_registrys(by_registry(kind), kind)


def test_another_log_key_another_origin_and_another_kind_are_refused():
    with pytest.raises(SignerNotAllowed, match="pinned key"):
        verify_registrys(by_registry(key=Ed25519PrivateKey.generate()))
    with pytest.raises(SignerNotAllowed, match="pinned key"):
        verify_registrys(by_registry(origin="other.test/log"))
    with pytest.raises(SignatureInvalid, match="not a permit"):
        verify_registrys(by_registry(), Kind.PERMIT)
    with pytest.raises(SignatureInvalid, match="is about"):
        verify_registrys(by_registry(subject=digest("b")))


def test_a_strangers_signature_under_the_pinned_hint_is_refused():
    stranger = Ed25519PrivateKey.generate()
    borrowed = replaced(by_registry(key=stranger), hint=attestations.hint_of(LOG.keys[0]))

    with pytest.raises(SignatureInvalid, match="does not hold"):
        verify_registrys(borrowed)


def test_what_people_sign_is_never_the_registrys_and_the_registrys_never_peoples():
    named_like_the_log = replaced(signed(Kind.SCAN, APPROVER), hint=attestations.hint_of(LOG.keys[0]))
    with pytest.raises(SignatureInvalid):
        verify_registrys(named_like_the_log, Kind.SCAN)
    with pytest.raises(SignerNotAllowed):
        verify_registrys(signed(Kind.SCAN, APPROVER), Kind.SCAN)
    with pytest.raises(SignatureInvalid):
        verify(by_registry(Kind.SCAN))
    with pytest.raises(SignatureInvalid):
        verify(replaced(by_registry(Kind.SCAN), hint=bundles.parse(signed(Kind.SCAN, APPROVER)).hint))


def test_a_checkpoint_of_the_log_is_no_statement_and_a_statement_no_checkpoint():
    note = checkpoints.sign(ORIGIN, 1, b"\0" * 32, LOG_KEY)
    text = note.rpartition(b"\n\n")[0] + b"\n"
    raw_signature = base64.b64decode(note.rstrip(b"\n").rsplit(b" ", 1)[1])[4:]

    assert not bundles.pae(text).startswith(text[:8])
    forged = bundles.serialise(
        bundles.Bundle("publicKey", statement(Kind.VERDICT), raw_signature, hint=attestations.hint_of(LOG.keys[0]))
    )
    with pytest.raises(SignatureInvalid):
        verify_registrys(forged)


def test_a_rotated_log_key_verifies_while_both_are_pinned():
    new = Ed25519PrivateKey.generate()
    both = LogTrust(ORIGIN, (*LOG.keys, notes.key_of(ORIGIN, notes.ED25519, new.public_key())))

    assert verify_registrys(by_registry(), log=both)
    assert verify_registrys(by_registry(key=new), log=both)


def test_statements_are_canonical_json():
    members = json.loads(statement())

    assert statement() == json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
