"""A progress bar on stderr: bytes, rate and time left; nothing where nobody watches."""

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Never, Self

from modelreg.hashing import Progress

if TYPE_CHECKING:
    from tqdm import tqdm


class Bars:
    """One bar a phase, on stderr, off without a terminal or when asked to be quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self.shown = not quiet and sys.stderr.isatty()
        self._bars: list[tqdm[Never]] = []
        self._lock = threading.Lock()

    def meter(self, label: str, total_bytes: int) -> Progress:
        """Start a phase; returns what it calls with the bytes done, from any thread."""
        if not self.shown:
            return _nobody_watches
        from tqdm import tqdm  # noqa: PLC0415  # a small verification would take a tenth longer

        bar: tqdm[Never] = tqdm(
            total=total_bytes,
            desc=label,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            dynamic_ncols=True,
            file=sys.stderr,
            leave=False,
        )
        self._bars.append(bar)

        def advance(count: int) -> None:
            with self._lock:
                bar.update(count)

        return advance

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Take the bars off the screen before anything else is printed."""
        for bar in self._bars:
            bar.close()


def _nobody_watches(_count: int) -> None:
    """Progress without a bar."""
