"""The operator's and the user's commands, from keys to a launch that is refused."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import notes, revocations, trust
from support.distribution import serve_only
from support.registry import SIGNER, cli, running_registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Without a policy file in the way of what is pinned; the server has its own."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def world(registry, home, run, tmp_path):
    """A user's environment without an explicit trust policy, and a shorthand for commands in it."""
    serve_only(registry, {})
    environment = registry.environment(home)
    del environment["MODELREG_TRUST_POLICY"]
    mine = {name: value for name, value in environment.items() if name.startswith("MODELREG_")}

    def call(*arguments, expect=0, **more):
        code, out, err = run(*arguments, **{**mine, **more})
        assert code == expect, (arguments, code, out, err)
        assert "Traceback" not in err
        return out if expect in {0, 40} else err

    call.environment = environment
    call.repo = tmp_path / "trustrepo"
    return call


def policy_file(registry, folder, version=1):
    from datetime import UTC, datetime

    from modelreg.commands.trusting import _policy_text

    text = _policy_text(
        registry.trust.root.certificate, ["demo/*"], ["email:*@demo.example"], datetime.now(UTC), distributed=True
    )
    path = folder / "trust.toml"
    path.write_text(text.replace("version = 1", f"version = {version}", 1))
    return path


@pytest.fixture
def published(registry, world, tmp_path):
    """A repository made, filled and published with the commands; its root's digest."""
    made = json.loads(world("trust", "repo", "init", world.repo, "--json"))
    world("trust", "repo", "add", world.repo, policy_file(registry, tmp_path))
    world("trust", "repo", "publish", world.repo)
    return made["root"]


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights of " + str(tmp_path).encode())
    return folder


def test_from_keys_to_a_launch_that_is_refused(registry, world, published, model):
    world("trust", "pin", "--sha256", published)
    shown = world("trust", "show")
    assert registry.url in shown
    world("push", model, "demo/m")
    world("pull", "demo/m")
    launched = cli("launch", "demo/m", "--", "cat", "{model}/weights.bin", env=world.environment)
    assert (launched.returncode, launched.stdout) == (0, (model / "weights.bin").read_text()), launched.stderr

    plan = world("trust", "revoke", "signer", SIGNER, "--plan", "--json", expect=40)
    assert {row["repository"] for row in json.loads(plan)["withdraws"]} == {"demo/m"}
    world("trust", "revoke", "signer", SIGNER, "--repo", world.repo, "--reason", "laptop stolen")
    world("trust", "repo", "publish", world.repo)

    refused = cli("launch", "demo/m", "--", "cat", "{model}/weights.bin", env=world.environment)
    assert refused.returncode == 21, refused.stderr
    assert refused.stdout == ""
    artifact = json.loads(plan)["withdraws"][-1]["artifact"]
    world("pull", "demo/m", expect=21)
    # Also where the registry cannot be reached any more: the pinned copy knows.
    world("verify", f"demo/m@{artifact}", expect=21)


def test_a_host_without_network_obeys_what_it_saw_last(registry, world, published, model, home):
    """The registry of another address is another pin: so the state of the pinned one is looked at with the network cut."""
    import socket

    from modelreg import connections, distribution, pinned
    from modelreg.settings import Settings

    world("trust", "pin", "--sha256", published)
    world("push", model, "demo/offline")
    artifact = json.loads(world("pull", "demo/offline", "--json"))["artifact"]
    world("trust", "revoke", "artifact", artifact, "--repo", world.repo)
    world("trust", "repo", "publish", world.repo)
    world("verify", f"demo/offline@{artifact}", expect=21)  # this look fetched the list

    settings = Settings.load(None, {**world.environment, "HOME": str(home)})
    assert pinned.takes_pinned(settings)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        loaded = distribution.load(nowhere, pinned.folder_of(settings), connections.make_pool(None, 1))
    assert loaded.offline
    assert artifact in {str(digest) for digest in loaded.policy.revocations.artifacts}


def test_an_explicit_policy_file_wins_over_what_is_pinned(registry, world, published, model):
    world("trust", "pin", "--sha256", published)
    world("push", model, "demo/explicit")
    world("trust", "revoke", "signer", SIGNER, "--repo", world.repo)
    world("trust", "repo", "publish", world.repo)

    world("pull", "demo/explicit", expect=21)
    world("pull", "demo/explicit", MODELREG_TRUST_POLICY=registry.trust.policy_path)
    world("pull", "demo/explicit", "--trust-policy", registry.trust.policy_path)


@pytest.mark.parametrize("lost", ["removed", "a link to nothing"])
def test_a_machine_that_lost_its_pinned_root_does_not_fall_back_to_an_older_file(
    registry, world, published, model, home, lost
):
    world("push", model, "demo/m:v1")
    old = home / ".config" / "modelreg" / "trust.toml"
    old.parent.mkdir(parents=True)
    old.write_bytes(registry.trust.policy_path.read_bytes())
    world("trust", "pin", "--sha256", published)
    (root,) = (home / ".local" / "state" / "modelreg" / "trust").glob("*/pinned.root.json")
    root.unlink()
    if lost != "removed":
        root.symlink_to("nowhere")

    assert "pin again" in world("pull", "demo/m:v1", expect=1)
    world("trust", "pin", "--sha256", published)
    world("pull", "demo/m:v1")


@pytest.mark.parametrize("spelled", ["https://Models.Acme.example", "HTTPS://models.acme.example:443/"])
def test_one_registry_has_one_pinned_root_however_its_address_is_spelled(home, spelled):
    from modelreg import pinned
    from modelreg.settings import Settings

    def folder(registry):
        return pinned.folder_of(Settings.load({"registry": registry}))

    assert folder(spelled) == folder("https://models.acme.example")
    assert folder(spelled) != folder("https://models.acme.example:8443")
    assert folder("https://models.acme.example/A") != folder("https://models.acme.example/a")


def test_nothing_pinned_and_no_file_verifies_nothing(world, published, model):
    assert "trust policy" in world("pull", "demo/m", expect=1)


def test_a_distributed_policy_as_a_plain_file_verifies_nothing(registry, world, published, model, tmp_path):
    world("push", model, "demo/plain")
    assert "trust pin" in world("pull", "demo/plain", "--trust-policy", policy_file(registry, tmp_path), expect=14)


def test_an_unreachable_registry_is_said_when_the_copy_is_used(registry, world, published, model, run, monkeypatch):
    from modelreg import distribution

    world("trust", "pin", "--sha256", published)
    world("push", model, "demo/said")
    artifact = json.loads(world("pull", "demo/said", "--json"))["artifact"]
    monkeypatch.setattr(distribution, "REFRESH_SECONDS", 0.0)
    mine = {name: value for name, value in world.environment.items() if name.startswith("MODELREG_")}
    code, out, err = run("verify", f"demo/said@{artifact}", **mine)

    assert (code, "verified copy" in err) == (0, True), err
    assert "verified demo/said" in out


def test_commands_do_not_import_tuf_before_they_need_it():
    code = (
        "import sys; from modelreg import cli, loading; "
        "from modelreg.commands import account, distributing, looking, revoking, trusting, verifying, weights; "
        "cli.parser(); assert not {'tuf', 'securesystemslib'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_policy_that_takes_a_distributed_list_is_not_to_be_copied_by_hand(world, tmp_path):
    arguments = ("--repository", "demo/*", "--identity", "email:*@demo.example")
    assert "copy it to" in world("trust", "init", tmp_path / "plain", *arguments)
    told = world("trust", "init", tmp_path / "pki", "--distributed", *arguments)
    assert "trust repo add" in told
    assert "copy it to" not in told


# Pinning


def test_pinning_wants_a_root_or_its_digest(registry, world, published, tmp_path):
    assert "--trust-on-first-use" in world("trust", "pin", expect=2)
    assert "was asked for" in world("trust", "pin", "--sha256", "sha256:" + "0" * 64, expect=20)
    world("trust", "pin", "--root", world.repo / "metadata" / "1.root.json", "--sha256", "sha256:" + "0" * 64, expect=2)
    world("trust", "pin", "--root", tmp_path / "absent", expect=1)
    world("trust", "pin", "--root", world.repo / "metadata" / "timestamp.json", expect=13)
    world("trust", "pin", "--root", world.repo / "metadata" / "1.root.json")
    world("trust", "pin", "--root", world.repo / "metadata" / "1.root.json")


def test_trust_on_first_use_says_what_it_trusted(world, published, run):
    code, _out, err = run(
        "trust", "pin", "--trust-on-first-use", MODELREG_REGISTRY=world.environment["MODELREG_REGISTRY"]
    )

    assert code == 0
    assert "warning" in err
    assert published in err


def test_pinning_where_nothing_is_published_says_so(world):
    world("trust", "pin", "--trust-on-first-use", expect=31)


def test_pinning_needs_no_token(world, published):
    world("trust", "pin", "--sha256", published, MODELREG_TOKEN="")


# The operator


def test_keys_are_readable_by_their_owner_only(world, published):
    keys = list((world.repo / "keys").iterdir())

    assert len(keys) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    world("trust", "repo", "init", world.repo, expect=1)


def test_a_change_waits_until_enough_offline_keys_have_signed(registry, world, tmp_path):
    world("trust", "repo", "init", world.repo, "--targets-keys", 3, "--targets-threshold", 2)
    offline = tmp_path / "offline"
    (world.repo / "keys").rename(offline)

    waiting = world("trust", "repo", "add", world.repo, policy_file(registry, tmp_path))
    assert "signatures missing: 2" in waiting
    assert "signatures missing: 1" in world("trust", "repo", "sign", world.repo, "--key", offline / "targets-1.key.pem")
    # The same key again, or one of another role, does not count.
    assert "signatures missing: 1" in world("trust", "repo", "sign", world.repo, "--key", offline / "targets-1.key.pem")
    assert "signatures missing: 1" in world("trust", "repo", "sign", world.repo, "--key", offline / "root-1.key.pem")
    world("trust", "repo", "publish", world.repo, expect=1)
    assert "complete" in world("trust", "repo", "sign", world.repo, "--key", offline / "targets-3.key.pem")
    world("trust", "repo", "publish", world.repo, expect=1)  # in no snapshot yet
    world("trust", "repo", "refresh", world.repo, expect=1)  # without the online key
    world("trust", "repo", "refresh", world.repo, "--key", offline / "online-1.key.pem", "--publish")


def test_a_rotated_root_needs_both_thresholds(world, published, tmp_path):
    old = tmp_path / "old"
    keys = json.loads(world("trust", "repo", "status", world.repo, "--json"))["roles"]["root"]["keys"]
    (world.repo / "keys").rename(old)

    waiting = world(
        "trust", "repo", "rotate-root", world.repo, "--new-key", "root-4", "--remove", keys[0], "--threshold", 3
    )
    assert "signatures missing: 2" in waiting
    world("trust", "repo", "publish", world.repo, expect=1)
    world("trust", "repo", "rotate-root", world.repo, "--new-key", "root-5", expect=1)  # one at a time
    signed = world(
        "trust", "repo", "sign", world.repo,
        *(word for number in (1, 2, 3) for word in ("--key", old / f"root-{number}.key.pem")),
    )  # fmt: skip
    assert "complete" in signed
    world("trust", "repo", "refresh", world.repo, "--key", old / "online-1.key.pem")
    world("trust", "repo", "publish", world.repo)
    status = json.loads(world("trust", "repo", "status", world.repo, "--json"))
    assert status["versions"]["root"] == 2
    assert keys[0] not in status["roles"]["root"]["keys"]


def test_an_encrypted_key_signs_with_its_password(registry, world, tmp_path):
    password = {"MODELREG_KEY_PASSWORD": "correct horse"}
    world("trust", "repo", "init", world.repo, **password)
    policy = policy_file(registry, tmp_path)

    world("trust", "repo", "add", world.repo, policy, expect=1)
    world("trust", "repo", "sign", world.repo, MODELREG_KEY_PASSWORD="wrong", expect=1)
    world("trust", "repo", "sign", world.repo, **password)


def test_a_public_key_of_somebody_elses_token_can_be_added(world, published, tmp_path):
    from cryptography.hazmat.primitives.asymmetric import ec

    from support import keys

    pem = tmp_path / "public.pem"
    pem.write_text(keys.public_pem(ec.generate_private_key(ec.SECP256R1())))
    world("trust", "repo", "rotate-root", world.repo, "--role", "targets", "--add-key", pem)
    world("trust", "repo", "publish", world.repo)
    pem.write_text(keys.public_pem(keys.rsa_key()))
    world("trust", "repo", "rotate-root", world.repo, "--role", "targets", "--add-key", pem, expect=1)


def test_wrong_words_of_the_operator_end_in_one_sentence(registry, world, published, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text("")
    for code, words in (
        (2, ("repo", "add", world.repo, other)),
        (1, ("repo", "add", world.repo, tmp_path / "absent" / "trust.toml")),
        (1, ("repo", "add", world.repo, policy_file(registry, tmp_path).write_text("") or tmp_path / "trust.toml")),
        (1, ("repo", "status", tmp_path / "nowhere")),
        (1, ("repo", "publish", tmp_path / "nowhere")),
        (11, ("repo", "sign", world.repo)),
        (2, ("repo", "rotate-root", world.repo, "--remove", "0" * 64)),
        (13, ("repo", "rotate-root", world.repo, "--threshold", "9")),
        (2, ("repo", "rotate-root", world.repo, "--new-key", "../x")),
        (2, ("repo", "init", tmp_path / "new", "--root-keys", "1", "--root-threshold", "2")),
        (2, ("revoke", "signer", "al", "--plan")),
        (2, ("revoke", "signer", "mail:al@demo.example", "--repo", world.repo)),
        (2, ("revoke", "signer", "Email:al@demo.example", "--repo", world.repo)),
        (2, ("revoke", "signer", "blake3:" + "0" * 64, "--repo", world.repo)),
        (2, ("revoke", "signer", "sha256:abc", "--plan")),
        (2, ("revoke", "signer", SIGNER, "--from", "yesterday", "--plan")),
        (2, ("revoke", "signer", SIGNER, "--from", "2026-11-01T00:00:00", "--plan")),
        (2, ("revoke", "signer", SIGNER)),
        (1, ("revoke", "signer", SIGNER, "--repo", tmp_path / "nowhere")),
        (2, ("revoke", "signer", SIGNER, "--reason", "two\nlines", "--repo", world.repo)),
        (2, ("revoke", "artifact", "x", "--plan")),
    ):
        world("trust", *words, expect=code)


# Revoking


@pytest.fixture(scope="module")
def pushed(registry, tmp_path_factory):
    """What al signed (two artifacts, one twice tagged) and what bo signed."""
    from datetime import UTC, datetime

    from modelreg import pki, push, signing
    from modelreg.references import parse_reference
    from support.registry import QUIET

    bo = pki.issue_signer("email:bo@demo.example", registry.trust.intermediate, datetime.now(UTC))
    signers = {
        "al": registry.trust.signer,
        "bo": signing.CertificateSigner(bo.private_key, (bo.certificate, registry.trust.intermediate.certificate)),
    }
    found = {}
    for repository, who, text in (("demo/p", "al", "1"), ("demo/q", "al", "2"), ("demo/q", "bo", "3")):
        folder = tmp_path_factory.mktemp("model")
        (folder / "a").write_text(text)
        api = registry.api(registry.token(f"person:{who}"))
        done = push.push(
            api,
            folder,
            parse_reference(repository),
            signers[who],
            tags=[f"v{text}"],
            connections_at_once=1,
            meter=QUIET,
        )
        found[text] = str(done.manifest.digest)
    return found


def rows_of(text, *repositories):
    return [
        (row["artifact"], row["tags"], row["published_by"], row["signed_at"])
        for row in json.loads(text)["withdraws"]
        if row["repository"] in repositories
    ]


@pytest.mark.parametrize("since", [[], ["--from", "2020-01-01T00:00:00Z"], ["--from", "2999-01-01T00:00:00Z"]])
def test_a_plan_lists_exactly_what_would_be_withdrawn(world, pushed, since):
    """Also what was signed before `--from`: without a trusted time nothing shows that it was."""
    plan = world("trust", "revoke", "signer", SIGNER, *since, "--plan", "--json", expect=40)
    assert rows_of(plan, "demo/p", "demo/q") == [
        (pushed["1"], ["v1"], "person:al", "unprovable"),
        (pushed["2"], ["v2"], "person:al", "unprovable"),
    ]
    bo = world("trust", "revoke", "signer", "email:bo@demo.example", *since, "--plan", "--json", expect=40)
    assert rows_of(bo, "demo/p", "demo/q") == [(pushed["3"], ["v3"], "person:bo", "unprovable")]
    assert len(json.loads(bo)["withdraws"]) == 1
    assert json.loads(world("trust", "revoke", "signer", "email:x@y", *since, "--plan", "--json")) == {"withdraws": []}
    one = world("trust", "revoke", "artifact", pushed["2"], "--plan", "--json", expect=40)
    assert rows_of(one, "demo/q") == [(pushed["2"], ["v2"], "person:al", "unprovable")]


def test_a_plan_reads_well_and_changes_nothing(world, published, pushed):
    before = sorted((path, path.read_bytes()) for path in world.repo.rglob("*") if path.is_file())
    plan = world("trust", "revoke", "signer", "email:bo@demo.example", "--plan", "--repo", world.repo, expect=40)

    assert "unprovable" in plan
    assert pushed["3"] in plan
    assert sorted((path, path.read_bytes()) for path in world.repo.rglob("*") if path.is_file()) == before


def test_revoking_raises_the_version_and_keeps_what_was_there(world, published):
    world(
        "trust", "revoke", "signer", SIGNER, "--from", "2026-11-01T00:00:00Z", "--reason", "why", "--repo", world.repo
    )
    world("trust", "revoke", "signer", "sha256:" + "ab" * 32, "--repo", world.repo)
    world("trust", "revoke", "artifact", "sha256:" + "cd" * 32, "--repo", world.repo)
    world("trust", "revoke", "renew", "--repo", world.repo)

    listed = revocations.parse((world.repo / "targets" / "revocations.toml").read_bytes())
    assert listed.version == 5
    assert [signer.identity for signer in listed.revocations.signers] == [SIGNER, None]
    assert {str(digest) for digest in listed.revocations.artifacts} == {"sha256:" + "cd" * 32}
    world("trust", "repo", "publish", world.repo)


def test_init_pins_the_custody_log_that_is_named(tmp_path):
    key = notes.key_of("registry.example/log", notes.ED25519, Ed25519PrivateKey.generate().public_key())
    env = {**os.environ, "HOME": str(tmp_path)}
    made = ("trust", "init", tmp_path / "pki", "--repository", "a/*", "--identity", "email:*@b")
    assert cli(*made, "--log", str(key), env=env).returncode == 0
    policy = trust.parse((tmp_path / "pki" / "trust.toml").read_bytes())
    assert policy.log == trust.LogTrust("registry.example/log", (key,))

    env["MODELREG_TRUST_POLICY"] = str(tmp_path / "pki" / "trust.toml")
    assert f"log          {key}" in cli("trust", "show", env=env).stdout
    for wrong in (("--log", "no-key"), ("--log", str(key), "--log", str(replace(key, name="other.example")))):
        refused = cli(*made[:2], tmp_path / "other", *made[3:], *wrong, env=env)
        assert refused.returncode in {1, 2}
        assert not (tmp_path / "other").exists(), refused.stderr


def test_init_lets_only_the_named_approvers_approve(tmp_path):
    env = {**os.environ, "HOME": str(tmp_path)}
    made = ("--repository", "a/*", "--identity", "email:*@b")
    assert cli("trust", "init", tmp_path / "pki", *made, "--approver", "email:bo@b", env=env).returncode == 0
    policy = trust.parse((tmp_path / "pki" / "trust.toml").read_bytes())
    for kind in ("approval", "waiver", "declassification"):
        assert policy.allowed_to_attest(kind, "a/x") == (trust.Allowed("pki", ("email:bo@b",)),)
        assert policy.allowed_to_attest(kind, "c/x") == ()
    assert policy.allowed_for("a/x") == (trust.Allowed("pki", ("email:*@b",)),)

    assert cli("trust", "init", tmp_path / "none", *made, env=env).returncode == 0
    assert trust.parse((tmp_path / "none" / "trust.toml").read_bytes()).allowed_to_attest("approval", "a/x") == ()
