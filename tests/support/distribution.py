"""An operator of a trust repository, a host that pinned it, and a registry that can be made to lie.

The lies are told through the database: rows of `trust_file` are replaced behind the registry's back, and the real
registry serves them over real HTTP.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlmodel import delete, select
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from modelreg import connections, distribution, trust_repository, wire
from modelreg.commands.trusting import _policy_text
from modelreg.digests import sha256_of
from modelreg.trust import Revocations
from modelreg_server.tables import TrustFile
from support.registry import Registry

POLICY, REVOCATIONS = "trust.toml", "revocations.toml"


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Operator:
    """A trust repository with all keys at hand, published to a registry."""

    registry: Registry
    folder: Path
    now: datetime = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        if not self.folder.exists():
            trust_repository.init(self.folder, self.now)

    @property
    def signers(self) -> list[Any]:
        return trust_repository.keys_at_hand(self.folder)

    def signer(self, name: str) -> Any:
        return trust_repository.load_key(self.folder / "keys" / f"{name}.key.pem")

    @property
    def first_root(self) -> bytes:
        return (self.folder / "metadata" / "1.root.json").read_bytes()

    def policy_text(self, version: int = 1) -> str:
        root = self.registry.trust.root.certificate
        text = _policy_text(
            root, ["demo/*"], ["email:*@demo.example"], utc_now(), distributed=True, log=[self.registry.trust.log_vkey]
        )
        return text.replace("version = 1", f"version = {version}", 1)

    def stage(self, **files: str | bytes) -> None:
        """`stage(trust="…", revocations="…")`, signed with every key, with a new timestamp."""
        raws = {f"{name}.toml": text.encode() if isinstance(text, str) else text for name, text in files.items()}
        trust_repository.stage_targets(self.folder, raws, utc_now())
        self.complete()

    def complete(self, refresh: bool = True) -> None:
        trust_repository.sign(self.folder, self.signers)
        if refresh:
            self.refresh()

    def refresh(self, now: datetime | None = None, lifetime: timedelta = timedelta(days=7)) -> None:
        trust_repository.refresh(self.folder, self.signers, now or utc_now(), lifetime)

    def rotate(self, role: str = "root", *, new: str | None = None, old: str | None = None, **more: Any) -> None:
        added = [trust_repository.make_key(self.folder / "keys" / f"{new}.key.pem").public_key] if new else []
        removed = [self.signer(old).public_key.keyid] if old else []
        trust_repository.rotate(self.folder, role, more.pop("now", utc_now()), add_keys=added, remove=removed, **more)
        self.complete()

    def list_text(
        self, version: int = 1, days_old: float = 0, max_age: timedelta = timedelta(days=30), **more: Any
    ) -> bytes:
        from modelreg import revocations

        at = (utc_now() - timedelta(days=days_old)).replace(microsecond=0)
        return revocations.render(
            version, Revocations(at, max_age, frozenset(more.get("artifacts", ())), tuple(more.get("signers", ())))
        )

    def publication(self) -> wire.TrustPublication:
        current = trust_repository.current(self.folder)
        return wire.TrustPublication(
            roots=[raw.decode() for raw in current.roots],
            timestamp=current.timestamp.decode(),
            snapshot=current.snapshot.decode(),
            targets=current.targets.decode(),
            files={name: raw.decode() for name, raw in current.files.items()},
        )

    def publish(self) -> wire.TrustPublished:
        return self.registry.api().publish_trust(self.publication())

    # What somebody with the online key (or the registry's database) can do.

    def sign(self, signed: Any, *names: str) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        for name in names:
            metadata.sign(self.signer(name), append=True)
        return metadata.to_bytes()

    def latest(self, name: str) -> Any:
        """The newest signed part of a role in the folder."""
        kind = {"root": trust_repository.Root, "targets": trust_repository.Targets}.get(name)
        kind = kind or {"snapshot": Snapshot, "timestamp": Timestamp}[name]
        return trust_repository._load(self.folder, kind).signed

    def forge_online(
        self,
        *,
        timestamp: int,
        snapshot: int,
        targets: int,
        key: str = "online-1",
        expires: datetime | None = None,
        more: dict[str, MetaFile] | None = None,
    ) -> None:
        """Serve a snapshot and a timestamp of any version, rightly signed with the online key."""
        expires = expires or (utc_now() + timedelta(days=3)).replace(microsecond=0)
        meta = {"targets.json": MetaFile(targets), **(more or {})}
        raw = self.sign(Snapshot(snapshot, None, expires, meta), key)
        about = MetaFile(snapshot, len(raw), {"sha256": sha256_of(raw).hex})
        put(self.registry, f"{snapshot}.snapshot.json", raw)
        put(self.registry, "timestamp.json", self.sign(Timestamp(timestamp, None, expires, about), key))


def put(registry: Registry, name: str, raw: bytes) -> None:
    """Replace what the registry serves under a name."""
    with registry.parts.database.writing() as session, session.begin():
        row = session.get(TrustFile, name)
        if row is None:
            row = TrustFile(name=name, content=raw, sha256="0" * 64, published_at=utc_now(), event_index=0)
        row.content = raw
        session.add(row)


def served(registry: Registry) -> dict[str, bytes]:
    with registry.parts.database.reading() as session:
        return {row.name: row.content for row in session.exec(select(TrustFile))}


def serve_only(registry: Registry, rows: dict[str, bytes]) -> None:
    with registry.parts.database.writing() as session, session.begin():
        session.exec(delete(TrustFile))
    for name, raw in rows.items():
        put(registry, name, raw)


@dataclass
class Host:
    """A machine that pins and refreshes."""

    url: str
    folder: Path

    def pin(self, raw_root: bytes) -> distribution.Distributed:
        return distribution.pin(self.url, self.folder, raw_root, connections.make_pool(None, 2))

    def load(self, url: str | None = None) -> distribution.Distributed:
        return distribution.load(url or self.url, self.folder, connections.make_pool(None, 2))
