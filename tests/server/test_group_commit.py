"""Group commit: many requests in one transaction, each as if it were alone; on both databases."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import event as listening
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from modelreg import merkle, notes, receipts
from modelreg.errors import Conflict, RecordUnavailable
from modelreg.trust import LogTrust
from modelreg_server import custody, custody_tree, database, group_commit, log_keys, migrations
from modelreg_server.custody import Actor, CustodyEvent, Event, EventType
from modelreg_server.custody_tree import CustodyHead
from modelreg_server.group_commit import Recorder
from modelreg_server.tables import Repository
from support.registry import signed

ACTOR = Actor("person:test", None)
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def opened(either_database):
    opened = signed(database.connect(either_database["database_url"], 40))
    migrations.migrate(opened.engine)
    yield opened
    opened.dispose()


def trust_of(opened):
    return LogTrust(opened.log_signer.origin, (log_keys.verifier_of(opened.log_signer),))


def appending(**detail):
    return lambda session: custody.append(session, ACTOR, Event(EventType.TAG_MOVED, detail=detail), NOW)


def entries(opened):
    with opened.reading() as session:
        rows = session.exec(select(CustodyEvent.index, CustodyEvent.entry).order_by(CustodyEvent.index)).all()
    assert [index for index, _ in rows] == list(range(len(rows)))
    return [entry for _, entry in rows]


def names(opened):
    with opened.reading() as session:
        return sorted(session.exec(select(Repository.name)))


class Together:
    """Makes one group of several units: the log's lock is held until all of them are queued."""

    def __init__(self, opened, recorder):
        self.opened, self.recorder = opened, recorder

    def __call__(self, *works):
        with ThreadPoolExecutor(len(works) + 1) as pool:
            with self.opened.writing() as session, session.begin():
                custody.hold(session)
                first = pool.submit(self.recorder.record, appending(first=True))
                until(lambda: self.recorder._committing and not self.recorder._queue)
                waiting = []
                for work in works:
                    waiting.append(pool.submit(self.recorder.record, work))
                    until(lambda: len(self.recorder._queue) == len(waiting))
            first.result()
            return [done.exception() or done.result() for done in waiting]


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def together(opened):
    return Together(opened, Recorder(opened))


def test_a_group_is_one_transaction_and_every_unit_has_its_own_answer_and_proof(opened, together):
    commits = []
    listening.listen(opened.engine, "commit", lambda _connection: commits.append(1))
    answers = together(*(appending(n=n) for n in range(20)))

    assert len(commits) == 3  # the one that held the lock, the first unit, the group
    assert [answer.value for answer in answers] == list(range(1, 21))
    log = entries(opened)
    for answer in answers:
        entry = receipts.verify(answer.proof(None).receipt.encode(), trust_of(opened))
        assert (entry.index, entry.entry) == (answer.value, log[answer.value])
        assert entry.checkpoint.size == 21


@pytest.mark.parametrize("before", [0, 1, 2, 3, 6, 7, 8, 21])
def test_proofs_hold_for_every_known_size_from_memory_and_from_the_database(opened, together, before):
    recorder = together.recorder
    roots = {}
    for n in range(before):
        proof = recorder.record(appending(n=n)).proof(None)
        checkpoint = receipts.verify(proof.receipt.encode(), trust_of(opened)).checkpoint
        roots[checkpoint.size] = checkpoint.root
    answers = together(*(appending(more=n) for n in range(5)))
    forgetful = Recorder(opened)
    cold = forgetful.record(appending(cold=True))

    for answer in [*answers, cold]:
        for known, root in roots.items():
            proof = answer.proof(known)
            new = receipts.verify(proof.receipt.encode(), trust_of(opened)).checkpoint
            hashes = notes.decode_hashes(proof.consistency, merkle.MAX_PROOF_HASHES)
            merkle.verify_consistency(known, root, new.size, new.root, hashes)


def writing(name, error=None):
    """Makes a row and an event, and perhaps changes its mind."""

    def work(session):
        session.add(Repository(name=name, created_at=NOW))
        session.flush()
        index = custody.append(session, ACTOR, Event(EventType.TAG_MOVED, name), NOW)
        session.add(Repository(name=f"{name}-late", created_at=NOW))
        if error is not None:
            raise error
        return index

    return work


def test_a_unit_that_refuses_undoes_itself_and_nobody_else(opened, together):
    refusal = Conflict("changed my mind")
    answers = together(writing("a/a"), writing("a/b", refusal), writing("a/c"), appending(last=True))

    assert answers[1] is refusal
    assert [answer.value for answer in answers if answer is not refusal] == [1, 2, 3]
    assert names(opened) == ["a/a", "a/a-late", "a/c", "a/c-late"]
    assert b"a/b" not in b"".join(entries(opened))
    proof = answers[3].proof(1)
    receipts.verify(proof.receipt.encode(), trust_of(opened))


def test_a_decisive_event_that_is_undone_does_not_move_the_epoch(opened, together):
    def work(session):
        custody.append(session, ACTOR, Event(EventType.ACCESS_REVOKED), NOW)
        raise Conflict("changed my mind")

    together(work, appending())

    with opened.reading() as session:
        assert custody.epoch(session) == 0


def test_a_unit_that_the_database_refuses_fails_alone(opened, together):
    answers = together(writing("a/a"), writing("a/a"), appending(last=True))

    assert "IntegrityError" in type(answers[1]).__name__
    assert [answers[0].value, answers[2].value] == [1, 2]
    assert names(opened) == ["a/a", "a/a-late"]
    assert len(entries(opened)) == 3


def test_a_unit_with_a_bug_fails_alone_and_leaves_nothing(opened, together):
    answers = together(writing("a/a", ZeroDivisionError()), appending(last=True))

    assert isinstance(answers[0], ZeroDivisionError)
    assert answers[1].value == 1
    assert names(opened) == []


def test_where_the_commit_fails_every_unit_fails_and_nothing_happened(opened, together):
    commits = []

    def fail_the_third(_connection):
        commits.append(1)
        if len(commits) == 3:
            from sqlalchemy.exc import OperationalError

            raise OperationalError("COMMIT", {}, Exception("disk full"))

    listening.listen(opened.engine, "commit", fail_the_third)
    answers = together(writing("a/a"), appending(n=1), appending(n=2))

    assert [type(answer) for answer in answers] == [RecordUnavailable] * 3
    assert names(opened) == []
    assert len(entries(opened)) == 1
    assert together.recorder.record(appending(after=True)).value == 1


def test_without_a_log_key_nothing_is_recorded(either_database):
    opened = database.connect(either_database["database_url"], 4)
    migrations.migrate(opened.engine)
    with pytest.raises(RecordUnavailable, match="no log key"):
        Recorder(opened).record(appending())
    assert entries(opened) == []
    opened.dispose()


def test_nobody_is_told_before_the_commit_is_durable(opened):
    recorder, told, may_commit = Recorder(opened), [], threading.Event()
    listening.listen(opened.engine, "commit", lambda _connection: may_commit.wait(20))
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: told.append(recorder.record(appending()).value))
        time.sleep(0.3)

        assert told == []
        may_commit.set()
        done.result()
    assert told == [0]


def test_a_node_that_was_rolled_back_is_never_believed(opened, together):
    """The cache of finished nodes holds committed ones only."""
    together.recorder.record(appending(n=0))
    before = dict(together.recorder._committed._kept)
    with pytest.raises(Conflict):
        together.recorder.record(writing("a/a", Conflict("no")))

    assert dict(together.recorder._committed._kept) == before


class Vouching:
    """Stands for the witnesses; it can be asked only while nobody holds the log's lock."""

    def __init__(self, opened, error=None):
        self.opened, self.error, self.asked = opened, error, []

    def cosign(self, note, size, proof):
        with self.opened.writing() as session, session.begin():
            custody.hold(session)
        old = self.asked[-1] if self.asked else 0
        self.asked.append(size)
        if self.error is not None:
            raise self.error
        assert (len(proof(old)) > 0) == (old not in {0, size})
        return note + "— somebody AAAAAAAA\n".encode()


def test_witnesses_are_asked_once_a_group_after_the_commit(opened):
    vouching = Vouching(opened)
    together = Together(opened, Recorder(opened, vouching))
    answers = together(*(appending(n=n) for n in range(8)))

    assert vouching.asked == [1, 9]
    for answer in answers:
        assert answer.proof(None).receipt.endswith("— somebody AAAAAAAA\n")
        receipts.verify(answer.proof(None).receipt.encode(), trust_of(opened))


def test_a_witness_that_fails_takes_nobody_the_receipt(opened):
    recorder = Recorder(opened, Vouching(opened, ConnectionError("gone")))

    receipts.verify(recorder.record(appending()).proof(None).receipt.encode(), trust_of(opened))


def test_a_group_has_a_limit(opened, together, monkeypatch):
    monkeypatch.setattr(group_commit, "MAX_UNITS", 3)
    answers = together(*(appending(n=n) for n in range(8)))

    sizes = {receipts.parse(answer.proof(None).receipt.encode()).note.split(b"\n")[1] for answer in answers}
    assert sizes == {b"4", b"7", b"9"}


def test_many_threads_get_contiguous_indexes_and_true_proofs(opened):
    recorder = Recorder(opened)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda n: recorder.record(appending(n=n)), range(240)))

    log = entries(opened)
    assert sorted(answer.value for answer in answers) == list(range(240))
    for answer in answers:
        entry = receipts.verify(answer.proof(None).receipt.encode(), trust_of(opened))
        assert log[entry.index] == entry.entry
    with opened.reading() as session:
        head = session.exec(select(CustodyHead)).one()
        assert merkle.root(240, custody_tree.reader(session)) == merkle.growing_from(240, head.frontier).root()


def test_where_the_leading_thread_is_torn_out_nobody_is_told_that_it_was_recorded(opened, together, monkeypatch):
    class Torn(BaseException):
        pass

    transact = Recorder._transact

    def torn(self, group):
        if len(group) > 1:
            raise Torn
        return transact(self, group)

    monkeypatch.setattr(Recorder, "_transact", torn)
    answers = together(appending(n=1), appending(n=2))

    assert sorted(type(answer).__name__ for answer in answers) == ["RecordUnavailable", "Torn"]
    assert together.recorder.record(appending()).value == 1


def test_a_worker_learns_in_one_query_what_others_appended_between_its_groups(opened):
    """Else every proof of a group asks the database for the other workers' nodes: a quarter of PostgreSQL's grants (seen)."""
    ours, theirs = Recorder(opened), Recorder(opened)
    ours.record(appending(ours=1))
    for turn in range(20):
        theirs.record(appending(theirs=turn))
    asked = []
    listening.listen(opened.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    recorded = ours.record(appending(ours=2))
    assert len([query for query in asked if query.startswith("SELECT custody_node")]) == 1
    asked.clear()
    proof = recorded.proof(3)
    assert asked == []
    assert proof.receipt.partition("\n\n")[2].split("\n")[1] == "22"
    assert len(proof.consistency) == len(merkle.consistency(3, 22, lambda nodes: [b""] * len(nodes)))


def test_a_group_is_durable_whatever_becomes_of_the_look_at_others(opened, monkeypatch):
    ours, theirs = Recorder(opened), Recorder(opened)
    ours.record(appending(ours=1))
    theirs.record(appending(theirs=1))

    def down(*_):
        raise OperationalError("SELECT", {}, Exception("the database went away"))

    monkeypatch.setattr(custody_tree, "finished_between", down)
    recorded = ours.record(appending(ours=2))
    assert recorded.proof(1).index == 2
