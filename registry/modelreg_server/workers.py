"""Several worker processes behind one address. The kernel spreads connections over them (SO_REUSEPORT).

The parent opens no database and serves nothing: it starts workers, replaces one that ends, passes signals on, and ends when
all have ended. A worker whose parent is gone ends as well: it would hold the address against the next start.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from modelreg.errors import ModelregError

_log = logging.getLogger(__name__)
REPLACE_AFTER_SECONDS = 1.0  # a worker that cannot live is not started in a tight circle
STOP_SECONDS = 20.0  # uvicorn's own limit is 10
Serve = Callable[[Callable[[], None]], None]  # serves until it is told to stop; calls its argument when it can


def reusable_listener(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    """A bound socket whose address other sockets of this user may bind too. It takes nothing before it listens."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


def run(count: int, serve: Serve, announce: Callable[[], None]) -> int:
    """Run `serve` in `count` processes until a signal ends them; `announce` when all can serve. Returns the exit code.

    Call it before any thread or database connection exists: it forks.
    """
    parent = _Parent(serve)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, parent.stop)
    try:
        for _ in range(count):
            if (code := parent.start()) != 0:
                return code
        announce()
        parent.watch()
    finally:
        parent.end()
    return 0


class _Parent:
    """The workers that are alive."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._pids: set[int] = set()
        self._stopping = False
        self._alive, self._held = os.pipe()  # ends for the workers when this process does

    def start(self) -> int:
        """Start a worker and wait until it can serve; returns 0, or the code it ended with instead."""
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            os.close(self._held)
            os._exit(_work(self._serve, tell, self._alive))
        os.close(tell)
        self._pids.add(pid)
        with os.fdopen(ready, "rb") as end:
            if end.read(1):
                return 0
        self._pids.discard(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) or 1

    def watch(self) -> None:
        """Replace workers that end, until somebody says stop."""
        while not self._stopping:
            pid, status = os.wait()
            self._pids.discard(pid)
            if not self._stopping:
                _log.error("worker %d ended with %d; starting another", pid, os.waitstatus_to_exitcode(status))
                self._replace()

    def _replace(self) -> None:
        while not self._stopping:
            time.sleep(REPLACE_AFTER_SECONDS)
            if self.start() == 0:
                return

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """Pass a signal on."""
        self._stopping = True
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """See every worker end, by force if it takes too long."""
        self.stop(signal.SIGTERM, None)
        deadline = time.monotonic() + STOP_SECONDS
        while self._pids:
            for pid in list(self._pids):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self._pids.discard(pid)
                elif time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _work(serve: Serve, tell: int, alive: int) -> int:
    """A worker's whole life; its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)

    def end_with_parent() -> None:
        os.read(alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def ready() -> None:
        os.write(tell, b"r")
        os.close(tell)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        serve(ready)
    except ModelregError as error:
        sys.stderr.write(f"modelreg-server: {error.detail}\n")
        return error.exit_code
    except Exception:  # noqa: BLE001  # its traceback is in the log, its end is the parent's business
        _log.exception("a worker failed")
        return 1
    return 0
