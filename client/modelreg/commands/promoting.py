"""promote, approve, waive, demote, promotions."""

import argparse
from typing import Any

from modelreg import pinned, promoting, pull, wire
from modelreg import wire_promotions as models
from modelreg.api import Api
from modelreg.commands import Output, now, output_of, printable, settings_of, table_lines
from modelreg.commands.session import connect
from modelreg.commands.weights import signer_of, stamp_of
from modelreg.digests import Digest
from modelreg.errors import PolicyRefused
from modelreg.promoting import Answered
from modelreg.references import Reference, parse_reference, parse_repository
from modelreg.settings import Settings

SCHEMA = "modelreg/promotion/v1"
_RULES = ("rule", "status", "reason", "fix")
_LISTED = ("id", "environment", "repository", "artifact", "state", "created_at", "created_by", "withdrawn_reason")
_QUIET = frozenset({"pass", "off"})


def run_promote(options: argparse.Namespace) -> int:
    """`modelreg promote REF ENV [--explain] [--dry-run]`: 22 where the answer is no."""
    settings, output = settings_of(options), output_of(options)
    policy, api = pinned.policy_of(settings, output.note), connect(settings)
    reference, artifact = _named(api, options)
    answered = promoting.ask(
        api, policy, reference.repository, artifact, options.environment, dry_run=options.dry_run, now=now
    )
    decision = answered.decision
    what = f"{reference.repository}@{artifact} for {options.environment}"
    rows = [one.model_dump() for one in decision.outcomes if options.explain or one.status not in _QUIET]
    lines = table_lines([{**row, "reason": printable(row["reason"])} for row in rows], _RULES) if rows else []
    output.result(_json(answered, options), *lines, _told(answered, what))
    return 0 if decision.allowed else PolicyRefused.exit_code


def run_approve(options: argparse.Namespace) -> int:
    """`modelreg approve REF ENV --key FILE`."""
    settings, output = settings_of(options), output_of(options)
    api = connect(settings)
    reference, artifact = _named(api, options)
    signer, stamp = signer_of(settings, options.sign), _stamp(options, settings, api, output)
    info = promoting.approve(api, reference.repository, artifact, options.environment, signer, stamp, now())
    output.result(
        {"schema": SCHEMA, **info.model_dump(mode="json", exclude={"bundle"})},
        f"approved {reference.repository}@{artifact} for {options.environment} as {info.identity}, event {info.event}",
    )
    return 0


def run_waive(options: argparse.Namespace) -> int:
    """`modelreg waive REF ENV RULE --reason R --days N --key FILE`."""
    settings, output = settings_of(options), output_of(options)
    api = connect(settings)
    reference, artifact = _named(api, options)
    said, info = promoting.waive(
        api,
        reference.repository,
        artifact,
        options.environment,
        options.rule,
        reason=options.reason,
        days=options.days,
        signer=signer_of(settings, options.sign),
        stamp=_stamp(options, settings, api, output),
        at=now(),
    )
    output.result(
        {"schema": SCHEMA, **info.model_dump(mode="json", exclude={"bundle"}), "expires_at": said.expires_at},
        f"waived {options.rule} for {reference.repository}@{artifact} in {options.environment} until "
        f"{said.expires_at:%Y-%m-%d %H:%M}Z as {info.identity}, event {info.event}",
    )
    return 0


def run_demote(options: argparse.Namespace) -> int:
    """`modelreg demote REF ENV --reason R`."""
    output = output_of(options)
    api = connect(settings_of(options))
    reference, artifact = _named(api, options)
    request = wire.request(models.DemotionRequest, environment=options.environment, reason=options.reason)
    found = api.demote(reference.repository, artifact, request).withdrawn
    what = f"{reference.repository}@{artifact}"
    done = f"withdrew {what} from {options.environment} as event {found[0].withdrawn_event}" if found else ""
    output.result(
        {"schema": SCHEMA, "withdrawn": [info.model_dump(mode="json") for info in found]},
        done or f"{what} was not promoted to {options.environment}; nothing was changed",
        *(
            ["  permits that are out live until they end; to stop what runs, recall it (`modelreg quarantine`)"]
            * bool(found)
        ),
    )
    return 0


def run_promotions(options: argparse.Namespace) -> int:
    """`modelreg promotions [REF] [--env ENV] [--all]`."""
    api = connect(settings_of(options))
    asked: dict[str, str | None] = {"environment": options.environment, "live": None if options.all else "true"}
    if options.reference is not None and not {":", "@"} & set(options.reference):
        asked["repository"] = parse_repository(options.reference)
    elif options.reference is not None:
        reference, artifact = _named(api, options)
        asked |= {"repository": reference.repository, "artifact": str(artifact)}
    rows = [info.model_dump(mode="python") for info in api.promotions(options.limit, **asked)]
    output_of(options).table(rows, _LISTED, "promotions")
    return 0


def _named(api: Api, options: argparse.Namespace) -> tuple[Reference, Digest]:
    reference = parse_reference(options.reference)
    return reference, pull.resolve(api, reference)


def _stamp(options: argparse.Namespace, settings: Settings, api: Api, output: Output) -> promoting.Stamp | None:
    # A Sigstore stamps for itself.
    return None if options.no_timestamp or options.sign == "keyless" else stamp_of(settings, api, output)


def _told(answered: Answered, what: str) -> str:
    decision, info = answered.decision, answered.info
    rules = ", ".join(one.rule for one in decision.outcomes if one.status in {"fail", "missing"})
    if answered.verdict is None or info is None:
        would = "would be granted" if decision.allowed else "would be refused"
        return f"{would}: {what}{f': {rules}' if rules else ''} (dry run: nothing recorded, nothing signed)"
    signed = f"event {info.event}; verdict verified, signed by {answered.verdict.signer.removeprefix('key:')}"
    if decision.allowed:
        return f"granted {what} as {signed}"
    return f"refused {what}: {rules}; {signed}"


def _json(answered: Answered, options: argparse.Namespace) -> dict[str, Any]:
    decision = answered.decision
    return {
        "schema": SCHEMA,
        "dry_run": options.dry_run,
        "verified": answered.verdict is not None,
        "allowed": decision.allowed,
        "decision": decision.model_dump(mode="json"),
        "facts": answered.facts.model_dump(mode="json"),
        "recorded": answered.info.model_dump(mode="json") if answered.info is not None else None,
    }
