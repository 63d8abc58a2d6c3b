"""The commands that state something of artifacts and datasets as they are typed, and what they sign with."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from modelreg.classification import Classification

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name for it


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add them to the command line."""
    _dataset(commands, common)
    _declassify(commands, common)


def signing_options() -> argparse.ArgumentParser:
    """What a command signs with; for its parents."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("signing")
    group.add_argument("--key", metavar="FILE|URI", help="private key to sign with, or its pkcs11: or awskms: URI")
    group.add_argument("--certificate", type=Path, help="its certificate chain; without one the key method is used")
    group.add_argument(
        "--timestamp-url", metavar="URL", help="time-stamping authority to ask instead of the registry's"
    )
    group.add_argument("--no-timestamp", action="store_true", help="sign without a trusted time")
    group.add_argument(
        "--sign",
        choices=["key", "certificate", "keyless"],
        help="the method; else by certificate where there is one, by key where not",
    )
    group.add_argument(
        "--sigstore-config",
        type=Path,
        metavar="FILE",
        help="keyless: a Sigstore's client trust configuration (MODELREG_SIGSTORE_CONFIG); else the public instance",
    )
    group.add_argument(
        "--sigstore-token-file",
        type=Path,
        metavar="FILE",
        help="keyless: the OIDC token; else MODELREG_SIGSTORE_TOKEN, else what the CI offers",
    )
    return options


def _dataset(commands: "Commands", common: argparse.ArgumentParser) -> None:
    dataset = commands.add_parser("dataset", help="what models are made with: whose, how sensitive").add_subparsers(
        required=True, metavar="register|show|list"
    )
    register = dataset.add_parser(
        "register", parents=[common, signing_options()], help="sign a dataset's record, or a newer one"
    )
    register.add_argument("name", metavar="NAME", help="namespace/name")
    register.add_argument("path", nargs="?", type=Path, metavar="PATH", help="the folder, measured like an artifact")
    register.add_argument("--digest", metavar="sha256:…", help="of the dataset, instead of PATH")
    register.add_argument("--owner", help="who answers for it; else the creator in --croissant")
    register.add_argument(
        "--class", dest="classification", choices=list(Classification), required=True, help="how sensitive it is"
    )
    register.add_argument(
        "--lawful-basis", required=True, metavar="TEXT", help="such as consent, contract, licence CC0"
    )
    register.add_argument(
        "--residency", action="append", default=[], metavar="ZONE", help="where it may rest; again for others"
    )
    register.add_argument("--retain-until", metavar="TIME", help="2028-01-01, or with a time and an offset")
    register.add_argument("--source", metavar="URI", help="where it is from; else the url in --croissant")
    register.add_argument("--croissant", type=Path, metavar="FILE", help="its Croissant metadata (JSON-LD)")
    register.set_defaults(run="describing:run_register")
    show = dataset.add_parser("show", parents=[common], help="its records, verified here")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(run="describing:run_show")
    dataset.add_parser("list", parents=[common], help="the newest record of each").set_defaults(
        run="describing:run_list"
    )


def _declassify(commands: "Commands", common: argparse.ArgumentParser) -> None:
    declassify = commands.add_parser(
        "declassify", parents=[common, signing_options()], help="sign that something is less sensitive than it inherits"
    )
    what = declassify.add_mutually_exclusive_group(required=True)
    what.add_argument("reference", nargs="?", metavar="REF", help="namespace/name[:tag][@sha256:…]")
    what.add_argument("--dataset", metavar="NAME", help="namespace/name[@sha256:…] of a dataset")
    declassify.add_argument("--to", choices=list(Classification), required=True, help="what it is from now on")
    declassify.add_argument("--reason", required=True, help="a line for whoever asks later")
    declassify.add_argument(
        "--approved-by", action="append", default=[], metavar="WHO", help="who else agreed; their word is not checked"
    )
    declassify.set_defaults(run="describing:run_declassify")
