"""Tokens by registry, in a file that only its owner can read, or in the operating system's keyring.

An API token stands there as a text. A login through an issuer is an object: the session token with its end, and for a
person the issuer and client it was made with (pinned: a registry cannot move the login elsewhere) and the refresh token.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from modelreg.durable import make_folder, replace_file
from modelreg.errors import Misconfigured, Unauthenticated

TOKEN_VARIABLE = "MODELREG_TOKEN"  # noqa: S105  # the variable's name
KEYRING_SERVICE = "modelreg"
_KINDS = {"token", "person", "workload"}


@dataclass(frozen=True, kw_only=True)
class Login:
    """What is remembered for one registry. `repr` shows no secret."""

    token: str
    kind: str = "token"
    expires_at: datetime | None = None
    issuer_name: str | None = None
    issuer: str | None = None
    client_id: str | None = None
    scopes: tuple[str, ...] = ()
    subject: str | None = None
    refresh_token: str | None = None

    def __repr__(self) -> str:
        return f"Login(kind={self.kind!r}, issuer={self.issuer!r}, expires_at={self.expires_at})"


def find(path: Path, registry: str, *, keyring: bool = False) -> str:
    """The token for a registry: the environment's, else the stored one, whether it has expired or not.

    Raises:
        Unauthenticated: there is none.
        Misconfigured: the file is malformed or readable by others.
    """
    token = from_environment()
    if token is None and (login := read(path, registry, keyring=keyring)) is not None:
        token = login.token
    if not token:
        raise absent(registry)
    return require_token(token)


def from_environment() -> str | None:
    """The token that the environment sets; it goes before every stored one."""
    return os.environ.get(TOKEN_VARIABLE) or None


def absent(registry: str) -> Unauthenticated:
    """There is no token, and what to do."""
    return Unauthenticated(f"there is no token for {registry}; run `modelreg login` or set {TOKEN_VARIABLE}")


def require_token(untrusted_text: str) -> str:
    """Return the text if it can be a token; it becomes a header, so nothing else may pass.

    Raises:
        Unauthenticated: it cannot.
    """
    if not (untrusted_text.isascii() and untrusted_text.isprintable() and untrusted_text and " " not in untrusted_text):
        raise Unauthenticated("that is not a token; it starts with mrg_ and has no spaces")
    return untrusted_text


def read(path: Path, registry: str, *, keyring: bool = False) -> Login | None:
    """What is remembered for a registry.

    Raises:
        Misconfigured: the file is malformed or readable by others; the keyring does not work.
    """
    if not keyring:
        value = _read(path).get(registry)
    elif (text := _keyring("get_password", registry)) is not None:
        value = _parsed_record(text)
    else:
        return None
    return None if value is None else _login_of(value)


def write(path: Path, registry: str, login: Login, *, keyring: bool = False) -> None:
    """Remember a login; a file is written with mode 0600, whole or not at all."""
    value = _value_of(login)
    if keyring:
        _keyring("set_password", registry, json.dumps(value))
    else:
        replace_file(path, json.dumps({**_read(path), registry: value}, indent=2).encode(), mode=0o600)


def store(path: Path, registry: str, token: str) -> None:
    """Remember an API token in the file."""
    write(path, registry, Login(token=token))


def forget(path: Path, registry: str, *, keyring: bool = False) -> bool:
    """Forget a registry's login; returns whether there was one."""
    if keyring:
        if _keyring("get_password", registry) is None:
            return False
        _keyring("delete_password", registry)
        return True
    logins = _read(path)
    if logins.pop(registry, None) is None:
        return False
    replace_file(path, json.dumps(logins, indent=2).encode(), mode=0o600)
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the credentials against other processes: a refresh token used by two of them may end the login."""
    make_folder(path.parent)
    fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_mode & 0o077:
            raise Misconfigured(f"{path} can be read by others; run `chmod 600 {path}`", path=str(path))
        logins = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}", path=str(path)) from None
    if not isinstance(logins, dict):
        raise Misconfigured(f"{path} is not an object of registry to token", path=str(path))
    for registry, value in logins.items():
        try:
            _login_of(value)
        except Misconfigured as error:
            raise Misconfigured(f"{path}: {registry[:200]}: {error.detail}", path=str(path)) from None
    return logins


def _value_of(login: Login) -> Any:
    if login == Login(token=login.token):
        return login.token
    value = {name: found for name, found in asdict(login).items() if found not in (None, ())}
    return value | ({"expires_at": login.expires_at.isoformat()} if login.expires_at else {})


def _login_of(value: Any) -> Login:
    if isinstance(value, str):
        return Login(token=value)
    members = dict(value) if isinstance(value, dict) else {}
    scopes = members.pop("scopes", [])
    texts = all(isinstance(found, str) for found in members.values())
    lists = isinstance(scopes, list) and all(isinstance(scope, str) for scope in scopes)
    unknown = members.keys() - {field.name for field in fields(Login)}
    if not texts or not lists or unknown or "token" not in members or members.get("kind", "token") not in _KINDS:
        raise Misconfigured("not a login as this version writes it; run `modelreg logout`, then `modelreg login`")
    try:
        expires_at = datetime.fromisoformat(members.pop("expires_at")) if "expires_at" in members else None
    except ValueError:
        raise Misconfigured("its expires_at is no time; run `modelreg logout`, then `modelreg login`") from None
    if expires_at is not None and expires_at.tzinfo is None:
        raise Misconfigured("its expires_at has no time zone; run `modelreg logout`, then `modelreg login`")
    return Login(**members, scopes=tuple(scopes), expires_at=expires_at)


def _parsed_record(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise Misconfigured("the keyring holds something else under modelreg; run `modelreg logout`") from None


def _keyring(action: str, registry: str, *more: str) -> Any:
    try:
        import keyring  # noqa: PLC0415  # an extra
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError:
        raise Misconfigured(
            "credential_store is keyring, but the package is not there: pip install 'modelreg[keyring]'",
            setting="credential_store",
        ) from None
    try:
        return getattr(keyring, action)(KEYRING_SERVICE, registry, *more)
    except KeyringError as error:
        raise Misconfigured(
            f"the keyring does not work here ({type(error).__name__}); set credential_store to file",
            setting="credential_store",
        ) from None
