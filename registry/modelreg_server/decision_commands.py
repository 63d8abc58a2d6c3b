"""`modelreg-server decisions replay | export`: the operator's side of promotion decisions."""

import argparse
from collections.abc import Callable
from pathlib import Path

from modelreg.durable import make_folder, replace_file
from modelreg.trust import LogTrust
from modelreg_server import database, log_keys, promotion_replay
from modelreg_server.migrations import require_current
from modelreg_server.settings import Settings

FINDINGS = 40
SettingsOf = Callable[[argparse.Namespace], Settings]


def add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
    settings_of: SettingsOf,
) -> None:
    """Add the commands."""
    decisions = commands.add_parser("decisions", help="promotion decisions: make them again, export their facts")
    nested = decisions.add_subparsers(required=True, metavar="replay|export")
    replay = nested.add_parser(
        "replay", parents=[common], help="evaluate stored decisions again; name the first that differs, exit 40"
    )
    replay.set_defaults(run=lambda options: _replay(options, settings_of(options)))
    export = nested.add_parser(
        "export",
        parents=[common],
        help="write stored decisions with their facts: cases for `modelreg policy test|diff`",
    )
    export.add_argument("directory", type=Path, metavar="DIR")
    export.set_defaults(run=lambda options: _export(options, settings_of(options)))
    for command in (replay, export):
        command.add_argument("--limit", type=_count, metavar="N", help="only the newest so many")


def _replay(options: argparse.Namespace, settings: Settings) -> int:
    opened = database.connect(settings.resolved_database_url, 2)
    require_current(opened.engine)
    signer = log_keys.open_signer(settings, opened, check=False)
    trusted = LogTrust(signer.origin, (log_keys.verifier_of(signer),))
    count = 0
    with opened.reading() as session:
        for row, raw_policy in promotion_replay.stored(session, options.limit):
            found = promotion_replay.difference(row, raw_policy) or promotion_replay.verdict_difference(row, trusted)
            if found is not None:
                print(
                    f"DIFFERS: decision {row.id} (event {row.event_index}), {row.repository}@{row.artifact_digest} in"
                )
                print(f"{row.environment}: {found}")
                print(f"{count} decisions before it are the same")
                return FINDINGS
            count += 1
    print(f"the same: {count} decisions, made again from their stored policies and facts; every verdict is signed")
    return 0


def _export(options: argparse.Namespace, settings: Settings) -> int:
    opened = database.connect(settings.resolved_database_url, 2)
    require_current(opened.engine)
    make_folder(options.directory)
    count = 0
    with opened.reading() as session:
        for row, _ in promotion_replay.stored(session, options.limit):
            case = b'{"decision":%s,"facts":%s}' % (row.decision, row.facts)
            replace_file(options.directory / f"{row.id:08}-{row.environment}.json", case)
            count += 1
    print(f"wrote {count} decisions with their facts to {options.directory}")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("write a number from 1")
    return int(text)
