"""The local content store: bytes get a final name only through `admit`, and only verified ones.

    incoming/<blake3>                   a blob being fetched; partial, resumed chunk by chunk
    incoming/<artifact>.tree/           a snapshot being put together
    blobs/blake3/ab/<hex>               an admitted blob, mode 0444
    artifacts/<hex>/manifest.json       the manifest, the believed bundle and the repository it was believed for
    artifacts/<hex>/provenance.json     the statements of where it comes from that held when it was launched
    artifacts/<hex>/receipt.tlog-proof  the newest grant of it in the custody log, with the checkpoint that proves it
    artifacts/<hex>/<place>.permit.json the newest permit to serve it in an environment
    snapshots/<hex>/<path>              hard links to blobs: the folder a loader is given; complete or absent
    rejected/<hex>.<time>               what was admitted once and has other bytes now, kept as evidence

Admitted is not trusted for ever: whoever uses a snapshot measures it again. Several processes may share a store; a lock
a blob and a lock an artifact keep them apart.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelreg.digests import Digest, is_hex_64
from modelreg.durable import make_folder, replace_file, sync_folder
from modelreg.errors import DigestMismatch, Misconfigured, ModelregError
from modelreg.hashing import Progress, check_files
from modelreg.manifests import FileEntry
from modelreg.permits import MAX_PERMIT_BYTES
from modelreg.receipts import MAX_RECEIPT_BYTES
from modelreg.verification import VerifiedManifest

RECEIPT_FILE = "receipt.tlog-proof"
PROVENANCE_FILE = "provenance.json"
MAX_PROVENANCE_BYTES = 64 * 1024 * 1024
PERMIT_SUFFIX = ".permit.json"
_MODEL_FILE_MODE = 0o444


@dataclass(frozen=True)
class Kept:
    """What the store remembers of an artifact: untrusted bytes that are verified again each time."""

    raw_manifest: bytes
    raw_bundle: bytes
    repository: str
    raw_receipt: bytes | None = None


class Cache:
    """A local content store below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("incoming", "blobs/blake3", "artifacts", "snapshots", "rejected"):
            try:
                make_folder(root / name)
            except OSError as error:
                raise Misconfigured(f"the local store {root} cannot be used: {error}", path=str(root)) from None

    def blob_path(self, blake3: str) -> Path:
        """Where a blob is, or would be."""
        return self.root / "blobs" / "blake3" / blake3[:2] / blake3

    def snapshot_path(self, artifact: Digest) -> Path:
        """Where the artifact's folder is, or would be."""
        return self.root / "snapshots" / artifact.hex

    def has_blob(self, entry: FileEntry) -> bool:
        """Whether the blob was admitted and still has its size; says nothing about its bytes."""
        try:
            return self.blob_path(entry.blake3).stat().st_size == entry.size
        except FileNotFoundError:
            return False

    @contextmanager
    def incoming(self, entry: FileEntry) -> Iterator[tuple[int, Path]]:
        """Open the partial file of a blob for writing, locked against other processes; it stays for the next run.

        Raises:
            Misconfigured: no space, quota or permission, with what to do.
        """
        path = self.root / "incoming" / entry.blake3
        with explained(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd, path
        finally:
            os.close(fd)

    def admit(self, verified: VerifiedManifest, entry: FileEntry, fd: int, path: Path) -> None:
        """Give a blob its final name. Its every chunk must have been measured by this process while it came in.

        A crash before the rename leaves a partial file that is measured again; after it, the blob is whole.
        """
        assert entry in verified.manifest.files
        final = self.blob_path(entry.blake3)
        with explained(path):
            os.fchmod(fd, _MODEL_FILE_MODE)
            os.fsync(fd)
            make_folder(final.parent)
            path.rename(final)
            sync_folder(final.parent)

    def complete(self, verified: VerifiedManifest) -> Path:
        """Put the artifact's folder together from admitted blobs and return it; it appears whole or not at all."""
        artifact = verified.manifest.digest
        final = self.snapshot_path(artifact)
        with self._locked(artifact):
            self._keep(verified)
            if final.is_dir():
                return final
            tree = self.root / "incoming" / f"{artifact.hex}.tree"
            with explained(tree):
                shutil.rmtree(tree, ignore_errors=True)  # left by a run that was killed
                self._link_files(verified, tree)
                tree.rename(final)
                sync_folder(final.parent)
        return final

    def check(self, verified: VerifiedManifest, progress: Progress | None = None) -> Path:
        """Measure every byte of the artifact's folder now (step 9 of `verification`) and return it.

        Raises:
            NotFound: it is not in the store.
            DigestMismatch: it changed since it was admitted. What differs is moved to `rejected/`, the folder is gone.
        """
        folder = self.snapshot_path(verified.manifest.digest)
        try:
            check_files(folder, verified.manifest.files, chunk_bytes=verified.manifest.chunk_bytes, progress=progress)
        except DigestMismatch as error:
            changed = {problem["path"] for problem in error.facts["problems"]}
            self._reject(verified.manifest.digest, {e.blake3 for e in verified.manifest.files if e.path in changed})
            raise DigestMismatch(
                f"{error.detail}; the local copy changed after it was verified and was moved to {self.root / 'rejected'}, "
                "pull again for a clean one",
                **error.facts,
            ) from None
        return folder

    def kept(self, artifact: Digest) -> Kept | None:
        """What is remembered of an artifact, or None."""
        folder = self.root / "artifacts" / artifact.hex
        try:
            repository = json.loads((folder / "repository.json").read_text("utf-8"))["repository"]
            raw_manifest, raw_bundle = (folder / "manifest.json").read_bytes(), (folder / "bundle.json").read_bytes()
            return Kept(raw_manifest, raw_bundle, str(repository), self._receipt(folder))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def keep_receipt(self, artifact: Digest, raw_receipt: bytes) -> Path:
        """Put the receipt of the newest grant beside an artifact, in place of an older one."""
        path = self.root / "artifacts" / artifact.hex / RECEIPT_FILE
        replace_file(path, raw_receipt)
        return path

    def keep_provenance(self, artifact: Digest, raw_bundles: Sequence[bytes]) -> None:
        """Put statements beside an artifact, in place of older ones; more than fit are left out."""
        raw = json.dumps([bundle.decode() for bundle in raw_bundles]).encode()
        if len(raw) <= MAX_PROVENANCE_BYTES:
            replace_file(self.root / "artifacts" / artifact.hex / PROVENANCE_FILE, raw)

    def kept_provenance(self, artifact: Digest) -> list[bytes]:
        """The statements beside an artifact: untrusted bytes; none where there are none."""
        try:
            with (self.root / "artifacts" / artifact.hex / PROVENANCE_FILE).open("rb") as file:
                texts = json.loads(file.read(MAX_PROVENANCE_BYTES + 1))
            return [text.encode() for text in texts]
        except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
            return []

    def keep_permit(self, artifact: Digest, environment: str, raw_permit: bytes) -> None:
        """Put the newest permit for an environment beside an artifact, in place of an older one."""
        replace_file(self._permit_path(artifact, environment), raw_permit)

    def kept_permit(self, artifact: Digest, environment: str) -> bytes | None:
        """The permit that was kept, untrusted; or None."""
        try:
            with self._permit_path(artifact, environment).open("rb") as file:
                return file.read(MAX_PERMIT_BYTES + 1)
        except FileNotFoundError:
            return None

    def artifacts(self) -> list[Digest]:
        """The artifacts that are remembered; whether their files are there is another question (`holds`)."""
        names = (path.parent.name for path in (self.root / "artifacts").glob("*/manifest.json"))
        return [Digest("sha256", name) for name in sorted(names) if is_hex_64(name)]

    def snapshots(self) -> list[Digest]:
        """The artifacts whose folder is there."""
        names = (path.name for path in (self.root / "snapshots").iterdir())
        return [Digest("sha256", name) for name in sorted(names) if is_hex_64(name)]

    def holds(self, artifact: Digest, entries: Iterable[FileEntry]) -> bool:
        """Whether the artifact's folder is there, or any of its blobs."""
        return self.snapshot_path(artifact).exists() or any(self.blob_path(e.blake3).exists() for e in entries)

    def remove(self, artifact: Digest, entries: Iterable[FileEntry], needed: Collection[str]) -> None:
        """Take an artifact out of the store, with those blobs that no other artifact needs (`needed`, by BLAKE3).

        The folder goes first: a crash in between leaves blobs without a folder, which the next removal takes. A pull of
        another artifact that just found such a blob fails, and succeeds when it is tried again.
        """
        with self._locked(artifact), explained(self.snapshot_path(artifact)):
            doomed = self.root / "incoming" / f"{artifact.hex}.tree"
            shutil.rmtree(doomed, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                self.snapshot_path(artifact).rename(doomed)
                sync_folder(self.root / "snapshots")
                shutil.rmtree(doomed)
            for entry in entries:
                if entry.blake3 not in needed:
                    self.blob_path(entry.blake3).unlink(missing_ok=True)
                    (self.root / "incoming" / entry.blake3).unlink(missing_ok=True)
            # Last: without the manifest nobody would know what there is to remove.
            folder = self.root / "artifacts" / artifact.hex
            for path in folder.glob(f"*{PERMIT_SUFFIX}"):
                path.unlink(missing_ok=True)
            for name in ("manifest.json", "bundle.json", "repository.json", RECEIPT_FILE, PROVENANCE_FILE):
                (folder / name).unlink(missing_ok=True)

    def _permit_path(self, artifact: Digest, environment: str) -> Path:
        assert "/" not in environment
        return self.root / "artifacts" / artifact.hex / f"{environment}{PERMIT_SUFFIX}"

    def _receipt(self, folder: Path) -> bytes | None:
        try:
            with (folder / RECEIPT_FILE).open("rb") as file:
                return file.read(MAX_RECEIPT_BYTES + 1)
        except FileNotFoundError:
            return None

    def _reject(self, artifact: Digest, blobs: set[str]) -> None:
        """Move changed blobs aside and take the folder apart: nothing loads them, the next pull fetches them anew."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        with self._locked(artifact), contextlib.suppress(FileNotFoundError):
            for blake3 in sorted(blobs):
                with contextlib.suppress(FileNotFoundError):
                    self.blob_path(blake3).rename(self.root / "rejected" / f"{blake3}.{stamp}")
            doomed = self.root / "incoming" / f"{artifact.hex}.tree"
            shutil.rmtree(doomed, ignore_errors=True)
            self.snapshot_path(artifact).rename(doomed)
            shutil.rmtree(doomed)

    def _keep(self, verified: VerifiedManifest) -> None:
        folder = self.root / "artifacts" / verified.manifest.digest.hex
        replace_file(folder / "manifest.json", verified.manifest.raw)
        replace_file(folder / "bundle.json", verified.raw_bundle)
        replace_file(folder / "repository.json", json.dumps({"repository": verified.repository}).encode())

    def _link_files(self, verified: VerifiedManifest, tree: Path) -> None:
        folders = {tree}
        for entry in verified.manifest.files:
            target = tree / entry.path
            make_folder(target.parent)
            folders |= {folder for folder in target.parents if folder.is_relative_to(tree)}
            link_or_copy(self.blob_path(entry.blake3), target)
        for folder in folders:
            sync_folder(folder)

    @contextmanager
    def _locked(self, artifact: Digest) -> Iterator[None]:
        folder = self.root / "artifacts" / artifact.hex
        make_folder(folder)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system has them (and counts that high), else a copy."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EXDEV}:
            raise
        copy_durably(source, target)


def copy_durably(source: Path, target: Path) -> None:
    """Copy a file's bytes; durable once its folder is synced."""
    shutil.copyfile(source, target, follow_symlinks=False)
    target.chmod(0o644)
    fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the file system's refusals into a sentence.

    Raises:
        ModelregError: no space, no permission, read-only, ….
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ModelregError(
                f"no space left at {path.parent}; free some or set cache_dir elsewhere, what has come is kept",
                path=str(path),
            ) from None
        raise Misconfigured(f"{path}: {error.strerror}", path=str(path)) from None
