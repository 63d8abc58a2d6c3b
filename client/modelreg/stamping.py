"""Getting a time stamp over a signature: from the registry's time-stamping authority, or from one at a URL.

The answer is verified before it goes into a bundle, by the time authorities of this machine's trust policy: a stamp that
nobody here can verify may be anything, and its owner would find out only when the certificate has expired.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from modelreg import connections, timestamps
from modelreg.bundles import MAX_TIMESTAMP_BYTES
from modelreg.connections import Transient
from modelreg.errors import SignatureInvalid, Unreachable
from modelreg.trust import TimeAuthority

MEDIA_TYPE_QUERY = "application/timestamp-query"
MEDIA_TYPE_REPLY = "application/timestamp-reply"


def stamp(
    signature: bytes,
    ask: Callable[[bytes], bytes],
    authorities: Mapping[str, TimeAuthority],
    clock: Callable[[], datetime],
) -> bytes:
    """Ask for a stamp over the signature and verify it; returns a DER `TimeStampResp`.

    Args:
        ask: sends a DER `TimeStampReq` and returns the answer, untrusted.
        authorities: of the trust policy, by name.
        clock: read when the answer is there.

    Raises:
        SignatureInvalid: the answer does not hold, or is by none of these.
        Unreachable, NotFound, Refused: what `ask` raises.
    """
    query = timestamps.query(signature)
    raw_reply = ask(query.as_bytes())
    timestamps.require_answer(raw_reply, query)
    if timestamps.prove(raw_reply, signature, authorities, clock()) is None:
        raise SignatureInvalid(
            f"the time stamp is by none of the time authorities of the trust policy ({', '.join(authorities)}); pin its "
            "root there (`modelreg trust show` lists them), or push with --no-timestamp"
        )
    return raw_reply


def ask_url(pool: urllib3.PoolManager, url: str) -> Callable[[bytes], bytes]:
    """Ask the TSA at this URL, without any credential; plain http will do, for what it answers is signed."""

    def once(raw_query: bytes) -> bytes:
        headers = {"Content-Type": MEDIA_TYPE_QUERY, "Accept": MEDIA_TYPE_REPLY}
        where = "the time-stamping authority"
        response = connections.send(pool, "POST", url, headers=headers, body=raw_query, where=where)
        try:
            raw = response.read(MAX_TIMESTAMP_BYTES + 1)
        except HTTPError as error:
            raise Transient(f"{where} broke off its answer ({type(error).__name__})") from None
        finally:
            response.close()
        if response.status != 200 or len(raw) > MAX_TIMESTAMP_BYTES:
            raise Unreachable(
                f"{where} at {urlsplit(url).netloc} answered {response.status} with {len(raw)} bytes; check --timestamp-url"
            )
        return raw

    return lambda raw_query: connections.with_retries(lambda: once(raw_query))
