"""What a scan says: the format of each file, and what it objects to. The rules' words are stable (docs/spec/gate.md)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

TOOL = "modelreg-gate"
RULES_VERSION = "2026-11-24"  # the day on which a rule, a limit or a recognised format last changed
MAX_FINDINGS_STATED = 1000
MAX_FINDINGS_OF_FILE = 100
MAX_FORMATS_STATED_BYTES = 4 * 1024 * 1024  # of paths; a statement has 16 MiB at most
_MAX_WHAT_CHARS = 400

Severity = Literal["block", "warn"]

# Rule, how grave it is, and what it means.
RULES: Mapping[str, tuple[Severity, str]] = {
    "unknown-format": ("block", "the content is nothing that this version understands"),
    "unserved-format": (
        "block",
        "recognised, and what is in it is not checked: it can run code or is no format to serve",
    ),
    "limit": ("block", "too large, too deep or too many parts to be looked at wholly"),
    "malformed": ("block", "broken, or two readers might read it differently"),
    "extension-mismatch": ("block", "the name promises another format than the content has, or none that is known"),
    "pickle": ("block", "a Python pickle: loading it can run anything"),
    "pickle-import": ("block", "a pickle that imports more than tensors need"),
    "polyglot": ("block", "also a valid file of another format, to another reader"),
    "code-file": ("block", "source code, a script or a notebook"),
    "executable": ("block", "machine code or bytecode"),
    "archive-unsafe": ("block", "entries that overlap, hide, link, are encrypted or leave the folder"),
    "archive": ("warn", "an archive whose entries were all looked at; no runtime needs it"),
    "keras-code": ("block", "a Keras configuration that carries or imports code"),
    "config-code": ("block", "a configuration that makes a loader import, fetch or run code"),
    "config-path": ("block", "a configuration that names files outside the artifact, or absent ones"),
    "template-code": ("block", "a chat template that reaches for more than texts and lists"),
    "yaml-code": ("block", "YAML with tags that make objects"),
    "onnx-external-data": ("block", "ONNX data in a file outside the artifact, or an absent one"),
    "onnx-custom-op": ("warn", "ONNX operators that only a library beside the model can run"),
    "git-lfs-pointer": ("block", "the pointer to a file, where the file itself belongs"),
}
# With one of these nobody can say what else is in the file.
INCOMPLETE = frozenset({"unknown-format", "limit"})


class Objection(Exception):
    """A parser's refusal to go on: the rule, and what is wrong, as a sentence's end."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(what)
        self.rule = rule
        self.what = what


@dataclass(frozen=True, order=True)
class Finding:
    """One objection. `what` is printable text for people; parts that the file itself words are escaped."""

    path: str
    rule: str
    severity: Severity
    what: str

    @classmethod
    def of(cls, path: str, rule: str, what: str) -> "Finding":
        """Make one; the severity is the rule's."""
        return cls(path, rule, RULES[rule][0], what[:_MAX_WHAT_CHARS])

    def as_json(self) -> dict[str, str]:
        """As the predicate has it."""
        return {"rule": self.rule, "path": self.path, "severity": self.severity, "what": self.what}


@dataclass(frozen=True)
class Report:
    """What a scan of files found. `complete`: every file was understood and looked at wholly."""

    formats: Mapping[str, str]
    findings: tuple[Finding, ...]
    complete: bool
    tool: str = TOOL
    rules_version: str = RULES_VERSION

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """What must not be served."""
        return tuple(finding for finding in self.findings if finding.severity == "block")

    def predicate(self, tool_version: str, scanned_at: datetime) -> dict[str, Any]:
        r"""The predicate of a scan statement: blocking findings first, bounded, with their whole number.

        Member names must be ASCII, so a path in `formats` is escaped as `\uXXXX`; no path holds a backslash of its own.
        """
        formats, room = {}, MAX_FORMATS_STATED_BYTES
        for path, name in sorted(self.formats.items()):
            room -= len(label := escaped(path))
            if room < 0:
                break
            formats[label] = name
        stated = sorted(self.findings, key=lambda finding: (finding.severity != "block", finding))[:MAX_FINDINGS_STATED]
        return {
            "tool": self.tool,
            "tool_version": tool_version,
            "rules_version": self.rules_version,
            "scanned_at": scanned_at.isoformat(timespec="microseconds"),
            "complete": self.complete and len(formats) == len(self.formats),
            "formats": formats,
            "findings": [finding.as_json() for finding in stated],
            "findings_count": len(self.findings),
        }


def merged(reports: Sequence[Report]) -> Report:
    """One report of reports on different files."""
    formats = {path: name for report in reports for path, name in report.formats.items()}
    findings = tuple(sorted(finding for report in reports for finding in report.findings))
    return Report(dict(sorted(formats.items())), findings, all(report.complete for report in reports))


def escaped(text: str) -> str:
    r"""Text in ASCII: what is not becomes `\uXXXX`."""
    return text.encode("ascii", "backslashreplace").decode()


def shown(untrusted: object, limit: int = 120) -> str:
    """Something that a file words itself, short and printable."""
    text = untrusted.decode("latin-1") if isinstance(untrusted, bytes) else str(untrusted)
    return ascii(text[:limit])[1:-1]
