"""Signed statements as a promotion reads them: each verified again, under the trust policy and at the instant of now."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from modelreg import attestations
from modelreg.attestations import Kind, VerifiedAttestation
from modelreg.digests import Digest
from modelreg.errors import ModelregError, PolicyRefused
from modelreg.trust import LogTrust, TrustPolicy
from modelreg_server.custody_tree import LogSigner
from modelreg_server.log_keys import verifier_of
from modelreg_server.tables import AttestationRow

MAX_STATEMENTS = 256  # of one kind about one artifact; with more of them nobody says yes
NEWEST = 32  # of those that are repeated for ever: scans and checks of the source
_BATCH = 200


@dataclass(frozen=True)
class Believing:
    """What statements are held against: the trust policy, the registry's own keys, and one instant."""

    policy: TrustPolicy
    log: LogTrust
    now: datetime


def believing(policy: TrustPolicy, signer: LogSigner, now: datetime) -> Believing:
    """With the key that this registry signs with, and those its trust policy pins beside it while it is rotated.

    Raises:
        StaleTrust: the policy or its revocation list is too old to say anything.
    """
    policy.require_fresh(now)
    own = verifier_of(signer)
    pinned = policy.log.keys if policy.log is not None and policy.log.origin == signer.origin else ()
    return Believing(policy, LogTrust(signer.origin, (own, *(key for key in pinned if key != own))), now)


class Statements:
    """The statements of one session, read and verified; `used` are the digests of those that were believed."""

    def __init__(self, session: Session, held_against: Believing) -> None:
        self.session = session
        self.held_against = held_against
        self.used: set[str] = set()

    def all_of(self, kind: Kind, about: Iterable[str], repository: str | None = None) -> list[AttestationRow]:
        """Every statement of a kind about some digests, oldest first.

        Raises:
            PolicyRefused: more than anybody should rest a decision on.
        """
        found: list[AttestationRow] = []
        wanted = list(about)
        for start in range(0, len(wanted), _BATCH):
            some = wanted[start : start + _BATCH]
            query = select(AttestationRow).where(
                AttestationRow.kind == kind.value, col(AttestationRow.about_digest).in_(some)
            )
            if repository is not None:
                query = query.where(AttestationRow.repository == repository)
            limit = MAX_STATEMENTS * len(some)
            rows = self.session.exec(query.order_by(col(AttestationRow.id)).limit(limit + 1)).all()
            if len(rows) > limit:
                raise PolicyRefused(
                    f"{some[0]} and others have more than {limit} statements of the kind {kind}, too many to decide on"
                )
            found += rows
        return found

    def newest_of(self, kind: Kind, about: str, repository: str) -> Sequence[AttestationRow]:
        """The newest statements of a kind about one artifact, newest first."""
        query = select(AttestationRow).where(
            AttestationRow.kind == kind.value,
            AttestationRow.about_digest == about,
            AttestationRow.repository == repository,
        )
        return self.session.exec(query.order_by(col(AttestationRow.id).desc()).limit(NEWEST)).all()

    def verify(self, row: AttestationRow) -> VerifiedAttestation:
        """Verify a stored statement again.

        Raises:
            Untrusted, Revoked: it does not hold any more, or never did.
        """
        kind, subject = Kind(row.kind), Digest.parse(row.about_digest)
        against = self.held_against
        if row.authority == attestations.REGISTRY:
            return attestations.verify_registrys(
                row.bundle, log=against.log, repository=row.repository, now=against.now, kind=kind, subject=subject
            )
        return attestations.verify(
            row.bundle, policy=against.policy, repository=row.repository, now=against.now, kind=kind, subject=subject
        )

    def believed(self, rows: Iterable[AttestationRow]) -> Iterator[tuple[AttestationRow, VerifiedAttestation]]:
        """Those of the rows that hold now, in their order."""
        for row in rows:
            try:
                verified = self.verify(row)
            except ModelregError:
                continue
            self.use(verified)
            yield row, verified

    def use(self, verified: VerifiedAttestation) -> None:
        """Note that the facts rest on it."""
        self.used.add(str(verified.attestation.digest))
