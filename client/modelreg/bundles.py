"""The container of a signature: Sigstore bundle v0.3 around one DSSE envelope (no trust in here, only shape).

Sources: sigstore protobuf-specs `sigstore_bundle.proto` (JSON form), DSSE v1.0.0, OMS v1.0 §4. Stricter than the
reference where it is lax: one signature, one kind of verification material, no unknown member where the OMS schema
forbids it. `tlogEntries` and `timestampVerificationData` may be in any bundle; nothing in them is believed here: the
entries are passed on as they are, the RFC 3161 time stamps as bytes.
"""

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from modelreg.canonical import strict_json
from modelreg.errors import SignatureInvalid

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BUNDLE_BYTES = 64 * 1024 * 1024  # 100,000 files at about 350 bytes each, in base64
MAX_CERTIFICATES = 8
MAX_TIMESTAMPS = 8
MAX_TIMESTAMP_BYTES = 64 * 1024  # one with its chain has 2 to 8 KiB
MAX_BUNDLE_VALUES = 10_000  # base64 has no comma or bracket; a Sigstore bundle with log proof and timestamp has 100

MaterialKind = Literal["publicKey", "x509CertificateChain", "certificate"]
_KINDS: tuple[MaterialKind, ...] = ("publicKey", "x509CertificateChain", "certificate")


@dataclass(frozen=True)
class Bundle:
    """A parsed, still untrusted bundle.

    `hint` and `raw_key` are what the bundle says of a public key, `certificates` DER, leaf first; `payload` are the
    exact bytes that were signed; `timestamps` DER `TimeStampResp`, each said to be over `signature`; `log_entries` the
    JSON values of `tlogEntries`.
    """

    kind: MaterialKind
    payload: bytes
    signature: bytes
    hint: str | None = None
    raw_key: bytes | None = None
    certificates: tuple[bytes, ...] = ()
    timestamps: tuple[bytes, ...] = ()
    log_entries: tuple[Any, ...] = field(default=(), compare=False)


def pae(payload: bytes) -> bytes:
    """DSSE pre-authentication encoding of an in-toto payload: what a signature is over."""
    return b"DSSEv1 %d %s %d " % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload)) + payload


def parse(raw: bytes) -> Bundle:
    """Read untrusted bundle bytes.

    Raises:
        SignatureInvalid: not a bundle of exactly one in-toto envelope with exactly one signature.
    """
    if len(raw) > MAX_BUNDLE_BYTES:
        raise SignatureInvalid(f"the bundle has {len(raw)} bytes; the limit is {MAX_BUNDLE_BYTES}")
    # 64 MiB of empty objects would take gigabytes once parsed, before anything is known of who sent them.
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MAX_BUNDLE_VALUES:
        raise SignatureInvalid(f"the bundle has more than {MAX_BUNDLE_VALUES} values")
    try:
        document = strict_json(raw)
    except ValueError as error:
        raise SignatureInvalid(f"the bundle is not JSON: {error}") from None
    members = _object(document, "bundle", {"mediaType", "verificationMaterial", "dsseEnvelope"}, set())
    if members["mediaType"] != MEDIA_TYPE:
        raise SignatureInvalid(f"bundle media type is {ascii(members['mediaType'])[:120]}, not {MEDIA_TYPE}")
    payload, signature = _envelope(members["dsseEnvelope"])
    return _material(members["verificationMaterial"], payload, signature)


def serialise(bundle: Bundle) -> bytes:
    """Write a bundle as every OMS verifier reads it; 1.x readers want to see `tlogEntries`, though empty."""
    if bundle.kind == "publicKey":
        material: dict[str, Any] = {"publicKey": {"hint": bundle.hint}}
    else:
        certificates = [{"rawBytes": _encode(der)} for der in bundle.certificates]
        chain = {"certificates": certificates}
        material = {bundle.kind: certificates[0] if bundle.kind == "certificate" else chain}
    if bundle.timestamps:
        stamps = [{"signedTimestamp": _encode(stamp)} for stamp in bundle.timestamps]
        material["timestampVerificationData"] = {"rfc3161Timestamps": stamps}
    document = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {**material, "tlogEntries": list(bundle.log_entries)},
        "dsseEnvelope": {
            "payload": _encode(bundle.payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": _encode(bundle.signature), "keyid": ""}],
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _envelope(untrusted: Any) -> tuple[bytes, bytes]:
    members = _object(untrusted, "dsseEnvelope", {"payload", "payloadType", "signatures"}, set())
    if members["payloadType"] != PAYLOAD_TYPE:
        raise SignatureInvalid(f"payload type is {ascii(members['payloadType'])[:120]}, not {PAYLOAD_TYPE}")
    signatures = members["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        count = len(signatures) if isinstance(signatures, list) else "no list of"
        raise SignatureInvalid(f"the envelope has {count} signatures; exactly one is read, so only one may be there")
    signature = _object(signatures[0], "signatures[0]", {"sig"}, {"keyid"})
    return _decode(members["payload"], "payload"), _decode(signature["sig"], "signatures[0].sig")


def _material(untrusted: Any, payload: bytes, signature: bytes) -> Bundle:
    members = _object(untrusted, "verificationMaterial", set(), {*_KINDS, "tlogEntries", "timestampVerificationData"})
    kinds = [kind for kind in _KINDS if kind in members]
    if len(kinds) != 1:
        raise SignatureInvalid(
            f"verificationMaterial holds {' and '.join(kinds) or 'no key or certificate'}; one kind must be there"
        )
    kind = kinds[0]
    timestamps = _timestamps(members.get("timestampVerificationData"))
    log_entries = members.get("tlogEntries")
    if not isinstance(log_entries, list | None):
        raise SignatureInvalid("tlogEntries is not a list")
    entries = tuple(log_entries or ())
    if kind == "publicKey":
        key = _object(members[kind], kind, set(), {"hint", "rawBytes", "keyDetails"})
        hint = key.get("hint")
        if hint is not None and (not isinstance(hint, str) or not hint):
            raise SignatureInvalid("publicKey.hint is not a text")
        raw_key = _decode(key["rawBytes"], "publicKey.rawBytes") if "rawBytes" in key else None
        return Bundle(kind, payload, signature, hint=hint, raw_key=raw_key, timestamps=timestamps, log_entries=entries)
    listed: Any = [members[kind]]
    if kind == "x509CertificateChain":
        listed = _object(members[kind], kind, {"certificates"}, set())["certificates"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_CERTIFICATES:
        raise SignatureInvalid(f"the certificate chain is not a list of 1 to {MAX_CERTIFICATES} certificates")
    ders = [_decode(_object(item, "certificate", {"rawBytes"}, set())["rawBytes"], "certificate") for item in listed]
    return Bundle(kind, payload, signature, certificates=tuple(ders), timestamps=timestamps, log_entries=entries)


def _timestamps(untrusted: Any) -> tuple[bytes, ...]:
    """The RFC 3161 time stamps; `{}` and null are what other writers leave where there is none."""
    where = "timestampVerificationData"
    members = {} if untrusted is None else _object(untrusted, where, set(), {"rfc3161Timestamps"})
    stamps = members.get("rfc3161Timestamps", [])
    if not isinstance(stamps, list) or len(stamps) > MAX_TIMESTAMPS:
        raise SignatureInvalid(f"{where}.rfc3161Timestamps is not a list of at most {MAX_TIMESTAMPS} time stamps")
    found = [_decode(_object(item, where, {"signedTimestamp"}, set())["signedTimestamp"], where) for item in stamps]
    if any(len(stamp) > MAX_TIMESTAMP_BYTES for stamp in found):
        raise SignatureInvalid(f"{where} holds more than {MAX_TIMESTAMP_BYTES} bytes in one time stamp")
    return tuple(found)


def _object(untrusted: Any, where: str, required: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(untrusted, dict):
        raise SignatureInvalid(f"{where} is not an object")
    if missing := required - untrusted.keys():
        raise SignatureInvalid(f"{where} lacks {', '.join(sorted(missing))}")
    if unknown := untrusted.keys() - required - optional:
        raise SignatureInvalid(f"{where} has unknown members: {ascii(sorted(unknown))[:120]}")
    return untrusted


def _decode(untrusted: Any, where: str) -> bytes:
    if not isinstance(untrusted, str) or not untrusted:
        raise SignatureInvalid(f"{where} is not base64 text")
    try:
        return base64.b64decode(untrusted, validate=True)
    except (binascii.Error, ValueError):
        raise SignatureInvalid(f"{where} is not base64") from None


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
