"""Derivations, datasets and classes on both databases: what a statement does, what a claim does, and what neither can."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from modelreg import attestations, declaring, lookup, pki, provenance, push, signing, wire
from modelreg.attestations import Kind
from modelreg.classification import Classification
from modelreg.datasets import Dataset
from modelreg.declassification import Declassification
from modelreg.digests import Digest
from modelreg.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    PolicyRefused,
    SignatureInvalid,
    SignerNotAllowed,
    TooLarge,
)
from modelreg.references import parse_reference
from modelreg.wire_attestations import AttestationRequest
from modelreg.wire_datasets import DatasetRequest
from modelreg_server import classifying, datasets, log_references, parentage
from modelreg_server.tables import ArtifactClass, AttestationRow, DatasetRecord, DatasetUse, Derivation, ModelClaim
from support.registry import QUIET, running_registry

RULE = """
[[rules]]
repositories = ["demo/*"]
attests = ["declassification"]
allow = [{authority = "pki", identities = ["email:riko@demo.example"]}]

"""
NOWHERE = Digest("sha256", "0" * 64)
ROWS = Digest("sha256", "d" * 64)
PUBLIC, INTERNAL, CONFIDENTIAL, RESTRICTED = Classification
NO_REASON = "nothing of it is left"


def with_approver(trusted):
    head, mark, rest = trusted.policy_path.read_text().partition("[revocations]")
    return head + RULE + mark + rest


@pytest.fixture
def world(either_database, tmp_path, publishing_to):
    with running_registry(tmp_path / "registry", policy=with_approver, **either_database) as running:
        yield World(running, publishing_to(running))


class World:
    """A registry, with short words for what tests do to it."""

    def __init__(self, registry, publishing):
        self.registry, self.publishing, self.count = registry, publishing, 0
        leaf = pki.issue_signer("email:riko@demo.example", registry.trust.intermediate, datetime.now(UTC))
        self.approver = signing.CertificateSigner(
            leaf.private_key, (leaf.certificate, registry.trust.intermediate.certificate)
        )

    def push(
        self, repository="demo/m", *parents, level=None, relation=None, datasets=(), files=None, lowered=None, **more
    ):
        self.count += 1
        files = files or {"w": f"weights {self.count} of {repository}".encode()}
        said = parents or datasets or level

        def attest(manifest):
            bundles = (
                [
                    self.provenance(
                        manifest.digest, repository, *parents, level=level, relation=relation, datasets=datasets
                    )
                ]
                if said
                else []
            )
            if lowered is not None:
                bundles.append(self.declassification(manifest.digest, repository, *lowered))
            return bundles

        return push.push(
            more.get("api") or self.registry.api(), self.publishing.make(files), parse_reference(repository),
            self.registry.trust.signer, tags=more.get("tags", ()), connections_at_once=1, meter=QUIET, attest=attest,
            parents=more.get("claimed", ()),
        ).manifest.digest  # fmt: skip

    def provenance(self, artifact, repository, *parents, level=None, relation=None, datasets=()):
        made = provenance.Derivation(
            relation or ("finetune" if parents else "original"),
            tuple(provenance.Input(parent, "demo/parent") for parent in parents),
            tuple(provenance.Input(digest, name) for name, digest in datasets),
            None,
            level,
        )
        now = datetime.now(UTC)
        predicate = provenance.predicate_of(made, version="1", started_at=now, finished_at=now)
        payload = attestations.build(Kind.PROVENANCE, repository, artifact, predicate)
        return signing.sign(payload, self.registry.trust.signer)

    def attest(self, artifact, bundle, repository="demo/m", api=None):
        return (api or self.registry.api()).attest(repository, artifact, AttestationRequest(bundle=bundle.decode()))

    def kinds(self, artifact, repository):
        """Of the statements about an artifact, oldest first."""
        return [row.kind for row in self.registry.api().attestations(repository, artifact).attestations]

    def declassification(self, artifact, name, was, to, signer=None):
        return declaring.declassification(
            Declassification(artifact, was, to, NO_REASON), name, signer or self.approver, None
        )

    def register(self, level, name="demo/rows", digest=ROWS, api=None, signer=None, **more):
        record = Dataset(name, digest, "dana", level, "consent", **{"stated_at": datetime.now(UTC), **more})
        bundle = declaring.dataset(record, signer or self.registry.trust.signer, None).decode()
        return (api or self.registry.api()).register_dataset(name, DatasetRequest(bundle=bundle))

    def level(self, artifact):
        with self.registry.parts.database.reading() as session:
            row = session.get(ArtifactClass, str(artifact))
            session.expunge_all()
        return row.effective if row else None

    def row(self, artifact):
        with self.registry.parts.database.reading() as session:
            row = session.get_one(ArtifactClass, str(artifact))
            session.expunge_all()
        return row

    def edges(self, child):
        with self.registry.parts.database.reading() as session:
            rows = session.exec(select(Derivation).where(Derivation.child == str(child))).all()
            return {(row.parent, row.relation, row.grade) for row in rows}

    def events(self, *types):
        return [event for event in self.registry.whole_log() if event.type in types]

    def findings(self):
        with self.registry.parts.database.reading() as session:
            return list(log_references.reference_findings(session))


# Edges


def test_a_signed_derivation_is_an_attested_edge_and_raises_one_that_was_claimed(world):
    base = world.push("demo/base")
    child = world.push("demo/child", claimed=[wire.Parent(artifact=str(base), relation="finetune")])
    assert world.edges(child) == {(str(base), "finetune", "claimed")}

    row = world.attest(child, world.provenance(child, "demo/child", base), "demo/child")

    assert world.edges(child) == {(str(base), "finetune", "attested")}
    with world.registry.parts.database.reading() as session:
        edge = session.exec(select(Derivation).where(Derivation.child == str(child))).one()
        assert edge.event_index == row.event
        published = next(
            e for e in world.registry.whole_log() if e.type == "artifact.published" and e.artifact == str(child)
        )
        assert edge.recorded_at == published.recorded_at  # it is known since then
    assert world.findings() == []


def test_the_same_statement_again_and_a_later_claim_change_nothing(world):
    base = world.push("demo/base")
    child = world.push("demo/child", base, files={"w": b"same"})
    statement = world.provenance(child, "demo/child", base)
    assert world.attest(child, statement, "demo/child") == world.attest(child, statement, "demo/child")
    world.push("demo/child", claimed=[wire.Parent(artifact=str(base), relation="finetune")], files={"w": b"same"})
    assert world.edges(child) == {(str(base), "finetune", "attested")}


def test_an_artifact_is_not_made_of_itself(world):
    child = world.push("demo/child")
    with pytest.raises(Invalid, match="its own parent"):
        world.attest(child, world.provenance(child, "demo/child", child), "demo/child")
    assert world.edges(child) == set()


def test_a_provenance_that_cannot_be_read_is_not_recorded(world):
    child = world.push("demo/child")
    payload = attestations.build(Kind.PROVENANCE, "demo/child", child, {"buildDefinition": {"buildType": "x"}})
    with pytest.raises(SignatureInvalid):
        world.attest(child, signing.sign(payload, world.registry.trust.signer), "demo/child")
    assert world.kinds(child, "demo/child") == ["scan"]  # the registry's


def test_dangling_parents_and_datasets_are_recorded_and_counted_as_unknown(world):
    child = world.push("demo/child", NOWHERE, datasets=[("demo/absent", ROWS)], level=INTERNAL)
    assert world.edges(child) == {(str(NOWHERE), "finetune", "attested")}
    row = world.row(child)
    assert (row.declared, row.inherited, row.effective, row.unknown_inputs) == ("internal", None, "internal", 2)
    world.register(RESTRICTED)
    assert (world.level(child), world.row(child).unknown_inputs) == ("restricted", 1)


def test_a_parent_that_is_published_later_gives_its_class_then(world):
    data = {"w": b"the base that comes late"}
    base = world.publishing.manifest(data).digest
    child = world.push("demo/child", base, level=PUBLIC)
    assert world.level(child) == "public"
    assert world.push("demo/base", level=RESTRICTED, files=data) == base
    assert world.level(child) == "restricted"


# Classes


def test_what_is_declared_below_what_it_inherits_is_refused_and_nothing_of_it_stays(world):
    base = world.push("demo/base", level=RESTRICTED)
    before = len(world.registry.whole_log())
    files = {"w": b"sly"}
    with pytest.raises(PolicyRefused) as caught:
        world.push("demo/child", base, level=INTERNAL, files=files)
    assert f"finetune of demo/base@{base} (restricted)" in caught.value.detail
    assert (caught.value.facts["declared"], caught.value.facts["inherited"]) == ("internal", "restricted")
    child = world.publishing.manifest(files).digest
    with pytest.raises(NotFound):
        world.registry.api().artifact("demo/child", child)
    assert world.edges(child) == set()
    assert {event.type for event in world.registry.whole_log()[before:]} <= {"token.issued"}
    for level in (RESTRICTED, None):
        world.push("demo/child", base, level=level, files=files)
    assert world.level(child) == "restricted"
    with pytest.raises(PolicyRefused):  # nor by a statement that comes later
        world.attest(child, world.provenance(child, "demo/child", base, level=PUBLIC), "demo/child")
    assert world.kinds(child, "demo/child") == ["provenance", "scan", "provenance"]


def test_a_class_comes_down_through_every_generation_and_from_the_side_of_the_datasets(world):
    world.register(CONFIDENTIAL)
    grand = world.push("demo/grand", datasets=[("demo/rows", ROWS)])
    parent = world.push("demo/parent", grand, NOWHERE)
    child = world.push("demo/child", parent, world.push("demo/open", level=PUBLIC), relation="merge")
    assert [world.level(one) for one in (grand, parent, child)] == ["confidential"] * 3
    with pytest.raises(PolicyRefused, match="merge of demo/parent@"):
        world.push("demo/late", parent, level=INTERNAL, relation="merge")


def test_a_claim_raises_a_class_and_never_lowers_one(world):
    base = world.push("demo/base", level=RESTRICTED)
    child = world.push("demo/child", level=RESTRICTED, claimed=[])
    claimed = wire.Parent(artifact=str(world.push("demo/open", level=PUBLIC)), relation="finetune")
    world.push("demo/child", claimed=[claimed])
    assert world.level(child) == "restricted"
    with pytest.raises(PolicyRefused):
        world.push("demo/sly", level=PUBLIC, claimed=[wire.Parent(artifact=str(base), relation="finetune")])


def test_what_descends_from_itself_has_a_class_all_the_same(world):
    first = world.push("demo/first", level=INTERNAL)
    second = world.push("demo/second", first)
    world.attest(first, world.provenance(first, "demo/first", second), "demo/first")
    assert (world.level(first), world.level(second)) == ("internal", "internal")
    world.attest(second, world.provenance(second, "demo/second", level=RESTRICTED), "demo/second")
    assert (world.level(first), world.level(second)) == ("restricted", "restricted")


def test_a_declassification_comes_with_the_bytes_or_later_and_covers_what_it_names(world):
    base = world.push("demo/base", level=CONFIDENTIAL)
    child = world.push("demo/child", base, level=PUBLIC, lowered=(CONFIDENTIAL, PUBLIC))
    assert (world.level(child), world.row(child).lowered_by) == ("public", "email:riko@demo.example")
    grandchild = world.push("demo/grandchild", child, level=PUBLIC)
    # What rises above it later is not lowered by it.
    world.attest(base, world.provenance(base, "demo/base", level=RESTRICTED), "demo/base")
    assert [world.level(one) for one in (base, child, grandchild)] == ["restricted"] * 3
    world.attest(child, world.declassification(child, "demo/child", RESTRICTED, INTERNAL), "demo/child")
    assert [world.level(one) for one in (base, child, grandchild)] == ["restricted", "internal", "internal"]


def test_a_declassification_by_whoever_may_not_or_of_something_else_lowers_nothing(world):
    base = world.push("demo/base", level=RESTRICTED)
    with pytest.raises(SignerNotAllowed):
        world.attest(
            base,
            world.declassification(base, "demo/base", RESTRICTED, PUBLIC, world.registry.trust.signer),
            "demo/base",
        )
    pusher = world.registry.api(world.registry.token("person:pusher", "push:demo/*"))
    with pytest.raises(Forbidden):
        world.attest(base, world.declassification(base, "demo/base", RESTRICTED, PUBLIC), "demo/base", pusher)
    lies = [
        {"artifact": str(NOWHERE), "from": "restricted", "to": "public", "reason": "r"},
        {"artifact": str(base), "from": "public", "to": "restricted", "reason": "r"},
        {"artifact": str(base), "from": "restricted", "to": "secret", "reason": "r"},
        {"artifact": str(base), "from": "restricted", "to": "public"},
        {"artifact": str(base), "from": "restricted", "to": "public", "reason": "r", "more": 1},
    ]
    for predicate in lies:
        payload = attestations.build(Kind.DECLASSIFICATION, "demo/base", base, predicate)
        with pytest.raises(SignatureInvalid):
            world.attest(base, signing.sign(payload, world.approver), "demo/base")
    assert world.level(base) == "restricted"


def test_an_artifact_in_two_repositories_takes_a_declassification_in_each(world):
    files = {"w": b"in two places"}
    one = world.push("demo/one", level=RESTRICTED, files=files)
    world.push("demo/two", files=files)
    world.attest(one, world.declassification(one, "demo/one", RESTRICTED, INTERNAL), "demo/one")
    assert world.level(one) == "restricted"
    world.attest(one, world.declassification(one, "demo/two", RESTRICTED, CONFIDENTIAL), "demo/two")
    assert world.level(one) == "confidential"
    world.push("demo/three", files=files)
    assert world.level(one) == "restricted"


def test_what_a_sensitive_repository_holds_is_confidential_at_least(world):
    base = world.push("demo/base", level=PUBLIC)
    child = world.push("demo/child", base)
    world.registry.api().change_repository("demo/base", wire.RepositoryChange(sensitive=True))
    assert (world.level(base), world.level(child)) == ("confidential", "confidential")
    again = world.push("demo/base", level=PUBLIC)  # the mark is no parent: nothing to refuse
    assert world.level(again) == "confidential"
    with pytest.raises(PolicyRefused):
        world.push("demo/other", base, level=INTERNAL)
    world.registry.api().change_repository("demo/base", wire.RepositoryChange(sensitive=False))
    assert (world.level(base), world.level(child)) == ("public", "public")


def test_a_change_that_would_reach_too_many_is_refused_whole(world, monkeypatch):
    base = world.push("demo/base", level=PUBLIC)
    for _ in range(3):
        world.push("demo/child", base)
    monkeypatch.setattr(classifying, "MAX_AFFECTED", 3)
    with pytest.raises(TooLarge):
        world.attest(base, world.provenance(base, "demo/base", level=RESTRICTED), "demo/base")
    assert world.level(base) == "public"


def test_the_refusal_names_no_parent_that_the_pusher_may_not_see(world):
    base = world.push("demo/secret", level=RESTRICTED)
    pusher = world.registry.api(world.registry.token("person:pusher", "push:demo/mine", "pull:demo/mine"))
    with pytest.raises(PolicyRefused) as caught:
        world.push("demo/mine", base, level=PUBLIC, api=pusher)
    assert "demo/secret" not in caught.value.detail + str(caught.value.facts)
    assert "which you may not see" in caught.value.detail


def test_an_artifact_shows_its_class_or_that_nobody_knows(world):
    api = world.registry.api()
    assert api.artifact("demo/m", world.push()).classification is None
    assert api.artifact("demo/m", world.push(level=INTERNAL)).classification == "internal"


# Datasets


def test_a_record_is_kept_with_its_event_and_given_back_as_it_was_signed(world):
    until = datetime(2028, 1, 1, tzinfo=UTC)
    made = world.register(RESTRICTED, residency=("eu-1",), retention_until=until, source="https://data.example")
    (event,) = world.events("dataset.registered")
    assert (event.index, event.repository, event.artifact) == (made.event, "demo/rows", str(ROWS))
    assert (event.detail["classification"], event.detail["statement"]) == ("restricted", made.statement)
    (shown,) = world.registry.api().dataset("demo/rows")
    assert shown == made
    assert (shown.owner, shown.lawful_basis, shown.residency, shown.retention_until) == (
        "dana",
        "consent",
        ["eu-1"],
        until,
    )
    said = attestations.verify(
        shown.bundle.encode(),
        policy=world.registry.trust.policy,
        repository="demo/rows",
        now=datetime.now(UTC),
        subject=ROWS,
    )
    assert str(said.attestation.digest) == made.statement
    with world.registry.parts.database.reading() as session:  # for whoever looks for what is signed about a digest
        assert session.exec(select(AttestationRow.kind).where(AttestationRow.about_digest == str(ROWS))).all() == [
            "dataset"
        ]
        assert [row.name for row in datasets.of_digest(session, str(ROWS))] == ["demo/rows"]
    assert world.findings() == []


def test_sending_a_record_again_is_no_event_and_an_old_one_is_not_brought_back(world):
    api, old = world.registry.api(), datetime.now(UTC) - timedelta(days=1)
    record = Dataset("demo/rows", ROWS, "dana", INTERNAL, "consent", stated_at=old)
    first = DatasetRequest(bundle=declaring.dataset(record, world.registry.trust.signer, None).decode())
    assert api.register_dataset("demo/rows", first) == api.register_dataset("demo/rows", first)
    assert len(world.events("dataset.registered")) == 1
    world.register(CONFIDENTIAL)
    api.register_dataset("demo/rows", first)
    assert [(row.classification, row.current) for row in api.dataset("demo/rows")] == [
        ("confidential", True), ("internal", False),
    ]  # fmt: skip
    with pytest.raises(Conflict, match="no newer"):
        world.register(RESTRICTED, stated_at=old)
    with pytest.raises(Conflict, match="no newer"):
        world.register(RESTRICTED, stated_at=None)
    with pytest.raises(SignatureInvalid, match="future"):
        world.register(RESTRICTED, stated_at=datetime.now(UTC) + timedelta(hours=1))


def test_a_lower_class_takes_a_declassification_since_the_record_before(world):
    child = world.push("demo/child", datasets=[("demo/rows", ROWS)])
    world.register(RESTRICTED)
    api = world.registry.api()
    with pytest.raises(NotFound):
        api.declassify_dataset(
            "demo/rows",
            NOWHERE,
            DatasetRequest(bundle=world.declassification(NOWHERE, "demo/rows", RESTRICTED, PUBLIC).decode()),
        )
    with pytest.raises(PolicyRefused, match="modelreg declassify --dataset demo/rows"):
        world.register(INTERNAL)
    leave = DatasetRequest(bundle=world.declassification(ROWS, "demo/rows", RESTRICTED, INTERNAL).decode())
    with pytest.raises(Forbidden):
        world.registry.api(world.registry.token("person:x", "push:demo/*")).declassify_dataset("demo/rows", ROWS, leave)
    api.declassify_dataset("demo/rows", ROWS, leave)
    with pytest.raises(PolicyRefused):
        world.register(PUBLIC)
    world.register(INTERNAL)
    assert world.level(child) == "internal"
    world.register(RESTRICTED)
    api.declassify_dataset("demo/rows", ROWS, leave)
    with pytest.raises(PolicyRefused):
        world.register(INTERNAL)
    assert world.findings() == []


def test_of_two_owners_of_the_same_bytes_the_more_careful_one_counts(world):
    child = world.push("demo/child", datasets=[("demo/rows", ROWS)])
    world.register(PUBLIC)
    world.register(CONFIDENTIAL, "demo/same-rows")
    assert world.level(child) == "confidential"


def test_a_record_of_another_name_by_a_stranger_or_of_another_kind_is_refused(world):
    api = world.registry.api()
    record = Dataset("demo/else", ROWS, "dana", PUBLIC, "consent")
    bundle = declaring.dataset(record, world.registry.trust.signer, None).decode()
    with pytest.raises(SignatureInvalid, match="record of demo/else"):
        api.register_dataset("demo/rows", DatasetRequest(bundle=bundle))
    stranger = signing.KeySigner(pki.make_root("x", datetime.now(UTC)).private_key)
    with pytest.raises(SignatureInvalid):
        world.register(PUBLIC, signer=stranger)
    with pytest.raises(SignatureInvalid, match="not a dataset"):
        api.register_dataset("demo/rows", DatasetRequest(bundle=world.provenance(ROWS, "demo/rows", NOWHERE).decode()))
    with pytest.raises(SignerNotAllowed):
        world.register(PUBLIC, "other/rows")
    assert list(api.datasets()) == []


def test_who_may_not_see_a_dataset_hears_that_there_is_none(world):
    world.register(PUBLIC)
    world.register(PUBLIC, "demo/other", ROWS)
    reader = world.registry.api(world.registry.token("person:reader", "read-metadata:demo/other"))
    assert [row.name for row in reader.datasets()] == ["demo/other"]
    with pytest.raises(NotFound) as hidden:
        reader.dataset("demo/rows")
    with pytest.raises(NotFound) as absent:
        reader.dataset("demo/none")
    assert hidden.value.detail.replace("demo/rows", "X") == absent.value.detail.replace("demo/none", "X")
    assert [row.name for row in world.registry.api().datasets()] == ["demo/other", "demo/rows"]


def test_a_row_of_a_dataset_that_rests_on_another_event_is_found(world):
    world.register(PUBLIC)
    with world.registry.parts.database.writing() as session, session.begin():
        session.exec(select(DatasetRecord)).one().event_index = 0
    assert "the dataset demo/rows" in world.findings()[0][1]


# Claims


CARD = b"---\nbase_model: demo/base\nlicense: mit\ndatasets:\n- demo/rows\n- squad\n---\n"


def claims(world, artifact):
    with world.registry.parts.database.reading() as session:
        rows = session.exec(select(ModelClaim).where(ModelClaim.artifact == str(artifact))).all()
        return {(row.kind, row.value, row.member, row.resolved) for row in rows}


def test_files_are_read_once_and_what_they_name_here_becomes_a_claimed_edge(world):
    base = world.push("demo/base")
    world.register(INTERNAL)
    child = world.push("demo/child", files={"README.md": CARD})
    world.push("demo/child", files={"README.md": CARD})
    assert world.edges(child) == {(str(base), "finetune", "claimed")}
    assert claims(world, child) == {
        ("base_model", "demo/base", "base_model", str(base)),
        ("licence", "mit", "license", None),
        ("dataset", "demo/rows", "datasets", str(ROWS)),
        ("dataset", "squad", "datasets", None),
    }
    with world.registry.parts.database.reading() as session:
        use = session.exec(select(DatasetUse).where(DatasetUse.artifact == str(child))).one()
        assert (use.grade, use.statement) == ("claimed", None)
    world.attest(child, world.provenance(child, "demo/child", base, datasets=[("demo/rows", ROWS)]), "demo/child")
    with world.registry.parts.database.reading() as session:
        use = session.exec(select(DatasetUse).where(DatasetUse.artifact == str(child))).one()
        assert use.grade == "attested"
    assert world.edges(child) == {(str(base), "finetune", "attested")}


def test_a_name_in_a_file_tells_nobody_what_they_may_not_see(world):
    world.push("demo/base", level=RESTRICTED)
    world.register(RESTRICTED)
    pusher = world.registry.api(world.registry.token("person:pusher", "push:demo/mine", "pull:demo/mine"))
    child = world.push("demo/mine", files={"README.md": CARD}, api=pusher)
    assert world.edges(child) == set()
    assert {resolved for *_, resolved in claims(world, child)} == {None}


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("demo/many", "the tag latest"),
        ("demo/many:old", "old"),
        ("demo/many:gone", None),
        ("demo/untagged", None),
        ("demo/only", "only"),
        ("https://huggingface.co/demo/only", "only"),
        ("demo/Only", None),
        ("demo/onl", None),
        ("only", None),
    ],
)
def test_a_name_is_found_only_where_it_names_one_artifact_exactly(world, named, found):
    made = {
        "old": world.push("demo/many", tags=("old",)),
        "the tag latest": world.push("demo/many", tags=("latest",)),
        "only": world.push("demo/only"),
    }
    world.push("demo/untagged")
    world.push("demo/untagged")
    child = world.push("demo/child", files={"README.md": f"---\nbase_model: {named}\n---\n".encode()})
    assert {parent for parent, *_ in world.edges(child)} == ({str(made[found])} if found else set())


def test_a_card_that_names_its_own_repository_is_not_its_own_parent(world):
    files = {"README.md": b"---\nbase_model: demo/self\n---\n"}
    first = world.push("demo/self", files={"a": b"1"}, tags=("latest",))
    child = world.push("demo/self", files=files, tags=("latest",))
    assert world.edges(child) == {(str(first), "finetune", "claimed")}


def test_bytes_that_changed_in_the_store_claim_nothing_and_do_not_stop_the_publication(world):
    from modelreg_server import harvesting

    manifest = world.publishing.manifest({"README.md": CARD})
    (entry,) = manifest.files

    class Store:
        def __init__(self, data):
            self.data = data

        def read(self, key, start, stop):
            yield self.data[start:stop]

    assert harvesting._measured_head(Store(CARD), "k", entry, manifest.chunk_bytes) == CARD
    assert harvesting._measured_head(Store(CARD.replace(b"mit", b"gpl")), "k", entry, manifest.chunk_bytes) is None


def test_a_datasets_digest_leads_to_all_that_was_made_with_it(world):
    child = world.push("demo/child", datasets=[("demo/rows", ROWS)])
    grandchild = world.push("demo/grandchild", child)
    api = world.registry.api()
    reached = lookup.blast_radius(api, lookup.Question(digest=str(ROWS)))
    assert [(row.artifact, row.why, row.depth) for row in reached.artifacts] == [
        (str(child), "made with the dataset", 0), (str(grandchild), f"finetune of {child}", 1),
    ]  # fmt: skip
    assert [found.by for found in lookup.trace(api, lookup.Question(digest=str(ROWS))).found] == ["dataset"]
    auditor = world.registry.api(world.registry.token("person:auditor", "audit:demo/grandchild"))
    assert lookup.blast_radius(auditor, lookup.Question(digest=str(ROWS))).artifacts == []


def test_an_artifact_takes_only_so_many_parents_and_datasets(world, monkeypatch):
    monkeypatch.setattr(parentage, "MAX_INPUTS", 2)
    child = world.push("demo/child", NOWHERE, datasets=[("demo/rows", ROWS)])
    with pytest.raises(Conflict, match="takes no more"):
        world.attest(child, world.provenance(child, "demo/child", ROWS), "demo/child")
    assert len(world.edges(child)) == 1
