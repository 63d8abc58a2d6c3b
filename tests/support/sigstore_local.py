"""A whole Sigstore on loopback, for tests: OIDC issuer, Fulcio (v2), CT log, Rekor v2, TSA.

Unmodified sigstore-python, its command line and `model_signing sign|verify sigstore --trust_config` sign with it and
verify against it. Every statement is really made: tokens, requests for certificates and signatures are checked before
anything is signed, entries are in a tree, stamps are stamped. It keeps all in memory and has no witness.

    with running_sigstore(folder) as sigstore:
        token = sigstore.oidc.token(email="al@demo.example")
        sigstore.trust_config     # path of a ClientTrustConfig
        sigstore.trusted_root     # JSON text, for a trust policy
"""

import base64
import binascii
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from support.sigstore_ca import Authority, Clock, CtLog, Denied, Fulcio, OidcIssuer, b64, make_authority, spki
from support.sigstore_log import Malformed, Rekor, Tsa


@dataclass
class LocalSigstore:
    """The services and what pins them. `clock` is theirs, not the clients'."""

    url: str
    folder: Path
    clock: Clock = lambda: datetime.now(UTC)
    oidc: OidcIssuer = field(init=False)
    ct: CtLog = field(init=False)
    fulcio: Fulcio = field(init=False)
    rekor: Rekor = field(init=False)
    tsa_root: Authority = field(init=False)
    tsa: Tsa = field(init=False)

    def __post_init__(self) -> None:
        self.oidc = OidcIssuer(f"{self.url}/oidc", self.clock)
        self.ct = CtLog(self.clock)
        self.fulcio = Fulcio(self.oidc, self.ct, self.clock)
        self.rekor = Rekor("rekor.local")
        self.tsa_root = make_authority("local-tsa-root", None, self.clock())
        stamping = make_authority(
            "local-tsa", self.tsa_root, self.clock(), ca=False, purposes=[ExtendedKeyUsageOID.TIME_STAMPING]
        )
        self.tsa = Tsa(self.clock, stamping.key, stamping.certificate)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trust_config.write_text(json.dumps(self.client_trust_config(), indent=2))

    @property
    def issuer(self) -> str:
        return self.oidc.url

    @property
    def trust_config(self) -> Path:
        """A file for `--trust-config`, `--trust_config` and `--sigstore-config`."""
        return self.folder / "trust_config.json"

    @property
    def trusted_root(self) -> str:
        return json.dumps(self.trusted_root_json())

    def trusted_root_json(self) -> dict[str, Any]:
        start = self.clock() - timedelta(minutes=1)
        valid = {"start": start.strftime("%Y-%m-%dT%H:%M:%SZ")}

        def log(key: Any, details: str, log_id: bytes) -> dict[str, Any]:
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {"rawBytes": b64(spki(key)), "keyDetails": details, "validFor": valid},
                "logId": {"keyId": b64(log_id)},
            }

        def authority(name: str, chain: Any) -> dict[str, Any]:
            ders = [certificate.public_bytes(serialization.Encoding.DER) for certificate in chain]
            return {
                "subject": {"organization": "test", "commonName": name},
                "uri": self.url,
                "certChain": {"certificates": [{"rawBytes": b64(der)} for der in ders]},
                "validFor": valid,
            }

        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.rekor.key, "PKIX_ED25519", self.rekor.id)],
            "certificateAuthorities": [authority("local-fulcio", self.fulcio.chain)],
            "ctlogs": [log(self.ct.key, "PKIX_ECDSA_P256_SHA_256", self.ct.id)],
            "timestampAuthorities": [authority("local-tsa", [self.tsa.certificate, self.tsa_root.certificate])],
        }

    def client_trust_config(self) -> dict[str, Any]:
        start = (self.clock() - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

        def service(path: str, version: int) -> list[dict[str, Any]]:
            url = f"{self.url}{path}"
            return [{"url": url, "majorApiVersion": version, "validFor": {"start": start}, "operator": "test"}]

        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self.trusted_root_json(),
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": service("", 1),
                "oidcUrls": service("/oidc", 1),
                "rekorTlogUrls": service("", 2),
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": service("/tsa", 1),
                "tsaConfig": {"selector": "ANY"},
            },
        }


def make_app(sigstore: LocalSigstore) -> FastAPI:
    """The HTTP face. Endpoints are `async`, so one request is handled after the other and no tree is half appended."""
    app = FastAPI(openapi_url=None)

    @app.exception_handler(Denied)
    async def denied(_: Request, error: Denied) -> Response:
        return JSONResponse({"code": 16, "message": str(error)}, status_code=401)

    @app.exception_handler(Malformed)
    async def malformed(_: Request, error: Malformed) -> Response:
        return JSONResponse({"code": 3, "message": str(error)}, status_code=400)

    @app.get("/oidc/.well-known/openid-configuration")
    async def discovery() -> dict[str, Any]:
        return sigstore.oidc.discovery()

    @app.get("/oidc/jwks")
    async def jwks() -> dict[str, Any]:
        return sigstore.oidc.jwks()

    @app.get("/trust_config.json")
    async def trust_config() -> dict[str, Any]:
        return sigstore.client_trust_config()

    @app.post("/api/v2/signingCert")
    async def signing_certificate(request: Request) -> dict[str, Any]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Denied("no bearer token")
        try:
            request_pem = base64.b64decode((await request.json())["certificateSigningRequest"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise Denied("no certificate request") from None
        chain = sigstore.fulcio.issue(token, request_pem)
        pems = [certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in chain]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}}

    @app.post("/api/v2/log/entries", status_code=201)
    async def entries(request: Request) -> dict[str, Any]:
        return sigstore.rekor.add(await request.json())

    @app.post("/tsa")
    async def timestamp(request: Request) -> Response:
        return Response(sigstore.tsa.answer(await request.body()), media_type="application/timestamp-reply")

    return app


@contextmanager
def running_sigstore(folder: Path, **changes: Any) -> Iterator[LocalSigstore]:
    """A Sigstore of its own keys on a free loopback port, in a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    sigstore = LocalSigstore(f"http://127.0.0.1:{listener.getsockname()[1]}", folder, **changes)
    server = uvicorn.Server(uvicorn.Config(make_app(sigstore), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the Sigstore stopped while it started"
        assert time.monotonic() < deadline, "the Sigstore did not start"
        time.sleep(0.01)
    try:
        yield sigstore
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
