"""The client's settings: flag > environment (`MODELREG_*`) > file > default, each with its origin.

A dataclass and `os.environ`, no extra dependency on GPU hosts. Read once by the CLI (or a caller) and passed down.

    $XDG_CONFIG_HOME/modelreg/config.toml           settings          credentials.json (0600)   one login a registry
    $XDG_CACHE_HOME/modelreg/                       local content store
    $XDG_STATE_HOME/modelreg/                       newest trust policy version seen
"""

import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from modelreg import key_uris
from modelreg.errors import Misconfigured

ENVIRONMENT_PREFIX = "MODELREG_"


def _xdg(environment: Mapping[str, str], variable: str, fallback: str) -> Path:
    base = environment.get(variable) or str(Path(environment.get("HOME", "/")) / fallback)
    return Path(base) / "modelreg"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the client works with. `origins` says where each value came from, for `config show --origin`."""

    registry: str = field(metadata={"help": "address of the registry, such as https://models.example.org"})
    trust_policy: Path = field(metadata={"help": "the pinned trust policy file"})
    cache_dir: Path = field(metadata={"help": "the local content store"})
    state_dir: Path = field(metadata={"help": "what this machine has seen, such as trust policy versions"})
    credentials: Path = field(metadata={"help": "file with one login a registry, mode 0600"})
    ca_file: Path | None = field(metadata={"help": "PEM roots to verify the registry's and the store's TLS with"})
    key: key_uris.KeySource | None = field(
        metadata={"help": "private key that `push` signs with: a PEM file, a pkcs11: URI or an awskms: URI"}
    )
    credential_store: str = field(
        metadata={"help": "where logins are kept: `file`, or the system's `keyring` (an extra)"}
    )
    workload: bool = field(
        metadata={"help": "log in by the identity token found around this process, where none is stored"}
    )
    identity_token_file: Path | None = field(metadata={"help": "file with this workload's identity token"})
    audience: str | None = field(metadata={"help": "what a CI job asks its token for; none: the registry's address"})
    certificate: Path | None = field(metadata={"help": "its certificate chain, leaf first (PEM); none signs by key"})
    timestamp_url: str | None = field(metadata={"help": "time-stamping authority `push` asks; none asks the registry"})
    sigstore_config: Path | None = field(
        metadata={"help": "ClientTrustConfig of the Sigstore that `push --sign keyless` uses; none is the public one"}
    )
    sigstore_token_file: Path | None = field(
        metadata={"help": "file with the OIDC token for it; none looks at MODELREG_SIGSTORE_TOKEN and the CI's own"}
    )
    host_name: str = field(metadata={"help": "what this machine is called in the record"})
    connections: int = field(metadata={"help": "transfers at once"})
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Self:
        """Read the settings.

        Args:
            flags: values given on the command line; None means not given.
            environment: `os.environ` unless a test says otherwise.

        Raises:
            Misconfigured: an unknown or malformed value, with the place it stands in.
        """
        env = os.environ if environment is None else environment
        config = _xdg(env, "XDG_CONFIG_HOME", ".config")
        named = env.get(ENVIRONMENT_PREFIX + "CONFIG")
        file = Path(named or config / "config.toml")
        if named and not file.exists():
            raise Misconfigured(f"there is no file {file}, which {ENVIRONMENT_PREFIX}CONFIG names", path=str(file))
        defaults: dict[str, Any] = {
            "registry": "http://127.0.0.1:8470",
            "trust_policy": config / "trust.toml",
            "cache_dir": _xdg(env, "XDG_CACHE_HOME", ".cache"),
            "state_dir": _xdg(env, "XDG_STATE_HOME", ".local/state"),
            "credentials": config / "credentials.json",
            "ca_file": None,
            "credential_store": "file",
            "workload": False,
            "identity_token_file": None,
            "audience": None,
            "key": None,
            "certificate": None,
            "timestamp_url": None,
            "sigstore_config": None,
            "sigstore_token_file": None,
            "host_name": socket.gethostname() or "unnamed",
            "connections": 8,
        }
        layers: list[tuple[str, Mapping[str, Any]]] = [
            ("flag", {name: value for name, value in (flags or {}).items() if value is not None}),
            ("environment", _from_environment(env, defaults)),
            (f"file {file}", _from_file(file, defaults)),
            ("default", defaults),
        ]
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for name in defaults:
            origin, layer = next((origin, layer) for origin, layer in layers if name in layer)
            values[name], origins[name] = _parse(name, layer[name], origin), origin
        return cls(**values, origins=origins)


def _from_environment(env: Mapping[str, str], names: Mapping[str, Any]) -> dict[str, str]:
    return {name: env[key] for name in names if env.get(key := ENVIRONMENT_PREFIX + name.upper())}


def _from_file(file: Path, names: Mapping[str, Any]) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{file} cannot be read: {error}", path=str(file)) from None
    if unknown := values.keys() - names.keys():
        raise Misconfigured(f"{file} sets {', '.join(sorted(unknown))}, which is no setting", path=str(file))
    return values


def _parse(name: str, value: Any, origin: str) -> Any:
    kind = {field.name: str(field.type) for field in fields(Settings)}[name]
    try:
        if value is None:
            return None
        if name == "key" and isinstance(value, str):
            return key_uris.parse(value)
        if "Path" in kind or name == "key":
            return Path(value).expanduser()
        parser: Callable[[str], Any] = _PARSERS.get(name, str)
        return parser(str(value))
    except (RuntimeError, TypeError, ValueError) as error:  # RuntimeError: ~ of a user there is not
        shown = re.sub(r"//[^/]*@", "//…@", str(value))  # a password has no business in a message
        raise Misconfigured(f"{name} is {shown!r} ({origin}): {error}", setting=name) from None


def _connections(value: str) -> int:
    if not value.isdigit() or not 1 <= int(value) <= 256:
        raise ValueError("write a number from 1 to 256")
    return int(value)


def _boolean(value: str) -> bool:
    if value.lower() not in {"1", "true", "yes", "0", "false", "no"}:
        raise ValueError("write true or false")
    return value.lower() in {"1", "true", "yes"}


def _credential_store(value: str) -> str:
    if value not in {"file", "keyring"}:
        raise ValueError("write file or keyring")
    return value


def _host_name(value: str) -> str:
    if not (0 < len(value) <= 200 and value.isascii() and value.isprintable() and " " not in value):
        raise ValueError("write up to 200 printable characters without spaces")
    return value


def _registry_url(value: str) -> str:
    parts = urlsplit(value)
    plain = parts.netloc.isascii() and not set(parts.netloc) & set("@ \t\r\n\\") and not set(value) & set("?#")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or not plain:
        raise ValueError("write https://host[:port]")
    _ = parts.port  # raises ValueError for what is no port
    if not stays_private(value):
        raise ValueError("plain http is for loopback only; use https")
    return value.rstrip("/")


def stays_private(url: str) -> bool:
    """Whether a secret may go there: https, or plain http that does not leave this machine.

    A token or a presigned URL over plain http is one for everybody on the way. False for what is no URL.
    """
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or (
            parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
        )
    except ValueError:
        return False


def _timestamp_url(value: str) -> str:
    parts = urlsplit(value)
    plain = value.isascii() and value.isprintable() and not set(value) & set(' "#<>\\')
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        raise ValueError("write http:// or https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no credential may be in it")
    _ = parts.port  # raises ValueError for what is no port
    return value


_PARSERS: dict[str, Callable[[str], Any]] = {
    "registry": _registry_url,
    "connections": _connections,
    "timestamp_url": _timestamp_url,
    "host_name": _host_name,
    "workload": _boolean,
    "credential_store": _credential_store,
}
