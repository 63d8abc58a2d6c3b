"""Processes that share the verification of a log; each has one connection, and memory for one segment."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from modelreg_server.log_verifying import Segments, shared_by


@contextmanager
def worker_segments(url: str, jobs: int) -> Iterator[Segments | None]:
    """Segments verified by `jobs` processes; None, which is this process, for one."""
    if jobs < 2:
        yield None
        return
    # Not forked: this process may have threads, and connections that a child must not inherit.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as executor:
        yield shared_by(executor, url)
