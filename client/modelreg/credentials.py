"""Tokens by registry, in a file that only its owner can read."""

import json
import os
from pathlib import Path

from modelreg.durable import replace_file
from modelreg.errors import Misconfigured, Unauthenticated

TOKEN_VARIABLE = "MODELREG_TOKEN"  # noqa: S105  # the variable's name


def find(path: Path, registry: str) -> str:
    """The token for a registry: the environment's, else the file's.

    Raises:
        Unauthenticated: there is none.
        Misconfigured: the file is malformed or readable by others.
    """
    token = os.environ.get(TOKEN_VARIABLE) or _read(path).get(registry)
    if not token:
        raise Unauthenticated(f"there is no token for {registry}; run `modelreg login` or set {TOKEN_VARIABLE}")
    return require_token(token)


def require_token(untrusted_text: str) -> str:
    """Return the text if it can be a token; it becomes a header, so nothing else may pass.

    Raises:
        Unauthenticated: it cannot.
    """
    if not (untrusted_text.isascii() and untrusted_text.isprintable() and untrusted_text and " " not in untrusted_text):
        raise Unauthenticated("that is not a token; it starts with mrg_ and has no spaces")
    return untrusted_text


def store(path: Path, registry: str, token: str) -> None:
    """Remember a token; the file is written with mode 0600."""
    replace_file(path, json.dumps({**_read(path), registry: token}, indent=2).encode(), mode=0o600)


def forget(path: Path, registry: str) -> bool:
    """Forget a registry's token; returns whether there was one."""
    tokens = _read(path)
    if tokens.pop(registry, None) is None:
        return False
    replace_file(path, json.dumps(tokens, indent=2).encode(), mode=0o600)
    return True


def _read(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_mode & 0o077:
            raise Misconfigured(f"{path} can be read by others; run `chmod 600 {path}`", path=str(path))
        tokens = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}", path=str(path)) from None
    if not isinstance(tokens, dict) or not all(isinstance(value, str) for value in tokens.values()):
        raise Misconfigured(f"{path} is not an object of registry to token", path=str(path))
    return tokens
