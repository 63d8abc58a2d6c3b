"""push: hash once, sign, send what is missing, finish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelreg import hashing, manifests, signing, statements, transfer, trees, wire
from modelreg.api import Api
from modelreg.errors import Unreachable
from modelreg.hashing import Progress
from modelreg.manifests import Manifest
from modelreg.references import Reference

Meter = Callable[[str, int], Progress]  # label, total bytes -> progress of one phase


@dataclass(frozen=True)
class Pushed:
    """What happened. `transferred_bytes` are blob bytes only."""

    manifest: Manifest
    published: wire.Published
    transferred_bytes: int
    left_out: tuple[str, ...]


def push(
    api: Api,
    root: Path,
    reference: Reference,
    signer: signing.Signer,
    *,
    tags: Sequence[str],
    connections_at_once: int,
    meter: Meter,
    stamp: Callable[[bytes], bytes | None] | None = None,
    parents: Sequence[wire.Parent] = (),
    attest: Callable[[Manifest], Sequence[bytes]] | None = None,
) -> Pushed:
    """Publish a folder as an artifact of `reference.repository`, tagged in the same transaction.

    Every step can be interrupted and repeated: the registry keeps the parts that arrived.

    Args:
        stamp: gets a verified time stamp over the signature, or None to go without one; see `stamping`.
        parents: what it was made from; recorded as claimed.
        attest: signs what else is said of the artifact; published with it, or it is not published.

    Raises:
        NotFound, Invalid, ManifestInvalid, Conflict: something in the folder cannot be published as it is.
        DigestMismatch: a file changed between hashing and sending.
        ModelregError: what the registry refuses.
    """
    present = trees.list_files(root)
    total = sum((root / path).lstat().st_size for path in present if path.split("/")[0] not in trees.LEFT_OUT)
    entries = hashing.hash_tree(root, left_out=trees.LEFT_OUT, progress=meter("hashing", total))
    manifest = manifests.build(entries)
    name = reference.repository.split("/")[1]
    raw_bundle = signing.sign(statements.build(name, manifest), signer, stamp)
    request = wire.request(
        wire.PublicationRequest,
        manifest=manifest.raw.decode(),
        bundle=raw_bundle.decode(),
        tags=list(tags),
        parents=list(parents),
        attestations=[raw.decode() for raw in attest(manifest)] if attest is not None else [],
    )
    state = api.begin_publication(reference.repository, request)
    by_blake3 = {entry.blake3: entry for entry in entries}
    if not by_blake3.keys() >= set(state.missing):
        raise Unreachable(f"{api.registry} asked for blobs that are not part of this artifact")
    transferred = transfer.upload(
        api,
        state.id,
        state.missing,
        entries,
        root,
        connections_at_once=connections_at_once,
        progress=meter("uploading", sum(by_blake3[blob].size for blob in state.missing)),
    )
    published = api.finish_publication(state.id)
    return Pushed(
        manifest, published, transferred, tuple(sorted({path.split("/")[0] for path in present} & trees.LEFT_OUT))
    )
