"""What the commands share: settings from flags, the registry, and how answers are printed."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelreg.errors import ModelregError
from modelreg.settings import Settings

if TYPE_CHECKING:
    from modelreg.receipts import VerifiedEntry
    from modelreg.verification import SignerIdentity

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Output:
    """Where answers go: JSON for programs, lines for people, nothing but errors with `-q`."""

    as_json: bool
    quiet: bool

    def result(self, value: Mapping[str, Any], *lines: str) -> None:
        """Print one answer, as an object or as lines."""
        if self.as_json:
            print(json.dumps(value, indent=2, default=str))
        elif not self.quiet:
            print("\n".join(map(one_line, lines)))

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], name: str) -> None:
        """Print rows as a table, or as an object with one list."""
        if self.as_json:
            print(json.dumps({name: rows}, indent=2, default=str))
            return
        for line in table_lines(rows, columns):
            print(line)

    def note(self, line: str) -> None:
        """Say something by the way, on stderr."""
        if not self.quiet:
            print(one_line(line), file=sys.stderr)

    def error(self, error: ModelregError) -> None:
        """Say what failed, on stderr; with `--json` as problem details."""
        if self.as_json:
            body = {"code": error.code, "title": error.title, "detail": error.detail, "exit_code": error.exit_code}
            print(json.dumps({**error.facts, **body}, indent=2, default=str), file=sys.stderr)
        else:
            # Server texts and file names may hold anything; a terminal gets printable characters only.
            print(f"modelreg: {error.title}: {printable(error.detail)}", file=sys.stderr)


def table_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Rows under their headings, in columns as wide as they need."""
    cells = [[column.upper() for column in columns], *[[_cell(row[column]) for column in columns] for row in rows]]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def output_of(options: argparse.Namespace) -> Output:
    """The output the flags ask for."""
    return Output(options.json, options.quiet)


def settings_of(options: argparse.Namespace) -> Settings:
    """Settings with the flags of this command line on top."""
    return Settings.load({name: getattr(options, name, None) for name in Settings.__dataclass_fields__})


def now() -> datetime:
    """The command's one instant."""
    return datetime.now(UTC)


def size_text(size_bytes: int) -> str:
    """A size for people: 86.7 MiB."""
    size = float(size_bytes)
    for unit in UNITS:
        if size < 1024 or unit == UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def signer_json(signer: "SignerIdentity") -> dict[str, object]:
    """A signer, for `--json`."""
    return {
        "authority": signer.authority,
        "identity": signer.identity,
        "key": str(signer.key_ids[0]),
        "signed_at": signer.signed_at,
    }


def receipt_line(entry: "VerifiedEntry | None", event: int | None) -> str:
    """What is known of the custody log's proof; never silent about there being none."""
    if entry is not None:
        return f"receipt: verified, event {entry.index} of {entry.checkpoint.origin} ({entry.checkpoint.size} events)"
    number = "" if event is None else f" as event {event}"
    return f"receipt: recorded{number}, not verified: the trust policy pins no custody log ([log])"


def printable(text: str) -> str:
    """The text with control characters escaped."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def one_line(text: str) -> str:
    """The text with control characters and line breaks escaped: what others wrote cannot begin a line of its own."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, list):
        return one_line(",".join(map(str, value))) or "-"
    return one_line(str(value))
