"""The questions of an incident. Whoever may audit some repositories is answered from those alone."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, StringConstraints
from sqlmodel import Session

from modelreg import answers, wire
from modelreg.errors import Invalid
from modelreg_server.callers import Caller, require
from modelreg_server.dependencies import ReadSession, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb
from modelreg_server.lookups import blast, lineage, loads, origins, pulls, signed, timeline, tracing
from modelreg_server.lookups.sight import Sight, as_of, sight_of
from modelreg_server.lookups.subjects import Question, Subject, subject_of
from modelreg_server.routes import LimitQuery
from modelreg_server.routes.events import infos_of

router = APIRouter(prefix="/v1/lookups", tags=["lookups"], route_class=GuardedRoute)

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
TimeQuery = Annotated[AwareDatetime | None, Query(ge=_EARLIEST, lt=_LATEST)]
BeforeQuery = Annotated[int | None, Query(ge=0, lt=2**63)]
DigestQuery = Annotated[
    Annotated[str, StringConstraints(pattern=r"^(sha256|blake3):[0-9a-f]{64}$")] | None,
    Query(description="Of an artifact, of a file in one, or what OMS calls a model."),
]
NameQuery = Annotated[str | None, Query(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]


@dataclass(frozen=True)
class Asked:
    """A question, and how much of the record its asker may read."""

    session: Session
    caller: Caller
    sight: Sight
    question: Question
    as_of: answers.AsOf

    @property
    def subject(self) -> Subject:
        """The artifacts that are meant."""
        return subject_of(self.session, self.caller, self.sight, self.question, self.as_of)


def _asked(
    caller: Annotated[Caller, Depends(Requires(None))],
    session: ReadSession,
    digest: DigestQuery = None,
    repository: Annotated[wire.RepositoryName | None, Query()] = None,
    tag: Annotated[wire.TagName | None, Query()] = None,
    at: TimeQuery = None,
) -> Asked:
    sight = sight_of(session, caller)
    return Asked(session, caller, sight, Question(digest, repository, tag), as_of(session, caller, at))


AskedDep = Annotated[Asked, Depends(_asked)]


@router.get("/trace", summary="What is this digest?")
def trace(asked: AskedDep) -> answers.TraceAnswer:
    """Of a file (SHA-256 or BLAKE3), an artifact or an OMS root: names, repositories, signers, state, relatives."""
    return tracing.trace(asked.session, asked.sight, asked.subject, asked.as_of)


@router.get("/pulls", summary="Who pulled it?")
def pulled(
    asked: AskedDep, since: TimeQuery = None, before: BeforeQuery = None, limit: LimitQuery = 100
) -> answers.PullsAnswer:
    """Every decision on a pull, newest first."""
    return pulls.pulls(asked.session, asked.sight, asked.subject, asked.as_of, since=since, before=before, limit=limit)


@router.get("/loaded", summary="Where is it loaded?")
def loaded(asked: AskedDep, ended: bool = False, limit: LimitQuery = 1000) -> answers.LoadedAnswer:
    """Loads that hosts reported and that are not known to have ended; with `ended` those as well."""
    return loads.loaded(asked.session, asked.sight, asked.subject, asked.as_of, ended=ended, limit=limit)


@router.get("/lineage", summary="What was it made from, and what was made of it?")
def related(asked: AskedDep, up: bool = True, down: bool = True, limit: LimitQuery = 1000) -> answers.LineageAnswer:
    """Derivations above and below, transitively."""
    return lineage.lineage(asked.session, asked.sight, asked.subject, asked.as_of, up=up, down=down, limit=limit)


@router.get("/blast-radius", summary="What does it reach?")
def reached(
    asked: AskedDep,
    signer: Annotated[NameQuery, Query(description="identity, or sha256:… of a key")] = None,
    principal: NameQuery = None,
    host: NameQuery = None,
    limit: LimitQuery = 1000,
) -> answers.BlastRadiusAnswer:
    """Artifacts of a digest, reference, signer, principal or host; their descendants, pulls, hosts, loads and people."""
    question, session, sight, at = asked.question, asked.session, asked.sight, asked.as_of.time
    given = [signer, principal, host, question.digest or question.repository]
    if sum(value is not None for value in given) != 1:
        raise Invalid("ask about one thing: a digest, a repository with a tag, a signer, a principal or a host")
    if signer is not None:
        origin = origins.of_signer(session, sight, signer, at)
    elif principal is not None:
        origin = origins.of_principal(session, sight, principal, at)
    elif host is not None:
        origin = origins.of_host(session, sight, host, at)
    else:
        origin = origins.of_subject(session, sight, asked.subject, at)
    return blast.blast_radius(session, sight, origin, asked.as_of, limit=limit)


@router.get("/signatures", summary="Who signed it?")
def signatures(asked: AskedDep) -> answers.SignaturesAnswer:
    """Recorded signatures with their bundles and manifests, for the client to verify."""
    return signed.signatures(asked.session, asked.sight, asked.subject, asked.as_of)


@router.get("/timeline", summary="What happened to it?")
def happened(asked: AskedDep, before: BeforeQuery = None, limit: LimitQuery = 100) -> answers.TimelineAnswer:
    """Every event that names the artifact, the tag, or the repository where only that is given."""
    question = asked.question
    subject = None
    if question.digest is None and question.tag is None and question.repository is not None:
        require(asked.caller, Verb.AUDIT, question.repository)
    else:
        subject = asked.subject
    rows, total, more = timeline.events_of(
        asked.session, asked.sight, question, subject, asked.as_of.time, before=before, limit=limit
    )
    return answers.TimelineAnswer(
        as_of=asked.as_of,
        asked=str(question),
        found=subject.found if subject else [],
        truncated=more is not None or (subject is not None and subject.truncated),
        events=infos_of(asked.session, rows),
        total=total,
        next_before=more,
    )
