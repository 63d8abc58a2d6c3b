"""What a promotion gathers: lineage, datasets, classes and sources, each by statements that hold now."""

from datetime import timedelta

import pytest

from modelreg import attestations, provenance, signing
from modelreg.attestations import Kind
from modelreg.classification import Classification
from modelreg.digests import Digest, sha256_of
from modelreg.errors import PolicyRefused
from modelreg.provenance import Derivation, Import, ImportedFile, Input
from modelreg.trust import parse
from modelreg_server import attestations as recorded
from modelreg_server import promotion_lineage, tables
from modelreg_server.callers import Caller
from modelreg_server.custody import Actor
from modelreg_server.identity import Principal
from modelreg_server.promotion_gathering import gather
from modelreg_server.promotion_statements import believing
from support.promotions import POLICY, blocking, promoting_registry

PUBLIC, INTERNAL, CONFIDENTIAL, RESTRICTED = Classification


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request, tmp_path_factory):
    settings = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres").make_database("facts")
    with promoting_registry(tmp_path_factory.mktemp("registry"), **settings) as made:
        yield made


@pytest.fixture
def world(shared):
    trusted, policy = shared.registry.trust.policy_path.read_text(), shared.policy_path.read_text()
    yield shared
    shared.registry.trust.policy_path.write_text(trusted)
    shared.policy_path.write_text(policy)
    shared.clock.ahead = timedelta()


def facts_of(world, artifact, environment="production"):
    policy = parse(world.registry.trust.policy_path.read_bytes())
    held_against = believing(policy, world.registry.parts.database.log_signer, world.clock())
    with world.registry.parts.database.reading() as session:
        return gather(session, held_against, "demo/m", str(artifact), environment).facts


def state(world, kind, about, predicate, repository="demo/m", by="al"):
    """Record a signed statement as it would have been recorded when it came."""
    bundle = signing.sign(attestations.build(kind, repository, about, predicate), world.signer(by))
    now = world.clock()
    verified = attestations.verify(
        bundle, policy=world.registry.trust.policy, repository=repository, now=now, subject=about, kind=kind
    )
    caller = Caller(Principal(f"person:{by}", None, (), None), Actor(f"person:{by}", None), now)
    with world.registry.parts.database.writing() as session, session.begin():
        recorded.record(session, caller, repository, verified)
    return str(verified.attestation.digest)


def made_of(world, child, *parents, datasets=(), declared=None, relation="finetune", repository="demo/m", by="al"):
    made = Derivation(
        relation,
        tuple(Input(parent, "demo/base") for parent in parents),
        tuple(Input(digest, name) for digest, name in datasets),
        classification=declared,
    )
    at = world.clock()
    predicate = provenance.predicate_of(made, version="0", started_at=at, finished_at=at)
    return state(world, Kind.PROVENANCE, child, predicate, repository, by)


def imported(world, artifact, *, upstream=None, sha256=None, licence=None, declared=None, path="weights.bin", **more):
    with world.registry.parts.database.reading() as session:
        row = session.get(tables.ArtifactFile, (str(artifact), "weights.bin"))
    file = ImportedFile(path, sha256 or row.sha256, "https://hub.example/f", upstream(row.sha256) if upstream else {})
    made = Import("hf://org/name", "a" * 40, (file,), "person:al", licence=licence, classification=declared, **more)
    at = world.clock()
    predicate = provenance.predicate_of(made, version="0", started_at=at, finished_at=at)
    return state(world, Kind.PROVENANCE, artifact, predicate)


def edge(world, child, parent, grade="attested"):
    with world.registry.parts.database.writing() as session, session.begin():
        session.add(
            tables.Derivation(
                child=str(child), parent=str(parent), relation="finetune", grade=grade, recorded_at=world.clock(),
                event_index=0,
            )
        )  # fmt: skip


def dataset(world, name, *, by="al", **members):
    digest = sha256_of(name.encode() + members.pop("salt", b""))
    predicate = {
        "name": name, "owner": "team", "classification": "internal", "lawful_basis": "contract", "residency": ["eu"],
        "retention_until": None, "source": None, **members,
    }  # fmt: skip
    state(world, Kind.DATASET, digest, predicate, name, by)
    return digest


# Lineage.


def test_every_ancestor_stands_once_at_its_nearest_and_a_diamond_is_no_cycle(world):
    root, left, right, leaf = (world.push() for _ in range(4))
    for child, parent in ((left, root), (right, root), (leaf, left), (leaf, right)):
        made_of(world, child, parent)
    facts = facts_of(world, leaf)
    assert [(one.artifact, one.depth, one.grade, one.known) for one in facts.ancestors] == [
        *((str(one), 1, "attested", True) for one in sorted((left, right), key=str)),
        (str(root), 2, "attested", True),
    ]
    assert (facts.cycle, facts.relation) == (False, "finetune")


def test_a_cycle_is_found_however_long(world):
    made = [world.push() for _ in range(3)]
    for child, parent in zip(made, [*made[1:], made[0]], strict=True):
        edge(world, child, parent, "claimed")
    facts = facts_of(world, made[0])
    assert facts.cycle
    assert facts.classification is None
    assert {one.artifact for one in facts.ancestors} == {str(one) for one in made[1:]}


def test_an_edge_whose_statement_does_not_hold_any_more_is_somebodys_claim(world):
    base, chat = world.push(), world.push(by="zoe")
    made_of(world, chat, base, by="zoe")
    edge(world, chat, base, "attested")
    assert [one.grade for one in facts_of(world, chat).ancestors] == ["attested"]
    world.revoke_signer("email:zoe@demo.example")
    facts = facts_of(world, chat)
    assert [one.grade for one in facts.ancestors] == ["claimed"]
    assert facts.relation is None


def test_what_another_repository_says_of_it_only_adds_ancestors(world):
    base, bad, chat = world.push(), world.push(), world.push()
    made_of(world, chat, bad, repository="demo/elsewhere")
    facts = facts_of(world, chat)
    assert facts.relation is None
    assert [(one.artifact, one.grade) for one in facts.ancestors] == [(str(bad), "claimed")]
    made_of(world, chat, base)
    assert {(one.artifact, one.grade) for one in facts_of(world, chat).ancestors} == {
        (str(base), "attested"), (str(bad), "claimed"),
    }  # fmt: skip


def test_an_ancestor_that_is_nowhere_here_is_unknown(world):
    chat, stranger = world.push(), Digest("sha256", "7" * 64)
    made_of(world, chat, stranger)
    (ancestor,) = facts_of(world, chat).ancestors
    assert (ancestor.known, ancestor.recalled) == (False, None)


def test_a_lineage_beyond_what_is_looked_at_is_refused_and_withdraws_nothing(world, monkeypatch):
    _, chat = world.approved()
    assert world.promote(chat).decision.allowed
    for name in ("MAX_ANCESTORS", "MAX_DEPTH"):
        with monkeypatch.context() as patch:
            patch.setattr(promotion_lineage, name, 0 if name == "MAX_DEPTH" else 1)
            with pytest.raises(PolicyRefused, match="nobody has looked at"):
                world.promote(chat)
            with pytest.raises(PolicyRefused, match="nobody has looked at"):
                world.grant(chat)
    assert world.grant(chat).permit


# Datasets.


def test_a_dataset_is_what_the_newest_statement_under_its_name_says(world):
    chat, base = world.push(), world.push()
    corpus = dataset(world, "demo/corpus")
    made_of(world, chat, base, datasets=[(corpus, "demo/corpus"), (Digest("sha256", "5" * 64), "demo/unheard")])
    dataset(world, "demo/corpus", owner="other team", retention_until="2027-01-01T00:00:00Z")
    known = {one.name: one for one in facts_of(world, chat).datasets}
    found = known["demo/corpus"]
    assert (found.owner, found.grade, found.registered, found.depth) == ("other team", "attested", True, 1)
    assert (found.classification, found.retention_until.year) == (INTERNAL, 2027)
    unheard = known["demo/unheard"]
    assert (unheard.registered, unheard.statement, unheard.classification) == (False, None, None)


def test_a_statement_under_another_name_can_only_make_a_dataset_more_sensitive(world):
    chat, base = world.push(), world.push()
    corpus = dataset(world, "demo/secret", classification="confidential", salt=b"x")
    made_of(world, chat, base, datasets=[(corpus, "demo/secret")])
    for name, said in (("demo/low", "public"), ("demo/high", "restricted")):
        predicate = {"name": name, "owner": "mallory", "classification": said, "lawful_basis": "none"}
        state(world, Kind.DATASET, corpus, predicate, name)
        (found,) = facts_of(world, chat).datasets
        assert found.owner == "team"
        assert found.classification == (CONFIDENTIAL if said == "public" else RESTRICTED)


def test_a_dataset_named_by_digest_alone_has_its_statement_while_only_one_name_has_it(world):
    chat, base = world.push(), world.push()
    corpus = dataset(world, "demo/by-digest")
    made_of(world, chat, base, datasets=[(corpus, str(corpus))])
    (found,) = facts_of(world, chat).datasets
    assert (found.name, found.owner) == ("demo/by-digest", "team")
    said = {"name": "demo/squatter", "owner": "mallory", "classification": "public", "lawful_basis": "none"}
    state(world, Kind.DATASET, corpus, said, "demo/squatter")
    (found,) = facts_of(world, chat).datasets
    assert (found.registered, found.statement, found.owner) == (True, None, None)


def test_a_dataset_statement_of_a_signer_who_is_revoked_leaves_it_registered_and_unstated(world):
    chat, base = world.push(), world.push()
    corpus = dataset(world, "demo/withdrawn", by="zed")
    made_of(world, chat, base, datasets=[(corpus, "demo/withdrawn")])
    world.revoke_signer("email:zed@demo.example")
    (found,) = facts_of(world, chat).datasets
    assert (found.registered, found.statement, found.owner) == (True, None, None)


def test_the_datasets_of_an_ancestor_are_the_artifacts_too(world):
    base, chat, root = world.push(), world.push(), world.push()
    corpus = dataset(world, "demo/grand")
    made_of(world, base, root, datasets=[(corpus, "demo/grand")])
    made_of(world, chat, base)
    (found,) = facts_of(world, chat).datasets
    assert (found.depth, found.grade) == (2, "attested")


# Classes.


def classed(world, declared):
    artifact = world.push()
    imported(world, artifact, declared=declared)
    return artifact


def test_a_class_comes_down_from_parents_and_datasets_and_the_highest_holds(world):
    base, chat = classed(world, CONFIDENTIAL), world.push()
    made_of(world, chat, base, declared=INTERNAL)
    found = facts_of(world, chat).classification
    assert (found.declared, found.inherited, found.effective) == (INTERNAL, CONFIDENTIAL, CONFIDENTIAL)
    further = world.push()
    corpus = dataset(world, "demo/restricted", classification="restricted")
    made_of(world, further, chat, datasets=[(corpus, "demo/restricted")])
    assert facts_of(world, further).classification.effective == RESTRICTED


def test_a_class_is_not_known_where_that_of_a_parent_is_not(world):
    known, unknown, chat = classed(world, INTERNAL), world.push(), world.push()
    made_of(world, chat, known, unknown, declared=CONFIDENTIAL)
    assert facts_of(world, chat).classification is None
    highest = world.push()
    made_of(world, highest, unknown, declared=RESTRICTED)
    assert facts_of(world, highest).classification.effective == RESTRICTED


def test_a_declassification_counts_where_every_repository_that_holds_it_has_one(world):
    data = b"in two repositories"
    base = world.push(data=data)
    imported(world, base, declared=CONFIDENTIAL)
    assert world.push(data=data, repository="demo/also") == base
    chat = world.push()
    made_of(world, chat, base)
    said = {"artifact": str(base), "from": "confidential", "to": "public", "reason": "anonymised"}
    state(world, Kind.DECLASSIFICATION, base, said, "demo/also")
    assert facts_of(world, chat).classification.effective == CONFIDENTIAL
    state(world, Kind.DECLASSIFICATION, base, {**said, "to": "internal"})
    assert facts_of(world, chat).classification.effective == INTERNAL


def test_a_declassification_lowers_what_it_covers_and_only_where_the_artifact_is(world):
    base, chat = classed(world, CONFIDENTIAL), world.push()
    made_of(world, chat, base)
    said = {"artifact": str(chat), "from": "confidential", "to": "internal", "reason": "anonymised"}
    state(world, Kind.DECLASSIFICATION, chat, said, "demo/elsewhere")
    assert facts_of(world, chat).classification.effective == CONFIDENTIAL
    statement = state(world, Kind.DECLASSIFICATION, chat, said)
    found = facts_of(world, chat).classification
    assert (found.inherited, found.effective, found.lowered_by) == (CONFIDENTIAL, INTERNAL, statement)
    further = world.push()
    made_of(world, further, chat)
    assert facts_of(world, further).classification.effective == INTERNAL
    made_of(world, chat, classed(world, RESTRICTED))  # above what it covers
    assert facts_of(world, chat).classification.effective == RESTRICTED


# Sources.


@pytest.mark.parametrize(
    ("upstream", "matched"),
    [
        (lambda sha256: {"sha256": sha256}, True),
        (lambda _: {"sha256": "0" * 64}, False),
        (lambda _: {"etag": "x"}, None),
    ],
)
def test_a_source_matches_where_what_upstream_declares_is_what_is_here(world, upstream, matched):
    artifact = world.push()
    statement = imported(world, artifact, upstream=upstream, licence="MIT", upstream_signature={"verdict": "valid"})
    facts = facts_of(world, artifact)
    assert facts.source.matched is matched
    assert (facts.source.statement, facts.source.fetched_by) == (statement, "person:al")
    assert (facts.source.upstream_signature, facts.source.drift) == ("valid", None)
    assert (facts.licence.value, facts.licence.grade) == ("MIT", "attested")


@pytest.mark.parametrize("more", [{"sha256": "0" * 64}, {"path": "other.bin"}])
def test_an_artifact_that_is_not_what_was_fetched_does_not_match(world, more):
    artifact = world.push()
    imported(world, artifact, upstream=lambda sha256: {"sha256": sha256}, **more)
    assert facts_of(world, artifact).source.matched is False


def test_the_newest_check_that_reached_the_source_says_whether_it_drifted(world):
    artifact = world.push()
    imported(world, artifact)
    seen = []
    for result in ("unchanged", "drift", "unreachable", "unchanged", "gone"):
        state(world, Kind.SOURCE_CHECK, artifact, {"result": result, "at": len(seen)})
        seen.append(facts_of(world, artifact).source.drift)
    assert seen == [False, True, True, False, True]


# Scans.


BAD_SCANS = {
    "future": {"ahead": timedelta(minutes=10)},
    "malformed": {"findings": [{"rule": "x", "path": "y", "severity": "dreadful", "what": "z"}]},
    "unsaid": {"complete": None},
}


def scanned(world, artifact, ahead=timedelta(), **changes):
    """A scan by a tool of somebody's own, signed by al."""
    predicate = {
        "tool": "picklescan", "tool_version": "1", "rules_version": "2026-11-24",
        "scanned_at": (world.clock() + ahead).isoformat(), "complete": True, "formats": {}, "findings": [], **changes,
    }  # fmt: skip
    return state(world, Kind.SCAN, artifact, predicate)


def test_an_incomplete_malformed_or_future_scan_is_never_taken_for_a_clean_one(world):
    """Of a tool that the policy names beside the registry's own, whose scan is there since the push."""
    path = world.registry.trust.policy_path
    path.write_text(path.read_text().replace('attests = ["approval"', 'attests = ["scan", "approval"', 1))
    world.policy_path.write_text(
        POLICY.replace("scan = {", 'scan = {tools = ["modelreg-gate", "picklescan"], ').replace(
            "version = 1", "version = 2", 1
        )
    )
    _, chat = world.approved()
    own = facts_of(world, chat).scans
    assert [one.tool for one in own] == ["modelreg-gate"]
    for changes in BAD_SCANS.values():
        scanned(world, chat, **changes)
        assert facts_of(world, chat).scans == own
        assert blocking(world.promote(chat)) == {"scan"}
    scanned(world, chat, complete=False)
    assert blocking(world.promote(chat)) == {"scan"}
    scanned(world, chat)
    assert world.promote(chat).decision.allowed


def test_the_registrys_newer_scan_counts_if_it_can_be_read(world):
    """Its scan at the push does not know these bytes; no bad scan after it makes it a clean one."""
    base = world.push()
    chat = world.push(base)
    for name in ("bo", "cy"):
        world.approve(chat, name)
    own = facts_of(world, chat).scans
    assert blocking(world.promote(chat)) == {"scan"}
    assert own
    world.scan(chat, complete=False)
    assert facts_of(world, chat).scans != own
    assert blocking(world.promote(chat)) == {"scan"}
    world.scan(chat)
    assert world.promote(chat).decision.allowed


@pytest.mark.parametrize("unclear", ["severity", "future"])
def test_what_a_scanner_said_before_a_scan_that_cannot_be_read_does_not_count(world, unclear):
    """It may object to anything; a clean one after it counts again."""
    _, chat = world.approved()
    assert world.promote(chat).decision.allowed
    if unclear == "future":
        world.scan(chat, at=world.clock() + timedelta(minutes=10))
    else:
        world.scan(chat, {"rule": "x", "path": "y", "severity": "dreadful", "what": "z"})
    assert facts_of(world, chat).scans == ()
    assert blocking(world.promote(chat)) == {"scan"}
    world.scan(chat)
    assert world.promote(chat).decision.allowed


def test_facts_are_the_same_bytes_when_they_are_gathered_again(world):
    base, chat = world.approved()
    made_of(world, base, world.push(), datasets=[(dataset(world, "demo/again"), "demo/again")])
    first, again = facts_of(world, chat), facts_of(world, chat)
    assert first.model_copy(update={"evaluated_at": again.evaluated_at}).raw == again.raw
