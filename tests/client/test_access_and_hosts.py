"""Hosts and access with the real command line: a machine enrols, speaks for itself, and is cut off again."""

import json
import stat

import pytest

from support.registry import cli, running_registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def admin(registry, tmp_path):
    return registry.environment(tmp_path / "admin")


@pytest.fixture
def computer(registry, tmp_path):
    """The environment of another machine: a home of its own and no token."""
    env = registry.environment(tmp_path / "computer")
    del env["MODELREG_TOKEN"]
    return env


def run(*arguments, env, code=0, **more):
    done = cli(*arguments, env=env, **more)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def as_json(*arguments, env, **more):
    return json.loads(run(*arguments, "--json", env=env, **more).stdout)


def enrol(admin, computer, name, host_class="server"):
    token = run(
        "host", "invite", name, "--class", host_class, "--zone", "eu-1", "--label", "rack=7", env=admin
    ).stdout.strip()
    run("host", "enroll", "--token-stdin", env=computer, input=token + "\n")
    return token


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights" * 1000)
    return folder


def test_a_machine_enrols_pulls_by_itself_and_is_cut_off(admin, computer, model, tmp_path, registry):
    run("push", model, "demo/m", env=admin)
    run("repository", "set", "demo/m", "--sensitive", env=admin)
    run("whoami", env=computer, code=30)
    token = enrol(admin, computer, "gpu-1")

    who = as_json("whoami", env=computer)
    assert (who["principal"], who["host"], who["host_class"], who["host_zone"]) == (
        "host:gpu-1",
        "gpu-1",
        "server",
        "eu-1",
    )
    state = tmp_path / "computer" / ".local" / "state" / "modelreg"
    for name in ("host.key.pem", "host.json"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    assert token not in "".join(path.read_text() for path in state.iterdir() if path.is_file())

    run("pull", "demo/m", env=computer, code=11)  # known, and without a right
    granted = as_json(
        "access", "grant", "host:gpu-*", "pull", "demo/*", "--host-class", "server", "--until", "1d", env=admin
    )
    pulled = as_json("pull", "demo/m", env=computer)
    assert pulled["verified"] is True
    launched = run("launch", "demo/m", "--", "cat", "{model}/weights.bin", env=computer)
    assert launched.stdout == "weights" * 1000

    events = as_json("log", "demo/m", env=admin)["events"]
    mine = [event for event in events if event["principal"] == "host:gpu-1"]
    assert {"artifact.granted", "artifact.received", "artifact.loaded"} <= {event["type"] for event in mine}
    assert {event["verified_host"] for event in mine} == {"gpu-1"}

    run("access", "revoke", granted["id"], env=admin)
    run("pull", "demo/m", env=computer, code=11)
    run("host", "revoke", "gpu-1", env=admin)
    said = run("pull", "demo/m", env=computer, code=30).stderr
    assert "host signature does not hold" in said


def test_a_person_on_a_workstation_is_refused_the_bytes_and_on_a_server_is_not(
    admin, computer, model, registry, tmp_path
):
    run("push", model, "demo/secret", env=admin)
    run("repository", "set", "demo/secret", "--sensitive", env=admin)
    token = run("token", "create", "person:al", env=admin).stdout.strip()
    run("access", "grant", "person:al", "pull", "demo/*", env=admin)
    person = {**computer, "MODELREG_TOKEN": token}
    assert "needs a verified host" in run("pull", "demo/secret", env=person, code=30).stderr

    enrol(admin, person, "desk-1", "workstation")
    assert "workstation" in run("pull", "demo/secret", env=person, code=30).stderr
    server = {**person, "HOME": str(tmp_path / "server")}
    enrol(admin, server, "server-1", "server")
    run("pull", "demo/secret", env=server)

    why = run("access", "explain", "person:al", "pull", "demo/secret:v1", "--host-class", "workstation", env=admin)
    assert why.stdout.splitlines()[0] == "person:al may not pull demo/secret (sensitive)"
    assert "a workstation needs a grant that names host class workstation" in why.stdout
    why = as_json(
        "access", "explain", "person:al", "pull", "demo/secret", "--host-class", "server", "--zone", "eu-1", env=admin
    )
    assert (why["allowed"], why["sensitive"], [reason["applies"] for reason in why["reasons"]]) == (True, True, [True])

    refused = [e for e in as_json("log", "demo/secret", env=admin)["events"] if e["type"] == "artifact.refused"]
    assert [(e["principal"], e["verified_host"]) for e in refused] == [("person:al", None), ("person:al", "desk-1")]
    listed = {row["repository"]: row["sensitive"] for row in as_json("ls", env=admin)["repositories"]}
    assert listed["demo/secret"] is True
    assert as_json("show", "demo/secret", env=admin)["sensitive"] is True
    run("repository", "set", "demo/secret", "--not-sensitive", env=admin)
    run("pull", "demo/secret", env=person)


def test_an_enrolment_token_is_good_for_one_machine(admin, computer, tmp_path):
    token = enrol(admin, computer, "once-1")
    other = {**computer, "HOME": str(tmp_path / "other")}
    assert "enrolment token" in run("host", "enroll", "--token-stdin", env=other, input=token, code=30).stderr
    run("whoami", env=other, code=30)
    # What a lost answer leaves behind: the key is there, the machine does not know that it is enrolled.
    (tmp_path / "computer" / ".local" / "state" / "modelreg" / "host.json").unlink()
    run("whoami", env=computer, code=30)
    run("host", "enroll", "--token-stdin", env=computer, input=token)
    assert as_json("whoami", env=computer)["host"] == "once-1"


def test_enrolling_again_is_refused_unless_it_is_meant(admin, computer):
    enrol(admin, computer, "again-1")
    token = run("host", "invite", "again-2", "--class", "ci", "--zone", "eu-2", env=admin).stdout.strip()
    assert "--replace" in run("host", "enroll", "--token-stdin", env=computer, input=token, code=1).stderr
    assert as_json("whoami", env=computer)["host"] == "again-1"
    run("host", "enroll", "--token-stdin", "--replace", env=computer, input=token)
    assert as_json("whoami", env=computer)["host"] == "again-2"


def test_a_host_key_that_is_not_as_it_was_is_not_used_and_nothing_is_sent_unsigned(admin, computer, registry, tmp_path):
    enrol(admin, computer, "spoiled-1")
    env = {**computer, "MODELREG_TOKEN": admin["MODELREG_TOKEN"]}
    path = tmp_path / "computer" / ".local" / "state" / "modelreg" / "host.key.pem"
    good = path.read_bytes()
    path.chmod(0o644)
    assert "chmod 600" in run("whoami", env=env, code=1).stderr
    path.chmod(0o600)
    for raw in (b"", b"garbage", admin_key(registry)):
        path.write_bytes(raw)
        assert "--replace" in run("whoami", env=env, code=1).stderr
    path.unlink()
    run("whoami", env=env, code=1)
    path.write_bytes(good)
    path.chmod(0o600)
    assert as_json("whoami", env=env)["host"] == "spoiled-1"
    (path.parent / "host.json").write_text('{"registry": 1}')
    run("whoami", env=env, code=1)


def admin_key(registry):
    return registry.trust.key_path.read_bytes()


def test_a_machine_signs_for_the_registry_it_is_enrolled_with_and_no_other(admin, computer, tmp_path_factory, registry):
    enrol(admin, computer, "faithful-1")
    with running_registry(tmp_path_factory.mktemp("other")) as other:
        elsewhere = {**computer, "MODELREG_REGISTRY": other.url, "MODELREG_TOKEN": other.token()}
        assert as_json("whoami", env=elsewhere)["host"] is None
    assert as_json("whoami", env=computer)["host"] == "faithful-1"


def test_hosts_and_grants_are_listed_and_shown(admin, computer):
    enrol(admin, computer, "listed-1")
    run("host", "invite", "waiting-1", "--class", "ci", "--zone", "eu-1", env=admin)
    listed = as_json("host", "list", env=admin)
    row = next(row for row in listed["hosts"] if row["name"] == "listed-1")
    assert (row["host_class"], row["zone"], row["labels"]) == ("server", "eu-1", {"rack": "7"})
    assert "waiting-1" in [row["name"] for row in listed["invitations"]]
    assert "listed-1" in run("host", "list", env=admin).stdout
    assert "rack=7" in run("host", "show", "listed-1", env=admin).stdout
    made = as_json("access", "grant", "person:listed", "push", "demo/*", "--zone", "eu-1", env=admin)
    assert [row["id"] for row in as_json("access", "list", "--subject", "person:listed", env=admin)["grants"]] == [
        made["id"]
    ]
    assert made["id"] in run("access", "list", env=admin).stdout
    run("host", "list", env={**computer, "MODELREG_TOKEN": "mrg_api_x"}, code=30)
    run("host", "list", env=computer, code=30)
