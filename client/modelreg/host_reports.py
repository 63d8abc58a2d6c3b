"""A report that a host made while nobody could be told: what it says, when, and a signature that holds later. Pure.

Both ends make the same bytes: `modelreg-report/v1`, a newline, and RFC 8785 JSON of

    {"kind": "artifact.loaded", "subject": <grant or load id>, "report": {members as sent, without `signature`, `known_size`}}

Members that are null are left out. The time (`reported_at`) is the host's own word: signed, and still a claim.
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelreg.canonical import canonical_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PREFIX = b"modelreg-report/v1\n"
UNSIGNED = frozenset({"signature", "known_size"})


def signed_bytes(kind: str, subject: str, report: Mapping[str, Any]) -> bytes:
    """What is signed. `report` holds JSON values, and times as `datetime`.

    Raises:
        ValueError: a value that has no canonical form.
    """
    members = {
        name: _text(value) if isinstance(value, datetime) else value
        for name, value in report.items()
        if value is not None and name not in UNSIGNED
    }
    return _PREFIX + canonical_json({"kind": kind, "subject": subject, "report": members})


def sign(kind: str, subject: str, report: Mapping[str, Any], key: "Ed25519PrivateKey") -> str:
    """The signature, base64."""
    return base64.b64encode(key.sign(signed_bytes(kind, subject, report))).decode()


def holds(kind: str, subject: str, report: Mapping[str, Any], value: str, key: "Ed25519PublicKey") -> bool:
    """Whether a signature is this key's over this report."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # not for `--help`

    try:
        key.verify(base64.b64decode(value, validate=True), signed_bytes(kind, subject, report))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds")
