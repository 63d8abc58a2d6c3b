"""The witness against its protocol (C2SP tlog-witness), request by request; over HTTP in tests/client/test_witness.py."""

import base64
import stat
import threading
from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from modelreg import merkle, notes, witness
from modelreg.errors import Misconfigured
from modelreg.witness import Answer, Witness
from support.fuzzing import mutations
from support.witnesses import Log

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def key(tmp_path):
    return witness.make_key(tmp_path / "witness.key", "witness.example/w1")


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def watching(key, log, tmp_path):
    return Witness(key, tmp_path / "state", [log.vkey], lambda: NOW)


def request(old, proof, note):
    return b"".join([f"old {old}\n".encode(), *[base64.b64encode(value) + b"\n" for value in proof], b"\n", note])


def submit(watching, log, old, new, note=None):
    return watching.add_checkpoint(request(old, log.proof(old, new), note or log.note(new)))


def refused(status, call, *arguments):
    with pytest.raises(Answer) as caught:
        call(*arguments)
    assert caught.value.status == status, caught.value.body
    return caught.value


def test_the_cosignature_is_the_one_that_the_specification_describes(watching, log, key):
    line = submit(watching, log, 0, 7).decode()
    head, name, text = line.removesuffix("\n").split(" ")
    raw = base64.b64decode(text)
    public = key.verifier.raw
    import hashlib

    assert (head, name) == ("—", "witness.example/w1")
    assert raw[:4] == hashlib.sha256(b"witness.example/w1\n\x04" + public).digest()[:4]
    assert int.from_bytes(raw[4:12], "big") == int(NOW.timestamp())
    body = f"{log.origin}\n7\n{base64.b64encode(log.root(7)).decode()}\n"
    message = f"cosignature/v1\ntime {int(NOW.timestamp())}\n{body}".encode()
    Ed25519PublicKey.from_public_bytes(public).verify(raw[12:], message)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(raw[12:], message + b"\n")


def test_a_log_that_grows_is_cosigned_at_every_size_and_again_at_the_same(watching, log):
    last = 0
    for size in (0, 1, 2, 3, 7, 8, 64, 100, 100, 257):
        line = submit(watching, log, last, size)
        assert notes.verified_by(notes.parse(log.note(size) + line), [watching._key.verifier])
        last = size


def test_an_unknown_origin_is_404(watching):
    refused(404, submit, watching, Log("other.example/log"), 0, 3)


def test_no_signature_of_a_known_key_is_403_and_so_is_one_that_does_not_hold(watching, log):
    stranger = Log(log.origin)  # the same name, another key
    refused(403, submit, watching, stranger, 0, 3)
    good = log.note(3)
    value = bytearray(base64.b64decode(good.rstrip().rpartition(b" ")[2]))
    value[-1] ^= 1
    bad = good.rpartition(b" ")[0] + b" " + base64.b64encode(value) + b"\n"
    refused(403, submit, watching, log, 0, 3, bad)
    # A line of the known key that does not hold spoils the note, whatever else is there.
    refused(403, submit, watching, log, 0, 3, good + bad.rpartition(b"\n\n")[2])


def test_signatures_of_unknown_keys_are_ignored_and_not_kept(watching, log):
    extra = Log("someone.example/else").note(3).rpartition(b"\n\n")[2]
    assert submit(watching, log, 0, 3, log.note(3) + extra)
    import hashlib

    shown = watching.checkpoint(hashlib.sha256(log.origin.encode()).hexdigest())
    assert b"someone.example" not in shown
    note = notes.parse(shown)
    assert len(notes.verified_by(note, [log.vkey, watching._key.verifier])) == 2


def test_an_old_size_beyond_the_checkpoint_is_400(watching, log):
    refused(400, watching.add_checkpoint, request(9, [], log.note(3)))


def test_another_old_size_than_the_last_cosigned_is_409_with_that_size(watching, log):
    answer = refused(409, submit, watching, log, 3, 5)
    assert (answer.body, answer.kind) == ("0\n", "text/x.tlog.size")
    submit(watching, log, 0, 5)
    for old in (0, 3, 6):
        assert refused(409, submit, watching, log, old, 8).body == "5\n"
    refused(409, submit, watching, log, 4, 4)  # smaller than what it vouches for


def test_a_proof_that_does_not_hold_is_422_and_nothing_is_remembered(watching, log):
    submit(watching, log, 0, 5)
    proof = log.proof(5, 9)
    wrong = [
        [],
        proof[:-1],
        [*proof, proof[0]],
        proof[::-1],
        [bytes(32), *proof[1:]],
        log.proof(4, 9),
    ]
    for attempt in wrong:
        refused(422, watching.add_checkpoint, request(5, attempt, log.note(9)))
    fork = Log(log.origin, seed=b"other")
    fork.key = log.key
    refused(422, submit, watching, fork, 5, 9)
    refused(422, submit, watching, fork, 5, 5)  # the same size, another root
    submit(watching, log, 5, 9)


def test_a_proof_from_nothing_is_422(watching, log):
    refused(422, watching.add_checkpoint, request(0, [bytes(32)], log.note(3)))


def test_an_empty_log_has_the_empty_root_or_422(watching, log):
    from modelreg import checkpoints

    refused(422, watching.add_checkpoint, request(0, [], checkpoints.sign(log.origin, 0, bytes(32), log.key)))
    submit(watching, log, 0, 0)
    submit(watching, log, 0, 3)


BODIES = {
    "empty": b"",
    "no old line": b"\n" + Log().note(1),
    "a leading zero": b"old 01\n\n",
    "a negative size": b"old -1\n\n",
    "a size beyond 2^63": b"old 9223372036854775808\n\n",
    "two spaces": b"old  0\n\n",
    "a sign": b"old +0\n\n",
    "a carriage return": b"old 0\r\n\n",
    "a size in other digits": "old ٠\n\n".encode(),
    "a hash of 31 bytes": b"old 0\n" + base64.b64encode(bytes(31)) + b"\n\n",
    "a line that is no base64": b"old 0\nnot base64!\n\n",
    "64 hashes": b"old 0\n" + (base64.b64encode(bytes(32)) + b"\n") * 64 + b"\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_malformed_request_is_400(watching, log, body):
    refused(400, watching.add_checkpoint, body if body.endswith(log.note(1)) else body + log.note(1))


@pytest.mark.parametrize(
    "text",
    [
        b"log.example/test\n3\n",
        b"log.example/test\n03\n%b\n",
        b"log.example/test\n-3\n%b\n",
        b"log.example/test\n3\nAAAA\n",
        b"log.example/test\n3\n\n%b\n",
        b"\n3\n%b\n",
    ],
)
def test_a_checkpoint_that_is_none_is_400(watching, log, text):
    body = text.replace(b"%b", base64.b64encode(log.root(3)))
    refused(400, watching.add_checkpoint, request(0, [], notes.sign(body, log.key, log.origin)))


def test_extension_lines_are_cosigned_with_the_rest(watching, log):
    text = f"{log.origin}\n3\n{base64.b64encode(log.root(3)).decode()}\nan extension\n".encode()
    note = notes.sign(text, log.key, log.origin)
    line = watching.add_checkpoint(request(0, [], note))
    assert notes.verified_by(notes.parse(note + line), [watching._key.verifier])
    submit(watching, log, 3, 5)  # what was kept is read again


def test_a_checkpoint_with_pages_of_extensions_is_400(watching, log):
    text = f"{log.origin}\n3\n{base64.b64encode(log.root(3)).decode()}\n" + "an extension\n" * 1000
    refused(400, watching.add_checkpoint, request(0, [], notes.sign(text.encode(), log.key, log.origin)))


def test_noise_is_refused_and_never_cosigned_as_something_else(watching, log):
    valid = request(0, [], log.note(3))
    answers = set()
    for raw in mutations(valid, 2000):
        try:
            watching.add_checkpoint(raw)
            answers.add(200)
        except Answer as answer:
            answers.add(answer.status)
    assert answers <= {200, 400, 403, 404, 409, 422}
    assert {400, 403, 404} <= answers


def test_several_logs_and_two_keys_of_one_log_are_kept_apart(key, tmp_path):
    one, two = Log("one.example/log"), Log("two.example/log")
    rotated = Log(one.origin)
    watching = Witness(key, tmp_path / "state", [one.vkey, two.vkey, rotated.vkey], lambda: NOW)
    submit(watching, one, 0, 5)
    submit(watching, two, 0, 9)
    one.key = rotated.key
    submit(watching, one, 5, 6)
    assert refused(409, submit, watching, two, 0, 9).body == "9\n"


def test_what_was_cosigned_is_remembered_by_the_next_process(key, log, tmp_path):
    submit(Witness(key, tmp_path / "state", [log.vkey], lambda: NOW), log, 0, 5)
    again = Witness(key, tmp_path / "state", [log.vkey], lambda: NOW)
    assert refused(409, submit, again, log, 0, 8).body == "5\n"
    submit(again, log, 5, 8)


def test_a_damaged_memory_is_no_new_beginning(watching, log, tmp_path):
    submit(watching, log, 0, 5)
    (kept,) = [path for path in (tmp_path / "state").iterdir() if not path.suffix]
    for damage in (b"", b"x", kept.read_bytes()[:-20], Log("other.example/log").note(5)):
        kept.write_bytes(damage)
        refused(500, submit, watching, log, 0, 8)
        refused(500, submit, watching, log, 5, 8)


def test_a_memory_that_cannot_be_written_gives_no_cosignature(watching, log, tmp_path, monkeypatch):
    submit(watching, log, 0, 5)

    def full(*_arguments, **_more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(witness, "replace_file", full)
        with pytest.raises(OSError):
            submit(watching, log, 5, 8)
    assert refused(409, submit, watching, log, 0, 8).body == "5\n"


@pytest.mark.parametrize("round_", range(20))
def test_of_two_histories_that_race_for_one_size_only_one_is_cosigned(key, tmp_path, round_):
    log, fork = Log(seed=b"a"), Log(seed=b"b")
    fork.key = log.key
    # Two values, as two processes would have: only the lock on the file stands between them.
    watchers = [Witness(key, tmp_path / "state", [log.vkey], lambda: NOW) for _ in range(2)]
    barrier, outcomes = threading.Barrier(2), []

    def race(watching, history):
        barrier.wait()
        try:
            submit(watching, history, 0, 5)
            outcomes.append(200)
        except Answer as answer:
            outcomes.append(answer.status)

    threads = [threading.Thread(target=race, args=pair) for pair in zip(watchers, (log, fork), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [200, 409]


def test_a_witness_of_nothing_is_refused(key, tmp_path):
    with pytest.raises(Misconfigured, match="--log"):
        Witness(key, tmp_path, [], lambda: NOW)


def test_the_key_is_for_its_owner_only_and_is_never_written_over(tmp_path, key):
    path = tmp_path / "witness.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert witness.read_key(path).verifier == key.verifier
    with pytest.raises(Misconfigured, match="exists"):
        witness.make_key(path, "another.example/w")
    assert witness.read_key(path).verifier == key.verifier
    path.chmod(0o644)
    with pytest.raises(Misconfigured, match="chmod 600"):
        witness.read_key(path)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\x00", "x" * 201])
def test_a_name_that_cannot_stand_in_a_note_makes_no_key(tmp_path, name):
    with pytest.raises(Misconfigured):
        witness.make_key(tmp_path / "key", name)
    assert not (tmp_path / "key").exists()


def test_a_malformed_key_file_is_refused(tmp_path, key):
    line = (tmp_path / "witness.key").read_text()
    for number, text in enumerate(
        [line.replace("w1", "w2"), line[:-9], "", "PRIVATE+KEY+a+b", line.replace("PRIVATE", "PUBLIC"), "\x00"]
    ):
        path = tmp_path / f"bad{number}"
        path.touch(0o600)
        path.write_text(text)
        with pytest.raises(Misconfigured):
            witness.read_key(path)


def test_proofs_over_all_small_sizes_are_accepted(key, tmp_path):
    log = Log().grow(40)
    for old in range(40):
        for new in range(old, 41, 3):
            watching = Witness(key, tmp_path / f"{old}-{new}", [log.vkey], lambda: NOW)
            submit(watching, log, 0, old)
            submit(watching, log, old, new)
    assert merkle.consistency(3, 3, log.read) == []
