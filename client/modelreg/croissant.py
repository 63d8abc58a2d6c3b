"""Reading Croissant metadata (JSON-LD, https://mlcommons.org/croissant) as far as a dataset's record needs it.

No JSON-LD processing and no network: the member names that the Croissant vocabulary writes, with or without `sc:` or the
schema.org address in front. What is there under another spelling is not found, and nothing is guessed. Pure.
"""

from dataclasses import dataclass, field
from typing import Any

from modelreg.canonical import strict_json
from modelreg.digests import is_hex_64, sha256_of
from modelreg.errors import Invalid

MAX_CROISSANT_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
MAX_TEXT_CHARS = 2000
_PREFIXES = ("", "sc:", "schema:", "https://schema.org/", "http://schema.org/")


@dataclass(frozen=True)
class Croissant:
    """What a record may take from it. `files` maps the path of a file object, as it is written, to its SHA-256 (hex)."""

    sha256: str
    name: str | None = None
    url: str | None = None
    licence: str | None = None
    creator: str | None = None
    files: dict[str, str] = field(default_factory=dict)


def parse(raw: bytes) -> Croissant:
    """Read a Croissant file.

    Args:
        raw: untrusted.

    Raises:
        Invalid: it is no JSON-LD of a dataset, or larger than the limits.
    """
    if len(raw) > MAX_CROISSANT_BYTES:
        raise Invalid(f"the Croissant file has {len(raw)} bytes; the limit is {MAX_CROISSANT_BYTES}", field="croissant")
    try:
        document = strict_json(raw)
    except ValueError as error:
        raise Invalid(f"the Croissant file is not JSON: {error}", field="croissant") from None
    if not isinstance(document, dict) or "@context" not in document or not _is_a(document, "Dataset"):
        raise Invalid("this is no Croissant file: a JSON object with @context, of the @type Dataset", field="croissant")
    return Croissant(
        sha256=sha256_of(raw).hex,
        name=_text(document, "name"),
        url=_text(document, "url"),
        licence=_text(document, "license"),
        creator=_creator(_member(document, "creator")),
        files=_files(_member(document, "distribution")),
    )


def _member(members: dict[str, Any], name: str) -> Any:
    return next((members[prefix + name] for prefix in _PREFIXES if prefix + name in members), None)


def _text(members: dict[str, Any], name: str) -> str | None:
    value = _first(_member(members, name))
    if isinstance(value, dict):
        value = value.get("@id", value.get("@value"))
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT_CHARS or not value.isprintable():
        return None
    return value


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _is_a(members: dict[str, Any], kind: str) -> bool:
    types = members.get("@type")
    found = types if isinstance(types, list) else [types]
    return any(f"{prefix}{kind}" in found for prefix in (*_PREFIXES, "cr:", "http://mlcommons.org/croissant/"))


def _creator(value: Any) -> str | None:
    value = _first(value)
    return _text(value, "name") if isinstance(value, dict) else value if isinstance(value, str) else None


def _files(value: Any) -> dict[str, str]:
    listed = value if isinstance(value, list) else []
    if len(listed) > MAX_FILES:
        raise Invalid(f"the Croissant file lists {len(listed)} files; the limit is {MAX_FILES}", field="croissant")
    found = {}
    for item in listed:
        if isinstance(item, dict) and _is_a(item, "FileObject"):
            path, sha256 = _text(item, "contentUrl"), _member(item, "sha256")
            if path is not None and is_hex_64(sha256):
                found[path.removeprefix("./")] = str(sha256)
    return found
