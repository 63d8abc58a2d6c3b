"""What people sign about a promotion: a yes to an artifact in an environment, and an exception from one rule for it.

    approval   {"environment": …, "artifact": "sha256:…", "by": principal, "approved_at": RFC 3339}
    waiver     {"rule": …, "environment": …, "artifact": "sha256:…", "by": principal, "reason": …, "expires_at": RFC 3339}

`by` ties the signature to the principal who sends it: nobody else's word counts as theirs, and two people who say the same
make two statements. Pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelreg.attestations import Kind
from modelreg.digests import Digest
from modelreg.errors import ModelregError, SignatureInvalid

MAX_REASON_CHARS = 200
_PLACE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_PRINCIPAL = re.compile(r"[\x21-\x7e]{1,200}", re.ASCII)
_RULE = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)


@dataclass(frozen=True)
class Approval:
    """One person's yes."""

    artifact: Digest
    environment: str
    by: str
    approved_at: datetime

    @property
    def predicate(self) -> dict[str, Any]:
        """As it is signed."""
        return {
            "artifact": str(self.artifact),
            "environment": self.environment,
            "by": self.by,
            "approved_at": _time(self.approved_at),
        }


@dataclass(frozen=True)
class Waiver:
    """An exception from `rule` for one artifact in one environment; it ends at `expires_at` and says why it is there."""

    artifact: Digest
    environment: str
    by: str
    rule: str
    reason: str
    expires_at: datetime

    @property
    def predicate(self) -> dict[str, Any]:
        """As it is signed."""
        return {
            "artifact": str(self.artifact),
            "environment": self.environment,
            "by": self.by,
            "rule": self.rule,
            "reason": self.reason,
            "expires_at": _time(self.expires_at),
        }


def read_approval(predicate: Mapping[str, Any], artifact: Digest) -> Approval:
    """Read an approval whose signature holds.

    Args:
        artifact: the statement's subject.

    Raises:
        SignatureInvalid: another artifact, or a malformed, missing or unknown member.
    """
    _require_members(predicate, "approval", {"artifact", "environment", "by", "approved_at"})
    return Approval(
        _artifact(predicate, "approval", artifact),
        _matching(predicate, "approval", "environment", _PLACE),
        _matching(predicate, "approval", "by", _PRINCIPAL),
        read_time(predicate["approved_at"], "the approval's approved_at"),
    )


def read_waiver(predicate: Mapping[str, Any], artifact: Digest) -> Waiver:
    """Read a waiver whose signature holds.

    Args:
        artifact: the statement's subject.

    Raises:
        SignatureInvalid: another artifact, or a malformed, missing or unknown member.
    """
    _require_members(predicate, "waiver", {"artifact", "environment", "by", "rule", "reason", "expires_at"})
    reason = predicate["reason"]
    if not isinstance(reason, str) or not 0 < len(reason) <= MAX_REASON_CHARS or not reason.isprintable():
        raise SignatureInvalid(f"the waiver's reason is not one line of 1 to {MAX_REASON_CHARS} characters")
    return Waiver(
        _artifact(predicate, "waiver", artifact),
        _matching(predicate, "waiver", "environment", _PLACE),
        _matching(predicate, "waiver", "by", _PRINCIPAL),
        _matching(predicate, "waiver", "rule", _RULE),
        reason,
        read_time(predicate["expires_at"], "the waiver's expires_at"),
    )


def require_by(kind: Kind, predicate: Mapping[str, Any], artifact: Digest, principal: str) -> None:
    """Refuse an approval or a waiver that is malformed, or that says to be by somebody else than who sends it.

    Raises:
        SignatureInvalid: why.
    """
    if kind is Kind.APPROVAL:
        by = read_approval(predicate, artifact).by
    elif kind is Kind.WAIVER:
        by = read_waiver(predicate, artifact).by
    else:
        return
    if by != principal:
        raise SignatureInvalid(
            f"the {kind} is signed as by {by}, and {principal} sends it; whoever signs it sends it themselves"
        )


def read_time(untrusted: Any, where: str) -> datetime:
    """Read an RFC 3339 time with an offset.

    Raises:
        SignatureInvalid: it is none.
    """
    try:
        value = datetime.fromisoformat(untrusted)
        if value.tzinfo is None:
            raise ValueError("no offset")
        return value.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise SignatureInvalid(f"{where} is no time with an offset, such as 2027-01-01T00:00:00Z") from None


def _require_members(predicate: Mapping[str, Any], kind: str, expected: set[str]) -> None:
    if predicate.keys() != expected:
        raise SignatureInvalid(f"the {kind} does not have exactly the members {', '.join(sorted(expected))}")


def _artifact(predicate: Mapping[str, Any], kind: str, subject: Digest) -> Digest:
    said = predicate["artifact"]
    try:
        named = Digest.parse(said) if isinstance(said, str) else None
    except ModelregError:
        named = None
    if named != subject:
        raise SignatureInvalid(f"the {kind} names the artifact {ascii(said)[:120]} and is about {subject}")
    return subject


def _matching(predicate: Mapping[str, Any], kind: str, name: str, pattern: re.Pattern[str]) -> str:
    value = predicate[name]
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise SignatureInvalid(f"the {kind}'s {name} is {ascii(value)[:80]}, which is none")
    return value


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
