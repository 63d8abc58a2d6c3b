"""Acceptance: a registry that lies in one way is refused with the error for that lie; nothing is admitted or remembered."""

import base64
import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from modelreg import api as api_module
from modelreg import connections, enrolment, errors, log_state, manifests, merkle, notes, pull
from modelreg.api import Api
from modelreg.cache import Cache
from modelreg.canonical import canonical_json
from modelreg.references import parse_reference
from support.lying_registry import HOST, NEVER, ORIGIN, Artifact, Log, LyingRegistry, Server, World, entry_of
from support.registry import QUIET

# The lying server's threads die in the middle of what never ends.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@dataclass(frozen=True)
class Lie:
    name: str
    error: type[errors.ModelregError]
    tell: Callable[[LyingRegistry], None]
    reference: str = "demo/m:v1"
    before: bool = True  # the machine has seen this log before
    stage: str = "answers"  # or `bytes`, `report`: what is refused when


LIES: list[Lie] = []


def lie(error: type[errors.ModelregError], name: str | None = None, **more: Any) -> Callable[[Any], Any]:
    def register(tell: Callable[[LyingRegistry], None]) -> Callable[[LyingRegistry], None]:
        LIES.append(Lie(name or tell.__name__.replace("_", " "), error, tell, **more))
        return tell

    return register


def set_in(hook: str, **changes: Any) -> Callable[[LyingRegistry], None]:
    """A lie that changes members of an answer."""
    return lambda r: setattr(r, hook, lambda answer: {**answer, **changes})


def each(error: type[errors.ModelregError], lies: dict[str, Any], **more: Any) -> None:
    for name, tell in lies.items():
        lie(error, name, **more)(tell)


def http(point: str, change: Callable[[int, dict[str, str], Any], Any]) -> Callable[[LyingRegistry], None]:
    return lambda r: r.http.__setitem__(point, change)


def entry(**changes: Any) -> Callable[[LyingRegistry], None]:
    """The registry records (and proves) something else than was asked for."""
    return lambda r: setattr(r, "members", r.copy_entry(**changes))


def proof(**changes: Any) -> Callable[[LyingRegistry], None]:
    return lambda r: setattr(r, "proof", r.changed_proof(**changes))


def shifted(seconds: int) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


# --- tags -------------------------------------------------------------------------------------------------------------


@lie(errors.LogRolledBack)
def an_old_tag(r):
    r.serving, r.tag_version = r.world.old, 0


@lie(errors.LogForked)
def a_tag_that_points_elsewhere_without_having_been_moved(r):
    r.serving = r.world.old


@lie(errors.LogNotIntact)
def a_tag_moved_by_an_event_that_is_not_there_yet(r):
    r.serving, r.tag_version = r.world.old, 10**6


@lie(errors.SignerNotAllowed)
def a_tag_on_another_repositorys_artifact(r):
    r.serving, r.tag_version = r.world.elsewhere, 2


@lie(errors.Revoked)
def a_tag_on_a_revoked_artifact(r):
    r.serving, r.tag_version = r.world.revoked, 2


each(
    errors.Unreachable,
    {
        "the answer for another tag": set_in("tag", tag="v2"),
        "a tag on no digest": set_in("tag", artifact="latest"),
        "a tag with an unknown member": set_in("tag", trust_me=True),
        "a tag answered by a redirect": http(
            "tag", lambda s, h, b: (302, {"Location": "https://elsewhere.test/"}, b"")
        ),
        "a tag answered in HTML": http("tag", lambda s, h, b: (200, {"Content-Type": "text/html"}, b"<html>")),
    },
)


# --- manifest and signature -------------------------------------------------------------------------------------------


def manifest(change: Callable[[LyingRegistry], bytes | str]) -> Callable[[LyingRegistry], None]:
    def tell(r: LyingRegistry) -> None:
        text = change(r)
        r.grant = lambda answer: {**answer, "manifest": text if isinstance(text, str) else text.decode()}

    return tell


def with_files(r: LyingRegistry, *more: Any, without: str = "") -> bytes:
    files = [file for file in r.serving.manifest.files if file.path != without]
    return manifests.build([*files, *more]).raw


def other_root(r: LyingRegistry) -> bytes:
    """A manifest of the same size whose first digest is another one."""
    raw, first = r.serving.manifest.raw, r.serving.manifest.files[0].sha256.encode()
    changed = raw.replace(first, bytes(reversed(first)))
    assert len(changed) == len(raw) != 0
    assert changed != raw
    return changed


each(
    errors.ManifestInvalid,
    {
        "the manifest of another artifact": manifest(lambda r: r.world.old.manifest.raw),
        "a manifest of the same size with another root": manifest(other_root),
        "a manifest with an extra unsigned file": manifest(lambda r: with_files(r, entry_of("hook.py", b"import os"))),
        "a manifest with a file missing": manifest(lambda r: with_files(r, without="config.json")),
        "a manifest with two chunks exchanged": manifest(
            lambda r: (
                manifests.build([dataclasses.replace(f, chunks=f.chunks[::-1]) for f in r.serving.manifest.files]).raw
            )
        ),
        "a manifest in another spelling": manifest(lambda r: json.dumps(json.loads(r.serving.manifest.raw), indent=1)),
        "no manifest": manifest(lambda r: ""),
    },
)


def bundle(make: Callable[[LyingRegistry], bytes]) -> Callable[[LyingRegistry], None]:
    def tell(r: LyingRegistry) -> None:
        made = make(r).decode()
        r.grant = lambda answer: {**answer, "bundles": [made]}

    return tell


def tampered(r: LyingRegistry) -> bytes:
    members = json.loads(r.serving.bundle)
    payload = base64.b64decode(members["dsseEnvelope"]["payload"]).replace(b"config.json", b"config.jsom")
    members["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    return json.dumps(members).encode()


def signed_twice(r: LyingRegistry) -> bytes:
    members = json.loads(r.serving.bundle)
    members["dsseEnvelope"]["signatures"] *= 2
    return json.dumps(members).encode()


def statement_with_fewer_files(r: LyingRegistry) -> bytes:
    from modelreg import signing, statements

    payload = json.loads(statements.build("m", r.serving.manifest))
    payload["predicate"]["resources"] = payload["predicate"]["resources"][:1]
    return signing.sign(json.dumps(payload).encode(), r.world.signer)


each(
    errors.SignatureInvalid,
    {
        "the bundle of another artifact": bundle(lambda r: r.world.old.bundle),
        "a bundle with an expired chain": bundle(lambda r: r.world.signed(r.serving.manifest, r.world.expired_signer)),
        "a bundle of another root": bundle(lambda r: r.world.signed(r.serving.manifest, r.world.stranger)),
        "a bundle whose payload was changed": bundle(tampered),
        "a bundle with a second signature": bundle(signed_twice),
        "a bundle that signs fewer files": bundle(statement_with_fewer_files),
        "a bundle that is none": bundle(lambda r: b"{}"),
    },
)
lie(errors.SignatureMissing, "no bundle")(set_in("grant", bundles=[]))
lie(errors.SignerNotAllowed, "a bundle of a signer of another repository")(
    bundle(lambda r: r.world.signed(r.serving.manifest, r.world.other_signer))
)
lie(errors.Revoked, "a bundle of a revoked signer")(
    bundle(lambda r: r.world.signed(r.serving.manifest, r.world.revoked_signer))
)


@lie(errors.SignatureInvalid)
def an_artifact_of_the_liars_own(r):
    r.serving = Artifact(
        "demo/m", r.world.elsewhere.manifest, r.world.signed(r.world.elsewhere.manifest, r.world.stranger), {}
    )
    r.tag_version = 2
    r.grant = lambda answer: {
        **answer, "manifest": r.serving.manifest.raw.decode(), "bundles": [r.serving.bundle.decode()]
    }  # fmt: skip


# --- what the entry says ----------------------------------------------------------------------------------------------

each(
    errors.ReceiptMismatch,
    {
        "a grant that names another repository": set_in("grant", repository="demo/n"),
        "a grant that names another artifact": set_in("grant", artifact="sha256:" + "0" * 64),
        "a grant that names another event": lambda r: setattr(
            r, "grant", lambda answer: {**answer, "event": answer["event"] - 1}
        ),
        "a grant under another id": set_in("grant", id="00000000-0000-4000-8000-000000000000"),
        "an entry of another type": entry(type="artifact.refused"),
        "an entry for another repository": entry(repository="demo/n"),
        "an entry for another artifact": entry(artifact="sha256:" + "0" * 64),
        "an entry for another tag": entry(tag="v2"),
        "an entry for no tag": entry(tag=None),
        "an entry for another host": entry(host="gpu-2"),
        "an entry for another purpose": entry(purpose="launch"),
        "an entry of another verified host": entry(verified_host={"name": "gpu-2", "class": "server", "zone": "z"}),
        "an entry of no verified host": entry(verified_host=None),
        "an entry of another grant": entry(detail={"grant": "00000000-0000-4000-8000-000000000000"}),
        "an entry without a grant": entry(detail={}),
        "an entry from the future": lambda r: setattr(r, "members", lambda e: {**e, "time": shifted(400)}),
        "an entry from the past": lambda r: setattr(r, "members", lambda e: {**e, "time": shifted(-400)}),
    },
)
each(
    errors.LogNotIntact,
    {
        "an entry of an unknown version": entry(v=3),
        "an entry without a time zone": entry(time="2026-11-24T10:00:00.000000"),
        "an entry that is no object": lambda r: setattr(r, "members", lambda e: b"[]"),
        "an entry in another spelling": lambda r: setattr(r, "members", lambda e: json.dumps(e, indent=1).encode()),
    },
)


@lie(errors.ReceiptMismatch)
def the_replay_of_an_earlier_grant(r):
    """Everything of it is true, and it is not the answer to this question."""
    index = 2  # the grant of the first pull
    granted = json.loads(r.log.entries[index])["detail"]["grant"]

    def replay(answer: dict[str, Any]) -> dict[str, Any]:
        receipt, _ = r.prove(index, None)
        return {**answer, "id": granted, "event": index, "receipt": receipt}

    r.grant = replay


# --- the receipt ------------------------------------------------------------------------------------------------------

lie(errors.ReceiptMissing, "no receipt")(set_in("grant", receipt=""))


def flipped(value: bytes) -> bytes:
    return bytes([value[0] ^ 1]) + value[1:]


each(
    errors.LogNotIntact,
    {
        "a receipt that is none": set_in("grant", receipt="trust me"),
        "a receipt without its entry": lambda r: setattr(
            r, "receipt", lambda text: "\n".join(line for line in text.split("\n") if not line.startswith("extra "))
        ),
        "a receipt of another proof format": lambda r: setattr(r, "receipt", lambda text: text.replace("@v1", "@v2")),
        "a receipt for another leaf": lambda r: proof(entry=lambda _: r.log.entries[0])(r),
        "a receipt with another index": proof(index=lambda p: p.index - 1),
        "a receipt with an index behind the log": proof(index=lambda p: p.index + 1),
        "an entry changed after it was recorded": proof(entry=lambda p: p.entry.replace(b'"demo/m"', b'"demo/n"')),
        "a proof that lacks a hash": proof(path=lambda p: p.path[:-1]),
        "a proof with a hash too many": proof(path=lambda p: [*p.path, b"\0" * 32]),
        "a proof with a wrong hash": proof(path=lambda p: [flipped(p.path[0]), *p.path[1:]]),
        "a proof with its hashes exchanged": proof(path=lambda p: p.path[::-1]),
        "a proof of more hashes than any tree has": proof(path=lambda p: [b"\0" * 32] * 65),
        "a receipt larger than any": lambda r: setattr(r, "receipt", lambda text: text + "x" * 100_000),
        "a checkpoint that is not signed": proof(note=lambda p: p.note.partition(b"\n\n")[0] + b"\n\n"),
        "a checkpoint of another size than was signed": proof(
            note=lambda p: p.note.replace(b"\n%d\n" % (p.index + 1), b"\n%d\n" % (p.index + 2), 1)
        ),
        "a checkpoint with a broken signature": proof(
            note=lambda p: p.note.replace(p.note.split(b" ")[2][8:12], b"AAAA", 1)
        ),
        "a checkpoint signed with another key": lambda r: setattr(
            r, "checkpoint", lambda log: r.note(len(log.entries), log.root(), r.world.other_key)
        ),
        "a checkpoint of another log": lambda r: setattr(
            r, "checkpoint", lambda log: r.note(len(log.entries), log.root(), r.world.log_key, "other.test/log")
        ),
        "a checkpoint of another log under the pinned key id": lambda r: setattr(
            r,
            "checkpoint",
            lambda log: r.honest_checkpoint(log).replace(ORIGIN.encode() + b"\n", b"other.test/log\n", 1),
        ),
        "a checkpoint with a line more": lambda r: setattr(r, "checkpoint", with_a_line),
        "a checkpoint of another root": lambda r: setattr(
            r, "checkpoint", lambda log: r.cosigned(r.note(len(log.entries), b"\1" * 32), *r.world.witness_keys)
        ),
        "an old checkpoint that lacks the entry": lambda r: setattr(
            r,
            "checkpoint",
            lambda log: r.cosigned(r.note(len(log.entries) - 1, log.root(len(log.entries) - 1)), *r.world.witness_keys),
        ),
        "the checkpoint of an empty log": lambda r: setattr(
            r, "checkpoint", lambda log: r.cosigned(r.note(0, merkle.EMPTY_ROOT), *r.world.witness_keys)
        ),
    },
)


def with_a_line(log: Log) -> bytes:
    from modelreg import checkpoints

    text = checkpoints.body(ORIGIN, len(log.entries), log.root()) + b"extension\n"
    return notes.sign(text, WORLD.log_key, ORIGIN)


# --- witnesses: the policy demands two --------------------------------------------------------------------------------

W1, W2 = "witness-1.test", "witness-2.test"


def witnessed(make: Callable[[LyingRegistry, bytes], bytes]) -> Callable[[LyingRegistry], None]:
    return lambda r: setattr(r, "checkpoint", lambda log: make(r, r.note(len(log.entries), log.root())))


def by_a_stranger(r: LyingRegistry, note: bytes) -> bytes:
    body = note.partition(b"\n\n")[0] + b"\n"
    return r.cosigned(note, W1) + notes.cosign(body, r.world.other_key, "witness-3.test", datetime.now(UTC))


def by_one_key_under_two_names(r: LyingRegistry, note: bytes) -> bytes:
    body = note.partition(b"\n\n")[0] + b"\n"
    return r.cosigned(note, W1) + notes.cosign(body, r.world.witness_keys[W1], "witness-4.test", datetime.now(UTC))


def by_the_log_itself(r: LyingRegistry, note: bytes) -> bytes:
    body = note.partition(b"\n\n")[0] + b"\n"
    return r.cosigned(note, W1) + notes.cosign(body, r.world.log_key, ORIGIN, datetime.now(UTC))


each(
    errors.LogUnwitnessed,
    {
        "no cosignature": witnessed(lambda r, note: note),
        "one cosignature of two": witnessed(lambda r, note: r.cosigned(note, W1)),
        "the same cosignature twice": witnessed(lambda r, note: r.cosigned(note, W1, W1)),
        "a cosignature of nobody known": witnessed(by_a_stranger),
        "one witness under two names": witnessed(by_one_key_under_two_names),
        "the log as its own witness": witnessed(by_the_log_itself),
    },
)
lie(errors.LogNotIntact, "a cosignature over another checkpoint")(
    witnessed(lambda r, note: r.cosigned(r.cosigned(note, W1), W2, text=f"{ORIGIN}\n1\n{'A' * 43}=\n".encode()))
)

# --- the log as a whole -----------------------------------------------------------------------------------------------


def replaced_log(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[LyingRegistry], None]:
    """The registry shows another log than before, with proofs that fit it."""

    def tell(r: LyingRegistry) -> None:
        r.log = Log(change(r.log.entries))

    return tell


def replaced_at_the_end(r: LyingRegistry) -> None:
    """A log of exactly the size that was seen, with another last entry: the grant takes the place of what was there."""
    r.log = Log(r.log.entries[: SEEN_SIZE - 1])


each(
    errors.LogRolledBack,
    {
        "a log that was rolled back": replaced_log(lambda entries: entries[: SEEN_SIZE - 2]),
        "a log that begins anew": replaced_log(lambda entries: []),
    },
)
each(
    errors.LogForked,
    {
        "a forked log of the same size": replaced_at_the_end,
        "a log with an event dropped": replaced_log(lambda entries: [*entries[:1], *entries[2:]]),
        "a log with an event changed": replaced_log(
            lambda entries: [entries[0].replace(b'"demo/m"', b'"demo/x"'), *entries[1:]]
        ),
        "a log with an event put in between": replaced_log(lambda entries: [*entries[:1], entries[0], *entries[1:]]),
        "a log with two events exchanged": replaced_log(lambda entries: [entries[1], entries[0], *entries[2:]]),
        "a log that nobody ever saw": replaced_log(lambda entries: [canonical_json({"n": n}) for n in range(20)]),
        "a larger log without a proof": lambda r: setattr(r, "consistency", lambda hashes: []),
        "a consistency proof of another pair": lambda r: setattr(
            r, "consistency", lambda hashes: r.log.consistency(SEEN_SIZE - 1, len(r.log.entries))
        ),
        "a consistency proof with a wrong hash": lambda r: setattr(
            r, "consistency", lambda hashes: [*hashes[:-1], flipped(hashes[-1])]
        ),
        "a consistency proof that lacks a hash": lambda r: setattr(r, "consistency", lambda hashes: hashes[:-1]),
    },
)
each(
    errors.LogNotIntact,
    {
        "a consistency proof with hashes too many": lambda r: setattr(
            r, "consistency", lambda hashes: [*hashes, *hashes, *hashes]
        ),
        "a consistency proof of more hashes than any tree has": lambda r: setattr(
            r, "consistency", lambda hashes: [b"\0" * 32] * 65
        ),
        "a consistency proof that is not base64": lambda r: setattr(r, "consistency", lambda hashes: ["?"]),
        "a consistency proof of short hashes": lambda r: setattr(r, "consistency", lambda hashes: ["AAAA"]),
    },
)
lie(errors.LogNotIntact, "a consistency proof where none belongs", before=False)(
    lambda r: setattr(r, "consistency", lambda hashes: [b"\0" * 32])
)

# --- answers as such --------------------------------------------------------------------------------------------------

each(
    errors.Unreachable,
    {
        "a grant with an unknown member": set_in("grant", trust_me=True),
        "a grant without a manifest": lambda r: setattr(
            r, "grant", lambda answer: {name: value for name, value in answer.items() if name != "manifest"}
        ),
        "an answer larger than any": http("grant", lambda s, h, b: (s, h, b + b" " * 2 * 1024 * 1024)),
        "an answer without end": http("grant", lambda s, h, b: (s, h, NEVER)),
        "an answer shorter than its length": http(
            "grant", lambda s, h, b: (s, {**h, "Content-Length": str(len(b)), "Connection": "close"}, b[:-9])
        ),
        "an answer longer than its length": http(
            "grant", lambda s, h, b: (s, {**h, "Content-Length": str(len(b) - 9)}, b)
        ),
        "a redirect to elsewhere": http("grant", lambda s, h, b: (307, {"Location": "https://elsewhere.test/v1"}, b"")),
        "an answer in HTML": http("grant", lambda s, h, b: (200, {"Content-Type": "text/html"}, b"<html>yes</html>")),
    },
)

lie(errors.ModelregError, "a problem that is none")(
    http("grant", lambda s, h, b: (500, {"Content-Type": "application/problem+json"}, b'{"type": "x"}'))
)

# --- bytes ------------------------------------------------------------------------------------------------------------


def request(**changes: Any) -> Callable[[LyingRegistry], None]:
    return lambda r: setattr(
        r, "requests", lambda answer: {"requests": [{**each, **changes} for each in answer["requests"]]}
    )


def bytes_of(change: Callable[[bytes], Any]) -> Callable[[LyingRegistry], None]:
    return http("blob", lambda s, h, b: (s, h, change(b)))


each(
    errors.Unreachable,
    {
        "no way to the bytes": set_in("requests", requests=[]),
        "a way to other bytes": request(blake3="0" * 64),
        "a way over plain http to elsewhere": request(url="http://elsewhere.test/blob"),
        "a way into this machine's files": request(url="file:///etc/passwd"),
        "bytes from another range": http(
            "blob", lambda s, h, b: (s, {**h, "Content-Range": f"bytes 0-{len(b) - 1}/{len(b) + 1}"}, b)
        ),
        "a whole blob instead of a range": http("blob", lambda s, h, b: (200, h, b)),
        "bytes by a redirect": http("blob", lambda s, h, b: (302, {"Location": "https://elsewhere.test/b"}, b"")),
        "too few bytes": bytes_of(lambda b: b[:-1]),
        "no bytes": bytes_of(lambda b: b""),
        "too many bytes": bytes_of(lambda b: b + b"x"),
    },
    stage="bytes",
)


# Of the big file, one chunk is all zeros and the other all ones.
CHUNKS_EXCHANGED, FIRST_CHUNK_TWICE = bytes.maketrans(b"\0\1", b"\1\0"), bytes.maketrans(b"\1", b"\0")


each(
    errors.DigestMismatch,
    {
        "other bytes of the same size": bytes_of(lambda b: b"x" * len(b)),
        "one bit flipped": bytes_of(flipped),
        "two chunks exchanged": bytes_of(lambda b: b.translate(CHUNKS_EXCHANGED)),
        "the first chunk twice": bytes_of(lambda b: b.translate(FIRST_CHUNK_TWICE)),
    },
    stage="bytes",
)

# --- the report that everything arrived -------------------------------------------------------------------------------


def recorded(**changes: Any) -> Callable[[LyingRegistry], None]:
    return set_in("recorded", **changes)


lie(errors.ReceiptMissing, "a report without a receipt", stage="report")(recorded(receipt=None))
lie(errors.LogForked, "a report without a consistency proof", stage="report")(recorded(consistency=[]))
lie(errors.ReceiptMismatch, "a report recorded elsewhere", stage="report")(recorded(event=1))


@lie(errors.ReceiptMismatch, stage="report")
def the_receipt_of_the_grant_for_the_report(r):
    def answer(given: dict[str, Any]) -> dict[str, Any]:
        index = given["event"] - 1
        receipt, _ = r.prove(index, None)
        return {**given, "event": index, "receipt": receipt}

    r.recorded = answer


# --- the tests --------------------------------------------------------------------------------------------------------

WORLD = World()
SEEN_SIZE = 11


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A machine that has pulled once from the honest registry, when its log had `SEEN_SIZE` entries."""
    state = tmp_path_factory.mktemp("state")
    key = enrolment.prepare_key(state, replace=False)
    enrolment.remember(state, enrolment.Enrolled("http://registry.test", HOST, "server", "z", "sha256:" + "0" * 64))
    registry = LyingRegistry(WORLD)
    pulled = pull_once(registry, state, tmp_path_factory.mktemp("cache"), key)
    assert pulled.entry is not None
    registry.other_events(SEEN_SIZE - 2 - len(registry.log.entries))
    # The report is the last that it saw; go on from a checkpoint with events of others in it.
    pull_once(registry, state, tmp_path_factory.mktemp("cache"), key)
    return registry, state, key


def pull_once(registry, state, cache, key, reference="demo/m:v1"):
    server = Server(registry)
    try:
        api = Api(server.url, None, connections.make_pool(None, 2), key)
        return pull.pull(
            api, Cache(cache), WORLD.policy, parse_reference(reference), purpose="pull", host=HOST,
            now=datetime.now(UTC), connections_at_once=2, meter=QUIET, state_dir=state,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def machine(before, tmp_path, monkeypatch):
    """A copy of that machine, with an empty store, and of the registry with two further events."""
    monkeypatch.setattr(api_module, "_MAX_ANSWER_BYTES", 1024 * 1024)
    monkeypatch.setattr(connections, "TRIES", 2)
    monkeypatch.setattr(connections, "READ_SECONDS", 3.0)
    monkeypatch.setattr(connections, "_MAX_WAIT_SECONDS", 0.01)
    registry, state, key = before
    shutil.copytree(state, tmp_path / "state")
    again = LyingRegistry(WORLD, registry.log)
    again.other_events(2)
    return again, tmp_path / "state", tmp_path / "cache", key


def remembered(state):
    """Every file but the empty lock."""
    files = (path for path in sorted(state.rglob("*")) if path.is_file() and path.stat().st_size)
    return {str(path.relative_to(state)): path.read_bytes() for path in files}


def test_the_honest_registry_is_believed_and_its_receipt_is_kept(machine):
    registry, state, cache, key = machine
    pulled = pull_once(registry, state, cache, key)

    assert pulled.entry is not None
    assert (pulled.folder / "w.bin").read_bytes() == b"new" * 100
    kept = Cache(cache).kept(pulled.verified.manifest.digest)
    assert kept is not None
    assert kept.raw_receipt == pulled.grant.receipt.encode()
    newest = log_state.newest(state, WORLD.policy.log)
    assert newest is not None
    assert newest.size == len(registry.log.entries)


def test_the_honest_registry_is_believed_at_first_sight(machine, tmp_path):
    registry, state, cache, key = machine
    shutil.rmtree(state / "logs")
    assert pull_once(registry, state, cache, key).entry is not None


@pytest.mark.parametrize("told", LIES, ids=[told.name for told in LIES])
def test_a_lie_is_refused_with_its_own_code_and_nothing_of_it_stays(machine, told):
    registry, state, cache, key = machine
    if not told.before:
        shutil.rmtree(state / "logs")
        (state / "logs").mkdir()
    told.tell(registry)
    seen_before = remembered(state)
    with pytest.raises(errors.ModelregError) as refused:
        pull_once(registry, state, cache, key, told.reference)

    error = refused.value
    assert (error.exit_code, error.code) == (told.error.exit_code, told.error.code), error.detail
    assert error.detail
    if told.stage == "report":
        return  # every byte had been verified by then
    assert list((cache / "snapshots").iterdir()) == []
    assert list((cache / "artifacts").iterdir()) == []
    assert not any(path.endswith("/receipts") for path in registry.seen)
    if told.stage == "bytes":
        return  # the grant was true, and is remembered; of the bytes, only files that are right have a final name
    assert [path for path in (cache / "blobs").rglob("*") if path.is_file()] == []
    assert not any("read-requests" in path or "/blobs/" in path for path in registry.seen)
    assert remembered(state) == seen_before


def test_there_are_sixty_lies_and_each_is_another():
    assert len(LIES) >= 60
    assert len({told.name for told in LIES}) == len(LIES)
