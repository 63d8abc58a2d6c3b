"""One message of the sidecar: that a load still runs, or that it has ended. Reads its job from stdin, as JSON.

The end is on disk before it is sent, so that a registry that is away hears of it later, from any command of this machine.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from modelreg.errors import ModelregError, NotFound
from modelreg.sidecar import keep_memory_private


def main() -> int:
    """Send the message; 0 if the registry has heard it."""
    keep_memory_private()
    job = json.load(sys.stdin)
    os.environ.update(job["environment"])
    try:
        return 0 if send(job) else 1
    except ModelregError:
        return 1


def send(job: Mapping[str, Any]) -> bool:
    """Send what waits and then the message; returns whether the registry has it.

    Raises:
        ModelregError: why not.
    """
    from modelreg import pinned, reports  # noqa: PLC0415  # a damaged installation is an exit code, not a traceback
    from modelreg.login import connect  # noqa: PLC0415
    from modelreg.outbox import Queued  # noqa: PLC0415
    from modelreg.settings import Settings  # noqa: PLC0415

    settings = Settings.load(job["settings"])
    machine = reports.machine_of(settings)
    if job["message"] == "unloaded":
        told = Queued(**job["told"])
        status = job["exit_status"]
        reason = "ended, how was not seen" if status is None else f"ended with {status}"
        if status is not None and status < 0:
            reason = f"ended by signal {-status}"
        report = {"reason": reason, "exit_status": status}
        ended = Queued("unloaded", job["load"], told.repository, told.artifact, told.host, told.purpose, report)
        reports.queue(machine.outbox, ended, machine.host_key)
    api = connect(settings)
    delivered = reports.deliver(api, pinned.policy_of(settings), machine)
    if job["message"] == "heartbeat":
        try:
            api.report_heartbeat(job["load"])
        except NotFound:
            return False  # the load itself still waits to be told
    return not delivered.left


if __name__ == "__main__":
    sys.exit(main())
