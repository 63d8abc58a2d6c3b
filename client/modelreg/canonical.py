"""RFC 8785 (JCS) for the values our formats use: objects, arrays, strings, booleans, null and safe integers."""

import json
from typing import Any

MAX_INTEGER = 2**53 - 1  # beyond it JSON readers disagree (RFC 7493)


def canonical_json(value: Any) -> bytes:
    """Serialise as RFC 8785 asks.

    For strings and integers Python's compact form is already JCS; what differs is refused here: floats, integers beyond
    2^53-1, and member names outside ASCII (JCS sorts by UTF-16 unit, Python by code point; for ASCII both agree).

    Raises:
        ValueError: a value outside that subset; lone surrogates included.
    """
    _require_subset(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8")


def _require_subset(value: Any) -> None:
    match value:
        case None | bool() | str():
            return
        case int():
            if abs(value) > MAX_INTEGER:
                raise ValueError(f"integer beyond 2^53-1: {value}")
        case list():
            for item in value:
                _require_subset(item)
        case dict():
            for name, item in value.items():
                if not isinstance(name, str) or not name.isascii():
                    raise ValueError(f"member name is not ASCII: {name!r}")
                _require_subset(item)
        case _:
            raise ValueError(f"{type(value).__name__} has no canonical form here")


def strict_json(raw: bytes) -> Any:
    """Parse untrusted JSON text: UTF-8, no duplicate member, no NaN or Infinity.

    Raises:
        ValueError: malformed in any way (also nesting too deep for the parser).
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_members, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
