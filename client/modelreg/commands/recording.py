"""provenance, bom, inventory: the records that auditors ask for."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelreg import (
    bom_values,
    checkpoints,
    cyclonedx,
    durable,
    log_state,
    merkle,
    minimum_elements,
    notes,
    pinned,
    provenance_chain,
    provenance_collection,
    provenance_file,
    pull,
    spdx,
)
from modelreg.api import Api
from modelreg.classification import parse_classification
from modelreg.commands import now, output_of, settings_of, size_text, table_lines
from modelreg.commands.revoking import parse_time
from modelreg.commands.session import connect
from modelreg.errors import Conflict, Invalid, Misconfigured, NotFound
from modelreg.provenance_chain import Chain, Node
from modelreg.provenance_file import ProvenanceFile
from modelreg.references import parse_reference
from modelreg.trust import TrustPolicy

_COLUMNS = ("repository", "artifact", "tags", "owner", "class", "state", "environments", "live_loads", "size")


def run_provenance(options: argparse.Namespace) -> int:
    """`modelreg provenance [REF] [-o FILE] [--from FILE]`: 0 complete, 23 if something is missing."""
    settings, output = settings_of(options), output_of(options)
    policy = pinned.policy_of(settings, output.note)
    if options.source is not None:
        file = provenance_file.parse(_read(options.source))
        _require_about(file, options.reference)
    elif options.reference is not None:
        file = _collect(options)
        _require_continues(connect(settings), file, policy, settings.state_dir)
        if options.output is not None:
            _write(options.output, provenance_file.render(file))
            output.note(f"wrote {options.output}: {len(file.artifacts)} artifacts, {len(file.entries)} entries")
    else:
        raise Invalid("name an artifact, or a file with --from", field="reference")
    chain = provenance_chain.verify(file, policy, now())
    output.result(report_of(chain), *_lines(chain))
    return chain.exit_code


def run_bom(options: argparse.Namespace) -> int:
    """`modelreg bom REF --format cyclonedx|spdx`: of what this process has verified; gaps stand in the document."""
    settings, output = settings_of(options), output_of(options)
    policy = pinned.policy_of(settings, output.note)
    at = parse_time(options.timestamp) if options.timestamp is not None else now()
    if options.spec_version is not None and options.format != "cyclonedx":
        raise Invalid("--spec-version is for --format cyclonedx; SPDX is written as 3.0.1", field="spec-version")
    chain = provenance_chain.verify(_collect(options), policy, now())
    if chain.error is not None:
        raise chain.error
    if options.format == "cyclonedx":
        document = cyclonedx.build(chain, at, options.spec_version or cyclonedx.SPEC_VERSIONS[0])
    else:
        document = spdx.build(chain, at)
    raw = bom_values.render(document)
    report = _coverage(chain) if options.profile is not None else None
    if options.output is None:
        print(raw.decode(), end="")
        for line in report[1] if report else []:
            output.note(line)
    else:
        _write(options.output, raw)
        value = {"path": str(options.output), "format": options.format, "artifact": chain.file.artifact}
        value |= {"bytes": len(raw), "complete": chain.complete, "coverage": report[0] if report else None}
        output.result(value, f"wrote {options.output}: {len(raw)} bytes", *(report[1] if report else []))
    if chain.gaps:
        output.note(f"the provenance is incomplete: {_gaps(chain)}; `modelreg provenance` says which")
    return 0


def run_inventory(options: argparse.Namespace) -> int:
    """`modelreg inventory [--owner WHO] [--class CLASS] [--env ENV]`: every artifact that one may read."""
    api, output = connect(settings_of(options)), output_of(options)
    classification = parse_classification(options.classification) if options.classification is not None else None
    rows = []
    for row in api.inventory(owner=options.owner, classification=classification, environment=options.environment):
        loads = row.live_loads
        told = None if loads is None else f"{loads.running} running, {loads.stale + loads.unknown} unsure"
        value = row.model_dump(mode="json")
        rows.append(
            (value, {**value, "class": row.classification, "live_loads": told, "size": size_text(row.size_bytes)})
        )
    if output.as_json:
        output.result({"schema": "modelreg/inventory/v1", "rows": [value for value, _ in rows]})
    elif not output.quiet:
        print("\n".join([*table_lines([shown for _, shown in rows], _COLUMNS), f"{len(rows)} artifacts"]))
    return 0


def report_of(chain: Chain) -> dict[str, Any]:
    """The chain for programs (`modelreg/provenance/v1`)."""
    file = chain.file
    return {
        "schema": provenance_chain.SCHEMA,
        "artifact": file.artifact,
        "repository": file.repository,
        "registry": file.registry,
        "collected_at": _text(file.created_at),
        "complete": chain.complete,
        "exit_code": chain.exit_code,
        "gaps": chain.gaps,
        "lines": [
            {"state": o.state, "what": o.what, "about": o.about, "depth": o.depth, "text": o.text} for o in chain.lines
        ],
        "artifacts": [_artifact(node) for node in chain.artifacts.values()],
        "datasets": [
            {
                "digest": str(one.digest),
                "name": one.name,
                "statement": str(one.statement.digest) if one.statement else None,
                "predicate": one.statement.predicate if one.statement else None,
            }
            for one in chain.datasets.values()
        ],
    }


def _artifact(node: Node) -> dict[str, Any]:
    item = node.collected
    return {
        "artifact": str(node.digest),
        "name": node.name,
        "repository": item.repository if item is not None else None,
        "known": node.manifest is not None,
        "files": len(node.manifest.files) if node.manifest is not None else None,
        "size_bytes": node.manifest.total_bytes if node.manifest is not None else None,
        "published_by": item.published_by if item is not None else None,
        "published_at": _text(item.published_at) if item is not None and item.published_at else None,
        "classification": item.classification if item is not None else None,
        "recall": item.recall.model_dump(mode="json") if item is not None and item.recall else None,
        "signatures": [
            {"identity": s.identity, "authority": s.authority, "signed_at": _text(s.signed_at), "bundle": str(bundle)}
            for s, bundle in node.signatures
        ],
        "statements": [
            {
                "kind": one.kind.value,
                "statement": str(one.digest),
                "identity": one.verified.signer.identity,
                "authority": one.verified.signer.authority,
                "predicate": one.predicate,
            }
            for one in node.statements
        ],
        "parents": [
            {"artifact": str(parent.digest), "name": parent.name, "relation": said.relation, "grade": "attested"}
            for said, _ in node.derivations
            for parent in said.parents
        ],
        "datasets": [
            {"digest": str(one.digest), "name": one.name} for said, _ in node.derivations for one in said.datasets
        ],
    }


def _lines(chain: Chain) -> list[str]:
    lines = [f"{line.state:10}  {'  ' * line.depth}{line.what:10}  {line.text}" for line in chain.lines]
    if chain.error is not None:
        return [*lines, "NOT VERIFIED: see what failed"]
    if not chain.gaps:
        return [*lines, "complete: everything back to where the bytes came from is verified"]
    return [*lines, f"incomplete: {_gaps(chain)}", *[f"  {gap}" for gap in chain.gaps]]


def _gaps(chain: Chain) -> str:
    return f"{len(chain.gaps)} gap{'' if len(chain.gaps) == 1 else 's'}"


def _coverage(chain: Chain) -> tuple[dict[str, Any], list[str]]:
    clusters = minimum_elements.coverage(chain)
    value = {
        "schema": minimum_elements.SCHEMA,
        "profile": minimum_elements.PROFILE,
        "clusters": [
            {
                "cluster": one.name,
                "filled": one.filled,
                "of": len(one.elements),
                "elements": [vars(e) for e in one.elements],
            }
            for one in clusters
        ],
    }
    lines = []
    for one in clusters:
        lines.append(f"{one.name}: {one.filled} of {len(one.elements)}")
        missing: dict[str, list[str]] = {}
        for element in one.elements:
            if element.why_not is not None:
                missing.setdefault(element.why_not, []).append(element.name)
        lines += [f"  not filled: {', '.join(names)} ({why})" for why, names in missing.items()]
    return value, lines


def _collect(options: argparse.Namespace) -> ProvenanceFile:
    api = connect(settings_of(options))
    reference = parse_reference(options.reference)
    return provenance_collection.collect(api, reference.repository, pull.resolve(api, reference), now())


def _require_about(file: ProvenanceFile, reference: str | None) -> None:
    """Of whose rules apply the user has the last word, not a file."""
    if reference is None:
        return
    wanted = parse_reference(reference)
    if wanted.repository != file.repository or str(wanted.digest or file.artifact) != file.artifact:
        raise Conflict(f"the file is about {file.repository}@{file.artifact}, not {wanted}")


def _require_continues(api: Api, file: ProvenanceFile, policy: TrustPolicy, state_dir: Path) -> None:
    """The checkpoint that came with the entries must continue the newest one that this machine has seen.

    Raises:
        LogNotIntact, LogRolledBack, LogForked: it does not.
    """
    if policy.log is None or file.checkpoint is None:
        return
    seen = log_state.newest(state_dir, policy.log)
    if seen is None:
        return
    head = checkpoints.verify(file.checkpoint.encode(), policy.log)
    untrusted = api.log_consistency(seen.size, head.size).hashes if seen.size < head.size else []
    proof = notes.decode_hashes(untrusted, merkle.MAX_PROOF_HASHES)
    merkle.verify_consistency(seen.size, seen.root, head.size, head.root, proof)


def _write(path: Path, raw: bytes) -> None:
    if path.exists():
        raise Conflict(f"{path} exists; records are not written over", path=str(path))
    durable.replace_file(path.absolute(), raw, 0o644)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            return opened.read(provenance_file.MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", path=str(path)) from None
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}", path=str(path)) from None


def _text(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat() if at is not None else None
