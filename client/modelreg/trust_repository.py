"""The operator's side of trust distribution: a folder with keys and TUF metadata that `publish` sends to the registry.

    DIR/keys/root-1.key.pem …   0600; root-* and targets-* belong offline, online-* where `refresh` runs
    DIR/metadata/               everything ever signed: N.root.json, N.targets.json, N.snapshot.json, timestamp.json
    DIR/targets/                trust.toml, revocations.toml
    DIR/staged/                 root.json, targets.json that lack signatures

A change is staged, then signed until its threshold is met; only then does it move to `metadata/` under its version.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from modelreg import revocations, trust
from modelreg.digests import sha256_of
from modelreg.durable import make_folder, replace_file
from modelreg.errors import Conflict, Invalid, Misconfigured, NotFound
from modelreg.trust_metadata import (
    MAX_METADATA_BYTES,
    POLICY,
    REVOCATIONS,
    TARGETS,
    Kind,
    check_root,
    parse,
    read_pair,
    told,
    version_of,
)

ROOT_LIFETIME = timedelta(days=365)
TARGETS_LIFETIME = timedelta(days=90)
ONLINE_LIFETIME = timedelta(days=7)  # how long a frozen registry, or no network, goes unnoticed
MAX_AGE_DAYS = 30  # of a new revocation list
# Roles as the operator names them; `online` signs what is signed often.
ROLES: Mapping[str, tuple[str, ...]] = {"root": ("root",), "targets": ("targets",), "online": ("snapshot", "timestamp")}
_STAGED: tuple[Kind, ...] = (Root, Targets)  # in this order: targets are held against the newest root


@dataclass(frozen=True)
class Progress:
    """A staged change: whose signatures it has, and how many it still needs."""

    role: str
    version: int
    signed: int
    missing: int


@dataclass(frozen=True)
class Current:
    """What `publish` sends: every root, the newest of the rest, and the target files."""

    roots: tuple[bytes, ...]
    timestamp: bytes
    snapshot: bytes
    targets: bytes
    files: Mapping[str, bytes]


def init(
    folder: Path,
    now: datetime,
    *,
    root_keys: int = 3,
    root_threshold: int = 2,
    targets_keys: int = 2,
    targets_threshold: int = 1,
    password: bytes | None = None,
) -> list[Path]:
    """Make keys, a signed root and empty targets; returns the key files.

    Raises:
        Conflict: the folder has a repository already.
        Invalid: thresholds that the keys cannot meet.
    """
    if (folder / "metadata").exists() or (folder / "keys").exists():
        raise Conflict(f"{folder} holds a trust repository already; it is not overwritten", path=str(folder))
    for keys, threshold, name in ((root_keys, root_threshold, "root"), (targets_keys, targets_threshold, "targets")):
        if not 1 <= threshold <= keys <= 16:
            raise Invalid(f"{threshold} of {keys} {name} keys cannot be; write 1 ≤ threshold ≤ keys ≤ 16", field=name)
    root = Root(version=1, expires=_whole(now + ROOT_LIFETIME), consistent_snapshot=True)
    counts = {"root": root_keys, "targets": targets_keys, "online": 1}
    made: dict[str, list[CryptoSigner]] = {}
    paths = []
    for role, count in counts.items():
        for number in range(1, count + 1):
            path = folder / "keys" / f"{role}-{number}.key.pem"
            made.setdefault(role, []).append(make_key(path, password))
            paths.append(path)
            for name in ROLES[role]:
                root.add_key(made[role][-1].public_key, name)
    root.roles["root"].threshold, root.roles["targets"].threshold = root_threshold, targets_threshold
    signers = [signer for group in made.values() for signer in group]
    _stage(folder, root, signers)
    settle(folder)
    _stage(folder, Targets(version=1, expires=_whole(now + TARGETS_LIFETIME)), signers)
    settle(folder)
    refresh(folder, signers, now)
    return paths


def add(
    folder: Path,
    files: Iterable[Path],
    now: datetime,
    lifetime: timedelta = TARGETS_LIFETIME,
    max_age_days: int = MAX_AGE_DAYS,
) -> Progress:
    """Stage a new targets version with these files (by name `trust.toml`, `revocations.toml`); others stay.

    The first policy that takes a distributed list brings an empty one with it, good for `max_age_days`.

    Raises:
        Misconfigured: a file that does not parse, or the two do not go together.
        Conflict: a version that is not higher than that of the file it replaces.
    """
    found = {path.name: _read(path) for path in files}
    together = {**target_files(folder), **found}
    if REVOCATIONS not in together and POLICY in found and trust.parse(found[POLICY]).distributed:
        empty = trust.Revocations(_whole(now), timedelta(days=max_age_days), frozenset(), ())
        found[REVOCATIONS] = revocations.render(1, empty)
    return stage_targets(folder, found, now, lifetime)


def stage_targets(
    folder: Path, files: Mapping[str, bytes], now: datetime, lifetime: timedelta = TARGETS_LIFETIME
) -> Progress:
    """Stage a new targets version with these bytes; raises as `add`."""
    if unknown := files.keys() - set(TARGETS):
        raise Invalid(f"{min(unknown)[:100]} is not distributed; only {' and '.join(TARGETS)} are", field="files")
    kept = target_files(folder)
    for name, raw in files.items():
        if name in kept and raw != kept[name] and version_of(name, raw) <= version_of(name, kept[name]):
            raise Conflict(f"{name} has version {version_of(name, raw)}, not above that of {folder}; raise `version`")
    together = {**kept, **files}
    read_pair(together)
    targets = Targets(version=_newest(folder, Targets) + 1, expires=_whole(now + lifetime))
    for name, raw in together.items():
        targets.targets[name] = TargetFile.from_data(name, raw, ["sha256"])
    # The files first: a crash in between leaves metadata that still speaks of the old ones, which `publish` refuses.
    for name, raw in files.items():
        replace_file(folder / "targets" / name, raw)
    return _stage(folder, targets, ())


def rotate(
    folder: Path,
    role: str,
    now: datetime,
    *,
    add_keys: Sequence[SSlibKey] = (),
    remove: Sequence[str] = (),
    threshold: int | None = None,
    lifetime: timedelta = ROOT_LIFETIME,
) -> Progress:
    """Stage the next root with keys of a role added or removed (by key id); with neither, only a later expiry.

    Raises:
        Invalid: a key id that the role does not have, or a root that its thresholds could not satisfy.
        Conflict: another root is staged already.
    """
    if (folder / "staged" / "root.json").exists():
        raise Conflict(f"{folder / 'staged' / 'root.json'} waits for signatures; sign it, or remove it, first")
    root = _load(folder, Root).signed
    root.version, root.expires = root.version + 1, _whole(now + lifetime)
    for name in ROLES[role]:
        for key in add_keys:
            root.add_key(key, name)
        for key_id in remove:
            if key_id not in root.roles[name].keyids:
                raise Invalid(f"{key_id[:80]} is no key of {name}; see `modelreg trust repo status`", field="remove")
            root.revoke_key(key_id, name)
        if threshold is not None:
            root.roles[name].threshold = threshold
    with told("the new root"):
        check_root(root)
    return _stage(folder, root, ())


def sign(folder: Path, signers: Sequence[CryptoSigner]) -> list[Progress]:
    """Sign what is staged with every key that may, and settle what is complete.

    Raises:
        NotFound: nothing is staged.
    """
    staged = [kind for kind in _STAGED if _staged_path(folder, kind).exists()]
    if not staged:
        raise NotFound(f"nothing in {folder} waits for a signature")
    for kind in staged:
        _sign_staged(folder, kind, signers)
    return settle(folder)


def settle(folder: Path) -> list[Progress]:
    """Move what has its threshold of signatures to `metadata/`; returns how each staged change stands."""
    told_of = []
    for kind in _STAGED:
        path = _staged_path(folder, kind)
        if not path.exists():
            continue
        metadata = _read_metadata(path, kind)
        progress = _progress(folder, metadata)
        if progress.missing == 0:
            replace_file(folder / "metadata" / f"{metadata.signed.version}.{kind.type}.json", metadata.to_bytes())
            path.unlink()
        told_of.append(progress)
    return told_of


def can_refresh(folder: Path, signers: Sequence[CryptoSigner]) -> bool:
    """Whether the keys of `refresh` are among these."""
    roles, ids = _load(folder, Root).signed.roles, {signer.public_key.keyid for signer in signers}
    return all(len(ids.intersection(roles[name].keyids)) >= roles[name].threshold for name in ROLES["online"])


def refresh(
    folder: Path, signers: Sequence[CryptoSigner], now: datetime, lifetime: timedelta = ONLINE_LIFETIME
) -> tuple[int, int]:
    """Sign a new timestamp, and a new snapshot where it is needed; returns their versions. For cron: `online-*` is enough.

    Raises:
        Misconfigured: the online key is not among the signers.
    """
    root, targets = _load(folder, Root), _load(folder, Targets)
    snapshot = _load_if_any(folder, Snapshot)
    stale = (
        snapshot is None
        or snapshot.signed.meta["targets.json"].version != targets.signed.version
        or snapshot.signed.expires - now < lifetime
        or not root.signed.get_verification_result("snapshot", snapshot.signed_bytes, snapshot.signatures)
    )
    if stale:
        meta = {"targets.json": MetaFile(targets.signed.version)}
        snapshot = Metadata(Snapshot(_newest(folder, Snapshot) + 1, None, _whole(now + 2 * lifetime), meta))
        _sign_online(snapshot, root.signed, signers)
        replace_file(folder / "metadata" / f"{snapshot.signed.version}.snapshot.json", snapshot.to_bytes())
    assert snapshot is not None
    raw = _read(folder / "metadata" / f"{snapshot.signed.version}.snapshot.json")
    about = MetaFile(snapshot.signed.version, len(raw), {"sha256": _sha256(raw)})
    timestamp = Metadata(Timestamp(_newest(folder, Timestamp) + 1, None, _whole(now + lifetime), about))
    _sign_online(timestamp, root.signed, signers)
    replace_file(folder / "metadata" / "timestamp.json", timestamp.to_bytes())
    return snapshot.signed.version, timestamp.signed.version


def current(folder: Path) -> Current:
    """What is to be published.

    Raises:
        Conflict: a change is still staged, or the timestamp does not name the newest targets: `refresh` first.
        Misconfigured: no repository.
    """
    for kind in _STAGED:
        if _staged_path(folder, kind).exists():
            raise Conflict(f"the new {kind.type} of {folder} lacks signatures; run `modelreg trust repo sign`")
    snapshot, targets = _load(folder, Snapshot), _load(folder, Targets)
    if snapshot.signed.meta["targets.json"].version != targets.signed.version:
        raise Conflict(f"the newest targets of {folder} are in no snapshot; run `modelreg trust repo refresh`")
    files = target_files(folder)
    if {name: TargetFile.from_data(name, raw, ["sha256"]) for name, raw in files.items()} != targets.signed.targets:
        raise Conflict(
            f"the files in {folder / 'targets'} are not those that were signed; run `modelreg trust repo add`"
        )
    return Current(
        roots=tuple(_read(folder / "metadata" / f"{version}.root.json") for version in _versions(folder, Root)),
        timestamp=_read(folder / "metadata" / "timestamp.json"),
        snapshot=_read(folder / "metadata" / f"{snapshot.signed.version}.snapshot.json"),
        targets=_read(folder / "metadata" / f"{targets.signed.version}.targets.json"),
        files=files,
    )


def status(folder: Path) -> dict[str, Any]:
    """Versions, expiries and the keys of each role, for people."""
    root = _load(folder, Root).signed
    every: tuple[Kind, ...] = (Root, Targets, Snapshot, Timestamp)
    kinds = [kind for kind in every if _versions(folder, kind)]
    newest = {kind.type: _load(folder, kind).signed for kind in kinds}
    return {
        "versions": {name: signed.version for name, signed in newest.items()},
        "expires": {name: signed.expires for name, signed in newest.items()},
        "roles": {name: {"threshold": role.threshold, "keys": role.keyids} for name, role in root.roles.items()},
        "staged": [
            f"{progress.role} {progress.version}: signatures missing: {progress.missing}"
            for kind in _STAGED
            if (path := _staged_path(folder, kind)).exists()
            for progress in [_progress(folder, _read_metadata(path, kind))]
        ],
    }


def target_files(folder: Path) -> dict[str, bytes]:
    """The files in `targets/` that are distributed, by name."""
    return {name: _read(folder / "targets" / name) for name in TARGETS if (folder / "targets" / name).exists()}


def make_key(path: Path, password: bytes | None = None) -> CryptoSigner:
    """Make an Ed25519 key in a new file (PKCS #8, 0600).

    Raises:
        Conflict: the file exists.
    """
    if path.exists():
        raise Conflict(f"{path} exists; a key is not overwritten", path=str(path))
    key = ed25519.Ed25519PrivateKey.generate()
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        protection = serialization.BestAvailableEncryption(password)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    make_folder(path.parent)
    replace_file(path, pem, mode=0o600)
    return CryptoSigner(key)


def load_key(path: Path, password: bytes | None = None) -> CryptoSigner:
    """Read a private key (PEM, Ed25519 or ECDSA).

    Raises:
        Misconfigured: no such file, another kind, a wrong password.
    """
    try:
        key = serialization.load_pem_private_key(_read(path), password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Misconfigured(f"{path} is not a usable private key: {error}", path=str(path)) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise Misconfigured(f"{path} is neither an Ed25519 nor an ECDSA key", path=str(path))
    return CryptoSigner(key)


def load_public_key(path: Path) -> SSlibKey:
    """Read a public key (PEM, Ed25519 or ECDSA), to be added to a role whose holder keeps the private half.

    Raises:
        Misconfigured: no such file, or another kind.
    """
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Misconfigured(f"{path} is not a public key: {error}", path=str(path)) from None
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise Misconfigured(f"{path} is neither an Ed25519 nor an ECDSA key", path=str(path))
    return SSlibKey.from_crypto(key)


def keys_at_hand(folder: Path, password: bytes | None = None) -> list[CryptoSigner]:
    """The keys in `keys/`: what was moved offline is not there."""
    return [load_key(path, password) for path in sorted((folder / "keys").glob("*.key.pem"))]


def _stage(folder: Path, signed: Root | Targets, signers: Sequence[CryptoSigner]) -> Progress:
    kind = type(signed)
    metadata: Metadata[Any] = Metadata(signed)
    replace_file(_staged_path(folder, kind), metadata.to_bytes())
    _sign_staged(folder, kind, signers)
    return _progress(folder, _read_metadata(_staged_path(folder, kind), kind))


def _sign_staged(folder: Path, kind: Kind, signers: Sequence[CryptoSigner]) -> None:
    path = _staged_path(folder, kind)
    metadata = _read_metadata(path, kind)
    wanted = {key_id for root in _roots_over(folder, metadata) for key_id in root.roles[kind.type].keyids}
    for signer in signers:
        if signer.public_key.keyid in wanted:
            metadata.sign(signer, append=True)
    replace_file(path, metadata.to_bytes())


def _progress(folder: Path, metadata: Metadata[Any]) -> Progress:
    role = metadata.signed.type
    results = [
        root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        for root in _roots_over(folder, metadata)
    ]
    return Progress(role, metadata.signed.version, len(metadata.signatures), max(result.missing for result in results))


def _roots_over(folder: Path, metadata: Metadata[Any]) -> list[Root]:
    """The roots whose thresholds must be met: a new root's own and the one before it; for the rest the newest."""
    before = [_load(folder, Root).signed] if _versions(folder, Root) else []
    return [metadata.signed, *before] if isinstance(metadata.signed, Root) else before


def _sign_online(metadata: Metadata[Any], root: Root, signers: Sequence[CryptoSigner]) -> None:
    role = metadata.signed.type
    for signer in signers:
        if signer.public_key.keyid in root.roles[role].keyids:
            metadata.sign(signer, append=True)
    if not root.get_verification_result(role, metadata.signed_bytes, metadata.signatures):
        raise Misconfigured(f"no key here signs {role}; give the online key with --key")


def _load(folder: Path, kind: Kind) -> Metadata[Any]:
    found = _load_if_any(folder, kind)
    if found is None:
        raise Misconfigured(f"{folder} has no {kind.type} metadata; make one with `modelreg trust repo init`")
    return found


def _load_if_any(folder: Path, kind: Kind) -> Metadata[Any] | None:
    versions = _versions(folder, kind)
    if not versions:
        return None
    name = "timestamp.json" if kind is Timestamp else f"{versions[-1]}.{kind.type}.json"
    return _read_metadata(folder / "metadata" / name, kind)


def _newest(folder: Path, kind: Kind) -> int:
    return max(_versions(folder, kind), default=0)


def _versions(folder: Path, kind: Kind) -> list[int]:
    if kind is Timestamp:
        path = folder / "metadata" / "timestamp.json"
        return [_read_metadata(path, kind).signed.version] if path.exists() else []
    names = (path.name.split(".", 1) for path in (folder / "metadata").glob(f"*.{kind.type}.json"))
    return sorted(int(number) for number, _ in names if number.isascii() and number.isdigit())


def _read_metadata(path: Path, kind: Kind) -> Metadata[Any]:
    return parse(_read(path), kind)


def _staged_path(folder: Path, kind: Kind) -> Path:
    return folder / "staged" / f"{kind.type}.json"


def _read(path: Path) -> bytes:
    limit = 2 * max(*MAX_METADATA_BYTES.values(), trust.MAX_POLICY_BYTES)
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}", path=str(path)) from None


def _sha256(raw: bytes) -> str:
    return sha256_of(raw).hex


def _whole(at: datetime) -> datetime:
    return at.replace(microsecond=0)
