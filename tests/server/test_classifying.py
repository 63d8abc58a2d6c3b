"""Classes of generated graphs, with circles, datasets, sensitive repositories and declassifications, against slow loops."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from modelreg import attestations, bundles
from modelreg.attestations import Kind
from modelreg.classification import Classification
from modelreg.declassification import Declassification
from modelreg.digests import Digest
from modelreg_server import classifying, database, migrations
from modelreg_server.tables import (
    Artifact,
    ArtifactClass,
    AttestationRow,
    DatasetRecord,
    DatasetUse,
    Derivation,
    Publication,
    Repository,
)

NOW = datetime(2026, 11, 24, tzinfo=UTC)
REPOSITORIES = ("acme/open", "acme/other", "acme/sensitive")


def name(kind, at):
    return str(Digest("sha256", f"{kind}{at:063x}"))


class Graph:
    """A random organisation, and the right answer by looking at all of it until nothing changes."""

    def __init__(self, seed):
        dice = random.Random(seed)
        count = dice.randint(2, 14)
        self.artifacts = [name("a", at) for at in range(count)]
        classes = list(Classification)
        everything = [*self.artifacts, name("f", 0)]  # the last is in no registry
        self.edges = {(dice.choice(self.artifacts), dice.choice(everything)) for _ in range(dice.randint(1, 2 * count))}
        self.edges = {(child, parent) for child, parent in self.edges if child != parent}
        self.declared = {one: dice.choice(classes) for one in self.artifacts if dice.random() < 0.3}
        self.held = {one: dice.sample(REPOSITORIES, dice.randint(1, 2)) for one in self.artifacts}
        self.datasets = {name("d", at): dice.choice(classes) for at in range(3)}
        self.uses = {(dice.choice(self.artifacts), dice.choice([*self.datasets, name("e", 0)])) for _ in range(3)}
        self.said = []
        for one in self.artifacts:
            for where in self.held[one]:
                if dice.random() < 0.5:
                    low, high = sorted(dice.sample(range(4), 2))
                    self.said.append((one, where, classes[high], classes[low]))

    def effective(self):
        ranks = dict.fromkeys(self.artifacts, -1)
        while True:
            new = {one: self._rank(one, ranks) for one in self.artifacts}
            if new == ranks:
                return {one: list(Classification)[rank].value for one, rank in ranks.items() if rank >= 0}
            ranks = new

    def _rank(self, one, ranks):
        raw = max(
            [self.declared[one].rank] if one in self.declared else [-1],
        )
        raw = max([raw, *(ranks.get(parent, -1) for child, parent in self.edges if child == one)])
        raw = max(
            [raw, *(self.datasets[used].rank for user, used in self.uses if user == one and used in self.datasets)]
        )
        if "acme/sensitive" in self.held[one]:
            raw = max(raw, Classification.CONFIDENTIAL.rank)
        lowered = []
        for where in self.held[one]:
            own = [(was.rank, to.rank) for about, at, was, to in self.said if (about, at) == (one, where)]
            lowered.append(min([raw, *(min(raw, to) for was, to in own if raw <= was)]))
        return max(lowered)

    def write(self, session):
        for at, repository in enumerate(REPOSITORIES):
            session.add(
                Repository(id=at + 1, name=repository, created_at=NOW, sensitive=repository == "acme/sensitive")
            )
        for one in self.artifacts:
            session.add(Artifact(digest=one, manifest=b"{}", size_bytes=0, file_count=1))
        session.flush()
        for one in self.artifacts:
            for where in self.held[one]:
                session.add(Publication(repository_id=REPOSITORIES.index(where) + 1, artifact_digest=one, published_at=NOW, published_by="p", event_index=0))  # fmt: skip
        for digest, level in self.datasets.items():
            for at, value in enumerate((Classification.RESTRICTED, level)):  # the newest holds
                session.add(dataset(digest, value, at))
                session.flush()
        for child, parent in self.edges:
            session.add(Derivation(child=child, parent=parent, relation="merge", grade="claimed", recorded_at=NOW, event_index=0))  # fmt: skip
        for user, used in self.uses:
            session.add(DatasetUse(artifact=user, dataset=used, name="d", grade="attested", recorded_at=NOW, event_index=0))  # fmt: skip
        for one, level in self.declared.items():
            classifying.declare(session, one, level, NOW)
        for at, (one, where, was, to) in enumerate(self.said):
            session.add(declassified(one, where, was, to, at))


def dataset(digest, level, at):
    return DatasetRecord(
        name="acme/rows", digest=digest, owner="o", classification=level.value, lawful_basis="b", residency=[],
        statement=name("c", at), bundle=digest.encode(), authority="x", identity="x", key_id=digest, registered_at=NOW,
        registered_by="p", event_index=0,
    )  # fmt: skip


def declassified(one, where, was, to, at):
    subject = Digest.parse(one)
    said = Declassification(subject, was, to, "r")
    payload = attestations.build(Kind.DECLASSIFICATION, where, subject, said.predicate)
    raw = bundles.serialise(bundles.Bundle("publicKey", payload, b"s", hint="h"))
    return AttestationRow(
        repository=where, about_digest=one, kind="declassification", statement=name("b", at), bundle=raw, authority="x",
        identity="x", key_id="k", added_at=NOW, added_by="p", event_index=0,
    )  # fmt: skip


def stored(session):
    session.flush()
    return {row.artifact: row.effective for row in session.exec(select(ArtifactClass)) if row.effective is not None}


@pytest.fixture
def opened(tmp_path):
    found = database.connect(f"sqlite:///{tmp_path / 'classes.sqlite3'}")
    migrations.migrate(found.engine)
    yield found
    found.dispose()


@pytest.mark.parametrize("block", range(4))
def test_classes_are_those_of_the_slow_loops(opened, block):
    for seed in range(block * 75, (block + 1) * 75):
        graph = Graph(seed)
        with opened.writing() as session:
            graph.write(session)
            session.flush()
            classifying.reconsider(session, graph.artifacts, NOW)
            assert stored(session) == graph.effective(), seed
            session.rollback()


def test_one_change_after_the_other_comes_to_the_same_as_all_at_once(opened):
    for seed in range(40):
        graph = Graph(1000 + seed)
        with opened.writing() as session:
            edges, said, graph.edges, graph.said = graph.edges, graph.said, set(), []
            graph.write(session)
            session.flush()
            classifying.reconsider(session, graph.artifacts, NOW)
            for child, parent in sorted(edges):
                session.add(Derivation(child=child, parent=parent, relation="merge", grade="claimed", recorded_at=NOW, event_index=0))  # fmt: skip
                session.flush()
                classifying.reconsider(session, [child], NOW)
            for at, (one, where, was, to) in enumerate(said):
                session.add(declassified(one, where, was, to, at))
                session.flush()
                classifying.reconsider(session, [one], NOW)
            graph.edges, graph.said = edges, said
            assert stored(session) == graph.effective(), seed
            session.rollback()


def test_ten_thousand_descendants_are_raised_in_seconds(opened):
    count = classifying.MAX_AFFECTED
    with opened.writing() as session:
        wide = Graph(1)
        wide.artifacts = [name("a", at) for at in range(count)]
        rows = [
            Derivation(
                child=wide.artifacts[at], parent=wide.artifacts[(at - 1) // 10], relation="merge", grade="attested",
                recorded_at=NOW, event_index=0,
            )
            for at in range(1, count)
        ]  # fmt: skip
        session.add_all(rows)
        classifying.declare(session, wide.artifacts[0], Classification.RESTRICTED, NOW)
        session.flush()
        started = datetime.now(UTC)
        classifying.reconsider(session, wide.artifacts[:1], NOW)
        assert stored(session) == dict.fromkeys(wide.artifacts, "restricted")
        assert datetime.now(UTC) - started < timedelta(seconds=20)
        session.rollback()
