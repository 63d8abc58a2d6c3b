"""Whether the local store still holds the bytes that were admitted: on disk, and in the processes that have them mapped.

A file is measured when it is first seen, and again whenever device, inode, size, modification or *change* time differ from
what they were when it was measured: the change time is the kernel's own, no program sets it back. Somebody who writes to
the disk below the file system, or who owns the clock, is not seen by that; without a memory everything is measured.

Nothing is repaired or moved here: `launch` and `verify` refuse the files, and put them aside as evidence.
"""

import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from blake3 import blake3

from modelreg import manifests, mapped, trees
from modelreg.cache import Cache
from modelreg.digests import Digest, sha256_of
from modelreg.errors import Invalid, ModelregError
from modelreg.manifests import FileEntry

_BLOCK_BYTES = 4 * 1024 * 1024
# A file whose times are younger is measured again next time. Times have the grain of the kernel's tick; and whoever has
# the file mapped for writing leaves a mark at the first write only, until the kernel wrote the page back (30 s and more).
SETTLED_SECONDS = 60
Fingerprint = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Held:
    """An artifact of the store, as its manifest says. The manifest's digest is the artifact's, so it needs no signature."""

    artifact: Digest
    repository: str
    raw_bundle: bytes
    manifest: manifests.Manifest

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """Its files."""
        return self.manifest.files


@dataclass(frozen=True)
class Alteration:
    """Bytes that are not what was admitted. `path` is below the store; `pid` is set where a process has them.

    `what`: `changed` in place, `replaced` by another file, `missing`, `extra`, or `unreadable`.
    """

    artifact: Digest
    repository: str
    where: str
    what: str
    path: str
    expected: str = ""
    measured: str = ""
    pid: int | None = None

    def __str__(self) -> str:
        found = f" (expected {self.expected}, measured {self.measured})" if self.measured else ""
        if self.pid is None:
            return f"{self.path}: {self.what}{found}"
        if self.what == "changed":
            return f"{self.path}: changed in the memory of process {self.pid}{found}"
        has = {"": "cannot be looked at", self.expected: "has the admitted bytes"}.get(self.measured, "has other bytes")
        return f"{self.path}: {self.what} under process {self.pid}, which {has}"


@dataclass
class Memory:
    """What was measured, by fingerprint, and which file last had the right bytes, by path below the store."""

    measured: dict[Fingerprint, str] = field(default_factory=dict)
    admitted: dict[str, Fingerprint] = field(default_factory=dict)


def held_in(cache: Cache) -> tuple[list[Held], list[Alteration]]:
    """What the store holds, and manifests that were changed, or taken away so that nobody misses the files."""
    found: list[Held] = []
    altered: list[Alteration] = []
    for artifact in sorted({*cache.artifacts(), *cache.snapshots()}, key=str):
        path = f"artifacts/{artifact.hex}/manifest.json"
        try:
            # Asked first: a folder appears after its manifest, and is removed before it.
            complete = cache.snapshot_path(artifact).exists()
            kept = cache.kept(artifact)
        except OSError:
            altered.append(Alteration(artifact, "", "file", "unreadable", path))
            continue
        if kept is None:
            if complete:  # else a pull that is under way, or was killed
                altered.append(Alteration(artifact, "", "file", "missing", path))
            continue
        measured = sha256_of(kept.raw_manifest)
        try:
            if measured != artifact:
                raise Invalid("another manifest", field="manifest")
            manifest = manifests.parse(kept.raw_manifest)
        except ModelregError:
            altered.append(Alteration(artifact, kept.repository, "file", "changed", path, str(artifact), str(measured)))
            continue
        if cache.holds(artifact, manifest.files):
            found.append(Held(artifact, kept.repository, kept.raw_bundle, manifest))
    return found, altered


def recheck(cache: Cache, held: Sequence[Held], memory: Memory) -> tuple[list[Alteration], Memory]:
    """Hold the files of the store against the manifests; returns what differs, and what to remember for the next time.

    A file that several artifacts or names share is measured once. With an empty `memory.measured` all are measured.
    """
    now = Memory()
    altered: list[Alteration] = []
    with trees.open_folder(cache.root) as root_fd:
        for one in held:
            for path, entry in _paths(cache, one):
                known = memory.admitted.get(path)
                problem = _problem_at(root_fd, path, entry, memory, now)
                if problem is None:
                    continue
                what, measured = problem
                expected = f"blake3:{entry.blake3}"
                altered.append(Alteration(one.artifact, one.repository, "file", what, path, expected, measured))
                if known is not None:
                    now.admitted[path] = known  # processes may still have that one
            altered += [Alteration(one.artifact, one.repository, "file", "extra", path) for path in _extra(cache, one)]
    return altered, now


@dataclass(frozen=True)
class Use:
    """A file of the store that a process has mapped: as which file of which artifact, by the path it is known under."""

    mapping: mapped.Mapping
    one: Held
    entry: FileEntry
    path: str


@dataclass(frozen=True)
class InUse:
    """What processes have of the store. `unseen` processes could not be looked at."""

    uses: tuple[Use, ...]
    running: Mapping[Digest, frozenset[mapped.Process]]
    unseen: int


def in_use(cache: Cache, held: Sequence[Held], memory: Memory) -> InUse:
    """Which processes run what; nothing is measured here.

    Artifacts share blobs. A process that came to one through an artifact's folder, or was launched with an artifact, runs
    that one; only where nothing tells does it count for all that hold the blob.
    """
    root = cache.root.resolve()
    by_hex = {one.artifact.hex: one for one in held}
    by_blob: dict[str, list[tuple[Held, FileEntry]]] = {}
    for one in held:
        for entry in one.entries:
            by_blob.setdefault(entry.blake3, []).append((one, entry))
    inodes = {prints[:2]: path for path, prints in memory.admitted.items()}
    found = mapped.scan(lambda path, device, inode: (device, inode) in inodes or path.is_relative_to(root))
    launched = {process: Digest.parse(name) for name, processes in found.launched.items() for process in processes}
    running: dict[Digest, set[mapped.Process]] = {}
    for process, artifact in launched.items():
        running.setdefault(artifact, set()).add(process)
    uses = []
    for mapping in found.mappings:
        name = mapping.path.relative_to(root).as_posix() if mapping.path.is_relative_to(root) else ""
        path = name if _belongs(name, by_hex, by_blob) else inodes.get((mapping.device, mapping.inode), "")
        belongs = _belongs(path, by_hex, by_blob)
        if not belongs:
            continue
        uses.append(Use(mapping, *belongs[0], path))
        if path == name and name.startswith("snapshots/"):
            artifacts = [belongs[0][0].artifact]
        else:
            holders = [one.artifact for one, _entry in by_blob[belongs[0][1].blake3]]
            artifacts = [one for one in holders if one == launched.get(mapping.process)] or holders
        for artifact in artifacts:
            running.setdefault(artifact, set()).add(mapping.process)
    return InUse(tuple(uses), {one: frozenset(them) for one, them in running.items()}, found.unseen)


def recheck_mapped(cache: Cache, held: Sequence[Held], in_use: InUse, memory: Memory, now: Memory) -> list[Alteration]:
    """Hold what is still mapped of what is still held against the manifests.

    What is measured here is added to `now`, which is from this round's `recheck`.
    """
    uses = [use for use in in_use.uses if use.one in held and use.mapping.process.runs()]
    return [altered for use in uses for altered in _judge(cache, use, memory, now)]


def _judge(cache: Cache, use: Use, memory: Memory, now: Memory) -> Iterator[Alteration]:
    """Whether the mapped bytes are right, and whether the path still leads to them."""
    mapping, one, path = use.mapping, use.one, use.path
    expected, measured = f"blake3:{use.entry.blake3}", ""
    with mapping.opened() as fd:
        if fd is not None:
            measured = f"blake3:{_measured(fd, memory, now)[0]}"

    def altered(what: str) -> Alteration:
        return Alteration(one.artifact, one.repository, "process", what, path, expected, measured, mapping.process.pid)

    if measured and measured != expected:
        yield altered("changed")
    there = _fingerprint_at(cache.root / path)
    if there is None:
        yield altered("missing")
    elif there[1] != mapping.inode and (mapping.deleted or there[0] == mapping.device):
        # On another device the numbers mean nothing: overlay and btrfs show a mapping those of a layer below.
        yield altered("replaced")


def _belongs(
    path: str, by_hex: Mapping[str, Held], by_blob: Mapping[str, list[tuple[Held, FileEntry]]]
) -> list[tuple[Held, FileEntry]]:
    """Which file of which artifacts a path below the store stands for; also one that was put aside."""
    match PurePosixPath(path).parts:
        case ("snapshots", name, *rest) if name in by_hex:
            return [(by_hex[name], entry) for entry in by_hex[name].entries if entry.path == "/".join(rest)]
        case ("blobs", "blake3", _, name):
            return by_blob.get(name, [])
        case ("rejected", name):
            return by_blob.get(name.partition(".")[0], [])
    return []


def _paths(cache: Cache, one: Held) -> Iterator[tuple[str, FileEntry]]:
    """Every name under which the store has a file of the artifact; a blob that is gone is fetched again when needed."""
    snapshot = cache.snapshot_path(one.artifact)
    if snapshot.exists():
        for entry in one.entries:
            yield (snapshot / entry.path).relative_to(cache.root).as_posix(), entry
    for entry in one.entries:
        blob = cache.blob_path(entry.blake3)
        if _fingerprint_at(blob) is not None:
            yield blob.relative_to(cache.root).as_posix(), entry


def _extra(cache: Cache, one: Held) -> list[str]:
    snapshot = cache.snapshot_path(one.artifact)
    where = snapshot.relative_to(cache.root).as_posix()
    if not snapshot.exists():
        return []
    try:
        present = set(trees.list_files(snapshot))
    except (ModelregError, OSError) as error:
        return [f"{where}: {error}"]  # a link or a device among the files
    return [f"{where}/{path}" for path in sorted(present - {entry.path for entry in one.entries})]


def _problem_at(root_fd: int, path: str, entry: FileEntry, memory: Memory, now: Memory) -> tuple[str, str] | None:
    """What is wrong with a file and what was measured, or None; then `now.admitted` has it."""
    try:
        with trees.open_below(root_fd, path) as fd:
            found, fingerprint, steady = _measured(fd, memory, now)
    except FileNotFoundError:
        return "missing", ""
    except (OSError, Invalid) as error:
        link = isinstance(error, Invalid) or error.errno in {errno.ELOOP, errno.ENOTDIR}
        return "replaced" if link else "unreadable", ""
    if found == entry.blake3 and steady:
        now.admitted[path] = fingerprint
        return None
    known = memory.admitted.get(path)
    return "replaced" if known is not None and known[:2] != fingerprint[:2] else "changed", f"blake3:{found}"


def _measured(fd: int, memory: Memory, now: Memory) -> tuple[str, Fingerprint, bool]:
    """BLAKE3 of an open file, its fingerprint, and whether nobody wrote to it meanwhile."""
    before = _fingerprint(os.fstat(fd))
    found = now.measured.get(before) or memory.measured.get(before) or _blake3_of(fd, before[2])
    steady = _fingerprint(os.fstat(fd)) == before
    if steady and time.time_ns() - before[4] > SETTLED_SECONDS * 10**9:
        now.measured[before] = found
    return found, before, steady


def _blake3_of(fd: int, size: int) -> str:
    """BLAKE3 of a file up to one byte behind its size: a file that grows is another one already."""
    hasher = blake3(max_threads=blake3.AUTO)
    buffer = memoryview(bytearray(min(_BLOCK_BYTES, size + 1)))
    at = 0
    while at <= size and (count := os.preadv(fd, [buffer], at)):
        hasher.update(buffer[:count])
        at += count
    return hasher.hexdigest()


def _fingerprint_at(path: Path) -> Fingerprint | None:
    try:
        return _fingerprint(path.lstat())
    except OSError:
        return None


def _fingerprint(status: os.stat_result) -> Fingerprint:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
