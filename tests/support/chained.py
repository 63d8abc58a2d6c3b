"""Provenance files made by hand: artifacts, statements by the test's signer and by the registry's log key."""

import os
from datetime import UTC, datetime

from modelreg import attestations, manifests, merkle, provenance, signing, statements
from modelreg.attestations import Kind
from modelreg.canonical import canonical_json
from modelreg.checkpoints import sign as sign_checkpoint
from modelreg.digests import Digest, sha256_of
from modelreg.manifests import FileEntry, Manifest
from modelreg.provenance import Derivation, Import, ImportedFile, Input
from modelreg.provenance_file import CollectedArtifact, CollectedDataset, ProvenanceFile
from modelreg.wire import SignatureInfo
from modelreg.wire_attestations import AttestationInfo
from modelreg.wire_evidence import EvidenceEvent
from modelreg_server import log_keys
from support.registry import SIGNER, Trust

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
PLACES = "https://models.example"


def a_manifest(*names: str) -> Manifest:
    """Files with fresh digests."""
    entries = [
        FileEntry(name, 10 + at, os.urandom(32).hex(), os.urandom(32).hex()) for at, name in enumerate(names or ("a",))
    ]
    return manifests.build(entries)


def import_of(manifest: Manifest, *, licence: str | None = "apache-2.0", source: str = "hf://org/name") -> Import:
    files = tuple(
        ImportedFile(entry.path, entry.sha256, f"{source}/{entry.path}", {"sha256": entry.sha256})
        for entry in manifest.files
    )
    return Import(source, "3f1c" + "0" * 36, files, "workload:importer", licence)


def derivation_of(*parents: tuple[str, Digest], datasets: tuple[tuple[str, Digest], ...] = (), relation="finetune"):
    return Derivation(
        relation,
        tuple(Input(digest, name) for name, digest in parents),
        tuple(Input(digest, name) for name, digest in datasets),
        "https://ci.example/run/7",
    )


class Made:
    """Signs as the trust's signer, or as the registry."""

    def __init__(self, trust: Trust) -> None:
        self.trust = trust

    def statement(self, kind: Kind, name: str, subject: Digest, predicate, *, event: int = 9) -> AttestationInfo:
        payload = attestations.build(kind, name, subject, predicate)
        return self._info(kind, payload, signing.sign(payload, self.trust.signer), "pki", SIGNER, event)

    def registrys(self, kind: Kind, name: str, subject: Digest, predicate, *, event: int = 9) -> AttestationInfo:
        payload = attestations.build(kind, name, subject, predicate)
        origin = log_keys.default_origin(self.trust.log_key)
        raw = attestations.sign_as_registry(payload, self.trust.log_key, origin)
        return self._info(kind, payload, raw, attestations.REGISTRY, f"key:{origin}", event)

    def provenance(self, name: str, subject: Digest, made: Import | Derivation, **more) -> AttestationInfo:
        predicate = provenance.predicate_of(made, version="0", started_at=AT, finished_at=AT)
        return self.statement(Kind.PROVENANCE, name, subject, predicate, **more)

    def artifact(self, repository: str, manifest: Manifest, *said: AttestationInfo, **more) -> CollectedArtifact:
        raw = signing.sign(statements.build(repository.split("/")[1], manifest), self.trust.signer)
        info = SignatureInfo(bundle=raw.decode(), authority="pki", identity=SIGNER, added_at=AT, added_by="person:al")
        members = {
            "artifact": str(manifest.digest),
            "name": repository,
            "repository": repository,
            "manifest": manifest.raw.decode(),
            "published_at": AT,
            "published_by": "person:al",
            "signatures": [info],
            "statements": list(said),
        }
        return CollectedArtifact(**{**members, **more})

    def dataset(self, name: str, digest: Digest, **more) -> CollectedDataset:
        predicate = {
            "name": name, "owner": "team-data", "classification": "confidential", "lawful_basis": "contract",
            "residency": ["eu"], "retention_until": "2030-01-01T00:00:00Z", "source": None, **more,
        }  # fmt: skip
        said = self.statement(Kind.DATASET, name, digest, predicate)
        return CollectedDataset(digest=str(digest), name=name, statements=[said])

    def entries(self, *members: dict) -> tuple[str, list[EvidenceEvent]]:
        """A log with these entries, signed; its checkpoint and the entries with their proofs."""
        raws = [canonical_json({"v": 2, "time": AT.isoformat(), **one}) for one in members]
        leaves = [merkle.leaf_hash(raw) for raw in raws]

        def read(nodes):
            return [_subtree(leaves, node) for node in nodes]

        root = merkle.root(len(raws), read)
        note = sign_checkpoint(log_keys.default_origin(self.trust.log_key), len(raws), root, self.trust.log_key)
        import base64

        events = [
            EvidenceEvent(
                index=at,
                entry=raw.decode(),
                path=[base64.b64encode(one).decode() for one in merkle.inclusion(at, len(raws), read)],
            )
            for at, raw in enumerate(raws)
        ]
        return note.decode(), events

    @staticmethod
    def file(first: CollectedArtifact, *others: CollectedArtifact, **more) -> ProvenanceFile:
        return ProvenanceFile(
            artifact=first.artifact,
            repository=first.repository,
            created_at=AT,
            tool="modelreg test",
            registry=PLACES,
            artifacts=[first, *others],
            **more,
        )

    @staticmethod
    def _info(kind, payload, raw, authority, identity, event) -> AttestationInfo:
        return AttestationInfo(
            kind=kind.value,
            statement=str(sha256_of(payload)),
            bundle=raw.decode(),
            authority=authority,
            identity=identity,
            signed_at=None,
            added_at=AT,
            added_by="person:al",
            event=event,
        )


def _subtree(leaves: list[bytes], node) -> bytes:
    level, index = node
    if level == 0:
        return leaves[index]
    return merkle.node_hash(_subtree(leaves, (level - 1, 2 * index)), _subtree(leaves, (level - 1, 2 * index + 1)))


def full(made: Made):
    """A fine-tune of an adapter's base that was imported, with a dataset, a scan and a verdict; everything is stated."""
    base, model = a_manifest("base.safetensors", "README.md"), a_manifest("model.safetensors", "config.json")
    data = sha256_of(b"tickets")
    parent = made.artifact("demo/base", base, made.provenance("demo/base", base.digest, import_of(base)))
    said = derivation_of(("demo/base", base.digest), datasets=(("demo/tickets", data),))
    scan = {
        "tool": "modelreg-gate", "tool_version": "1", "rules_version": "2026-11-24", "scanned_at": "2026-11-24T12:00:00Z",
        "complete": True, "formats": {"model.safetensors": "safetensors"}, "findings": [],
    }  # fmt: skip
    verdict = {"verifier": {"id": "x"}, "resourceUri": "modelreg:demo/m", "verificationResult": "PASSED"}
    child = made.artifact(
        "demo/m",
        model,
        made.provenance("demo/m", model.digest, said),
        made.registrys(Kind.SCAN, "demo/m", model.digest, scan),
        made.registrys(Kind.VERDICT, "demo/m", model.digest, verdict),
        tags=["prod"],
    )
    return made.file(child, parent, datasets=[made.dataset("demo/tickets", data)])
