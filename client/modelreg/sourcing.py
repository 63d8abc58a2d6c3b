"""The commands about sources as they are typed: import, source check. Imports none of them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name for it


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add them to the command line."""
    asking, signing = _asking(), _signing()
    brought = commands.add_parser(
        "import", parents=[common, asking, signing], help="fetch from outside, verify, publish with signed provenance"
    )
    brought.add_argument(
        "source",
        metavar="SOURCE",
        help="hf://org/name[@revision], https://host/file, file:///folder, s3://bucket/prefix",
    )
    brought.add_argument(
        "reference", metavar="REF", help="namespace/name[:tag]; the tag is `latest` where none is given"
    )
    brought.add_argument("--tag", action="append", default=[], help="a further tag, moved in the same transaction")
    brought.add_argument(
        "--upstream-trust",
        type=Path,
        metavar="FILE",
        help="a trust policy that says whose signatures to believe about this source",
    )
    brought.add_argument(
        "--class",
        dest="classification",
        choices=["public", "internal", "confidential", "restricted"],
        help="what it is declared to be",
    )
    brought.set_defaults(run="importing:run_import")

    source = commands.add_parser("source", help="where imported artifacts came from").add_subparsers(
        required=True, metavar="check"
    )
    check = source.add_parser(
        "check",
        parents=[common, asking, signing],
        help="whether sources still serve what was imported; 40 if one does not",
    )
    check.add_argument("reference", metavar="REF", nargs="?", help="namespace/name[:tag][@sha256:…]")
    check.add_argument("--all", action="store_true", help="everything that was imported, as far as you may see")
    check.add_argument("--no-record", action="store_true", help="only ask; state nothing in the registry")
    check.set_defaults(run="importing:run_source_check")


def _asking() -> argparse.ArgumentParser:
    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument("--from-endpoint", metavar="URL", help="for hf://: the hub, or a mirror of it, to ask")
    asking.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the source's token; else MODELREG_SOURCE_TOKEN"
    )
    asking.add_argument(
        "--allow-private-address", action="store_true", help="sources in networks of one's own, and on this machine"
    )
    asking.add_argument("--allow-http", action="store_true", help="sources over plain http")
    return asking


def _signing() -> argparse.ArgumentParser:
    """As `push` has it."""
    signing = argparse.ArgumentParser(add_help=False)
    signing.add_argument("--key", metavar="FILE|URI", help="private key to sign with, or its pkcs11: or awskms: URI")
    signing.add_argument("--certificate", type=Path, help="its certificate chain; without one the key method is used")
    signing.add_argument(
        "--timestamp-url", metavar="URL", help="time-stamping authority to ask instead of the registry's"
    )
    signing.add_argument("--no-timestamp", action="store_true", help="sign without a trusted time")
    signing.add_argument("--sign", choices=["key", "certificate", "keyless"], help="the method, as in `push`")
    signing.add_argument("--sigstore-config", type=Path, metavar="FILE", help="keyless: as in `push`")
    signing.add_argument("--sigstore-token-file", type=Path, metavar="FILE", help="keyless: as in `push`")
    return signing
