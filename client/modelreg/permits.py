"""Permits: the registry's short-lived, signed word that a host may load one artifact in one environment.

A promotion can be withdrawn, and a machine may not hear of it; a permit ends by itself. It comes with a grant, is signed with
the key of the custody log, which the trust policy pins, and names the decision that it rests on. A machine without the
registry may use one that it was given before, until it ends.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelreg import attestations
from modelreg.approvals import read_time
from modelreg.attestations import Kind
from modelreg.digests import Digest
from modelreg.errors import PolicyRefused, SignatureInvalid
from modelreg.trust import MAX_CLOCK_SKEW, LogTrust

MAX_PERMIT_BYTES = 16 * 1024
_MEMBERS = frozenset(
    {"artifact", "repository", "environment", "host", "verified_host", "grant", "decision", "issued_at", "expires_at"}
)


@dataclass(frozen=True)
class Permit:
    """What a permit says. `host` is what the client called its machine, `verified_host` whose key signed, if one did.

    `decision` is the digest of the signed verdict; `expires_at` is the first instant at which it is good no more.
    """

    artifact: Digest
    repository: str
    environment: str
    host: str
    verified_host: str | None
    grant: str
    decision: Digest
    issued_at: datetime
    expires_at: datetime

    @property
    def predicate(self) -> dict[str, Any]:
        """As it is signed."""
        return {
            "artifact": str(self.artifact),
            "repository": self.repository,
            "environment": self.environment,
            "host": self.host,
            "verified_host": self.verified_host,
            "grant": self.grant,
            "decision": str(self.decision),
            "issued_at": _time(self.issued_at),
            "expires_at": _time(self.expires_at),
        }

    @property
    def payload(self) -> bytes:
        """The statement around it."""
        return attestations.build(Kind.PERMIT, self.repository, self.artifact, self.predicate)


def verify(
    untrusted_bundle: bytes,
    trusted: LogTrust,
    *,
    artifact: Digest,
    repository: str,
    environment: str,
    host: str,
    now: datetime,
    verified_host: str | None = None,
    grant: str | None = None,
) -> Permit:
    """Verify a permit: by the pinned log's key, for this artifact here, and good now.

    Args:
        trusted: the pinned log.
        host: what this machine calls itself.
        verified_host: this machine's name as a host, where it has a key; None expects nothing (a proxy may know it).
        grant: the grant it came with; None for one that was kept.

    Raises:
        SignatureInvalid, SignerNotAllowed: it is not the registry's word about this.
        PolicyRefused: it was, and has ended.
    """
    if len(untrusted_bundle) > MAX_PERMIT_BYTES:
        raise SignatureInvalid(f"a permit of {len(untrusted_bundle)} bytes; the limit is {MAX_PERMIT_BYTES}")
    verified = attestations.verify_registrys(
        untrusted_bundle, log=trusted, repository=repository, now=now, kind=Kind.PERMIT, subject=artifact
    )
    permit = _read(verified.attestation.predicate, artifact)
    expected: dict[str, Any] = {"repository": repository, "environment": environment, "host": host}
    expected |= {} if verified_host is None else {"verified_host": verified_host}
    expected |= {} if grant is None else {"grant": grant}
    for name, value in expected.items():
        if (found := getattr(permit, name)) != value:
            raise SignatureInvalid(f"the permit says {name} = {ascii(found)[:200]}, not {ascii(value)[:200]}")
    require_current(permit, now)
    return permit


def require_current(permit: Permit, now: datetime) -> None:
    """Refuse a permit that has ended, or that begins later than clocks differ.

    Raises:
        PolicyRefused: which of the two.
    """
    if now >= permit.expires_at:
        raise PolicyRefused(
            f"the permit to serve {permit.repository}@{permit.artifact} in {permit.environment} ended at "
            f"{permit.expires_at:%Y-%m-%d %H:%M:%S}Z; launch again where the registry answers, which gives another if the "
            "artifact may still serve",
            environment=permit.environment,
        )
    if permit.issued_at > now + MAX_CLOCK_SKEW:
        raise PolicyRefused(
            f"the permit is of {permit.issued_at:%Y-%m-%d %H:%M:%S}Z, later than now; check this machine's clock",
            environment=permit.environment,
        )


def _read(predicate: dict[str, Any], artifact: Digest) -> Permit:
    if predicate.keys() != _MEMBERS:
        raise SignatureInvalid(f"the permit does not have exactly the members {', '.join(sorted(_MEMBERS))}")
    if predicate["artifact"] != str(artifact):
        raise SignatureInvalid(f"the permit names {ascii(predicate['artifact'])[:120]} and is about {artifact}")
    texts = {name: predicate[name] for name in ("repository", "environment", "host", "grant", "decision")}
    if not all(isinstance(value, str) for value in texts.values()):
        raise SignatureInvalid("a member of the permit is no text")
    if not isinstance(predicate["verified_host"], str | None):
        raise SignatureInvalid("the permit's verified_host is neither a name nor null")
    return Permit(
        artifact=artifact,
        repository=texts["repository"],
        environment=texts["environment"],
        host=texts["host"],
        verified_host=predicate["verified_host"],
        grant=texts["grant"],
        decision=Digest.parse(texts["decision"]),
        issued_at=read_time(predicate["issued_at"], "the permit's issued_at"),
        expires_at=read_time(predicate["expires_at"], "the permit's expires_at"),
    )


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
