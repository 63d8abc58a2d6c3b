"""access grant | list | revoke | explain, repository set."""

import argparse

from modelreg import wire
from modelreg.commands import output_of, settings_of
from modelreg.commands.account import parse_duration
from modelreg.commands.session import connect
from modelreg.references import parse_reference, parse_repository


def run_grant(options: argparse.Namespace) -> int:
    """`modelreg access grant SUBJECT VERB REPOSITORY [--environment E] [--host-class C] [--zone Z] [--until 30d]`."""
    request = wire.request(
        wire.AccessGrantRequest,
        subject=options.subject,
        verb=options.verb,
        repository=options.repository,
        environment=options.environment,
        host_class=options.host_class,
        zone=options.zone,
        expires_in_seconds=parse_duration(options.until) if options.until else None,
    )
    made = connect(settings_of(options)).grant_access(request)
    output_of(options).result(
        made.model_dump(), f"access grant {made.id}: {made.subject} {made.verb} {made.repository}"
    )
    return 0


def run_list(options: argparse.Namespace) -> int:
    """`modelreg access list [--subject WHO]`."""
    rows = [row.model_dump() for row in connect(settings_of(options)).access_grants(options.subject)]
    columns = (
        "id", "subject", "verb", "repository", "environment", "host_class", "zone", "not_after", "created_by", "revoked_at"
    )  # fmt: skip
    output_of(options).table(rows, columns, "grants")
    return 0


def run_revoke(options: argparse.Namespace) -> int:
    """`modelreg access revoke ID`."""
    ended = connect(settings_of(options)).revoke_access(options.id)
    line = f"revoked access grant {ended.id}: {ended.subject} {ended.verb} {ended.repository}"
    output_of(options).result(ended.model_dump(), line)
    return 0


def run_explain(options: argparse.Namespace) -> int:
    """`modelreg access explain WHO VERB REF [--host-class C] [--zone Z] [--environment E]`."""
    found = connect(settings_of(options)).explain_access(
        subject=options.subject,
        verb=options.verb,
        repository=parse_reference(options.reference).repository,
        host_class=options.host_class,
        zone=options.zone,
        environment=options.environment,
    )
    answer = f"{found.subject} {'may' if found.allowed else 'may not'} {found.verb} {found.repository}"
    lines = [
        answer + (" (sensitive)" if found.sensitive else ""),
        *_reason_lines(found.reasons, "  no access grant names this subject"),
    ]
    for token in found.tokens:
        lines.append(f"  with the token {token.token_id}, which has scopes: {'may' if token.allowed else 'may not'}")
        lines += [f"  {line}" for line in _reason_lines(token.reasons, "")]
    output_of(options).result(found.model_dump(), *lines)
    return 0


def run_repository_set(options: argparse.Namespace) -> int:
    """`modelreg repository set NAME --sensitive|--not-sensitive`."""
    api = connect(settings_of(options))
    changed = api.change_repository(parse_repository(options.name), wire.RepositoryChange(sensitive=options.sensitive))
    word = "sensitive" if changed.sensitive else "not sensitive"
    output_of(options).result(changed.model_dump(), f"{changed.repository} is {word}")
    return 0


def _reason_lines(reasons: list[wire.AccessReason], none: str) -> list[str]:
    lines = [
        f"  {'+' if reason.applies else '-'} {reason.grant} [{reason.origin}]: {reason.text}" for reason in reasons
    ]
    return lines or [none]
