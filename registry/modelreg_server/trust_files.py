"""The trust repository this registry serves: TUF metadata and its two files, as the operator published them.

The registry holds no key of it. Before it accepts a new version it makes the checks that every client makes, against what
it serves now, so that an operator's mistake is refused here and not on a thousand hosts. (docs/spec/trust-distribution.md)
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from modelreg import trust
from modelreg.digests import sha256_of
from modelreg.errors import Conflict, Invalid, Misconfigured, NotFound, StaleTrust, Untrusted
from modelreg.trust_metadata import (
    MAX_ROOT_ROTATIONS,
    MAX_TARGET_BYTES,
    POLICY,
    REVOCATIONS,
    parse,
    parse_pinned_root,
    read_pair,
    require_signed,
    require_successor,
    told,
    version_of,
)
from modelreg_server import custody
from modelreg_server.callers import Caller
from modelreg_server.custody import Event, EventType
from modelreg_server.database import Database
from modelreg_server.tables import TrustFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offered:
    """What an operator sends, untrusted: roots in order, the newest of the rest, and the files by name."""

    roots: tuple[bytes, ...]
    timestamp: bytes
    snapshot: bytes
    targets: bytes
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Published:
    """What is served now: versions by role and file."""

    versions: Mapping[str, int]
    event_index: int


@dataclass(frozen=True)
class _Served:
    timestamp: Metadata[Any]
    snapshot: Metadata[Any]
    targets: Metadata[Any]
    raw_timestamp: bytes
    raw_snapshot: bytes
    raw_targets: bytes


def serve(session: Session, name: str) -> bytes:
    """The bytes under a name.

    Raises:
        NotFound: nothing was published under it.
    """
    row = session.get(TrustFile, name)
    if row is None:
        raise NotFound(f"this registry serves no {name}")
    return row.content


def publish(database: Database, caller: Caller, offered: Offered) -> Published:
    """Check and serve a new version of the trust repository, in one transaction, with `trust.published`.

    Raises:
        Untrusted: signatures, digests or versions do not follow from what is served, or something has expired.
        Conflict: other bytes under a version that was published before.
        Misconfigured: the policy or the list does not parse, or the two do not go together.
    """
    with database.writing() as session, session.begin():
        custody.hold(session)  # one publisher at a time
        root, roots = _follow_roots(session, offered.roots)
        require_signed(root, root, caller.now)
        served = _served_if_sound(session)
        timestamp, snapshot, targets = _check_metadata(served, root, offered, caller.now)
        _check_files(session, served, targets, offered.files)
        rows = {
            **roots,
            "timestamp.json": offered.timestamp,
            f"{snapshot.signed.version}.snapshot.json": offered.snapshot,
            f"{targets.signed.version}.targets.json": offered.targets,
            **{f"{sha256_of(raw).hex}.{name}": raw for name, raw in offered.files.items()},
        }
        versions = {
            **{metadata.signed.type: metadata.signed.version for metadata in (root, timestamp, snapshot, targets)},
            **{name: version_of(name, raw) for name, raw in offered.files.items()},
        }
        digests = {name: str(sha256_of(raw)) for name, raw in offered.files.items()}
        event = Event(EventType.TRUST_PUBLISHED, detail={"versions": versions, "digests": digests})
        index = custody.append(session, caller.actor, event, caller.now)
        for name, raw in rows.items():
            _store(session, name, raw, caller.now, index)
    return Published(versions, index)


def _follow_roots(session: Session, raw_roots: tuple[bytes, ...]) -> tuple[Metadata[Root], dict[str, bytes]]:
    """The newest root after the offered ones, and those that are new, by name."""
    served = _newest_root(session)
    new: dict[str, bytes] = {}
    for raw in raw_roots:
        offered = parse_pinned_root(raw)
        name = f"{offered.signed.version}.root.json"
        if served is not None and offered.signed.version <= served.signed.version:
            if session.get(TrustFile, name) is None or serve(session, name) != raw:
                raise Conflict(f"{name} is not the one this registry serves; is this the right trust repository?")
            continue
        if served is None and offered.signed.version != 1:
            raise StaleTrust(f"the first root to be published is version 1, not {offered.signed.version}")
        if served is not None:
            require_successor(offered, served)
        if len(new) >= MAX_ROOT_ROTATIONS:
            raise Invalid(f"more than {MAX_ROOT_ROTATIONS} new roots at once", field="roots")
        new[name], served = raw, offered
    if served is None:
        raise Invalid("no root was sent, and none is served", field="roots")
    return served, new


def _check_metadata(
    served: "_Served | None", root: Metadata[Root], offered: Offered, now: datetime
) -> tuple[Metadata[Timestamp], Metadata[Snapshot], Metadata[Targets]]:
    timestamp, snapshot = parse(offered.timestamp, Timestamp), parse(offered.snapshot, Snapshot)
    targets = parse(offered.targets, Targets)
    for metadata in (timestamp, snapshot, targets):
        require_signed(metadata, root, now)
    with told("the timestamp does not name this snapshot"):
        timestamp.signed.snapshot_meta.verify_length_and_hashes(offered.snapshot)
    _require_version("snapshot", snapshot.signed.version, timestamp.signed.snapshot_meta.version)
    meta = snapshot.signed.meta
    if meta.keys() != {"targets.json"}:
        raise Invalid("the snapshot must name targets.json and nothing else", field="snapshot")
    with told("the snapshot does not name these targets"):
        meta["targets.json"].verify_length_and_hashes(offered.targets)
    _require_version("targets", targets.signed.version, meta["targets.json"].version)
    # As clients do: what an earlier key signed is no floor once the root has replaced that key, so that a compromised
    # online key cannot shut the operator out with a huge version.
    if served is not None and _still_signed(served.timestamp, root):
        # Clients take no second timestamp of one version.
        again = offered.timestamp == served.raw_timestamp
        _require_not_lower("timestamp", timestamp.signed.version, served.timestamp.signed.version + (not again))
        _require_not_lower("snapshot", snapshot.signed.version, served.snapshot.signed.version)
    if served is not None and _still_signed(served.snapshot, root):
        _require_not_lower("targets", targets.signed.version, served.targets.signed.version)
    return timestamp, snapshot, targets


def _check_files(
    session: Session, served: "_Served | None", targets: Metadata[Targets], files: Mapping[str, bytes]
) -> None:
    if targets.signed.targets.keys() != files.keys():
        raise Invalid("the targets metadata must name exactly the files that were sent", field="files")
    for name, raw in files.items():
        if name not in {POLICY, REVOCATIONS} or len(raw) > MAX_TARGET_BYTES:
            raise Invalid(f"{name[:100]} is not distributed, or is above {MAX_TARGET_BYTES} bytes", field="files")
        named: TargetFile = targets.signed.targets[name]
        with told(f"{name} is not what the targets metadata names"):
            named.verify_length_and_hashes(raw)
        if named.hashes.keys() != {"sha256"}:
            raise Invalid(f"{name} must be named by its sha256 alone", field="targets")
    kept = _files(session, served) if served is not None else {}
    for name, raw in files.items():
        if name in kept and raw != kept[name]:
            version, before = version_of(name, raw), version_of(name, kept[name])
            if version <= before:
                raise StaleTrust(
                    f"{name} has version {version}, this registry serves {before}; raise `version` with every change"
                )
    if gone := kept.keys() - files.keys():
        raise Conflict(f"{', '.join(sorted(gone))} is served and was not sent; what is distributed is not taken back")
    read_pair(files)


def _files(session: Session, served: "_Served") -> dict[str, bytes]:
    """The files that the served targets metadata names, by name.

    Raises:
        SignatureInvalid: a row holds other bytes than are named.
    """
    files = {}
    for name, about in served.targets.signed.targets.items():
        files[name] = serve(session, f"{about.hashes.get('sha256')}.{name}")
        with told("the published trust repository"):
            about.verify_length_and_hashes(files[name])
    return files


def policy_of(session: Session, raw_root: bytes, now: datetime) -> trust.TrustPolicy:
    """The published trust policy with its revocations, verified from a pinned root on as a client does.

    Raises:
        Misconfigured: none is published.
        Untrusted: the rows do not follow from the root, or something has expired.
    """
    root = parse_pinned_root(raw_root)
    try:
        while (row := session.get(TrustFile, f"{root.signed.version + 1}.root.json")) is not None:
            following = parse(row.content, Root)
            require_successor(following, root)
            root = following
        require_signed(root, root, now)
        served = _served(session)
        files = _files(session, served)
    except NotFound as error:
        raise Misconfigured(
            f"no trust policy is published: {error.detail}; run `modelreg trust repo publish`"
        ) from None
    for metadata in (served.timestamp, served.snapshot, served.targets):
        require_signed(metadata, root, now)
    with told("the published trust repository"):
        served.timestamp.signed.snapshot_meta.verify_length_and_hashes(served.raw_snapshot)
        _targets_meta(served.snapshot).verify_length_and_hashes(served.raw_targets)
    _require_version("snapshot", served.snapshot.signed.version, served.timestamp.signed.snapshot_meta.version)
    _require_version("targets", served.targets.signed.version, _targets_meta(served.snapshot).version)
    policy = read_pair(files)
    if policy is None:
        raise Misconfigured(f"no {POLICY} is published; run `modelreg trust repo add` and `publish`")
    policy.require_fresh(now)  # here, because a grant asks for revoked artifacts only
    return policy


def _targets_meta(snapshot: Metadata[Any]) -> MetaFile:
    try:
        meta: MetaFile = snapshot.signed.meta["targets.json"]
    except KeyError:
        raise Invalid("the snapshot does not name targets.json", field="snapshot") from None
    return meta


def _newest_root(session: Session) -> Metadata[Root] | None:
    names = session.exec(select(TrustFile.name).where(col(TrustFile.name).endswith(".root.json"))).all()
    if not names:
        return None
    return parse(serve(session, max(names, key=lambda name: int(name.split(".", 1)[0]))), Root)


def _served_if_sound(session: Session) -> _Served | None:
    """What is served, if anything is that holds together: rows that somebody damaged must not stop their repair."""
    try:
        served = _served(session)
        _files(session, served)
    except NotFound:
        return None
    except (Untrusted, Invalid) as error:
        _log.warning("the trust repository in the database is damaged and is replaced: %s", error.detail)
        return None
    return served


def _served(session: Session) -> _Served:
    """The metadata that the served timestamp leads to; read, not verified again."""
    raw_timestamp = serve(session, "timestamp.json")
    timestamp = parse(raw_timestamp, Timestamp)
    raw_snapshot = serve(session, f"{timestamp.signed.snapshot_meta.version}.snapshot.json")
    snapshot = parse(raw_snapshot, Snapshot)
    raw_targets = serve(session, f"{_targets_meta(snapshot).version}.targets.json")
    return _Served(timestamp, snapshot, parse(raw_targets, Targets), raw_timestamp, raw_snapshot, raw_targets)


def _still_signed(metadata: Metadata[Any], root: Metadata[Root]) -> bool:
    """Whether this root would still accept the signatures."""
    role = metadata.signed.type
    return bool(root.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


def _require_version(what: str, version: int, named: int) -> None:
    if version != named:
        raise StaleTrust(f"{what} version {version} was sent, version {named} is named; they are of different moments")


def _require_not_lower(what: str, version: int, served: int) -> None:
    if version < served:
        raise StaleTrust(f"{what} version {version} was sent, this registry serves {served}; publish the newest")


def _store(session: Session, name: str, raw: bytes, now: datetime, index: int) -> None:
    row = session.get(TrustFile, name)
    if row is None:
        row = TrustFile(name=name, content=raw, sha256="", published_at=now, event_index=index)
    elif row.content == raw:
        return
    elif name != "timestamp.json":
        raise Conflict(f"{name} was published before with other bytes; a version is never changed")
    row.content, row.sha256, row.published_at, row.event_index = raw, sha256_of(raw).hex, now, index
    session.add(row)
