"""`modelreg witness` as a process: HTTP, limits, and what it remembers after kill -9."""

import base64
import hashlib
import http.client
import socket
import threading

import pytest

from modelreg import notes, witness
from modelreg.witness import MAX_BODY_BYTES
from support.witnesses import Log, WitnessProcess


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def running(tmp_path, log):
    with WitnessProcess(tmp_path / "witness", "witness.example/w1", log) as process:
        yield process


def body(log, old, new):
    proof = b"".join(base64.b64encode(value) + b"\n" for value in log.proof(old, new))
    return f"old {old}\n".encode() + proof + b"\n" + log.note(new)


def post(running, raw, path="/add-checkpoint", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    try:
        connection.request("POST", path, raw, headers)
        response = connection.getresponse()
        return response.status, response.headers.get("Content-Type"), response.read()
    finally:
        connection.close()


def get(running, path):
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_add_checkpoint_and_the_monitored_checkpoint_over_http(running, log):
    status, kind, line = post(running, body(log, 0, 5))
    assert (status, kind) == (200, "text/plain; charset=utf-8")
    note = notes.parse(log.note(5) + line)
    assert [key for key, _at in notes.verified_by(note, [running.vkey])] == [running.vkey]

    assert post(running, body(log, 0, 8)) == (409, "text/x.tlog.size", b"5\n")
    assert post(running, body(Log("no.example"), 0, 1))[0] == 404
    assert post(running, b"nonsense")[0] == 400

    shown = get(running, f"/{hashlib.sha256(log.origin.encode()).hexdigest()}/checkpoint")
    assert shown == (200, log.note(5) + line)
    assert get(running, f"/{'0' * 64}/checkpoint")[0] == 404
    assert get(running, "/../key")[0] == 404
    assert post(running, b"", "/sign-subtree")[0] == 404


def test_a_connection_is_kept_and_one_refusal_does_not_shift_the_next_request(running, log):
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    statuses = []
    for raw in (b"nonsense", body(log, 0, 3), body(log, 0, 3), body(log, 3, 4)):
        connection.request("POST", "/add-checkpoint", raw)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()
    assert statuses == [400, 200, 409, 200]


def test_bodies_that_are_too_large_or_of_no_stated_length_are_not_read(running):
    assert post(running, b"x" * (MAX_BODY_BYTES + 1))[0] == 413
    with socket.create_connection(("127.0.0.1", running.port), 20) as raw:
        raw.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nold 0\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 411 ")
    with socket.create_connection(("127.0.0.1", running.port), 20) as raw:
        raw.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 99999999999999999999\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 411 ")


def test_more_connections_than_there_are_places_are_closed_and_the_witness_lives(running, log):
    held = [socket.create_connection(("127.0.0.1", running.port), 20) for _ in range(witness.MAX_CONNECTIONS)]
    try:
        for connection in held:
            connection.sendall(b"POST /add-checkpoint HTTP/1.1\r\n")
        with socket.create_connection(("127.0.0.1", running.port), 20) as late:
            assert late.recv(10) == b""
    finally:
        for connection in held:
            connection.close()
    deadline = threading.Event()
    for _ in range(100):
        try:
            assert post(running, body(log, 0, 3))[0] == 200
            return
        except (ConnectionError, http.client.HTTPException):
            deadline.wait(0.1)
    pytest.fail("no place became free")


def test_what_it_vouched_for_survives_kill_9_at_any_moment(tmp_path, log):
    """What a client was told is never forgotten: after each kill the witness refuses the fork of that size."""
    process = WitnessProcess(tmp_path / "witness", "witness.example/w1", log).start()
    fork = Log(log.origin, seed=b"fork")
    fork.key = log.key
    size, kills = 0, 12
    try:
        for round_ in range(kills):
            done = threading.Event()
            acknowledged = [size]

            def grow(start=size, done=done, acknowledged=acknowledged):
                at = start
                try:
                    while not done.is_set():
                        if post(process, body(log, at, at + 1))[0] != 200:
                            return
                        at += 1
                        acknowledged.append(at)
                except OSError:
                    return
                except http.client.HTTPException:
                    return

            thread = threading.Thread(target=grow)
            thread.start()
            done.wait(0.05 + 0.02 * round_)
            process.kill()
            done.set()
            thread.join(20)
            process.start()
            told = int(post(process, body(log, 0, 0))[2] or 0) if acknowledged[-1] else 0
            # The last request may have been kept without its answer having arrived; never the other way round.
            assert told in {acknowledged[-1], acknowledged[-1] + 1}
            size = told
            if size:
                assert post(process, body(fork, size, size))[0] == 422
                assert post(process, body(fork, size - 1, size))[0] == 409
    finally:
        process.stop()
    assert size > kills, "nothing was cosigned between the kills"


def test_the_command_says_what_is_missing(run, tmp_path, log):
    code, _out, err = run("witness")
    assert code == 2
    assert "--listen" in err
    made = run("witness", "init", "--key", tmp_path / "key", "--name", "witness.example/w1")
    assert made[0] == 0
    assert notes.parse_key(made[1].strip(), "it", notes.COSIGNATURE).name == "witness.example/w1"
    serve = ("witness", "--listen", "127.0.0.1:0", "--key", tmp_path / "key", "--state", tmp_path / "state")
    assert run(*serve)[0] == 1  # no log
    assert run(*serve, "--log", made[1].strip())[0] == 1  # a witness's key is no log's
    assert run("witness", "--listen", "nowhere", *serve[3:], "--log", str(log.vkey))[0] == 2
