"""quarantine, release, revoke; recall status|list."""

import argparse
import uuid
from typing import Any

from modelreg import pull, revocations, wire
from modelreg import wire_recalls as models
from modelreg.api import Api
from modelreg.commands import Output, now, output_of, settings_of
from modelreg.commands.distributing import publish, signed
from modelreg.commands.revoking import FINDINGS, stage
from modelreg.commands.session import connect
from modelreg.digests import Digest
from modelreg.errors import Invalid, ModelregError, NotFound
from modelreg.references import parse_reference
from modelreg.revocations import RevocationList

RECALL_SCHEMA = "modelreg/recall/v1"
STATUS_SCHEMA = "modelreg/recall-status/v1"
_REACHED = ("artifact", "depth", "relation", "grade", "repositories", "now", "allowed")
_HOSTS = ("host", "known", "exposure", "running", "event_at", "state", "confirmed_at", "settled")
_DONE = {"quarantine": "quarantined", "revocation": "revoked"}


def run_quarantine(options: argparse.Namespace) -> int:
    """`modelreg quarantine REF --reason R [--repo DIR [--publish]] [--cascade] [--dry-run]`."""
    return _recall(options, "quarantine")


def run_revoke(options: argparse.Namespace) -> int:
    """`modelreg revoke REF --reason R [--repo DIR [--publish]] [--cascade] [--dry-run]`."""
    return _recall(options, "revocation")


def run_release(options: argparse.Namespace) -> int:
    """`modelreg release REF --reason R [--repo DIR [--publish]]`."""
    output = output_of(options)
    _require_folder(options)
    api = connect(settings_of(options))
    reference = parse_reference(options.reference)
    artifact = pull.resolve(api, reference)
    request = wire.request(models.ReleaseRequest, reason=options.reason)
    released = api.release(reference.repository, artifact, request)
    lines = [f"{'released' if released.changed else 'already released'} {reference.repository}@{artifact}"]

    def change(listed: RevocationList) -> bytes:
        return revocations.recall(listed, now(), release=[artifact])

    listed = _list(options, output, change, f"released {artifact}", lines)
    value = {"schema": RECALL_SCHEMA, **released.model_dump(mode="json"), "list": listed}
    output.result(value, *lines)
    return 0


def run_status(options: argparse.Namespace) -> int:
    """`modelreg recall status REF|ID`: 40 while a host that may have it has not confirmed."""
    output = output_of(options)
    api = connect(settings_of(options))
    status = api.recall_status(_recall_id(api, options.subject))
    unconfirmed = FINDINGS if status.unsettled or not status.complete else 0
    if output.as_json:
        output.result({"schema": STATUS_SCHEMA, **status.model_dump(mode="json")})
        return unconfirmed
    row = status.recall
    lifted = f", lifted {row.lifted_at:%Y-%m-%d %H:%M}Z" if row.lifted_at else ""
    output.note(
        f"{row.kind} of {row.artifact} since {row.created_at:%Y-%m-%d %H:%M}Z{lifted} by {row.created_by}: {row.reason}"
    )
    rows = [{**host.model_dump(), "known": "verified" if host.verified else "claimed"} for host in status.hosts]
    output.table(rows, _HOSTS, "hosts")
    left_out = "" if status.complete else "; there are more hosts than one answer holds"
    output.note(f"{status.unsettled} hosts have not confirmed, as of {status.as_of:%Y-%m-%d %H:%M:%S}Z{left_out}")
    return unconfirmed


def run_list(options: argparse.Namespace) -> int:
    """`modelreg recall list`."""
    rows = [row.model_dump() for row in connect(settings_of(options)).recalls()]
    output_of(options).table(rows, ("id", "kind", "artifact", "created_at", "created_by", "reason"), "recalls")
    return 0


def _recall(options: argparse.Namespace, kind: models.RecallKind) -> int:
    output = output_of(options)
    _require_folder(options)
    api = connect(settings_of(options))
    reference = parse_reference(options.reference)
    artifact = pull.resolve(api, reference)
    request = wire.request(
        models.RecallRequest, kind=kind, reason=options.reason, cascade=options.cascade, dry_run=options.dry_run
    )
    recalled = api.recall(reference.repository, artifact, request)
    if options.dry_run:
        return _show(output, recalled)
    named = recalled.artifacts[0]
    assert named.recall is not None
    more = len(recalled.artifacts) - 1
    lines = [
        f"{'' if named.changed else 'already '}{_DONE[kind]} {reference.repository}@{artifact} "
        f"as event {named.recall.event}, in {', '.join(named.repositories)}"
        + (f", and {more} made from it" if more else ""),
        f"  who has not confirmed: modelreg recall status {named.recall.id}",
    ]
    reached = [row.recall for row in recalled.artifacts if row.recall is not None]

    def change(listed: RevocationList) -> bytes:
        by_kind = {name: [Digest.parse(row.artifact) for row in reached if row.kind == name] for name in _DONE}
        return revocations.recall(
            listed, now(), revoke=by_kind["revocation"], quarantine=by_kind["quarantine"], reason=options.reason
        )

    listed = _list(options, output, change, f"{_DONE[kind]} {len(reached)} artifacts", lines)
    output.result({"schema": RECALL_SCHEMA, **recalled.model_dump(mode="json"), "list": listed}, *lines)
    return 0


def _show(output: Output, recalled: models.Recalled) -> int:
    if output.as_json:
        output.result({"schema": RECALL_SCHEMA, **recalled.model_dump(mode="json"), "list": None})
    else:
        rows = [
            {
                **row.model_dump(),
                "artifact": row.artifact or "(not yours to see)",
                "now": row.recall.kind if row.recall else "served",
            }
            for row in recalled.artifacts
        ]
        output.table(rows, _REACHED, "artifacts")
    would = sum(row.changed for row in recalled.artifacts)
    barred = sum(not row.allowed for row in recalled.artifacts)
    output.note(
        f"would recall {would} artifacts; nothing was changed"
        + (
            f"; {barred} of them are in repositories that you may not recall from, so all would be refused"
            if barred
            else ""
        )
    )
    return FINDINGS if would else 0


def _require_folder(options: argparse.Namespace) -> None:
    if options.publish and options.directory is None:
        raise Invalid("--publish needs --repo DIR, the folder of `modelreg trust repo`", field="repo")


def _list(
    options: argparse.Namespace, output: Output, change: Any, done: str, lines: list[str]
) -> dict[str, Any] | None:
    """Stage, sign and maybe publish the distributed list; or say who will not hear of this without it."""
    if options.directory is None:
        lines.append(
            "  the registry obeys at once; hosts that cannot reach it learn of this only from the published list: say it "
            "again with --repo DIR, the folder of `modelreg trust repo`"
        )
        return None
    try:
        stage(options, change, done)
        value, more = signed(options)
        if options.publish and value["ready"]:
            published = publish(options)
            more = [*more[:-1], f"published as event {published.event}"]
            value = {**value, "published": published.event}
    except ModelregError:
        output.note(f"{lines[0]}; the list is not done, so do this again when what follows is put right")
        raise
    lines += [f"  {line}" for line in more]
    return value


def _recall_id(api: Api, subject: str) -> str:
    try:
        return str(uuid.UUID(subject))
    except ValueError:
        pass
    by_digest = subject.startswith("sha256:")
    artifact = Digest.parse(subject) if by_digest else pull.resolve(api, parse_reference(subject))
    found = api.check_recalls([artifact]).recalls
    if not found:
        raise NotFound(
            f"{artifact} is not recalled; an earlier recall has its id in the log (`modelreg log {artifact}`)"
        )
    return found[0].id
