"""Which machine sends a request: HTTP message signatures (RFC 9421) in one fixed profile, for both ends. Pure.

    Signature-Input: host=("@method" "@authority" "@path" "@query" "authorization" "content-digest")
                     ;created=…;keyid="sha256:…";alg="ed25519";nonce="…";tag="modelreg-host"      (on one line)
    Signature:       host=:…:

`authorization` is covered when the request has one, `content-digest` (RFC 9530, sha-256) when it has a JSON body; the
parameters stand in this order. Anything else is refused, not understood. There is no `@scheme` and no `@target-uri`: a
proxy that terminates TLS changes them; `@authority` and `@path` are those of the address the client was given.
`keyid` is the SHA-256 of the public key's DER SubjectPublicKeyInfo.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from modelreg.errors import Unauthenticated

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

WINDOW_SECONDS = 60
_DEFAULT_PORTS = {"http": 80, "https": 443}
_INPUT = re.compile(
    r'host=\((?P<components>[a-z@"\- ]{1,100})\);created=(?P<created>[0-9]{1,11});keyid="(?P<key_id>sha256:[0-9a-f]{64})"'
    r';alg="ed25519";nonce="(?P<nonce>[A-Za-z0-9_-]{22,64})";tag="modelreg-host"',
    re.ASCII,
)
_SIGNATURE = re.compile(r"host=:(?P<value>[A-Za-z0-9+/]{86}==):", re.ASCII)
_REFUSAL = (
    "the host signature does not hold: malformed, of an unknown or revoked host, over another request, used before, or "
    f"made more than {WINDOW_SECONDS} s from the registry's time; check this machine's clock, and if its host was revoked "
    "`modelreg host enroll --replace`"
)


@dataclass(frozen=True)
class Message:
    """The parts of a request that a signature covers, as they are sent. `query` has no `?`; `path` is percent-encoded."""

    method: str
    authority: str
    path: str
    query: str
    authorization: str | None
    content_digest: str | None


@dataclass(frozen=True)
class HostSignature:
    """A parsed signature: what it says of itself. Nothing here is verified."""

    components: str
    created: int
    key_id: str
    nonce: str
    value: bytes


def refusal() -> Unauthenticated:
    """The one answer to every signature that does not hold: why is not told."""
    return Unauthenticated(_REFUSAL)


def message_to(method: str, url: str, authorization: str | None, content_digest: str | None) -> Message:
    """The message a client is about to send to an absolute URL."""
    parts = urlsplit(url)
    return Message(method, authority_of(url), parts.path or "/", parts.query, authorization, content_digest)


def authority_of(url: str) -> str:
    """Host and port of a URL as RFC 9421 wants them: lower case, the scheme's own port left out."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f"{host}:{parts.port}"


def content_digest(body: bytes) -> str:
    """The `Content-Digest` of a body (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def key_id(public_key: "Ed25519PublicKey") -> str:
    """The name of a host key: `sha256:` of its DER SubjectPublicKeyInfo."""
    return f"sha256:{hashlib.sha256(public_der(public_key)).hexdigest()}"


def public_der(public_key: "Ed25519PublicKey") -> bytes:
    """DER SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415  # not for `--help`

    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(message: Message, key: "Ed25519PrivateKey", now: datetime, nonce: str) -> dict[str, str]:
    """The headers that say which host sends the message. `nonce` is 22 to 64 letters, digits, `_`, `-`; never twice."""
    unsigned = HostSignature(_components(message), int(now.timestamp()), key_id(key.public_key()), nonce, b"")
    value = base64.b64encode(key.sign(_base(message, unsigned))).decode()
    return {"Signature-Input": f"host={_parameters(unsigned)}", "Signature": f"host=:{value}:"}


def parse(untrusted_input: str, untrusted_signature: str) -> HostSignature:
    """Read the two headers.

    Raises:
        Unauthenticated: they are not of this profile.
    """
    found, value = _INPUT.fullmatch(untrusted_input), _SIGNATURE.fullmatch(untrusted_signature)
    if found is None or value is None:
        raise refusal()
    return HostSignature(
        found["components"], int(found["created"]), found["key_id"], found["nonce"], base64.b64decode(value["value"])
    )


def verify(signature: HostSignature, message: Message, public_key: "Ed25519PublicKey", now: datetime) -> None:
    """Hold a parsed signature against the message as it arrived; the body is the caller's to compare with its digest.

    Raises:
        Unauthenticated: another key, message or time; covers too little.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # not for `--help`

    if (
        signature.components != _components(message)
        or signature.key_id != key_id(public_key)
        or abs(now.timestamp() - signature.created) > WINDOW_SECONDS
    ):
        raise refusal()
    try:
        public_key.verify(signature.value, _base(message, signature))
    except InvalidSignature:
        raise refusal() from None


def _components(message: Message) -> str:
    names = ["@method", "@authority", "@path", "@query"]
    names += ["authorization"] if message.authorization is not None else []
    names += ["content-digest"] if message.content_digest is not None else []
    return " ".join(f'"{name}"' for name in names)


def _parameters(signature: HostSignature) -> str:
    return (
        f'({signature.components});created={signature.created};keyid="{signature.key_id}";alg="ed25519"'
        f';nonce="{signature.nonce}";tag="modelreg-host"'
    )


def _base(message: Message, signature: HostSignature) -> bytes:
    """The signature base (RFC 9421 §2.5): the one function that both ends share."""
    lines = [
        f'"@method": {message.method}',
        f'"@authority": {message.authority}',
        f'"@path": {message.path}',
        f'"@query": ?{message.query}',
    ]
    if message.authorization is not None:
        lines.append(f'"authorization": {message.authorization}')
    if message.content_digest is not None:
        lines.append(f'"content-digest": {message.content_digest}')
    lines.append(f'"@signature-params": {_parameters(signature)}')
    return "\n".join(lines).encode("latin-1")
