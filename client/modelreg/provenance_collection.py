"""Collecting what a registry holds about where an artifact came from. Nothing is verified here: `provenance_chain` does.

Statements are read to know whom to ask about next, whoever signed them; all of it is bounded. What this caller may not read is
noted, not an error: without `audit`, derivations that nobody signed and entries of the log stay unread.
"""

import base64
import binascii
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

from modelreg import __version__, answers, attestations, bundles, provenance, wire, wire_recalls
from modelreg.api import Api
from modelreg.attestations import REGISTRY, Kind
from modelreg.classification import Classification
from modelreg.digests import Digest
from modelreg.errors import Invalid, ModelregError, NotFound, Refused, Unreachable
from modelreg.provenance import Derivation
from modelreg.provenance_file import (
    MAX_ARTIFACTS,
    MAX_DATASETS,
    MAX_ENTRIES,
    ClaimedParent,
    CollectedArtifact,
    CollectedDataset,
    CollectedRecall,
    ProvenanceFile,
)
from modelreg.references import parse_repository
from modelreg.wire_attestations import AttestationInfo
from modelreg.wire_evidence import EvidenceEvent

MAX_DEPTH = 32
MAX_VERDICTS = 100  # of one artifact, the newest
MAX_BYTES = 128 * 1024 * 1024  # of manifests, signatures and statements together
_PUBLISHED = ("artifact.published", "artifact.imported")
_MAX_EVENTS = 16  # that say one artifact was published or imported
_LISTED = 1000  # rows of a look-up

A = TypeVar("A", bound=answers.Answer)


def collect(api: Api, repository: str, artifact: Digest, now: datetime) -> ProvenanceFile:
    """Ask for an artifact, everything it was made of, and the entries of the log that say so.

    Raises:
        NotFound: the repository does not hold it, or this caller may not see it.
        Unreachable: the registry answered about something else.
    """
    return _Collection(api, now).collect(repository, artifact)


def dataset_statements(api: Api, dataset: provenance.Input) -> list[AttestationInfo]:
    """The newest signed record of a dataset of this name and digest; none where there is none, or it may not be seen."""
    try:
        records = api.dataset(parse_repository(dataset.name))
    except (Invalid, NotFound, Refused):
        return []
    return [
        AttestationInfo(
            kind=Kind.DATASET.value,
            statement=row.statement,
            bundle=row.bundle,
            authority=row.authority,
            identity=row.identity,
            signed_at=row.signed_at,
            added_at=row.registered_at,
            added_by=row.registered_by,
            event=row.event,
        )
        for row in records
        if row.current and row.digest == str(dataset.digest) and row.bundle is not None
    ]


def live_verdicts(api: Api, repository: str, artifact: Digest) -> list[AttestationInfo]:
    """The registry's verdicts on promotions that are not withdrawn; none where they may not be seen."""
    found = []
    try:
        for info in api.promotions(MAX_VERDICTS, repository=repository, artifact=str(artifact), live="true"):
            verdict = api.promotion(info.id).verdict
            if verdict is not None:
                found.append(
                    AttestationInfo(
                        kind=Kind.VERDICT.value,
                        statement=info.verdict,
                        bundle=verdict,
                        authority=REGISTRY,
                        identity="",
                        signed_at=None,
                        added_at=info.created_at,
                        added_by=info.created_by,
                        event=info.event,
                    )
                )
    except (NotFound, Refused):
        return []
    return found


def effective_class(detail: wire.ArtifactDetail) -> Classification | None:
    """How sensitive the registry holds an artifact to be, with what it was made of; None where it does not know."""
    return Classification(detail.classification) if detail.classification is not None else None


class _Collection:
    def __init__(self, api: Api, now: datetime) -> None:
        self._api = api
        self._now = now
        self._artifacts: dict[str, CollectedArtifact] = {}
        self._datasets: dict[str, CollectedDataset] = {}
        self._bytes = 0
        self._cut: list[str] = []
        self._unread: list[str] = []

    def collect(self, repository: str, artifact: Digest) -> ProvenanceFile:
        first = self._held(repository, artifact)  # NotFound is the answer, of the one that was asked for
        todo = deque([(first, 0)])
        self._artifacts[first.artifact] = first
        while todo:
            item, depth = todo.popleft()
            for parent in self._inputs(item):
                if str(parent.digest) in self._artifacts:
                    continue
                if depth >= MAX_DEPTH or len(self._artifacts) >= MAX_ARTIFACTS or self._bytes > MAX_BYTES:
                    self._leave_out(f"ancestors beyond {len(self._artifacts)} artifacts or {MAX_DEPTH} derivations")
                    break
                found = self._parent(parent)
                self._artifacts[found.artifact] = found
                todo.append((found, depth + 1))
        self._recalls()
        self._claims(repository, artifact)
        checkpoint, entries = self._log()
        return ProvenanceFile(
            artifact=str(artifact),
            repository=repository,
            created_at=self._now.astimezone(UTC).replace(microsecond=0),
            tool=f"modelreg {__version__}",
            registry=self._api.registry,
            artifacts=list(self._artifacts.values()),
            datasets=list(self._datasets.values()),
            checkpoint=checkpoint,
            entries=entries,
            cut=self._cut,
            unread=self._unread,
        )

    def _held(self, repository: str, artifact: Digest, name: str | None = None) -> CollectedArtifact:
        detail = self._api.artifact(repository, artifact)
        if detail.info.artifact != str(artifact) or detail.repository != repository:
            raise Unreachable(f"{self._api.registry} answered about another artifact than {artifact}")
        statements = list(self._api.attestations(repository, artifact).attestations)
        known = {one.statement for one in statements}
        statements += [one for one in live_verdicts(self._api, repository, artifact) if one.statement not in known]
        self._bytes += len(detail.manifest) + sum(len(one.bundle) for one in detail.signatures)
        self._bytes += sum(len(one.bundle) for one in statements)
        return CollectedArtifact(
            artifact=str(artifact),
            name=(name or repository)[:1000],
            repository=repository,
            manifest=detail.manifest,
            published_at=detail.info.published_at,
            published_by=detail.info.published_by,
            tags=detail.info.tags,
            signatures=detail.signatures,
            statements=statements,
            classification=effective_class(detail),
        )

    def _parent(self, named: provenance.Input) -> CollectedArtifact:
        """A parent from the repository whose name the statement gives, else from wherever an auditor finds it."""
        for repositories in (self._named, self._traced):
            for repository in repositories(named):
                try:
                    return self._held(repository, named.digest, named.name)
                except (NotFound, Refused):
                    continue
        return CollectedArtifact(
            artifact=str(named.digest), name=named.name[:1000], absent="not in this registry for you to see"
        )

    @staticmethod
    def _named(parent: provenance.Input) -> list[str]:
        try:
            return [parse_repository(parent.name.partition("@")[0].partition(":")[0])]
        except Invalid:
            return []

    def _traced(self, parent: provenance.Input) -> list[str]:
        query = [("digest", str(parent.digest))]
        answer = self._ask("repositories of an ancestor", "trace", query, answers.TraceAnswer)
        traced = answer.artifacts if answer is not None else []
        return [
            row.repository for one in traced if one.found.artifact == str(parent.digest) for row in one.publications
        ]

    def _inputs(self, item: CollectedArtifact) -> list[provenance.Input]:
        """The parents that an artifact's statements name; its datasets are noted."""
        parents: list[provenance.Input] = []
        for info in item.statements:
            try:
                claimed = attestations.parse(bundles.parse(info.bundle.encode()).payload)
                said = provenance.read(claimed.predicate) if claimed.kind is Kind.PROVENANCE else None
            except ModelregError:
                continue  # `provenance_chain` says so
            if not isinstance(said, Derivation):
                continue
            parents += said.parents
            for dataset in said.datasets:
                if str(dataset.digest) not in self._datasets:
                    self._dataset(dataset)
        return parents

    def _dataset(self, named: provenance.Input) -> None:
        if len(self._datasets) >= MAX_DATASETS:
            self._leave_out(f"datasets beyond {MAX_DATASETS}")
            return
        statements = dataset_statements(self._api, named)
        self._datasets[str(named.digest)] = CollectedDataset(
            digest=str(named.digest), name=named.name[:1000], statements=statements
        )

    def _recalls(self) -> None:
        names = list(self._artifacts)
        for start in range(0, len(names), wire_recalls.MAX_CHECKED):
            batch = [Digest.parse(name) for name in names[start : start + wire_recalls.MAX_CHECKED]]
            for recall in self._api.check_recalls(batch).recalls:
                if (item := self._artifacts.get(recall.artifact)) is not None:
                    told = CollectedRecall(kind=recall.kind, reason=recall.reason, created_at=recall.created_at)
                    self._artifacts[recall.artifact] = item.model_copy(update={"recall": told})

    def _claims(self, repository: str, artifact: Digest) -> None:
        """Derivations as the registry has them; without `audit` nobody is told."""
        query = [("digest", str(artifact)), ("repository", repository), ("down", "false"), ("limit", str(_LISTED))]
        answer = self._ask("unsigned derivations", "lineage", query, answers.LineageAnswer)
        by_child: dict[str, list[ClaimedParent]] = {}
        for edge in answer.up if answer is not None else []:
            by_child.setdefault(edge.child, []).append(
                ClaimedParent(artifact=edge.parent, relation=edge.relation, grade=edge.grade, event=edge.event)
            )
        for child, parents in by_child.items():
            if (item := self._artifacts.get(child)) is not None:
                self._artifacts[child] = item.model_copy(update={"claimed": parents})

    def _log(self) -> tuple[str | None, list[EvidenceEvent]]:
        """The checkpoint of now, and the entries that publications and statements are recorded in."""
        try:
            note = self._api.log_checkpoint()
            size = int(note.split(b"\n")[1])
            indexes = sorted({index for item in self._artifacts.values() for index in self._indexes(item)})
            if len(indexes) > MAX_ENTRIES:
                self._leave_out(f"{len(indexes) - MAX_ENTRIES} entries of the log")
            entries = [self._entry(index, size) for index in indexes[:MAX_ENTRIES] if index < size]
        except Refused as error:
            self._not_read(f"entries of the log: {error.detail}")
            return None, []
        except (IndexError, ValueError):
            raise Unreachable(f"{self._api.registry} answered with no checkpoint") from None
        return note.decode("utf-8", "replace"), entries

    def _indexes(self, item: CollectedArtifact) -> Sequence[int]:
        if item.repository is None:
            return []
        events = self._api.events(
            repository=item.repository, artifact=Digest.parse(item.artifact), types=_PUBLISHED, limit=_MAX_EVENTS
        )
        return [event.index for event in events] + [one.event for one in item.statements]

    def _entry(self, index: int, size: int) -> EvidenceEvent:
        answer = self._api.log_entries(index, index + 1)
        proof = self._api.log_proof(index, size)
        if answer.start != index or len(answer.entries) != 1:
            raise Unreachable(f"{self._api.registry} did not answer with entry {index}")
        try:
            text = base64.b64decode(answer.entries[0], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise Unreachable(f"{self._api.registry} answered with no entry {index}") from None
        return EvidenceEvent(index=index, entry=text, path=proof.hashes)

    def _ask(self, what: str, question: str, query: Sequence[tuple[str, str]], model: type[A]) -> A | None:
        try:
            return self._api.look_up(question, query, model)
        except NotFound:
            return None
        except Refused as error:
            self._not_read(f"{what}: {error.detail}")
            return None

    def _leave_out(self, text: str) -> None:
        if text not in self._cut:
            self._cut.append(text)

    def _not_read(self, text: str) -> None:
        if text[:1000] not in self._unread:
            self._unread.append(text[:1000])
