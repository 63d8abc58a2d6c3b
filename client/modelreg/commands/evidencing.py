"""evidence create, evidence verify."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelreg import durable, evidence, evidence_collection, pinned, pull
from modelreg.commands import Output, now, output_of, settings_of
from modelreg.commands.session import connect
from modelreg.digests import Digest
from modelreg.errors import Conflict, Invalid, Misconfigured, ModelregError, NotFound, Unreachable
from modelreg.evidence import Report
from modelreg.references import parse_reference


def run_create(options: argparse.Namespace) -> int:
    """`modelreg evidence create REF|DIGEST [-o FILE]`: write it, then verify what was written as anybody would."""
    settings, output = settings_of(options), output_of(options)
    api = connect(settings)
    if options.reference.startswith(("sha256:", "blake3:")):
        artifact = Digest.parse(options.reference)
    else:
        artifact = pull.resolve(api, parse_reference(options.reference))
    if artifact.algorithm != "sha256":
        raise Invalid(f"{artifact} names a blob; evidence is of an artifact, sha256:…", field="reference")
    path = options.output or Path(f"{artifact.hex[:16]}.evidence.json")
    if path.exists():
        raise Conflict(f"{path} exists; evidence is not written over", path=str(path))
    file = evidence_collection.collect(api, artifact, now(), identities=not options.without_identities)
    try:
        raw = evidence.render(file)
    except ValueError as error:
        raise Unreachable(f"{api.registry} answered with what no evidence file can hold: {error}") from None
    durable.replace_file(path.absolute(), raw, 0o600)
    written = f"wrote {path}: {len(file.events)} entries, {len(raw)} bytes"
    try:
        policy = pinned.policy_of(settings, output.note)
    except ModelregError as error:
        output.result(
            {"path": str(path), "artifact": str(artifact), "verified": None},
            written,
            f"not verified here: {error.detail}",
        )
        return 0
    report = evidence.verify(evidence.parse(raw), policy, now())
    output.note(written)
    _print(output, report, path)
    return report.exit_code


def run_verify(options: argparse.Namespace) -> int:
    """`modelreg evidence verify FILE [--artifact DIGEST] [--at TIME]`: with the trust policy and nothing else."""
    settings, output = settings_of(options), output_of(options)
    try:
        with options.file.open("rb") as opened:
            raw = opened.read(evidence.MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {options.file}", path=str(options.file)) from None
    except OSError as error:
        raise Misconfigured(f"{options.file}: {error.strerror}", path=str(options.file)) from None
    file = evidence.parse(raw)
    if options.artifact is not None and file.artifact != str(Digest.parse(options.artifact)):
        raise Conflict(f"the evidence is about {file.artifact}, not {options.artifact}")
    report = evidence.verify(file, pinned.policy_of(settings, output.note), _instant(options.at))
    _print(output, report, options.file)
    return report.exit_code


def _instant(text: str | None) -> datetime:
    if text is None:
        return now()
    try:
        at: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise Invalid(f"{text[:100]!r} is no time; write 2026-11-24T12:00:00Z", field="at")
    return at.astimezone(UTC)


def _print(output: Output, report: Report, path: Path) -> None:
    file, failed = report.file, report.exit_code != 0
    value: dict[str, Any] = {
        "schema": evidence.REPORT_SCHEMA,
        "path": str(path),
        "artifact": file.artifact,
        "created_at": file.created_at,
        "tool": file.tool,
        "registry": file.registry,
        "verified": not failed,
        "exit_code": report.exit_code,
        "parts": [vars(part) for part in report.parts],
    }
    output.result(
        value,
        f"evidence of {file.artifact}",
        _line(f"made {file.created_at:%Y-%m-%d %H:%M:%S}Z by {file.tool} from {file.registry} (as the file says)"),
        *[_line(f"{part.state:10}  {part.name}: {part.text}") for part in report.parts],
        "NOT VERIFIED: see what failed" if failed else "everything that can be verified is verified",
    )


def _line(text: str) -> str:
    """What comes from the file, on one line and printable."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
