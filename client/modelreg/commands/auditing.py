"""log verify: an auditor recomputes the custody log, from the registry or from a copy of its bucket."""

import argparse
from pathlib import Path

from modelreg import checkpoints, log_audit, log_state, merkle, tiles
from modelreg.commands import output_of, settings_of
from modelreg.commands.session import connect
from modelreg.errors import LogNotIntact, Misconfigured
from modelreg.notes import MAX_NOTE_BYTES
from modelreg.pinned import policy_of
from modelreg.tiles import Tile


def run_log_verify(options: argparse.Namespace) -> int:
    """`modelreg log verify [--copies DIR]`: exit 0 intact, 32 with the first index that is wrong."""
    settings, output = settings_of(options), output_of(options)
    policy = policy_of(settings, output.note)
    if policy.log is None:
        raise Misconfigured(
            "the trust policy pins no custody log; add the [log] table that `modelreg-server log key` prints"
        )
    folder: Path | None = options.copies
    # Read before asking: other commands may see a newer head while this one works.
    seen = log_state.newest(settings.state_dir, policy.log)
    if folder is not None:
        note, fetch = _read(folder / "checkpoint", MAX_NOTE_BYTES), lambda tile: _tile(folder, tile)
        if seen is not None and (size := checkpoints.parse(note).size) < seen.size:
            output.note(f"note: the copy ends before what this machine has seen: {size} of {seen.size} events")
            seen = None
    else:
        api = connect(settings)
        note, fetch = api.log_checkpoint(), lambda tile: api.log_tile(tile.path)
    audited = log_audit.audit(note, fetch, policy.log, seen)
    head = audited.checkpoint
    before = (
        f"the log of {seen.size} events that this machine has seen" if seen else "nothing: seen here for the first time"
    )
    value = {
        "log": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "witnesses": len(head.witnessed_at),
        "continues": audited.continues,
    }
    output.result(
        value,
        f"intact: {head.size} events of {head.origin}, recomputed here, signed with the pinned key",
        f"witnesses  {len(head.witnessed_at)}",
        f"continues  {before}",
    )
    return 0


def _tile(folder: Path, tile: Tile) -> bytes:
    """A tile of a copy; the full one does where a partial one was cleared away."""
    limit = tiles.MAX_BUNDLE_BYTES if tile.level is None else tiles.WIDTH * merkle.HASH_BYTES
    full = Tile(tile.level, tile.index)
    if (folder / "tile" / tile.path).is_file() or tile == full:
        return _read(folder / "tile" / tile.path, limit)
    raw = _read(folder / "tile" / full.path, limit)
    if tile.level is None:
        return tiles.join_entries(tiles.split_entries(raw, tiles.WIDTH)[: tile.width])
    return raw[: tile.width * merkle.HASH_BYTES]


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise LogNotIntact(f"the copy of the log cannot be read: {path}: {error.strerror}") from None
    if len(raw) > limit:
        raise LogNotIntact(f"{path} has more than {limit} bytes")
    return raw
