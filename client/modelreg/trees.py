"""Directories of weights, read without following anything that points elsewhere."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelreg.errors import Invalid, NotFound

# Never part of a model: version control at the top (the OMS default) and the signature itself.
SIGNATURE_FILE = "model.sig"
LEFT_OUT = frozenset({".git", ".gitattributes", ".github", ".gitignore", SIGNATURE_FILE})
MAX_DEPTH = 512  # folders in folders: what fits a manifest's path, and each level holds a descriptor while it is walked

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY


def list_files(root: Path, left_out: frozenset[str] = frozenset()) -> list[str]:
    """Relative paths (with `/`) of every file below a folder, sorted; `left_out` are names at the top.

    Empty folders do not count. Names are returned as they are; the manifest decides which are allowed.

    Raises:
        NotFound: `root` is not there.
        Invalid: `root` is a file, or something below is neither a regular file nor a folder (symlink, socket, device),
            or a folder is deeper than any manifest's path.
        OSError: a folder cannot be read; what may be in it is not left out silently.
    """
    paths: list[str] = []
    if not root.exists():
        raise NotFound(f"{root} does not exist", path=str(root))
    if not root.is_dir():
        raise Invalid(f"{root} is not a folder; an artifact is a folder of files", field="path", value=str(root))
    with open_folder(root) as root_fd:
        for folder, folders, files, folder_fd in os.fwalk(".", onerror=_raise, dir_fd=root_fd):
            relative = Path(folder)
            at_top = relative == Path()
            if len(relative.parts) >= MAX_DEPTH:
                raise Invalid(f"{root} holds folders more than {MAX_DEPTH} deep", field="path", value=str(root))
            for name in [*folders, *files]:
                if at_top and name in left_out:
                    continue
                path = str(relative / name)
                mode = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode
                if stat.S_ISREG(mode):
                    paths.append(path)
                elif not stat.S_ISDIR(mode):
                    raise Invalid(
                        f"{root}: {path!a} is a {_kind(mode)}; an artifact holds regular files only, "
                        "copy the file itself",
                        field="path",
                        value=ascii(path)[1:-1][:200],
                    )
            if at_top:
                folders[:] = [name for name in folders if name not in left_out]
    return sorted(paths)


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def open_folder(root: Path) -> Iterator[int]:
    """A descriptor of the folder itself; opened through a symlink only where the caller named one."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_below(folder_fd: int, path: str) -> Iterator[int]:
    """Open a regular file by relative path without following a symlink in any part of it.

    Raises:
        OSError: absent, a symlink somewhere, unreadable.
        Invalid: not a regular file, or a path that would leave the folder.
    """
    *folders, name = path.split("/")
    if not {"", ".", ".."}.isdisjoint([*folders, name]):
        raise Invalid(f"{ascii(path)[:200]} does not stay inside the folder", field="path", value=path[:200])
    fds: list[int] = []
    try:
        parent = folder_fd
        for part in folders:
            parent = os.open(part, _FOLDER_FLAGS, dir_fd=parent)
            fds.append(parent)
        fd = os.open(name, _FILE_FLAGS, dir_fd=parent)
        fds.append(fd)
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise Invalid(f"{path} is a {_kind(mode)}, not a regular file", field="path", value=path[:200])
        yield fd
    finally:
        for fd in reversed(fds):
            os.close(fd)


def _kind(mode: int) -> str:
    for is_kind, name in (
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISDIR, "folder"),
        (stat.S_ISFIFO, "pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISBLK, "device"),
        (stat.S_ISCHR, "device"),
    ):
        if is_kind(mode):
            return name
    return "special file"
