"""The distributed revocation list: what is distrusted, beside the trust policy and changed more often than it.

    schema = "modelreg/revocations/v1"
    version = 7                             # only ever raised
    updated_at = 2026-11-24T08:00:00Z
    max_age_seconds = 2592000               # an older list verifies nothing
    artifacts = ["sha256:…"]
    quarantined = [{artifact = "sha256:…", reason = "suspicious weights"}]     # only where there is one
    signers = [{identity = "email:al@acme.example", from = 2026-11-01T00:00:00Z, reason = "laptop stolen"}]

A policy that says `revocations = "distributed"` takes it; the members are those of the policy's own table (`trust`).
`quarantined` is left out where nothing is: clients from before it existed refuse a list that has it, whole.
"""

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from modelreg import trust
from modelreg.digests import Digest, sha256_of
from modelreg.errors import Invalid, Misconfigured
from modelreg.trust import Revocations, RevokedSigner

SCHEMA = "modelreg/revocations/v1"
MAX_LIST_BYTES = 1024 * 1024


@dataclass(frozen=True)
class RevocationList:
    """A parsed list. `digest` is the SHA-256 of its bytes."""

    version: int
    revocations: Revocations
    digest: Digest


def parse(raw: bytes) -> RevocationList:
    """Read a revocation list (TOML); one that is half understood would revoke half.

    Raises:
        Misconfigured: any unknown, missing or malformed member.
    """
    if len(raw) > MAX_LIST_BYTES:
        raise Misconfigured(f"the revocation list has {len(raw)} bytes; the limit is {MAX_LIST_BYTES}")
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"the revocation list is not TOML: {error}") from None
    schema, version = document.pop("schema", None), document.pop("version", None)
    if schema != SCHEMA:
        raise Misconfigured(f"the revocation list's schema is {ascii(schema)[:120]}, not {SCHEMA!r}")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise Misconfigured(f"the revocation list's version is {ascii(version)[:120]}, not a whole number from 1")
    return RevocationList(version, trust.read_revocations(document), sha256_of(raw))


def render(version: int, listed: Revocations) -> bytes:
    """Write a list: the same list gives the same bytes.

    Raises:
        Invalid: a text that TOML cannot hold, or a list above its limit.
    """
    artifacts = "".join(f"    {_text(str(digest))},\n" for digest in sorted(listed.artifacts, key=str))
    signers = "".join(f"    {{{_signer(signer)}}},\n" for signer in listed.signers)
    quarantined = "".join(
        f"    {{artifact = {_text(str(digest))}, reason = {_text(reason)}}},\n"
        for digest, reason in sorted(listed.quarantined.items(), key=lambda item: str(item[0]))
    )
    text = (
        f"# What is distrusted: docs/spec/trust-distribution.md. `modelreg trust revoke` writes it.\n"
        f"schema = {_text(SCHEMA)}\n"
        f"version = {version}\n"
        f"updated_at = {_time(listed.updated_at)}\n"
        f"max_age_seconds = {int(listed.max_age.total_seconds())}\n"
        f"artifacts = [\n{artifacts}]\n"
        + (f"quarantined = [\n{quarantined}]\n" if quarantined else "")
        + f"signers = [\n{signers}]\n"
    )
    try:
        raw = text.encode()
        read = parse(raw)
    except (UnicodeEncodeError, Misconfigured) as error:
        raise Invalid(f"this cannot be written as a revocation list: {error}", field="revocations") from None
    assert read.revocations == listed
    return raw


def revoke(listed: RevocationList, addition: RevokedSigner | Digest | None, now: datetime) -> bytes:
    """The next version of a list, with one more artifact or signer; with neither, the same said again today.

    A signer that is listed already keeps the earlier of the two times: revoking never gives trust back.
    """
    old = listed.revocations
    artifacts, signers = set(old.artifacts), list(old.signers)
    if isinstance(addition, Digest):
        artifacts.add(addition)
    elif addition is not None:
        same = [signer for signer in signers if _names_the_same(signer, addition)]
        since = None if None in (times := [signer.since for signer in (*same, addition)]) else min(filter(None, times))
        signers = [signer for signer in signers if signer not in same]
        reason = addition.reason or next((signer.reason for signer in same if signer.reason), "")
        signers.append(replace(addition, since=since, reason=reason))
    quarantined = {digest: reason for digest, reason in old.quarantined.items() if digest not in artifacts}
    return _next(listed, now, artifacts=frozenset(artifacts), signers=tuple(signers), quarantined=quarantined)


def recall(
    listed: RevocationList,
    now: datetime,
    *,
    revoke: Iterable[Digest] = (),
    quarantine: Iterable[Digest] = (),
    release: Iterable[Digest] = (),
    reason: str = "",
) -> bytes:
    """The next version of a list after a recall or a release; the same list where that changes nothing but its date.

    Revoked ones stay revoked, whatever is quarantined or released; of two reasons the newer one stays.
    """
    old = listed.revocations
    artifacts = old.artifacts | frozenset(revoke)
    quarantined = {**old.quarantined, **dict.fromkeys(quarantine, reason)}
    for digest in (*release, *artifacts):
        quarantined.pop(digest, None)
    return _next(listed, now, artifacts=artifacts, quarantined=quarantined)


def _next(listed: RevocationList, now: datetime, **changed: Any) -> bytes:
    updated_at = max(listed.revocations.updated_at, now.replace(microsecond=0))
    return render(listed.version + 1, replace(listed.revocations, updated_at=updated_at, **changed))


def _names_the_same(one: RevokedSigner, other: RevokedSigner) -> bool:
    return (one.identity, one.key_id) == (other.identity, other.key_id)


def _signer(signer: RevokedSigner) -> str:
    members = [
        f"identity = {_text(signer.identity)}" if signer.identity is not None else f"key = {_text(str(signer.key_id))}"
    ]
    members += [f"from = {_time(signer.since)}"] if signer.since else []
    members += [f"reason = {_text(signer.reason)}"] if signer.reason else []
    return ", ".join(members)


def _text(value: str) -> str:
    # A TOML basic string is a JSON string, but for DEL and for halves of surrogate pairs.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _time(value: datetime) -> str:
    return f"{value.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
