"""trace, pulls, loaded, lineage, blast-radius, signatures, timeline: the questions of an incident.

All of them end with 40 if there is something to read and with 0 if there is nothing: nobody pulled it, it runs nowhere, it
was never in this registry. What went wrong ends as everywhere else.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelreg import answers, lookup, pinned
from modelreg.answers import Answer, ArtifactState, LineageEdge, LocalFile, RecordedSignature, TracedArtifact
from modelreg.commands import Output, now, output_of, printable, settings_of, size_text, table_lines
from modelreg.commands.revoking import FINDINGS, parse_time
from modelreg.commands.session import connect
from modelreg.errors import ModelregError
from modelreg.lookup import Judge, Question
from modelreg.progress import Bars
from modelreg.settings import Settings

_PRINCIPALS = ("person:", "workload:")
_SIGNERS = ("email:", "uri:", "dns:", "subject:", "key:")
_PULLS = ("at", "decision", "principal", "host", "verified_host", "client_address", "purpose", "repository")
_LOADS = ("state", "host", "verified_host", "pid", "runtime", "runtime_version", "loaded_at", "last_seen_at", "method")


def run_trace(options: argparse.Namespace) -> int:
    """`modelreg trace DIGEST|FILE|REF [--at T]`."""
    settings, output = settings_of(options), output_of(options)
    question, local = _question(options, output)
    answer = lookup.trace(connect(settings), question, _judge(settings, output), local=local, at=_time(options.at))
    lines = [*_local_lines(local), *[line for one in answer.artifacts for line in _traced_lines(one)]]
    if not answer.artifacts:
        lines.append(f"{printable(answer.asked)} was never in this registry, as far as you may see")
    return _finish(output, answer, lines, found=bool(answer.artifacts))


def run_pulls(options: argparse.Namespace) -> int:
    """`modelreg pulls DIGEST|FILE|REF [--since T] [--at T]`."""
    settings, output = settings_of(options), output_of(options)
    question, _ = _question(options, output)
    answer = lookup.pulls(
        connect(settings), question, since=_time(options.since), at=_time(options.at), limit=options.limit
    )
    rows = [{**row.model_dump(), "arrived": _arrived(row), "sure": row.confidence} for row in answer.pulls]
    lines = [f"{answer.granted} granted, {answer.refused} refused"]
    lines += table_lines(rows, (*_PULLS, "arrived", "sure")) if rows else []
    return _finish(output, answer, lines, found=bool(rows))


def run_loaded(options: argparse.Namespace) -> int:
    """`modelreg loaded DIGEST|FILE|REF [--at T] [--all]`."""
    settings, output = settings_of(options), output_of(options)
    question, _ = _question(options, output)
    answer = lookup.loaded(connect(settings), question, at=_time(options.at), ended=options.all, limit=options.limit)
    rows = [{**row.model_dump(), "sure": row.confidence} for row in answer.loads]
    lines = [", ".join(f"{count} {state}" for state, count in answer.counts.items()) or "loaded nowhere"]
    lines += table_lines(rows, (*_LOADS, "sure")) if rows else []
    return _finish(output, answer, lines, found=bool(rows))


def run_lineage(options: argparse.Namespace) -> int:
    """`modelreg lineage DIGEST|FILE|REF [--up] [--down] [--at T]`; without either both."""
    settings, output = settings_of(options), output_of(options)
    question, _ = _question(options, output)
    both = options.up == options.down
    answer = lookup.lineage(
        connect(settings), question, up=options.up or both, down=options.down or both, at=_time(options.at)
    )
    nodes = {node.artifact: node for node in answer.nodes}
    lines = []
    for root in dict.fromkeys(found.artifact for found in answer.found):
        lines.append(_node_text(nodes[root]) if root in nodes else root)
        lines += _tree(root, [(edge.child, edge.parent, edge) for edge in answer.up], nodes, "from ")
        lines += _tree(root, [(edge.parent, edge.child, edge) for edge in answer.down], nodes, "into ")
    lines += [
        f"  with dataset {row.name}@{row.dataset} ({row.classification or 'class unknown here'}) [{row.grade}]"
        for row in answer.datasets
    ]
    lines += [f"  claims {row.kind} {row.value} ({row.path}, {row.member})" for row in answer.claims]
    return _finish(output, answer, lines, found=bool(answer.up or answer.down or answer.datasets or answer.claims))


def run_blast_radius(options: argparse.Namespace) -> int:
    """`modelreg blast-radius DIGEST|FILE|REF|SIGNER|PRINCIPAL|HOST [--at T]`."""
    settings, output = settings_of(options), output_of(options)
    what: str = options.target
    at, limit = _time(options.at), options.limit
    api = connect(settings)
    if what.startswith("host:"):
        answer = lookup.blast_radius(api, host=what.removeprefix("host:"), at=at, limit=limit)
    elif what.startswith(_PRINCIPALS):
        answer = lookup.blast_radius(api, principal=what, at=at, limit=limit)
    elif what.startswith(_SIGNERS):
        answer = lookup.blast_radius(api, signer=what, at=at, limit=limit)
    else:
        answer = lookup.blast_radius(api, _question(options, output)[0], at=at, limit=limit)
    return _finish(output, answer, _blast_lines(answer), found=bool(answer.artifacts))


def run_signatures(options: argparse.Namespace) -> int:
    """`modelreg signatures DIGEST|FILE|REF`: each verified here and now."""
    settings, output = settings_of(options), output_of(options)
    question, _ = _question(options, output)
    answer = lookup.signatures(connect(settings), question, _judge(settings, output), at=_time(options.at))
    lines = [
        line for row in answer.signatures for line in (f"{row.repository}@{row.artifact}", f"  {_signature_text(row)}")
    ]
    return _finish(output, answer, lines or ["no signature is recorded"], found=bool(answer.signatures))


def run_timeline(options: argparse.Namespace) -> int:
    """`modelreg timeline REF|DIGEST`: every event that names it, in order; of a repository alone, everything in it."""
    settings, output = settings_of(options), output_of(options)
    question, _ = _question(options, output)
    answer = lookup.timeline(connect(settings), question, at=_time(options.at), limit=options.limit)
    columns = ("index", "recorded_at", "type", "principal", "repository", "artifact", "tag", "host", "verified_host")
    rows = [event.model_dump() for event in answer.events]
    lines = [f"{len(rows)} of {answer.total} events", *(table_lines(rows, columns) if rows else [])]
    return _finish(output, answer, lines, found=bool(rows))


def _question(options: argparse.Namespace, output: Output) -> tuple[Question, LocalFile | None]:
    path = Path(options.target)
    size = path.stat().st_size if path.is_file() else 0
    with Bars(quiet=output.quiet or output.as_json) as bars:
        return lookup.question_of(options.target, progress=bars.meter("hashing", size) if size else None)


def _judge(settings: Settings, output: Output) -> Judge:
    """A machine without a trust policy can still ask; then no signature is called verified, and it is said why."""
    try:
        return Judge(pinned.policy_of(settings, output.note), now())
    except ModelregError as error:
        return Judge(None, now(), error.detail)


def _time(text: str | None) -> datetime | None:
    return parse_time(text) if text is not None else None


def _finish(output: Output, answer: Answer, lines: Sequence[str], *, found: bool) -> int:
    """Print an answer with what it is as of and what nobody knows."""
    unknown = [f"unknown: {row.count} {row.what}: {row.text}" for row in answer.unknown]
    when = f"as of {answer.as_of.time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z, {answer.as_of.log_size} events in the record"
    output.result(answer.model_dump(mode="json", by_alias=True), *lines, *map(printable, unknown), when)
    if answer.truncated:
        output.note("some rows are left out; the counts are of all (--limit, --json)")
    return FINDINGS if found else 0


def _local_lines(local: LocalFile | None) -> list[str]:
    if local is None:
        return []
    detail = "".join(f", {printable(name)} {printable(str(value))}" for name, value in local.detail.items())
    return [
        f"{printable(local.path)}: {size_text(local.size_bytes)}, {local.format}{detail}",
        f"  {local.sha256}",
        *([f"  {local.blake3}"] if local.blake3 else []),
    ]


def _traced_lines(traced: TracedArtifact) -> list[str]:
    found = traced.found
    way = {
        "file": f"the file {found.path} of",
        "root": "the OMS root of",
        "artifact": "",
        "reference": "",
        "dataset": "made with it:",
    }[found.by]
    lines = [f"{printable(way)} artifact {found.artifact}".lstrip()]
    lines.append(f"  state       {_state_text(traced.state)}")
    lines.append(f"  size        {size_text(traced.size_bytes)} in {traced.files} files; OMS root {traced.root}")
    lines += [
        f"  published   {row.repository} {row.published_at:%Y-%m-%d %H:%M:%S}Z by {printable(row.published_by)}, "
        f"event {row.event}; tags: {', '.join(row.tags) or 'none'}"
        for row in traced.publications
    ]
    lines.append(f"  source      {printable(traced.source) if traced.source else 'not recorded'}")
    lines += [f"  signature   {_signature_text(row)}" for row in traced.signatures] or ["  signature   none recorded"]
    lines += [f"  made from   {_edge_text(edge, edge.parent)}" for edge in traced.parents] or ["  made from   unknown"]
    lines += [f"  made into   {_edge_text(edge, edge.child)}" for edge in traced.children]
    lines.append(f"  reach       {traced.grants} grants, {traced.live_loads} live loads")
    return lines


def _state_text(state: ArtifactState) -> str:
    if state.state == "active" or state.since is None:
        return state.state
    return (
        f"{state.state.upper()} since {state.since:%Y-%m-%d %H:%M:%S}Z by {state.by}: {printable(state.reason or '')}"
    )


def _signature_text(row: RecordedSignature) -> str:
    who = printable(f"{row.identity} ({row.authority})")
    if row.checked is not None and row.checked.verified:
        signed_at = row.checked.signed_at
        # Who signed is what the signature says, not what the registry recorded.
        who = printable(f"{row.checked.identity} ({row.checked.authority})")
        time = f", signed {signed_at:%Y-%m-%d %H:%M:%S}Z or before" if signed_at else ", no trusted time"
        return f"verified    {who} for {row.repository}{time}"
    why = f"; not verified: {row.checked.why_not}" if row.checked else ""
    return f"recorded    {who} for {row.repository}{printable(why)}"


def _edge_text(edge: LineageEdge, artifact: str) -> str:
    return f"{edge.relation} {artifact} ({edge.grade}, event {edge.event})"


def _arrived(row: answers.PullRow) -> str:
    if row.decision == "refused":
        return f"refused: {row.reason}"
    return f"{row.received_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z" if row.received_at else "not reported"


def _node_text(node: answers.LineageNode) -> str:
    if not node.known:
        return f"{node.artifact} (unknown here)"
    mark = "" if node.state.state == "active" else f" {node.state.state.upper()}"
    level = f" ({node.classification})" if node.classification else ""
    return f"{node.artifact} {', '.join(node.repositories)}{level}{mark}"


def _tree(
    root: str,
    edges: Sequence[tuple[str, str, LineageEdge]],
    nodes: dict[str, answers.LineageNode],
    word: str,
) -> list[str]:
    """Edges as an indented tree; what was printed before is not opened again, so that a circle ends."""
    following: dict[str, list[tuple[str, LineageEdge]]] = {}
    for source, target, edge in edges:
        following.setdefault(source, []).append((target, edge))
    lines: list[str] = []
    opened = {root}
    todo = [(1, target, edge) for target, edge in reversed(following.get(root, []))]
    while todo:
        depth, artifact, edge = todo.pop()
        again = artifact in opened
        text = _node_text(nodes[artifact]) if artifact in nodes else artifact
        lines.append(f"{'  ' * depth}{word}{edge.relation} {text} [{edge.grade}]{' (see above)' if again else ''}")
        if not again:
            opened.add(artifact)
            todo += [(depth + 1, target, one) for target, one in reversed(following.get(artifact, []))]
    return lines


def _blast_lines(answer: answers.BlastRadiusAnswer) -> list[str]:
    counts = answer.counts
    summary = (
        f"{counts.artifacts} artifacts ({counts.descendants} derived), {counts.grants} grants ({counts.received} arrived), "
        f"{counts.hosts} hosts, {counts.live_loads} live loads ({counts.stale_loads} stale), {counts.people} people to call"
    )
    lines = [summary]
    artifacts: list[dict[str, Any]] = [
        {**row.model_dump(), "state": row.state.state, "sure": row.confidence} for row in answer.artifacts
    ]
    hosts = [{**row.model_dump(), "sure": row.confidence} for row in answer.hosts]
    loads = [{**row.model_dump(), "sure": row.confidence} for row in answer.loads]
    people = [row.model_dump() for row in answer.people]
    for rows, columns in (
        (artifacts, ("artifact", "state", "why", "repositories", "grants", "live_loads", "sure")),
        (
            hosts,
            ("host", "verified", "zone", "artifacts", "grants", "received", "last_granted_at", "live_loads", "sure"),
        ),
        (loads, ("artifact", *_LOADS, "sure")),
        (people, ("principal", "roles", "grants", "last_at")),
    ):
        lines += ["", *table_lines(rows, columns)] if rows else []
    return [*lines, ""] if artifacts else lines
