"""Asking the registry for a grant, and telling it what happened: answers are believed when the custody log shows them.

Nothing is downloaded, and nothing is loaded, on the word of an answer alone where the trust policy pins a log. One question
at a time to one log from this machine (`log_state`): each answer must continue what the one before has shown.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from modelreg import enrolment, log_proof, log_state, permits, verification, wire
from modelreg.api import Api
from modelreg.digests import Digest
from modelreg.errors import LogNotIntact, Misconfigured, PolicyRefused, ReceiptMismatch, Unreachable
from modelreg.log_proof import Expected
from modelreg.permits import Permit
from modelreg.receipts import VerifiedEntry
from modelreg.references import Reference
from modelreg.trust import LogTrust, TrustPolicy
from modelreg.verification import VerifiedManifest


@dataclass(frozen=True)
class Granted:
    """A grant whose manifest is verified. `entry` is the log's; None where the trust policy pins no log to believe.

    `permit` is the registry's verified word that it may serve, where an environment was asked for.
    """

    grant: wire.Grant
    verified: VerifiedManifest
    asked: wire.GrantRequest
    entry: VerifiedEntry | None
    permit: Permit | None = None


def request(
    api: Api,
    policy: TrustPolicy,
    reference: Reference,
    *,
    purpose: Literal["pull", "launch"],
    host: str,
    state_dir: Path | None,
    now: datetime,
    environment: str | None = None,
) -> Granted:
    """Find what a reference names now, ask to fetch it, and verify the answers: steps 1 to 8 of `verification`.

    Args:
        state_dir: where this machine remembers the log; needed where the policy pins one.
        environment: where it shall serve; then the answer must carry a permit.

    Raises:
        Untrusted: signature, signer, trust data; a receipt that is missing or does not hold; a tag that went back.
        Refused, NotFound: the registry's answer; or there is no permit in it.
        Misconfigured: an environment, and no log pinned whose key could have signed a permit.
    """
    if environment is not None:
        require_log(policy, environment)
    if policy.log is None:
        asked = _asked(reference, resolve(api, reference), purpose, host, None, None)
        grant = api.request_grant(reference.repository, asked)
        return Granted(grant, _verify_manifest(grant, policy, reference.repository, asked, now), asked, None)
    with log_state.held(_remembered(state_dir), policy.log) as seen:
        found = resolve(api, reference)
        if found is not None:
            seen.require_tag(reference.repository, found.tag, found.version, found.artifact)
        asked = _asked(reference, found, purpose, host, seen.size, environment)
        grant = api.request_grant(reference.repository, asked)
        verified = _verify_manifest(grant, policy, reference.repository, asked, now)
        _require_answer(grant, reference.repository, asked)
        own_name = _own_name(api, state_dir)
        expected = Expected(
            type=log_proof.GRANTED,
            repository=reference.repository,
            artifact=Digest.parse(asked.artifact),
            host=host,
            purpose=purpose,
            tag=asked.tag,
            verified_host=own_name,
            detail={"grant": grant.id, **({"environment": environment} if environment is not None else {})},
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
    if environment is None:
        return Granted(grant, verified, asked, entry)
    if grant.permit is None:
        raise PolicyRefused(
            f"{api.registry} granted {reference.repository}@{asked.artifact} without a permit for {environment}, so it may "
            "not serve there; is the registry of this version?",
            environment=environment,
        )
    permit = permits.verify(
        grant.permit.encode(),
        policy.log,
        artifact=Digest.parse(asked.artifact),
        repository=reference.repository,
        environment=environment,
        host=host,
        now=now,
        verified_host=own_name,
        grant=grant.id,
    )
    return Granted(grant, verified, asked, entry, permit)


def require_log(policy: TrustPolicy, environment: str) -> LogTrust:
    """The pinned log, whose key signs permits.

    Raises:
        Misconfigured: none is pinned, so nobody's word would do.
    """
    if policy.log is None:
        raise Misconfigured(
            f"the trust policy pins no custody log, and a permit to serve in {environment} is signed with its key: add the "
            "[log] table that `modelreg-server log key` prints",
            setting="trust_policy",
        )
    return policy.log


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
    environment: str | None,
) -> wire.GrantRequest:
    artifact = found.artifact if found is not None else str(reference.digest)
    tag = found.tag if found is not None else reference.tag
    return wire.request(
        wire.GrantRequest,
        artifact=artifact,
        purpose=purpose,
        host=host,
        tag=tag,
        known_size=known_size,
        environment=environment,
    )


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
