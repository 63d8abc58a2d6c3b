"""The Python face for loaders: verified bytes with no gap between measuring and parsing.

    with modelreg.open_verified("acme/minilm:prod") as model:
        tensors = model.tensors("model.safetensors")            # parsed from the buffer that was measured
        path = model.sealed_path("model.gguf")                  # a sealed memfd, for loaders that want a path
        folder = model.folder                                   # for the rest: measured when opened, read-only

A path that is checked and then opened by name is a hole: a write in between is read by the loader. A buffer and a sealed
memfd have no such moment; `folder` has, and is as good as the permissions on the local store.
"""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blake3 import blake3

from modelreg import launch, pinned, pull, reports, trees
from modelreg.cache import Cache
from modelreg.errors import DigestMismatch, Misconfigured, NotFound
from modelreg.login import connect
from modelreg.manifests import FileEntry
from modelreg.references import parse_reference
from modelreg.settings import Settings
from modelreg.verification import VerifiedManifest

_BLOCK_BYTES = 1024 * 1024
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass
class VerifiedModel:
    """A verified artifact, opened for loading. Close it, or use it in `with`, to release sealed files."""

    verified: VerifiedManifest
    folder: Path
    _sealed: dict[str, int] = field(default_factory=dict)

    @property
    def paths(self) -> Mapping[str, Path]:
        """The files by their path in the artifact."""
        return {entry.path: self.folder / entry.path for entry in self.verified.manifest.files}

    def read(self, path: str) -> bytes:
        """The bytes of a file, measured in the buffer that is returned.

        Raises:
            NotFound: the artifact has no such file.
            DigestMismatch: the file changed.
        """
        entry = self._entry(path)
        with trees.open_folder(self.folder) as folder_fd, trees.open_below(folder_fd, path) as fd:
            with open(fd, "rb", closefd=False) as file:  # a descriptor, not a path
                data = file.read(entry.size + 1)
        if len(data) != entry.size:
            raise _changed(entry, None)
        view, chunk_bytes = memoryview(data), self.verified.manifest.chunk_bytes
        for at, expected in enumerate(entry.chunk_digests()):
            if blake3(view[at * chunk_bytes : (at + 1) * chunk_bytes]).hexdigest() != expected:
                raise _changed(entry, at)
        return data

    def tensors(self, path: str, framework: str = "numpy") -> dict[str, Any]:
        """The tensors of a safetensors file, parsed from measured bytes.

        Args:
            path: of the file in the artifact.
            framework: `numpy` or `torch`.

        Raises:
            Misconfigured: the framework or `safetensors` is not installed.
            DigestMismatch, NotFound: as `read`.
        """
        if framework not in {"numpy", "torch"}:
            raise Misconfigured(f"framework is {framework!r}; write numpy or torch")
        try:
            if framework == "torch":
                from safetensors.torch import load  # noqa: PLC0415
            else:
                from safetensors.numpy import load  # noqa: PLC0415
        except ImportError as error:
            raise Misconfigured(f"{error.name} is not installed: pip install 'modelreg[safetensors]'") from None
        tensors: dict[str, Any] = load(self.read(path))
        return tensors

    def sealed_path(self, path: str) -> str:
        """A path under /proc to a sealed memory copy of the file: measured while copied, and nobody can write to it.

        Valid until the model is closed, also for other processes of the same user. Costs the file's size in memory.
        """
        if path not in self._sealed:
            self._sealed[path] = self._seal(self._entry(path))
        return f"/proc/{os.getpid()}/fd/{self._sealed[path]}"

    def close(self) -> None:
        """Release the sealed files."""
        while self._sealed:
            os.close(self._sealed.popitem()[1])

    def __enter__(self) -> Self:
        """Nothing to do: opening was `open_verified`."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _entry(self, path: str) -> FileEntry:
        for entry in self.verified.manifest.files:
            if entry.path == path:
                return entry
        raise NotFound(f"{self.verified.repository} has no file {path!r}")

    def _seal(self, entry: FileEntry) -> int:
        chunk_bytes = self.verified.manifest.chunk_bytes
        sealed = os.memfd_create("modelreg", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with trees.open_folder(self.folder) as folder_fd, trees.open_below(folder_fd, entry.path) as fd:
                for at, expected in enumerate(entry.chunk_digests()):
                    start, hasher = at * chunk_bytes, blake3()
                    stop = min(entry.size, start + chunk_bytes)
                    while start < stop and (data := os.pread(fd, min(_BLOCK_BYTES, stop - start), start)):
                        hasher.update(data)
                        _write_all(sealed, data)
                        start += len(data)
                    if hasher.hexdigest() != expected:
                        raise _changed(entry, at)
            fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(sealed)
            raise
        return sealed


def open_verified(reference: str, settings: Settings | None = None, *, environment: str | None = None) -> VerifiedModel:
    """Pull an artifact if need be, verify signature and every byte, record the load, and open it.

    Args:
        reference: `namespace/name[:tag][@sha256:…]`.
        settings: None reads them as the CLI does.
        environment: where it shall serve: then only with a permit that is good when it is opened.

    Raises:
        ModelregError: whatever `modelreg launch` would refuse for.
    """
    settings = settings or Settings.load()
    now = datetime.now(UTC)
    policy = pinned.policy_of(settings)
    cache = Cache(settings.cache_dir)
    api, machine = connect(settings), reports.machine_of(settings)
    pulled = pull.pull(
        api,
        cache,
        policy,
        parse_reference(reference),
        purpose="launch",
        host=machine.host,
        now=now,
        connections_at_once=settings.connections,
        meter=lambda _label, _total: lambda _count: None,
        check_reused=False,
        state_dir=machine.state_dir,
        outbox=machine.outbox,
        environment=environment,
    )
    folder = cache.check(pulled.verified)
    loadable = launch.still_permitted(
        launch.loadable_of(pulled, api, machine.host), cache, policy, machine, datetime.now(UTC)
    )
    report = launch.describe(loadable, ["open_verified"], runtime=None, heartbeat_seconds=None)
    launch.record(loadable, policy, machine, launch.load_of(loadable, report))
    return VerifiedModel(pulled.verified, folder)


def _changed(entry: FileEntry, chunk: int | None) -> DigestMismatch:
    where = entry.path if chunk is None else f"{entry.path}, chunk {chunk}"
    return DigestMismatch(f"{where}: the file changed after it was verified; pull again", path=entry.path, chunk=chunk)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
