"""The operator's commands as they are typed: trust, logins and tokens, access, hosts. Imports none of them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name for it


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add them to the command line."""
    _trust(commands, common)
    _account(commands, common)
    _access(commands, common)
    _hosts(commands, common)
    _policy(commands, common)


def _trust(commands: "Commands", common: argparse.ArgumentParser) -> None:
    trust = commands.add_parser("trust", help="what is trusted here, and the operator's side of it").add_subparsers(
        required=True, metavar="init|issue|issue-tsa|show|pin|repo|revoke"
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
        "--approver",
        action="append",
        default=[],
        metavar="GLOB",
        help="who may approve promotions, waive and declassify; without one nobody may",
    )
    init.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="VKEY",
        help="pin a custody log: what `modelreg-server init` printed",
    )
    init.add_argument(
        "--password", action="store_true", help="encrypt the private keys (asks, or MODELREG_KEY_PASSWORD)"
    )
    init.add_argument(
        "--distributed", action="store_true", help="the policy takes its revocations from the registry (`trust repo`)"
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
    keys = argparse.ArgumentParser(add_help=False)
    keys.add_argument(
        "--key",
        dest="sign_with",  # `key` is a setting
        type=Path,
        action="append",
        default=[],
        help="a key to sign with, beside those in DIR/keys",
    )
    _trust_repo(trust, common, keys)
    _revoke(trust, common, keys)

    pin = trust.add_parser("pin", parents=[common], help="take trust policy and revocations from the registry")
    pin.add_argument("--root", type=Path, metavar="FILE", help="the trust root (1.root.json), got from the operator")
    pin.add_argument("--sha256", metavar="DIGEST", help="its digest, sha256:…; the file then comes from the registry")
    pin.add_argument("--trust-on-first-use", action="store_true", help="believe the registry this once")
    pin.set_defaults(run="distributing:run_pin")


def _trust_repo(trust: "Commands", common: argparse.ArgumentParser, keys: argparse.ArgumentParser) -> None:
    repo = trust.add_parser("repo", help="keys and metadata that the operator publishes").add_subparsers(
        required=True, metavar="init|add|sign|rotate-root|refresh|publish|status"
    )
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("directory", type=Path, metavar="DIR")
    init = repo.add_parser("init", parents=[common, folder], help="make keys, a root and empty targets")
    for role, count, threshold in (("root", 3, 2), ("targets", 2, 1)):
        init.add_argument(f"--{role}-keys", type=int, default=count, metavar="N", help=f"keys of {role} ({count})")
        init.add_argument(
            f"--{role}-threshold", type=int, default=threshold, metavar="M", help=f"that must sign ({threshold})"
        )
    init.set_defaults(run="distributing:run_init")
    add = repo.add_parser("add", parents=[common, folder, keys], help="distribute trust.toml, revocations.toml")
    add.add_argument("files", type=Path, nargs="+", metavar="FILE")
    add.add_argument("--days", type=int, default=90, help="how long the targets metadata is good for")
    add.add_argument("--max-age-days", type=int, default=30, help="for the first, empty revocation list")
    add.set_defaults(run="distributing:run_add")
    sign = repo.add_parser("sign", parents=[common, folder, keys], help="sign what waits for signatures")
    sign.set_defaults(run="distributing:run_sign")
    rotate = repo.add_parser("rotate-root", parents=[common, folder, keys], help="add or remove keys; old and new sign")
    rotate.add_argument("--role", choices=["root", "targets", "online"], default="root", help="whose keys")
    rotate.add_argument("--new-key", action="append", default=[], metavar="NAME", help="make DIR/keys/NAME.key.pem")
    rotate.add_argument("--add-key", action="append", default=[], type=Path, metavar="PEM", help="a public key")
    rotate.add_argument("--remove", action="append", default=[], metavar="KEYID", help="see `trust repo status`")
    rotate.add_argument("--threshold", type=int, metavar="M", help="how many of them must sign")
    rotate.add_argument("--days", type=int, default=365, help="how long the root is good for")
    rotate.set_defaults(run="distributing:run_rotate")
    refresh = repo.add_parser("refresh", parents=[common, folder, keys], help="a new timestamp; run it from cron")
    refresh.add_argument("--days", type=int, default=7, help="how long it is good for")
    refresh.add_argument("--publish", action="store_true", help="and publish")
    refresh.set_defaults(run="distributing:run_refresh")
    publish = repo.add_parser("publish", parents=[common, folder], help="have the registry serve it (admin)")
    publish.set_defaults(run="distributing:run_publish")
    status = repo.add_parser("status", parents=[common, folder], help="versions, expiries, keys, missing signatures")
    status.set_defaults(run="distributing:run_status")


def _revoke(trust: "Commands", common: argparse.ArgumentParser, keys: argparse.ArgumentParser) -> None:
    revoke = trust.add_parser("revoke", help="distrust a signer or an artifact").add_subparsers(
        required=True, metavar="signer|artifact|renew"
    )
    where = argparse.ArgumentParser(add_help=False, parents=[keys])
    where.add_argument("--repo", dest="directory", type=Path, metavar="DIR", help="the folder of `modelreg trust repo`")
    plan = argparse.ArgumentParser(add_help=False)
    plan.add_argument("--plan", action="store_true", help="only list what it would withdraw (audit); 40 if anything")
    signer = revoke.add_parser("signer", parents=[common, where, plan], help="an identity, a key or a certificate")
    signer.add_argument("signer", metavar="IDENTITY|KEYID", help="email:… or uri:… (may hold *), or sha256:…")
    signer.add_argument("--from", dest="since", metavar="TIME", help="signatures from then on; without it all of them")
    signer.add_argument("--reason", help="a line for whoever asks later")
    signer.set_defaults(run="revoking:run_signer")
    artifact = revoke.add_parser("artifact", parents=[common, where, plan], help="an artifact, wherever it is")
    artifact.add_argument("digest", metavar="DIGEST")
    artifact.set_defaults(run="revoking:run_artifact")
    renew = revoke.add_parser("renew", parents=[common, where], help="say the same list again, dated today")
    renew.set_defaults(run="revoking:run_renew")


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


def _policy(commands: "Commands", common: argparse.ArgumentParser) -> None:
    policy = commands.add_parser("policy", help="promotion policies: what may serve where").add_subparsers(
        required=True, metavar="check|test|diff|init"
    )
    check = policy.add_parser("check", parents=[common], help="read a policy, and say what it asks for")
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(run="deciding:run_check")
    test = policy.add_parser("test", parents=[common], help="hold it against cases; 40 where it answers otherwise")
    test.add_argument("file", type=Path, metavar="FILE")
    test.add_argument(
        "cases", type=Path, nargs="+", metavar="CASES", help="files of cases or stored decisions, or folders"
    )
    test.set_defaults(run="deciding:run_test")
    diff = policy.add_parser("diff", parents=[common], help="whom a change affects, by stored facts; 40 if anybody")
    diff.add_argument("old", type=Path, metavar="OLD")
    diff.add_argument("new", type=Path, metavar="NEW")
    diff.add_argument("--cases", type=Path, action="append", required=True, metavar="DIR|FILE", help="facts, or cases")
    diff.set_defaults(run="deciding:run_diff")
    init = policy.add_parser("init", parents=[common], help="write one to begin with: staging and production")
    init.add_argument("file", type=Path, nargs="?", default=Path("promotion.toml"), metavar="FILE")
    init.add_argument("--cases", type=Path, metavar="DIR", help="and cases that it passes")
    init.set_defaults(run="deciding:run_init")
