"""Beside `test_kill`: a client that lives through a server's kill -9 and restart, and a client killed while it exports.

`test_kill` ends the client together with the server; here it stays, retries, and has to finish by itself.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from faults.test_kill import SIZE, Ground
from support.registry import cli

EACH = 4


@pytest.fixture
def ground(tmp_path):
    made = Ground(tmp_path)
    yield made
    made.server.stop()
    shutil.rmtree(tmp_path, ignore_errors=True)


def timed(ground, *arguments):
    started = time.monotonic()
    ground.run(*arguments)
    return time.monotonic() - started


def log_of(ground):
    """What `modelreg log` tells a user, by index; no gap."""
    done = cli("log", "--json", "--limit", "1000", env=ground.env)
    assert done.returncode == 0, done.stderr
    events = {event["index"]: event for event in json.loads(done.stdout)["events"]}
    assert sorted(events) == list(range(len(events)))
    return events


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("verb", ["push", "pull"])
def test_a_client_lives_through_a_kill_and_restart_of_the_server(ground, verb):
    dice = random.Random(verb)
    arguments = ("push", ground.model, "demo/m") if verb == "push" else ("pull", "demo/m")
    seconds = timed(ground, "push", ground.model, "demo/m")
    if verb == "pull":
        seconds = timed(ground, *arguments)
    alive = []
    for turn in range(EACH):
        if verb == "push":
            ground.change_model(turn + 1)
        else:
            shutil.rmtree(ground.cache, ignore_errors=True)
        before = log_of(ground)
        client = subprocess.Popen(
            [sys.executable, "-m", "modelreg.cli", *map(str, arguments), "--json"],
            env=ground.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(dice.uniform(0.2, 0.7) * seconds)
        running = client.poll() is None
        ground.server.kill()
        ground.server.start()
        out, err = client.communicate(timeout=300)

        assert client.returncode == 0, err.decode()
        answer = json.loads(out)
        after = log_of(ground)
        assert before.items() <= after.items()  # what was in the log is there unchanged
        assert answer["event"] in after
        if verb == "pull":
            grant = after[answer["event"]]["detail"]["grant"]
            assert [event for event in after.values()
                    if event["type"] == "artifact.received" and event["detail"]["grant"] == grant]  # fmt: skip
        ground.check_names()
        alive.append((running, answer["transferred_bytes"]))
    assert any(running for running, _ in alive)
    print(f"\n{verb} of {SIZE} bytes over a server restart (still running at the kill, bytes it sent in all): {alive}")


@pytest.mark.timeout(1800)
def test_a_client_killed_in_an_export_leaves_no_partial_folder(ground):
    dice, left = random.Random("export"), []
    ground.run("push", ground.model, "demo/m")
    ground.run("pull", "demo/m")
    names = sorted([*(path.name for path in ground.model.iterdir()), "model.sig"])
    for turn in range(EACH):
        output = ground.folder / f"out{turn}"
        command = [sys.executable, "-m", "modelreg.cli", "pull", "demo/m", "-o", str(output), "--json"]
        client = subprocess.Popen(command, env=ground.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while client.poll() is None and not list(ground.folder.glob(f".{output.name}.*.incoming")):
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.05))
        client.kill()
        client.wait()

        assert client.returncode == -signal.SIGKILL, "the export was over before the kill"
        if output.exists():  # only when it was renamed, whole, a moment before the kill
            assert sorted(path.name for path in output.iterdir()) == names
        left.append(len(list(ground.folder.glob(f".{output.name}.*.incoming"))))
        ground.run("pull", "demo/m", "-o", output)
        assert sorted(path.name for path in output.iterdir()) == names
        for path in ground.model.iterdir():
            assert (output / path.name).read_bytes() == path.read_bytes()
        ground.check_names()
        shutil.rmtree(output)
    print(f"\n{EACH} clients killed in an export; hidden folders `.NAME.….incoming` each left: {left}")
    assert sum(left) > 0  # else no kill came in the middle and nothing was shown
