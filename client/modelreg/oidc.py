"""Logging a person in at an OIDC provider, as a public client: authorization code with PKCE, or the device flow.

The id token is for the registry, which verifies it; here it is only read, received from the issuer itself over TLS
(OpenID Connect Core 1.0 §3.1.3.7 rule 6): that it answers *this* login (nonce), for this client, of this subject.
Secrets (codes, verifiers, refresh tokens) go to the provider's own endpoints, and never into a message.
"""

import base64
import hashlib
import hmac
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from modelreg import providers
from modelreg.errors import Misconfigured, Unauthenticated, Unreachable, Untrusted

BROWSER_SECONDS = 300.0
MAX_DEVICE_SECONDS = 1800.0
MAX_TOKEN_CHARS = 16 * 1024
_CALLBACK = "/callback"
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_DONE = b"You can close this window and go back to the terminal.\n"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Provider:
    """A provider and the client we are there."""

    issuer: str
    client_id: str
    scopes: tuple[str, ...]
    document: dict[str, Any]
    tls: ssl.SSLContext

    def endpoint(self, name: str) -> str:
        """An endpoint of the discovery document."""
        return providers.endpoint(self.document, name, self.issuer)


@dataclass(frozen=True)
class Tokens:
    """What the provider gave; `repr` shows no secret."""

    id_token: str
    refresh_token: str | None
    subject: str

    def __repr__(self) -> str:
        return f"Tokens(subject={self.subject!r})"


def open_provider(issuer: str, client_id: str, scopes: tuple[str, ...], tls: ssl.SSLContext) -> Provider:
    """Read the provider's discovery document.

    Raises:
        Unreachable: there is none, or it names another issuer.
    """
    return Provider(issuer, client_id, scopes, providers.discover(issuer, tls), tls)


def by_browser(provider: Provider, say: Say, open_browser: Callable[[str], object] | None) -> Tokens:
    """Authorization code with PKCE (RFC 7636 S256) and a redirect to a loopback port of ours (RFC 8252 §7.3).

    Raises:
        Unauthenticated: refused at the provider, or nobody came in time.
        Untrusted: what came back does not belong to this login.
        Unreachable: the provider does not answer.
    """
    methods = provider.document.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" not in methods:
        raise Misconfigured(f"{provider.issuer} does not know PKCE with S256; use --device, or another provider")
    verifier, state, nonce = secrets.token_urlsafe(64), secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    with _Listener(state) as listener:
        redirect = f"http://127.0.0.1:{listener.port}{_CALLBACK}"
        query = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": redirect,
            "scope": " ".join(provider.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **_consent(provider),
        }
        endpoint = provider.endpoint("authorization_endpoint")
        url = endpoint + ("&" if urlsplit(endpoint).query else "?") + urlencode(query)
        say(f"Log in with your browser:\n  {url}")
        if open_browser is not None:
            open_browser(url)
        answer = listener.wait(BROWSER_SECONDS)
    _require_issuer(provider, answer)
    if "error" in answer:
        raise Unauthenticated(f"{provider.issuer} did not log you in: {answer['error'][:200]!r}")
    form = {
        "grant_type": "authorization_code",
        "code": answer.get("code", ""),
        "redirect_uri": redirect,
        "client_id": provider.client_id,
        "code_verifier": verifier,
    }
    return _tokens(provider, form, nonce=nonce)


def by_device(provider: Provider, say: Say, sleep: Callable[[float], None] = time.sleep) -> Tokens:
    """Device authorization grant (RFC 8628): the user types a code into a browser anywhere.

    Raises:
        Unauthenticated: refused at the provider, or nobody came in time.
        Unreachable: the provider does not answer.
    """
    endpoint = provider.endpoint("device_authorization_endpoint")
    form = {"client_id": provider.client_id, "scope": " ".join(provider.scopes), **_consent(provider)}
    status, answer = providers.ask(endpoint, provider.tls, form=form)
    device_code, user_code = answer.get("device_code"), answer.get("user_code")
    if status != 200 or not isinstance(device_code, str) or not isinstance(user_code, str):
        raise Unauthenticated(f"{provider.issuer} does not begin a device login ({_error(answer, status)})")
    address = providers.endpoint(answer, "verification_uri", provider.issuer)
    say(f"Log in at {address} with the code {user_code[:100]}")
    interval = _seconds(answer.get("interval"), 5.0)
    left = min(_seconds(answer.get("expires_in"), MAX_DEVICE_SECONDS), MAX_DEVICE_SECONDS)
    form = {"grant_type": _DEVICE_GRANT, "device_code": device_code, "client_id": provider.client_id}
    while left > 0:
        sleep(interval)
        left -= interval
        status, answer = providers.ask(provider.endpoint("token_endpoint"), provider.tls, form=form)
        match answer.get("error"):
            case "authorization_pending":
                continue
            case "slow_down":
                interval += 5
            case _:
                return _tokens_of(provider, status, answer, nonce=None)
    raise Unauthenticated("nobody logged in with the code in time; run `modelreg login --device` again")


def refresh(provider: Provider, refresh_token: str, subject: str | None) -> Tokens:
    """A new id token, without the user; the provider may give a new refresh token, and the old one ends then.

    Raises:
        Unauthenticated: the provider has ended the login.
        Untrusted: the new id token is somebody else's.
    """
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": provider.client_id}
    tokens = _tokens(provider, form, nonce=None)
    if subject is not None and tokens.subject != subject:
        raise Untrusted(f"{provider.issuer} gave an id token of another subject than the one who logged in")
    return tokens


def revoke(provider: Provider, refresh_token: str) -> bool:
    """End a refresh token at the provider (RFC 7009); returns whether the provider can and did."""
    if "revocation_endpoint" not in provider.document:
        return False
    form = {"token": refresh_token, "token_type_hint": "refresh_token", "client_id": provider.client_id}
    status, _answer = providers.ask(provider.endpoint("revocation_endpoint"), provider.tls, form=form)
    return status == 200


def _consent(provider: Provider) -> dict[str, str]:
    # OpenID Connect Core §11: without consent the provider ignores offline_access.
    return {"prompt": "consent"} if "offline_access" in provider.scopes else {}


def _require_issuer(provider: Provider, answer: dict[str, str]) -> None:
    """RFC 9207: an answer that another provider caused is not for the code exchange of this one."""
    promised = provider.document.get("authorization_response_iss_parameter_supported") is True
    if answer.get("iss", None if promised else provider.issuer) != provider.issuer:
        raise Untrusted(f"the answer to the login does not come from {provider.issuer}")


def _tokens(provider: Provider, form: dict[str, str], *, nonce: str | None) -> Tokens:
    status, answer = providers.ask(provider.endpoint("token_endpoint"), provider.tls, form=form)
    return _tokens_of(provider, status, answer, nonce=nonce)


def _tokens_of(provider: Provider, status: int, answer: dict[str, Any], *, nonce: str | None) -> Tokens:
    if status >= 500:
        raise Unreachable(f"{provider.issuer} cannot log you in now (answer {status}); try again later")
    if status != 200:
        raise Unauthenticated(f"{provider.issuer} refused the login ({_error(answer, status)}); run `modelreg login`")
    id_token, refresh_token = answer.get("id_token"), answer.get("refresh_token")
    if not isinstance(id_token, str) or len(id_token) > MAX_TOKEN_CHARS:
        raise Unauthenticated(f"{provider.issuer} gave no id token; the registry's scopes for it need openid")
    if refresh_token is not None and not isinstance(refresh_token, str):
        raise Unreachable(f"{provider.issuer} gave a refresh token that is no text")
    claims = _claims(provider, id_token)
    if claims.get("iss") != provider.issuer or claims.get("aud") not in (provider.client_id, [provider.client_id]):
        raise Untrusted(f"the id token of {provider.issuer} is of another issuer, or for another client")
    if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise Untrusted(f"the id token of {provider.issuer} does not belong to this login (nonce)")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise Untrusted(f"the id token of {provider.issuer} has no subject")
    return Tokens(id_token, refresh_token, subject)


def _claims(provider: Provider, id_token: str) -> dict[str, Any]:
    try:
        _header, payload, _signature = id_token.split(".")
        claims = json.loads(base64.b64decode(payload + "=" * (-len(payload) % 4), altchars="-_", validate=True))
        if not isinstance(claims, dict):
            raise TypeError(claims)
    except (ValueError, TypeError, RecursionError):
        raise Untrusted(f"{provider.issuer} gave an id token that is no JWT") from None
    return claims


def _error(answer: dict[str, Any], status: int) -> str:
    """The provider's word for it; its description may hold anything, so it is not shown."""
    word = answer.get("error")
    known = isinstance(word, str) and len(word) <= 60 and word.isascii() and word.replace("_", "").isalnum()
    return str(word) if known else f"answer {status}"


def _seconds(value: object, default: float) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6
    return max(1.0, float(str(value))) if good else default


class _Listener:
    """One port on 127.0.0.1 that waits for the one redirect with our state; everything else is told 404."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._answered = threading.Event()
        self._answer: dict[str, str] = {}
        listener = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # a browser opens connections ahead that it may never use

            def do_GET(self) -> None:
                known = listener._accept(self.path)
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Referrer-Policy", "no-referrer")
                self.send_header("Cache-Control", "no-store")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(_DONE if known else b"")

            def log_message(self, *_arguments: object) -> None:
                """Say nothing: the path holds the code."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seconds: float) -> dict[str, str]:
        """The redirect's parameters."""
        if not self._answered.wait(seconds):
            raise Unauthenticated(
                "nobody logged in in time; run `modelreg login` again, with --device if there is no browser"
            )
        return self._answer

    def _accept(self, untrusted_path: str) -> bool:
        parts = urlsplit(untrusted_path)
        try:
            found = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True, max_num_fields=20)
        except ValueError:
            return False
        if parts.path != _CALLBACK or any(len(values) != 1 for values in found.values()):
            return False
        answer = {name: values[0] for name, values in found.items()}
        if not hmac.compare_digest(answer.get("state", "").encode(), self._state.encode()) or self._answered.is_set():
            return False
        self._answer = answer
        self._answered.set()
        return True
