"""Time stamps as right or as wrong as a test asks for, by time-stamping authorities made now."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from asn1crypto import cms, tsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg import pki, timestamps
from modelreg_server import timestamping
from modelreg_server.timestamping import TimeStampingAuthority
from support import keys
from support.keys import NOW

DER = serialization.Encoding.DER
POLICY = "1.2.3.4.1"
SHA2 = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def make_tsa(issuers: keys.Chain, now: datetime = NOW, days: int = 365) -> TimeStampingAuthority:
    """As `modelreg trust issue-tsa` makes it."""
    leaf = pki.issue_tsa("tsa", issuers.intermediate, now, days)
    return TimeStampingAuthority(leaf.private_key, (leaf.certificate, issuers.intermediate.certificate), POLICY)


def odd_tsa(issuers: keys.Chain, *, critical: bool = True, purposes: Any = (ExtendedKeyUsageOID.TIME_STAMPING,), **changes: Any) -> TimeStampingAuthority:  # fmt: skip
    """A TSA whose leaf is as wrong as `keys.make_certificate` can make it."""
    extra = [(x509.ExtendedKeyUsage(list(purposes)), critical)] if purposes else []
    leaf = keys.make_certificate(
        issuers.intermediate, purposes=None, names=None, common_name="tsa", extra=extra, **changes
    )
    return TimeStampingAuthority(leaf.private_key, (leaf.certificate, issuers.intermediate.certificate), POLICY)


def digest(data: bytes, algorithm: str = "sha256") -> bytes:
    hashing = hashes.Hash(SHA2.get(algorithm, hashes.SHA1()))
    hashing.update(data)
    return hashing.finalize()


def stamp(
    tsa: TimeStampingAuthority,
    signature: bytes,
    at: datetime = NOW,
    *,
    algorithm: str = "sha256",
    imprint: bytes | None = None,
    accuracy: Any = ("seconds", 1),
    **info: Any,
) -> bytes:
    """A reply that skips every check the authority makes; `info` are members of `TSTInfo`."""
    members = {
        "version": "v1",
        "policy": tsa.policy,
        "message_imprint": {
            "hash_algorithm": {"algorithm": algorithm},
            "hashed_message": digest(signature, algorithm) if imprint is None else imprint,
        },
        "serial_number": 1,
        "gen_time": at,
        **({"accuracy": dict([accuracy])} if accuracy else {}),
        **info,
    }
    signed = timestamping._signed(tsa, tsp.TSTInfo(members), True)
    return response(signed)


def response(signed: cms.SignedData, status: str = "granted") -> bytes:
    token = cms.ContentInfo({"content_type": "signed_data", "content": signed})
    return tsp.TimeStampResp({"status": {"status": status}, "time_stamp_token": token}).dump()


def changed(raw: bytes, change: Any) -> bytes:
    """A reply after a change to its SignedData, signed by nobody anew."""
    reply = tsp.TimeStampResp.load(raw)
    signed = reply["time_stamp_token"]["content"].copy()
    change(signed)
    return response(signed)


def answered(tsa: TimeStampingAuthority, signature: bytes, at: datetime = NOW) -> bytes:
    """A reply through the front door."""
    return timestamping.reply(tsa, timestamps.query(signature).as_bytes(), at)


def days(count: float) -> timedelta:
    return timedelta(days=count)


class OpensslTsa:
    """`openssl ts -reply` as a time-stamping authority with an RSA chain of its own, also over HTTP."""

    def __init__(self, openssl: Callable[..., str], folder: Path) -> None:
        self._openssl, self._folder = openssl, folder
        now = self.now()
        root = keys.make_certificate(
            None, key=keys.rsa_key(), ca=True, digital_signature=False, purposes=None, names=None,
            common_name="openssl root", start=now - days(1), end=now + days(9),
        )  # fmt: skip
        extra = [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), True)]
        leaf = keys.make_certificate(
            root, key=keys.rsa_key(), purposes=None, names=None, common_name="openssl tsa", extra=extra,
            start=now - days(1), end=now + days(9),
        )  # fmt: skip
        self.root: x509.Certificate = root.certificate
        self.root_pem = keys.certificate_pem(root.certificate)
        (folder / "tsa.crt").write_bytes(pki.certificate_pem(leaf.certificate))
        (folder / "tsa.key").write_bytes(pki.private_pem(leaf.private_key))
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(
            f"[tsa]\ndefault_tsa = t\n[t]\ndir = {folder}\nserial = {folder}/serial\nsigner_cert = {folder}/tsa.crt\n"
            f"signer_key = {folder}/tsa.key\nsigner_digest = sha256\ndefault_policy = 1.2.3.4.1\n"
            "digests = sha256, sha512\naccuracy = millisecs:500\ness_cert_id_alg = sha256\n"
        )

    def now(self) -> datetime:
        return datetime.now(UTC)

    def reply(self, raw_query: bytes) -> bytes:
        query, reply = self._folder / "query.tsq", self._folder / "reply.tsr"
        query.write_bytes(raw_query)
        self._openssl("ts", "-reply", "-config", self._folder / "tsa.cnf", "-queryfile", query, "-out", reply)
        return reply.read_bytes()

    @contextmanager
    def serving(self, change: Callable[[bytes], bytes] = lambda raw: raw, status: int = 200) -> Iterator[str]:
        """Its URL; `change` is what an attacker on the way makes of the answers."""
        tsa = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert "authorization" not in self.headers
                body = change(tsa.reply(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(status)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/tsa"
            finally:
                server.shutdown()
                thread.join()
