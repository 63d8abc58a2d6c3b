"""diff."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelreg import diff, grants, hashing, manifests, pinned, pull, trees
from modelreg.api import Api
from modelreg.cache import Cache
from modelreg.commands import Output, now, output_of, settings_of, size_text
from modelreg.commands.session import connect
from modelreg.diff import Bytes, Difference, FolderBytes
from modelreg.digests import sha256_of
from modelreg.errors import Invalid, ManifestInvalid, NotFound
from modelreg.manifests import FileEntry, Manifest
from modelreg.progress import Bars
from modelreg.ranges import GrantedBytes
from modelreg.references import Reference, parse_reference
from modelreg.settings import Settings

FINDINGS = 40
_SHOWN_ROWS = 50  # for people; `--json` has them all


@dataclass
class _Side:
    """What a side is: a folder (`reference` is None) or an artifact. `seen` says how its bytes came to be known."""

    target: str
    reference: Reference | None
    manifest: Manifest
    folder: Path | None = None
    seen: str = "not read"


def run_diff(options: argparse.Namespace) -> int:
    """`modelreg diff REF|DIR REF|DIR [--headers]`."""
    settings, output = settings_of(options), output_of(options)
    with Bars(quiet=output.quiet or output.as_json) as bars:
        session = _Session(settings, output, bars)
        before, after = session.side(options.before), session.side(options.after)
        difference = diff.compare_files(before.manifest, after.manifest)
        if diff.needs_bytes(difference):
            read = session.bytes_of_headers if options.headers else session.bytes_of
            diff.compare_contents(
                difference,
                read(before),
                read(after),
                values=not options.headers,
                chunk_bytes=before.manifest.chunk_bytes,
            )
    output.result(_report(before, after, difference), *_lines(before, after, difference))
    return FINDINGS if difference.files else 0


class _Session:
    """This command's registry (connected when first needed) and local store."""

    def __init__(self, settings: Settings, output: Output, bars: Bars) -> None:
        self._settings = settings
        self._output = output
        self._bars = bars
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        if self._api is None:
            self._api = connect(self._settings)
        return self._api

    def side(self, target: str) -> _Side:
        """What the user named: a folder, measured now, or an artifact by its manifest."""
        folder = Path(target)
        if folder.is_dir():
            progress = self._bars.meter("measuring", 0)
            entries = hashing.hash_tree(folder, left_out=trees.LEFT_OUT, progress=progress)
            return _Side(target, None, manifests.build(entries), folder, "measured")
        try:
            reference = parse_reference(target)
        except Invalid:
            if "/" in target.strip("/") and not target.startswith((".", "/")):
                raise
            raise NotFound(f"{target} is neither a folder nor a reference", path=target[:200]) from None
        artifact = reference.digest or pull.resolve(self.api, reference)
        reference = Reference(reference.repository, reference.tag, artifact)
        kept = Cache(self._settings.cache_dir).kept(artifact)
        # Its digest is its name: whoever gives it, it is that artifact's manifest or none.
        if kept is not None and sha256_of(kept.raw_manifest) == artifact:
            return _Side(target, reference, manifests.parse(kept.raw_manifest))
        manifest = manifests.parse(self.api.artifact(reference.repository, artifact).manifest.encode())
        if manifest.digest != artifact:
            raise ManifestInvalid(f"the registry showed another manifest than that of {artifact}")
        return _Side(target, reference, manifest)

    def bytes_of(self, side: _Side) -> Bytes:
        """All bytes, measured: the folder, the copy in the local store, else pulled and verified."""
        if side.folder is not None:
            return FolderBytes(side.folder)
        reference = side.reference
        assert reference is not None
        assert reference.digest is not None
        cache = Cache(self._settings.cache_dir)
        folder = cache.snapshot_path(reference.digest)
        if folder.is_dir():
            # Its signature does not matter here: also what is revoked may be looked at.
            progress = self._bars.meter("measuring", side.manifest.total_bytes)
            hashing.check_files(folder, side.manifest.files, chunk_bytes=side.manifest.chunk_bytes, progress=progress)
            side.seen = "measured in the local store"
            return FolderBytes(folder)
        pulled = pull.pull(
            self.api,
            cache,
            pinned.policy_of(self._settings, self._output.note),
            reference,
            purpose="pull",
            host=self._settings.host_name,
            now=now(),
            connections_at_once=self._settings.connections,
            meter=self._bars.meter,
            state_dir=self._settings.state_dir,
        )
        side.seen = "pulled and verified"
        return FolderBytes(pulled.folder)

    def bytes_of_headers(self, side: _Side) -> Bytes:
        """Bytes by the chunk as they are asked for, without keeping them; a local copy is used where there is one."""
        reference = side.reference
        if reference is None or Cache(self._settings.cache_dir).snapshot_path(side.manifest.digest).is_dir():
            return self.bytes_of(side)
        granted = grants.request(
            self.api,
            pinned.policy_of(self._settings, self._output.note),
            reference,
            purpose="pull",
            host=self._settings.host_name,
            state_dir=self._settings.state_dir,
            now=now(),
        )
        side.seen = "headers and small files, verified"
        return GrantedBytes(self.api, granted.grant, granted.verified)


def _report(before: _Side, after: _Side, difference: Difference) -> dict[str, Any]:
    tensors = {
        "counts": dict(sorted(difference.tensor_counts.items())),
        "rows": [
            {
                "name": row.name,
                "change": row.change,
                "before": _placed(row.before),
                "after": _placed(row.after),
            }
            for row in difference.tensors
        ],
    }
    return {
        "schema": diff.SCHEMA,
        "same": not difference.files,
        "before": _side(before),
        "after": _side(after),
        "areas": difference.areas,
        "files": {
            "same": difference.same_files,
            "rows": [
                {
                    "path": row.path,
                    "change": row.change,
                    "area": row.area,
                    "before": _entry(row.before),
                    "after": _entry(row.after),
                }
                for row in difference.files
            ],
        },
        "tensors": tensors,
        "members": {
            "left_out": difference.members_left_out,
            "rows": [vars(row) for row in difference.members],
        },
        "problems": [{"where": where, "what": what} for where, what in difference.problems],
    }


def _side(side: _Side) -> dict[str, Any]:
    return {
        "target": side.target,
        "repository": side.reference.repository if side.reference else None,
        "artifact": str(side.manifest.digest),
        "files": len(side.manifest.files),
        "size_bytes": side.manifest.total_bytes,
        "bytes": side.seen,
    }


def _entry(entry: FileEntry | None) -> dict[str, Any] | None:
    return {"size": entry.size, "sha256": entry.sha256, "blake3": entry.blake3} if entry else None


def _placed(placed: diff.Placed | None) -> dict[str, Any] | None:
    if placed is None:
        return None
    tensor = placed.tensor
    return {"path": placed.path, "dtype": tensor.dtype, "shape": list(tensor.shape), "blake3": placed.blake3}


def _lines(before: _Side, after: _Side, difference: Difference) -> list[str]:
    lines = [f"before  {before.target}  {before.manifest.digest}", f"after   {after.target}  {after.manifest.digest}"]
    if not difference.files:
        return [*lines, f"no difference in {difference.same_files} files"]
    lines += [f"differs in: {', '.join(difference.areas)}; {difference.same_files} files are the same", ""]
    sign = {"added": "+", "removed": "-", "changed": "~"}
    lines += _bounded(
        difference.files,
        lambda row: f"{sign[row.change]} {row.area:13}  {row.path}  {_sizes(row.before, row.after)}",
        len(difference.files),
    )
    counts = difference.tensor_counts
    if counts:
        lines += ["", "tensors: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))]
        lines += _bounded(difference.tensors, _tensor_line, sum(counts.values()) - counts["same"])
    if difference.members:
        lines += ["", "members of JSON files and metadata:"]
        lines += _bounded(
            difference.members,
            lambda row: (
                f"{sign[row.change]} {row.path} {row.pointer or '/'}: {row.before or '-'} -> {row.after or '-'}"
            ),
            len(difference.members) + difference.members_left_out,
        )
    lines += [f"not looked into: {where}: {what}" for where, what in difference.problems[:_SHOWN_ROWS]]
    return lines


def _tensor_line(row: diff.TensorRow) -> str:
    sign = {"added": "+", "removed": "-", "retyped": "~", "values": "~", "not-compared": "?"}[row.change]
    placed = row.after or row.before
    assert placed is not None
    type_text = " -> ".join(
        dict.fromkeys(
            f"{side.tensor.dtype}{list(side.tensor.shape)}" for side in (row.before, row.after) if side is not None
        )
    )
    return f"{sign} {row.change:12}  {row.name}  {type_text}  in {placed.path}"


def _sizes(before: FileEntry | None, after: FileEntry | None) -> str:
    return " -> ".join(dict.fromkeys(size_text(entry.size) for entry in (before, after) if entry is not None))


def _bounded(rows: list[Any], line: Callable[[Any], str], total: int) -> list[str]:
    """The first rows as lines (names may hold anything: one row stays one line), and how many more there are."""
    lines = [_one_line(line(row)) for row in rows[:_SHOWN_ROWS]]
    return lines if total <= len(lines) else [*lines, f"  and {total - len(lines)} more (--json lists more of them)"]


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
