"""Signing what people say beside an artifact's own signature: of what it was made, what a dataset is, a declassification."""

from collections.abc import Callable
from datetime import datetime

from modelreg import __version__, attestations, provenance, signing, statements
from modelreg.attestations import Kind
from modelreg.datasets import Dataset
from modelreg.declassification import Declassification
from modelreg.manifests import Manifest

Stamp = Callable[[bytes], bytes | None]


def derivation(
    manifest: Manifest,
    repository: str,
    made: provenance.Derivation,
    signer: signing.Signer,
    stamp: Stamp | None,
    now: datetime,
) -> bytes:
    """The bundle around the provenance of an artifact; its OMS root is the second subject.

    Raises:
        Invalid: a derivation that says nothing, or too much.
    """
    predicate = provenance.predicate_of(made, version=__version__, started_at=now, finished_at=now)
    root = statements.root_digest(entry.sha256 for entry in manifest.files)
    payload = attestations.build(Kind.PROVENANCE, repository, manifest.digest, predicate, also=[("oms-root", root)])
    return signing.sign(payload, signer, stamp)


def dataset(record: Dataset, signer: signing.Signer, stamp: Stamp | None) -> bytes:
    """The bundle around a dataset's record."""
    payload = attestations.build(Kind.DATASET, record.name, record.digest, record.predicate)
    return signing.sign(payload, signer, stamp)


def declassification(said: Declassification, name: str, signer: signing.Signer, stamp: Stamp | None) -> bytes:
    """The bundle around a declassification; `name` is the repository or the dataset."""
    payload = attestations.build(Kind.DECLASSIFICATION, name, said.subject, said.predicate)
    return signing.sign(payload, signer, stamp)
