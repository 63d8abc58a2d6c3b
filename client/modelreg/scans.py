"""Signed scans, read: the predicate of a `scan` statement (docs/spec/gate.md). The gate writes them, other tools may."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelreg.errors import SignatureInvalid
from modelreg.gate import Finding

_MEMBERS = frozenset({"tool", "tool_version", "rules_version", "scanned_at", "complete", "formats", "findings"})
_OPTIONAL = frozenset({"findings_count"})
_SEVERITIES = frozenset({"block", "warn"})


@dataclass(frozen=True)
class Scan:
    """What a scan stated; `findings` are the first `findings_count`, those that block before the rest."""

    tool: str
    tool_version: str
    rules_version: str
    scanned_at: datetime
    complete: bool
    formats: dict[str, str]
    findings: tuple[Finding, ...]
    findings_count: int


def read(predicate: dict[str, Any]) -> Scan:
    """Read a predicate; an unknown member is refused.

    Raises:
        SignatureInvalid: it is no scan's.
    """
    names = predicate.keys()
    if not names >= _MEMBERS or not names <= _MEMBERS | _OPTIONAL:
        raise SignatureInvalid(f"the statement has not the members of a scan: {ascii(sorted(names))[:200]}")
    findings = predicate["findings"]
    formats = predicate["formats"]
    texts = [predicate[name] for name in ("tool", "tool_version", "rules_version", "scanned_at")]
    count = predicate.get("findings_count", len(findings) if isinstance(findings, list) else 0)
    sound = (
        all(isinstance(text, str) for text in texts)
        and isinstance(predicate["complete"], bool)
        and isinstance(formats, dict)
        and all(isinstance(name, str) for name in formats.values())
        and isinstance(findings, list)
        and isinstance(count, int)
        and count >= len(findings)
    )
    if not sound:
        raise SignatureInvalid("the statement is no scan's: a member has another type than it must have")
    try:
        at = datetime.fromisoformat(texts[3])
    except ValueError:
        raise SignatureInvalid("the scan's time is none") from None
    if at.tzinfo is None:
        raise SignatureInvalid("the scan's time is in no zone")
    tool, tool_version, rules_version, _ = texts
    listed = tuple(map(_finding, findings))
    return Scan(tool, tool_version, rules_version, at, predicate["complete"], formats, listed, count)


def _finding(untrusted: Any) -> Finding:
    if not isinstance(untrusted, dict) or untrusted.keys() != {"rule", "path", "severity", "what"}:
        raise SignatureInvalid("a finding of the scan has not exactly rule, path, severity and what")
    severity = untrusted["severity"]
    if not all(isinstance(value, str) for value in untrusted.values()) or severity not in _SEVERITIES:
        raise SignatureInvalid("a finding of the scan is none")
    return Finding(untrusted["path"], untrusted["rule"], severity, untrusted["what"])
