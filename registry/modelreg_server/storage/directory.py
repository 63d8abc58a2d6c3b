"""Blobs in a directory of a local file system.

    blobs/blake3/ab/<hex>/<upload id>   a finished upload; its name appears only when every byte is durable
    uploads/<upload id>                 the same file while it is written: full size, sparse, parts at their offsets
    uploads/<upload id>.parts/<number>  empty marker: this part is wholly and durably in the file
    log/<origin>/…                      copies of the custody log, replaced by renaming

`link` (which never overwrites) gives the file its final name, so nothing is copied and a reader sees all or nothing. An
upload is **open** while its file is under `uploads/` and has no second name. Who writes checks that under a shared
`flock`, block by block; `finish` and `discard` hold it exclusively. So a straggler never touches a blob that has its
final name, and a client that stalls in mid-body holds nobody up. The file system needs hard links and `flock`.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from modelreg.durable import replace_file
from modelreg.errors import BlobMissing, Conflict, Invalid, StorageUnavailable
from modelreg_server.storage import Upload
from modelreg_server.storage.checks import MAX_LISTED, checked_key, checked_log_key, part_body

BLOCK_BYTES = (
    256 * 1024
)  # bounds the memory of a reader; larger blocks were not faster and cost RSS for every connection
UPLOADS = "uploads"

_ADVICE = {
    errno.ENOSPC: "free space on its file system or enlarge it",
    errno.EDQUOT: "raise the quota of the server's user",
    errno.EFBIG: "its file system cannot hold a file this large",
    errno.EIO: "the disk reports errors, see the kernel log",
    errno.EROFS: "its file system became read-only, see the kernel log",
    errno.EACCES: "the server's user must own the store's directory",
    errno.EPERM: "the server's user must own the store's directory, and the file system must have hard links",
    errno.EMFILE: "raise the server's limit of open files",
}


class DirectoryStore:
    """A `BlobStore` and `LogStore` in one directory, which belongs to it alone. Safe for many threads and several processes."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._uploads = self._root / UPLOADS
        with _storage("open the store"):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._uploads.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(self._root)
            with contextlib.suppress(PermissionError):  # a parent that is not ours was not made by us either
                _sync_directory(self._root.parent)

    def start(self, key: str, size_bytes: int, part_bytes: int) -> Upload:
        """Reserve the upload's file. It is sparse, so a disk may still fill up later; one already full is told now.

        Raises:
            Conflict: the key, or an upload id like its last segment, was used before.
        """
        upload = Upload(key=key, size_bytes=size_bytes, part_bytes=part_bytes, token="")
        final, file, marks = self._paths(upload)
        taken = Conflict("This upload id was used before: start the upload with a new one.", key=key)
        with _storage("start an upload"):
            space = os.statvfs(self._uploads)
            if space.f_bavail * space.f_frsize < size_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if final.exists():
                raise taken
            try:
                marks.mkdir(mode=0o700)
            except FileExistsError:
                raise taken from None
            # A crash from here on leaves names that nobody was told about: the next try has a new upload id.
            try:
                with _opened(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
                    os.ftruncate(descriptor, size_bytes)
                    os.fsync(descriptor)
                _sync_directory(self._uploads)
            except FileExistsError:
                raise taken from None
            except OSError:
                file.unlink(missing_ok=True)
                _remove_folder(marks)
                raise
        return upload

    def write_part(self, upload: Upload, number: int, body: Iterable[bytes]) -> None:
        """Write the part straight to its place, sync it, then mark it.

        A try that fails after its first byte leaves the part unmarked, even if an earlier try was whole. Two tries of
        one part at the same time may mix; whoever publishes measures the whole blob after `finish`.

        Raises:
            Invalid: there is no such part, or the body is not as long as the part; nothing of it counts.
            Conflict: the upload is not open (finished or discarded).
        """
        _final, file, marks = self._paths(upload)
        mark = marks / str(number)
        offset = (number - 1) * upload.part_bytes
        blocks = part_body(upload, number, body)
        with _opened_for_parts(file) as descriptor:
            for block in blocks:
                with _still_open(file, descriptor):
                    # The mark goes, durably, before the bytes do: else a crash could leave a mark on torn bytes. Each
                    # time, for another try of the same part may have set it meanwhile.
                    with contextlib.suppress(FileNotFoundError):
                        mark.unlink()
                        _sync_directory(marks)
                    _write_at(descriptor, block, offset)
                offset += len(block)
            with _still_open(file, descriptor):
                os.fdatasync(descriptor)  # data is enough: the size was synced by `start`
                # A crash here leaves whole bytes without a mark: the part is sent again.
                with _opened(mark, os.O_WRONLY | os.O_CREAT):
                    pass
                # If this fails, the mark may be seen now and lost in a power cut; the bytes are durable either way.
                _sync_directory(marks)

    def written_parts(self, upload: Upload) -> frozenset[int]:
        """The marked parts; all once the blob has its final name; none of an upload that was discarded."""
        final, _file, marks = self._paths(upload)
        everything = frozenset(range(1, upload.part_count + 1))
        with _storage("list the parts of an upload"):
            try:
                marked = everything & {int(mark.name) for mark in marks.iterdir()}
            except FileNotFoundError:
                marked = frozenset()
            return everything if final.exists() else marked  # this order: `finish` may come between the two looks

    def finish(self, upload: Upload) -> None:
        """Give the file its final name and forget the marks. Any line may be the last before a crash; see there.

        Raises:
            Conflict: parts are missing (facts: `missing`), or the key belongs to another upload.
        """
        final, file, marks = self._paths(upload)
        with _storage("finish an upload"):
            with _locked(file) as descriptor:
                if not final.exists():
                    self._link(upload, descriptor)
                elif descriptor is not None and not os.path.samestat(final.stat(), os.fstat(descriptor)):
                    raise Conflict("The blob key belongs to another upload.", key=upload.key)
                # A crash from here on leaves both names: the blob is whole and no longer open, and the next finish
                # comes through here. The final name must be durable before the first one goes.
                self._sync_parents(final)
                file.unlink(missing_ok=True)
            # A crash here leaves marks without a file: the next finish, or discard, removes them.
            _remove_folder(marks)
            _sync_directory(self._uploads)

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Read a range. Nothing happens, nor fails, before the first block is asked for."""
        path = self._path(key)
        with _storage("read a blob"), contextlib.ExitStack() as stack:
            try:
                descriptor = stack.enter_context(_opened(path, os.O_RDONLY))
            except FileNotFoundError:
                raise BlobMissing("The store has no such blob.", key=key) from None
            size_bytes = os.fstat(descriptor).st_size
            while start < stop <= size_bytes and (block := os.pread(descriptor, min(BLOCK_BYTES, stop - start), start)):
                start += len(block)
                yield block
            if start < stop:
                raise BlobMissing("The stored blob is cut short.", key=key, size_bytes=size_bytes, wanted_bytes=stop)

    def discard(self, upload: Upload) -> None:
        """Remove the file under both its names, and the marks; a crash leaves a rest for the next discard.

        Folders named after the digest stay: another upload may be making its name in them right now.
        """
        final, file, marks = self._paths(upload)
        with _storage("discard an upload"), _locked(file):
            with contextlib.suppress(FileNotFoundError):
                final.unlink()
                _sync_directory(final.parent)
            file.unlink(missing_ok=True)
            _remove_folder(marks)
            _sync_directory(self._uploads)

    def put_copy(self, key: str, data: bytes) -> None:
        """Write beside it, sync, rename, sync: a reader sees the old object or the new one."""
        with _storage("write a copy of the log"):
            replace_file(self._root / checked_log_key(key), data, mode=0o600)

    def get_copy(self, key: str, max_bytes: int) -> bytes | None:
        """The whole file, if it is there and not larger."""
        path = self._root / checked_log_key(key)
        with _storage("read a copy of the log"):
            try:
                with _opened(path, os.O_RDONLY) as descriptor:
                    if os.fstat(descriptor).st_size > max_bytes:
                        return None
                    with open(descriptor, "rb", closefd=False) as file:  # a descriptor, not a path
                        return file.read(max_bytes)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list_copies(self, folder: str, after: str = "") -> list[str]:
        """Names of files; one that is being written has a dot in front and is not among them."""
        path = self._root / checked_log_key(folder)
        with _storage("list copies of the log"):
            try:
                with os.scandir(path) as found:
                    names = [item.name for item in found if item.name > after and item.is_file(follow_symlinks=False)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(name for name in names if not name.startswith("."))[:MAX_LISTED]

    def remove_copy(self, key: str) -> None:
        """Remove the file; folders stay."""
        path = self._root / checked_log_key(key)
        with _storage("remove a copy of the log"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            _sync_directory(path.parent)

    def _path(self, key: str) -> Path:
        if key.partition("/")[0] in {UPLOADS, "log"}:
            raise Invalid("This key is the store's own.", field="key", value=key[:200])
        return self._root / checked_key(key)

    def _paths(self, upload: Upload) -> tuple[Path, Path, Path]:
        """Where the finished blob goes, the file while it is open, the folder of its marks."""
        final = self._path(upload.key)
        return final, self._uploads / final.name, self._uploads / f"{final.name}.parts"

    def _link(self, upload: Upload, descriptor: int | None) -> None:
        """Give the locked file its final name once everything in it is durable."""
        final, file, _marks = self._paths(upload)
        written = frozenset() if descriptor is None else self.written_parts(upload)
        missing = sorted(set(range(1, upload.part_count + 1)) - written)
        if descriptor is None or missing:
            raise Conflict(f"{len(missing)} of {upload.part_count} parts are missing: send them.", missing=missing)
        os.fsync(descriptor)  # each part was synced when it was marked; this adds the file's own metadata
        # A crash in here leaves empty folders: the next finish uses them.
        for folder in reversed(final.relative_to(self._root).parents[:-1]):
            (self._root / folder).mkdir(mode=0o700, exist_ok=True)
        os.link(file, final, follow_symlinks=False)

    def _sync_parents(self, final: Path) -> None:
        # All of them, each time: one that is already there may have been made by a process that died before its sync.
        for folder in final.relative_to(self._root).parents:
            _sync_directory(self._root / folder)


@contextlib.contextmanager
def _storage(doing: str) -> Iterator[None]:
    """Turn what the system says into `StorageUnavailable`, without paths: the message travels to clients."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        advice = _ADVICE.get(number, "see the server's log")
        detail = f"The blob store could not {doing}: {os.strerror(number)} ({advice})."
        raise StorageUnavailable(detail, error=errno.errorcode.get(number, str(number))) from error


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened_for_parts(file: Path) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        with _storage("write a part"):
            try:
                descriptor = stack.enter_context(_opened(file, os.O_WRONLY))
            except FileNotFoundError:
                raise _not_open() from None
        yield descriptor


@contextlib.contextmanager
def _still_open(file: Path, descriptor: int) -> Iterator[None]:
    """Hold the upload open for a moment of our own work, never while a client is waited for.

    Raises:
        Conflict: `finish` or `discard` came first.
    """
    with _storage("write a part"):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            try:
                named = file.stat()
            except FileNotFoundError:
                raise _not_open() from None
            # A second name: a finish died after giving it. The blob may be published, so it is read-only now.
            if named.st_nlink != 1 or not os.path.samestat(named, os.fstat(descriptor)):
                raise _not_open()
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[int | None]:
    """The upload's file with every writer kept out, or None when it is gone (finished or discarded)."""
    with contextlib.ExitStack() as stack:
        descriptor = None
        with contextlib.suppress(FileNotFoundError):
            descriptor = stack.enter_context(_opened(file, os.O_RDWR))
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for a block on its way to the file, no longer
        yield descriptor


def _not_open() -> Conflict:
    return Conflict("The upload is not open any more: it was finished or discarded.")


def _write_at(descriptor: int, block: bytes, offset: int) -> None:
    rest = memoryview(block)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest = rest[written:]
        offset += written


def _remove_folder(folder: Path) -> None:
    """Remove a flat folder, whatever is left of it; another remover may be at it too."""
    with contextlib.suppress(FileNotFoundError):
        for entry in list(folder.iterdir()):
            entry.unlink(missing_ok=True)
        folder.rmdir()


def _sync_directory(folder: Path) -> None:
    with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)
