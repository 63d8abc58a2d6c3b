"""Copies of the custody log in the blob store: for recovery, for mirrors, and to notice that a database was rolled back.

    log/<origin>/tile/…                          tiles and entry bundles, as tlog-tiles names them
    log/<origin>/openings/<N>                    who stands in the entries of bundle N, as far as not erased; signed
    log/<origin>/checkpoints/<size, 19 digits>   every checkpoint that was published, of late
    log/<origin>/checkpoint                      the newest of them, where tlog-tiles has it

The store is not trusted: whoever writes to it can remove copies or put garbage beside them. Nothing here is believed
before the log's own signature holds; what that leaves open is in the threat model.
"""

import base64
import logging
import re
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from modelreg import checkpoints, merkle, notes, tiles
from modelreg.canonical import canonical_json, strict_json
from modelreg.checkpoints import Checkpoint
from modelreg.errors import LogForked, LogNotIntact
from modelreg.notes import VerifierKey
from modelreg.tiles import Tile
from modelreg_server import custody_identities, log_reading
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_tree import LogSigner
from modelreg_server.log_keys import verifier_of
from modelreg_server.storage import LogStore

KEPT_CHECKPOINTS = 100
MAX_LISTED_CHECKPOINTS = 10_000
MAX_OPENINGS_BYTES = 16 * 1024 * 1024
_SIZE_NAME = re.compile(r"[0-9]{19}", re.ASCII)
_SIGNED = b"\0modelreg log openings v1\0"  # no note begins with a NUL byte, so neither signature is the other's
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copies:
    """Where a log's copies are, and the key that they are believed for."""

    store: LogStore
    signer: LogSigner

    @property
    def folder(self) -> str:
        """The origin, in characters that keys have."""
        safe = re.sub(r"[^0-9A-Za-z_/-]", "_", self.signer.origin)
        return "log/" + (re.sub(r"/+", "/", safe).strip("/")[:128] or "_")

    @property
    def key(self) -> VerifierKey:
        """Whose signature checkpoints must have."""
        return verifier_of(self.signer)

    def tile(self, tile: Tile) -> str:
        """The key of a tile or entry bundle."""
        return f"{self.folder}/tile/{tile.path}"

    def openings(self, index: int) -> str:
        """The key of the openings of an entry bundle."""
        return f"{self.folder}/openings/{Tile(None, index).path.removeprefix('entries/')}"

    def read_tile(self, tile: Tile) -> bytes:
        """A published tile or bundle; a full one does where a partial one was cleared away.

        Raises:
            LogNotIntact: there is none.
        """
        limit = tiles.MAX_BUNDLE_BYTES if tile.level is None else tiles.WIDTH * merkle.HASH_BYTES
        found = self.store.get_copy(self.tile(tile), limit)
        if found is not None:
            return found
        full = self.store.get_copy(self.tile(Tile(tile.level, tile.index)), limit)
        if full is None:
            raise LogNotIntact(f"the published copy of the log has no tile {tile.path}")
        if tile.level is None:
            return tiles.join_entries(tiles.split_entries(full, tiles.WIDTH)[: tile.width])
        return full[: tile.width * merkle.HASH_BYTES]

    def checkpoint_sizes(self, above: int = -1) -> list[int]:
        """Sizes that published checkpoints claim by their names, largest first; `above` leaves out smaller ones."""
        found: list[str] = []
        after = f"{above:019}" if above >= 0 else ""
        while len(found) < MAX_LISTED_CHECKPOINTS:
            page = self.store.list_copies(f"{self.folder}/checkpoints", after)
            if not page:
                break
            found += page
            after = page[-1]
        else:
            _log.warning("the blob store lists more than %d checkpoints of the log", MAX_LISTED_CHECKPOINTS)
        return sorted((int(name) for name in found if _SIZE_NAME.fullmatch(name)), reverse=True)

    def checkpoint(self, size: int) -> Checkpoint | None:
        """The published checkpoint of a size; None, and a warning, for one that our key did not sign."""
        raw = self.store.get_copy(f"{self.folder}/checkpoints/{size:019}", notes.MAX_NOTE_BYTES)
        if raw is None:
            return None
        try:
            found = checkpoints.parse(raw)
            if (found.origin, found.size) != (self.signer.origin, size):
                raise LogNotIntact("of another log, or another size than its name says")
            if not notes.verified_by(notes.parse(raw), [self.key]):
                raise LogNotIntact("not signed with our key")
        except LogNotIntact as error:
            _log.warning("the blob store holds a checkpoint of %d entries that is not ours: %s", size, error.detail)
            return None
        return found

    def newest(self, above: int = -1) -> Checkpoint | None:
        """The largest published checkpoint that our key signed."""
        return next(filter(None, map(self.checkpoint, self.checkpoint_sizes(above))), None)


def publish(session: Session, copies: Copies, since: int) -> int:
    """Copy what a log of `since` entries did not have, data first, checkpoint last; returns the size published.

    Doing it again changes nothing, and so does a crash at any line: without its checkpoint a copy is not looked at.

    Raises:
        LogForked: another checkpoint of ours is published for this size.
        StorageUnavailable: the store does not take it.
    """
    note = log_reading.checkpoint(session)
    head = checkpoints.parse(note)
    published = copies.checkpoint(head.size)
    if published is not None and published.root != head.root:
        raise LogForked(f"another log of {head.size} entries was published; see `modelreg-server log verify`")
    full: list[Tile] = []
    for tile in tiles.tiles_of(head.size, since):
        copies.store.put_copy(copies.tile(tile), log_reading.tile(session, tile))
        if tile.level is None:
            publish_openings(session, copies, tile.index)
        if tile.width == tiles.WIDTH:
            full.append(tile)
    copies.store.put_copy(f"{copies.folder}/checkpoints/{head.size:019}", note)
    copies.store.put_copy(f"{copies.folder}/checkpoint", note)
    _clear_away(copies, full, head.size)
    return head.size


def _clear_away(copies: Copies, full: list[Tile], size: int) -> None:
    """Partial tiles whose full one is there, and old checkpoints; never what claims to be newer than we are."""
    for tile in full:
        for name in copies.store.list_copies(f"{copies.tile(tile)}.p"):
            copies.store.remove_copy(f"{copies.tile(tile)}.p/{name}")
    if full:
        ours = [known for known in copies.checkpoint_sizes() if known <= size]
        for old in ours[KEPT_CHECKPOINTS:]:
            copies.store.remove_copy(f"{copies.folder}/checkpoints/{old:019}")


def publish_openings(session: Session, copies: Copies, index: int) -> None:
    """Write who stands in a bundle's entries; again if somebody was erased meanwhile, so that nobody comes back."""
    written: bytes | None = None
    while (wanted := _openings(session, copies, index)) != written:
        copies.store.put_copy(copies.openings(index), wanted)
        written = wanted
        session.rollback()  # the next look is at what is committed by now


def _openings(session: Session, copies: Copies, index: int) -> bytes:
    bundle = Tile(None, index)
    query = select(CustodyEvent.actor, CustodyEvent.about).where(
        col(CustodyEvent.index) >= bundle.start, col(CustodyEvent.index) < bundle.stop
    )
    named = session.exec(query).all()
    opened = custody_identities.opened(session, [name for row in named for name in row])
    rows = [
        {
            "commitment": row.commitment,
            "salt": base64.b64encode(row.salt).decode(),
            "principal": row.principal,
            "body": row.body,
        }
        for _, row in sorted(opened.items())
    ]
    members = {"log": copies.signer.origin, "bundle": index, "entries": len(named), "openings": rows}
    text = canonical_json(members)
    signature = base64.b64encode(copies.signer.key.sign(_SIGNED + text))
    return text + b"\n" + signature + b"\n"


@dataclass(frozen=True)
class Openings:
    """Who stands in the first `entries` entries of a bundle: `commitment`, `salt` (bytes), `principal`, `body` each."""

    entries: int
    rows: list[dict[str, Any]]


def read_openings(copies: Copies, index: int) -> Openings:
    """The published openings of a bundle, verified; of no entries where there are none.

    Raises:
        LogNotIntact: there are some, and our key did not sign them.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    raw = copies.store.get_copy(copies.openings(index), MAX_OPENINGS_BYTES)
    if raw is None:
        return Openings(0, [])
    text, _, signature = raw.rstrip(b"\n").rpartition(b"\n")
    try:
        copies.signer.key.public_key().verify(base64.b64decode(signature, validate=True), _SIGNED + text)
        members = strict_json(text)
        if (members["log"], members["bundle"]) != (copies.signer.origin, index):
            raise ValueError("another bundle's")
    except (InvalidSignature, ValueError, KeyError, TypeError):
        raise LogNotIntact(f"the published openings of bundle {index} are not ours") from None
    rows = [{**row, "salt": base64.b64decode(row["salt"])} for row in members["openings"]]
    for row in rows:
        if custody_identities.commitment_of(row["salt"], canonical_json(row["body"])) != row["commitment"]:
            raise LogNotIntact(f"a published opening of bundle {index} does not open its commitment")
    return Openings(members["entries"], rows)
