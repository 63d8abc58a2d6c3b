"""The custody log's own key: Ed25519, made once, kept beside the data unless a setting says where."""

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from sqlmodel import select

from modelreg import checkpoints, notes
from modelreg.durable import make_folder, replace_file
from modelreg.errors import Misconfigured
from modelreg.notes import VerifierKey
from modelreg_server.custody_tree import CustodyHead, LogSigner
from modelreg_server.database import Database
from modelreg_server.settings import Settings


def open_signer(settings: Settings, database: Database, *, check: bool = True) -> LogSigner:
    """The log's signer; a log that was never signed gets a new key, one that was signed needs the key it has.

    Without `check` the head's signature is not looked at: whoever asks is going to.

    Raises:
        Misconfigured: the key is lost, unreadable, or another log's.
    """
    path = settings.log_key or settings.data_dir / "log.key.pem"
    with database.reading() as session:
        head = session.exec(select(CustodyHead)).one_or_none()
        note = head.checkpoint if head else None
    if not path.exists():
        if note is not None or settings.log_key is not None:
            raise Misconfigured(
                f"there is no log key at {path}; restore it from its backup (a new key would make another log), "
                "or set MODELREG_LOG_KEY to where it is",
                setting="MODELREG_LOG_KEY",
            )
        _make(path)
    key = _read(path)
    signer = LogSigner(settings.log_origin or default_origin(key), key)
    if note is not None and check:
        origin = checkpoints.parse(note).origin
        if origin != signer.origin or not notes.verified_by(notes.parse(note), [verifier_of(signer)]):
            raise Misconfigured(
                f"the log in this database is {origin}, signed with another key than {path} of {signer.origin}; set "
                "MODELREG_LOG_KEY and MODELREG_LOG_ORIGIN as they were",
                setting="MODELREG_LOG_KEY",
            )
    return signer


def verifier_of(signer: LogSigner) -> VerifierKey:
    """What the trust policies of clients pin."""
    return notes.key_of(signer.origin, notes.ED25519, signer.key.public_key())


def default_origin(key: Ed25519PrivateKey) -> str:
    """A name that no other log has."""
    return f"modelreg-log-{hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:16]}"


def _make(path: Path) -> None:
    """Two processes that start at once agree on the first key: the file is linked, not replaced."""
    make_folder(path.parent)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    own = path.with_name(f".{path.name}.{os.getpid()}")
    replace_file(own, pem, mode=0o600)
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    finally:
        own.unlink()


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Misconfigured(f"the log key {path} cannot be read: {error}", setting="MODELREG_LOG_KEY") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured(f"the log key {path} is no Ed25519 key", setting="MODELREG_LOG_KEY")
    return key
