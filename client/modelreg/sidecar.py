"""What stays behind when `launch` becomes the runtime: a small process that says that it runs, and that it ended.

`launch` starts it just before it `exec`s. It takes hold of the process by a pidfd, which a reused number cannot fool, leaves
the session and the family of the runtime (no terminal, no child that the runtime would have to reap), and sleeps. For each
message it starts `modelreg.heartbeats` for a moment: what runs for weeks is an interpreter and this file. It ends with the
runtime. What it was given to prove itself with came through a pipe and stands in no argument list and no environment.

It holds out against SIGTERM and SIGHUP, which a service manager sends to all processes of a service: the runtime ends, and
somebody must say so. In a container whose first process is the runtime, the kernel ends it with the runtime; the load then
becomes stale instead of ended.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

START_SECONDS = 20.0
MESSAGE_SECONDS = 240.0  # for one message, with its retries; then it is ended, what it queued stays
END_SECONDS = 60.0  # for the last one: who stops a service waits for this
_PR_SET_DUMPABLE = 4
_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, 64 bytes)
_PIDFD_INFO_EXIT = 1 << 3
# What an interpreter needs to find this package again, and what libraries read; none of it is a secret.
_PLAIN = frozenset(
    {
        "HOME",
        "PATH",
        "LANG",
        "LC_ALL",
        "TZ",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "DBUS_SESSION_BUS_ADDRESS",
    }
)
_CLIENT_PREFIXES = ("MODELREG_", "XDG_", "ACTIONS_ID_TOKEN_")
_SIGNING = frozenset({"MODELREG_KEY_PASSWORD", "MODELREG_PKCS11_PIN", "MODELREG_SIGSTORE_TOKEN"})


def start(job: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Start the sidecar for this process, which is about to `exec`; returns whether it runs.

    Args:
        job: `load`, `heartbeat_seconds`, and what `modelreg.heartbeats` needs, as JSON values.
        environment: what the command was called with; the sidecar gets what the client reads of it.
    """
    needed = {
        name: value
        for name, value in environment.items()
        if name in _PLAIN or (name.startswith(_CLIENT_PREFIXES) and name not in _SIGNING)
    }
    plain = {name: value for name, value in environment.items() if name in _PLAIN or name.startswith("PYTHON")}
    command = [sys.executable, "-P", "-m", "modelreg.sidecar"]  # -P: not from the folder we are in
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter
            command,
            input=json.dumps({**job, "pid": os.getpid(), "environment": needed}).encode(),
            env=plain,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=START_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def main() -> int:
    """Take hold of the parent and stay behind as a process of its own."""
    keep_memory_private()
    job = json.load(sys.stdin)
    pid = job["pid"]
    runtime = os.pidfd_open(pid)
    if os.getppid() != pid:
        return 1  # killed meanwhile: our parent is now somebody who runs for ever, or the number is another's
    if os.fork():
        return 0  # `launch` waits for this one, so that the runtime inherits no child
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    watch(job, pid, runtime)
    return 0


def watch(job: Mapping[str, Any], pid: int, runtime: int) -> None:
    """Send heartbeats until the process of the pidfd ends, and then that it ended."""
    interval = float(job["heartbeat_seconds"])
    poll = select.poll()
    poll.register(runtime, select.POLLIN)
    # A fleet that starts at once does not knock at once for ever.
    due = time.monotonic() + random.uniform(0.0, interval)  # noqa: S311  # jitter, not a secret
    while not poll.poll(max(0.0, due - time.monotonic()) * 1000):
        _send(job, {"message": "heartbeat"}, min(MESSAGE_SECONDS, max(interval, 10.0)))
        due = max(due + interval, time.monotonic() + 0.1)
    status = exit_status(pid, runtime)
    _send(job, {"message": "unloaded", "exit_status": status}, END_SECONDS)


def exit_status(pid: int, runtime: int) -> int | None:
    """How a process ended that is not our child: a number, negative for a signal, or None where nobody says.

    Its parent may have taken the status already; since Linux 6.15 the pidfd remembers it.
    """
    for _ in range(10):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if stat[0] == "Z":
                return os.waitstatus_to_exitcode(int(stat[-1]))
        with contextlib.suppress(OSError, ValueError):
            info = bytearray(struct.pack("=Q56x", _PIDFD_INFO_EXIT))
            fcntl.ioctl(runtime, _PIDFD_GET_INFO, info)
            mask, code = struct.unpack("=Q52xi", info)
            if mask & _PIDFD_INFO_EXIT:
                return os.waitstatus_to_exitcode(code)
        time.sleep(0.02)
    return None


def _send(job: Mapping[str, Any], message: Mapping[str, Any], seconds: float) -> None:
    """One message by a process of its own: its memory is given back, and what goes wrong in it ends there."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-P", "-m", "modelreg.heartbeats"],
            input=json.dumps({**job, **message}).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )


def keep_memory_private() -> None:
    """Let nobody but root read this process's memory and environment: the runtime runs as the same user."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
