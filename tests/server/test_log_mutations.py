"""Thousands of ways to falsify a log of 1,000 events with the database's own rights: each is found, with its index.

The triggers are dropped, as whoever administers the database can; each change is made in a savepoint, the real verification
runs on the same connection, and the change is undone. A bounded part runs by default; `MODELREG_LOG_MUTATIONS=all` runs all.
"""

import functools
import os
import random
from collections import Counter
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select, text, update

from modelreg import merkle
from modelreg.canonical import canonical_json
from modelreg_server import log_entries, log_verifying
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_tree import CustodyHead, CustodyNode, LogSigner
from modelreg_server.tables import table_of
from support.logs import KEY, opened_log, without_triggers

SIZE = 1000
ALL = os.environ.get("MODELREG_LOG_MUTATIONS") == "all"
PART = 1 if ALL else 20  # every how many of each kind
EVENT, NODE, HEAD = table_of(CustodyEvent), table_of(CustodyNode), table_of(CustodyHead)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


class World:
    """The log as it was: entries, rows, hashes, and every older signed head."""

    def __init__(self, connection, origin):
        self.rows = [row._asdict() for row in connection.execute(select(EVENT).order_by(EVENT.c.index))]
        self.entries = [row["entry"] for row in self.rows]
        self.leaves = [merkle.leaf_hash(entry) for entry in self.entries]
        self.origin = origin
        self.signer, self.forger = LogSigner(origin, KEY), LogSigner(origin, OTHER_KEY)
        self.note = connection.execute(select(HEAD.c.checkpoint)).scalar_one()

    def tree(self, leaves):
        tree = merkle.Growing(0, [])
        for leaf in leaves:
            tree.append(leaf)
        return tree

    def altered(self, index, random_):
        """Another entry that modelreg could have written at this index."""
        members = log_entries.members_of(self.entries[index])
        members = {
            **members,
            "detail": {**members["detail"], "n": members["detail"]["n"] + 1 + random_.randrange(1000)},
        }
        return canonical_json(members)


# What an attacker does. Each returns the index that must be named; None where only the whole is wrong.


def delete_event(connection, world, index, _random):
    connection.execute(delete(EVENT).where(EVENT.c.index == index))
    return index


def edit_column(connection, world, index, random_):
    name = random_.choice([name for name in log_entries.COLUMNS if name not in {"index", "entry"}])
    value = world.rows[index][name]
    choices = {
        "recorded_at": lambda: value + random_.choice([timedelta(microseconds=1), timedelta(days=-1)]),
        "detail": lambda: random_.choice([{**value, "flag": int(value["flag"])}, {}, {**value, "x": None}, {"n": 1.0}]),
        "identity": lambda: {"iss": "x"},
    }
    texts = ["person:forger", "", " ", *([None] if name not in {"type", "principal"} else [])]
    changed = choices[name]() if name in choices else random_.choice([it for it in texts if it != value])
    connection.execute(update(EVENT).where(EVENT.c.index == index).values({name: changed}))
    return index


def edit_type(connection, world, index, random_):
    """SQLite keeps a text where bytes, a time or JSON belong."""
    if connection.dialect.name != "sqlite":
        return edit_column(connection, world, index, random_)
    name = random_.choice(["entry", "recorded_at", "detail", "identity", "type", "principal"])
    value = random_.choice(["'{'", "''", "x'00'", "'1'", "1.5"])
    connection.execute(text(f'UPDATE custody_event SET "{name}" = {value} WHERE "index" = {index}'))
    return index


def edit_index(connection, world, index, random_):
    connection.execute(update(EVENT).where(EVENT.c.index == index).values(index=random_.choice([-1, SIZE, 5000])))
    return -1 if connection.execute(select(EVENT.c.index).where(EVENT.c.index == -1)).scalar() else index


def edit_entry_bytes(connection, world, index, random_):
    entry = bytearray(world.entries[index])
    match random_.randrange(4):
        case 0:
            entry[random_.randrange(len(entry))] ^= 1 << random_.randrange(8)
        case 1:
            del entry[random_.randrange(len(entry)) :]
        case 2:
            entry += random_.choice([b" ", b"\n", b"x" * 9000])
        case 3:
            entry = bytearray(world.entries[(index + 1) % SIZE])
    connection.execute(update(EVENT).where(EVENT.c.index == index).values(entry=bytes(entry)))
    return index


def edit_entry_and_columns(connection, world, index, random_):
    row = log_entries.row_of(index, world.altered(index, random_))
    connection.execute(update(EVENT).where(EVENT.c.index == index).values(row))
    return index


def edit_entry_columns_and_leaf(connection, world, index, random_):
    entry = world.altered(index, random_)
    connection.execute(update(EVENT).where(EVENT.c.index == index).values(log_entries.row_of(index, entry)))
    leaf = NODE.update().where(NODE.c.level == 0, NODE.c.index == index)
    connection.execute(leaf.values(hash=merkle.leaf_hash(entry)))
    return index


def edit_node(connection, world, index, random_):
    level = random_.randrange(0, 9)
    at = index >> level
    if (at + 1) << level > SIZE:
        level, at = 0, index
    where = (NODE.c.level == level, NODE.c.index == at)
    if random_.randrange(3):
        connection.execute(update(NODE).where(*where).values(hash=random_.randbytes(32)))
    else:
        connection.execute(delete(NODE).where(*where))
    return at << level


def add_node(connection, world, index, random_):
    level = random_.randrange(0, 12)
    connection.execute(insert(NODE).values(level=level, index=SIZE + index, hash=random_.randbytes(32)))
    return ((SIZE >> level) << level) if (SIZE >> level) else 0


def swap_events(connection, world, index, random_):
    other = random_.choice([at for at in (index + 1, random_.randrange(SIZE)) if at < SIZE and at != index] or [0])
    for old, new in ((index, -1), (other, index), (-1, other)):
        connection.execute(update(EVENT).where(EVENT.c.index == old).values(index=new))
    return min(index, other)


def shift_events(connection, world, index, _random):
    """One goes, and the rest moves up."""
    connection.execute(delete(EVENT).where(EVENT.c.index == index))
    for at in range(index + 1, min(index + 40, SIZE)):
        connection.execute(update(EVENT).where(EVENT.c.index == at).values(index=at - 1))
    return index


def duplicate_event(connection, world, index, random_):
    at = random_.choice([SIZE, SIZE, SIZE + 1 + index])
    connection.execute(insert(EVENT).values({**world.rows[index], "index": at}))
    return SIZE


def cut_off_events(connection, world, index, _random):
    connection.execute(delete(EVENT).where(EVENT.c.index >= index))
    return index


def roll_back(connection, world, index, _random):
    """Everything as it truly was, with the checkpoint that was truly signed then: only the published copy knows more."""
    connection.execute(delete(EVENT).where(EVENT.c.index >= index))
    tree = world.tree(world.leaves[:index])
    _write_tree(connection, tree, index, world.signer.checkpoint(index, tree.root()))
    return index


def fork(connection, world, index, random_):
    """A suffix rewritten with all its hashes; the head is forged, kept, older, or without a signature."""
    entry = world.altered(index, random_)
    stop = SIZE if random_.randrange(2) else random_.randrange(index + 1, SIZE + 1)
    connection.execute(delete(EVENT).where(EVENT.c.index >= stop))
    connection.execute(update(EVENT).where(EVENT.c.index == index).values(log_entries.row_of(index, entry)))
    tree = world.tree([*world.leaves[:index], merkle.leaf_hash(entry), *world.leaves[index + 1 : stop]])
    older = world.tree(world.leaves[:index])
    note = random_.choice(
        [
            world.note,
            world.forger.checkpoint(stop, tree.root()),
            world.signer.checkpoint(index, older.root()),
            None,
            LogSigner("another/log", KEY).checkpoint(stop, tree.root()),
        ]
    )
    _write_tree(connection, tree, stop, note)
    return index


def extend(connection, world, index, random_):
    """Events that nobody's key signed, behind the head that was signed."""
    entry = world.altered(index, random_)
    connection.execute(insert(EVENT).values(log_entries.row_of(SIZE, entry)))
    tree = world.tree([*world.leaves, merkle.leaf_hash(entry)])
    note = random_.choice([world.note, world.forger.checkpoint(SIZE + 1, tree.root())])
    _write_tree(connection, tree, SIZE + 1, note)
    return SIZE


def edit_head(connection, world, index, random_):
    frontier = connection.execute(select(HEAD.c.frontier)).scalar_one()
    match random_.randrange(4):
        case 0:
            values = {"frontier": random_.randbytes(32) + frontier[32:]}
        case 1:
            values = {"frontier": frontier[:-32]}
        case 2:
            note = bytearray(world.note)
            note[random_.randrange(len(note))] ^= 1
            values = {"checkpoint": bytes(note)}
        case 3:
            values = {"checkpoint": None}
    connection.execute(update(HEAD).values(values))
    return


def _write_tree(connection, tree, size, note):
    connection.execute(delete(NODE))
    connection.execute(
        insert(NODE), [{"level": level, "index": at, "hash": value} for level, at, value in tree.finished]
    ) if size else None
    connection.execute(update(HEAD).values(size=size, frontier=b"".join(tree.frontier), checkpoint=note))


KINDS = {
    delete_event: 500, edit_column: 900, edit_type: 100, edit_index: 60, edit_entry_bytes: 500, edit_entry_and_columns: 300,
    edit_entry_columns_and_leaf: 150, edit_node: 400, add_node: 60, swap_events: 400, shift_events: 60, duplicate_event: 120,
    cut_off_events: 250, roll_back: 150, fork: 300, extend: 40, edit_head: 60,
}  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").make_database("mutations")
    return f"sqlite:///{tmp_path / 'mutations.sqlite3'}"


@pytest.fixture
def remembered(monkeypatch):
    """Entries that did not change are parsed once: the same function, which depends on nothing but its argument."""
    monkeypatch.setattr(log_entries, "members_of", functools.lru_cache(20_000)(log_entries.members_of))


def test_there_are_at_least_four_thousand_ways():
    assert sum(KINDS.values()) >= 4000


@pytest.mark.timeout(3600)
def test_every_falsification_is_found_with_the_index_it_begins_at(url, remembered):
    missed, tried = [], Counter()
    with opened_log(url, SIZE) as (opened, copies), opened.engine.connect() as connection, connection.begin() as whole:
        without_triggers(connection)
        assert log_verifying.verify(connection, copies).findings == ()
        world = World(connection, copies.signer.origin)
        for kind, count in KINDS.items():
            for number in range(0, count, PART):
                random_ = random.Random(f"{kind.__name__} {number}")
                index = number % SIZE if count >= 400 else random_.randrange(1, SIZE)
                with connection.begin_nested() as change:
                    expected = kind(connection, world, index, random_)
                    found = log_verifying.verify(connection, copies).findings
                    change.rollback()
                tried[kind.__name__] += 1
                if not found or found[0].index != expected:
                    missed.append((kind.__name__, number, index, expected, found[:3]))
        assert log_verifying.verify(connection, copies).findings == ()
        whole.rollback()
    print(sum(tried.values()), dict(tried))
    assert not missed, (len(missed), missed[:10])
    assert sum(tried.values()) >= (4000 if ALL else 200)


def test_a_fork_behind_what_was_published_begins_where_the_published_log_ends(url):
    with opened_log(url, 90) as (opened, copies):
        from support.logs import append_some

        append_some(opened, range(90, 120))
        with opened.engine.connect() as connection, connection.begin() as whole:
            without_triggers(connection)
            world = World(connection, copies.signer.origin)
            tree = world.tree(
                [*world.leaves[:100], merkle.leaf_hash(world.altered(100, random.Random(1))), *world.leaves[101:]]
            )
            row = log_entries.row_of(100, world.altered(100, random.Random(1)))
            connection.execute(update(EVENT).where(EVENT.c.index == 100).values(row))
            _write_tree(connection, tree, 120, world.note)
            found = log_verifying.verify(connection, copies).findings
            whole.rollback()
    assert [(it.index, it.what) for it in found] == [(90, "the entries do not make the root that was signed")]


def test_a_row_that_stands_there_twice_is_found_where_the_key_was_dropped(postgres):
    with opened_log(postgres.make_database("twice"), 40) as (opened, copies):
        with opened.engine.connect() as connection, connection.begin() as whole:
            without_triggers(connection)
            connection.execute(text("ALTER TABLE custody_event DROP CONSTRAINT pk_custody_event"))
            row = connection.execute(select(EVENT).where(EVENT.c.index == 17)).one()._asdict()
            connection.execute(insert(EVENT).values(row))
            found = log_verifying.verify(connection, copies).findings
            whole.rollback()
    assert found[0].index == 17
