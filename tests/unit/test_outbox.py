"""The queue of reports: durable, in order, bounded, and not held up by one that nobody takes."""

import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from modelreg import outbox as module
from modelreg import reports
from modelreg.errors import (
    Conflict,
    Invalid,
    LogForked,
    NotFound,
    RecordUnavailable,
    Unauthenticated,
    Unreachable,
)
from modelreg.outbox import Outbox, Queued

ARTIFACT = "sha256:" + "a" * 64


def queued(number=0, kind="loaded", **report):
    return Queued(kind, f"grant-{number}", "demo/m", ARTIFACT, "h", "launch", report)


@pytest.fixture
def box(tmp_path):
    return Outbox(tmp_path / "outbox")


def test_reports_are_sent_in_the_order_they_came_and_only_once(box):
    for number in range(12):
        box.add(queued(number))
    sent = []
    delivered = box.deliver(sent.append)

    assert [report.subject for report in sent] == [f"grant-{number}" for number in range(12)]
    assert (delivered.sent, delivered.left, delivered.stopped) == (12, 0, None)
    assert box.deliver(sent.append).sent == 0
    box.add(queued(99))
    box.deliver(sent.append)
    assert sent[-1].subject == "grant-99"


def test_a_number_is_not_used_again_after_the_queue_was_empty(box):
    first = box.add(queued(1))
    box.deliver(lambda _: None)
    assert int(box.add(queued(2)).stem) == int(first.stem) + 1


@pytest.mark.parametrize(
    "error", [Unreachable("x"), RecordUnavailable("x"), Unauthenticated("x"), LogForked("x")], ids=lambda e: e.code
)
def test_trouble_that_may_pass_keeps_every_report_and_the_order(box, error):
    for number in range(3):
        box.add(queued(number))

    def send(report):
        if report.subject == "grant-1":
            raise error

    delivered = box.deliver(send)
    assert (delivered.sent, delivered.left, delivered.rejected) == (1, 2, 0)
    assert "x" in delivered.stopped
    sent = []
    assert box.deliver(sent.append).sent == 2
    assert [report.subject for report in sent] == ["grant-1", "grant-2"]


@pytest.mark.parametrize("error", [NotFound("gone"), Invalid("no"), Conflict("no")], ids=lambda e: e.code)
def test_what_is_refused_for_good_is_set_aside_with_its_reason_and_the_others_go_on(box, error):
    for number in range(3):
        box.add(queued(number))

    def send(report):
        if report.subject == "grant-1":
            raise error

    delivered = box.deliver(send)
    assert (delivered.sent, delivered.left, delivered.rejected) == (2, 0, 1)
    [aside] = (box.folder / "rejected").glob("*.json")
    assert json.loads(aside.read_text())["subject"] == "grant-1"
    assert aside.with_suffix(".reason").read_text() == f"{error.code}: {error.detail}"


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"{}", b'{"schema": "modelreg/queued-report/v1"}', b"\xff", b'"x"', b"null",
     json.dumps({**json.loads(queued().dump()), "kind": "exploded"}).encode(),
     json.dumps({**json.loads(queued().dump()), "report": []}).encode(),
     json.dumps({**json.loads(queued().dump()), "host": 3}).encode(),
     json.dumps({**json.loads(queued().dump()), "more": 3}).encode()],
)  # fmt: skip
def test_a_file_that_cannot_be_read_does_not_hold_up_the_others(box, raw):
    path = box.add(queued(0))
    box.add(queued(1))
    path.write_bytes(raw)
    sent = []
    delivered = box.deliver(sent.append)
    assert (delivered.sent, delivered.rejected, delivered.left) == (1, 1, 0)
    assert [report.subject for report in sent] == ["grant-1"]


def test_the_queue_is_bounded_and_keeps_room_for_ends(box, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUEUED", 5)
    monkeypatch.setattr(module, "RESERVED", 2)
    for number in range(3):
        box.add(queued(number))
    with pytest.raises(RecordUnavailable, match="modelreg report"):
        box.add(queued(4))
    for number in range(2):
        box.add(queued(number, "unloaded"))
    with pytest.raises(RecordUnavailable):
        box.add(queued(5, "unloaded"))
    with pytest.raises(RecordUnavailable, match="limit"):
        box.add(queued(0, "unloaded", reason="x" * module.MAX_REPORT_BYTES))
    assert len(box) == 5


def test_what_was_set_aside_is_bounded_too(box, monkeypatch):
    monkeypatch.setattr(module, "MAX_REJECTED", 3)
    for number in range(6):
        box.add(queued(number))

    def refuse(_):
        raise NotFound("gone")

    assert box.deliver(refuse).rejected == 6
    assert len(list((box.folder / "rejected").glob("*.json"))) == 3
    assert len(list((box.folder / "rejected").glob("*.reason"))) == 3


def test_adding_does_not_wait_for_a_slow_delivery_and_two_deliveries_are_one(box):
    box.add(queued(0))
    inside, go_on = threading.Event(), threading.Event()
    sent = []

    def slowly(report):
        inside.set()
        go_on.wait(10)
        sent.append(report.subject)

    thread = threading.Thread(target=lambda: box.deliver(slowly))
    thread.start()
    inside.wait(10)
    box.add(queued(1))
    other = box.deliver(sent.append)
    assert (other.sent, other.left) == (0, 2)
    assert "another command" in other.stopped
    go_on.set()
    thread.join(10)
    assert sent == ["grant-0"], "what came meanwhile is for the next delivery"
    assert box.deliver(sent.append, wait_seconds=5).sent == 1


def test_nothing_is_lost_or_reordered_by_kill_9(tmp_path):
    """A process adds and says what was added; whatever it said is there, in order, after it is killed."""
    script = (
        "import sys; from pathlib import Path; from modelreg.outbox import *\n"
        "box = Outbox(Path(sys.argv[1]))\n"
        "n = int(sys.argv[2])\n"
        "while True:\n"
        f"    box.add(Queued('loaded', str(n), 'demo/m', {ARTIFACT!r}, 'h', 'launch', {{}})); print(n, flush=True); n += 1\n"
    )
    said, start = [], 0
    for kill_after in (1, 7, 23):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "outbox"), str(start)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(kill_after):
            said.append(int(process.stdout.readline()))
        os.kill(process.pid, signal.SIGKILL)
        said += [int(line) for line in process.communicate()[0].split()]
        start = said[-1] + 1000
    sent = []
    Outbox(tmp_path / "outbox").deliver(lambda report: sent.append(int(report.subject)))
    assert sorted(sent) == sent
    assert set(said) <= set(sent)
    # One that was written and not said yet may be there as well, once a kill.
    assert len(sent) - len(said) <= 3


def test_a_load_without_its_id_is_refused_here_and_holds_nothing_up(tmp_path):
    """What another program put there is no report, whatever is missing of it."""
    box, told = Outbox(tmp_path / "box"), []
    box.add(queued(kind="loaded"))
    box.add(queued(kind="received", transferred_bytes=1))

    def take(*report):
        told.append(report)
        return SimpleNamespace(event=1)

    api = SimpleNamespace(report_received=take, report_loaded=take)
    done = box.deliver(lambda one: reports.send(api, SimpleNamespace(log=None), one, state_dir=None))
    assert (done.sent, done.rejected, done.left, len(told)) == (1, 1, 0, 1)
