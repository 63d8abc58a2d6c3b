"""scan: what is in the files of a folder, or what the registry states of an artifact's."""

import argparse
import logging
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from modelreg import __version__, attestations, gate, pull, scans, trees, wire_attestations
from modelreg.attestations import Kind
from modelreg.commands import Output, now, output_of, settings_of, table_lines
from modelreg.commands.session import connect
from modelreg.digests import Digest
from modelreg.errors import Invalid, Misconfigured, NotFound, SignatureInvalid
from modelreg.gate import Report
from modelreg.gate.report import escaped
from modelreg.pinned import policy_of
from modelreg.references import Reference, parse_reference
from modelreg.scans import Scan
from modelreg.trust import TrustPolicy

FINDINGS = 40
PICKLESCAN = "picklescan"
_MIN_PICKLESCAN = (1, 0, 5)
_SHOWN = 200  # for people; `--json` has them all


def run_scan(options: argparse.Namespace) -> int:
    """`modelreg scan PATH|REF [--again] [--picklescan]`: exit 0 where nothing is found, else 40."""
    output, target = output_of(options), Path(options.target)
    if target.exists():
        if options.again:
            raise Invalid("--again is for an artifact of the registry; a path is scanned now", field="again")
        return _local(target, output, second=options.picklescan)
    if options.picklescan:
        raise Invalid("--picklescan is for a path: pull the artifact and scan the folder", field="picklescan")
    try:
        reference = parse_reference(options.target)
    except Invalid:
        if "/" in options.target.strip("/") and not options.target.startswith((".", "/")):
            raise
        raise NotFound(f"{options.target} is neither a path nor a reference", path=options.target[:200]) from None
    return _recorded(options, reference, output)


def _local(target: Path, output: Output, *, second: bool) -> int:
    opinion = _picklescan(target) if second else None
    report, at = scan_path(target), now()
    stated = [report.predicate(__version__, at)]
    findings = list(report.findings)
    if opinion is not None:
        version, other = opinion
        stated.append(other.predicate(version, at))
        findings += other.findings
    rows = [finding.as_json() for finding in findings]
    blocking = sum(row["severity"] == "block" for row in rows)
    files = len({row["path"] for row in rows})
    summary = f"{len(rows)} findings in {files} of {len(report.formats)} files ({blocking} block)"
    if not rows:
        summary = f"clean: {len(report.formats)} files"
    lines = _lines(rows)
    if opinion is not None:
        lines.append(f"second opinion: {PICKLESCAN} {opinion[0]}, {len(opinion[1].findings)} findings")
    output.result({"target": str(target), "scans": stated}, *lines, f"{summary}; rules {gate.RULES_VERSION}")
    return FINDINGS if rows else 0


def scan_path(target: Path) -> Report:
    """Scan a folder as it would be pushed, or one file.

    Raises:
        Invalid, NotFound: something in the folder cannot be part of an artifact.
        OSError: a file cannot be read.
    """
    if not target.is_dir():
        with target.open("rb") as file:
            return gate.scan_file(target.name, gate.OpenFile(file.fileno()), None)
    paths = trees.list_files(target, trees.LEFT_OUT)
    names = frozenset(paths)
    reports = []
    with trees.open_folder(target) as folder:
        for path in paths:
            with ExitStack() as stack:
                fd = stack.enter_context(trees.open_below(folder, path))
                reports.append(gate.scan_file(path, gate.OpenFile(fd), names))
    return gate.merged(reports)


def _recorded(options: argparse.Namespace, reference: Reference, output: Output) -> int:
    settings = settings_of(options)
    policy = policy_of(settings, output.note)
    api = connect(settings)
    artifact = reference.digest or pull.resolve(api, reference)
    if options.again:
        bundle = api.scan_again(reference.repository, artifact).bundle
    else:
        bundle = _newest(api.attestations(reference.repository, artifact, Kind.SCAN.value), reference, artifact)
    scan, statement, verified = _believed(bundle, policy, reference.repository, artifact, now())
    seen = "signed by the registry, verified" if verified else "recorded, not verified: the trust policy pins no log"
    rows = [finding.as_json() for finding in scan.findings]
    when = f"rules {scan.rules_version}, scanned {scan.scanned_at:%Y-%m-%d %H:%M:%S}Z"
    summary = f"{scan.findings_count} findings in {len(scan.formats)} files of {artifact}"
    if not scan.findings_count:
        summary = f"{'clean' if scan.complete else 'incomplete'}: {len(scan.formats)} files of {artifact}"
    output.result(
        {
            "artifact": str(artifact),
            "statement": str(statement),
            "verified": verified,
            "scans": [
                {
                    "tool": scan.tool,
                    "tool_version": scan.tool_version,
                    "rules_version": scan.rules_version,
                    "scanned_at": scan.scanned_at.isoformat(),
                    "complete": scan.complete,
                    "formats": scan.formats,
                    "findings": rows,
                    "findings_count": scan.findings_count,
                }
            ],
        },
        *_lines(rows),
        f"{summary}; {when}",
        f"statement: {statement}, {seen}",
    )
    return FINDINGS if scan.findings_count or not scan.complete else 0


def _newest(answer: wire_attestations.Attestations, reference: Reference, artifact: Digest) -> str:
    own = [item for item in answer.attestations if item.authority == attestations.REGISTRY]
    if not own:
        raise NotFound(
            f"the registry has no scan of {artifact} in {reference.repository}; `modelreg scan {reference} --again` makes one"
        )
    return max(own, key=lambda item: item.event).bundle


def _believed(
    bundle: str, policy: TrustPolicy, repository: str, artifact: Digest, at: datetime
) -> tuple[Scan, Digest, bool]:
    """The scan in a bundle, its statement's digest, and whether the registry's pinned key signed it.

    Raises:
        SignatureInvalid, SignerNotAllowed: it does not hold, or says nothing of this artifact.
    """
    if policy.log is not None:
        verified = attestations.verify_registrys(
            bundle.encode(), log=policy.log, repository=repository, now=at, kind=Kind.SCAN, subject=artifact
        )
        return scans.read(verified.attestation.predicate), verified.attestation.digest, True
    claimed = attestations.claimed(bundle.encode())
    if claimed.kind != Kind.SCAN or claimed.subjects[0] != artifact:
        raise SignatureInvalid(f"the registry showed a statement that is no scan of {artifact}")
    return scans.read(claimed.predicate), claimed.digest, False


def _lines(rows: list[dict[str, str]]) -> list[str]:
    shown = [{**row, "path": escaped(row["path"])} for row in rows[:_SHOWN]]
    lines = table_lines(shown, ("path", "severity", "rule", "what"))[1:] if shown else []
    return [*lines, f"and {len(rows) - _SHOWN} more (--json shows them)"] if len(rows) > _SHOWN else lines


def _picklescan(target: Path) -> tuple[str, Report]:
    """What picklescan in its strict mode says of the same files; a file that it cannot read is a finding as well.

    Raises:
        Misconfigured: it is not installed, or too old to have that mode.
    """
    try:
        from importlib.metadata import version  # noqa: PLC0415

        from picklescan.scanner import SafetyLevel, scan_file_path  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError:
        raise Misconfigured(
            "picklescan is not installed; `pip install 'modelreg[picklescan]'`, or scan without --picklescan"
        ) from None
    found = version(PICKLESCAN)
    if tuple(int(part) for part in found.split(".")[:3] if part.isdecimal()) < _MIN_PICKLESCAN:
        raise Misconfigured(f"picklescan {found} has no strict mode; install 1.0.5 or newer")
    logging.getLogger(PICKLESCAN).setLevel(logging.CRITICAL)  # it logs what it answers
    paths = trees.list_files(target, trees.LEFT_OUT) if target.is_dir() else [""]
    findings = []
    for path in paths:
        name = path or target.name
        try:
            result = scan_file_path(str(target / path if path else target), strict=True)
        except Exception as error:  # noqa: BLE001  # whatever a tool of others stumbles over is an answer too
            findings.append(gate.Finding.of(name, "malformed", f"picklescan failed: {type(error).__name__}"))
            continue
        unsafe = sorted({f"{one.module}.{one.name}" for one in result.globals if one.safety != SafetyLevel.Innocuous})
        if unsafe or result.issues_count:
            findings.append(gate.Finding.of(name, "pickle-import", f"picklescan: {escaped(', '.join(unsafe[:20]))}"))
        elif result.scan_err:
            findings.append(gate.Finding.of(name, "malformed", "picklescan could not read it"))
    return found, Report({}, tuple(findings), complete=True, tool=PICKLESCAN, rules_version=f"strict-{found}")
