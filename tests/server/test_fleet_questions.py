"""On a generated organisation every answer equals what a brute-force look at everything says, on both databases."""

from datetime import timedelta

import pytest

from modelreg_server import database, migrations
from modelreg_server.callers import Caller
from modelreg_server.custody import Actor
from modelreg_server.identity import Principal, parse_scope
from modelreg_server.lookups import blast, lineage, loads, origins, pulls, tracing
from modelreg_server.lookups.sight import as_of, sight_of
from modelreg_server.lookups.subjects import Question, subject_of
from support import fleet
from support.fleet import END, START, Oracle

EVENTS = 20_000


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def populated(request, tmp_path_factory):
    """A database with a fleet in it, and the oracle of that fleet."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('fleet') / 'fleet.sqlite3'}"
    else:
        url = request.getfixturevalue("postgres").make_database("fleet")
    opened = database.connect(url, 5)
    migrations.migrate(opened.engine)
    made = fleet.populate(opened.engine, events=EVENTS)
    yield opened, Oracle(made)
    opened.dispose()


class Asking:
    """The operations as a route calls them."""

    def __init__(self, opened, *scopes, at=None):
        self.opened = opened
        self.caller = Caller(
            Principal("person:auditor", "t", tuple(parse_scope(text) for text in scopes or ("audit:*/*",)), END),
            Actor("person:auditor", None),
            END,
        )
        self.at = at

    def __call__(self, operation, question, **more):
        with self.opened.reading() as session:
            sight = sight_of(session, self.caller)
            now = as_of(session, self.caller, self.at)
            subject = subject_of(session, self.caller, sight, question, now)
            return operation(session, sight, subject, now, **more)

    def blast(self, origin, asked, limit=10_000):
        with self.opened.reading() as session:
            sight = sight_of(session, self.caller)
            now = as_of(session, self.caller, self.at)
            if origin is origins.of_subject:
                asked = subject_of(session, self.caller, sight, Question(digest=asked), now)
            return blast.blast_radius(session, sight, origin(session, sight, asked, now.time), now, limit=limit)


def same(answer, expected):
    """Every row of a blast radius against the oracle's."""
    assert {row.artifact for row in answer.artifacts} == expected["artifacts"]
    assert answer.counts.artifacts == len(expected["artifacts"])
    assert (answer.counts.grants, answer.counts.received) == (expected["grants"], expected["received"])
    hosts = {
        (row.host, row.verified): {
            "artifacts": row.artifacts, "grants": row.grants, "received": row.received, "last": row.last_granted_at,
            "live": row.live_loads, "stale": row.stale_loads,
        }
        for row in answer.hosts
    }  # fmt: skip
    assert hosts == expected["hosts"]
    assert answer.counts.hosts == len(expected["hosts"])
    assert {row.principal: set(row.roles) for row in answer.people} == expected["people"]
    assert {row.principal: row.grants for row in answer.people if row.grants} == expected["pulled"]
    assert {row.event: row.state for row in answer.loads} == expected["living"]
    unknown = {row.what: row.count for row in answer.unknown}
    assert unknown.get("lineage", 0) == expected["orphans"]
    assert unknown.get("arrival", 0) == expected["grants"] - expected["received"]
    assert not answer.truncated


@pytest.mark.parametrize("which", [0, 1, 7, 60, 199])
def test_the_blast_radius_of_an_artifact_is_the_oracles(populated, which):
    opened, oracle = populated
    artifact = oracle.made.artifacts[which]
    same(Asking(opened).blast(origins.of_subject, artifact), oracle.blast({artifact}))


def test_the_blast_radius_of_a_file_in_many_artifacts_is_the_oracles(populated):
    opened, oracle = populated
    path, _, blake3 = oracle.made.files[oracle.made.artifacts[0]][1]
    having = {name for name, files in oracle.made.files.items() if any(row[2] == blake3 for row in files)}
    assert len(having) == 40
    answer = Asking(opened).blast(origins.of_subject, f"blake3:{blake3}")
    same(answer, oracle.blast(having))
    assert {row.why for row in answer.artifacts if row.depth == 0} == {f"has the file as {path}"}


def test_the_blast_radius_of_a_signer_is_the_oracles(populated):
    opened, oracle = populated
    identity = "email:signer3@acme.example"
    expected = oracle.blast(oracle.signed_by(identity))
    same(Asking(opened).blast(origins.of_signer, identity), expected)
    key = "sha256:" + fleet.digest_of("key", identity)
    same(Asking(opened).blast(origins.of_subject, key), expected)
    everybody = set().union(*(oracle.signed_by(f"email:signer{at}@acme.example") for at in range(12)))
    same(Asking(opened).blast(origins.of_signer, "email:*@acme.example"), oracle.blast(everybody))


def test_the_blast_radius_of_a_principal_is_the_oracles(populated):
    opened, oracle = populated
    for principal in ("person:p001", "workload:w03", "person:nobody"):
        same(Asking(opened).blast(origins.of_principal, principal), oracle.blast(oracle.published_by(principal)))


def test_the_blast_radius_of_a_host_is_the_oracles(populated):
    opened, oracle = populated
    for host in (oracle.made.hosts[0], oracle.made.hosts[500], "gpu-unheard-of"):
        same(Asking(opened).blast(origins.of_host, host), oracle.blast(oracle.touched_by(host)))


def test_the_past_is_answered_as_it_was(populated):
    opened, oracle = populated
    then = START + (END - START) / 3
    artifact = oracle.made.artifacts[2]
    answer = Asking(opened, at=then).blast(origins.of_subject, artifact)
    same(answer, oracle.blast({artifact}, then))
    assert 0 < answer.counts.grants < Asking(opened).blast(origins.of_subject, artifact).counts.grants
    assert (answer.as_of.time, answer.as_of.answered_at, answer.as_of.log_size) == (then, END, EVENTS)


def test_a_long_answer_is_cut_and_says_so_while_its_counts_are_whole(populated):
    opened, oracle = populated
    artifact = oracle.made.artifacts[0]
    whole, cut = (Asking(opened).blast(origins.of_subject, artifact, limit) for limit in (10_000, 7))
    assert cut.truncated
    assert (len(cut.artifacts), len(cut.hosts), len(cut.people), len(cut.loads)) == (7, 7, 7, 7)
    assert cut.counts == whole.counts
    assert cut.hosts == whole.hosts[:7]


def test_pulls_are_the_oracles_page_by_page(populated):
    opened, oracle = populated
    artifact = oracle.made.artifacts[5]
    decided = oracle.events({artifact}, "artifact.granted", "artifact.refused")
    arrived = {event.grant: event.at for event in oracle.events({artifact}, "artifact.received")}
    rows, before = [], None
    while True:
        answer = Asking(opened)(pulls.pulls, Question(digest=artifact), before=before, limit=10)
        rows += answer.pulls
        before = answer.next_before
        if before is None:
            break
    assert [row.event for row in rows] == [event.index for event in reversed(decided)]
    for row, event in zip(rows, reversed(decided), strict=True):
        assert (row.principal, row.host, row.verified_host, row.at) == (
            event.principal, event.host, event.verified_host, event.at,
        )  # fmt: skip
        assert row.received_at == (arrived.get(event.grant) if event.grant else None)
        assert (row.decision == "granted") == (event.type == "artifact.granted")
    assert answer.granted + answer.refused == len(decided)


def test_pulls_since_and_until_a_time_are_the_oracles(populated):
    opened, oracle = populated
    artifact = oracle.made.artifacts[5]
    since, until = START + (END - START) / 4, START + (END - START) / 2
    decided = oracle.events({artifact}, "artifact.granted", "artifact.refused")
    answer = Asking(opened, at=until)(pulls.pulls, Question(digest=artifact), since=since, limit=1000)
    assert {row.event for row in answer.pulls} == {e.index for e in decided if since <= e.at <= until}


@pytest.mark.parametrize("share", [1, 2, 3])
def test_where_it_is_loaded_at_a_time_is_the_oracles(populated, share):
    opened, oracle = populated
    at = START + (END - START) / share
    for artifact in oracle.made.artifacts[:20]:
        answer = Asking(opened, at=at)(loads.loaded, Question(digest=artifact), limit=10_000)
        expected = {load["event_index"]: oracle.state(load, at) for load in oracle.living({artifact}, at)}
        assert {row.event: row.state for row in answer.loads} == expected


def test_lineage_is_the_oracles_and_ends_in_circles(populated):
    opened, oracle = populated
    for artifact in (oracle.made.artifacts[0], oracle.made.artifacts[150]):
        answer = Asking(opened)(lineage.lineage, Question(digest=artifact), up=True, down=True, limit=10_000)
        above, below = oracle.ancestors({artifact}), oracle.descendants({artifact})
        assert {(edge.child, edge.parent, edge.relation) for edge in answer.down} == {
            edge for edge in oracle.made.edges if edge[1] in below
        }
        assert {(edge.child, edge.parent, edge.relation) for edge in answer.up} == {
            edge for edge in oracle.made.edges if edge[0] in above
        }
        assert {node.artifact for node in answer.nodes} == above | below
        assert {node.artifact for node in answer.nodes if not node.known} == above & set(oracle.made.dangling)


def test_a_traced_file_leads_to_its_artifacts_and_their_relatives(populated):
    opened, oracle = populated
    artifact = oracle.made.artifacts[30]
    path, sha256, _ = oracle.made.files[artifact][0]
    answer = Asking(opened)(tracing.trace, Question(digest=f"sha256:{sha256}"))
    (traced,) = answer.artifacts
    assert (traced.found.artifact, traced.found.by, traced.found.path) == (artifact, "file", path)
    assert {row.repository for row in traced.publications} == oracle.made.repositories[artifact]
    assert {row.parent for row in traced.parents} == {p for c, p, _ in oracle.made.edges if c == artifact}
    assert {row.child for row in traced.children} == {c for c, p, _ in oracle.made.edges if p == artifact}
    assert traced.grants == len(oracle.events({artifact}, "artifact.granted"))
    assert traced.live_loads == len(oracle.living({artifact}))
    root = Asking(opened)(tracing.trace, Question(digest=traced.root))
    assert [(row.found.artifact, row.found.by) for row in root.artifacts] == [(artifact, "root")]


def test_recalled_artifacts_are_shown_as_such(populated):
    opened, oracle = populated
    for recall in oracle.made.recalls:
        answer = Asking(opened)(tracing.trace, Question(digest=recall["artifact_digest"]))
        expected = "revoked" if recall["kind"] == "revocation" else "quarantined"
        assert (answer.artifacts[0].state.state, answer.artifacts[0].state.reason) == (expected, "a drill")
    before = Asking(opened, at=END - timedelta(seconds=1))
    answer = before(tracing.trace, Question(digest=oracle.made.recalls[0]["artifact_digest"]))
    assert answer.artifacts[0].state.state == "active"


def test_whoever_may_audit_some_repositories_sees_those_alone(populated):
    """Every row of a blast radius belongs to what they may audit, and what they may not leads nowhere."""
    opened, oracle = populated
    mine = {name for names in oracle.made.repositories.values() for name in names if name.startswith("team-3/")}
    within = {artifact for artifact, names in oracle.made.repositories.items() if names & mine}
    artifact = next(name for name in oracle.made.artifacts if name in within and
                    any(parent == name and child in within for child, parent, _ in oracle.made.edges))  # fmt: skip
    reached = {artifact}
    while new := {child for child, parent, _ in oracle.made.edges if parent in reached and child in within} - reached:
        reached |= new
    granted = [e for e in oracle.events(reached, "artifact.granted") if e.repository in mine]

    answer = Asking(opened, "audit:team-3/*").blast(origins.of_subject, artifact)

    assert {row.artifact for row in answer.artifacts} == reached
    assert {name for row in answer.artifacts for name in row.repositories} <= mine
    assert answer.counts.grants == len(granted)
    assert {row.host for row in answer.hosts} >= {e.verified_host or e.host for e in granted}
    assert {row.repository for row in answer.loads} <= mine
    assert {row.invited_by for row in answer.hosts} == {None}


def test_an_artifact_outside_ones_sight_answers_as_one_that_never_was(populated):
    opened, oracle = populated
    hidden = next(
        name for name, where in oracle.made.repositories.items() if not any(r.startswith("team-3/") for r in where)
    )
    never = "sha256:" + "0" * 64
    asking = Asking(opened, "audit:team-3/*")
    for operation, more in (
        (tracing.trace, {}),
        (pulls.pulls, {"limit": 10}),
        (loads.loaded, {"limit": 10}),
        (lineage.lineage, {"up": True, "down": True, "limit": 10}),
    ):
        told = [
            asking(operation, Question(digest=digest), **more).model_dump_json().replace(digest, "DIGEST")
            for digest in (hidden, never)
        ]
        assert told[0] == told[1], operation
    told = [
        asking.blast(origins.of_subject, digest).model_dump_json().replace(digest, "D") for digest in (hidden, never)
    ]
    assert told[0] == told[1]
