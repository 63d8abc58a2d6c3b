"""launch: pull, measure every byte on disk again, record the load, hand over.

Where the registry does not answer, what this machine was granted before may stand in for it (`offline`); the load is then
on disk, signed and waiting to be told, before the runtime starts.
"""

import contextlib
import os
import shlex
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelreg import __version__, adapters, enrolment, grants, offline, permits, reports, runtimes, wire
from modelreg.api import Api
from modelreg.attestations import VerifiedAttestation
from modelreg.cache import Cache
from modelreg.errors import Invalid, ModelregError, Unreachable
from modelreg.outbox import Queued
from modelreg.permits import Permit
from modelreg.pull import Meter, Pulled, pull
from modelreg.receipts import VerifiedEntry
from modelreg.references import Reference
from modelreg.reports import Machine
from modelreg.trust import TrustPolicy
from modelreg.verification import VerifiedManifest

PLACEHOLDER = "{model}"
ADAPTER_PLACEHOLDER = "{adapter}"
HEARTBEAT_SECONDS = 120
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
        "MODELREG_SOURCE_TOKEN",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    }
)


@dataclass(frozen=True)
class Loadable:
    """A verified artifact that may be loaded, and the grant that says so.

    `entry` is the grant in the custody log; None where the policy pins no log. `api` is None where the registry did not
    answer; `why` says so for people. `permit` is there where it shall serve in an environment.
    """

    verified: VerifiedManifest
    grant: str
    host: str
    purpose: str
    entry: VerifiedEntry | None
    api: Api | None
    why: str | None = None
    permit: Permit | None = None


@dataclass(frozen=True)
class Prepared:
    """A load that is recorded, as `event`, or waits to be told (None), and may happen now.

    With an adapter there are two: this one is the base's, `adapter` the other one.
    """

    arguments: list[str]
    environment: dict[str, str]
    loadable: Loadable
    told: Queued
    event: int | None
    adapter: "Prepared | None" = None

    @property
    def load(self) -> str:
        """The load's id."""
        return str(self.told.report["load"])

    @property
    def loads(self) -> list["Prepared"]:
        """This load, and the adapter's if there is one."""
        return [self] if self.adapter is None else [self, self.adapter]


def prepare(
    connect: Callable[[], Api],
    cache: Cache,
    policy: TrustPolicy,
    reference: Reference,
    command: Sequence[str],
    *,
    machine: Machine,
    now: datetime,
    connections_at_once: int,
    meter: Meter,
    environment: Mapping[str, str],
    heartbeat_seconds: int | None,
    ask: bool = True,
    adapter: Reference | None = None,
    serve_in: str | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Prepared:
    """Do everything up to the `exec`: the caller must start `arguments` with `environment` and nothing in between.

    Args:
        connect: how to reach the registry; may find that it does not answer.
        heartbeat_seconds: how often the registry will hear that it runs; None for never.
        ask: False does not try the registry.
        adapter: loaded on top of it, if its provenance says that it is for this very artifact.
        serve_in: the environment; then only with a permit of the registry's that is good when the runtime starts.
        clock: says when that is: to fetch and measure may take longer than a permit lives.

    Raises:
        Invalid: the command has no `{model}`, or `{adapter}` where there is none, or none where there is one.
        PolicyRefused: an adapter where a model is asked for, or one for another base.
        Untrusted, Refused: nothing may be loaded; nothing was recorded as loaded.
        ModelregError: the load could not be recorded, so it must not happen.
    """
    if serve_in is not None:
        grants.require_log(policy, serve_in)
    _require_placeholders(command, adapter)

    def found(wanted: Reference, reach: Callable[[], Api]) -> tuple[Loadable, list[VerifiedAttestation]]:
        try:
            if not ask:
                raise Unreachable("the registry was not asked (--offline)")
            api = reach()
            pulled = pull(
                api,
                cache,
                policy,
                wanted,
                purpose="launch",
                host=machine.host,
                now=now,
                connections_at_once=connections_at_once,
                meter=meter,
                check_reused=False,
                state_dir=machine.state_dir,
                outbox=machine.outbox,
                environment=serve_in,
            )
            said = adapters.fetch(api, cache, pulled.verified, policy, now)
            return loadable_of(pulled, api, machine.host), said
        except Unreachable as error:
            kept = _kept(cache, policy, wanted, machine, now, error, serve_in)
            return kept, adapters.kept(cache, kept.verified, policy, now)

    base, said = found(reference, connect)
    adapters.require_whole(base.verified, said)
    loadables = [base]
    if adapter is not None:
        above, said = found(adapter, lambda: _again(base))
        adapters.require_base(above.verified, base.verified, said)
        loadables.append(above)
    # The bytes on disk, now: when they were fetched says nothing about what they are.
    folders = [cache.check(one.verified, meter("verifying", one.verified.manifest.total_bytes)) for one in loadables]
    loadables = [still_permitted(one, cache, policy, machine, clock()) for one in loadables]
    runtime = runtimes.of_command(command, environment.get("PATH"))
    told = [
        load_of(one, describe(one, command, runtime=runtime, heartbeat_seconds=heartbeat_seconds)) for one in loadables
    ]
    names = {PLACEHOLDER: str(folders[0]), **({ADAPTER_PLACEHOLDER: str(folders[1])} if adapter is not None else {})}
    given = {
        **{name: value for name, value in environment.items() if name not in SECRETS},
        **OFFLINE_ENVIRONMENT,
        "MODELREG_MODEL": str(folders[0]),
        "MODELREG_ARTIFACT": str(base.verified.manifest.digest),
    }
    if adapter is not None:
        given |= {
            "MODELREG_ADAPTER": str(folders[1]),
            "MODELREG_ADAPTER_ARTIFACT": str(loadables[1].verified.manifest.digest),
        }
    arguments = [_filled(word, names) for word in command]
    events = _record_all(loadables, policy, machine, told)
    loads = [
        Prepared(arguments, given, one, report, event)
        for one, report, event in zip(loadables, told, events, strict=True)
    ]
    return replace(loads[0], adapter=loads[1]) if adapter is not None else loads[0]


def _require_placeholders(command: Sequence[str], adapter: Reference | None) -> None:
    if not any(PLACEHOLDER in word for word in command):
        raise Invalid(f"the command has no {PLACEHOLDER}: say where the model's folder goes", field="command")
    if any(ADAPTER_PLACEHOLDER in word for word in command) != (adapter is not None):
        raise Invalid(
            f"say with --adapter REF which adapter, and with {ADAPTER_PLACEHOLDER} in the command where its folder goes",
            field="command",
        )


def _filled(word: str, names: Mapping[str, str]) -> str:
    for placeholder, folder in names.items():
        word = word.replace(placeholder, folder)
    return word


def _again(base: Loadable) -> Api:
    """The registry that answered a moment ago.

    Raises:
        Unreachable: it did not.
    """
    if base.api is None:
        raise Unreachable(base.why or "the registry did not answer")
    return base.api


def _record_all(
    loadables: Sequence[Loadable], policy: TrustPolicy, machine: Machine, told: Sequence[Queued]
) -> list[int | None]:
    """Record every load or none: what was recorded of a start that does not happen is taken back."""
    events: list[int | None] = []
    for loadable, report in zip(loadables, told, strict=True):
        try:
            events.append(record(loadable, policy, machine, report))
        except ModelregError:
            for earlier, done in zip(loadables, told[: len(events)], strict=False):
                _take_back(earlier, done)
            raise
    return events


def _take_back(loadable: Loadable, told: Queued) -> None:
    if loadable.api is None:
        return
    ended = wire.request(wire.UnloadedReport, reason="never started")
    with contextlib.suppress(ModelregError):  # then it will be shown as stale
        loadable.api.report_unloaded(str(told.report["load"]), ended)


def loadable_of(pulled: Pulled, api: Api, host: str) -> Loadable:
    """What a pull for loading brought."""
    return Loadable(pulled.verified, pulled.grant.id, host, "launch", pulled.entry, api, permit=pulled.permit)


def still_permitted(loadable: Loadable, cache: Cache, policy: TrustPolicy, machine: Machine, now: datetime) -> Loadable:
    """With a permit that is good now: the one it came with, or where that has ended meanwhile a new one.

    Raises:
        PolicyRefused: it ended, and there is none to be had.
    """
    permit, api = loadable.permit, loadable.api
    if permit is None:
        return loadable
    if now < permit.expires_at or api is None:
        permits.require_current(permit, now)
        return loadable
    verified = loadable.verified
    granted = grants.request(
        api,
        policy,
        Reference(verified.repository, digest=verified.manifest.digest),
        purpose="launch",
        host=machine.host,
        state_dir=machine.state_dir,
        now=now,
        environment=permit.environment,
    )
    cache.keep_receipt(verified.manifest.digest, granted.grant.receipt.encode())
    if granted.grant.permit is not None:
        cache.keep_permit(verified.manifest.digest, permit.environment, granted.grant.permit.encode())
    return replace(loadable, grant=granted.grant.id, entry=granted.entry, permit=granted.permit)


def describe(
    loadable: Loadable, command: Sequence[str], *, runtime: runtimes.Runtime | None, heartbeat_seconds: int | None
) -> dict[str, Any]:
    """What is reported of a load. The process id is this process's, which `exec` keeps."""
    # Arguments may hold secrets (API keys of the runtime): only the program is recorded.
    program = shlex.quote(Path(command[0]).name)[:200]
    manifest = loadable.verified.manifest
    return {
        "load": str(uuid.uuid4()),
        "command": program.encode("ascii", "replace").decode(),
        "pid": os.getpid(),
        "boot_id": boot_id(),
        "client_version": __version__,
        "artifact": str(manifest.digest),
        "files": len(manifest.files),
        "size_bytes": manifest.total_bytes,
        "runtime": runtime.name if runtime else None,
        "runtime_version": runtime.version if runtime else None,
        "heartbeat_seconds": heartbeat_seconds,
    }


def load_of(loadable: Loadable, report: dict[str, Any]) -> Queued:
    """The report of a load, as it is sent now or later."""
    verified, artifact = loadable.verified, str(loadable.verified.manifest.digest)
    return Queued("loaded", loadable.grant, verified.repository, artifact, loadable.host, loadable.purpose, report)


def record(loadable: Loadable, policy: TrustPolicy, machine: Machine, told: Queued) -> int | None:
    """Have the load recorded before it happens; returns its event, or None where it waits on disk for the registry.

    Raises:
        Untrusted: the log does not show it.
        Unreachable: the registry does not answer, and the policy allows nothing without it.
        RecordUnavailable: neither the registry nor this machine's queue can take it.
    """
    allowed = policy.log is not None and bool(policy.log.max_offline)
    if loadable.api is None:
        reports.queue(machine.outbox, told, machine.host_key)
        return None
    return reports.send_or_queue(
        loadable.api, policy, told, state_dir=machine.state_dir, outbox=machine.outbox if allowed else None
    )


def boot_id() -> str:
    """The kernel's id of this boot, or nothing where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _kept(
    cache: Cache,
    policy: TrustPolicy,
    reference: Reference,
    machine: Machine,
    now: datetime,
    why: Unreachable,
    serve_in: str | None,
) -> Loadable:
    kept = offline.find(cache, policy, reference, host=machine.host, state_dir=machine.state_dir, now=now, why=why)
    members, detail = kept.entry.members, kept.entry.members.get("detail")
    grant = str(detail.get("grant")) if isinstance(detail, dict) else ""
    permit = None
    if serve_in is not None:
        enrolled = enrolment.find(machine.state_dir) if machine.host_key is not None else None
        name = enrolled.name if enrolled is not None else None
        permit = offline.permit(cache, policy, kept.verified, serve_in, machine.host, now, why, name)
    purpose, told = str(members.get("purpose")), f"{why.title}: {why.detail}"
    return Loadable(kept.verified, grant, machine.host, purpose, kept.entry, None, told, permit)
