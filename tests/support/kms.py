"""A KMS for tests, over HTTP on loopback: the AWS JSON 1.1 protocol of `GetPublicKey` and `Sign`, with real ECDSA.

Ours, because no KMS server that signs a digest as it is comes from a package registry and starts in a moment (moto 5.2
hashes the digest once more and fits `Quirk.HASHES_AGAIN`; LocalStack signs right, but weighs 200 MB). `MODELREG_TEST_KMS`
names the endpoint of another one, such as LocalStack, with credentials where boto3 looks for them; the contract suite
then runs against that.
"""

import base64
import contextlib
import enum
import json
import os
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from modelreg.signing import HASH_OF_CURVE
from support import keys

SETTING = "MODELREG_TEST_KMS"
REGION, ACCOUNT = "eu-central-1", "000000000000"
ACCESS_KEY, SECRET_KEY = "AKIATESTONLY", "only-for-tests"
SPECS = {"p256": "ECC_NIST_P256", "p384": "ECC_NIST_P384", "p521": "ECC_NIST_P521"}
_ALGORITHMS = {"secp256r1": "ECDSA_SHA_256", "secp384r1": "ECDSA_SHA_384", "secp521r1": "ECDSA_SHA_512"}


class Quirk(enum.Enum):
    """How a key of this KMS misbehaves."""

    HASHES_AGAIN = "signs the digest of the digest"
    SILENT = "never answers"
    GARBAGE = "answers with something else than JSON"
    EMPTY = "answers with an empty object"


@dataclass
class Key:
    private_key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    usage: str = "SIGN_VERIFY"
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)  # operation → status and error code
    quirks: dict[str, Quirk] = field(default_factory=dict)  # operation → what it does instead


class KmsServer:
    """Keys, aliases, and what was asked (`operations`)."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.aliases: dict[str, str] = {}
        self.operations: list[tuple[str, dict]] = []
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer; in two, the second waits 40 ms for an acknowledgement

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                status, body = server._answer(self.headers, raw)
                with contextlib.suppress(OSError):  # whoever waited long enough is gone
                    self.send_response(status)
                    self.send_header("Content-Type", "application/x-amz-json-1.1")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    def make_key(self, curve: str = "p256", **more) -> str:
        """A key's ARN."""
        private_key = more.pop("private_key", None) or ec.generate_private_key(keys.CURVES.get(curve) or curve)
        arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{uuid.uuid4()}"
        self.keys[arn] = Key(private_key, **more)
        return arn

    def uri(self, key: str) -> str:
        return f"awskms:///{key}?region={REGION}&endpoint={self.endpoint}"

    def _answer(self, headers, raw: bytes) -> tuple[int, bytes]:
        operation = headers["X-Amz-Target"].removeprefix("TrentService.")
        scope = re.search(r"Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request", headers["Authorization"])
        if scope is None or scope.groups() != (ACCESS_KEY, REGION, "kms"):
            return _error(400, "UnrecognizedClientException")
        asked = json.loads(raw)
        self.operations.append((operation, asked))
        arn = self.aliases.get(asked["KeyId"], asked["KeyId"])
        arn = arn if arn.startswith("arn:") else f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{arn}"
        key = self.keys.get(arn)
        if key is None:
            return _error(400, "NotFoundException")
        if operation in key.refusals:
            return _error(*key.refusals[operation])
        match key.quirks.get(operation):
            case Quirk.SILENT:
                self.released.wait(60)
                return 500, b""
            case Quirk.GARBAGE:
                return 200, b"<html>"
            case Quirk.EMPTY:
                return 200, b"{}"
        return getattr(self, f"_{operation}", lambda *_: _error(400, "UnknownOperationException"))(arn, key, asked)

    def _GetPublicKey(self, arn: str, key: Key, _asked: dict) -> tuple[int, bytes]:
        der = key.private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return _json({"KeyId": arn, "PublicKey": _b64(der), "KeyUsage": key.usage})

    def _Sign(self, arn: str, key: Key, asked: dict) -> tuple[int, bytes]:
        curve = key.private_key.curve.name
        digest, algorithm = base64.b64decode(asked["Message"]), HASH_OF_CURVE[curve]
        if asked["SigningAlgorithm"] != _ALGORITHMS[curve] or asked.get("MessageType") != "DIGEST":
            return _error(400, "InvalidKeyUsageException")
        if len(digest) != algorithm.digest_size:
            return _error(400, "ValidationException")
        method = algorithm if key.quirks.get("Sign") == Quirk.HASHES_AGAIN else Prehashed(algorithm)
        signature = key.private_key.sign(digest, ec.ECDSA(method))
        return _json({"KeyId": arn, "Signature": _b64(signature), "SigningAlgorithm": asked["SigningAlgorithm"]})


class GivenKms:
    """Another KMS: keys are made with its own API."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def make_key(self, curve: str = "p256") -> str:
        import boto3

        client = boto3.client("kms", endpoint_url=self.endpoint, region_name=REGION)
        return client.create_key(KeySpec=SPECS[curve], KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]

    def uri(self, key: str) -> str:
        return f"awskms:///{key}?region={REGION}&endpoint={self.endpoint}"


@contextlib.contextmanager
def own_kms() -> Iterator[KmsServer]:
    server = KmsServer()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def kms_server() -> Iterator[KmsServer | GivenKms]:
    """The given KMS, or one of our own."""
    if given := os.environ.get(SETTING):
        yield GivenKms(given)
        return
    with own_kms() as server:
        yield server


def credentials() -> dict[str, str]:
    """The environment in which boto3 finds our server's credentials and nobody's profile."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(value: dict) -> tuple[int, bytes]:
    return 200, json.dumps(value).encode()


def _error(status: int, code: str) -> tuple[int, bytes]:
    return status, json.dumps({"__type": code, "message": "as the test asked"}).encode()
