"""login, whoami, logout, token."""

import argparse
import getpass
import sys

from modelreg import credentials, wire
from modelreg.commands import output_of, settings_of
from modelreg.commands.session import connect, connect_with
from modelreg.errors import Invalid

_UNITS = {"m": 60, "h": 3600, "d": 86400}


def run_login(options: argparse.Namespace) -> int:
    """`modelreg login [--token-stdin]`: the token is asked for without echo, or read from stdin; never an argument."""
    settings, output = settings_of(options), output_of(options)
    if options.token_stdin:
        token = sys.stdin.readline().strip()
    elif sys.stdin.isatty():
        token = getpass.getpass(f"Token for {settings.registry}: ").strip()
    else:
        raise Invalid("there is no terminal to ask on; pass the token with --token-stdin", field="token")
    who = connect_with(settings, credentials.require_token(token)).whoami()  # a token that does not work is not stored
    credentials.store(settings.credentials, settings.registry, token)
    output.result(who.model_dump(), f"logged in to {settings.registry} as {who.principal}")
    return 0


def run_whoami(options: argparse.Namespace) -> int:
    """`modelreg whoami`."""
    settings, output = settings_of(options), output_of(options)
    who = connect(settings).whoami()
    lines = [f"{who.principal} at {settings.registry}"]
    lines += [f"  until {who.expires_at:%Y-%m-%d %H:%M}Z"] if who.expires_at else []
    lines += [f"  on host {who.host}: {who.host_class} in {who.host_zone}"] if who.host else []
    lines += [f"  {right}" for right in who.scopes or who.grants or ["no access grant yet"]]
    output.result(who.model_dump(), *lines)
    return 0


def run_logout(options: argparse.Namespace) -> int:
    """`modelreg logout`: forget the token on this machine; `modelreg token revoke` ends it everywhere."""
    settings, output = settings_of(options), output_of(options)
    forgotten = credentials.forget(settings.credentials, settings.registry)
    line = "forgot the token" if forgotten else "there was no token"
    output.result({"forgotten": forgotten}, f"{line} for {settings.registry}")
    return 0


def run_token_create(options: argparse.Namespace) -> int:
    """`modelreg token create PRINCIPAL [--scope …] [--expires 30d]`; without scopes it has the access grants."""
    api, output = connect(settings_of(options)), output_of(options)
    request = wire.request(
        wire.TokenRequest,
        principal=options.principal,
        scopes=options.scope,
        expires_in_seconds=parse_duration(options.expires),
    )
    issued = api.issue_token(request)
    if not output.as_json:
        output.note(
            f"token {issued.info.id} for {issued.info.principal}, until {issued.info.expires_at:%Y-%m-%d}; shown once:"
        )
    output.result(issued.model_dump(), issued.token)
    return 0


def run_token_list(options: argparse.Namespace) -> int:
    """`modelreg token list`."""
    rows = [row.model_dump() for row in connect(settings_of(options)).tokens()]
    columns = ("id", "principal", "scopes", "expires_at", "revoked_at", "last_used_at", "last_four")
    output_of(options).table(rows, columns, "tokens")
    return 0


def run_token_revoke(options: argparse.Namespace) -> int:
    """`modelreg token revoke ID`."""
    ended = connect(settings_of(options)).revoke_token(options.id)
    output_of(options).result(ended.model_dump(), f"revoked token {ended.id} of {ended.principal}")
    return 0


def parse_duration(text: str) -> int:
    """`30d`, `12h`, `15m` in seconds.

    Raises:
        Invalid: anything else.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdigit() or len(number) > 6:
        raise Invalid(f"{text[:40]!r} is not a duration; write 15m, 12h or 30d", field="expires", value=text[:40])
    return int(number) * _UNITS[unit]
