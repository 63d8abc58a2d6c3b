"""Logs for tests: some events of several people on a real database, and a store of copies in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from modelreg.errors import StorageUnavailable
from modelreg_server import custody, database, log_copies, migrations
from modelreg_server.access import HostClass, HostFacts
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.database import Database
from modelreg_server.log_copies import Copies
from support.registry import signed

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DIGEST = "sha256:" + "ab" * 32


class MemoryStore:
    """A `LogStore` that can be made to fail, and keeps to the port."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fails = False
        self.written: list[str] = []

    def put_copy(self, key: str, data: bytes) -> None:
        self._may_fail()
        self.objects[key] = bytes(data)
        self.written.append(key)

    def get_copy(self, key: str, max_bytes: int) -> bytes | None:
        self._may_fail()
        found = self.objects.get(key)
        return found if found is not None and len(found) <= max_bytes else None

    def list_copies(self, folder: str, after: str = "") -> list[str]:
        self._may_fail()
        names = [key.removeprefix(folder + "/") for key in self.objects if key.startswith(folder + "/")]
        return sorted(name for name in names if "/" not in name and name > after)[:1000]

    def remove_copy(self, key: str) -> None:
        self._may_fail()
        self.objects.pop(key, None)

    def _may_fail(self) -> None:
        if self.fails:
            raise StorageUnavailable("The blob store could not be reached: try again later.")


def event_of(number: int) -> tuple[Actor, Event]:
    """One of a few kinds of events, so that every column is set in some."""
    person = f"person:p{number % 7}"
    host = HostFacts(f"gpu-{number % 5}", HostClass.SERVER, "eu-1") if number % 3 == 0 else None
    actor = Actor(person, f"{number % 4:036}", "10.0.0.7", "modelreg/0.3", {"iss": "x"} if number % 2 else None, host)
    kind = (EventType.ARTIFACT_GRANTED, EventType.TAG_MOVED, EventType.TOKEN_ISSUED, EventType.ARTIFACT_LOADED)[
        number % 4
    ]
    named = kind is EventType.TOKEN_ISSUED
    return actor, Event(
        kind,
        repository="demo/m",
        artifact=DIGEST,
        tag="v1" if number % 2 else None,
        host=f"claimed-{number % 9}",
        purpose="pull" if number % 4 == 0 else None,
        detail={"n": number, "flag": bool(number % 2), "unit": "Ω"},
        about=f"person:q{number % 3}" if named else None,
        personal={"for": f"person:q{number % 3}"} if named else {},
    )


def append_some(opened: Database, numbers: range, at: datetime = NOW) -> None:
    """Append an event a number, fifty in a transaction."""
    for start in range(numbers.start, numbers.stop, 50):
        with opened.writing() as session, session.begin():
            for number in range(start, min(start + 50, numbers.stop)):
                custody.append(session, *event_of(number), at + timedelta(seconds=number))


@contextmanager
def opened_log(url: str, count: int) -> Iterator[tuple[Database, Copies]]:
    """A migrated database with that many events, published to a store in memory."""
    opened = signed(database.connect(url, 5), KEY)
    migrations.migrate(opened.engine)
    append_some(opened, range(count))
    copies = Copies(MemoryStore(), opened.log_signer)
    if count:
        publish(opened, copies)
    try:
        yield opened, copies
    finally:
        opened.dispose()


def publish(opened: Database, copies: Copies, since: int = 0) -> int:
    with opened.reading() as session:
        return log_copies.publish(session, copies, since)


def without_triggers(connection) -> None:
    """What an administrator of the database can do, and an attacker who became one."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("ALTER TABLE custody_event DISABLE TRIGGER USER"))
        return
    names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
    for name in names:
        connection.execute(text(f'DROP TRIGGER "{name}"'))
