"""Asking an OIDC provider: small JSON answers over https, bounded in size and time, and never another address than asked.

Used by the client's login and by the registry's key look-up. A provider's URL comes from configuration (or was pinned at
the first login); what its discovery document names is the provider's own word, held to the same rules.
"""

import http.client
import ipaddress
import json
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from modelreg import __version__
from modelreg.errors import Misconfigured, Unreachable

MAX_ANSWER_BYTES = 256 * 1024
MAX_SECONDS = 5.0  # to connect, and then for the whole exchange, however slowly it drips
MAX_URL_CHARS = 2000
DISCOVERY_PATH = "/.well-known/openid-configuration"


def require_url(untrusted_url: object, *, loopback: bool = True) -> str:
    """Return the URL if a secret may be sent there: https, or plain http to a loopback address (for tests).

    Args:
        loopback: whether loopback addresses over plain http pass; a document served over https may not name one.

    Raises:
        Misconfigured: it may not.
    """
    if not isinstance(untrusted_url, str) or len(untrusted_url) > MAX_URL_CHARS:
        raise Misconfigured("a provider's URL is missing, or is no text of at most 2000 characters")
    shown = untrusted_url[:200]
    if not untrusted_url.isascii() or not untrusted_url.isprintable() or set(untrusted_url) & set(" \\#"):
        raise Misconfigured(f"{shown!r} is not a provider's URL; write https://host/…")
    try:
        parts = urlsplit(untrusted_url)
        _ = parts.port
    except ValueError:
        raise Misconfigured(f"{shown!r} is not a provider's URL; write https://host/…") from None
    plain = parts.scheme == "http" and loopback and _is_loopback(parts.hostname)
    if (parts.scheme != "https" and not plain) or not parts.hostname or "@" in parts.netloc:
        raise Misconfigured(f"{shown!r} cannot be asked: only https is (plain http for loopback addresses)")
    return untrusted_url


def is_plain(url: str) -> bool:
    """Whether a URL that `require_url` passed is one of the loopback exceptions."""
    return url.startswith("http://")


def discover(issuer: str, tls: ssl.SSLContext) -> dict[str, Any]:
    """The provider's discovery document (OpenID Connect Discovery 1.0 §4); its `issuer` equals the one asked, exactly.

    Raises:
        Unreachable: no such document there.
        Misconfigured: the issuer's URL may not be asked.
    """
    url = require_url(issuer).removesuffix("/") + DISCOVERY_PATH
    status, document = ask(url, tls)
    if status != http.client.OK:
        raise Unreachable(f"{issuer} has no discovery document (it answered {status})")
    if document.get("issuer") != issuer:
        raise Unreachable(f"the discovery document of {issuer} names another issuer; write it exactly as it does")
    return document


def endpoint(document: Mapping[str, Any], name: str, issuer: str) -> str:
    """An endpoint that the discovery document names. It may be on another host: the document is the issuer's word.

    Raises:
        Unreachable: it names none that may be asked.
    """
    try:
        return require_url(document.get(name), loopback=is_plain(issuer))
    except Misconfigured as error:
        raise Unreachable(f"{issuer} names no usable {name}: {error.detail}") from None


def ask(
    url: str,
    tls: ssl.SSLContext,
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    """GET the URL, or POST a form to it; returns the status and the JSON object it answers. Follows nothing.

    An answer other than 200 whose body is no JSON object comes back with an empty one; so does an empty body to a form
    (a revocation answers that).

    Raises:
        Unreachable: no answer in time, too large, a redirect, or a 200 that is no JSON object.
        Misconfigured: the URL may not be asked.
    """
    parts = urlsplit(require_url(url))
    where = f"{parts.scheme}://{parts.netloc}"
    body = urlencode(form).encode() if form is not None else None
    sent = {
        "Accept": "application/json",
        "User-Agent": f"modelreg/{__version__}",
        "Connection": "close",
        **(headers or {}),
    }
    if body is not None:
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    host = parts.hostname or ""
    connection = (
        http.client.HTTPConnection(host, parts.port, timeout=MAX_SECONDS)
        if is_plain(url)
        else http.client.HTTPSConnection(host, parts.port, timeout=MAX_SECONDS, context=tls)
    )
    # The socket's timeout is for one read; this one is for all of them.
    watchdog = threading.Timer(MAX_SECONDS, _cut, [connection])
    watchdog.daemon = True
    try:
        connection.connect()
        watchdog.start()
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET" if body is None else "POST", path, body, sent)
        with connection.getresponse() as response:
            status, raw = response.status, response.read(MAX_ANSWER_BYTES + 1)
            complete = response.length in {0, None}
    except (OSError, http.client.HTTPException) as error:
        # The exception's text may quote what was sent.
        raise Unreachable(f"{where} does not answer ({type(error).__name__})") from None
    finally:
        watchdog.cancel()
        connection.close()
    if len(raw) > MAX_ANSWER_BYTES:
        raise Unreachable(f"{where} answered with more than {MAX_ANSWER_BYTES} bytes")
    if 300 <= status < 400:
        raise Unreachable(
            f"{where} answered {status}, a redirect; it is not followed: configure the address it leads to"
        )
    value = _json_object(raw or b"{}" if body is not None else raw) if complete else None
    if value is None and status == http.client.OK:
        raise Unreachable(f"{where} answered with something that is not a JSON object")
    return status, value or {}


def tls_context(ca_file: Path | None, *, beside_system: bool = False) -> ssl.SSLContext:
    """TLS to a provider: its certificate is verified against `ca_file`, the system's roots, or both.

    Raises:
        Misconfigured: the file is not there or holds no PEM certificate.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None or beside_system else str(ca_file))
        if ca_file is not None and beside_system:
            context.load_verify_locations(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError is one
        raise Misconfigured(f"{ca_file} holds no TLS roots in PEM form: {error}", setting="ca_file") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _cut(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        try:
            connection.sock.shutdown(2)
        except OSError:
            return


def _json_object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"
