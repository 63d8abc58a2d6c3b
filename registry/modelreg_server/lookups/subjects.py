"""From what was asked (a digest of anything, or a reference) to the artifacts it means, as far as the caller may know."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select

from modelreg.answers import AsOf, Found
from modelreg.digests import Digest
from modelreg.errors import Invalid, NotFound
from modelreg_server.callers import Caller, require
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.identity import Verb
from modelreg_server.lookups.sight import Sight, visible
from modelreg_server.tables import Artifact, ArtifactFile, DatasetUse, Publication, Repository, Tag

MAX_FOUND = 100  # artifacts that one file may lead to; a licence text is in all of them


@dataclass(frozen=True)
class Question:
    """A digest, or a tag of a repository; with both the digest decides."""

    digest: str | None = None
    repository: str | None = None
    tag: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest and self.repository else self.digest or ""
        return f"{self.repository or ''}{tag}{digest}"


@dataclass(frozen=True)
class Subject:
    """The artifacts meant, one row for each way to them. `digest` was asked for or resolved, whether known or not."""

    asked: str
    digest: str
    found: list[Found]
    truncated: bool

    @property
    def artifacts(self) -> list[str]:
        """Each artifact once, in order."""
        return list(dict.fromkeys(found.artifact for found in self.found))

    @property
    def digests(self) -> list[str]:
        """The artifacts, and what was asked for if it could be one that nobody published."""
        asked = [self.digest] if self.digest.startswith("sha256:") and not self.found else []
        return self.artifacts + asked


def subject_of(session: Session, caller: Caller, sight: Sight, question: Question, as_of: AsOf) -> Subject:
    """Find what is meant.

    Raises:
        Invalid: neither a digest nor a repository with a tag is given.
        NotPermitted: the repository is not the caller's to audit; alike whether it exists.
        NotFound: the repository had no such tag by then.
    """
    if question.repository is not None:
        require(caller, Verb.AUDIT, question.repository)
    if question.digest is not None:
        found, truncated = _by_digest(session, sight, Digest.parse(question.digest), as_of.time)
        return Subject(str(question), question.digest, found, truncated)
    if question.repository is None or question.tag is None:
        raise Invalid("say what to look up: digest=…, or repository=… and tag=…", field="digest")
    artifact = _tagged_now(session, question.repository, question.tag) if as_of.is_now else None
    if not as_of.is_now:
        artifact = _tagged(session, question.repository, question.tag, as_of.time)
    if artifact is None:
        raise NotFound(f"{question.repository} had no tag {question.tag} at {as_of.time:%Y-%m-%dT%H:%M:%SZ}")
    return Subject(str(question), artifact, [Found(artifact=artifact, by="reference")], truncated=False)


def tags_at(session: Session, repository: str, artifact: str, as_of: AsOf) -> list[str]:
    """The tags of a repository that point at an artifact; for the past, those that were moved there and nowhere since."""
    if as_of.is_now:
        query = (
            select(Tag.name)
            .join(Repository, col(Repository.id) == col(Tag.repository_id))
            .where(Repository.name == repository, Tag.artifact_digest == artifact)
        )
        return sorted(session.exec(query))
    moves = (
        select(CustodyEvent.tag)
        .where(
            CustodyEvent.artifact == artifact,
            CustodyEvent.repository == repository,
            CustodyEvent.type == EventType.TAG_MOVED.value,
            col(CustodyEvent.recorded_at) <= as_of.time,
        )
        .distinct()
    )
    names = [name for name in session.exec(moves) if name is not None]
    return sorted(name for name in names if _tagged(session, repository, name, as_of.time) == artifact)


def _tagged_now(session: Session, repository: str, tag: str) -> str | None:
    query = (
        select(Tag.artifact_digest)
        .join(Repository, col(Repository.id) == col(Tag.repository_id))
        .where(Repository.name == repository, Tag.name == tag)
    )
    return session.exec(query).one_or_none()


def _tagged(session: Session, repository: str, tag: str, at: datetime) -> str | None:
    """Where a tag pointed at a time: the log is its history."""
    query = (
        select(CustodyEvent.artifact)
        .where(
            CustodyEvent.repository == repository,
            CustodyEvent.tag == tag,
            CustodyEvent.type == EventType.TAG_MOVED.value,
            col(CustodyEvent.recorded_at) <= at,
        )
        .order_by(newest_first())
    )
    return session.exec(query.limit(1)).first()


def newest_first() -> ColumnElement[int]:
    """An order that no database answers by walking the whole log backwards until it has found enough."""
    return (col(CustodyEvent.index) + 0).desc()


def _by_digest(session: Session, sight: Sight, digest: Digest, at: datetime) -> tuple[list[Found], bool]:
    found: list[Found] = []
    if digest.algorithm == "sha256":
        found += [Found(artifact=name, by="artifact") for name in visible(session, sight, [str(digest)], at)]
        roots = session.exec(select(Artifact.digest).where(Artifact.root_digest == str(digest)).limit(MAX_FOUND)).all()
        found += [Found(artifact=name, by="root") for name in sorted(visible(session, sight, roots, at))]
    used = _made_with(session, sight, digest, at)
    column = ArtifactFile.sha256 if digest.algorithm == "sha256" else ArtifactFile.blake3
    query = (
        select(ArtifactFile.artifact_digest, ArtifactFile.path)
        .join(Publication, col(Publication.artifact_digest) == col(ArtifactFile.artifact_digest))
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(column == digest.hex, col(Publication.published_at) <= at, sight.covers(Repository.name))
        .distinct()
        .order_by(ArtifactFile.artifact_digest, ArtifactFile.path)
        .limit(MAX_FOUND + 1)
    )
    files = [Found(artifact=artifact, by="file", path=path) for artifact, path in session.exec(query)]
    truncated = max(len(files), len(used)) > MAX_FOUND
    return found + files[:MAX_FOUND] + used[:MAX_FOUND], truncated


def _made_with(session: Session, sight: Sight, digest: Digest, at: datetime) -> list[Found]:
    """Artifacts that were made with a dataset of this digest, one more than are used."""
    query = (
        select(DatasetUse.artifact)
        .join(Publication, col(Publication.artifact_digest) == col(DatasetUse.artifact))
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(
            DatasetUse.dataset == str(digest),
            col(DatasetUse.recorded_at) <= at,
            col(Publication.published_at) <= at,
            sight.covers(Repository.name),
        )
        .distinct()
        .order_by(DatasetUse.artifact)
        .limit(MAX_FOUND + 1)
    )
    return [Found(artifact=artifact, by="dataset") for artifact in session.exec(query)]
