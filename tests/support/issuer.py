"""An issuer of our own on loopback: discovery, keys, and tokens as hostile as a test wants them.

The standards-conforming provider is `support.oidc`; this one does what no honest provider would.
"""

import base64
import contextlib
import json
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "https://models.test"
REMOVED = object()  # a claim or header member to leave out
Answer = tuple[int, dict[str, str], bytes]


class LoopbackIssuer:
    """`answers[path]` replaces what a path answers; `asked` counts; `stop` and `start` keep the port."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.keys: dict[str, Any] = {
            "rsa-1": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ec-1": ec.generate_private_key(ec.SECP256R1()),
        }
        self.published = ["rsa-1", "ec-1"]
        self.answers: dict[str, Callable[[], Answer]] = {}
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, dict[str, str]] = {}
        self._port = 0
        self._tls = tls
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    def start(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked[self.path] += 1
                issuer.headers[self.path] = dict(self.headers)
                status, headers, body = issuer.answer(self.path)
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(body)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"] or 0))
                self.do_GET()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]  # a client that hangs up
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str) -> Answer:
        if path in self.answers:
            return self.answers[path]()
        if path == "/.well-known/openid-configuration":
            return as_json({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"})
        if path == "/jwks":
            return as_json({"keys": [self.jwk(kid) for kid in self.published]})
        return 404, {}, b""

    def jwk(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid]
        algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
        return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}

    def claims(self, **claims: Any) -> dict[str, Any]:
        now = int(time.time())
        made = {"iss": self.url, "aud": AUDIENCE, "sub": "repo:acme/train", "iat": now, "exp": now + 300,
                "jti": uuid.uuid4().hex, **claims}  # fmt: skip
        return {name: value for name, value in made.items() if value is not REMOVED}

    def token(
        self, kid: str = "rsa-1", alg: str | None = None, headers: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token; claims as given on top of good ones."""
        key = self.keys[kid]
        alg = alg or ("RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256")
        return jwt.encode(self.claims(**claims), key, algorithm=alg, headers={"kid": kid, **(headers or {})})


def as_json(value: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@contextlib.contextmanager
def loopback_issuer(tls: ssl.SSLContext | None = None) -> Iterator[LoopbackIssuer]:
    issuer = LoopbackIssuer(tls)
    try:
        yield issuer
    finally:
        issuer.stop()
