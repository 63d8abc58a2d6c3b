"""HTTP connections: pools, timeouts, retries and what their failures mean. No redirects are followed, ever.

A credential goes to the configured registry only; requests to the blob store carry none of ours.
"""

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from modelreg import __version__
from modelreg.errors import Misconfigured, Unreachable

T = TypeVar("T")
_log = logging.getLogger(__name__)

USER_AGENT = f"modelreg/{__version__}"
CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0  # of silence
ANSWER_SECONDS = 300.0  # for a whole answer of the registry, however steadily it drips in
SLOWEST_BYTES_A_SECOND = 16 * 1024  # of weights; slower is as good as broken, and a retry may meet a better way
TRIES = 6
_RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_MAX_WAIT_SECONDS = 20.0
_MAX_IDLE_BYTES = 64 * 1024


class Transient(Unreachable):
    """Worth trying again: no answer, a broken one, or a status that says later."""

    def __init__(self, detail: str, /, wait_seconds: float | None = None, **facts: object) -> None:
        super().__init__(detail, **facts)
        self.wait_seconds = wait_seconds


def make_pool(ca_file: Path | None, connections: int) -> urllib3.PoolManager:
    """A thread-safe pool with warm connections, TLS verified against `ca_file` or the system's roots.

    Raises:
        Misconfigured: the file of roots is not there.
    """
    if ca_file is not None and not ca_file.is_file():
        raise Misconfigured(f"there are no TLS roots at {ca_file}", setting="ca_file")
    if ca_file is not None:
        try:
            ssl.create_default_context(cafile=str(ca_file))
        except OSError as error:  # ssl.SSLError is one
            raise Misconfigured(f"{ca_file} holds no TLS roots in PEM form: {error}", setting="ca_file") from None
    return urllib3.PoolManager(
        num_pools=8,
        maxsize=connections,
        block=False,
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        retries=False,
        ca_certs=str(ca_file) if ca_file else None,
        cert_reqs="CERT_REQUIRED",
        headers={"User-Agent": USER_AGENT},
    )


def send(
    pool: urllib3.PoolManager | urllib3.HTTPConnectionPool,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: object = None,
    where: str,
) -> urllib3.BaseHTTPResponse:
    """Send one request and return the response, unread; `where` names the peer without its secrets.

    A pool of one host (`outside`) takes a path instead of a URL.

    Raises:
        Transient: no answer, or a status worth a retry.
        Unreachable: its TLS certificate does not hold, which another try does not change.
    """
    try:
        response = pool.request(
            method,
            url,
            headers={"User-Agent": USER_AGENT, **headers},
            body=body,  # type: ignore[arg-type]  # urllib3's own type is private
            preload_content=False,
            redirect=False,
            decode_content=False,
        )
    except HTTPError as error:
        if isinstance(error, SSLError) and isinstance(error.args[0], ssl.SSLCertVerificationError):
            raise Unreachable(
                f"{where} was not asked, because its TLS certificate is not accepted: {error.args[0].verify_message}; "
                "roots of your own are named in ca_file (MODELREG_CA_FILE)"
            ) from None
        # The exception's text may hold a presigned URL.
        raise Transient(f"{where} does not answer ({type(error).__name__})") from None
    except ValueError:
        # A header that a server handed out and that HTTP does not know.
        raise Unreachable(f"{where} cannot be asked: the request it handed out cannot be sent") from None
    if response.status in _RETRY_STATUSES:
        wait = _retry_after(response.headers.get("Retry-After"))
        status = response.status
        if response.headers.get("Content-Type", "").startswith("application/problem+json"):
            return response  # the registry says itself what is wrong
        response.close()  # not drained: the body may never end
        raise Transient(f"{where} answered {status}", wait_seconds=wait)
    return response


@contextmanager
def within(response: urllib3.BaseHTTPResponse, seconds: float) -> Iterator[None]:
    """Cut the connection when reading the body takes longer; the reader then sees it break off.

    A timeout only bounds the silence between two bytes, so a peer that sends one now and then would never end.
    """
    timer = threading.Timer(seconds, _cut, [response])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(response: urllib3.BaseHTTPResponse) -> None:
    # ValueError, RuntimeError: the body ended in this moment and there is nothing left to cut.
    with suppress(OSError, ValueError, RuntimeError):
        response.shutdown()


def finish(response: urllib3.BaseHTTPResponse) -> None:
    """Done with an answer whose body says nothing: keep the connection if the body is short, as it should be."""
    try:
        with within(response, READ_SECONDS):
            short = len(response.read(_MAX_IDLE_BYTES + 1)) <= _MAX_IDLE_BYTES
        if short:
            response.release_conn()
            return
    except HTTPError as error:
        _log.debug("an answer broke off after its status (%s)", type(error).__name__)
    response.close()


def with_retries(action: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Run an action that may be repeated; waits longer each time, with jitter, and gives up after `TRIES`.

    Raises:
        Unreachable: the last failure.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except Transient as error:
            if attempt == TRIES:
                raise
            wait = error.wait_seconds
            if wait is None:
                wait = random.uniform(0.5, 1.0) * 0.25 * 2**attempt  # noqa: S311  # jitter, not a secret
            _log.debug("%s; trying again in %.1f s (%d of %d)", error.detail, wait, attempt, TRIES)
            sleep(min(wait, _MAX_WAIT_SECONDS))
    raise AssertionError


def _retry_after(untrusted_value: str | None) -> float | None:
    if untrusted_value is not None and untrusted_value.isascii() and untrusted_value.isdigit():
        return float(untrusted_value[:6])
    return None
