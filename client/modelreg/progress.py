"""A progress bar on stderr: bytes, rate and time left; nothing where nobody watches."""

import sys
import threading
from types import TracebackType
from typing import Never, Self

from tqdm import tqdm

from modelreg.hashing import Progress


class Bars:
    """One bar a phase, on stderr, off without a terminal or when asked to be quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._off = quiet or not sys.stderr.isatty()
        self._bars: list[tqdm[Never]] = []
        self._lock = threading.Lock()

    def meter(self, label: str, total_bytes: int) -> Progress:
        """Start a phase; returns what it calls with the bytes done, from any thread."""
        bar: tqdm[Never] = tqdm(
            total=total_bytes,
            desc=label,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            dynamic_ncols=True,
            disable=self._off,
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
