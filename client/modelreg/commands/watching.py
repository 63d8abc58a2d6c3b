"""watch: a host's daemon, or one round of it for cron."""

import argparse
import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any, NoReturn

from modelreg import watch
from modelreg.commands import Output, now, output_of, printable, settings_of
from modelreg.commands.session import connect
from modelreg.errors import Invalid, ModelregError, StaleTrust

SCHEMA = "modelreg/watch/v1"
MIN_INTERVAL_SECONDS = 1.0
ALTERED, RUNNING = 20, 21


def run_watch(options: argparse.Namespace) -> int:
    """`modelreg watch [--once] [--interval S] [--full] [--remove] [--stop-seconds S] [--on-recall CMD …]`."""
    settings, output = settings_of(options), output_of(options)
    wanted = _wanted(options)
    if options.once:
        found = watch.look(settings, lambda: connect(settings), wanted, now(), output.note)
        _print(output, found)
        if found.unseen_processes and os.geteuid() != 0:
            output.note(f"processes of others that could not be looked at: {found.unseen_processes}; root sees them")
        return _code(found)
    signal.signal(signal.SIGTERM, _end)
    said: watch.Round | None = None
    notes: list[str] = []
    while True:
        began = time.monotonic()
        before, notes = notes, []
        try:
            found = watch.look(settings, lambda: connect(settings), wanted, now(), notes.append)
            if said is None or replace(found, unseen_processes=0) != replace(said, unseen_processes=0):
                _print(output, found)
                sys.stdout.flush()
            said = found
        except (ModelregError, OSError) as error:
            # A daemon that ends at the first fault watches nothing any more.
            output.error(error if isinstance(error, ModelregError) else ModelregError(str(error)))
        for note in notes:
            if note not in before:  # a log holds what changed, not the same every minute
                output.note(note)
        time.sleep(max(0.0, options.interval - (time.monotonic() - began)))


def _wanted(options: argparse.Namespace) -> watch.Options:
    if not MIN_INTERVAL_SECONDS <= options.interval <= 86400:
        raise Invalid("--interval takes 1 to 86400 seconds", field="interval")
    if not 0 <= options.stop_seconds <= 3600:
        raise Invalid("--stop-seconds takes 0 to 3600", field="stop-seconds")
    command = tuple(options.on_recall[1:] if options.on_recall[:1] == ["--"] else options.on_recall)
    for word in command:
        if any(name in word and name != word for name in watch.PLACEHOLDERS):
            raise Invalid(
                f"{word!r}: {', '.join(watch.PLACEHOLDERS)} stand as words of their own; there is no shell",
                field="on-recall",
            )
    return watch.Options(command, options.remove, options.full, options.stop_seconds)


def _print(output: Output, found: watch.Round) -> None:
    recalled: list[dict[str, Any]] = [{**vars(item), "artifact": str(item.artifact)} for item in found.recalled]
    altered = [{**vars(item), "artifact": str(item.artifact)} for item in found.altered]
    if found.offline is not None:
        output.note(f"the registry was not heard: {found.offline}; {found.waiting} messages wait")
    if found.stale is not None:
        output.note(f"trust data is stale: {found.stale}")
    for artifact, why in found.unfit.items():
        output.note(f"{artifact} would not be launched any more: {why}")
    lines = [f"ALTERED  {item.repository}@{item.artifact}: {item}" for item in found.altered]
    alarms = list(lines)
    for item in found.recalled:
        pids = f" by {', '.join(map(str, item.processes))}" if item.processes else ""
        lines.append(f"RECALLED {item.artifact} ({item.kind}: {item.reason}): {item.state}{pids}")
        alarms += lines[-1:] if item.state == "running" else []
    if output.quiet and not output.as_json:
        for line in alarms:  # cron mails what is printed, and nobody mails an exit code
            print(printable(line), file=sys.stderr)
    lines.append(f"{found.held} artifacts held, {len(altered)} files altered, {len(recalled)} recalled")
    output.result(
        {
            "schema": SCHEMA,
            "as_of": now(),
            "held": found.held,
            "offline": found.offline,
            "stale": found.stale,
            "altered": altered,
            "recalled": recalled,
            "unfit": found.unfit,
            "unseen_processes": found.unseen_processes,
            "waiting": found.waiting,
        },
        *map(printable, lines),
    )


def _code(found: watch.Round) -> int:
    if found.altered:
        return ALTERED
    if any(item.state == "running" for item in found.recalled):
        return RUNNING
    return StaleTrust.exit_code if found.stale is not None else 0


def _end(_signal: int, _frame: object) -> NoReturn:
    """SIGTERM: what is half done is done again by the next round; nothing is written halfway."""
    raise SystemExit(0)
