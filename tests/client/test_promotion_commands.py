"""promote, approve, waive, demote, promotions, launch --env: what a person types, and what a machine believes."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from modelreg import launch, permits, pki, pull, wire_promotions
from modelreg.api import Api
from modelreg.cache import Cache
from modelreg.errors import Misconfigured, PolicyRefused, SignatureInvalid, SignerNotAllowed, Unreachable
from modelreg.outbox import Outbox
from modelreg.permits import Permit
from modelreg.references import Reference
from modelreg.reports import Machine
from modelreg_server import cli as server_cli
from modelreg_server.tables import PromotionDecision
from support.promotions import POLICY, promoting_registry
from support.registry import QUIET, cli


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with promoting_registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture
def person(world, run, tmp_path):
    """`modelreg …` as somebody with a certificate of their own."""

    def call(name, *arguments, scopes=(), **environment):
        signer = world.signer(name)
        key, chain = tmp_path / f"{name}.key.pem", tmp_path / f"{name}.chain.pem"
        key.write_bytes(pki.private_pem(signer.private_key))
        chain.write_bytes(b"".join(pki.certificate_pem(one) for one in signer.chain))
        known = {
            "MODELREG_REGISTRY": world.registry.url,
            "MODELREG_TOKEN": world.registry.token(f"person:{name}", *scopes),
            "MODELREG_TRUST_POLICY": world.registry.trust.policy_path,
            "MODELREG_KEY": key,
            "MODELREG_CERTIFICATE": chain,
        }
        return run(*arguments, **{**known, **environment})

    return call


def named(artifact):
    return f"demo/m@{artifact}"


# What people type.


def test_from_refused_to_granted_to_withdrawn_as_people_type_it(world, person):
    _, chat = world.chat()
    code, out, _ = person("op", "promote", named(chat), "production", "--explain")
    assert code == 22
    assert out.splitlines()[0].split() == ["RULE", "STATUS", "REASON", "FIX"]
    assert "approvals" in out
    assert "nobody approved it; 2 must" in out
    assert out.splitlines()[-1].startswith(f"refused {named(chat)} for production: approvals; event ")
    assert len(out.splitlines()) == 1 + 12 + 1

    for name in ("bo", "cy"):
        code, out, err = person(name, "approve", named(chat), "production", scopes=("approve:demo/*", "push:demo/*"))
        assert code == 0, err
        assert f"approved {named(chat)} for production as email:{name}@demo.example, event " in out

    code, out, _ = person("op", "promote", named(chat), "production", "--dry-run")
    assert (code, out.splitlines()[-1]) == (
        0, f"would be granted: {named(chat)} for production (dry run: nothing recorded, nothing signed)",
    )  # fmt: skip
    code, out, _ = person("op", "promote", named(chat), "production")
    assert code == 0
    (line,) = out.splitlines()
    assert line.startswith(f"granted {named(chat)} for production as event ")
    assert line.endswith(f"verdict verified, signed by {world.log.origin}")

    code, out, _ = person("op", "promotions", named(chat), "--env", "production", "--json")
    assert [row["state"] for row in json.loads(out)["promotions"]] == ["live"]
    code, out, err = person("op", "pull", named(chat), "--env", "production")
    assert code == 0, err
    assert "permit: verified, for production until " in out

    code, out, _ = person("op", "demote", named(chat), "production", "--reason", "INC-7")
    assert code == 0
    assert out.startswith(f"withdrew {named(chat)} from production as event ")
    code, out, _ = person("op", "demote", named(chat), "production", "--reason", "INC-7")
    assert "nothing was changed" in out
    code, _, err = person("op", "pull", named(chat), "--env", "production")
    assert code == 22
    assert "is not promoted to production" in err
    code, out, _ = person("op", "promotions", named(chat), "--all")
    assert "withdrawn" in out
    assert "refused" in out
    assert "INC-7" in out


def test_a_waiver_as_it_is_typed(world, person, tmp_path):
    chat = world.push(world.push())
    for name in ("bo", "cy"):
        world.approve(chat, name)
    typed = ("waive", named(chat), "production", "scan", "--reason", "the scanner is down", "--no-timestamp")
    code, out, err = person("risk", *typed, "--days", "3")
    assert code == 0, err
    assert f"waived scan for {named(chat)} in production until " in out
    code, out, _ = person("op", "promote", named(chat), "production", "--explain", "--json")
    assert code == 0
    answer = json.loads(out)
    assert (answer["allowed"], answer["verified"]) == (True, True)
    (tmp_path / "said.json").write_text(out)
    assert person("op", "policy", "test", world.policy_path, tmp_path / "said.json")[0] == 0
    (scan,) = (one for one in answer["decision"]["outcomes"] if one["rule"] == "scan")
    assert scan["status"] == "waived"
    assert "the scanner is down" in scan["reason"]
    assert person("risk", *typed, "--days", "0")[0] == 2
    assert person("risk", "waive", named(chat), "production", "No Rule", "--reason", "x", "--days", "1")[0] == 2


def test_a_runtime_starts_with_a_permit_and_not_without(world, tmp_path):
    _, chat = world.approved()
    world.promote(chat)
    env = world.registry.environment(tmp_path / "home")
    started = cli(
        "launch", named(chat), "--env", "production", "--no-heartbeat", "--", "echo", "serving {model}", env=env
    )
    assert started.returncode == 0, started.stderr
    assert "serving /" in started.stdout
    assert "permit: verified, for production until " in started.stderr
    before = cli("launch", "--env", "production", "--no-heartbeat", named(chat), "echo", "{model}", "--", "-x", env=env)
    assert before.stdout.endswith(" -- -x\n"), before.stderr
    other = cli("launch", named(chat), "--env", "staging", "--no-heartbeat", "--", "echo", "{model}", env=env)
    assert other.returncode == 22
    assert other.stdout == ""


def test_without_a_pinned_log_nothing_is_promoted_and_nothing_launched_for_an_environment(world, person, tmp_path):
    _, chat = world.approved()
    unpinned = tmp_path / "unpinned.toml"
    unpinned.write_text(world.registry.trust.unpinned_text)
    size = len(world.rows(chat))
    for typed in (("promote", named(chat), "production"), ("pull", named(chat), "--env", "production")):
        code, out, err = person("op", *typed, MODELREG_TRUST_POLICY=unpinned)
        assert (code, out) == (1, "")
        assert "pins no custody log" in err
        assert "modelreg-server log key" in err
    assert len(world.rows(chat)) == size, "it was not even asked"


# What a machine believes.


class Lying(Api):
    """The real registry, but for the permit in its answers."""

    def __init__(self, real, change):
        self.__dict__.update(real.__dict__)
        self.change = change

    def request_grant(self, repository, request):
        grant = super().request_grant(repository, request)
        return grant.model_copy(update={"permit": self.change(grant.permit)})


class Host:
    def __init__(self, world, folder):
        self.world = world
        self.policy = world.registry.trust.policy
        self.cache = Cache(folder / "cache")
        self.machine = Machine("gpu-1", folder / "state", Outbox(folder / "outbox"))

    def pull(self, artifact, *, api=None, environment="production"):
        return pull.pull(
            api or self.world.admin, self.cache, self.policy, Reference("demo/m", digest=artifact), purpose="launch",
            host="gpu-1", now=datetime.now(UTC), connections_at_once=2, meter=QUIET,
            state_dir=self.machine.state_dir, environment=environment,
        )  # fmt: skip

    def launch(self, artifact, *, ask=True, later=timedelta(), clock=None, environment="production"):
        at = datetime.now(UTC) + later
        return launch.prepare(
            lambda: self.world.admin, self.cache, self.policy, Reference("demo/m", digest=artifact), ["true", "{model}"],
            machine=self.machine, now=at, connections_at_once=2, meter=QUIET, environment={}, heartbeat_seconds=None,
            ask=ask, serve_in=environment, clock=clock or (lambda: at),
        )  # fmt: skip


@pytest.fixture
def host(world, tmp_path):
    return Host(world, tmp_path / "host")


@pytest.fixture
def chat(world):
    _, made = world.approved()
    assert world.promote(made).decision.allowed
    return made


def test_a_permit_of_anything_else_or_of_anybody_else_is_not_believed(world, host, chat):
    other = world.approved()[1]
    world.promote(other)
    world.promote(chat, "staging")
    signer = world.registry.parts.database.log_signer
    for change, error in (
        (lambda _permit: None, PolicyRefused),
        (lambda _permit: world.grant(other).permit, SignatureInvalid),
        (lambda _permit: world.grant(chat, "staging").permit, SignatureInvalid),
        (lambda _permit: world.grant(chat).permit, SignatureInvalid),  # of another grant
        (lambda permit: permit.replace(signer.origin, "another.example/log"), SignerNotAllowed),
        (lambda permit: permit.replace('"sig": "', '"sig": "AA').replace('"sig":"', '"sig":"AAAA'), SignatureInvalid),
    ):
        with pytest.raises(error):
            host.pull(chat, api=Lying(world.admin, change))
        assert host.cache.kept_permit(chat, "production") is None


def test_a_kept_permit_is_good_without_the_registry_until_it_ends(host, chat):
    host.pull(chat)
    prepared = host.launch(chat, ask=False, later=timedelta(minutes=14))
    assert isinstance(prepared.loadable.permit, Permit)
    assert prepared.event is None, "it waits to be told"
    with pytest.raises(PolicyRefused, match="launch again where the registry answers"):
        host.launch(chat, ask=False, later=timedelta(minutes=15, seconds=1))
    # For another place it never had one.
    with pytest.raises(Unreachable, match="holds no permit to serve .* in staging"):
        host.launch(chat, ask=False, environment="staging")
    assert host.launch(chat, ask=False, later=timedelta(minutes=16), environment=None).loadable.permit is None


def test_a_kept_permit_that_was_exchanged_is_not_believed(world, host, chat):
    host.pull(chat)
    host.cache.keep_permit(chat, "staging", host.cache.kept_permit(chat, "production"))
    with pytest.raises(SignatureInvalid, match="environment"):
        host.launch(chat, ask=False, environment="staging")


def test_a_permit_that_ended_while_the_bytes_were_measured_is_asked_for_again(world, host, chat):
    def late():
        world.clock.ahead = timedelta(minutes=16)
        return datetime.now(UTC) + world.clock.ahead

    try:
        prepared = host.launch(chat, clock=late)
        assert prepared.loadable.permit.issued_at > datetime.now(UTC) + timedelta(minutes=15)
        assert prepared.loadable.grant == prepared.loadable.permit.grant
    finally:
        world.clock.ahead = timedelta()


def test_what_was_withdrawn_while_the_bytes_were_measured_does_not_start(world, host, chat):
    def late():
        world.demote(chat)
        world.clock.ahead = timedelta(minutes=16)
        return datetime.now(UTC) + world.clock.ahead

    try:
        with pytest.raises(PolicyRefused, match="is not promoted"):
            host.launch(chat, clock=late)
    finally:
        world.clock.ahead = timedelta()


def test_a_kept_permit_of_another_host_is_not_believed_on_a_host(world, host, chat):
    from support.hosts import enrol, grant

    machine = enrol(world.registry, "gpu-9")
    grant(world.registry, "host:gpu-9", "pull", "demo/*")
    host.pull(chat, api=machine.api())
    kept = host.cache.kept_permit(chat, "production")
    verified = {"artifact": chat, "repository": "demo/m", "environment": "production", "host": "gpu-1"}
    assert (
        permits.verify(kept, world.log, **verified, now=datetime.now(UTC), verified_host="gpu-9").verified_host
        == "gpu-9"
    )
    with pytest.raises(SignatureInvalid, match="verified_host"):
        permits.verify(kept, world.log, **verified, now=datetime.now(UTC), verified_host="gpu-8")


def test_removing_an_artifact_removes_its_permits(host, chat):
    pulled = host.pull(chat)
    assert host.cache.kept_permit(chat, "production")
    host.cache.remove(chat, pulled.verified.manifest.files, set())
    assert host.cache.kept_permit(chat, "production") is None


def test_a_policy_without_a_log_takes_no_permit(world, host, chat):
    host.policy = world.registry.trust.unpinned
    with pytest.raises(Misconfigured, match="pins no custody log"):
        host.launch(chat)


# The operator's side.


def test_exported_decisions_are_cases_for_the_policy_commands(world, chat, run, tmp_path, capsys):
    data_dir = world.registry.parts.settings.data_dir
    folder = tmp_path / "cases"
    assert server_cli.main(["decisions", "export", str(folder), "--data-dir", str(data_dir), "--limit", "1"]) == 0
    capsys.readouterr()
    assert len(list(folder.iterdir())) == 1
    code, out, err = run("policy", "test", world.policy_path, folder)
    assert code == 0, (out, err)
    tighter = tmp_path / "tighter.toml"
    tighter.write_text(POLICY.replace("count = 2", "count = 3"))
    code, out, _ = run("policy", "diff", world.policy_path, tighter, "--cases", folder)
    assert code == 40
    assert str(chat) in out
    assert "approvals: pass -> fail" in out


def test_replaying_says_whether_all_is_the_same_and_names_the_first_that_is_not(world, chat, capsys, monkeypatch):
    settings = world.registry.parts.settings
    monkeypatch.setenv("MODELREG_DATA_DIR", str(settings.data_dir))
    assert server_cli.main(["decisions", "replay"]) == 0
    assert "the same: " in capsys.readouterr().out

    with world.registry.parts.database.writing() as session, session.begin():
        number = world.rows(chat)[0].id
        row = session.get(PromotionDecision, number)
        kept, row.facts = row.facts, row.facts.replace(b"person:bo", b"person:al")
        session.add(row)
    try:
        capsys.readouterr()
        assert server_cli.main(["decisions", "replay", "--limit", "5"]) == 40
        out = capsys.readouterr().out
        assert f"DIFFERS: decision {number} " in out
        assert "approvals was pass" in out
    finally:
        with world.registry.parts.database.writing() as session, session.begin():
            found = session.get(PromotionDecision, number)
            found.facts = kept
            session.add(found)


def test_a_request_for_no_environment_is_refused_before_it_is_sent(world, person):
    _, chat = world.chat()
    code, _, err = person("op", "promote", named(chat), "Production!")
    assert code == 2
    assert "environment" in err
    with pytest.raises(ValueError, match="environment"):
        wire_promotions.PromotionRequest(environment="../x")
