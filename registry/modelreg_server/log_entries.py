"""What an entry of the log says its row is: the one rule by which rows are verified, and made again from copies."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from modelreg.canonical import canonical_json, strict_json
from modelreg.errors import LogNotIntact
from modelreg_server.custody import MAX_ENTRY_BYTES
from modelreg_server.custody_identities import pseudonym

COLUMNS = (
    "index", "type", "recorded_at", "principal", "token_id", "repository", "artifact", "tag", "host", "client_address",
    "user_agent", "purpose", "detail", "entry", "identity", "verified_host", "verified_host_class", "verified_host_zone",
    "actor", "about",
)  # fmt: skip
_SHARED = frozenset(
    {"v", "type", "time", "repository", "artifact", "tag", "host", "verified_host", "purpose", "detail"}
)
_MEMBERS = {
    1: _SHARED | {"principal", "token", "identity", "client_address", "user_agent"},
    2: _SHARED | {"actor", "about"},
}
_TEXTS = ("type", "repository", "artifact", "tag", "host", "purpose")
_TEXT_TYPES = frozenset({str, type(None)})
_COMMITMENT = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LONG_NUMBER = re.compile(rb"[:,[]-?[0-9]{16}")


def _no_float(text: str) -> float:
    raise ValueError(f"{text} has no canonical form here")


_decode = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float).decode
encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def members_of(entry: bytes) -> dict[str, Any]:
    """The members of an entry that this server could have written.

    Raises:
        LogNotIntact: what about it no modelreg writes.
    """
    if not 0 < len(entry) <= MAX_ENTRY_BYTES:
        raise LogNotIntact("the entry is empty or longer than 8 KiB")
    members = _canonical(entry)
    version = members.get("v")
    if type(version) is not int or members.keys() != _MEMBERS.get(version):
        raise LogNotIntact("the entry has other members than an event of a known version")
    if not isinstance(members["type"], str) or not isinstance(members["detail"], dict):
        raise LogNotIntact("the entry has no type or no detail")
    if not _TEXT_TYPES.issuperset(map(type, map(members.__getitem__, _TEXTS))):
        raise LogNotIntact("a member of the entry is no text")
    if version == 2 and not (
        _is_commitment(members["actor"]) and (members["about"] is None or _is_commitment(members["about"]))
    ):
        raise LogNotIntact("the entry names nobody: its actor is no commitment")
    host = members["verified_host"]
    if host is not None and (not isinstance(host, dict) or host.keys() != {"name", "class", "zone"}):
        raise LogNotIntact("the entry's verified host is malformed")
    return members


def row_of(index: int, entry: bytes) -> dict[str, Any]:
    """Every column of the row that stands for an entry.

    Raises:
        LogNotIntact: the entry is none.
    """
    members = members_of(entry)
    try:
        recorded_at = datetime.fromisoformat(members["time"]).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise LogNotIntact("the entry's time is none") from None
    host: Mapping[str, Any] = members["verified_host"] or {}
    shared = {
        "index": index,
        "recorded_at": recorded_at,
        "detail": members["detail"],
        "entry": entry,
        "verified_host": host.get("name"),
        "verified_host_class": host.get("class"),
        "verified_host_zone": host.get("zone"),
        **{name: members[name] for name in _TEXTS},
    }
    if members["v"] == 1:
        who = {name: members[name] for name in ("principal", "identity", "client_address", "user_agent")}
        return shared | who | {"token_id": members["token"], "actor": None, "about": None}
    nobody = dict.fromkeys(("token_id", "identity", "client_address", "user_agent"))
    who = {"principal": pseudonym(members["actor"]), "actor": members["actor"], "about": members["about"]}
    return shared | nobody | who


def _canonical(entry: bytes) -> dict[str, Any]:
    try:
        # For ASCII without long numbers Python's own compact form is RFC 8785, and a member named twice comes back once.
        if entry.isascii() and not _LONG_NUMBER.search(entry):
            members = _decode(entry.decode())
            again = encode(members).encode()
        else:
            members = strict_json(entry)
            again = canonical_json(members)
    except (ValueError, RecursionError):
        raise LogNotIntact("the entry is not canonical JSON") from None
    if again != entry or not isinstance(members, dict):
        raise LogNotIntact("the entry is not canonical JSON")
    return members


def _is_commitment(value: Any) -> bool:
    return isinstance(value, str) and _COMMITMENT.fullmatch(value) is not None
