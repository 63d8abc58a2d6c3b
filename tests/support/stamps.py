"""Time stamps as right or as wrong as a test asks for, by time-stamping authorities made now."""

from datetime import datetime, timedelta
from typing import Any

from asn1crypto import cms, tsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg import pki, timestamps
from modelreg_server import timestamping
from modelreg_server.timestamping import TimeStampingAuthority
from support import keys
from support.keys import NOW

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
