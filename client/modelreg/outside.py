"""HTTP to hosts that are not ours: each name is resolved once, and the connection goes to that address (`outside_urls`).

    outside = Outside(Rules(), ca_file, connections_at_once, token, "https://hub.example")
    with outside.open("https://hub.example/a/b", {"Range": "bytes=0-99"}) as answer: …

Proxies of the environment are not used. Redirects are followed here, bounded, each by the same rules; the token goes to the
origin it is for and to no other, and to a plain-http one only on this machine.
"""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from modelreg import connections
from modelreg.connections import Transient
from modelreg.errors import Invalid, NotFound, Unauthenticated, Unreachable
from modelreg.outside_urls import Rules, Target, follow, parse, require_addresses
from modelreg.settings import stays_private

MAX_REDIRECTS = 5
MAX_ADDRESSES = 16  # of one name
MAX_ANSWER_BYTES = 32 * 1024 * 1024  # of what is read whole: lists of files, small files

Resolve = Callable[[str, int], Sequence[IPv4Address | IPv6Address]]


@dataclass(frozen=True)
class Answer:
    """A response with its body unread. `hops` holds the headers of every answer on the way to it, the last included."""

    status: int
    url: Target
    response: urllib3.BaseHTTPResponse
    hops: tuple[Mapping[str, str], ...]

    def header(self, *names: str) -> str | None:
        """The first of these headers, by the answer nearest to the one that was asked: a CDN knows less."""
        return next((hop[name] for name in names for hop in self.hops if name in hop), None)


def resolve(host: str, port: int) -> list[IPv4Address | IPv6Address]:
    """The addresses of a name, in the order in which this machine prefers them.

    Raises:
        Transient: there is none, which may pass.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Transient(f"{host} has no address") from None
    # A scope (fe80::1%eth0) makes it link-local, whatever it says before.
    texts = dict.fromkeys(str(row[4][0]).partition("%")[0] for row in found)
    return [ip_address(text) for text in texts][:MAX_ADDRESSES]


@dataclass
class _Host:
    """A resolved origin: a pool an address, and which of them is used now."""

    pools: list[urllib3.HTTPConnectionPool]
    at: int = 0

    @property
    def pool(self) -> urllib3.HTTPConnectionPool:
        return self.pools[self.at % len(self.pools)]


@dataclass
class Outside:
    """Thread-safe. `token` is sent to `token_origin` only; `resolver` is another than the system's in tests."""

    rules: Rules
    ca_file: Path | None
    connections_at_once: int
    token: str | None = field(default=None, repr=False)
    token_origin: str | None = None
    resolver: Resolve = resolve
    _hosts: dict[str, _Host] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """Ask for a URL, through at most `MAX_REDIRECTS` redirects; the body is read inside.

        Raises:
            Invalid, Forbidden: the address, or that of a redirect, is not one to be asked.
            Transient: no answer, a broken one, or a status that says later.
            Unreachable: its TLS certificate does not hold; it redirects without end.
        """
        target = parse(url, self.rules)
        hops: list[Mapping[str, str]] = []
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(target, headers or {})
            try:
                hops.append(response.headers)
                if response.status not in {301, 302, 303, 307, 308}:
                    with _said(target):
                        yield Answer(response.status, target, response, tuple(hops))
                    return
                connections.finish(response)
                target = follow(target, response.headers.get("Location", ""), self.rules)
            finally:
                # Not drained: what follows on this connection is as long as the other side likes. Read to its end it is back
                # in the pool already.
                response.close()
                response.release_conn()
        raise Unreachable(f"{parse(url, self.rules).shown} redirects more than {MAX_REDIRECTS} times")

    def read(
        self, url: str, headers: Mapping[str, str] | None = None, limit: int = MAX_ANSWER_BYTES
    ) -> tuple[Answer, bytes]:
        """Ask for a URL and read its whole body of at most `limit` bytes, trying again what may be tried again.

        Raises:
            As `open` and `require_ok`.
            Unreachable: more than `limit` bytes.
        """

        def attempt() -> tuple[Answer, bytes]:
            with self.open(url, {"Accept-Encoding": "identity", **(headers or {})}) as answer:
                require_ok(answer)
                with connections.within(answer.response, connections.ANSWER_SECONDS):
                    raw = answer.response.read(limit + 1)
                if len(raw) > limit:
                    raise Unreachable(f"{answer.url.shown} answers with more than {limit} bytes")
                return answer, raw

        return connections.with_retries(attempt)

    def _send(self, target: Target, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        host = self._host(target)
        pool = host.pool
        sent = {"Host": target.netloc, **headers}
        if self.token is not None and target.origin == self.token_origin and stays_private(target.origin):
            sent["Authorization"] = f"Bearer {self.token}"
        try:
            return connections.send(pool, "GET", target.path, headers=sent, where=target.shown)
        except Transient:
            with self._lock:
                if host.pool is pool:  # the next try goes to the name's next address, if it has one
                    host.at += 1
            raise

    def _host(self, target: Target) -> _Host:
        with self._lock:
            if (known := self._hosts.get(target.origin)) is not None:
                return known
        literal = target.literal
        addresses = [literal] if literal is not None else self.resolver(target.host, target.port)
        if not addresses:
            raise Transient(f"{target.host} has no address")
        require_addresses(target.host, addresses, self.rules)
        made = _Host([self._pool(target, str(address)) for address in addresses])
        with self._lock:
            return self._hosts.setdefault(target.origin, made)  # whoever resolved first decided for all

    def _pool(self, target: Target, address: str) -> urllib3.HTTPConnectionPool:
        timeout = urllib3.Timeout(connect=connections.CONNECT_SECONDS, read=connections.READ_SECONDS)
        size = self.connections_at_once
        if target.scheme == "http":
            return urllib3.HTTPConnectionPool(address, target.port, timeout=timeout, maxsize=size, retries=False)
        name = target.host if target.literal is None else None
        return urllib3.HTTPSConnectionPool(
            address,
            target.port,
            timeout=timeout,
            maxsize=size,
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(self.ca_file) if self.ca_file else None,
            server_hostname=name,  # what the certificate has to name, and what SNI says
        )


@contextmanager
def _said(target: Target) -> Iterator[None]:
    """Say that a body broke off; the library's own text may hold a query."""
    try:
        yield
    except HTTPError as error:
        raise Transient(f"{target.shown} broke off ({type(error).__name__})") from None


def require_ok(answer: Answer) -> None:
    """Go on only with an answer that holds what was asked for.

    Raises:
        Unauthenticated: 401 or 403.
        NotFound: 404 or 410.
        Unreachable: any other status.
    """
    status, where = answer.status, answer.url.shown
    if status in {200, 206}:
        return
    if status in {401, 403}:
        raise Unauthenticated(
            f"{where} answers {status}: give a token that may read it (--token-file or MODELREG_SOURCE_TOKEN), and accept "
            "the source's terms where it asks for that"
        )
    if status in {404, 410}:
        raise NotFound(f"{where} answers {status}: it is not there, or this token may not see it")
    raise Unreachable(f"{where} answers {status}")


def require_token(untrusted_text: str) -> str:
    """The text, if it can stand in a header.

    Raises:
        Invalid: it cannot; it is not repeated.
    """
    if (
        not (0 < len(untrusted_text) <= 4096 and untrusted_text.isascii() and untrusted_text.isprintable())
        or " " in untrusted_text
    ):
        raise Invalid("the source's token is not one word of ASCII characters", field="token")
    return untrusted_text
