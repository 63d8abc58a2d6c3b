"""Promotion on both databases, with real signers: granted, refused, withdrawn, and decided again."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from modelreg import attestations, permits, promoting, signing, verdicts, wire, wire_attestations
from modelreg import wire_promotions as models
from modelreg.approvals import Approval
from modelreg.attestations import Kind
from modelreg.errors import (
    Forbidden,
    Misconfigured,
    ModelregError,
    NotFound,
    PolicyRefused,
    Quarantined,
    SignatureInvalid,
    SignerNotAllowed,
    StaleTrust,
)
from modelreg_server import custody, log_references, promotion, promotion_replay
from support.hosts import enrol, grant, token_without_scopes
from support.promotions import POLICY, blocking, outcome, promoting_registry


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request, tmp_path_factory):
    settings = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres").make_database("promotion")
    with promoting_registry(tmp_path_factory.mktemp("registry"), **settings) as world:
        yield world


@pytest.fixture
def world(shared):
    """The shared registry, as it was: its policies and its clock."""
    trusted, policy = shared.registry.trust.policy_path.read_text(), shared.policy_path.read_text()
    yield shared
    shared.clock.ahead = timedelta()
    shared.registry.trust.policy_path.write_text(trusted)
    shared.policy_path.write_text(policy)


def refused_grant(world, artifact, environment="production", **more):
    with pytest.raises(PolicyRefused) as refused:
        world.grant(artifact, environment, **more)
    assert refused.value.exit_code == 22
    return refused.value


def permit_of(world, answer, artifact, *, now=None, environment="production", **more):
    return permits.verify(
        answer.permit.encode(), world.log, artifact=artifact, repository="demo/m", environment=environment,
        host="gpu-1", now=now or world.clock(), grant=answer.id, **more,
    )  # fmt: skip


# Granting.


def test_two_people_who_neither_published_nor_signed_it_let_it_serve(world):
    _, chat = world.chat()
    first = world.promote(chat)
    assert not first.decision.allowed
    assert blocking(first) == {"approvals"}
    world.approve(chat, "bo")
    second = world.promote(chat)
    assert "1 of 2" in outcome(second, "approvals").reason
    world.approve(chat, "cy")

    granted = world.promote(chat)

    assert granted.decision.allowed, granted.decision
    assert granted.info.state == "live"
    assert granted.verdict.statement == verdicts.Digest.parse(granted.info.verdict)
    told = world.events(chat)
    assert [event.type for event in told] == ["promotion.refused", "promotion.refused", "promotion.granted"]
    assert told[0].detail["rules"] == ["approvals"]
    assert told[2].detail["environment"] == "production"
    assert told[2].detail["verdict"] == granted.info.verdict
    assert told[2].detail["facts"] == str(granted.facts.digest)


def test_the_verdict_is_a_vsa_that_names_policy_facts_decision_and_every_statement(world):
    _, chat = world.approved()
    answer = world.admin.promote("demo/m", chat, models.PromotionRequest(environment="production"))
    verified = attestations.verify_registrys(
        answer.verdict.encode(), log=world.log, repository="demo/m", now=world.clock(), kind=Kind.VERDICT, subject=chat
    )
    said = verified.attestation.predicate
    assert said["verificationResult"] == "PASSED"
    assert said["verifiedLevels"] == ["MODELREG_PROMOTED_TO_PRODUCTION"]
    assert said["resourceUri"] == f"modelreg:demo/m@{chat}"
    assert f"sha256:{said['policy']['digest']['sha256']}" == answer.info.policy
    facts = json.loads(answer.facts)
    named = {f"sha256:{item['digest']['sha256']}" for item in said["inputAttestations"]}
    used = {one["statement"] for one in (*facts["approvals"], *facts["scans"])}
    assert len(used) == 3
    assert used <= named


def test_facts_or_a_decision_that_were_changed_are_not_believed(world):
    _, chat = world.approved()
    answer = world.admin.promote("demo/m", chat, models.PromotionRequest(environment="production"))
    asked = {"artifact": chat, "repository": "demo/m", "environment": "production", "now": world.clock()}
    verdict, facts, decision = answer.verdict.encode(), answer.facts.encode(), answer.decision.encode()
    assert verdicts.verify(verdict, facts, decision, world.log, **asked).allowed
    with pytest.raises(SignatureInvalid, match="facts shown"):
        verdicts.verify(verdict, facts.replace(b"person:bo", b"person:xx"), decision, world.log, **asked)
    with pytest.raises(SignatureInvalid, match="decision shown"):
        verdicts.verify(verdict, facts, decision.replace(b'"allowed":true', b'"allowed":false'), world.log, **asked)
    with pytest.raises(SignatureInvalid, match="environment"):
        verdicts.verify(verdict, facts, decision, world.log, **{**asked, "environment": "staging"})


def test_a_dry_run_says_the_same_and_leaves_nothing_behind(world):
    _, chat = world.approved()
    size = len(world.registry.whole_log())
    dry = world.promote(chat, dry_run=True)
    assert dry.decision.allowed
    assert dry.verdict is None
    assert world.rows(chat) == []
    # Tokens of the test, nothing else.
    assert {event.type for event in world.registry.whole_log()[size:]} <= {"token.issued"}


# Who may say yes.


def test_the_publisher_cannot_approve_what_they_published(world):
    _, chat = world.chat()
    world.approve(chat, "bo")
    world.approve(chat, "al-two", by="al")  # the same principal with another certificate
    answered = world.promote(chat)
    assert blocking(answered) == {"approvals"}
    assert "they published it" in outcome(answered, "approvals").reason


def test_the_signer_cannot_approve_under_another_principal(world):
    _, chat = world.chat()
    world.approve(chat, "bo")
    world.approve(chat, "al", by="al-by-another-account")
    answered = world.promote(chat)
    assert blocking(answered) == {"approvals"}
    assert "they signed it" in outcome(answered, "approvals").reason


def test_one_person_with_two_certificates_and_two_people_with_one_are_one_approval(world):
    _, chat = world.chat()
    world.approve(chat, "bo")
    world.approve(chat, "bo-two", by="bo")
    assert blocking(world.promote(chat)) == {"approvals"}
    _, other = world.chat()
    world.approve(other, "bo")
    world.approve(other, "bo", by="cy")
    assert blocking(world.promote(other)) == {"approvals"}


def test_nobody_sends_an_approval_that_somebody_else_signed(world):
    _, chat = world.chat()
    said = Approval(chat, "production", "person:bo", world.clock())
    bundle = signing.sign(attestations.build(Kind.APPROVAL, "demo/m", chat, said.predicate), world.signer("bo"))
    sender = world.api("person:al", "approve:demo/*")
    with pytest.raises(SignatureInvalid, match="sends it themselves"):
        sender.attest("demo/m", chat, wire_attestations.AttestationRequest(bundle=bundle.decode()))
    world.approve(chat, "bo")


def test_an_approval_of_another_artifact_or_for_another_environment_does_not_count(world):
    _, chat = world.chat()
    _, other = world.chat()
    for name in ("bo", "cy"):
        world.approve(other, name)
        world.approve(chat, name, "staging")
    answered = world.promote(chat)
    assert blocking(answered) == {"approvals"}
    assert answered.facts.approvals == ()


def test_approving_takes_the_verb_and_a_trusted_signer(world):
    _, chat = world.chat()
    said = Approval(chat, "production", "person:bo", world.clock())
    payload = attestations.build(Kind.APPROVAL, "demo/m", chat, said.predicate)
    bundle = signing.sign(payload, world.signer("bo")).decode()
    with pytest.raises(Forbidden):
        world.api("person:bo", "push:demo/*", "pull:demo/*").attest(
            "demo/m", chat, wire_attestations.AttestationRequest(bundle=bundle)
        )
    path = world.registry.trust.policy_path
    path.write_text(
        path.read_text().replace('identities = ["email:*@demo.example"]', 'identities = ["email:cy@demo.example"]')
    )
    with pytest.raises(SignerNotAllowed):
        world.api("person:bo", "approve:demo/*").attest(
            "demo/m", chat, wire_attestations.AttestationRequest(bundle=bundle)
        )


def test_an_approver_who_is_revoked_does_not_count_any_more(world):
    _, chat = world.approved()
    assert world.promote(chat).decision.allowed
    assert world.grant(chat).permit
    world.revoke_signer("email:bo@demo.example")

    refusal = refused_grant(world, chat)

    assert refusal.facts["rules"] == ["approvals"]
    assert [event.type for event in world.events(chat)] == ["promotion.granted", "promotion.withdrawn"]


# Waivers.


def test_a_waiver_is_for_one_rule_one_artifact_and_one_environment(world):
    base = world.push()
    chat, other = world.push(base), world.push(base)
    for artifact in (chat, other):
        for name in ("bo", "cy"):
            world.approve(artifact, name)
    assert blocking(world.promote(chat)) == {"scan"}
    world.waive(chat, "scan", "staging")
    answered = world.promote(chat)
    assert blocking(answered) == {"scan"}
    assert "it is for staging" in outcome(answered, "scan").reason

    world.waive(chat, "scan")

    assert outcome(world.promote(chat), "scan").status == "waived"
    assert blocking(world.promote(other)) == {"scan"}


def test_a_waiver_ends_by_itself_and_takes_the_promotion_with_it(world):
    base = world.push()
    chat = world.push(base)
    for name in ("bo", "cy"):
        world.approve(chat, name)
    world.waive(chat, "scan", days=3)
    assert world.promote(chat).decision.allowed
    assert world.grant(chat).permit
    world.clock.ahead = timedelta(days=3, seconds=1)
    refusal = refused_grant(world, chat)
    assert refusal.facts["rules"] == ["scan"]
    assert "ended at" in refusal.detail


@pytest.mark.parametrize("name", ["al", "bo"])
def test_the_author_and_whoever_the_policy_does_not_name_waive_nothing(world, name):
    chat = world.push(world.push())
    for approver in ("bo", "cy"):
        world.approve(chat, approver)
    world.waive(chat, "scan", name=name)
    assert blocking(world.promote(chat)) == {"scan"}


def test_a_waiver_of_a_signer_who_is_revoked_does_not_hold(world):
    chat = world.push(world.push())
    for approver in ("bo", "cy"):
        world.approve(chat, approver)
    world.waive(chat, "scan")
    assert world.promote(chat).decision.allowed
    world.revoke_signer("email:risk@demo.example")
    answered = world.promote(chat)
    assert blocking(answered) == {"scan"}
    (waiver,) = answered.facts.waivers
    assert not waiver.valid
    assert waiver.why.startswith("revoked:")


# Scans and signatures.


def test_a_scan_ages_and_one_with_a_finding_takes_the_place_of_a_clean_one(world):
    _, chat = world.approved()
    assert world.promote(chat).decision.allowed
    world.clock.ahead = timedelta(days=31)
    assert blocking(world.promote(chat)) == {"scan"}
    world.clock.ahead = timedelta()
    world.scan(chat, {"rule": "pickle-import", "path": "weights.bin", "severity": "block", "what": "os.system"})
    answered = world.promote(chat)
    assert blocking(answered) == {"scan"}
    assert len(answered.facts.scans) == 1
    assert answered.facts.scans[0].formats[0].format == "safetensors"


def test_a_signature_whose_signer_is_revoked_is_a_fact_with_its_reason(world):
    _, chat = world.approved()
    world.revoke_signer("email:al@demo.example")
    answered = world.promote(chat)
    assert "signature" in blocking(answered)
    assert "lineage" in blocking(answered)  # the provenance is theirs too
    (signature,) = answered.facts.signatures
    assert not signature.valid
    assert signature.why.startswith("revoked:")


# Grants and permits.


def test_a_grant_for_an_environment_carries_a_permit_that_names_everything(world):
    _, chat = world.approved()
    granted = world.promote(chat)
    answer = world.grant(chat)
    permit = permit_of(world, answer, chat)
    assert permit.decision == granted.verdict.statement
    assert permit.grant == answer.id
    assert permit.expires_at - permit.issued_at == timedelta(seconds=900)
    (event,) = world.events(chat, "artifact.granted")
    assert event.detail["environment"] == "production"
    assert event.detail["verdict"] == granted.info.verdict
    assert world.grant(chat, None).permit is None
    for changed in ({"environment": "staging"}, {"verified_host": "gpu-9"}, {"now": permit.expires_at}):
        with pytest.raises((SignatureInvalid, PolicyRefused)):
            permit_of(world, answer, chat, **changed)


def test_what_was_never_promoted_there_is_not_granted_for_it(world):
    _, chat = world.approved()
    assert "is not promoted to production" in refused_grant(world, chat).detail
    assert world.promote(chat, "staging").decision.allowed
    refused_grant(world, chat)
    assert world.grant(chat, "staging").permit
    reasons = [event.detail["reason"] for event in world.events(chat, "artifact.refused")]
    assert reasons == ["policy-refused", "policy-refused"]
    assert world.grant(chat, None).id  # to pull is another question


def test_a_quarantined_base_withdraws_its_descendants_at_once_and_permits_die_within_one_lifetime(world):
    base, chat = world.approved()
    further = world.push(chat)
    world.scan(further)
    for name in ("bo", "cy"):
        world.approve(further, name)
    for artifact in (chat, further):
        assert world.promote(artifact).decision.allowed
    before = {artifact: world.grant(artifact) for artifact in (chat, further)}
    issued = world.clock()

    world.quarantine(base)

    for artifact in (chat, further):
        assert refused_grant(world, artifact).facts["rules"] == ["ancestors"]
        told = world.events(artifact)
        assert [event.type for event in told] == ["promotion.granted", "promotion.withdrawn"]
        # What is out is good for what is left of it, and not a second longer.
        assert permit_of(world, before[artifact], artifact, now=issued + timedelta(seconds=880))
        with pytest.raises(PolicyRefused, match="ended at"):
            permit_of(world, before[artifact], artifact, now=issued + timedelta(seconds=901))
    # Once: who asks again hears that it is not promoted.
    assert "is not promoted" in refused_grant(world, chat).detail
    assert len(world.events(chat)) == 2


def test_a_quarantined_artifact_is_refused_as_that_and_withdrawn_too(world):
    _, chat = world.approved()
    assert world.promote(chat).decision.allowed
    world.quarantine(chat)
    with pytest.raises(Quarantined):
        world.grant(chat)
    assert [event.type for event in world.events(chat)] == ["promotion.granted", "promotion.withdrawn"]
    assert world.events(chat)[1].detail["rules"][0] == "recall"


def test_a_withdrawal_keeps_the_decision_that_says_why(world):
    base, chat = world.approved()
    world.promote(chat)
    world.quarantine(base)
    refused_grant(world, chat)
    held, why = world.rows(chat)
    assert held.allowed
    assert held.withdrawn_at is not None
    assert (held.withdrawn_by, held.withdrawn_event_index) == ("server:promotion", why.event_index)
    assert "ancestors" in held.withdrawn_reason
    assert not why.allowed
    full = world.admin.promotion(why.id)
    assert json.loads(full.facts)["ancestors"][0]["recalled"] == "quarantine"


def test_an_ancestor_that_comes_later_counts_from_then_on(world):
    """A base gets a parent after it was promoted from: nothing about the artifact itself was recorded."""
    root, base = world.push(), world.push()
    chat = world.push(base)
    world.scan(chat)
    for name in ("bo", "cy"):
        world.approve(chat, name)
    assert world.promote(chat).decision.allowed
    world.quarantine(root)
    assert world.grant(chat).permit
    # The same bytes in another repository, with a parent that nobody named before.
    made = push_again(world, base, root)
    assert made == base
    assert refused_grant(world, chat).facts["rules"] == ["ancestors"]


def push_again(world, artifact, parent):
    found = next(folder for folder in world.folder.iterdir() if digest_of(folder) == artifact)
    data = (found / "weights.bin").read_bytes()
    return world.push(parent, repository="demo/elsewhere", data=data)


def digest_of(folder):
    from modelreg import hashing, manifests

    return manifests.build(hashing.hash_tree(folder)).digest


def test_a_stricter_policy_withdraws_and_is_an_event_once(world):
    _, chat = world.approved()
    assert world.promote(chat).decision.allowed
    world.policy_path.write_text(POLICY.replace("count = 2", "count = 3").replace("version = 1", "version = 2", 1))
    changed = len([e for e in world.registry.whole_log() if e.type == "policy.changed"])
    assert refused_grant(world, chat).facts["rules"] == ["approvals"]
    refused_grant(world, chat)
    told = [e for e in world.registry.whole_log() if e.type == "policy.changed"]
    assert len(told) == changed + 1
    assert told[-1].detail["version"] == 2
    assert told[-1].detail["before"] == told[-2].detail["policy"]


def test_trust_that_is_too_old_refuses_and_withdraws_nothing(world):
    _, chat = world.approved()
    assert world.promote(chat).decision.allowed
    path = world.registry.trust.policy_path
    text = path.read_text()
    path.write_text(text.replace(f"max_age_seconds = {365 * 86400}", "max_age_seconds = 1"))
    world.clock.ahead = timedelta(minutes=1)
    with pytest.raises(StaleTrust):
        world.grant(chat)
    with pytest.raises(StaleTrust):
        world.promote(chat, dry_run=True)
    world.clock.ahead = timedelta()
    path.write_text(text)
    assert world.grant(chat).permit
    assert [event.type for event in world.events(chat)] == ["promotion.granted"]


def test_a_policy_that_cannot_be_read_decides_nothing(world):
    _, chat = world.approved()
    assert world.promote(chat).decision.allowed
    world.policy_path.write_text("nonsense")
    with pytest.raises(Misconfigured):
        world.grant(chat)
    assert world.grant(chat, None).id
    world.policy_path.write_text(POLICY)
    assert world.grant(chat).permit


# Demotion and lists.


def test_a_demotion_withdraws_once_and_a_promotion_brings_it_back(world):
    _, chat = world.approved()
    world.promote(chat)
    world.promote(chat)
    assert {row.state for row in world.demote(chat).withdrawn} == {"withdrawn"}
    assert world.demote(chat).withdrawn == []
    refused_grant(world, chat)
    (event,) = world.events(chat, "promotion.withdrawn")
    assert event.detail["reason"] == "over"
    assert world.promote(chat).decision.allowed
    assert world.grant(chat).permit
    live = world.admin.promotions(10, artifact=str(chat), live="true")
    assert [row.state for row in live] == ["live"]
    assert len(world.admin.promotions(10, artifact=str(chat))) == 3


def test_promotions_are_listed_to_who_may_see_the_repository(world):
    _, chat = world.approved()
    made = world.promote(chat)
    reader = world.api("person:reader", "read-metadata:demo/*")
    assert reader.promotions(10, artifact=str(chat))[0].id == made.info.id
    with pytest.raises(NotFound):
        reader.promotion(made.info.id)  # the facts name people
    stranger = world.api("person:stranger", "read-metadata:other/*")
    assert stranger.promotions(10, artifact=str(chat)) == []
    assert world.api("person:auditor", "audit:demo/*").promotion(made.info.id).verdict


# Access grants for an environment.


def test_an_access_grant_for_an_environment_is_met_by_asking_for_it(world):
    _, chat = world.approved()
    world.promote(chat)
    principal = "person:runner-" + chat.hex[:8]
    grant(world.registry, principal, "pull", "demo/*", environment="production")
    api = world.registry.api(token_without_scopes(world.registry, principal))
    answer = world.grant(chat, "production", api)
    assert answer.permit
    blob = json.loads(answer.manifest)["files"][0]["blake3"]
    assert api.read_requests(answer.id, [blob])
    for environment in (None, "staging"):
        with pytest.raises(NotFound):
            world.grant(chat, environment, api)


def test_who_promotes_to_staging_does_not_promote_to_production(world):
    _, chat = world.approved()
    principal = "person:stager-" + chat.hex[:8]
    grant(world.registry, principal, "promote", "demo/*", environment="staging")
    api = world.registry.api(token_without_scopes(world.registry, principal))
    assert world.promote(chat, "staging", api=api).decision.allowed
    with pytest.raises(Forbidden, match="may not promote on demo/m for production"):
        world.promote(chat, api=api)


def test_a_permit_names_the_host_whose_key_asked(world):
    _, chat = world.approved()
    world.promote(chat)
    name = f"gpu-{chat.hex[:8]}"
    machine = enrol(world.registry, name)
    grant(world.registry, f"host:{name}", "pull", "demo/*")
    answer = world.grant(chat, "production", machine.api())
    assert permit_of(world, answer, chat, verified_host=name).verified_host == name


# At once.


def test_promotions_at_once_are_all_recorded_and_agree(world):
    _, chat = world.approved()
    apis = [world.admin for _ in range(4)]
    request = models.PromotionRequest(environment="production")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda api: api.promote("demo/m", chat, request), apis))
    assert all(json.loads(answer.decision)["allowed"] for answer in answers)
    assert len({answer.info.event for answer in answers}) == 4
    assert len(world.events(chat, "promotion.granted")) == 4
    assert len(world.demote(chat).withdrawn) == 4


def test_a_promotion_that_waited_while_its_base_was_quarantined_is_refused(world):
    """The interleaving that matters, by hand: the decision must not be older than the lock."""
    base, chat = world.approved()
    api, answers = world.admin, []
    request = models.PromotionRequest(environment="production")

    def ask():
        answers.append(api.promote("demo/m", chat, request))

    from modelreg_server import recalls
    from modelreg_server.callers import Caller
    from modelreg_server.custody import Actor
    from modelreg_server.identity import Principal

    with world.registry.parts.database.writing() as session, session.begin():
        custody.hold(session)
        waiting = threading.Thread(target=ask)
        waiting.start()
        waiting.join(1.0)
        assert waiting.is_alive(), answers
        responder = Caller(Principal("person:x", None, (), None), Actor("person:x", None), world.clock())
        named = recalls.Reached(str(base), None, None, None, 0)
        recalls._record(session, responder, named, ["demo/m"], None, recalls.QUARANTINE, "r")
    waiting.join(30)
    assert not json.loads(answers[0].decision)["allowed"]


def test_a_withdrawal_is_recorded_once_however_many_ask(world):
    base, chat = world.approved()
    world.promote(chat)
    apis = [world.admin for _ in range(6)]
    world.quarantine(base)

    def ask(api):
        try:
            world.grant(chat, "production", api)
        except ModelregError as error:
            return error.code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(ask, apis)) == {"policy-refused"}
    assert len(world.events(chat, "promotion.withdrawn")) == 1
    assert len(world.events(chat, "artifact.refused")) == 6


# Again.


def test_every_stored_decision_gives_the_same_answer_again_and_its_verdict_holds(world):
    base, chat = world.approved()
    world.promote(chat)
    world.quarantine(base)
    refused_grant(world, chat)
    with world.registry.parts.database.reading() as session:
        found = list(promotion_replay.stored(session))
        assert len(found) >= 2
        for row, raw_policy in found:
            assert promotion_replay.difference(row, raw_policy) is None
            assert promotion_replay.verdict_difference(row, world.log) is None


def test_a_stored_decision_that_was_changed_is_found(world):
    _, chat = world.approved()
    world.promote(chat)
    with world.registry.parts.database.reading() as session:
        row, raw_policy = next(
            found for found in promotion_replay.stored(session) if found[0].artifact_digest == str(chat)
        )
    assert promotion_replay.difference(row, raw_policy) is None
    facts, decision = row.facts, row.decision
    row.facts = facts.replace(b"person:bo", b"person:al")
    assert promotion_replay.difference(row, raw_policy).startswith("approvals was pass")
    assert "facts shown" in promotion_replay.verdict_difference(row, world.log)
    row.facts, row.decision = facts, decision.replace(b'"allowed":true', b'"allowed":false')
    assert (
        promotion_replay.difference(row, raw_policy)
        == "the decision was refused with 12 rules, and is allowed with 12 rules"
    )
    row.decision = decision
    assert promotion_replay.difference(row, raw_policy + b"\n").startswith("the policy's bytes")


def test_the_log_and_the_decisions_agree_and_a_row_that_was_brought_back_does_not(world):
    _, chat = world.approved()
    world.promote(chat)
    world.demote(chat)
    with world.registry.parts.database.reading() as session:
        assert list(log_references._promotions(session)) == []
    with world.registry.parts.database.writing() as session, session.begin():
        row = session.get(promotion.PromotionDecision, world.rows(chat)[0].id)
        kept = row.withdrawn_at
        row.withdrawn_at = None
        session.add(row)
    with world.registry.parts.database.reading() as session:
        ((index, what),) = log_references._promotions(session)
    assert index == world.events(chat, "promotion.withdrawn")[0].index
    assert f"event {index} ends it" in what
    with world.registry.parts.database.writing() as session, session.begin():
        row = session.get(promotion.PromotionDecision, world.rows(chat)[0].id)
        row.withdrawn_at = kept
        session.add(row)


def test_an_environment_that_the_policy_does_not_have_is_named_as_that(world):
    _, chat = world.approved()
    with pytest.raises(NotFound, match="it has production, staging"):
        world.promote(chat, "prodution")
    with pytest.raises(NotFound):
        world.promote(type(chat)("sha256", "0" * 64))


def test_a_registry_without_a_policy_promotes_nothing(own_registry, publishing_to):
    artifact = publishing_to(own_registry).push({"a": b"x"}).manifest.digest
    with pytest.raises(Misconfigured, match="MODELREG_PROMOTION_POLICY"):
        own_registry.api().promote("demo/m", artifact, models.PromotionRequest(environment="production"))
    request = wire.GrantRequest(artifact=str(artifact), purpose="launch", host="h", environment="production")
    with pytest.raises(Misconfigured):
        own_registry.api().request_grant("demo/m", request)


def test_an_old_answer_of_the_registry_is_not_taken_for_a_new_one(world):
    _, chat = world.approved()
    with pytest.raises(SignatureInvalid, match="an old answer"):
        promoting.ask(
            world.admin, world.registry.trust.policy, "demo/m", chat, "production", dry_run=False,
            now=lambda: world.clock() + timedelta(minutes=6),
        )  # fmt: skip
