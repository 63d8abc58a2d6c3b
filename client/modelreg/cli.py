"""`modelreg`: the commands. Each is imported when it runs, so that `--help` stays quick."""

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelreg import __version__
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
 14 trust data stale            130 interrupted"""


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
    _looking(commands, common, top)
    _trust(commands, common)
    _account(commands, common)
    _access(commands, common)
    _hosts(commands, common)
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
    push = commands.add_parser("push", parents=[common], help="sign a folder and publish it")
    push.add_argument("path", type=Path, help="the folder of files")
    push.add_argument("reference", metavar="REF", help="namespace/name[:tag]; the tag is `latest` where none is given")
    push.add_argument("--tag", action="append", default=[], help="a further tag, moved in the same transaction")
    push.add_argument("--key", metavar="FILE|URI", help="private key to sign with, or its pkcs11: or awskms: URI")
    push.add_argument("--certificate", type=Path, help="its certificate chain; without one the key method is used")
    push.add_argument("--timestamp-url", metavar="URL", help="time-stamping authority to ask instead of the registry's")
    push.add_argument("--no-timestamp", action="store_true", help="sign without a trusted time")
    push.add_argument(
        "--sign",
        choices=["key", "certificate", "keyless"],
        help="the method; else by certificate where there is one, by key where not",
    )
    push.add_argument(
        "--sigstore-config",
        type=Path,
        metavar="FILE",
        help="keyless: a Sigstore's client trust configuration (MODELREG_SIGSTORE_CONFIG); else the public instance",
    )
    push.add_argument(
        "--sigstore-token-file",
        type=Path,
        metavar="FILE",
        help="keyless: the OIDC token; else MODELREG_SIGSTORE_TOKEN, else what the CI offers",
    )
    push.set_defaults(run="weights:run_push")

    pull = commands.add_parser("pull", parents=[common], help="fetch an artifact and verify every byte")
    pull.add_argument("reference", metavar="REF", help="namespace/name[:tag][@sha256:…]")
    pull.add_argument("--output", "-o", type=Path, metavar="DIR", help="copy it here; else it stays in the local store")
    pull.set_defaults(run="weights:run_pull")

    verify = commands.add_parser(
        "verify", parents=[common], help="verify what is on this machine, without the registry"
    )
    verify.add_argument("target", metavar="DIR|REF", help="a folder with a signature, or an artifact pulled before")
    verify.add_argument("--repository", metavar="NAME", help="for a folder: whose rules of the trust policy apply")
    verify.add_argument("--signature", type=Path, metavar="FILE", help="for a folder: the OMS bundle (model.sig in it)")
    verify.add_argument("--ignore", action="append", default=[], metavar="NAME", help="for a folder: a name at its top")
    verify.set_defaults(run="verifying:run_verify")

    launch = commands.add_parser("launch", parents=[common], help="verify again, record the load, start a runtime")
    launch.add_argument("reference", metavar="REF", help="namespace/name[:tag][@sha256:…]")
    launch.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD …", help="{model} becomes the folder")
    launch.set_defaults(run="weights:run_launch")


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
    show.set_defaults(run="looking:run_show")

    tag = commands.add_parser("tag", parents=[common], help="move a tag, list tags, show a tag's history")
    tag.add_argument("reference", metavar="REF")
    tag.add_argument("new", nargs="?", metavar="TAG", help="the tag to point at REF")
    tag.set_defaults(run="looking:run_tag")

    log = commands.add_parser("log", parents=[common], help="custody events: who pushed, pulled, loaded what")
    log.add_argument("reference", nargs="?", metavar="REF", help="a repository, an artifact, or its bare digest")
    log.add_argument("--type", action="append", default=[], help="only this type, such as artifact.loaded")
    log.add_argument("--limit", type=int, default=100, help="the newest so many")
    log.set_defaults(run="looking:run_log")

    config = commands.add_parser("config", help="the client's settings")
    shown = config.add_subparsers(required=True, metavar="show").add_parser("show", parents=[common], help="print them")
    shown.add_argument("--origin", action="store_true", help="and where each comes from")
    shown.set_defaults(run="looking:run_config")

    completion = commands.add_parser("completion", parents=[common], help="a completion script for your shell")
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    completion.set_defaults(run="looking:run_completion", parser=top)


def _trust(commands: "Commands", common: argparse.ArgumentParser) -> None:
    trust = commands.add_parser("trust", help="a small PKI, and what is pinned").add_subparsers(
        required=True, metavar="init|issue|issue-tsa|show"
    )
    init = trust.add_parser("init", parents=[common], help="make a root, an intermediate and a trust policy")
    init.add_argument("directory", type=Path)
    init.add_argument("--name", default="modelreg", help="common name of the authorities")
    init.add_argument(
        "--repository", action="append", required=True, metavar="GLOB", help="whose signers it decides on"
    )
    init.add_argument(
        "--identity", action="append", required=True, metavar="GLOB", help="who may sign: email:… or uri:…"
    )
    init.add_argument(
        "--password", action="store_true", help="encrypt the private keys (asks, or MODELREG_KEY_PASSWORD)"
    )
    init.set_defaults(run="trusting:run_init")

    issue = trust.add_parser("issue", parents=[common], help="issue a signer's key and certificate")
    issue.add_argument("directory", type=Path)
    issue.add_argument("identity", help="email:name@example.org or uri:spiffe://domain/path")
    issue.add_argument("--days", type=int, default=90)
    issue.add_argument("--output", type=Path, metavar="STEM", help="where to: STEM.key.pem and STEM.chain.pem")
    issue.add_argument("--password", action="store_true", help="the intermediate's key is encrypted")
    issue.add_argument("--key-password", action="store_true", help="encrypt the new key")
    issue.set_defaults(run="trusting:run_issue")

    tsa = trust.add_parser("issue-tsa", parents=[common], help="issue the registry's time-stamping authority")
    tsa.add_argument("directory", type=Path)
    tsa.add_argument("--name", default="modelreg time-stamping authority", help="common name of its certificate")
    tsa.add_argument("--days", type=int, default=365)
    tsa.add_argument("--output", type=Path, metavar="STEM", help="where to: STEM.key.pem and STEM.chain.pem")
    tsa.add_argument("--password", action="store_true", help="the intermediate's key is encrypted")
    tsa.add_argument("--key-password", action="store_true", help="encrypt the new key")
    tsa.set_defaults(run="trusting:run_issue_tsa")

    show = trust.add_parser("show", parents=[common], help="what is pinned on this machine")
    show.set_defaults(run="trusting:run_show")


def _account(commands: "Commands", common: argparse.ArgumentParser) -> None:
    login = commands.add_parser(
        "login", parents=[common], help="log in: in the browser, by device, as a workload, by token"
    )
    how = login.add_mutually_exclusive_group()
    how.add_argument("--device", action="store_true", help="show a code to type into a browser on another machine")
    how.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")
    how.add_argument(
        "--workload", action="store_true", default=None, help="exchange this job's or pod's token (MODELREG_WORKLOAD)"
    )
    how.add_argument("--token-stdin", action="store_true", help="read a token of the registry from stdin")
    login.add_argument("--issuer", metavar="NAME", help="the provider to log in at, where the registry names several")
    login.add_argument(
        "--identity-token-file", type=Path, metavar="FILE", help="the workload's token (MODELREG_IDENTITY_TOKEN_FILE)"
    )
    login.add_argument("--audience", help="what to ask the CI system's token for (the registry's address)")
    login.set_defaults(run="account:run_login")
    commands.add_parser("whoami", parents=[common], help="who the registry thinks you are").set_defaults(
        run="account:run_whoami"
    )
    commands.add_parser("logout", parents=[common], help="forget the login, and end it at the provider").set_defaults(
        run="account:run_logout"
    )

    token = commands.add_parser("token", help="issue, list and revoke tokens (admin)").add_subparsers(
        required=True, metavar="create|list|revoke"
    )
    create = token.add_parser("create", parents=[common], help="issue a token; it is shown once")
    create.add_argument("principal", help="such as person:alice or workload:ci")
    create.add_argument(
        "--scope",
        action="append",
        help="verb:repository-pattern, such as pull:acme/*; without one it has the principal's access grants",
    )
    create.add_argument("--expires", default="30d", help="15m, 12h, 30d; at most 366d")
    create.set_defaults(run="account:run_token_create")
    token.add_parser("list", parents=[common], help="list tokens").set_defaults(run="account:run_token_list")
    revoke = token.add_parser("revoke", parents=[common], help="end a token")
    revoke.add_argument("id")
    revoke.set_defaults(run="account:run_token_revoke")


def _access(commands: "Commands", common: argparse.ArgumentParser) -> None:
    conditions = argparse.ArgumentParser(add_help=False)
    conditions.add_argument("--environment", help="such as production")
    conditions.add_argument("--host-class", choices=["server", "workstation", "ci"], help="of the verified host")
    conditions.add_argument("--zone", help="of the verified host")

    access = commands.add_parser("access", help="who may do what, and why (admin)").add_subparsers(
        required=True, metavar="grant|list|revoke|explain"
    )
    grant = access.add_parser("grant", parents=[common, conditions], help="give a subject a verb, on conditions")
    grant.add_argument("subject", help="such as person:alice, workload:ci or host:gpu-*")
    grant.add_argument("verb", help="pull (includes read-metadata), push, sign, tag, audit, admin …")
    grant.add_argument("repository", help="a pattern such as acme/*")
    grant.add_argument("--until", metavar="DURATION", help="15m, 12h, 30d; without one until it is revoked")
    grant.set_defaults(run="access:run_grant")
    listed = access.add_parser("list", parents=[common], help="list access grants")
    listed.add_argument("--subject", help="only those that name it")
    listed.set_defaults(run="access:run_list")
    revoke = access.add_parser("revoke", parents=[common], help="end an access grant")
    revoke.add_argument("id")
    revoke.set_defaults(run="access:run_revoke")
    explain = access.add_parser("explain", parents=[common, conditions], help="whether somebody may, with every reason")
    explain.add_argument("subject", metavar="WHO")
    explain.add_argument("verb", metavar="VERB")
    explain.add_argument("reference", metavar="REF")
    explain.set_defaults(run="access:run_explain")

    repository = commands.add_parser("repository", help="what is set for a repository (admin)").add_subparsers(
        required=True, metavar="set"
    )
    changed = repository.add_parser("set", parents=[common], help="change it")
    changed.add_argument("name", metavar="NAME")
    sensitive = changed.add_mutually_exclusive_group(required=True)
    sensitive.add_argument(
        "--sensitive", action="store_true", help="bytes go to verified hosts that are no workstations"
    )
    sensitive.add_argument("--not-sensitive", action="store_false", dest="sensitive", help="the default")
    changed.set_defaults(run="access:run_repository_set")


def _hosts(commands: "Commands", common: argparse.ArgumentParser) -> None:
    host = commands.add_parser("host", help="machines the registry knows by their key").add_subparsers(
        required=True, metavar="invite|enroll|list|show|revoke"
    )
    invite = host.add_parser("invite", parents=[common], help="say what a machine is; prints a one-time token (admin)")
    invite.add_argument("name")
    invite.add_argument("--class", dest="host_class", choices=["server", "workstation", "ci"], required=True)
    invite.add_argument("--zone", required=True, help="where it stands, such as eu-1")
    invite.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    invite.add_argument("--expires", default="1d", help="15m, 12h, 1d; at most 30d")
    invite.set_defaults(run="hosts:run_invite")
    enroll = host.add_parser("enroll", parents=[common], help="on the machine: make its key and become that host")
    enroll.add_argument("--token-stdin", action="store_true", help="read the enrolment token from stdin")
    enroll.add_argument("--replace", action="store_true", help="make a new key, forgetting an earlier enrolment")
    enroll.set_defaults(run="hosts:run_enroll")
    host.add_parser("list", parents=[common], help="list hosts and open invitations").set_defaults(run="hosts:run_list")
    for name, text in (("show", "what is recorded of a host"), ("revoke", "end a host and its invitations")):
        command = host.add_parser(name, parents=[common], help=text)
        command.add_argument("name")
        command.set_defaults(run=f"hosts:run_{name}")


if __name__ == "__main__":
    sys.exit(main())
