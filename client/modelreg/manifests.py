"""Manifest v1: the canonical list of an artifact's files (docs/spec/manifest.md).

A manifest is a pure function of the files, so anybody can recompute the *artifact digest*: the SHA-256 of its bytes.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from modelreg.canonical import canonical_json, strict_json
from modelreg.digests import Digest, is_hex_64, sha256_of
from modelreg.errors import ManifestInvalid

SCHEMA = "modelreg/manifest/v1"
CHUNK_BYTES = 8 * 1024 * 1024  # two per upload part; docs/adr/0003-chunk-size.md

# Everything an attacker controls has a bound.
MAX_FILES = 100_000
MAX_MANIFEST_BYTES = 32 * 1024 * 1024
MAX_FILE_BYTES = 2**50  # a petabyte, far below 2^53
MAX_PATH_BYTES = 1024
MAX_PATH_PART_BYTES = 255

# Names that Windows reads as devices whatever their extension, and the characters it refuses.
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.DOTALL)
_FORBIDDEN = frozenset('\\:*?"<>|')
# Control and format characters, line ends, and code points whose normal form a newer Unicode may still decide.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Zl", "Zp"})
# Default-ignorable code points outside those categories: Linux drops them where a directory folds case.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


@dataclass(frozen=True)
class FileEntry:
    """One file. `sha256`, `blake3` and `chunks` are 64 lowercase hex digits; sizes are bytes.

    `chunks` holds the BLAKE3 of every `chunk_bytes` range in order, and is empty for a file of one chunk.
    """

    path: str
    size: int
    sha256: str
    blake3: str
    chunks: tuple[str, ...] = ()

    def chunk_digests(self) -> tuple[str, ...]:
        """One BLAKE3 a chunk, also for a file of one chunk."""
        return self.chunks or (self.blake3,)


@dataclass(frozen=True)
class Manifest:
    """A parsed or built manifest: always canonical. `raw` are its bytes, `digest` the artifact digest."""

    files: tuple[FileEntry, ...]
    chunk_bytes: int
    raw: bytes
    digest: Digest

    @property
    def total_bytes(self) -> int:
        """Sum of the file sizes, in bytes."""
        return sum(entry.size for entry in self.files)


def build(entries: Iterable[FileEntry], chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    """Make the manifest of these files; the order of `entries` does not matter.

    Raises:
        ManifestInvalid: a name or a number that no manifest may hold.
    """
    files = tuple(sorted(entries, key=lambda entry: entry.path))
    require_names([entry.path for entry in files])
    for entry in files:
        _require_chunk_count(entry, chunk_bytes)
    raw = canonical_json(
        {"schema": SCHEMA, "chunk_bytes": chunk_bytes, "files": [_entry_to_json(entry) for entry in files]}
    )
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"the manifest has {len(raw)} bytes; the limit is {MAX_MANIFEST_BYTES}")
    return Manifest(files, chunk_bytes, raw, sha256_of(raw))


def parse(raw: bytes) -> Manifest:
    """Read untrusted manifest bytes; accepts exactly what `build` writes.

    Raises:
        ManifestInvalid: not a canonical manifest v1; the message says where.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"the manifest has {len(raw)} bytes; the limit is {MAX_MANIFEST_BYTES}")
    try:
        document = strict_json(raw)
    except ValueError as error:
        raise ManifestInvalid(f"the manifest is not JSON: {error}") from None
    members = _object(document, {"schema", "chunk_bytes", "files"}, set(), "manifest")
    if members["schema"] != SCHEMA:
        raise ManifestInvalid(
            f"manifest schema is {_short(members['schema'])}, not {SCHEMA}; a newer client may read it"
        )
    if members["chunk_bytes"] != CHUNK_BYTES or isinstance(members["chunk_bytes"], bool):
        raise ManifestInvalid(f"chunk_bytes is {_short(members['chunk_bytes'])}; v1 has {CHUNK_BYTES}")
    if not isinstance(members["files"], list):
        raise ManifestInvalid("files is not a list")
    if len(members["files"]) > MAX_FILES:
        raise ManifestInvalid(f"{len(members['files'])} files; the limit is {MAX_FILES}")
    manifest = build([_entry_from_json(item, at) for at, item in enumerate(members["files"])])
    # One comparison covers order, white space, escapes, number spelling and member order.
    if manifest.raw != raw:
        raise ManifestInvalid("the manifest is not in canonical form (RFC 8785, files sorted by code point of path)")
    return manifest


def require_path(path: str) -> None:
    r"""Refuse a path that is not relative, normalised and harmless on POSIX *and* Windows.

    Raises:
        ManifestInvalid: absolute, `..`, backslash, control character, device name, not NFC, too long, …
    """
    reason = _path_fault(path)
    if reason:
        raise ManifestInvalid(f"the path {_short(path)} {reason}", path=path[:200].encode("utf-8", "replace").decode())


def _path_fault(path: str) -> str | None:
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    if not path or len(encoded) > MAX_PATH_BYTES:
        return f"is empty or longer than {MAX_PATH_BYTES} bytes"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode form NFC"
    bad = next(
        (char for char in path if char in _FORBIDDEN or unicodedata.category(char) in _FORBIDDEN_CATEGORIES), None
    )
    if bad is not None:
        return f"holds the character U+{ord(bad):04X}"
    if _folded(path).count("/") != path.count("/"):
        return "holds a character that some systems read as /"
    return next((fault for part in path.split("/") if (fault := _part_fault(part))), None)


def _part_fault(part: str) -> str | None:
    if part in {"", ".", ".."}:
        return "is absolute, or has an empty, '.' or '..' part"
    if len(part.encode("utf-8")) > MAX_PATH_PART_BYTES:
        return f"has a part longer than {MAX_PATH_PART_BYTES} bytes"
    if part[-1] in ". " or part[0] == " ":
        return "has a part that starts with a space or ends in a dot or a space"
    if _DEVICES.fullmatch(part):
        return "names a Windows device"
    return None


def require_names(paths: Sequence[str]) -> None:
    """All rules over a set of names: not empty, not too many, no twins, no file that is also a folder.

    Raises:
        ManifestInvalid: which path, and why.
    """
    if not paths:
        raise ManifestInvalid("an artifact needs at least one file")
    if len(paths) > MAX_FILES:
        raise ManifestInvalid(f"{len(paths)} files; the limit is {MAX_FILES}")
    for path in paths:
        require_path(path)
    _require_no_twins(paths)


def _require_no_twins(paths: Sequence[str]) -> None:
    # Sorted with / before every other character, a file stands right before what is below its name, and what is below
    # one folder stands together: neighbours tell everything, and deep paths cost no more than their bytes.
    ordered = sorted((_folded(path).replace("/", "\0"), path) for path in paths)
    for (folded, path), (folded_next, path_next) in pairwise(ordered):
        if folded == folded_next:
            raise ManifestInvalid(f"the paths {_short(path)} and {_short(path_next)} are the same on some file systems")
        parts, parts_next = folded.split("\0"), folded_next.split("\0")
        shared = next(
            (at for at, (one, other) in enumerate(zip(parts, parts_next, strict=False)) if one != other), None
        )
        folders = path_next.split("/")[:shared]
        if shared is None or path.split("/")[:shared] != folders:
            folder = "/".join(folders if shared is not None else path_next.split("/")[: len(parts)])
            raise ManifestInvalid(f"the folder {_short(folder)} has the name of a file or of another folder")


def _folded(path: str) -> str:
    """What the most forgiving file system compares: compatibility form, case and ignorable characters gone."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", _IGNORABLE.sub("", path)).casefold())


def _require_chunk_count(entry: FileEntry, chunk_bytes: int) -> None:
    expected = -(-entry.size // chunk_bytes) if entry.size > chunk_bytes else 0
    if len(entry.chunks) != expected:
        raise ManifestInvalid(
            f"{_short(entry.path)} of {entry.size} bytes lists {len(entry.chunks)} chunks; it has {expected}",
            path=entry.path,
        )


def _entry_to_json(entry: FileEntry) -> dict[str, Any]:
    members: dict[str, Any] = {
        "path": entry.path,
        "size": entry.size,
        "sha256": entry.sha256,
        "blake3": entry.blake3,
    }
    if entry.chunks:
        members["chunks"] = list(entry.chunks)
    return members


def _entry_from_json(untrusted: Any, at: int) -> FileEntry:
    where = f"files[{at}]"
    members = _object(untrusted, {"path", "size", "sha256", "blake3"}, {"chunks"}, where)
    path, size, chunks = members["path"], members["size"], members.get("chunks", [])
    if not isinstance(path, str):
        raise ManifestInvalid(f"{where}.path is not a string")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_FILE_BYTES:
        raise ManifestInvalid(f"{where}.size is {_short(size)}, not a number of bytes")
    if not isinstance(chunks, list) or not all(is_hex_64(chunk) for chunk in chunks):
        raise ManifestInvalid(f"{where}.chunks is not a list of 64 lowercase hex digits each")
    for name in ("sha256", "blake3"):
        if not is_hex_64(members[name]):
            raise ManifestInvalid(f"{where}.{name} is {_short(members[name])}, not 64 lowercase hex digits")
    return FileEntry(path, size, members["sha256"], members["blake3"], tuple(chunks))


def _object(untrusted: Any, required: set[str], optional: set[str], where: str) -> dict[str, Any]:
    if not isinstance(untrusted, dict) or not required <= untrusted.keys() <= required | optional:
        raise ManifestInvalid(f"{where} is not an object with exactly the members {', '.join(sorted(required))}")
    return untrusted


def _short(value: object) -> str:
    """At most 120 characters of a value, printable whatever it holds."""
    return ascii(value)[:120]
