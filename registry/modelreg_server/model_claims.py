"""What a model's files say of where it comes from: model card, adapter configuration, safetensors and GGUF metadata. Pure.

Whoever wrote a file can have written anything, so that all of it is a claim, kept with the place where it stands. Readers
take untrusted bytes, take out the few members below as texts, and find nothing where something is not as it should be.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from modelreg.canonical import strict_json

Kind = Literal["base_model", "relation", "dataset", "licence"]

MAX_TEXT_CHARS = 500
MAX_CLAIMS = 64  # of one file
MAX_HEAD_BYTES = 8 * 1024 * 1024  # of a file of weights: the first chunk
MAX_DOCUMENT_BYTES = 1024 * 1024  # of a model card or a configuration
MAX_FRONT_MATTER_BYTES = 256 * 1024
_MAX_YAML_BYTES = 16 * 1024  # what is taken out of it
_MAX_BRACKETS = 64
_MAX_KEYS = 10_000
_MAX_KEY_BYTES = 256

# A member of the file, and what it is a claim of.
_CARD: dict[str, Kind] = {
    "base_model": "base_model",
    "base_model_relation": "relation",
    "datasets": "dataset",
    "license": "licence",
    "license_name": "licence",
}
_SAFETENSORS: dict[str, Kind] = {
    "base_model": "base_model",
    "ss_sd_model_name": "base_model",
    "license": "licence",
    "modelspec.license": "licence",
}
_GGUF_LICENCE = ("general.license", "general.license.name")
_GGUF_ENTRY = re.compile(r"general\.(base_model|dataset)\.([0-9]{1,3})\.(name|organization|repo_url)", re.ASCII)
_TOP_LEVEL_KEY = re.compile(rb"([A-Za-z_]+)\s*:(?:\s|$)")


@dataclass(frozen=True)
class Claim:
    """One thing that a file says: `value` of `kind`, under `member` of the file `path`."""

    kind: Kind
    value: str
    path: str
    member: str


def reader_of(path: str) -> Literal["card", "adapter", "safetensors", "gguf"] | None:
    """How a file of this name is read, if it is."""
    if path == "README.md":
        return "card"
    if path == "adapter_config.json":
        return "adapter"
    name = path.lower()
    return "safetensors" if name.endswith(".safetensors") else "gguf" if name.endswith(".gguf") else None


def read(path: str, untrusted_head: bytes) -> list[Claim]:
    """The claims of a file by its name.

    Args:
        untrusted_head: its first bytes; all of a card or a configuration.
    """
    match reader_of(path):
        case "card":
            found = _card(untrusted_head)
        case "adapter":
            found = _adapter(untrusted_head)
        case "safetensors":
            found = _safetensors(untrusted_head)
        case "gguf":
            found = _gguf(untrusted_head)
        case None:
            return []
    claims = (Claim(kind, text, path, member) for kind, text, member in found if _is_line(text))
    return list(dict.fromkeys(claims))[:MAX_CLAIMS]


Found = Iterator[tuple[Kind, Any, str]]


def _card(raw: bytes) -> Found:
    blocks = b"".join(_top_level_blocks(_front_matter(raw)))
    # Opened brackets cost the scanner the square of their number (seen: 16,000 of them take two seconds).
    if not blocks or len(blocks) > _MAX_YAML_BYTES or blocks.count(b"[") + blocks.count(b"{") > _MAX_BRACKETS:
        return
    try:
        members = yaml.load(blocks, _Texts)  # noqa: S506  # constructs texts, lists and objects of them, and nothing else
    except (yaml.YAMLError, RecursionError, ValueError):
        return
    if not isinstance(members, dict):
        return
    for name, kind in _CARD.items():
        for value in _each(members.get(name)):
            yield kind, value, name


class _Texts(yaml.BaseLoader):
    """YAML as texts, lists and objects. An alias is refused: by them a kilobyte becomes a gigabyte."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what refers to something else."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def _front_matter(raw: bytes) -> bytes:
    """What stands between two lines of `---` at the top."""
    lines = raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    if len(raw) > MAX_DOCUMENT_BYTES or not lines.startswith(b"---\n"):
        return b""
    end = lines.find(b"\n---", 3)
    return lines[4 : end + 1] if 0 <= end <= MAX_FRONT_MATTER_BYTES else b""


def _top_level_blocks(front_matter: bytes) -> Iterator[bytes]:
    """The members that are of interest, each with the lines below it: cards carry evaluations of a hundred kilobytes."""
    wanted = False
    for line in front_matter.splitlines(keepends=True):
        key = _TOP_LEVEL_KEY.match(line)
        if key is not None:
            wanted = key[1].decode() in _CARD
        elif line.strip() and line[:1] not in b" \t-#":
            wanted = False
        if wanted:
            yield line


def _adapter(raw: bytes) -> Found:
    members = _object(raw) if len(raw) <= MAX_DOCUMENT_BYTES else {}
    yield "base_model", members.get("base_model_name_or_path"), "base_model_name_or_path"
    yield "relation", "adapter", "adapter_config.json"


def _safetensors(head: bytes) -> Found:
    length = int.from_bytes(head[:8], "little")
    if length > len(head) - 8:
        return
    metadata = _object(head[8 : 8 + length]).get("__metadata__")
    if isinstance(metadata, dict):
        for name, kind in _SAFETENSORS.items():
            yield kind, metadata.get(name), f"__metadata__.{name}"


def _gguf(head: bytes) -> Found:
    entries: dict[tuple[str, int], dict[str, str]] = {}
    for key, value in _gguf_members(head):
        if key in _GGUF_LICENCE:
            yield "licence", value, key
        elif key == "general.type" and value == "adapter":
            yield "relation", "adapter", key
        elif (entry := _GGUF_ENTRY.fullmatch(key)) is not None and _is_line(value):
            entries.setdefault((entry[1], int(entry[2])), {})[entry[3]] = value
    for (what, at), members in sorted(entries.items()):
        value = members.get("repo_url") or "/".join(filter(None, (members.get("organization"), members.get("name"))))
        yield "base_model" if what == "base_model" else "dataset", value, f"general.{what}.{at}"


_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9


def _gguf_members(head: bytes) -> Iterator[tuple[str, str]]:
    """The texts in a GGUF header with their keys, as far as the bytes go."""
    if len(head) < 24 or head[:4] != b"GGUF":
        return
    version, _tensors, count = struct.unpack_from("<IQQ", head, 4)
    if version not in {2, 3} or count > _MAX_KEYS:
        return
    at = 24
    try:
        for _ in range(count):
            raw_key, at = _gguf_text(head, at)
            (kind,) = struct.unpack_from("<I", head, at)
            at += 4
            if len(raw_key) > _MAX_KEY_BYTES:
                return
            if kind == _TEXT:
                raw, at = _gguf_text(head, at)
                yield raw_key.decode("ascii"), raw.decode("utf-8")
            else:
                at = _gguf_behind(head, at, kind)
    except (struct.error, UnicodeDecodeError, KeyError):
        return


def _gguf_text(head: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", head, at)
    if length > len(head) - at - 8:
        raise struct.error("the text ends behind what was read")
    return head[at + 8 : at + 8 + length], at + 8 + length


def _gguf_behind(head: bytes, at: int, kind: int) -> int:
    """Where a value of no interest ends. KeyError: of an unknown type, an array of arrays included."""
    if kind != _ARRAY:
        return at + _GGUF_SIZES[kind]
    of, count = struct.unpack_from("<IQ", head, at)
    at += 12
    if of != _TEXT:
        size = int(count) * _GGUF_SIZES[of]
        if size > len(head) - at:
            raise struct.error("the array ends behind what was read")
        return at + size
    for _ in range(count):  # each has eight bytes at least, so that the head ends it
        _, at = _gguf_text(head, at)
    return at


def _object(raw: bytes) -> dict[str, Any]:
    try:
        members = strict_json(raw)
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _is_line(value: Any) -> bool:
    """A text of one line that can be stored and shown."""
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT_CHARS and bool(value.strip()) and value.isprintable()
