"""This machine's key as a host, and the registry that knows it. Files below `state_dir`, written durably, mode 0600.

    host.key.pem   Ed25519, made here; never leaves the machine
    host.json      registry, name, class, zone: written after the registry answered; without it no request is signed

One `state_dir` is enrolled with one registry: a key that two registries knew would let either replay to the other.
"""

import json
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelreg import host_signing
from modelreg.durable import replace_file
from modelreg.errors import Conflict, Misconfigured

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Enrolled:
    """What the registry answered when this machine enrolled."""

    registry: str
    name: str
    host_class: str
    zone: str
    key_id: str


def key_path(state_dir: Path) -> Path:
    """Where the key is."""
    return state_dir / "host.key.pem"


def find(state_dir: Path) -> Enrolled | None:
    """The enrolment of this machine, or None.

    Raises:
        Misconfigured: the file is malformed.
    """
    path = state_dir / "host.json"
    try:
        return Enrolled(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}; enrol again with --replace", path=str(path)) from None


def key_for(state_dir: Path, registry: str) -> "Ed25519PrivateKey | None":
    """The key to sign requests to this registry with; None where this machine is not enrolled with it.

    Raises:
        Misconfigured: it should be there and cannot be used. Requests are not sent unsigned instead.
    """
    enrolled = find(state_dir)
    if enrolled is None or enrolled.registry != registry:
        return None
    key = _read_key(key_path(state_dir))
    if host_signing.key_id(key.public_key()) != enrolled.key_id:
        path = key_path(state_dir)
        raise Misconfigured(f"{path} is not the key that was enrolled; enrol again with --replace", path=str(path))
    return key


def prepare_key(state_dir: Path, *, replace: bool) -> "Ed25519PrivateKey":
    """The key to enrol with, durable before anybody hears of it, so that a lost answer can be asked for again.

    Raises:
        Conflict: this machine is enrolled and `replace` is not set.
        Misconfigured: a key is there and cannot be read.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # not for `--help`
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    path = key_path(state_dir)
    if replace:
        # The enrolment goes first: a crash here leaves a machine that is no host, never one with the wrong key.
        (state_dir / "host.json").unlink(missing_ok=True)
    elif (enrolled := find(state_dir)) is not None:
        raise Conflict(
            f"this machine is enrolled with {enrolled.registry} as {enrolled.name}; --replace makes a new key",
            host=enrolled.name,
        )
    elif path.exists():
        return _read_key(path)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    replace_file(path, pem, mode=0o600)
    return key


def remember(state_dir: Path, enrolled: Enrolled) -> None:
    """Sign requests to this registry from now on."""
    replace_file(state_dir / "host.json", json.dumps(asdict(enrolled), indent=2).encode(), mode=0o600)


def _read_key(path: Path) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise Misconfigured(f"{path} can be read by others; run `chmod 600 {path}`", path=str(path))
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, TypeError, ValueError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}; enrol again with --replace", path=str(path)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured(f"{path} is not an Ed25519 key; enrol again with --replace", path=str(path))
    return key
