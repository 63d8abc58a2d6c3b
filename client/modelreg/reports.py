"""Telling the registry what became of a grant: received, loaded, unloaded; now if it answers, else later from the outbox.

What is queued carries its time and, where this machine is a host, a signature of its key over it (`host_reports`): the
registry records when it happened by this machine's word, and when it heard of it by its own.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelreg import enrolment, grants, host_reports, host_signing, pinned, wire
from modelreg.api import Api
from modelreg.digests import Digest
from modelreg.errors import Unreachable
from modelreg.log_proof import Expected
from modelreg.outbox import Delivered, Outbox, Queued
from modelreg.settings import Settings
from modelreg.trust import TrustPolicy

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

EVENTS = {"received": "artifact.received", "loaded": "artifact.loaded", "unloaded": "artifact.unloaded"}
_MODELS: dict[str, type[wire.ReceivedReport | wire.LoadedReport | wire.UnloadedReport]] = {
    "received": wire.ReceivedReport,
    "loaded": wire.LoadedReport,
    "unloaded": wire.UnloadedReport,
}


@dataclass(frozen=True)
class Machine:
    """This machine towards one registry: what it calls itself, what it remembers, what it has still to tell."""

    host: str
    state_dir: Path
    outbox: Outbox
    host_key: "Ed25519PrivateKey | None" = None


def machine_of(settings: Settings) -> Machine:
    """This machine towards the configured registry.

    Raises:
        Misconfigured: its host key cannot be used.
    """
    outbox = Outbox(settings.state_dir / "outbox" / pinned.folder_of(settings).name)
    key = enrolment.key_for(settings.state_dir, settings.registry)
    return Machine(settings.host_name, settings.state_dir, outbox, key)


def send(api: Api, policy: TrustPolicy, queued: Queued, *, state_dir: Path | None) -> int:
    """Tell the registry, and verify that it was recorded; returns the index of the event.

    Raises:
        Untrusted: the log does not show it.
        ModelregError: the registry's answer.
    """
    about_load = queued.kind == "unloaded"
    detail: dict[str, Any] = {"load" if about_load else "grant": queued.subject}
    if queued.kind == "loaded":
        detail["load"] = queued.report.get("load")
    expected = Expected(
        type=EVENTS[queued.kind],
        repository=queued.repository,
        artifact=Digest.parse(queued.artifact),
        host=queued.host,
        purpose=queued.purpose,
        detail=detail,
    )

    def ask(known_size: int | None) -> wire.Recorded:
        members = {**queued.report, "known_size": known_size}
        match queued.kind:
            case "received":
                return api.report_received(queued.subject, wire.request(wire.ReceivedReport, **members))
            case "loaded":
                return api.report_loaded(queued.subject, wire.request(wire.LoadedReport, **members))
            case "unloaded":
                return api.report_unloaded(queued.subject, wire.request(wire.UnloadedReport, **members))

    return grants.tell(policy, expected, ask, state_dir=state_dir)


def queue(outbox: Outbox, queued: Queued, host_key: "Ed25519PrivateKey | None") -> None:
    """Keep a report for later, with its time and, on an enrolled machine, the host key's signature over it.

    Raises:
        RecordUnavailable: the queue is full.
    """
    report = {**queued.report, "reported_at": datetime.now(UTC).isoformat(timespec="microseconds")}
    if host_key is not None:
        members = wire.request(_MODELS[queued.kind], **report).model_dump()
        value = host_reports.sign(EVENTS[queued.kind], queued.subject, members, host_key)
        report["signature"] = {"key_id": host_signing.key_id(host_key.public_key()), "value": value}
    outbox.add(replace(queued, report=report))


def send_or_queue(
    api: Api, policy: TrustPolicy, queued: Queued, *, state_dir: Path | None, outbox: Outbox | None
) -> int | None:
    """Tell the registry now; where it does not answer, later. Returns the event, or None for later.

    Raises:
        Unreachable: it does not answer, and there is no outbox.
        Untrusted: the log does not show it.
        RecordUnavailable: it answers that it cannot record, or the queue is full.
        ModelregError: another answer of the registry.
    """
    try:
        return send(api, policy, queued, state_dir=state_dir)
    except Unreachable:
        if outbox is None:
            raise
        queue(outbox, queued, api.host_key)
        return None


def deliver(api: Api, policy: TrustPolicy, machine: Machine, *, wait_seconds: float = 0.0) -> Delivered:
    """Send what waits, in order."""
    return machine.outbox.deliver(
        lambda queued: send(api, policy, queued, state_dir=machine.state_dir), wait_seconds=wait_seconds
    )
