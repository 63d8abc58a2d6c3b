"""host invite | enroll | list | show | revoke."""

import argparse
import base64
import getpass
import sys

from modelreg import connections, credentials, enrolment, host_signing, wire
from modelreg.api import Api
from modelreg.commands import output_of, settings_of
from modelreg.commands.account import parse_duration
from modelreg.commands.session import connect
from modelreg.enrolment import Enrolled
from modelreg.errors import Invalid


def run_invite(options: argparse.Namespace) -> int:
    """`modelreg host invite NAME --class C --zone Z [--label k=v]… [--expires 1d]`."""
    output = output_of(options)
    request = wire.request(
        wire.HostInvitationRequest,
        name=options.name,
        host_class=options.host_class,
        zone=options.zone,
        labels=dict(_label(text) for text in options.label),
        expires_in_seconds=parse_duration(options.expires),
    )
    made = connect(settings_of(options)).invite_host(request)
    if not output.as_json:
        invitation = made.invitation
        output.note(
            f"{invitation.name} may enrol once as {invitation.host_class} in {invitation.zone}, until "
            f"{invitation.expires_at:%Y-%m-%d %H:%M}Z: `modelreg host enroll --token-stdin` there; shown once:"
        )
    output.result(made.model_dump(), made.token)
    return 0


def run_enroll(options: argparse.Namespace) -> int:
    """`modelreg host enroll [--token-stdin] [--replace]`: make a key on this machine and become the host invited."""
    settings, output = settings_of(options), output_of(options)
    if options.token_stdin:
        token = sys.stdin.readline().strip()
    elif sys.stdin.isatty():
        token = getpass.getpass(f"Enrolment token for {settings.registry}: ").strip()
    else:
        raise Invalid("there is no terminal to ask on; pass the token with --token-stdin", field="token")
    token = credentials.require_token(token)
    key = enrolment.prepare_key(settings.state_dir, replace=options.replace)
    api = Api(settings.registry, token, connections.make_pool(settings.ca_file, settings.connections), key)
    der = host_signing.public_der(key.public_key())
    made = api.enroll_host(wire.HostEnrolment(public_key=base64.b64encode(der).decode()))
    enrolled = Enrolled(settings.registry, made.name, made.host_class, made.zone, host_signing.key_id(key.public_key()))
    enrolment.remember(settings.state_dir, enrolled)
    output.result(
        made.model_dump(),
        f"this machine is {made.name} at {settings.registry}: {made.host_class} in {made.zone}",
        f"  its requests are signed with {enrolment.key_path(settings.state_dir)} from now on",
    )
    return 0


def run_list(options: argparse.Namespace) -> int:
    """`modelreg host list`: hosts, and invitations that are open."""
    output = output_of(options)
    found = connect(settings_of(options)).hosts()
    if output.as_json:
        output.result(found.model_dump())
        return 0
    rows = [{**row.model_dump(), "labels": _labels(row.labels)} for row in found.hosts]
    columns = ("name", "host_class", "zone", "labels", "enrolled_at", "revoked_at", "key_id")
    output.table(rows, columns, "hosts")
    for invitation in found.invitations:
        output.note(f"invited until {invitation.expires_at:%Y-%m-%d %H:%M}Z: {invitation.name}")
    return 0


def run_show(options: argparse.Namespace) -> int:
    """`modelreg host show NAME`."""
    row = connect(settings_of(options)).host(options.name)
    output_of(options).result(
        row.model_dump(),
        f"host      {row.name}{' (revoked)' if row.revoked_at else ''}",
        f"class     {row.host_class}",
        f"zone      {row.zone}",
        f"labels    {_labels(row.labels) or '-'}",
        f"key       {row.key_id}",
        f"enrolled  {row.enrolled_at:%Y-%m-%d %H:%M:%S}Z, invited by {row.invited_by}",
        *([f"revoked   {row.revoked_at:%Y-%m-%d %H:%M:%S}Z by {row.revoked_by}"] if row.revoked_at else []),
    )
    return 0


def run_revoke(options: argparse.Namespace) -> int:
    """`modelreg host revoke NAME`."""
    ended = connect(settings_of(options)).revoke_host(options.name)
    lines = [f"revoked host {ended.host.name} ({ended.host.key_id})"] if ended.host else []
    if ended.withdrawn_invitations:
        lines.append(f"withdrew {ended.withdrawn_invitations} open invitations of {options.name}")
    output_of(options).result(ended.model_dump(), *lines)
    return 0


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Invalid(f"{text[:80]!r} is not a label; write name=value", field="label", value=text[:80])
    return name, value


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
