"""Statements over HTTP: who may send which, what is recorded, and that the record agrees with the log."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from modelreg import approvals, attestations, pki, push, signing, wire
from modelreg.attestations import Kind
from modelreg.digests import Digest
from modelreg.errors import Conflict, Forbidden, Invalid, NotFound, SignatureInvalid, SignerNotAllowed
from modelreg.references import parse_reference
from modelreg.wire_attestations import AttestationRequest
from modelreg_server import attestations as operations
from modelreg_server import log_references
from modelreg_server.custody import CustodyEvent
from modelreg_server.tables import AttestationRow
from support.registry import QUIET, running_registry

APPROVERS = ["email:riko@demo.example", "email:sam@demo.example"]
RULE = """
[[rules]]
repositories = ["demo/*"]
attests = ["approval", "waiver", "declassification", "scan"]
allow = [{authority = "pki", identities = ["email:riko@demo.example", "email:sam@demo.example"]}]
"""


def with_rules(trusted):
    """The test policy, and people who approve."""
    text = trusted.policy_path.read_text()
    authority = text.split("[authorities.", 1)[1].split("]", 1)[0]
    head, mark, rest = text.partition("[revocations]")
    return head + RULE.replace('"pki"', f'"{authority}"') + "\n" + mark + rest


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with running_registry(tmp_path_factory.mktemp("registry"), policy=with_rules) as running:
        yield running


def signer_of(registry, identity):
    leaf = pki.issue_signer(identity, registry.trust.intermediate, datetime.now(UTC))
    return signing.CertificateSigner(leaf.private_key, (leaf.certificate, registry.trust.intermediate.certificate))


def said(kind, artifact, by):
    """What a statement of a kind says where the test does not care."""
    now = datetime.now(UTC)
    match kind:
        case Kind.APPROVAL:
            return approvals.Approval(artifact, "production", by, now).predicate
        case Kind.WAIVER:
            return approvals.Waiver(artifact, "production", by, "scan", "r", now + timedelta(days=1)).predicate
        case Kind.DECLASSIFICATION:
            return {"artifact": str(artifact), "from": "restricted", "to": "internal", "reason": "r"}
    return {"artifact": str(artifact)}


def bundle(registry, kind, artifact, signer=None, predicate=None, repository="demo/m", by="person:tester"):
    predicate = predicate or said(kind, artifact, by)
    payload = attestations.build(kind, repository, artifact, predicate)
    return signing.sign(payload, signer or registry.trust.signer)


def attest(api, artifact, raw_bundle, repository="demo/m"):
    return api.attest(repository, artifact, AttestationRequest(bundle=raw_bundle.decode()))


def sent_to(registry, artifact, repository="demo/m", **more):
    """The statements about an artifact that somebody sent: all but the registry's scan of what is published."""
    listed = registry.api().attestations(repository, artifact, **more).attestations
    scans = [row for row in listed if row.added_by == attestations.REGISTRY]
    assert [row.kind for row in scans] == ["scan"] * (more.get("kind") in {None, "scan"})
    return [row for row in listed if row not in scans]


def events_of(registry, *types):
    return [event for event in registry.whole_log() if event.type in types]


@pytest.fixture
def artifact(publishing, request):
    return publishing.push({"a": request.node.name.encode()}).manifest.digest


@pytest.fixture
def approver(registry):
    return signer_of(registry, APPROVERS[0])


SOURCE_CHECK = {"found": "same"}


def test_a_statement_is_recorded_once_with_its_event_and_given_back_as_it_was_signed(registry, artifact):
    api = registry.api()
    raw = bundle(registry, Kind.SOURCE_CHECK, artifact, predicate=SOURCE_CHECK)

    recorded = attest(api, artifact, raw)
    again = attest(api, artifact, raw)

    assert recorded == again
    assert (recorded.kind, recorded.identity, recorded.added_by) == (
        "source-check",
        "email:al@demo.example",
        "person:tester",
    )
    (event,) = [e for e in events_of(registry, "artifact.attested") if e.artifact == str(artifact)]
    assert (event.index, event.repository) == (recorded.event, "demo/m")
    assert event.detail["statement"] == recorded.statement
    with registry.parts.database.reading() as session:
        entry = session.get_one(CustodyEvent, event.index).entry
    assert b"email:" not in entry  # a name is personal: it can be erased
    (kept,) = sent_to(registry, artifact)
    assert kept.bundle.encode() == raw
    verified = attestations.verify(
        kept.bundle.encode(), policy=registry.trust.policy, repository="demo/m", now=datetime.now(UTC), subject=artifact
    )
    assert str(verified.attestation.digest) == recorded.statement
    with registry.parts.database.reading() as session:
        assert list(log_references.reference_findings(session)) == []


def test_two_people_who_sign_the_same_words_are_two_statements(registry, artifact):
    """Two tools can find the same at the same time: it is the signers that differ."""
    one, other = (
        attest(registry.api(registry.token(f"person:{name}", "push:demo/*")), artifact,
               bundle(registry, Kind.SCAN, artifact, signer_of(registry, f"email:{name}@demo.example")))
        for name in ("riko", "sam")
    )  # fmt: skip

    assert one.statement == other.statement
    assert one.event != other.event
    assert [(row.identity, row.added_by) for row in sent_to(registry, artifact, kind="scan")] == [
        ("email:riko@demo.example", "person:riko"),
        ("email:sam@demo.example", "person:sam"),
    ]


@pytest.mark.parametrize("kind", [Kind.APPROVAL, Kind.WAIVER])
def test_nobody_sends_the_yes_of_somebody_else(registry, artifact, approver, kind):
    """The signer may, and the sender may: it still names another principal than the one that sends it."""
    raw = bundle(registry, kind, artifact, approver, by="person:riko")
    with pytest.raises(SignatureInvalid, match="is signed as by person:riko, and person:sam sends it"):
        attest(registry.api(registry.token("person:sam", "approve:demo/*")), artifact, raw)
    assert sent_to(registry, artifact) == []
    assert attest(registry.api(registry.token("person:riko", "approve:demo/*")), artifact, raw).kind == kind


@pytest.mark.parametrize("kind", [Kind.APPROVAL, Kind.WAIVER])
@pytest.mark.parametrize("change", ["missing", "unknown", "another artifact"])
def test_a_malformed_yes_is_refused(registry, artifact, approver, kind, change):
    predicate = said(kind, artifact, "person:tester")
    changed = {
        "missing": {name: value for name, value in predicate.items() if name != "environment"},
        "unknown": {**predicate, "more": "x"},
        "another artifact": {**predicate, "artifact": f"sha256:{'0' * 64}"},
    }[change]
    with pytest.raises(SignatureInvalid):
        attest(registry.api(), artifact, bundle(registry, kind, artifact, approver, changed))
    assert attest(registry.api(), artifact, bundle(registry, kind, artifact, approver, predicate)).kind == kind


def test_statements_are_listed_in_order_by_kind_and_page_by_page(registry, artifact, monkeypatch):
    api = registry.api()
    sent = [
        attest(api, artifact, bundle(registry, Kind.SOURCE_CHECK, artifact, predicate={"round": at})) for at in range(5)
    ]
    monkeypatch.setattr(operations, "_PAGE_ROWS", 2)
    listed = api.attestations("demo/m", artifact).attestations
    assert listed[0].kind == "scan"  # the registry's, of what was published
    assert [row.statement for row in listed[1:]] == [s.statement for s in sent]
    monkeypatch.setattr(operations, "_PAGE_ROWS", 100)
    monkeypatch.setattr(operations, "_PAGE_BYTES", 1)
    assert api.attestations("demo/m", artifact).attestations == listed
    assert api.attestations("demo/m", artifact, kind="scan").attestations == listed[:1]
    assert api.attestations("demo/m", artifact, kind="source-check").attestations == listed[1:]
    assert api.attestations("demo/m", artifact, kind="waiver").attestations == []


@pytest.mark.parametrize("kind", [Kind.VERDICT, Kind.PERMIT])
def test_nobody_sends_what_only_the_registry_states(registry, artifact, approver, kind):
    with pytest.raises(SignerNotAllowed, match="only the registry"):
        attest(registry.api(), artifact, bundle(registry, kind, artifact, approver))


def test_what_the_registry_signed_is_not_taken_from_anybody(registry, artifact):
    signer = registry.parts.database.log_signer
    payload = attestations.build(Kind.SCAN, "demo/m", artifact, {"complete": True})
    raw = attestations.sign_as_registry(payload, signer.key, signer.origin)

    with pytest.raises(SignatureInvalid):
        attest(registry.api(), artifact, raw)


def test_a_statement_about_another_artifact_or_of_another_kind_is_refused(registry, publishing, artifact):
    other = publishing.push({"a": b"another artifact"}).manifest.digest
    with pytest.raises(SignatureInvalid, match="is about"):
        attest(registry.api(), artifact, bundle(registry, Kind.SOURCE_CHECK, other))
    with pytest.raises(Invalid, match="not taken here"):
        attest(registry.api(), artifact, bundle(registry, Kind.DATASET, artifact))


def test_a_tampered_bundle_changes_nothing(registry, artifact):
    raw = bundle(registry, Kind.SOURCE_CHECK, artifact)
    before = len(events_of(registry, "artifact.attested"))
    with pytest.raises(SignatureInvalid):
        attest(registry.api(), artifact, raw.replace(b'"sig":"M', b'"sig":"N'))
    with pytest.raises(SignatureInvalid):
        attest(registry.api(), artifact, b"{}")
    assert len(events_of(registry, "artifact.attested")) == before


def test_an_artifact_that_the_repository_does_not_hold_has_no_statements(registry, publishing, artifact):
    absent = Digest("sha256", "0" * 64)
    with pytest.raises(NotFound):
        attest(registry.api(), absent, bundle(registry, Kind.SOURCE_CHECK, absent))
    with pytest.raises(NotFound):
        registry.api().attestations("demo/m", absent)
    publishing.push({"b": b"in another place"}, "demo/other")
    with pytest.raises(NotFound):
        registry.api().attestations("demo/other", artifact)


@pytest.mark.parametrize(
    ("kind", "verb"),
    [
        (Kind.SOURCE_CHECK, "push"),
        (Kind.SCAN, "push"),
        (Kind.APPROVAL, "approve"),
        (Kind.WAIVER, "approve"),
        (Kind.DECLASSIFICATION, "approve"),
    ],
)
def test_each_kind_takes_its_verb_and_the_other_one_will_not_do(registry, artifact, approver, kind, verb):
    signer = registry.trust.signer if kind is Kind.SOURCE_CHECK else approver
    raw = bundle(registry, kind, artifact, signer, by="person:x")
    other = {"push": "approve", "approve": "push"}[verb]
    with pytest.raises(Forbidden):
        attest(registry.api(registry.token("person:x", f"{other}:demo/*")), artifact, raw)
    with pytest.raises(Forbidden):
        attest(registry.api(registry.token("person:x", f"{verb}:other/*")), artifact, raw)
    assert attest(registry.api(registry.token("person:x", f"{verb}:demo/*")), artifact, raw).kind == kind


def test_the_right_to_send_is_no_right_to_sign(registry, artifact):
    """A signer that the policy does not allow, sent by somebody with every right."""
    stranger = signer_of(registry, "email:eve@demo.example")
    with pytest.raises(SignerNotAllowed):
        attest(registry.api(), artifact, bundle(registry, Kind.APPROVAL, artifact, stranger))


def test_an_artifact_takes_only_so_many_statements(registry, artifact, monkeypatch):
    monkeypatch.setattr(operations, "MAX_OF_ONE_ARTIFACT", 3)  # the registry's scan is one
    for at in range(2):
        attest(registry.api(), artifact, bundle(registry, Kind.SOURCE_CHECK, artifact, predicate={"round": at}))
    with pytest.raises(Conflict, match="takes no more"):
        attest(registry.api(), artifact, bundle(registry, Kind.SOURCE_CHECK, artifact, predicate={"round": 3}))


# With the bytes


def push_with(registry, publishing, files, *kinds, repository="demo/with", signer=None, api=None):
    def make(manifest):
        return [bundle(registry, kind, manifest.digest, signer, {"n": 1}, repository) for kind in kinds]

    return push.push(
        api or registry.api(),
        publishing.make(files),
        parse_reference(repository),
        registry.trust.signer,
        tags=(),
        connections_at_once=1,
        meter=QUIET,
        attest=make,
    )


def test_statements_come_with_the_bytes_and_stand_behind_the_publication(registry, publishing, approver):
    pushed = push_with(registry, publishing, {"a": b"with a scan"}, Kind.SCAN, signer=approver)

    (row,) = sent_to(registry, pushed.manifest.digest, "demo/with")
    assert row.kind == "scan"
    assert row.event > pushed.published.event


def test_one_statement_that_does_not_hold_and_nothing_is_published(registry, publishing, approver):
    for kinds, signer, refusal in (
        ((Kind.SCAN,), registry.trust.signer, SignerNotAllowed),
        ((Kind.APPROVAL,), approver, Invalid),  # not before anybody could look at it
        ((Kind.SCAN, Kind.VERDICT), approver, SignerNotAllowed),
    ):
        with pytest.raises(refusal):
            push_with(registry, publishing, {"a": b"never"}, *kinds, repository="demo/never", signer=signer)
    with pytest.raises(NotFound):
        registry.api().artifact("demo/never", publishing.manifest({"a": b"never"}).digest)


def test_who_may_not_approve_cannot_declassify_by_pushing(registry, publishing, approver):
    pusher = registry.api(registry.token("person:pusher", "push:demo/*", "tag:demo/*"))
    with pytest.raises(Forbidden):
        push_with(registry, publishing, {"a": b"sly"}, Kind.DECLASSIFICATION, signer=approver, api=pusher)


def test_a_row_that_rests_on_another_event_is_found_by_log_verify(own_registry, publishing_to):
    publishing = publishing_to(own_registry)
    artifact = publishing.push({"a": b"to be found"}).manifest.digest
    attest(own_registry.api(), artifact, bundle(own_registry, Kind.SOURCE_CHECK, artifact))
    with own_registry.parts.database.writing() as session, session.begin():
        query = select(AttestationRow).where(AttestationRow.kind == Kind.SOURCE_CHECK.value)
        session.exec(query).one().event_index = 0
    with own_registry.parts.database.reading() as session:
        (finding,) = log_references.reference_findings(session)
    assert "the attestation" in finding[1]


def test_a_registry_without_such_rules_takes_no_approvals(own_registry, publishing_to):
    artifact = publishing_to(own_registry).push({"a": b"x"}).manifest.digest
    with pytest.raises(SignerNotAllowed, match="attests"):
        attest(own_registry.api(), artifact, bundle(own_registry, Kind.APPROVAL, artifact))


def test_more_statements_than_a_publication_takes_are_refused(registry, publishing):
    manifest = publishing.manifest({"a": b"many"})
    request = publishing.request(manifest).model_dump()
    with pytest.raises(Invalid):
        wire.request(wire.PublicationRequest, **{**request, "attestations": ["{}"] * (wire.MAX_ATTESTATIONS + 1)})
