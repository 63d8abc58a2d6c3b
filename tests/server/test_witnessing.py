"""The server's side of witnessing: real witnesses, evil ones, deadlines; and what trust policies make of the result."""

import base64
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import checkpoints, notes, trust
from modelreg.errors import LogNotIntact, LogUnwitnessed, Misconfigured
from modelreg.trust import LogTrust
from modelreg_server import witnessing
from modelreg_server.witnessing import WitnessAddress, Witnesses
from support.witnesses import Log, WitnessProcess

NAMES = ("w1.example/w", "w2.example/w", "w3.example/w")
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def three(tmp_path, log):
    started = [WitnessProcess(tmp_path / f"w{at}", name, log).start() for at, name in enumerate(NAMES)]
    yield started
    for process in started:
        process.stop()


def addresses(*processes):
    return [WitnessAddress(process.vkey, process.url) for process in processes]


def vouching(note, processes):
    return {key.name for key, _at in notes.verified_by(notes.parse(note), [process.vkey for process in processes])}


@pytest.fixture
def evil():
    """Starts servers that answer a request as they are told to."""
    started = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                answer(self, raw)

            def log_message(self, *_arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request, client_address):
                pass

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def answering(status, raw, kind="text/plain"):
    def answer(handler, _body):
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return answer


def test_three_witnesses_cosign_as_the_log_grows(log, three):
    witnesses = Witnesses(addresses(*three))
    asked = []

    for size in (1, 5, 5, 300):

        def proof(old, size=size):
            asked.append((old, size, threading.current_thread()))
            return log.proof(old, size)

        note = witnesses.cosign(log.note(size), size, proof)
        assert note.startswith(log.note(size))
        assert vouching(note, three) == set(NAMES)
        checkpoints.verify(note, LogTrust(log.origin, (log.vkey,), tuple(p.vkey for p in three), 3))
    assert [(old, new) for old, new, _ in asked] == [(1, 5), (5, 300)]
    assert {thread for *_, thread in asked} == {threading.current_thread()}
    witnesses.close()


def test_a_new_process_learns_the_size_from_the_witness_and_asks_again(log, three):
    first = Witnesses(addresses(*three))
    first.cosign(*log.head(7))
    second = Witnesses(addresses(*three))
    assert vouching(second.cosign(*log.head(20)), three) == set(NAMES)
    # The first one does not know; it is told.
    assert vouching(first.cosign(*log.head(33)), three) == set(NAMES)
    # An older checkpoint cannot be cosigned any more, and that is no fault of a witness.
    assert first.cosign(*log.head(32)) == log.note(32)
    assert vouching(first.cosign(*log.head(34)), three) == set(NAMES)


def test_a_witness_that_is_down_costs_a_log_line_and_is_left_alone_for_a_while(log, three, caplog):
    three[1].stop()
    witnesses = Witnesses(addresses(*three))
    assert vouching(witnesses.cosign(*log.head(3)), three) == {NAMES[0], NAMES[2]}
    assert sum("w2.example" in message for message in caplog.messages) == 1
    assert vouching(witnesses.cosign(*log.head(4)), three) == {NAMES[0], NAMES[2]}
    assert sum("w2.example" in message for message in caplog.messages) == 1
    three[1].start()
    deadline = time.monotonic() + 20
    size = 5
    while vouching(witnesses.cosign(*log.head(size)), three) != set(NAMES):
        assert time.monotonic() < deadline, "the witness came back and was never asked"
        size += 1
        time.sleep(0.1)


def test_a_witness_that_never_answers_does_not_hold_anybody_longer_than_the_deadline(log, three, evil):
    hanging = threading.Event()

    def drip(handler, _body):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not hanging.wait(0.05):
            handler.wfile.write(b"x")

    silent = evil(lambda _handler, _body: hanging.wait(60))
    key = notes.key_of("silent.example", notes.COSIGNATURE, Ed25519PrivateKey.generate().public_key())
    dripping = notes.key_of("dripping.example", notes.COSIGNATURE, Ed25519PrivateKey.generate().public_key())
    witnesses = Witnesses(
        [*addresses(*three), WitnessAddress(key, silent), WitnessAddress(dripping, evil(drip))], deadline_seconds=1.0
    )
    for size in (3, 4, 5):
        started = time.monotonic()
        note = witnesses.cosign(*log.head(size))
        assert time.monotonic() - started < 1.8
        assert vouching(note, three) == set(NAMES)
    hanging.set()


EVIL = {
    "500": answering(500, b"no"),
    "a redirect": answering(302, b""),
    "nothing": answering(200, b""),
    "noise": answering(200, b"\xff\x00"),
    "a megabyte": answering(200, b"x" * 1_000_000),
    "a line of another key": answering(200, "— other.example AAAAAAAA\n".encode()),
    "a text instead of lines": answering(200, b"log.example/test\n99\nAAAA\n"),
    "409 without a size": answering(409, b"x", "text/x.tlog.size"),
    "409 of another type": answering(409, b"3\n"),
    "409 with a size of no end": answering(409, b"9" * 1000 + b"\n", "text/x.tlog.size"),
}


@pytest.mark.parametrize("answer", EVIL.values(), ids=EVIL)
def test_an_answer_that_is_none_never_gets_into_our_note(log, evil, answer, caplog):
    key = notes.key_of("evil.example", notes.COSIGNATURE, Ed25519PrivateKey.generate().public_key())
    witnesses = Witnesses([WitnessAddress(key, evil(answer))])
    assert witnesses.cosign(*log.head(3)) == log.note(3)
    assert any("evil.example" in message for message in caplog.messages)


def test_a_cosignature_that_does_not_hold_would_spoil_the_note_and_is_left_out(log, evil):
    secret = Ed25519PrivateKey.generate()
    key = notes.key_of("evil.example", notes.COSIGNATURE, secret.public_key())
    from datetime import UTC, datetime

    other = notes.cosign(log.note(9).rpartition(b"\n\n")[0] + b"\n", secret, "evil.example", datetime.now(UTC))
    timeless = notes.cosign(
        log.note(3).rpartition(b"\n\n")[0] + b"\n", secret, "evil.example", datetime.fromtimestamp(0, UTC)
    )
    for line in (other, timeless):
        witnesses = Witnesses([WitnessAddress(key, evil(answering(200, line)))])
        assert witnesses.cosign(*log.head(3)) == log.note(3)


def test_a_witness_that_tells_a_size_beyond_ours_is_asked_again_next_time(log, evil):
    sizes, asked = iter([b"1000\n", b"1000\n", b"3\n"]), []

    def answer(handler, body):
        asked.append(body.split(b"\n", 1)[0])
        answering(409, next(sizes, b"3\n"), "text/x.tlog.size")(handler, body)

    key = notes.key_of("evil.example", notes.COSIGNATURE, Ed25519PrivateKey.generate().public_key())
    witnesses = Witnesses([WitnessAddress(key, evil(answer))])
    for size in (5, 6, 7):
        assert witnesses.cosign(*log.head(size)) == log.note(size)
    assert asked == [b"old 0", b"old 6", b"old 7", b"old 3"]


def test_a_fork_is_cosigned_by_nobody(log, three):
    witnesses = Witnesses(addresses(*three))
    witnesses.cosign(*log.head(5))
    fork = Log(log.origin, seed=b"fork")
    fork.key = log.key
    for history in (Witnesses(addresses(*three)), witnesses):
        assert history.cosign(*fork.head(9)) == fork.note(9)


def test_the_file_of_witnesses(tmp_path):
    first = notes.key_of("w.example", notes.COSIGNATURE, Ed25519PrivateKey.generate().public_key())
    second = notes.key_of("v.example", notes.COSIGNATURE, Ed25519PrivateKey.generate().public_key())
    path = tmp_path / "witnesses"
    path.write_text(
        f"# ours\n\nwitness one {first} https://w.example/x/\n  witness two {second}\thttp://10.0.0.3:8471\n"
    )
    assert witnessing.read_addresses(path) == [
        WitnessAddress(first, "https://w.example/x"),
        WitnessAddress(second, "http://10.0.0.3:8471"),
    ]
    again = replace(first, name="another.name")
    log_key = replace(first, kind=notes.ED25519)
    for line in (
        f"witness one {first}",
        f"log {first} https://w.example",
        f"witness one {first} ftp://w.example",
        f"witness one {first} https://user:secret@w.example",
        f"witness one {log_key} https://w.example",
        f"witness one {first} https://w.example\nwitness two {again} https://v.example",
        "\n".join(
            f"witness w{n} {notes.key_of('w', notes.COSIGNATURE, Ed25519PrivateKey.generate().public_key())} https://w"
            for n in range(17)
        ),
    ):
        path.write_text(line)
        with pytest.raises(Misconfigured):
            witnessing.read_addresses(path)
    with pytest.raises(Misconfigured):
        witnessing.read_addresses(tmp_path / "none")


class Cosigners:
    """Witness keys in memory, to sign whatever a test wants."""

    def __init__(self, log, count):
        self.log = log
        self.secrets = [Ed25519PrivateKey.generate() for _ in range(count)]
        self.keys = [
            notes.key_of(f"w{at}.example", notes.COSIGNATURE, s.public_key()) for at, s in enumerate(self.secrets)
        ]

    def lines(self, size, *which, names=None):
        from datetime import UTC, datetime

        text = self.log.note(size).rpartition(b"\n\n")[0] + b"\n"
        return b"".join(
            notes.cosign(text, self.secrets[at], (names or {}).get(at, f"w{at}.example"), datetime.now(UTC))
            for at in which
        )

    def trusted(self, required, *more):
        return LogTrust(self.log.origin, (self.log.vkey,), (*self.keys, *more), required)


def test_k_of_n_witnesses_are_demanded_and_k_minus_1_do_not_do(log):
    cosigners = Cosigners(log, 3)
    for which in ((), (0,), (2,)):
        with pytest.raises(LogUnwitnessed) as caught:
            checkpoints.verify(log.note(4) + cosigners.lines(4, *which), cosigners.trusted(2))
        assert caught.value.exit_code == 32
    for which in ((0, 1), (2, 0), (0, 1, 2)):
        verified = checkpoints.verify(log.note(4) + cosigners.lines(4, *which), cosigners.trusted(2))
        assert len(verified.witnessed_at) == len(which)


def test_one_key_counts_once_however_often_and_under_however_many_names_it_signs(log):
    cosigners = Cosigners(log, 2)
    alias = replace(cosigners.keys[0], name="alias.example")
    aliased = cosigners.lines(4, 0, names={0: "alias.example"})
    for lines in (cosigners.lines(4, 0) * 2, cosigners.lines(4, 0) + aliased):
        with pytest.raises(LogUnwitnessed):
            checkpoints.verify(log.note(4) + lines, cosigners.trusted(2, alias))
    checkpoints.verify(log.note(4) + cosigners.lines(4, 0, 1) + aliased, cosigners.trusted(2, alias))


def test_unknown_witnesses_count_for_nothing(log):
    cosigners, strangers = Cosigners(log, 2), Cosigners(log, 3)
    with pytest.raises(LogUnwitnessed):
        checkpoints.verify(log.note(4) + cosigners.lines(4, 0) + strangers.lines(4, 1, 2), cosigners.trusted(2))


def test_the_logs_own_key_is_no_witness(log):
    from datetime import UTC, datetime

    cosigners = Cosigners(log, 2)
    text = log.note(4).rpartition(b"\n\n")[0] + b"\n"
    posing = notes.cosign(text, log.key, "w1.example", datetime.now(UTC))
    named = notes.cosign(text, log.key, log.origin, datetime.now(UTC))
    for lines in (posing, named, posing + named):
        with pytest.raises(LogUnwitnessed):
            checkpoints.verify(log.note(4) + cosigners.lines(4, 0) + lines, cosigners.trusted(2))
    # Nor can a policy list it as one.
    witness = notes.key_of("w.example", notes.COSIGNATURE, log.key.public_key())
    table = {"origin": log.origin, "keys": [str(log.vkey)], "witnesses": [str(witness)], "required_witnesses": 1}
    with pytest.raises(Misconfigured, match="cannot witness itself"):
        trust._log(table)


def test_a_cosignature_over_another_checkpoint_does_not_hold(log):
    cosigners = Cosigners(log, 2)
    fork = Log(log.origin, seed=b"fork")
    fork.key = log.key
    elsewhere = Cosigners(fork, 0)
    elsewhere.secrets, elsewhere.keys = cosigners.secrets, cosigners.keys
    for lines in (cosigners.lines(5, 0, 1), elsewhere.lines(4, 0, 1), cosigners.lines(4, 0) + cosigners.lines(3, 1)):
        with pytest.raises(LogNotIntact):
            checkpoints.verify(log.note(4) + lines, cosigners.trusted(2))


def test_a_cosignature_with_another_time_than_was_signed_does_not_hold(log):
    cosigners = Cosigners(log, 1)
    line = cosigners.lines(4, 0).decode().rstrip().split(" ")
    raw = bytearray(base64.b64decode(line[2]))
    raw[11] ^= 1
    forged = f"— {line[1]} {base64.b64encode(raw).decode()}\n".encode()
    with pytest.raises(LogNotIntact):
        checkpoints.verify(log.note(4) + forged, cosigners.trusted(1))


def test_more_witnesses_than_there_are_keys_cannot_be_demanded(log):
    cosigners = Cosigners(log, 2)
    table = {"origin": log.origin, "keys": [str(log.vkey)], "witnesses": [str(key) for key in cosigners.keys]}
    assert trust._log({**table, "required_witnesses": 2}).required_witnesses == 2
    alias = replace(cosigners.keys[0], name="alias.example")
    for wrong in ({"required_witnesses": 3}, {"required_witnesses": 3, "witnesses": [*table["witnesses"], str(alias)]}):
        with pytest.raises(Misconfigured, match="2 distinct keys"):
            trust._log({**table, **wrong})
