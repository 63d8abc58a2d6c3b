"""`modelreg-server log key | verify | recover | erase-identity | republish`: the operator's side of the custody log."""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime

from sqlmodel import select

from modelreg.tiles import WIDTH
from modelreg_server import database, log_copies, log_erasing, log_keys, log_recovery, log_verifying, log_workers
from modelreg_server.app import open_log, open_store
from modelreg_server.custody_tree import CustodyHead
from modelreg_server.database import Database
from modelreg_server.log_copies import Copies
from modelreg_server.log_verifying import Report
from modelreg_server.migrations import require_current
from modelreg_server.settings import Settings

NOT_INTACT = 32
_SHOWN = 20
SettingsOf = Callable[[argparse.Namespace], Settings]


def add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
    settings_of: SettingsOf,
) -> None:
    """Add the commands."""
    log = commands.add_parser("log", help="the custody log: its key, whether it is intact, recovery").add_subparsers(
        required=True, metavar="key|verify|recover|erase-identity|republish"
    )

    def command(name: str, text: str, run: Callable[[argparse.Namespace, Settings], int]) -> argparse.ArgumentParser:
        parser = log.add_parser(name, parents=[common], help=text)
        parser.set_defaults(run=lambda options: run(options, settings_of(options)))
        return parser

    command("key", "print the log's public key, and what a trust policy pins of it", _key)
    verify = command("verify", "recompute the whole log; name the first index that is wrong, exit 32", _verify)
    verify.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (one a CPU)")
    verify.add_argument("--copies", action="store_true", help="read every published tile and entry as well")
    verify.add_argument("--json", action="store_true", help="answer in JSON")
    command("recover", "bring a restored, older database forward from the published copies", _recover)
    erase = command("erase-identity", "forget who a person or workload was", _erase)
    erase.add_argument("principal", metavar="PRINCIPAL", help="such as person:alice")
    erase.add_argument("--reason", default="", help="a line for the log, which stays: never the name")
    command("republish", "write all published copies anew", _republish)


def _opened(settings: Settings, *, check: bool) -> tuple[Database, Copies]:
    opened = database.connect(settings.resolved_database_url, 4)
    require_current(opened.engine)
    return open_log(settings, opened, open_store(settings)[0], datetime.now(UTC), check=check)


def _key(_options: argparse.Namespace, settings: Settings) -> int:
    opened = database.connect(settings.resolved_database_url, 2)
    require_current(opened.engine)
    signer = log_keys.open_signer(settings, opened)
    vkey = log_keys.verifier_of(signer)
    print(vkey)
    print("\n# For the trust policy of everybody who verifies receipts of this registry:")
    print(f"[log]\norigin = {json.dumps(signer.origin)}\nkeys = [{json.dumps(str(vkey))}]")
    return 0


def _verify(options: argparse.Namespace, settings: Settings) -> int:
    opened, copies = _opened(settings, check=False)
    with opened.reading() as session:
        size = session.exec(select(CustodyHead.size)).one_or_none() or 0
    jobs = min(options.jobs, -(-size // log_verifying.SEGMENT))
    with log_workers.worker_segments(settings.resolved_database_url, jobs) as segments, opened.reading() as session:
        report = log_verifying.verify(database.one_state(session), copies, segments)
    if options.copies and report.published_size is not None:
        report = replace(report, findings=(*report.findings, *log_verifying.copies_findings(copies)))
    if options.json:
        print(json.dumps({**asdict(report), "root": report.root.hex() if report.root else None}, indent=2))
    else:
        _print(report, copies)
    return NOT_INTACT if report.findings else 0


def _print(report: Report, copies: Copies) -> None:
    for finding in report.findings[:_SHOWN]:
        print(f"event {finding.index}: {finding.what}" if finding.index is not None else f"the log: {finding.what}")
    if len(report.findings) > _SHOWN:
        print(f"and {len(report.findings) - _SHOWN} more findings")
    if report.findings:
        index = report.findings[0].index
        where = f"the first index that is wrong is {index}" if index is not None else "no single entry can be named"
        print(f"NOT INTACT: {report.size} events, {where}")
        return
    signed = "signed" if report.signed else "not signed yet (it will be with the next event)"
    print(f"intact: {report.size} events of {copies.signer.origin}, {signed}")
    if report.published_size is None:
        print("nothing is published in the blob store to compare with")
    else:
        print(f"continues what was published: {report.published_size} events")


def _recover(_options: argparse.Namespace, settings: Settings) -> int:
    opened, copies = _opened(settings, check=False)
    recovered = log_recovery.recover(opened, copies, datetime.now(UTC))
    log_recovery.require_something(recovered)
    count = recovered.stop - recovered.start
    print(
        f"restored {count} events, {recovered.start} to {recovered.stop - 1}, and who stands in them where not erased"
    )
    if recovered.erased:
        print(f"forgot {recovered.erased} principals again who were erased after the backup was made")
    print("Events are back; rows of other tables are not made from them. The restored events speak of:")
    for kind, names in sorted(recovered.spoken_of.items()):
        print(f"  {kind} ({len(names)})")
        for name in names:
            print(f"    {name}")
    print("Tokens, access grants and hosts that were revoked after the backup are valid again: revoke them again.")
    print(
        "Artifacts that were recalled after it are served again: recall them again; `log verify` names them, and tags."
    )
    return 0


def _erase(options: argparse.Namespace, settings: Settings) -> int:
    opened, copies = _opened(settings, check=True)
    erased = log_erasing.erase(opened, copies, options.principal, options.reason, datetime.now(UTC))
    print(f"erased {erased.openings} openings and {erased.rows} names in other tables (event {erased.event})")
    if erased.not_erasable:
        listed = ", ".join(map(str, erased.not_erasable[:_SHOWN]))
        print(
            f"NOT erasable: {len(erased.not_erasable)} events of an earlier release hold the name themselves: {listed}"
            + (" …" if len(erased.not_erasable) > _SHOWN else "")
        )
    print(
        "Signatures, certificates and promotion facts that name them, backups, and old versions in the bucket are untouched."
    )
    return 0


def _republish(_options: argparse.Namespace, settings: Settings) -> int:
    opened, copies = _opened(settings, check=True)
    with opened.reading() as session:
        size = log_copies.publish(session, copies, 0)
    print(f"published {size} events in {-(-size // WIDTH)} bundles")
    return 0
