"""diff: what differs between two artifacts, or an artifact and a folder: files, tensors, members of JSON files.

Files are told apart by the digests of their manifests, without reading a byte. What differs is then looked into: tensors
of safetensors files by header and by the bytes of each, members of JSON files by value. Where chunk digests already
decide whether a tensor's bytes are the same, they are not read. Everything that is listed has a bound and a count.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from blake3 import blake3

from modelreg import safetensors_header, trees
from modelreg.canonical import strict_json
from modelreg.errors import DigestMismatch, Invalid
from modelreg.manifests import FileEntry, Manifest
from modelreg.safetensors_header import Header, Tensor

SCHEMA = "modelreg/diff/v1"
MAX_JSON_BYTES = 64 * 1024 * 1024  # a tokenizer of 250,000 words has 30
MAX_ROWS = 1000  # tensors listed, and members of JSON files
MAX_VALUE_CHARS = 200
MAX_POINTER_CHARS = 1000
_BLOCK_BYTES = 4 * 1024 * 1024

Area = Literal["weights", "config", "tokenizer", "chat-template", "code", "other"]
Change = Literal["added", "removed", "changed"]
TensorChange = Literal["added", "removed", "retyped", "values", "not-compared"]

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".npz", ".h5")
_TOKENIZER = frozenset(
    {"added_tokens.json", "merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model"}
    | {"tokenizer_config.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "tekken.json"}
)
_CHAT_TEMPLATE = "chat_template"


class Bytes(Protocol):
    """The bytes of one side's files."""

    def read(self, path: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, fewer where the file ends."""


@dataclass(frozen=True)
class FolderBytes:
    """A folder's files; nothing in it is followed to another place."""

    root: Path

    def read(self, path: str, start: int, stop: int) -> bytes:
        """As the protocol; several reads where one does not give all."""
        pieces = []
        with trees.open_folder(self.root) as folder_fd, trees.open_below(folder_fd, path) as fd:
            while start < stop and (data := os.pread(fd, stop - start, start)):
                pieces.append(data)
                start += len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@dataclass(frozen=True)
class FileChange:
    """One file that differs; None where a side does not have it."""

    path: str
    change: Change
    area: Area
    before: FileEntry | None
    after: FileEntry | None


@dataclass(frozen=True)
class Placed:
    """A tensor and the file it is in; `blake3` of its bytes where they were read."""

    path: str
    tensor: Tensor
    blake3: str | None = None


@dataclass(frozen=True)
class TensorRow:
    """One tensor that differs. `retyped`: another type or shape. `not-compared`: only the headers were."""

    name: str
    change: TensorChange
    before: Placed | None
    after: Placed | None


@dataclass(frozen=True)
class MemberRow:
    """One member of a JSON file, or of a safetensors file's metadata, by JSON pointer; values as shortened JSON text."""

    path: str
    pointer: str
    change: Change
    before: str | None
    after: str | None


@dataclass
class Difference:
    """Everything that differs. Lists are bounded; `tensor_counts` and `members_left_out` say how much there is."""

    same_files: int
    files: list[FileChange]
    tensors: list[TensorRow] = field(default_factory=list)
    tensor_counts: Counter[str] = field(default_factory=Counter)
    members: list[MemberRow] = field(default_factory=list)
    members_left_out: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def areas(self) -> list[Area]:
        """What kinds of content differ, without repetition, weights first."""
        found = {row.area for row in self.files}
        if any(_is_chat_template(row) for row in self.members):
            found.add("chat-template")
        order: tuple[Area, ...] = ("weights", "config", "tokenizer", "chat-template", "code", "other")
        return [area for area in order if area in found]


def compare_files(before: Manifest, after: Manifest) -> Difference:
    """Tell the files of two manifests apart by digest; reads nothing."""
    old = {entry.path: entry for entry in before.files}
    new = {entry.path: entry for entry in after.files}
    changes = []
    for path in sorted(old.keys() | new.keys()):
        one, other = old.get(path), new.get(path)
        if one == other:
            continue
        change: Change = "added" if one is None else "removed" if other is None else "changed"
        changes.append(FileChange(path, change, area_of(path), one, other))
    return Difference(len(old.keys() & new.keys()) - sum(row.change == "changed" for row in changes), changes)


def area_of(path: str) -> Area:
    """What a file is about, by its name."""
    name = path.rpartition("/")[2].lower()
    if name.endswith(_WEIGHTS):
        return "weights"
    if name.startswith(_CHAT_TEMPLATE) or "/chat_templates/" in f"/{path.lower()}":
        return "chat-template"
    if name in _TOKENIZER:
        return "tokenizer"
    if name.endswith((".py", ".so", ".sh")):
        return "code"
    return "config" if name.endswith((".json", ".yaml", ".yml", ".toml")) else "other"


def needs_bytes(difference: Difference) -> bool:
    """Whether `compare_contents` would look into any file."""
    return bool(_pooled(difference) or any(_is_json(row) for row in difference.files))


def compare_contents(difference: Difference, before: Bytes, after: Bytes, *, values: bool, chunk_bytes: int) -> None:
    """Look into the files that differ, and add what is found to `difference`.

    Args:
        difference: as `compare_files` gave it.
        before: untrusted bytes; the caller has measured them against the manifest, or does.
        after: the same of the other side.
        values: read tensors' bytes where chunk digests do not decide; without it those are `not-compared`.
        chunk_bytes: of both manifests.
    """
    _compare_tensors(difference, before, after, values=values, chunk_bytes=chunk_bytes)
    for row in difference.files:
        if _is_json(row):
            _compare_json(difference, row, before, after)
    difference.members.sort(key=lambda row: (row.path, row.pointer))


def _is_json(row: FileChange) -> bool:
    return row.change == "changed" and row.path.lower().endswith(".json")


def _pooled(difference: Difference) -> list[FileChange]:
    """The safetensors files whose tensors can be held against some of the other side, in the same folder."""
    differing = [row for row in difference.files if row.path.lower().endswith(".safetensors")]
    old = {_folder(row.path) for row in differing if row.before is not None}
    new = {_folder(row.path) for row in differing if row.after is not None}
    return [row for row in differing if _folder(row.path) in old & new]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _compare_tensors(difference: Difference, before: Bytes, after: Bytes, *, values: bool, chunk_bytes: int) -> None:
    rows = _pooled(difference)
    old_entries = {row.path: row.before for row in rows if row.before is not None}
    new_entries = {row.path: row.after for row in rows if row.after is not None}
    old_headers = _headers(difference, old_entries, before, "before")
    new_headers = _headers(difference, new_entries, after, "after")
    for path in sorted(old_headers.keys() & new_headers.keys()):
        pair = ({"__metadata__": headers[path].metadata} for headers in (old_headers, new_headers))
        _add_members(difference, path, *pair)

    # A file whose header cannot be read leaves its folder undecided: its tensors would look added or removed.
    unread = {_folder(path) for path in (old_entries.keys() - old_headers) | (new_entries.keys() - new_headers)}
    found: list[TensorRow] = []
    both: list[tuple[Placed, Placed]] = []
    for one, other in _pairs(_placed(old_headers, unread), _placed(new_headers, unread)):
        if one is None or other is None:
            placed = one or other
            assert placed is not None
            found.append(TensorRow(placed.tensor.name, "removed" if other is None else "added", one, other))
        elif (one.tensor.dtype, one.tensor.shape) != (other.tensor.dtype, other.tensor.shape):
            found.append(TensorRow(one.tensor.name, "retyped", one, other))
        else:
            both.append((one, other))

    def decide(pair: tuple[Placed, Placed]) -> TensorRow | None:
        one, other = pair
        told = _told_by_chunks(one, old_entries[one.path], other, new_entries[other.path], chunk_bytes)
        if told is not None:
            return None if told == "same" else TensorRow(one.tensor.name, "values", one, other)
        if not values:
            return TensorRow(one.tensor.name, "not-compared", one, other)
        one = Placed(one.path, one.tensor, _hash(before, one))
        other = Placed(other.path, other.tensor, _hash(after, other))
        return None if one.blake3 == other.blake3 else TensorRow(one.tensor.name, "values", one, other)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "tensors") as pool:
        for row in pool.map(decide, both):
            if row is None:
                difference.tensor_counts["same"] += 1
            else:
                found.append(row)
    difference.tensor_counts.update(row.change for row in found)
    difference.tensors = sorted(found, key=lambda row: (row.name, row.change))[:MAX_ROWS]


def _headers(difference: Difference, entries: Mapping[str, FileEntry], side: Bytes, name: str) -> dict[str, Header]:
    headers = {}
    for path, entry in entries.items():
        try:
            headers[path] = safetensors_header.read(lambda a, b, path=path: side.read(path, a, b), entry.size)  # type: ignore[misc]
        except Invalid as error:
            difference.problems.append((f"{name}: {path}", error.detail))
    return headers


def _placed(headers: Mapping[str, Header], unread: set[str]) -> list[Placed]:
    return [
        Placed(path, tensor)
        for path, header in sorted(headers.items())
        if _folder(path) not in unread
        for tensor in header.tensors.values()
    ]


def _pairs(old: Sequence[Placed], new: Sequence[Placed]) -> Iterator[tuple[Placed | None, Placed | None]]:
    """Tensors of the same name: in the same file where both have it, else the only ones in the folder (other shards)."""
    waiting: dict[tuple[str, str], list[Placed]] = defaultdict(list)
    in_file = {(placed.path, placed.tensor.name): placed for placed in new}
    for placed in old:
        same_file = in_file.pop((placed.path, placed.tensor.name), None)
        if same_file is not None:
            yield placed, same_file
        else:
            waiting[_folder(placed.path), placed.tensor.name].append(placed)
    left: dict[tuple[str, str], list[Placed]] = defaultdict(list)
    for placed in in_file.values():
        left[_folder(placed.path), placed.tensor.name].append(placed)
    for key in waiting.keys() | left.keys():
        ours, theirs = waiting.get(key, []), left.get(key, [])
        if len(ours) == len(theirs) == 1:
            yield ours[0], theirs[0]
        else:
            yield from ((placed, None) for placed in ours)
            yield from ((None, placed) for placed in theirs)


def _told_by_chunks(
    one: Placed, old: FileEntry, other: Placed, new: FileEntry, chunk_bytes: int
) -> Literal["same", "values"] | None:
    """What chunk digests say of two tensors that stand at the same place: equal around them, or unequal inside them."""
    start, stop = one.tensor.start, one.tensor.stop
    if (start, stop) != (other.tensor.start, other.tensor.stop):
        return None
    if start == stop:
        return "same"
    old_chunks, new_chunks = old.chunk_digests(), new.chunk_digests()
    unequal = [at for at in range(start // chunk_bytes, -(-stop // chunk_bytes)) if old_chunks[at] != new_chunks[at]]
    if not unequal:
        return "same"
    for at in unequal:
        ends = {min(entry.size, (at + 1) * chunk_bytes) for entry in (old, new)}
        if len(ends) == 1 and start <= at * chunk_bytes and ends.pop() <= stop:
            return "values"
    return None


def _hash(side: Bytes, placed: Placed) -> str:
    hasher, at = blake3(), placed.tensor.start
    while at < placed.tensor.stop:
        data = side.read(placed.path, at, min(placed.tensor.stop, at + _BLOCK_BYTES))
        if not data:
            raise DigestMismatch(f"{ascii(placed.path)[1:-1]} became shorter while it was read", path=placed.path)
        hasher.update(data)
        at += len(data)
    return hasher.hexdigest()


def _compare_json(difference: Difference, row: FileChange, before: Bytes, after: Bytes) -> None:
    assert row.before is not None
    assert row.after is not None
    documents = []
    for name, entry, side in (("before", row.before, before), ("after", row.after, after)):
        if entry.size > MAX_JSON_BYTES:
            difference.problems.append(
                (f"{name}: {row.path}", f"{entry.size} bytes; only {MAX_JSON_BYTES} are looked into")
            )
            return
        raw = side.read(row.path, 0, entry.size)
        if sum(raw.count(mark) for mark in (b"{", b"[", b",")) > safetensors_header.MAX_VALUES:
            difference.problems.append(
                (f"{name}: {row.path}", f"more than {safetensors_header.MAX_VALUES} values; they are not looked into")
            )
            return
        try:
            documents.append(strict_json(raw))
        except ValueError as error:
            difference.problems.append((f"{name}: {row.path}", f"not JSON: {str(error)[:MAX_VALUE_CHARS]}"))
            return
    _add_members(difference, row.path, *documents)


def _add_members(difference: Difference, path: str, before: Any, after: Any) -> None:
    for pointer, change, old, new in _changes(before, after):
        if len(difference.members) < MAX_ROWS:
            difference.members.append(MemberRow(path, pointer, change, old, new))
        else:
            difference.members_left_out += 1


def _changes(before: Any, after: Any) -> Iterator[tuple[str, Change, str | None, str | None]]:
    """The members that differ. Lists of one length are compared item by item, others as a whole."""
    todo: list[tuple[str, Any, Any]] = [("", before, after)]
    while todo:
        pointer, old, new = todo.pop()
        if isinstance(old, dict) and isinstance(new, dict):
            for name in sorted(old.keys() | new.keys()):
                # No longer than is shown: a hostile name would be repeated for everything below it.
                below = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"[:MAX_POINTER_CHARS]
                if name not in new:
                    yield below, "removed", _shown(old[name]), None
                elif name not in old:
                    yield below, "added", None, _shown(new[name])
                else:
                    todo.append((below, old[name], new[name]))
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            todo += [(f"{pointer}/{at}"[:MAX_POINTER_CHARS], old[at], new[at]) for at in range(len(old))]
        elif type(old) is not type(new) or old != new:  # 1 is not true, and 1.0 is not 1
            yield pointer, "changed", _shown(old), _shown(new)


def _shown(value: Any) -> str:
    match value:
        case dict() | list() if len(value) > MAX_VALUE_CHARS:
            return f"{'{' if isinstance(value, dict) else '['}… {len(value)} items"
        case str():
            text = json.dumps(value[: MAX_VALUE_CHARS + 1], ensure_ascii=False)
        case _:
            text = _text_of(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"


def _text_of(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to show)"


def _is_chat_template(row: MemberRow) -> bool:
    return row.pointer == f"/{_CHAT_TEMPLATE}" or row.pointer.startswith(f"/{_CHAT_TEMPLATE}/")
