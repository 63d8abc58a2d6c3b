"""No secret in a log line, event, error, URL or the output of a command: the whole suite is the search for one.

Tests use real tokens, keys and presigned URLs all the time. Here everything that people or machines may read later passes
by: what looks like a secret, or was planted as one, is remembered and fails the test that is running.
"""

import functools
import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelreg.errors import ModelregError
from modelreg_server import custody_identities, custody_tree
from modelreg_server.traffic import Traffic

_FORMS = {
    "a registry token": re.compile(r"mrg_[a-z]+_[0-9A-Za-z]{40,}"),
    "a presigned URL": re.compile(r"X-Amz-(?:Signature|Credential|Security-Token)=[^&\s]{16}", re.IGNORECASE),
    "a JSON web token": re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{20,}"),
    "a private key": re.compile(r"BEGIN (?:[A-Z]+ )*PRIVATE KEY"),
}
_planted: set[str] = set()
looked_at: Counter[str] = Counter()
found: list[str] = []


def plant(secret: str) -> str:
    """A secret that no form tells (a PIN, a refresh token): from now on it may not be seen anywhere. Returned."""
    assert len(secret) >= 8, "too short to be told from chance"
    _planted.add(secret)
    return secret


def look(place: str, text: str) -> None:
    """Look through a text that others may read; `place` is one of log, event, error, url, output."""
    looked_at[place] += 1
    kinds = [kind for kind, form in _FORMS.items() if form.search(text)]
    kinds += ["a planted secret" for secret in _planted if secret in text]
    if kinds:
        # Without the secret: this ends up in CI's log.
        for secret in [*_planted, *(match[0] for form in _FORMS.values() for match in form.finditer(text))]:
            text = text.replace(secret, "…")
        found.append(f"{place}: {', '.join(kinds)} in {text[:200]!r}")


def look_at_file(place: str, path: Path) -> None:
    """Look through a file, line by line."""
    if path.exists():
        for line in path.read_text("utf-8", "replace").splitlines():
            look(place, line)


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        look("log", self.format(record))


def watch() -> None:
    """Start watching this process; once."""
    listener = _Listener(logging.DEBUG)
    for name in ("modelreg", "modelreg_server"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger().addHandler(listener)
    custody_tree.grow = _looking_grow(custody_tree.grow)
    custody_identities.commit = _looking_commit(custody_identities.commit)
    ModelregError.__init__ = _looking_init(ModelregError.__init__)
    Traffic.__call__ = _looking_call(Traffic.__call__)


def _looking_grow(original):
    @functools.wraps(original)
    def grow(session, entry, now, *, decisive):
        look("event", entry.decode())
        return original(session, entry, now, decisive=decisive)

    return grow


def _looking_commit(original):
    """Who it was stands beside the log, and whoever audits it reads that as well."""

    @functools.wraps(original)
    def commit(session, principal, body):
        look("event", f"{principal} {body}")
        return original(session, principal, body)

    return commit


def _looking_init(original):
    @functools.wraps(original)
    def init(self, detail, /, **facts):
        look("error", f"{detail} {facts}")
        original(self, detail, **facts)

    return init


def _looking_call(original):
    @functools.wraps(original)
    async def call(self, scope, receive, send):
        if scope["type"] == "http":
            look("url", (scope.get("raw_path", b"") + b"?" + scope.get("query_string", b"")).decode("latin-1"))
        await original(self, scope, receive, send)

    return call


@contextmanager
def expected() -> Iterator[list[str]]:
    """For the tests of this module: what is found in here is given to the test and fails nothing."""
    before = len(found)
    caught: list[str] = []
    try:
        yield caught
    finally:
        caught += found[before:]
        del found[before:]
