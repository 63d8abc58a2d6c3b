"""The commands about promotion as they are typed. Imports none of them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name for it


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add them to the command line."""
    what = argparse.ArgumentParser(add_help=False)
    what.add_argument("reference", metavar="REF", help="namespace/name[:tag][@sha256:…]")
    what.add_argument("environment", metavar="ENV", help="such as production; the promotion policy names them")

    promote = commands.add_parser("promote", parents=[common, what], help="may it serve there? 22 if not, with reasons")
    promote.add_argument("--explain", action="store_true", help="every rule, also those that pass")
    promote.add_argument("--dry-run", action="store_true", help="only ask: nothing is recorded, and nothing signed")
    promote.set_defaults(run="promoting:run_promote")

    approve = commands.add_parser("approve", parents=[common, what, _signing()], help="sign that it may serve there")
    approve.set_defaults(run="promoting:run_approve")

    waive = commands.add_parser(
        "waive",
        parents=[common, what, _signing()],
        help="sign an exception from one rule, for this artifact, for a time",
    )
    waive.add_argument("rule", metavar="RULE", help="as `promote --explain` names it")
    waive.add_argument("--reason", required=True, help="a line for whoever reads the decision")
    waive.add_argument(
        "--days", type=int, required=True, metavar="N", help="how long; the promotion policy has a limit"
    )
    waive.set_defaults(run="promoting:run_waive")

    demote = commands.add_parser("demote", parents=[common, what], help="withdraw what lets it serve there")
    demote.add_argument("--reason", required=True, help="a line for whoever is refused")
    demote.set_defaults(run="promoting:run_demote")

    listed = commands.add_parser("promotions", parents=[common], help="what may serve where, and what was decided")
    listed.add_argument("reference", nargs="?", metavar="REF", help="a repository, or an artifact of it")
    listed.add_argument("--env", dest="environment", metavar="ENV", help="only there")
    listed.add_argument("--all", action="store_true", help="also what was refused or withdrawn")
    listed.add_argument("--limit", type=int, default=100, metavar="N", help="the newest so many (100)")
    listed.set_defaults(run="promoting:run_promotions")


def _signing() -> argparse.ArgumentParser:
    """As `push` takes them."""
    signing = argparse.ArgumentParser(add_help=False)
    signing.add_argument("--key", metavar="FILE|URI", help="private key to sign with, or its pkcs11: or awskms: URI")
    signing.add_argument("--certificate", type=Path, help="its certificate chain; without one the key method is used")
    signing.add_argument("--timestamp-url", metavar="URL", help="time-stamping authority, instead of the registry's")
    signing.add_argument("--no-timestamp", action="store_true", help="sign without a trusted time")
    signing.add_argument("--sign", choices=["key", "certificate", "keyless"], help="the method; else by what there is")
    signing.add_argument("--sigstore-config", type=Path, metavar="FILE", help="keyless: as in `modelreg push`")
    signing.add_argument("--sigstore-token-file", type=Path, metavar="FILE", help="keyless: as in `modelreg push`")
    return signing
