"""Names of signing keys that live outside this machine's files: in a PKCS#11 token or in a KMS.

    pkcs11:token=release;object=signer;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/secrets/pin
    awskms:///alias/model-signer?region=eu-central-1&endpoint=https://kms.internal.example

A URI lands in shell histories, process lists and configuration files, so no secret may stand in one. No IO in here.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from modelreg.errors import Misconfigured

PKCS11_SCHEME = "pkcs11"
KMS_SCHEME = "awskms"
MAX_URI_CHARACTERS = 2048

# RFC 7512 section 2.3: what may stand in a value of the path and of the query; all else is percent-encoded.
_PERCENT = r"%[0-9A-Fa-f]{2}"
_PATH_VALUE = re.compile(rf"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|{_PERCENT})+")
_QUERY_VALUE = re.compile(rf"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|{_PERCENT})+")
_PATH_NAMES = frozenset({"token", "serial", "object", "id", "type"})
_QUERY_NAMES = frozenset({"module-path", "pin-source"})

_KMS_KEY = re.compile(
    r"(?:arn:aws[a-z-]*:kms:([a-z0-9-]+):\d{12}:)?alias/[A-Za-z0-9/_-]{1,256}|"
    r"(?:arn:aws[a-z-]*:kms:([a-z0-9-]+):\d{12}:key/)?[A-Za-z0-9-]{1,256}"
)
_REGION = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True)
class Pkcs11Uri:
    """One private key in one token, as RFC 7512 names it. `text` is what was typed; it holds no secret."""

    text: str
    module_path: Path
    token: str | None
    serial: str | None
    object: str | None
    id: bytes | None
    pin_source: Path | None

    def __str__(self) -> str:
        """What was typed."""
        return self.text


@dataclass(frozen=True)
class KmsUri:
    """One key of an AWS-compatible KMS: a key id, `alias/…` or an ARN."""

    text: str
    key: str
    region: str | None
    endpoint: str | None

    def __str__(self) -> str:
        """What was typed."""
        return self.text


KeySource = Path | Pkcs11Uri | KmsUri


def parse(text: str) -> KeySource:
    """Read what `--key` names; anything that is no `pkcs11:` or `awskms:` URI is a file.

    Raises:
        Misconfigured: a URI with an attribute that is unknown, doubled, malformed or a secret; no value is repeated.
    """
    scheme, colon, _ = text.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in {PKCS11_SCHEME, KMS_SCHEME}:
        return Path(text).expanduser()
    if len(text) > MAX_URI_CHARACTERS:
        raise _wrong(scheme, f"has {len(text)} characters; the limit is {MAX_URI_CHARACTERS}")
    return _pkcs11(text) if scheme == PKCS11_SCHEME else _kms(text)


def _pkcs11(text: str) -> Pkcs11Uri:
    path, _, query = text.partition(":")[2].partition("?")
    named = _attributes(path, ";", _PATH_NAMES, _PATH_VALUE)
    asked = _attributes(query, "&", _QUERY_NAMES, _QUERY_VALUE)
    if named.pop("type", b"private") != b"private":
        raise _wrong(PKCS11_SCHEME, "has another type than `private`, and only a private key signs")
    if not named.keys() & {"token", "serial"}:
        # The PIN goes to this token, so it is never looked for in all of them.
        raise _wrong(PKCS11_SCHEME, "names no token; add token=LABEL or serial=NUMBER")
    if not named.keys() & {"object", "id"}:
        raise _wrong(PKCS11_SCHEME, "names no key; add object=LABEL or id=%..")
    if "module-path" not in asked:
        raise _wrong(PKCS11_SCHEME, "names no PKCS#11 library; add ?module-path=/…/lib….so")
    texts = {name: _text(name, value) for name, value in {**named, **asked}.items() if name != "id"}
    pin_source = texts.get("pin-source")
    return Pkcs11Uri(
        text=text,
        module_path=_absolute("module-path", texts["module-path"]),
        token=texts.get("token"),
        serial=texts.get("serial"),
        object=texts.get("object"),
        id=named.get("id"),
        pin_source=None if pin_source is None else _absolute("pin-source", pin_source.removeprefix("file:")),
    )


def _attributes(untrusted: str, separator: str, known: frozenset[str], value_form: re.Pattern[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in untrusted.split(separator) if untrusted else []:
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise _wrong(
                PKCS11_SCHEME,
                "holds a PIN (pin-value), and a URI lands in histories and process lists; take it out, change the PIN, "
                "and use pin-source=/path/of/a/file or MODELREG_PKCS11_PIN",
            )
        if name not in known:
            # Not repeated: a typing slip may put the PIN here.
            raise _wrong(PKCS11_SCHEME, f"has an attribute that is none of {', '.join(sorted(known))}")
        if name in found:
            raise _wrong(PKCS11_SCHEME, f"has {name} twice")
        if not equals or not value_form.fullmatch(value):
            raise _wrong(PKCS11_SCHEME, f"has an empty {name}, or one with characters that must be percent-encoded")
        found[name] = unquote_to_bytes(value)
    return found


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _wrong(PKCS11_SCHEME, f"has a {name} that is not UTF-8") from None
    if not text.isprintable():
        raise _wrong(PKCS11_SCHEME, f"has a {name} with control characters")
    return text


def _absolute(name: str, text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():  # which also refuses RFC 7512's `|program`
        raise _wrong(PKCS11_SCHEME, f"has a {name} that is not an absolute path of a file")
    return path


def _kms(text: str) -> KmsUri:
    parts = urlsplit(text)
    if parts.netloc or not parts.path.startswith("/") or parts.fragment or not text.isascii():
        raise _wrong(KMS_SCHEME, "is not awskms:///KEY?region=…; KEY is a key id, alias/NAME or an ARN")
    key = _KMS_KEY.fullmatch(parts.path[1:])
    if key is None:
        raise _wrong(KMS_SCHEME, "names no key; write awskms:///KEY with a key id, alias/NAME or an ARN")
    asked: dict[str, str] = {}
    for part in parts.query.split("&") if parts.query else []:
        name, _, value = part.partition("=")
        if name not in {"region", "endpoint"} or name in asked:
            raise _wrong(KMS_SCHEME, "has something else behind the `?` than one region and one endpoint")
        asked[name] = value
    arn_region: str | None = key[1] or key[2]
    region = asked.get("region", arn_region)
    if region is not None and (not _REGION.fullmatch(region) or arn_region not in {None, region}):
        raise _wrong(KMS_SCHEME, "has a region that is none, or not the ARN's")
    return KmsUri(text, key[0], region, _endpoint(asked.get("endpoint")))


def _endpoint(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise _wrong(KMS_SCHEME, "has an endpoint that is no address") from None
    plain = re.fullmatch(r"https?://[A-Za-z0-9.\-:\[\]]+/?", value)
    if not plain or not parts.hostname or (parts.scheme == "http" and not _is_loopback(parts.hostname)):
        raise _wrong(KMS_SCHEME, "has an endpoint that is not https://host[:port] (plain http is for loopback only)")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(scheme: str, what: str) -> Misconfigured:
    return Misconfigured(f"the {scheme}: URI of the key {what} (docs/how-to/keys.md)", setting="key")
