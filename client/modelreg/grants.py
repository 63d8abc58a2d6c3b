"""Asking the registry for a grant, and telling it what happened: answers are believed when the custody log shows them.

Nothing is downloaded, and nothing is loaded, on the word of an answer alone where the trust policy pins a log. One question
at a time to one log from this machine (`log_state`): each answer must continue what the one before has shown.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from modelreg import enrolment, log_proof, log_state, verification, wire
from modelreg.api import Api
from modelreg.digests import Digest
from modelreg.errors import LogNotIntact, Misconfigured, ReceiptMismatch, Unreachable
from modelreg.log_proof import Expected
from modelreg.receipts import VerifiedEntry
from modelreg.references import Reference
from modelreg.trust import TrustPolicy
from modelreg.verification import VerifiedManifest


@dataclass(frozen=True)
class Granted:
    """A grant whose manifest is verified. `entry` is the log's; None where the trust policy pins no log to believe."""

    grant: wire.Grant
    verified: VerifiedManifest
    asked: wire.GrantRequest
    entry: VerifiedEntry | None


def request(
    api: Api,
    policy: TrustPolicy,
    reference: Reference,
    *,
    purpose: Literal["pull", "launch"],
    host: str,
    state_dir: Path | None,
    now: datetime,
) -> Granted:
    """Find what a reference names now, ask to fetch it, and verify the answers: steps 1 to 8 of `verification`.

    Args:
        state_dir: where this machine remembers the log; needed where the policy pins one.

    Raises:
        Untrusted: signature, signer, trust data; a receipt that is missing or does not hold; a tag that went back.
        Refused, NotFound: the registry's answer.
    """
    if policy.log is None:
        asked = _asked(reference, resolve(api, reference), purpose, host, None)
        grant = api.request_grant(reference.repository, asked)
        return Granted(grant, _verify_manifest(grant, policy, reference.repository, asked, now), asked, None)
    with log_state.held(_remembered(state_dir), policy.log) as seen:
        found = resolve(api, reference)
        if found is not None:
            seen.require_tag(reference.repository, found.tag, found.version, found.artifact)
        asked = _asked(reference, found, purpose, host, seen.size)
        grant = api.request_grant(reference.repository, asked)
        verified = _verify_manifest(grant, policy, reference.repository, asked, now)
        _require_answer(grant, reference.repository, asked)
        expected = Expected(
            type=log_proof.GRANTED,
            repository=reference.repository,
            artifact=Digest.parse(asked.artifact),
            host=host,
            purpose=purpose,
            tag=asked.tag,
            verified_host=_own_name(api, state_dir),
            detail={"grant": grant.id},
        )
        entry = log_proof.verify(
            grant.receipt, grant.consistency, policy.log, expected, index=grant.event, newest=seen.newest, now=now
        )
        if found is not None and not 0 <= found.version < entry.index:
            raise LogNotIntact(
                f"the registry names entry {found.version} as the one that moved {found.tag}, later than the grant of it "
                f"(entry {entry.index})"
            )
        seen.advance(entry.checkpoint)
        if found is not None:
            seen.remember_tag(reference.repository, found.tag, found.version, found.artifact)
    return Granted(grant, verified, asked, entry)


def resolve(api: Api, reference: Reference) -> wire.TagInfo | None:
    """What a reference's tag points at right now; None for a reference with a digest, which asks nobody."""
    if reference.digest is not None:
        return None
    found = api.resolve(reference.repository, reference.tag_or_default)
    if found.tag != reference.tag_or_default:
        raise Unreachable(f"{api.registry} answered about the tag {found.tag}, not {reference.tag_or_default}")
    return found


def _asked(
    reference: Reference,
    found: wire.TagInfo | None,
    purpose: Literal["pull", "launch"],
    host: str,
    known_size: int | None,
) -> wire.GrantRequest:
    artifact = found.artifact if found is not None else str(reference.digest)
    tag = found.tag if found is not None else reference.tag
    return wire.GrantRequest(artifact=artifact, purpose=purpose, host=host, tag=tag, known_size=known_size)


def tell(
    policy: TrustPolicy,
    expected: Expected,
    send: Callable[[int | None], wire.Recorded],
    *,
    state_dir: Path | None,
) -> int:
    """Report something, and verify that it was recorded; returns the index of its event.

    Args:
        expected: what the entry must say; its detail holds an id that only this report has, so its age does not matter.
        send: makes the request, given the size of the newest checkpoint seen.

    Raises:
        Untrusted: the log does not show it.
        ModelregError: the registry's answer.
    """
    if policy.log is None:
        return send(None).event
    with log_state.held(_remembered(state_dir), policy.log) as seen:
        recorded = send(seen.size)
        entry = log_proof.verify(
            recorded.receipt,
            recorded.consistency,
            policy.log,
            expected,
            index=recorded.event,
            newest=seen.newest,
            now=None,
        )
        seen.advance(entry.checkpoint)
    return recorded.event


def _verify_manifest(
    grant: wire.Grant, policy: TrustPolicy, repository: str, asked: wire.GrantRequest, now: datetime
) -> VerifiedManifest:
    return verification.verify_any(
        [bundle.encode() for bundle in grant.bundles],
        grant.manifest.encode(),
        policy=policy,
        repository=repository,
        now=now,
        artifact=Digest.parse(asked.artifact),
    )


def _own_name(api: Api, state_dir: Path | None) -> str | None:
    """This machine's name as a host, where its key signs what it asks."""
    if api.host_key is None or state_dir is None:
        return None
    enrolled = enrolment.find(state_dir)
    return enrolled.name if enrolled is not None else None


def _require_answer(grant: wire.Grant, repository: str, asked: wire.GrantRequest) -> None:
    """What an answer says of itself is not used; one that says something else is no mistake."""
    for name, expected, found in (
        ("repository", repository, grant.repository),
        ("artifact", asked.artifact, grant.artifact),
    ):
        if found != expected:
            raise ReceiptMismatch(
                f"the registry answered with a grant of another {name} than was asked for",
                member=name,
                expected=expected,
                found=found,
            )


def _remembered(state_dir: Path | None) -> Path:
    if state_dir is None:
        raise Misconfigured("the trust policy pins a custody log, and there is no state_dir to remember it in")
    return state_dir
