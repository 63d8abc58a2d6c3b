"""launch: pull, measure every byte on disk again, record the load, hand over."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from modelreg import __version__, wire
from modelreg.api import Api
from modelreg.cache import Cache
from modelreg.errors import Invalid
from modelreg.pull import Meter, Pulled, pull
from modelreg.references import Reference
from modelreg.trust import TrustPolicy

PLACEHOLDER = "{model}"
# The runtime gets its model from the verified folder and must not fetch anything else, nor tell anybody.
OFFLINE_ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
# What modelreg was given to prove itself with; a runtime has no use for it, and runs for weeks.
SECRETS = frozenset(
    {
        "MODELREG_TOKEN",
        "MODELREG_IDENTITY_TOKEN",
        "MODELREG_ID_TOKEN",
        "MODELREG_SIGSTORE_TOKEN",
        "MODELREG_KEY_PASSWORD",
        "MODELREG_PKCS11_PIN",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    }
)


@dataclass(frozen=True)
class Prepared:
    """A load that is recorded and may happen now."""

    arguments: list[str]
    environment: dict[str, str]
    pulled: Pulled
    event: int


def prepare(
    api: Api,
    cache: Cache,
    policy: TrustPolicy,
    reference: Reference,
    command: Sequence[str],
    *,
    host: str,
    now: datetime,
    connections_at_once: int,
    meter: Meter,
    environment: Mapping[str, str],
) -> Prepared:
    """Do everything up to the `exec`: the caller must start `arguments` with `environment` and nothing in between.

    Raises:
        Invalid: the command has no `{model}`.
        Untrusted, Refused: nothing may be loaded; nothing was recorded as loaded.
        ModelregError: the load could not be recorded, so it must not happen.
    """
    if not any(PLACEHOLDER in word for word in command):
        raise Invalid(f"the command has no {PLACEHOLDER}: say where the model's folder goes", field="command")
    pulled = pull(
        api,
        cache,
        policy,
        reference,
        purpose="launch",
        host=host,
        now=now,
        connections_at_once=connections_at_once,
        meter=meter,
        check_reused=False,
    )
    # The bytes on disk, now: when they were fetched says nothing about what they are.
    folder = cache.check(pulled.verified, meter("verifying", pulled.verified.manifest.total_bytes))
    event = record_load(api, pulled, command)
    artifact = str(pulled.verified.manifest.digest)
    return Prepared(
        arguments=[word.replace(PLACEHOLDER, str(folder)) for word in command],
        environment={
            **{name: value for name, value in environment.items() if name not in SECRETS},
            **OFFLINE_ENVIRONMENT,
            "MODELREG_MODEL": str(folder),
            "MODELREG_ARTIFACT": artifact,
        },
        pulled=pulled,
        event=event,
    )


def record_load(api: Api, pulled: Pulled, command: Sequence[str]) -> int:
    """Append `artifact.loaded`; returns its index. The process id is this process's, which `exec` keeps."""
    # Arguments may hold secrets (API keys of the runtime): only the program is recorded.
    program = shlex.quote(Path(command[0]).name)[:200]
    report = wire.LoadedReport(
        command=program.encode("ascii", "replace").decode(),
        pid=os.getpid(),
        boot_id=boot_id(),
        client_version=__version__,
    )
    return api.report_loaded(pulled.grant.id, report).event


def boot_id() -> str:
    """The kernel's id of this boot, or nothing where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
