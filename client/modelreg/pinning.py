"""The pinned trust policy on this machine, and the memory that keeps an older one from coming back."""

import json
from pathlib import Path

from modelreg import trust
from modelreg.durable import replace_file
from modelreg.errors import Misconfigured, StaleTrust

_SEEN_FILE = "trust-seen.json"


def load_policy(path: Path, state_dir: Path) -> trust.TrustPolicy:
    """Read the pinned policy and refuse a rollback; whether it has expired is decided where `now` is known.

    Raises:
        Misconfigured: no file, or a malformed one.
        StaleTrust: a lower version than this machine has seen, or another policy under the same version.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise Misconfigured(
            f"there is no trust policy at {path}; make one with `modelreg trust init` or copy your organisation's",
            path=str(path),
        ) from None
    except OSError as error:
        raise Misconfigured(f"the trust policy cannot be read: {error}", path=str(path)) from None
    policy = trust.parse(raw)
    require_not_older(state_dir / _SEEN_FILE, str(path.resolve()), policy.version, str(policy.digest))
    return policy


def require_not_older(memory: Path, name: str, offered: int, offered_digest: str) -> None:
    """Refuse a version lower than the memory file knows under this name, or other bytes under the same; remember a new one.

    Raises:
        StaleTrust: older, or changed without a new version.
        Misconfigured: the memory cannot be read.
    """
    try:
        seen = json.loads(memory.read_text("utf-8"))
        version, digest = seen.get(name, (0, ""))
        if not isinstance(version, int):
            raise TypeError("a version is not a number")
    except FileNotFoundError:
        seen, version, digest = {}, 0, ""
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Misconfigured(
            f"{memory} cannot be read: {error}; restore it, or remove it to forget", path=str(memory)
        ) from None
    if offered < version:
        raise StaleTrust(f"{name} has version {offered}, this machine has seen {version}; get the newer one back")
    if offered == version and digest != offered_digest:
        raise StaleTrust(f"{name} changed but is still version {version}; raise `version` with every change")
    if offered > version:
        replace_file(memory, json.dumps({**seen, name: (offered, offered_digest)}).encode(), mode=0o600)
