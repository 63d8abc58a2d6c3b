"""What grants of the same artifacts were decided with, for as long as nothing decisive happens.

An entry is good for one epoch of the log (`custody.DECISIVE`): a recall, a changed repository or a further signature begins
another, on whichever worker. What is absent or recalled is not remembered, nor what is large. Who may is decided each time.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

MAX_KNOWN = 64
MAX_KNOWN_BYTES = 256 * 1024  # of one


@dataclass(frozen=True)
class Permitted:
    """What a client needs to verify before it asks for bytes."""

    manifest: bytes
    bundles: list[bytes]


@dataclass(frozen=True)
class KnownArtifact:
    """A published artifact that is not recalled here."""

    sensitive: bool
    permitted: Permitted


class KnownArtifacts:
    """The artifacts asked for last, by repository and digest. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], tuple[int, KnownArtifact]] = OrderedDict()

    def get(self, epoch: int, repository: str, artifact: str) -> KnownArtifact | None:
        """What was read in this epoch."""
        with self._lock:
            kept = self._kept.get((repository, artifact))
        return kept[1] if kept is not None and kept[0] == epoch else None

    def put(self, epoch: int, repository: str, artifact: str, known: KnownArtifact) -> None:
        """Keep what was read after this epoch was: it is of this one or newer, so nobody is given anything older."""
        size = len(known.permitted.manifest) + sum(map(len, known.permitted.bundles))
        if size > MAX_KNOWN_BYTES:
            return
        with self._lock:
            self._kept[repository, artifact] = (epoch, known)
            self._kept.move_to_end((repository, artifact))
            while len(self._kept) > MAX_KNOWN:
                self._kept.popitem(last=False)
