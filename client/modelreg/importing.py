"""import: resolve, fetch, hold against what the source declares, publish with signed provenance.

A folder of this machine is published from where it is; everything else passes through the staging area (`staging`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from modelreg import (
    __version__,
    attestations,
    fetching,
    hub,
    provenance,
    push,
    signing,
    staging,
    statements,
    trees,
    upstream_signatures,
)
from modelreg.api import Api
from modelreg.attestations import Kind
from modelreg.classification import Classification
from modelreg.digests import Digest, sha256_of
from modelreg.errors import DigestMismatch, Invalid, SignatureInvalid
from modelreg.manifests import Manifest
from modelreg.provenance import Import, ImportedFile
from modelreg.references import Reference
from modelreg.sources import FolderSource, Resolved, Upstream
from modelreg.trust import TrustPolicy

MODEL_CARD = "README.md"
_CARD_BYTES = 65536


@dataclass(frozen=True)
class Importer:
    """Who imports, how it is signed and published, and whom of the other side to believe."""

    api: Api
    reference: Reference
    tags: Sequence[str]
    signer: signing.Signer
    fetched_by: str
    clock: Callable[[], datetime]
    meter: push.Meter
    connections_at_once: int
    stamp: Callable[[bytes], bytes | None] | None = None
    classification: Classification | None = None
    upstream_trust: TrustPolicy | None = None


@dataclass(frozen=True)
class Imported:
    """What happened. `transferred_bytes` came from the source in this run, `kept_bytes` in earlier ones."""

    pushed: push.Pushed
    made: Import
    statement: Digest
    transferred_bytes: int
    kept_bytes: int
    left_out: tuple[str, ...]


def from_upstream(importer: Importer, upstream: Upstream, cache_dir: Path) -> Imported:
    """Import what a source serves. An interrupted run keeps what it has; a finished one leaves nothing behind.

    Raises:
        DigestMismatch: a file is not what the source declares.
        NotFound, Unauthenticated, Forbidden, Unreachable: the source's answer, or an address that is not asked.
        As `push.push`.
    """
    started = importer.clock()
    resolved = upstream.resolve()
    with staging.opened(cache_dir, resolved) as area:
        fetched = fetching.fetch(
            upstream,
            resolved,
            area,
            connections_at_once=importer.connections_at_once,
            progress=importer.meter("fetching", sum(file.size for file in resolved.files)),
        )
        publishing = _Publishing(importer, area.files, resolved, fetched.sha256, started)
        pushed = publishing.run()
        area.remove()
    assert publishing.made is not None
    assert publishing.statement is not None
    return Imported(
        pushed,
        publishing.made,
        publishing.statement,
        fetched.transferred_bytes,
        fetched.kept_bytes,
        resolved.left_out,
    )


def from_folder(importer: Importer, source: FolderSource) -> Imported:
    """Import a folder of this machine, as it is now; its revision is the artifact's digest.

    Raises:
        As `push.push`.
    """
    resolved = Resolved(str(source), None, (), str(source))
    publishing = _Publishing(importer, source.path, resolved, None, importer.clock())
    pushed = publishing.run()
    assert publishing.made is not None
    assert publishing.statement is not None
    left_out = tuple(name for name in pushed.left_out if name != trees.SIGNATURE_FILE)
    return Imported(pushed, publishing.made, publishing.statement, 0, pushed.manifest.total_bytes, left_out)


@dataclass
class _Publishing:
    """One publication; `made` and `statement` are there once its manifest is."""

    importer: Importer
    root: Path
    resolved: Resolved
    fetched: Mapping[str, str] | None
    started_at: datetime
    made: Import | None = None
    statement: Digest | None = None

    def run(self) -> push.Pushed:
        importer = self.importer
        return push.push(
            importer.api,
            self.root,
            importer.reference,
            importer.signer,
            tags=importer.tags,
            connections_at_once=importer.connections_at_once,
            meter=importer.meter,
            stamp=importer.stamp,
            attest=self._attest,
        )

    def _attest(self, manifest: Manifest) -> list[bytes]:
        importer, repository = self.importer, self.importer.reference.repository
        measured = {entry.path: entry.sha256 for entry in manifest.files}
        for path, sha256 in measured.items():
            # What is published is what was held against the source a moment ago, not what lies there now.
            if self.fetched is not None and self.fetched.get(path) != sha256:
                raise DigestMismatch(
                    f"{ascii(path)[1:-1]} changed between being fetched and being published; import again",
                    path=path,
                    expected=f"sha256:{self.fetched.get(path)}",
                    measured=f"sha256:{sha256}",
                )
        finished = importer.clock()
        self.made = Import(
            source=self.resolved.source,
            revision=self._revision(manifest),
            files=self._files(measured),
            fetched_by=importer.fetched_by,
            licence=self.resolved.licence or self._card_licence(measured),
            classification=importer.classification,
            upstream_signature=upstream_signatures.check(
                self.root,
                self.fetched if self.fetched is not None else self._with_signature(measured),
                trust=importer.upstream_trust,
                name=self.resolved.name or repository,
                now=finished,
            ),
        )
        payload = attestations.build(
            Kind.PROVENANCE,
            repository,
            manifest.digest,
            provenance.predicate_of(self.made, version=__version__, started_at=self.started_at, finished_at=finished),
            also=[(repository.split("/")[1], statements.root_digest(entry.sha256 for entry in manifest.files))],
        )
        _require_readable(payload)
        self.statement = sha256_of(payload)
        return [signing.sign(payload, importer.signer, importer.stamp)]

    def _revision(self, manifest: Manifest) -> str:
        """The commit; of a single file its digest, which is all that can be said of it; of a folder the artifact's."""
        if self.resolved.revision is not None:
            return self.resolved.revision
        return f"sha256:{manifest.files[0].sha256}" if len(self.resolved.files) == 1 else str(manifest.digest)

    def _files(self, measured: Mapping[str, str]) -> tuple[ImportedFile, ...]:
        if self.fetched is None:
            return tuple(
                ImportedFile(path, sha256, f"{self.resolved.source}/{quote(path)}") for path, sha256 in measured.items()
            )
        return tuple(
            ImportedFile(file.path, measured[file.path], file.uri, file.declared)
            for file in self.resolved.files
            if file.path in measured
        )

    def _with_signature(self, measured: Mapping[str, str]) -> Mapping[str, str]:
        present = (self.root / trees.SIGNATURE_FILE).is_file()
        return {**measured, trees.SIGNATURE_FILE: ""} if present else measured

    def _card_licence(self, measured: Mapping[str, str]) -> str | None:
        if MODEL_CARD not in measured:
            return None
        with (self.root / MODEL_CARD).open("rb") as file:
            return hub.licence_in(file.read(_CARD_BYTES))


def _require_readable(payload: bytes) -> None:
    """Refuse to sign what the other side would not read: a URL that is too long, a text that cannot be printed."""
    try:
        provenance.read(attestations.parse(payload).predicate)
    except SignatureInvalid as error:
        raise Invalid(f"the source cannot be recorded: {error.detail}", field="source") from None
