"""Which trust policy applies on this machine: an explicit file, else the pinned registry's, else the default file."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from modelreg import pinning
from modelreg.settings import Settings
from modelreg.trust import TrustPolicy

_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+", re.ASCII)


def policy_of(settings: Settings, note: Callable[[str], None] | None = None) -> TrustPolicy:
    """The trust policy to verify by, with its revocations; whether it is fresh is decided where `now` is known.

    A file named by flag, environment or configuration wins. HTTP is imported only where a registry is pinned. `note` is
    told when the registry could not confirm the copy on this machine.

    Raises:
        Misconfigured, StaleTrust, SignatureInvalid: as `pinning.load_policy` and `distribution.load`.
    """
    if not takes_pinned(settings):
        return pinning.load_policy(settings.trust_policy, settings.state_dir)
    from modelreg import connections, distribution  # noqa: PLC0415  # seconds that a verification from a file saves

    pool = connections.make_pool(settings.ca_file, 2)
    loaded = distribution.load(settings.registry, folder_of(settings), pool)
    if loaded.offline is not None and note is not None:
        note(f"note: using this machine's verified copy of the trust policy and revocations: {loaded.offline}")
    return loaded.policy


def kept_policy_of(settings: Settings) -> TrustPolicy:
    """What this machine last verified, where what the registry serves now cannot be used.

    Raises:
        ModelregError: there is nothing, or it cannot be used either.
    """
    if not takes_pinned(settings):
        return pinning.load_policy(settings.trust_policy, settings.state_dir)
    from modelreg import distribution  # noqa: PLC0415  # as above

    return distribution.load_kept(folder_of(settings)).policy


def takes_pinned(settings: Settings) -> bool:
    """Whether the policy comes from the registry: nobody named a file, and a root is pinned, or was when it was last used.

    A machine whose pinned root got lost, or cannot be looked at, does not fall back to a file from before.
    """
    folder = folder_of(settings)
    return settings.origins.get("trust_policy") == "default" and any(
        _is_there(folder / name) for name in ("pinned.root.json", "seen.json")
    )


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def folder_of(settings: Settings) -> Path:
    """Where trust data of the configured registry is kept: a readable name, and a digest that tells two apart.

    Another spelling of the address is no other registry: it would be one that nothing is pinned for.
    """
    parts = urlsplit(settings.registry)
    port = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    registry = parts._replace(netloc=parts.netloc.lower().removesuffix(port)).geturl()
    digest = hashlib.sha256(registry.encode()).hexdigest()[:16]
    return settings.state_dir / "trust" / f"{_UNSAFE.sub('-', registry)[:80]}-{digest}"
