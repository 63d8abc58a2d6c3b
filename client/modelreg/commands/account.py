"""login, whoami, logout, token."""

import argparse
import getpass
import sys
import webbrowser

from modelreg import credentials, login, wire
from modelreg.commands import Output, output_of, printable, settings_of
from modelreg.commands.session import connect, connect_with
from modelreg.errors import Invalid
from modelreg.settings import Settings

_UNITS = {"m": 60, "h": 3600, "d": 86400}


def run_login(options: argparse.Namespace) -> int:
    """`modelreg login [--device | --no-browser | --workload | --token-stdin]`: a token is never an argument.

    Where the registry names no provider, one of its tokens is asked for without echo.
    """
    settings, output = settings_of(options), output_of(options)
    if options.token_stdin:
        return _login_with_token(settings, output, sys.stdin.readline().strip())
    if settings.workload:
        made = login.as_workload(settings)
    else:
        option = login.choose(settings, options.issuer)
        if option is None:
            if not sys.stdin.isatty():
                raise Invalid(
                    f"{settings.registry} names no provider to log in at, and there is no terminal to ask for a token on; "
                    "pass it with --token-stdin",
                    field="token",
                )
            return _login_with_token(settings, output, getpass.getpass(f"Token for {settings.registry}: ").strip())
        browser = None if options.no_browser else webbrowser.open
        made = login.as_person(settings, option, device=options.device, say=_say, open_browser=browser)
    value = {"principal": made.principal, "expires_at": made.expires_at, "registry": settings.registry}
    output.result(value, f"logged in to {settings.registry} as {made.principal}")
    return 0


def _login_with_token(settings: Settings, output: Output, token: str) -> int:
    who = connect_with(settings, credentials.require_token(token)).whoami()  # a token that does not work is not stored
    login.with_token(settings, token)
    output.result(who.model_dump(), f"logged in to {settings.registry} as {who.principal}")
    return 0


def _say(text: str) -> None:
    """What the user must read to log in, also with `-q`."""
    print(printable(text), file=sys.stderr, flush=True)


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
    """`modelreg logout`: forget the login and end its refresh token; `modelreg token revoke` ends a token everywhere."""
    settings, output = settings_of(options), output_of(options)
    forgotten, ended = login.log_out(settings)
    line = "forgot the token" if forgotten else "there was no token"
    more = ", and its provider ended the login" if ended else ""
    output.result({"forgotten": forgotten, "ended_at_provider": ended}, f"{line} for {settings.registry}{more}")
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
    columns = ("id", "kind", "principal", "scopes", "expires_at", "revoked_at", "last_used_at", "last_four")
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
