"""A provenance file: what a registry holds about where an artifact came from, for `provenance_chain` to verify anywhere.

It is one JSON object: the artifact, its ancestors and datasets, each with manifest, signatures and statements as their signers
made them, and entries of the custody log with their proofs. Nothing in it is believed because it is in it.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError

from modelreg import notes
from modelreg.canonical import canonical_json, strict_json
from modelreg.classification import Classification
from modelreg.errors import Invalid, TooLarge
from modelreg.wire import ArtifactDigest, RepositoryName, SignatureInfo, TagName, Wire
from modelreg.wire_attestations import AttestationInfo
from modelreg.wire_evidence import EvidenceEvent, Index, ShortText

SCHEMA = "modelreg/provenance-file/v1"
MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_VALUES = 8_000_000  # commas and brackets, those in texts as well: what a parsed file costs in memory
MAX_ARTIFACTS = 500
MAX_DATASETS = 2_000
MAX_ENTRIES = 500


class CollectedRecall(Wire):
    """A recall that was open when the file was made."""

    kind: Literal["quarantine", "revocation"]
    reason: ShortText
    created_at: datetime


class ClaimedParent(Wire):
    """A parent that the registry names without a signed statement being asked for; `grade` is the registry's word."""

    artifact: ArtifactDigest
    relation: ShortText
    grade: ShortText
    event: Index


class CollectedArtifact(Wire):
    """An artifact as a repository holds it. `manifest` is null where none was to be had, and `absent` says why.

    `name` is what whoever led here calls it.
    """

    artifact: ArtifactDigest
    name: ShortText
    repository: RepositoryName | None = None
    absent: ShortText | None = None
    manifest: str | None = None
    published_at: datetime | None = None
    published_by: ShortText | None = None
    tags: list[TagName] = Field(default_factory=list)
    signatures: list[SignatureInfo] = Field(default_factory=list)
    statements: list[AttestationInfo] = Field(default_factory=list)
    classification: Classification | None = None  # the effective one, as the registry has it
    recall: CollectedRecall | None = None
    claimed: list[ClaimedParent] = Field(default_factory=list)


class CollectedDataset(Wire):
    """A dataset that a statement names. Without `statements`, nothing is recorded about it."""

    digest: ArtifactDigest
    name: ShortText
    statements: list[AttestationInfo] = Field(default_factory=list)


class ProvenanceFile(Wire):
    """The file's members; the first artifact is the one that was asked about.

    `cut` says what was left out because there is too much of it, `unread` what this caller may not read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Annotated[Literal["modelreg/provenance-file/v1"], Field(alias="schema")] = "modelreg/provenance-file/v1"
    artifact: ArtifactDigest
    repository: RepositoryName
    created_at: datetime
    tool: ShortText
    registry: ShortText
    artifacts: Annotated[list[CollectedArtifact], Field(min_length=1, max_length=MAX_ARTIFACTS)]
    datasets: Annotated[list[CollectedDataset], Field(max_length=MAX_DATASETS)] = Field(default_factory=list)
    checkpoint: Annotated[str, Field(max_length=notes.MAX_NOTE_BYTES)] | None = None
    entries: Annotated[list[EvidenceEvent], Field(max_length=MAX_ENTRIES)] = Field(default_factory=list)
    cut: list[ShortText] = Field(default_factory=list)
    unread: list[ShortText] = Field(default_factory=list)


def render(file: ProvenanceFile) -> bytes:
    """The file's bytes: canonical JSON and a line end.

    Raises:
        TooLarge: more bytes than a reader takes.
    """
    raw = canonical_json(file.model_dump(mode="json", by_alias=True)) + b"\n"
    if len(raw) > MAX_FILE_BYTES:
        raise TooLarge(f"the provenance has {len(raw)} bytes; the limit is {MAX_FILE_BYTES}", limit=MAX_FILE_BYTES)
    return raw


def parse(untrusted: bytes) -> ProvenanceFile:
    """Read a provenance file.

    Raises:
        Invalid: it is none; the message says where.
    """
    if len(untrusted) > MAX_FILE_BYTES or sum(untrusted.count(mark) for mark in (b"{", b"[", b",")) > MAX_VALUES:
        raise Invalid("not a provenance file: larger than one may be", field="file")
    try:
        return ProvenanceFile.model_validate(strict_json(untrusted))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = "/".join(str(part) for part in first["loc"])
        raise Invalid(f"not a provenance file: {ascii(where)[1:-1][:200]}: {first['msg']}", field="file") from None
    except (ValueError, RecursionError) as error:
        raise Invalid(f"not a provenance file: {str(error)[:200]}", field="file") from None
