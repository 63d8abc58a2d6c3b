"""A trust policy that pins the custody log of a running registry, as an operator would add it."""

import json
from pathlib import Path
from typing import Any

from modelreg import trust
from modelreg_server import log_keys
from support.registry import Registry


def log_table(registry: Registry, **more: Any) -> str:
    """The `[log]` table; `more` are its optional members."""
    signer = registry.parts.database.log_signer
    members = {"origin": signer.origin, "keys": [str(log_keys.verifier_of(signer))], **more}
    return "\n".join(["", "[log]", *(f"{name} = {json.dumps(value)}" for name, value in members.items()), ""])


def pinned(registry: Registry, path: Path, **more: Any) -> Path:
    """The registry's own trust policy with its log pinned, written to a file for clients."""
    path.write_text(registry.trust.unpinned_text + log_table(registry, **more))
    return path


def pinned_policy(registry: Registry, path: Path, **more: Any) -> trust.TrustPolicy:
    return trust.parse(pinned(registry, path, **more).read_bytes())
