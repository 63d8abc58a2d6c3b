"""watch: one round of a host's duties. What it holds is recalled? changed? running? Say so, stop it, remove it.

    1. trust policy and revocation list, as new as can be had; without the registry the verified copy on this machine
    2. what the registry has recalled among what this store holds, and what it waits to hear from this host
    3. for each recalled artifact: stop what runs it, remove it, if asked to; then confirm. First, for it is quick
    4. files of the store, and what processes have mapped of them (`rechecking`)
    5. everything to be said waits as a notice, in order, now or when the registry answers again

A recall holds when either says so, the registry or the signed list. A revoked *signer* stops nothing here: what they
signed is refused at the next launch, and who wants it stopped recalls the artifacts.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from modelreg import mapped, pinned, rechecking, verification, wire, wire_recalls
from modelreg.api import Api
from modelreg.cache import Cache
from modelreg.digests import Digest
from modelreg.durable import make_folder, replace_file
from modelreg.errors import (
    Conflict,
    Forbidden,
    Invalid,
    ModelregError,
    NotFound,
    StaleTrust,
    TooLarge,
)
from modelreg.launch import SECRETS
from modelreg.notices import Message, Notices
from modelreg.rechecking import Alteration, Held, Memory
from modelreg.settings import Settings
from modelreg.trust import TrustPolicy

SCHEMA = "modelreg/watch-state/v1"
PLACEHOLDERS = ("{artifact}", "{pid}", "{path}")
COMMAND_SECONDS = 60  # for a stop command to end
_MAX_LINE = 200  # of the wire's lines
# What will not change by asking again. Anything else may, and whatever it is, it must not keep this host from its duties.
_NEVER = (NotFound, Conflict, Forbidden, Invalid, TooLarge)


@dataclass(frozen=True)
class Options:
    """What to do beside looking. `on_recall` is a command and its arguments, with `PLACEHOLDERS` as whole words."""

    on_recall: tuple[str, ...] = ()
    remove: bool = False
    full: bool = False
    stop_seconds: float = 30.0


@dataclass
class Recalled:
    """A recalled artifact of this host and where it stands. `by` says who recalls it, `state` is as in a confirmation.

    The registry has not heard what it waits for where it is `awaited`.
    """

    artifact: Digest
    kind: str
    reason: str
    by: list[str] = field(default_factory=list)
    recall_id: str | None = None
    awaited: bool = False
    state: str = "absent"
    processes: list[int] = field(default_factory=list)


@dataclass
class Round:
    """What one round found. `offline` says why the registry was not heard, `stale` why no trust data is fresh.

    `unfit` is what would not be launched any more, and why.
    """

    held: int = 0
    offline: str | None = None
    stale: str | None = None
    altered: list[Alteration] = field(default_factory=list)
    recalled: list[Recalled] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    unseen_processes: int = 0
    waiting: int = 0


@dataclass
class _State:
    """What is remembered between rounds, in one file."""

    memory: Memory = field(default_factory=Memory)
    reported: list[str] = field(default_factory=list)
    confirmed: dict[str, list[str | None]] = field(default_factory=dict)


def look(
    settings: Settings,
    connect: Callable[[], Api],
    options: Options,
    now: datetime,
    note: Callable[[str], None],
) -> Round:
    """Do one round.

    Args:
        settings: which registry, store and host this is.
        connect: makes the connection to the registry; may refuse.
        options: what to do beside looking.
        now: the round's instant.
        note: is told what happens by the way.

    Raises:
        Conflict: another watch runs on this machine's state.
        Misconfigured, Untrusted: there is neither a usable trust policy nor a registry that answers.
    """
    with _alone(settings.state_dir):
        return _Looking(settings, connect, options, now, note).round()


class _Looking:
    """One round under way."""

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[], Api],
        options: Options,
        now: datetime,
        note: Callable[[str], None],
    ) -> None:
        self._settings, self._options, self._now, self._note = settings, options, now, note
        self._cache = Cache(settings.cache_dir)
        self._path = settings.state_dir / "watch.json"
        self._notices = Notices(settings.state_dir / "notices" / pinned.folder_of(settings).name)
        self._state = _read(self._path)
        self._found = Round()
        self._api: Api | None = None
        try:
            self._api = connect()
        except ModelregError as error:
            self._found.offline = error.detail

    def round(self) -> Round:
        """See the module."""
        policy = self._policy()
        held, altered = rechecking.held_in(self._cache)
        self._found.held = len(held)
        recalled = self._recalls(held, policy)
        memory = Memory({}, self._state.memory.admitted) if self._options.full else self._state.memory
        in_use = rechecking.in_use(self._cache, held, memory)
        self._found.unseen_processes = in_use.unseen
        by_artifact = {one.artifact: one for one in held}
        for item in recalled.values():
            removed = self._settle(item, by_artifact.get(item.artifact), in_use, held, memory)
            held = [one for one in held if not (removed and one.artifact == item.artifact)]
        more, now = rechecking.recheck(self._cache, held, memory)
        altered += [*more, *rechecking.recheck_mapped(self._cache, held, in_use, memory, now)]
        self._state.memory = now
        self._tell_altered([*self._found.altered, *altered])
        self._found.recalled = list(recalled.values())
        for one in held:
            if one.artifact not in recalled and policy is not None and self._found.stale is None:
                self._try(one, policy)
        self._deliver()
        _write(self._path, self._state)
        self._found.waiting = len(self._notices)
        return self._found

    def _policy(self) -> TrustPolicy | None:
        try:
            policy = pinned.policy_of(self._settings, self._note)
            policy.require_fresh(self._now)
        except StaleTrust as error:
            self._found.stale = error.detail
        except ModelregError as error:
            # Whoever serves false trust data must not make this host forget what it knows to be distrusted.
            with contextlib.suppress(ModelregError):
                kept = pinned.kept_policy_of(self._settings)
                kept.require_fresh(self._now)
                self._note(f"no new trust policy: {error.detail}; going by this machine's verified copy")
                return kept
            if self._api is None:
                raise
            self._note(f"no trust policy: {error.detail}; going by what the registry says alone")
            return None
        else:
            return policy
        # What is on a stale list stays distrusted; that something is missing on it says nothing any more.
        with contextlib.suppress(ModelregError):
            return pinned.policy_of(self._settings)
        return None

    def _recalls(self, held: Sequence[Held], policy: TrustPolicy | None) -> dict[Digest, Recalled]:
        found: dict[Digest, Recalled] = {}
        if policy is not None:
            for one in held:
                refusal = policy.refusal(one.artifact)
                if refusal is not None:
                    kind = "revocation" if refusal.code == "revoked" else "quarantine"
                    reason = str(refusal.facts.get("reason", ""))
                    found[one.artifact] = Recalled(one.artifact, kind, reason, ["list"])
        answers, awaited = self._ask([one.artifact for one in held])
        for answer in [*answers, *awaited]:
            artifact = Digest.parse(answer.artifact)
            item = found.setdefault(artifact, Recalled(artifact, answer.kind, answer.reason))
            if "registry" not in item.by:
                item.by.append("registry")
            # The list may be older than the registry's word, or newer; a revocation in either is one.
            item.kind = "revocation" if "revocation" in {item.kind, answer.kind} else "quarantine"
            item.reason, item.recall_id = answer.reason, answer.id
            item.awaited = answer.id in {row.id for row in awaited}
        return found

    def _ask(self, artifacts: Sequence[Digest]) -> tuple[list[wire_recalls.OpenRecall], list[wire_recalls.OpenRecall]]:
        """What is recalled of these, and what the registry waits to hear from this host."""
        found: list[wire_recalls.OpenRecall] = []
        awaited: list[wire_recalls.OpenRecall] = []
        if self._api is None:
            return found, awaited
        step = wire_recalls.MAX_CHECKED
        try:
            for start in range(0, max(1, len(artifacts)), step):
                answer = self._api.check_recalls(artifacts[start : start + step], self._settings.host_name)
                found += answer.recalls
                awaited = answer.expected
        except ModelregError as error:
            self._found.offline = error.detail
        return found, awaited

    def _tell_altered(self, altered: list[Alteration]) -> None:
        """Report what was not reported before. What is put right and breaks again is reported again."""
        self._found.altered = altered
        keys = [f"{item.artifact} {item}" for item in altered]
        for key, item in zip(keys, altered, strict=True):
            if key not in self._state.reported:
                body = {
                    "artifact": str(item.artifact),
                    "repository": item.repository,
                    "host": self._settings.host_name,
                    "where": item.where,
                    "what": item.what,
                    "path": ascii(item.path)[1:-1][-_MAX_LINE:],
                    "expected": item.expected,
                    "measured": item.measured,
                    "pid": item.pid,
                }
                self._put("alteration", body)
        self._state.reported = keys
        _write(self._path, self._state)

    def _settle(
        self,
        item: Recalled,
        one: Held | None,
        in_use: rechecking.InUse,
        held: Sequence[Held],
        memory: Memory,
    ) -> bool:
        """Stop, remove, confirm: in this order, and the second only if nothing runs any more. Whether it was removed."""
        processes = {process for process in in_use.running.get(item.artifact, ()) if process.runs()}
        if processes:
            self._stands(item, "running", processes)
            self._confirm(item)
            if self._options.on_recall:
                self._deliver()  # a stop command may take long, and the registry should know meanwhile
                processes = self._stop(item, processes)
        removes = one is not None and self._options.remove and not processes
        if one is not None and removes:
            # What was changed on this host is worth knowing, and gone in a moment.
            self._found.altered += rechecking.recheck(self._cache, [one], memory)[0]
            needed = {entry.blake3 for other in held if other is not one for entry in other.entries}
            self._cache.remove(one.artifact, one.entries, needed)
            self._note(f"removed {one.artifact} from {self._cache.root}")
        if processes:
            self._stands(item, "running", processes)
        elif removes or (one is None and self._removed(item)):
            self._stands(item, "removed", processes)
        else:
            self._stands(item, "absent" if one is None else "holding", processes)
        self._confirm(item)
        return removes

    def _stands(self, item: Recalled, state: str, processes: set[mapped.Process]) -> None:
        item.state, item.processes = state, sorted(process.pid for process in processes)

    def _removed(self, item: Recalled) -> bool:
        """Whether this host said that it removed the artifact: then that is why it is not here."""
        return self._state.confirmed.get(str(item.artifact), [None, None])[1] == "removed"

    def _stop(self, item: Recalled, processes: set[mapped.Process]) -> set[mapped.Process]:
        """Run the stop command; returns the processes that are still there after the grace."""
        words = self._options.on_recall
        tops = mapped.topmost(processes) if "{pid}" in words else [None]
        for top in tops:
            values = {
                "{artifact}": str(item.artifact),
                "{path}": str(self._cache.snapshot_path(item.artifact)),
                "{pid}": str(top.pid) if top is not None else "",
            }
            if top is None or top.runs():
                self._run([values.get(word, word) for word in words])
        deadline = time.monotonic() + self._options.stop_seconds
        while (left := {process for process in processes if process.runs()}) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            pids = ", ".join(str(process.pid) for process in sorted(left))
            self._note(f"{item.artifact} still runs as {pids} after the stop command")
        return left

    def _run(self, command: list[str]) -> None:
        """No shell; what we prove ourselves with is none of its business; what it prints goes to stderr."""
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        try:
            done = subprocess.run(  # noqa: S603  # the operator's own words
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            self._note(f"the stop command failed: {error}")
            return
        if done.returncode:
            self._note(f"the stop command ended with {done.returncode}")

    def _confirm(self, item: Recalled) -> None:
        """Queue what is new: another state, another recall, or one that the registry waits to hear of again."""
        said = [item.recall_id, item.state]
        if self._state.confirmed.get(str(item.artifact)) == said and not item.awaited:
            return
        self._put(
            "confirmation",
            {
                "artifact": str(item.artifact),
                "recall": item.recall_id,
                "state": item.state,
                "host": self._settings.host_name,
                "processes": len(item.processes),
                "unseen_processes": self._found.unseen_processes,
            },
        )
        self._state.confirmed[str(item.artifact)] = said
        _write(self._path, self._state)

    def _try(self, one: Held, policy: TrustPolicy) -> None:
        try:
            verification.verify(
                one.raw_bundle,
                one.manifest.raw,
                policy=policy,
                repository=one.repository,
                now=self._now,
                artifact=one.artifact,
            )
        except ModelregError as error:
            self._found.unfit[str(one.artifact)] = f"{error.code}: {error.detail}"

    def _put(self, kind: str, body: dict[str, Any]) -> None:
        try:
            self._notices.put(kind, {**body, "noticed_at": self._now.isoformat()})
        except TooLarge as error:
            self._note(error.detail)  # what has to be stopped is stopped all the same

    def _deliver(self) -> None:
        """Say what waits, oldest first, until the registry does not answer."""
        if self._api is None:
            return
        for message in self._notices.waiting():
            try:
                self._say(self._api, message)
            except _NEVER as error:
                self._note(f"the registry does not take this host's {message.kind}: {error.detail}")
            except ModelregError as error:
                self._found.offline = error.detail
                return
            message.remove()

    def _say(self, api: Api, message: Message) -> None:
        body = dict(message.body)
        if message.kind == "alteration":
            # What was found in a store that somebody altered may be no text of the wire: refused here, as there.
            api.report_alteration(wire.request(wire_recalls.AlterationReport, **body))
            return
        artifact, recall_id = Digest.parse(body.pop("artifact")), body.pop("recall")
        if recall_id is None:
            # It was learnt from the list; the registry may know it as a recall of its own, or not.
            found = api.check_recalls([artifact]).recalls
            if not found:
                return
            recall_id = found[0].id
        api.confirm_recall(recall_id, wire.request(wire_recalls.ConfirmationRequest, **body))


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    make_folder(state_dir)
    fd = os.open(state_dir / "watch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another `modelreg watch` is at work with {state_dir}") from None
        yield
    finally:
        os.close(fd)


def _read(path: Path) -> _State:
    """What was remembered. A file that is not ours is nothing: then everything is measured and said again."""
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if document["schema"] != SCHEMA:
            return _State()
        measured = {_fingerprint(key): str(value) for key, value in document["measured"].items()}
        admitted = {str(name): _fingerprint(value) for name, value in document["admitted"].items()}
        confirmed = {str(name): list(value) for name, value in document["confirmed"].items()}
        return _State(Memory(measured, admitted), [str(key) for key in document["reported"]], confirmed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _State()


def _write(path: Path, state: _State) -> None:
    document = {
        "schema": SCHEMA,
        "measured": {":".join(map(str, key)): value for key, value in state.memory.measured.items()},
        "admitted": {name: ":".join(map(str, value)) for name, value in state.memory.admitted.items()},
        "reported": state.reported,
        "confirmed": state.confirmed,
    }
    replace_file(path, json.dumps(document).encode(), mode=0o600)


def _fingerprint(text: str) -> rechecking.Fingerprint:
    device, inode, size, modified, changed = (int(part) for part in text.split(":"))
    return device, inode, size, modified, changed


def _has_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True
