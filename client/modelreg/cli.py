"""`modelreg`: the commands. Each is imported when it runs, so that `--help` stays quick."""

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelreg import __version__, describing, operating, promotion_arguments, sourcing
from modelreg.classification import Classification
from modelreg.errors import Misconfigured, ModelregError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name for it

_EXIT_CODES = """exit codes:
  0 done and verified            20 digest mismatch
  1 other failure                21 revoked or quarantined
  2 usage                        22 policy refused
 10 no signature                 30 not authenticated or not allowed
 11 not found                    31 unreachable
 12 signer not allowed           32 custody log unavailable
 13 signature invalid            40 findings
 14 trust data stale            130 interrupted
 23 provenance incomplete"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code. Every failure is one sentence on stderr, never a traceback."""
    options = parser().parse_args(arguments)
    module, function = options.run.split(":")
    from modelreg.commands import Output  # noqa: PLC0415

    output = Output(options.json, options.quiet)
    try:
        run = getattr(importlib.import_module(f"modelreg.commands.{module}"), function)
        code = int(run(options))
        sys.stdout.flush()  # here, where a reader who left is known
        return code
    except ModelregError as error:
        output.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `modelreg … | head` ends quietly, as other tools do. Not by SIGPIPE: a peer that hangs up would end us as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        output.error(Misconfigured(f"{where}{error.strerror or error}"))
        return Misconfigured.exit_code
    except Exception as error:
        if os.environ.get("MODELREG_DEBUG"):
            raise
        output.error(ModelregError(f"{type(error).__name__}: {error} (a bug; MODELREG_DEBUG=1 shows where)"))
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="modelreg",
        description="Signed model weights: push, pull, verify and launch with a recorded chain of custody.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"modelreg {__version__}")
    common = _common()
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _weights(commands, common)
    _receipts(commands, common)
    _looking(commands, common, top)
    _comparing(commands, common)
    _scanning(commands, common)
    _evidence(commands, common)
    _records(commands, common)
    _witness(commands, common)
    _recall(commands, common)
    _asking(commands, common)
    sourcing.add(commands, common)
    describing.add(commands, common)
    promotion_arguments.add(commands, common)
    operating.add(commands, common)
    return top


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("common options")
    group.add_argument("--registry", metavar="URL", help="the registry (MODELREG_REGISTRY)")
    group.add_argument(
        "--trust-policy", type=Path, metavar="FILE", help="the pinned trust policy (MODELREG_TRUST_POLICY)"
    )
    group.add_argument("--cache-dir", type=Path, metavar="DIR", help="the local content store (MODELREG_CACHE_DIR)")
    group.add_argument("--json", action="store_true", help="answer in JSON")
    group.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    return common


def _weights(commands: "Commands", common: argparse.ArgumentParser) -> None:
    push = commands.add_parser(
        "push", parents=[common, describing.signing_options()], help="sign a folder and publish it"
    )
    push.add_argument("path", type=Path, help="the folder of files")
    push.add_argument("reference", metavar="REF", help="namespace/name[:tag]; the tag is `latest` where none is given")
    push.add_argument("--tag", action="append", default=[], help="a further tag, moved in the same transaction")
    push.add_argument(
        "--base", action="append", default=[], metavar="REF|DIGEST", help="what it was made from; signed as provenance"
    )
    push.add_argument(
        "--dataset", action="append", default=[], metavar="NAME|DIGEST", help="with what; see `modelreg dataset`"
    )
    push.add_argument("--training-run", metavar="URI", help="where that can be looked up")
    push.add_argument(
        "--class",
        dest="classification",
        choices=list(Classification),
        help="how sensitive it is: at least as what it was made from",
    )
    push.add_argument(
        "--relation",
        choices=["finetune", "adapter", "merge", "quantized", "converted", "distilled"],
        help="how, for every --base (finetune)",
    )
    push.set_defaults(run="weights:run_push")

    pull = commands.add_parser("pull", parents=[common], help="fetch an artifact and verify every byte")
    pull.add_argument("reference", metavar="REF", help="namespace/name[:tag][@sha256:…]")
    pull.add_argument("--output", "-o", type=Path, metavar="DIR", help="copy it here; else it stays in the local store")
    pull.add_argument("--receipt", type=Path, metavar="FILE", help="write the receipt of the grant here as well")
    pull.add_argument(
        "--env", dest="environment", metavar="ENV", help="where it shall serve: it must be promoted there"
    )
    pull.set_defaults(run="weights:run_pull")

    verify = commands.add_parser(
        "verify", parents=[common], help="verify what is on this machine, without the registry"
    )
    verify.add_argument("target", metavar="DIR|REF", help="a folder with a signature, or an artifact pulled before")
    verify.add_argument("--repository", metavar="NAME", help="for a folder: whose rules of the trust policy apply")
    verify.add_argument("--signature", type=Path, metavar="FILE", help="for a folder: the OMS bundle (model.sig in it)")
    verify.add_argument("--ignore", action="append", default=[], metavar="NAME", help="for a folder: a name at its top")
    verify.set_defaults(run="verifying:run_verify")

    late = argparse.ArgumentParser(prog="modelreg launch", add_help=False)  # these may stand behind REF as well
    late.add_argument("--adapter", metavar="REF", help="an adapter on top, which must be for this base; {adapter}")
    late.add_argument(
        "--offline", action="store_true", help="do not ask the registry; as far as the trust policy allows"
    )
    late.add_argument(
        "--env",
        dest="environment",
        metavar="ENV",
        help="where it serves: only with the registry's permit; offline until that ends",
    )
    beats = late.add_mutually_exclusive_group()
    beats.add_argument(
        "--heartbeat",
        type=_seconds,
        default=120,
        metavar="SECONDS",
        help="say that it runs so often (120), and when it ends",
    )
    beats.add_argument(
        "--no-heartbeat",
        dest="heartbeat",
        action="store_const",
        const=None,
        help="leave no process behind that says so",
    )
    launch = commands.add_parser(
        "launch", parents=[common, late], help="verify again, record the load, start a runtime"
    )
    launch.add_argument("reference", metavar="REF", help="namespace/name[:tag][@sha256:…]")
    launch.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD …", help="{model} becomes the folder")
    launch.set_defaults(run="weights:run_launch", late=late)


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 86400:
        raise argparse.ArgumentTypeError("write seconds, from 1 to 86400")
    return int(text)


def _receipts(commands: "Commands", common: argparse.ArgumentParser) -> None:
    receipt = commands.add_parser("receipt", help="proofs from the custody log, verified offline").add_subparsers(
        required=True, metavar="verify|show"
    )
    verify = receipt.add_parser("verify", parents=[common], help="verify a receipt with the log's public key")
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.add_argument("--log", metavar="VKEY|policy", help="the log's verifier key; else the trust policy's [log]")
    verify.set_defaults(run="receipts:run_verify")
    show = receipt.add_parser("show", parents=[common], help="the receipt kept with an artifact of the local store")
    show.add_argument("reference", metavar="REF")
    show.add_argument("--raw", action="store_true", help="print the receipt itself")
    show.set_defaults(run="receipts:run_show")
    report = commands.add_parser("report", parents=[common], help="tell the registry what it could not be told before")
    report.set_defaults(run="receipts:run_report")


def _looking(
    commands: "Commands",
    common: argparse.ArgumentParser,
    top: argparse.ArgumentParser,
) -> None:
    ls = commands.add_parser("ls", parents=[common], help="list repositories, or the artifacts of one")
    ls.add_argument("repository", nargs="?")
    ls.set_defaults(run="looking:run_ls")

    show = commands.add_parser("show", parents=[common], help="what is recorded about an artifact")
    show.add_argument("reference", metavar="REF")
    show.add_argument("--card", action="store_true", help="and its model card, verified (a pull, where it is not here)")
    show.set_defaults(run="looking:run_show")

    tag = commands.add_parser("tag", parents=[common], help="move a tag, list tags, show a tag's history")
    tag.add_argument("reference", metavar="REF")
    tag.add_argument("new", nargs="?", metavar="TAG", help="the tag to point at REF")
    tag.set_defaults(run="looking:run_tag")

    log = commands.add_parser(
        "log", parents=[common], help="custody events: who pushed, pulled, loaded what; verify them"
    )
    log.add_argument(
        "reference",
        nargs="?",
        metavar="REF|verify",
        help="a repository, an artifact, its digest; or `verify` the whole log",
    )
    log.add_argument("--type", action="append", default=[], help="only this type, such as artifact.loaded")
    log.add_argument("--limit", type=int, default=100, help="the newest so many")
    log.add_argument(
        "--copies",
        type=Path,
        metavar="DIR",
        help="with `verify`: a copy of the bucket's log/ORIGIN instead of the registry",
    )
    log.set_defaults(run="looking:run_log")

    config = commands.add_parser("config", help="the client's settings")
    shown = config.add_subparsers(required=True, metavar="show").add_parser("show", parents=[common], help="print them")
    shown.add_argument("--origin", action="store_true", help="and where each comes from")
    shown.set_defaults(run="looking:run_config")

    completion = commands.add_parser("completion", parents=[common], help="a completion script for your shell")
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    completion.set_defaults(run="looking:run_completion", parser=top)


def _comparing(commands: "Commands", common: argparse.ArgumentParser) -> None:
    diff = commands.add_parser(
        "diff", parents=[common], help="what differs: files, tensors, configuration; 40 if anything does"
    )
    diff.add_argument("before", metavar="REF|DIR", help="namespace/name[:tag][@sha256:…], or a folder")
    diff.add_argument("after", metavar="REF|DIR")
    diff.add_argument("--headers", action="store_true", help="tensors by name, type and shape only; nothing is pulled")
    diff.set_defaults(run="comparing:run_diff")


def _scanning(commands: "Commands", common: argparse.ArgumentParser) -> None:
    scan = commands.add_parser(
        "scan",
        parents=[common],
        help="what is in the files: formats, pickles, code, configuration; 40 if anything is found",
    )
    scan.add_argument("target", metavar="PATH|REF", help="a folder or file, scanned here; or what the registry stated")
    scan.add_argument("--again", action="store_true", help="have the registry scan REF with its rules of today (push)")
    scan.add_argument(
        "--picklescan", action="store_true", help="ask picklescan as well, in its strict mode (the extra `picklescan`)"
    )
    scan.set_defaults(run="scanning:run_scan")


def _evidence(commands: "Commands", common: argparse.ArgumentParser) -> None:
    evidence = commands.add_parser("evidence", help="what is recorded of an artifact, in one file").add_subparsers(
        required=True, metavar="create|verify"
    )
    create = evidence.add_parser("create", parents=[common], help="collect it from the registry (audit), and verify it")
    create.add_argument("reference", metavar="REF|DIGEST", help="namespace/name[:tag][@sha256:…], or sha256:…")
    create.add_argument("--output", "-o", type=Path, metavar="FILE", help="<digest>.evidence.json where none is given")
    create.add_argument("--without-identities", action="store_true", help="leave out who did it; commitments stay")
    create.set_defaults(run="evidencing:run_create")
    verify = evidence.add_parser("verify", parents=[common], help="check a file with the trust policy, without network")
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.add_argument("--artifact", metavar="DIGEST", help="refuse evidence of another artifact")
    verify.add_argument("--at", metavar="TIME", help="as of then: for certificates and the policy's own freshness")
    verify.set_defaults(run="evidencing:run_verify")


def _records(commands: "Commands", common: argparse.ArgumentParser) -> None:
    provenance = commands.add_parser(
        "provenance", parents=[common], help="the whole chain behind an artifact, verified; 23 if something is missing"
    )
    provenance.add_argument("reference", nargs="?", metavar="REF", help="namespace/name[:tag][@sha256:…]")
    provenance.add_argument("--output", "-o", type=Path, metavar="FILE", help="keep what it was verified from")
    provenance.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="verify a kept one instead, without the registry"
    )
    provenance.set_defaults(run="recording:run_provenance")

    bom = commands.add_parser("bom", parents=[common], help="a bill of materials: CycloneDX ML-BOM or SPDX 3")
    bom.add_argument("reference", metavar="REF", help="namespace/name[:tag][@sha256:…]")
    bom.add_argument("--format", choices=["cyclonedx", "spdx"], default="cyclonedx", help="(cyclonedx)")
    bom.add_argument("--spec-version", choices=["1.6", "1.7"], help="of CycloneDX (1.6)")
    bom.add_argument("--output", "-o", type=Path, metavar="FILE", help="else it goes to stdout")
    bom.add_argument(
        "--timestamp", metavar="TIME", help="the document's time; with it the bytes are the same every time"
    )
    bom.add_argument("--profile", choices=["g7-2026"], help="and report which minimum elements are filled")
    bom.set_defaults(run="recording:run_bom")

    inventory = commands.add_parser(
        "inventory", parents=[common], help="every artifact one may read: owner, class, state, environments, live loads"
    )
    inventory.add_argument("--owner", metavar="PRINCIPAL", help="only what they published, such as person:al")
    inventory.add_argument("--class", dest="classification", metavar="CLASS", help="only of this class")
    inventory.add_argument("--env", dest="environment", metavar="ENV", help="only what is promoted to it")
    inventory.set_defaults(run="recording:run_inventory")


def _witness(commands: "Commands", common: argparse.ArgumentParser) -> None:
    witness = commands.add_parser(
        "witness",
        parents=[common],
        help="vouch for custody logs of others: cosign their checkpoints while they only grow",
    )
    witness.add_argument("--listen", metavar="ADDRESS:PORT", help="such as 127.0.0.1:8471; TLS is a proxy's business")
    # Not `key`, which is a setting.
    witness.add_argument("--key", dest="witness_key", type=Path, metavar="FILE", help="what `witness init` made")
    witness.add_argument("--state", type=Path, metavar="DIR", help="what it has cosigned; never restore an older copy")
    witness.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="VKEY",
        help="a log's key; again for others, and while one is rotated",
    )
    witness.set_defaults(run="witnessing:run_serve")
    init = witness.add_subparsers(metavar="init").add_parser("init", parents=[common], help="make a witness's key")
    init.add_argument(
        "--key", dest="new_key", type=Path, metavar="FILE", required=True, help="where to; must not exist"
    )
    init.add_argument(
        "--name", required=True, help="such as witness.audit.example/w1: who it is, for those that pin it"
    )
    init.set_defaults(run="witnessing:run_init")


def _recall(commands: "Commands", common: argparse.ArgumentParser) -> None:
    signing = argparse.ArgumentParser(add_help=False)
    signing.add_argument("reference", metavar="REF", help="namespace/name[:tag][@sha256:…]; holds in every repository")
    signing.add_argument("--reason", required=True, help="a line for whoever is refused")
    signing.add_argument(
        "--repo",
        dest="directory",
        type=Path,
        metavar="DIR",
        help="the folder of `modelreg trust repo`: put it into the signed list that hosts obey offline",
    )
    signing.add_argument(
        "--key", dest="sign_with", type=Path, action="append", default=[], help="a key to sign with, beside DIR/keys"
    )
    signing.add_argument("--publish", action="store_true", help="and publish the list (admin)")
    reach = argparse.ArgumentParser(add_help=False)
    reach.add_argument("--cascade", action="store_true", help="also everything that was made from it")
    reach.add_argument("--dry-run", action="store_true", help="only show what it would reach; 40 if anything")
    for name, parents, text in (
        ("quarantine", [signing, reach], "serve it to nobody until it is released"),
        ("release", [signing], "lift a quarantine"),
        ("revoke", [signing, reach], "distrust it for good, wherever it is"),
    ):
        command = commands.add_parser(name, parents=[common, *parents], help=text)
        command.set_defaults(run=f"recalling:run_{name}")

    recall = commands.add_parser("recall", help="what is recalled, and who has not confirmed").add_subparsers(
        required=True, metavar="status|list"
    )
    status = recall.add_parser("status", parents=[common], help="hosts that have not confirmed come first; 40 if any")
    status.add_argument("subject", metavar="REF|ID", help="a reference, a digest, or the id of a recall")
    status.set_defaults(run="recalling:run_status")
    recall.add_parser("list", parents=[common], help="open recalls").set_defaults(run="recalling:run_list")

    watch = commands.add_parser(
        "watch", parents=[common], help="on a host: obey and confirm recalls, notice changed files"
    )
    watch.add_argument(
        "--once", action="store_true", help="one round, for cron: 20 files changed, 21 recalled and running"
    )
    watch.add_argument("--interval", type=float, default=60.0, metavar="SECONDS", help="between rounds (60)")
    watch.add_argument("--full", action="store_true", help="measure every file, also those that look untouched")
    watch.add_argument("--remove", action="store_true", help="take recalled artifacts out of the local store")
    watch.add_argument(
        "--stop-seconds", type=float, default=30.0, metavar="SECONDS", help="what a stopped runtime gets to end (30)"
    )
    watch.add_argument(
        "--on-recall",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="CMD",
        help="last: stops what runs a recalled artifact; the words {artifact}, {pid} and {path} are replaced; no shell",
    )
    watch.set_defaults(run="watching:run_watch")


def _asking(commands: "Commands", common: argparse.ArgumentParser) -> None:
    at = argparse.ArgumentParser(add_help=False)
    at.add_argument("--at", metavar="TIME", help="as it was then, such as 2026-11-01T00:00:00Z")
    rows = argparse.ArgumentParser(add_help=False)
    rows.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many rows of a kind (100)")
    exits = "exit codes: 40 if there is something to read, 0 if there is nothing; else as `modelreg --help` says"
    questions = (
        ("trace", "DIGEST|FILE|REF", "what is it: names, signers, state, relatives; signatures are verified", [at]),
        ("pulls", "DIGEST|FILE|REF", "who pulled it, on which host, and did it arrive", [at, rows]),
        ("loaded", "DIGEST|FILE|REF", "where is it loaded, now or at a time", [at, rows]),
        ("lineage", "DIGEST|FILE|REF", "what was it made from, and what was made of it", [at]),
        (
            "blast-radius",
            "DIGEST|FILE|REF|SIGNER|PRINCIPAL|HOST",
            "artifacts, descendants, pulls, hosts, live loads, whom to call",
            [at, rows],
        ),
        ("signatures", "DIGEST|FILE|REF", "who signed it, each verified here and now", [at]),
        (
            "timeline",
            "REF|DIGEST|FILE",
            "every event that names it, in order; of a repository alone all of it",
            [at, rows],
        ),
    )
    made = {}
    for name, metavar, text, more in questions:
        command = commands.add_parser(name, parents=[common, *more], help=text, epilog=exits)
        command.add_argument("target", metavar=metavar)
        command.set_defaults(run=f"asking:run_{name.replace('-', '_')}")
        made[name] = command
    made["pulls"].add_argument("--since", metavar="TIME", help="only from then on")
    made["loaded"].add_argument("--all", action="store_true", help="those that ended as well")
    made["lineage"].add_argument("--up", action="store_true", help="only what it was made from")
    made["lineage"].add_argument("--down", action="store_true", help="only what was made of it")


if __name__ == "__main__":
    sys.exit(main())
