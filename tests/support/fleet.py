"""A generated organisation: models with derivations, hosts, people, and a log of what they did; and what an answer must be.

`populate` writes real rows in bulk, with the tree over them, so that a registry can go on with the log; and it remembers
what it made in plain lists. `Oracle` answers from those lists with loops, sharing no code and no query with the registry.
"""

import hashlib
import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Engine, insert, update
from sqlmodel import SQLModel

from modelreg import merkle
from modelreg.canonical import canonical_json
from modelreg_server import custody_identities, tables
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_identities import CustodyIdentity
from modelreg_server.custody_tree import CustodyHead, CustodyNode

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(days=90)
RELATIONS = ("finetune", "adapter", "merge", "quantized", "converted", "distilled")
_BATCH = 5_000


class Happened(NamedTuple):
    """What the oracle needs of one event."""

    index: int
    type: str
    at: datetime
    artifact: str | None
    repository: str | None
    host: str | None
    verified_host: str | None
    principal: str
    grant: str | None


@dataclass
class Fleet:
    """Everything that was made."""

    events: list[Happened] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    files: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)  # artifact -> path, sha256, blake3
    repositories: dict[str, set[str]] = field(default_factory=dict)  # artifact -> names
    publishers: dict[str, set[str]] = field(default_factory=dict)
    signers: dict[str, set[str]] = field(default_factory=dict)  # artifact -> identities
    edges: set[tuple[str, str, str]] = field(default_factory=set)  # child, parent, relation
    dangling: list[str] = field(default_factory=list)
    inviters: dict[str, str] = field(default_factory=dict)  # host -> who invited it
    loads: list[dict[str, Any]] = field(default_factory=list)
    recalls: list[dict[str, Any]] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    principals: list[str] = field(default_factory=list)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)


def digest_of(*words: object) -> str:
    return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()


def populate(engine: Engine, *, seed: int = 4, models: int = 200, hosts: int = 1000, events: int = 20_000) -> Fleet:
    """Fill an empty, migrated database. Everything follows from the seed."""
    made = Fleet()
    maker = _Maker(random.Random(seed), made, models, hosts, events)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA cache_size = -1000000")  # so many indexes, and all of them at random
        for table, rows in maker.things():
            _insert(connection, table, iter(rows))
        _insert(connection, CustodyIdentity, iter(maker.identities))
        _insert(connection, CustodyEvent, maker.log())
        _insert(connection, tables.RuntimeLoad, iter(made.loads))
        _insert(connection, tables.Recall, iter(made.recalls))
        nodes = ({"level": level, "index": index, "hash": value} for level, index, value in maker.tree.finished)
        _insert(connection, CustodyNode, nodes)
        frontier = b"".join(maker.tree.frontier)
        connection.execute(update(CustodyHead).values(size=len(made.events), frontier=frontier, appended_at=END))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # What a database that has lived for a while has done by itself.
        connection.exec_driver_sql("ANALYZE" if engine.dialect.name == "sqlite" else "VACUUM ANALYZE")
    return made


def _insert(connection: Any, table: type[SQLModel], rows: Iterator[dict[str, Any]]) -> None:
    while batch := list(islice(rows, _BATCH)):
        connection.execute(insert(table), batch)


class _Maker:
    def __init__(self, dice: random.Random, made: Fleet, models: int, hosts: int, events: int) -> None:
        self.dice, self.made, self.count = dice, made, events
        self.tree = merkle.growing_from(0, b"")
        made.principals = [f"person:p{at:03}" for at in range(60)] + [f"workload:w{at:02}" for at in range(20)]
        made.hosts = [f"gpu-{at:04}" for at in range(hosts)]
        made.artifacts = ["sha256:" + digest_of("artifact", seed_of(dice), at) for at in range(models)]
        self.verified = {host for host in made.hosts if dice.random() < 0.85}
        self.classes = {host: dice.choice(["server", "server", "server", "ci", "workstation"]) for host in made.hosts}
        self.identities: list[dict[str, Any]] = []
        self.commitments: dict[str, list[str]] = {}
        for principal in made.principals:
            self.commitments[principal] = [self._identity(principal, at) for at in range(dice.randint(1, 4))]
        self.by_host = {host: dice.sample(made.artifacts, min(models, dice.randint(3, 12))) for host in made.hosts}
        self.users = {host: dice.sample(made.principals, 2) for host in made.hosts}

    def _identity(self, principal: str, at: int) -> str:
        salt = hashlib.sha256(f"{principal} {at}".encode()).digest()
        body = {
            "principal": principal,
            "token": str(uuid.UUID(int=self.dice.getrandbits(128))),
            "identity": None,
            "client_address": f"10.{self.dice.randint(0, 255)}.{self.dice.randint(0, 255)}.9",
            "user_agent": "modelreg/0.1",
        }
        plain = canonical_json(body)
        commitment = custody_identities.commitment_of(salt, plain)
        self.identities.append(
            {
                "commitment": commitment, "plain_sha256": hashlib.sha256(plain).hexdigest(), "salt": salt,
                "principal": principal, "body": body,
            }
        )  # fmt: skip
        return commitment

    def things(self) -> Iterator[tuple[type[SQLModel], list[dict[str, Any]]]]:
        """Rows beside the log, in an order that foreign keys allow."""
        dice, made = self.dice, self.made
        names = [f"team-{at % 7}/model-{at}" for at in range(max(2, len(made.artifacts) // 3))]
        yield (
            tables.Repository,
            [{"id": at + 1, "name": name, "created_at": START, "sensitive": False} for at, name in enumerate(names)],
        )
        blobs, artifacts, files = [], [], []
        shared = (digest_of("shared", "sha"), digest_of("shared", "blake"))
        for at, artifact in enumerate(made.artifacts):
            own = (digest_of("sha", artifact), digest_of("blake", artifact))
            made.files[artifact] = [("model.safetensors", *own)] + (
                [("tokenizer.json", *shared)] if at % 5 == 0 else []
            )
            blobs += [own] if at else [own, shared]
            artifacts.append({"digest": artifact, "manifest": b"{}", "size_bytes": 10**9 + at, "file_count": 1})
            files += [
                {"artifact_digest": artifact, "path": path, "sha256": sha256, "blake3": blake3}
                for path, sha256, blake3 in made.files[artifact]
            ]
        yield tables.Blob, [
            {
                "blake3": blake3, "sha256": sha256, "chunks_sha256": "0" * 64, "size_bytes": 10**9, "key": blake3,
                "measured_at": START,
            }
            for sha256, blake3 in blobs
        ]  # fmt: skip
        for row in artifacts:
            row["root_digest"] = "sha256:" + digest_of("root", row["digest"])
        yield tables.Artifact, artifacts
        yield tables.ArtifactFile, files
        publications, signatures, moved = [], [], []
        for at, artifact in enumerate(made.artifacts):
            for copy in range(2 if dice.random() < 0.1 else 1):
                where = (at + copy * 11) % len(names)
                by = dice.choice(made.principals)
                made.repositories.setdefault(artifact, set()).add(names[where])
                made.publishers.setdefault(artifact, set()).add(by)
                publications.append(
                    {
                        "id": len(publications) + 1, "repository_id": where + 1, "artifact_digest": artifact,
                        "published_at": START, "published_by": by, "event_index": len(publications),
                    }
                )  # fmt: skip
                identity = f"email:signer{dice.randint(0, 11)}@acme.example"
                made.signers.setdefault(artifact, set()).add(identity)
                signatures.append(
                    {
                        "publication_id": len(publications), "key_id": "sha256:" + digest_of("key", identity),
                        "bundle": b"{}" * 4000, "authority": "acme", "identity": identity, "added_at": START,
                        "added_by": by, "signed_at": START,
                    }
                )  # fmt: skip
                moved.append((where + 1, "latest", artifact, by))
        self.publications, self.names = publications, names
        yield tables.Publication, publications
        yield tables.Signature, signatures
        tags = {(repository, tag): (artifact, by) for repository, tag, artifact, by in moved}
        yield tables.Tag, [
            {
                "repository_id": repository, "name": tag, "artifact_digest": artifact, "event_index": 0,
                "moved_at": START, "moved_by": by,
            }
            for (repository, tag), (artifact, by) in tags.items()
        ]  # fmt: skip
        yield tables.Derivation, self._derivations()
        yield tables.Host, self._hosts()

    def _derivations(self) -> list[dict[str, Any]]:
        dice, made = self.dice, self.made
        for at, child in enumerate(made.artifacts):
            if at < 8 or dice.random() < 0.05:
                continue  # a base, or nobody said
            for _ in range(2 if dice.random() < 0.2 else 1):
                parent = made.artifacts[int(at * dice.random() ** 2.5)]  # old ones have more children
                made.edges.add((child, parent, dice.choice(RELATIONS)))
            if dice.random() < 0.05:
                made.dangling.append("sha256:" + digest_of("elsewhere", child))
                made.edges.add((child, made.dangling[-1], "finetune"))
        # Claims may say anything, also circles.
        made.edges.add((made.artifacts[0], made.artifacts[-1], "merge"))
        made.edges.add((made.artifacts[1], made.artifacts[0], "converted"))
        made.edges.add((made.artifacts[0], made.artifacts[1], "converted"))
        return [
            {
                "child": child, "parent": parent, "relation": relation, "grade": "claimed", "recorded_at": START,
                "event_index": 0,
            }
            for child, parent, relation in sorted(made.edges)
        ]  # fmt: skip

    def _hosts(self) -> list[dict[str, Any]]:
        rows = []
        for name in sorted(self.verified):
            by = self.dice.choice(self.made.principals)
            self.made.inviters[name] = by
            rows.append(
                {
                    "id": str(uuid.UUID(int=self.dice.getrandbits(128))), "name": name, "host_class": self.classes[name],
                    "zone": "eu-1", "labels": {}, "public_key": b"k", "key_id": "sha256:" + digest_of("host", name),
                    "enrolled_at": START, "invited_by": by, "revoked_at": None, "revoked_by": None,
                }
            )  # fmt: skip
        return rows

    def log(self) -> Iterator[dict[str, Any]]:
        """The events, in order, each row as it is inserted; loads and recalls come about on the way."""
        dice, made = self.dice, self.made
        step = (END - START) / self.count
        for row in self.publications:
            by = row["published_by"]
            repository = self.names[row["repository_id"] - 1]
            yield self._event(
                "artifact.published", START, row["artifact_digest"], repository, dice.choice(made.hosts), by
            )
        waiting: list[tuple[str, str, str, str, str, datetime]] = []
        running: list[dict[str, Any]] = []
        while len(made.events) < self.count:
            at = START + step * len(made.events)
            roll = dice.random()
            if roll < 0.42 or not waiting:
                host = dice.choice(made.hosts)
                artifact = dice.choice(self.by_host[host]) if dice.random() < 0.9 else dice.choice(made.artifacts)
                repository = min(made.repositories[artifact])
                by = dice.choice(self.users[host])
                grant = str(uuid.UUID(int=dice.getrandbits(128)))
                yield self._event("artifact.granted", at, artifact, repository, host, by, {"grant": grant})
                waiting.append((grant, artifact, repository, host, by, at))
            elif roll < 0.80:
                grant, artifact, repository, host, by, _ = waiting.pop(int(len(waiting) * dice.random() ** 3))
                if dice.random() < 0.9:
                    detail = {"grant": grant, "transferred_bytes": 10**9}
                    yield self._event("artifact.received", at, artifact, repository, host, by, detail)
            elif roll < 0.85:
                grant, artifact, repository, host, by, _ = waiting[-1]
                running.append(self._load(at, artifact, repository, host, grant))
                yield self._event("artifact.loaded", at, artifact, repository, host, by, {"grant": grant})
            elif roll < 0.90:
                if len(running) <= 2 * len(made.hosts):
                    continue
                load = running.pop(int(len(running) * dice.random()))
                load.update(ended_at=at, ended_event_index=len(made.events), end_reason="exited", last_seen_at=at)
                by = dice.choice(self.users[load["host"]])
                yield self._event(
                    "artifact.unloaded", at, load["artifact_digest"], load["repository"], load["host"], by
                )
            elif roll < 0.92:
                host, artifact = dice.choice(made.hosts), dice.choice(made.artifacts)
                by = dice.choice(made.principals)
                detail = {"reason": "forbidden", "detail": "may not pull"}
                yield self._event("artifact.refused", at, artifact, min(made.repositories[artifact]), host, by, detail)
            elif roll < 0.99:
                host, artifact = dice.choice(made.hosts), dice.choice(made.artifacts)
                by = dice.choice(made.principals)
                yield self._event(
                    "tag.resolved", at, artifact, min(made.repositories[artifact]), host, by, tag="latest"
                )
            else:
                yield self._event("token.exchanged", at, None, None, None, dice.choice(made.principals))
        for artifact, kind in zip(dice.sample(made.artifacts, 4), ("quarantine", "revocation") * 2, strict=True):
            made.recalls.append(
                {
                    "id": str(uuid.UUID(int=dice.getrandbits(128))), "artifact_digest": artifact, "kind": kind,
                    "reason": "a drill", "created_at": END, "created_by": "person:p000", "event_index": self.count - 1,
                    "lifted_at": None, "lifted_by": None, "lifted_event_index": None,
                }
            )  # fmt: skip
        for load in running:
            # Most were seen a moment before the end, some fell silent, some never promised to report.
            beats = load["heartbeat_seconds"]
            silent = dice.random() < 0.1
            load["last_seen_at"] = (
                load["loaded_at"] if beats is None or silent else max(load["loaded_at"], END - timedelta(seconds=beats))
            )

    def _load(self, at: datetime, artifact: str, repository: str, host: str, grant: str) -> dict[str, Any]:
        dice = self.dice
        load = {
            "id": str(uuid.UUID(int=dice.getrandbits(128))), "artifact_digest": artifact, "repository": repository,
            "grant_id": grant, "host": host, "verified_host": host if host in self.verified else None, "boot_id": "b",
            "pid": dice.randint(2, 99_999), "command": "vllm serve", "runtime": dice.choice(["vllm", None]),
            "runtime_version": dice.choice(["0.24.0", "0.10.2", None]), "loaded_at": at,
            "event_index": len(self.made.events), "heartbeat_seconds": dice.choice([60, 60, 60, None]),
            "last_seen_at": at, "ended_at": None, "ended_event_index": None, "end_reason": None,
        }  # fmt: skip
        self.made.loads.append(load)
        return load

    def _event(
        self,
        kind: str,
        at: datetime,
        artifact: str | None,
        repository: str | None,
        host: str | None,
        principal: str,
        detail: dict[str, Any] | None = None,
        tag: str | None = None,
    ) -> dict[str, Any]:
        index = len(self.made.events)
        verified = host if host in self.verified else None
        actor = None if index % 50 == 0 else self.dice.choice(self.commitments[principal])  # some are of the old form
        shown = principal if actor is None else f"erased:{actor[:16]}"
        detail = detail or {}
        self.made.events.append(
            Happened(index, kind, at, artifact, repository, host, verified, principal, detail.get("grant"))
        )
        who = {"actor": actor, "about": None}
        if actor is None:
            who = {
                "principal": principal,
                "token": None,
                "identity": None,
                "client_address": "10.0.0.9",
                "user_agent": None,
            }
        entry = {
            "v": 1 if actor is None else 2, "type": kind, "time": at.isoformat(timespec="microseconds"), **who,
            "repository": repository, "artifact": artifact, "tag": tag, "host": host,
            "verified_host": {"name": verified, "class": self.classes[host], "zone": "eu-1"} if verified and host else None,
            "purpose": "pull", "detail": detail,
        }  # fmt: skip
        raw = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()  # canonical: all of it is ASCII
        self.tree.append(merkle.leaf_hash(raw))
        return {
            "index": index, "type": kind, "recorded_at": at, "principal": shown, "token_id": None,
            "repository": repository, "artifact": artifact, "tag": tag, "host": host,
            "client_address": "10.0.0.9" if actor is None else None, "user_agent": None,
            "purpose": "pull" if kind.startswith("artifact.") else None, "detail": detail,
            "entry": raw, "identity": None,
            "verified_host": verified, "verified_host_class": self.classes[host] if verified and host else None,
            "verified_host_zone": "eu-1" if verified else None, "actor": actor, "about": None,
        }  # fmt: skip


def seed_of(dice: random.Random) -> int:
    return dice.getrandbits(64)


class Oracle:
    """The right answers, by looking at everything that was made, one thing after the other."""

    def __init__(self, made: Fleet) -> None:
        self.made = made

    def descendants(self, roots: set[str]) -> set[str]:
        """The roots and all that was made from them: the edges, over and over, until nothing is new."""
        reached = set(roots)
        while True:
            new = {child for child, parent, _ in self.made.edges if parent in reached} - reached
            if not new:
                return reached
            reached |= new

    def ancestors(self, roots: set[str]) -> set[str]:
        reached = set(roots)
        while True:
            new = {parent for child, parent, _ in self.made.edges if child in reached} - reached
            if not new:
                return reached
            reached |= new

    def signed_by(self, identity: str) -> set[str]:
        return {artifact for artifact, names in self.made.signers.items() if identity in names}

    def published_by(self, principal: str) -> set[str]:
        return {artifact for artifact, names in self.made.publishers.items() if principal in names}

    def touched_by(self, host: str) -> set[str]:
        found = {
            event.artifact
            for event in self.made.events
            if event.type in {"artifact.published", "artifact.granted"} and host == event.host and event.artifact
        }
        return found | {load["artifact_digest"] for load in self.made.loads if load["host"] == host}

    def events(self, artifacts: set[str], *types: str) -> list[Happened]:
        return [event for event in self.made.events if event.artifact in artifacts and event.type in types]

    def living(self, artifacts: set[str], at: datetime = END) -> list[dict[str, Any]]:
        return [
            load
            for load in self.made.loads
            if load["artifact_digest"] in artifacts
            and load["loaded_at"] <= at
            and (load["ended_at"] is None or load["ended_at"] > at)
        ]

    def state(self, load: dict[str, Any], at: datetime = END) -> str:
        if load["ended_at"] is not None and load["ended_at"] <= at:
            return "ended"
        if load["ended_at"] is not None or load["last_seen_at"] > at:
            return "running"
        if load["heartbeat_seconds"] is None:
            return "unknown"
        return "stale" if (at - load["last_seen_at"]).total_seconds() > 3 * load["heartbeat_seconds"] else "running"

    def blast(self, roots: set[str], at: datetime = END) -> dict[str, Any]:
        """Everything a blast radius says, as plain values."""
        reached = self.descendants(roots)
        hosts: dict[tuple[str, bool], dict[str, Any]] = {}
        people: dict[str, set[str]] = {}
        pulled: dict[str, int] = {}

        def machine(name: str, verified: bool) -> dict[str, Any]:
            empty = {"artifacts": set(), "grants": 0, "received": 0, "last": None, "live": 0, "stale": 0}
            return hosts.setdefault((name, verified), empty)

        for event in self.events(reached, "artifact.granted", "artifact.received"):
            if event.at > at:
                continue
            host = machine(event.verified_host or event.host or "?", event.verified_host is not None)
            if event.type == "artifact.received":
                host["received"] += 1
                continue
            host["artifacts"].add(event.artifact)
            host["grants"] += 1
            host["last"] = event.at
            people.setdefault(event.principal, set()).add("puller")
            pulled[event.principal] = pulled.get(event.principal, 0) + 1
        living = self.living(reached, at)
        for load in living:
            host = machine(load["verified_host"] or load["host"], load["verified_host"] is not None)
            host["live"] += 1
            host["stale"] += self.state(load, at) == "stale"
        for artifact in reached:
            for by in self.made.publishers.get(artifact, ()):
                people.setdefault(by, set()).update({"publisher", "signer"})  # in this fleet they are the same
        for name, verified in hosts:
            if verified:
                people.setdefault(self.made.inviters[name], set()).add("inviter")
        return {
            "artifacts": reached,
            "hosts": {key: {**value, "artifacts": len(value["artifacts"])} for key, value in hosts.items()},
            "people": people,
            "pulled": pulled,
            "grants": sum(host["grants"] for host in hosts.values()),
            "received": sum(host["received"] for host in hosts.values()),
            "living": {load["event_index"]: self.state(load, at) for load in living},
            "orphans": len(set(self.made.artifacts) - reached - {child for child, _, _ in self.made.edges}),
        }
