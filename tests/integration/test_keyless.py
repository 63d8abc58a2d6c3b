"""Keyless from push to a loader's folder: the real registry, the real command line, a local Sigstore, then no network."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from modelreg.digests import Digest
from support import policies
from support.registry import cli, running_registry
from support.signed import changed_bundle
from support.sigstore_local import running_sigstore

EMAIL = "al@demo.example"
FILES = {"config.json": b"{}", "sub/weights.bin": bytes(range(256)) * 4096}


def policy_of(sigstore, **more):
    now = datetime.now(UTC)

    def write(trusted):
        return policies.policy_toml(
            policies.certificate_authority("pki", trusted.root),
            policies.sigstore_authority("private-sigstore", sigstore.trusted_root, sigstore.issuer),
            rules=[
                policies.rule(
                    ["demo/*"],
                    {
                        "private-sigstore": [f"email:{EMAIL}", "uri:spiffe://demo.example/ns/train/*"],
                        "pki": ["email:*@demo.example"],
                    },
                )
            ],
            expires=now + timedelta(days=30),
            updated_at=now,
            **more,
        )

    return write


@pytest.fixture
def world(tmp_path):
    """A registry whose trust policy pins a Sigstore, a model, and `push`/`modelreg` as one user."""
    model = tmp_path / "model"
    for path, data in FILES.items():
        (model / path).parent.mkdir(parents=True, exist_ok=True)
        (model / path).write_bytes(data)
    with running_sigstore(tmp_path / "sigstore") as sigstore:
        with running_registry(tmp_path / "registry", policy=policy_of(sigstore)) as registry:
            env = registry.environment(tmp_path / "home")

            def run(*arguments, expect=0, **changes):
                done = cli(*arguments, env={**env, **changes})
                assert done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
                assert "Traceback" not in done.stderr
                return done

            def push(token, *arguments, expect=0):
                return run(
                    "push", model, "demo/m:v1", "--sign", "keyless", "--sigstore-config", sigstore.trust_config,
                    "--json", *arguments, expect=expect, MODELREG_SIGSTORE_TOKEN=token,
                )  # fmt: skip

            yield SimpleNamespace(
                sigstore=sigstore, registry=registry, model=model, env=env, run=run, push=push, tmp=tmp_path
            )


def test_keyless_push_pull_verify(world):
    token = world.sigstore.oidc.token(email=EMAIL)
    pushed = json.loads(world.push(token).stdout)
    pulled = json.loads(world.run("pull", "demo/m:v1", "-o", world.tmp / "out", "--json").stdout)

    assert pulled["artifact"] == pushed["artifact"]
    assert pulled["signer"]["authority"] == "private-sigstore"
    assert pulled["signer"]["identity"] == f"email:{EMAIL}"
    for path, data in FILES.items():
        assert (world.tmp / "out" / path).read_bytes() == data
    world.run("verify", world.tmp / "out", "--repository", "demo/m")
    world.run("verify", f"demo/m@{pushed['artifact']}")
    shown = world.run("trust", "show").stdout
    assert f"private-sigstore: sigstore {world.sigstore.issuer}, trusted root sha256:" in shown
    # Who signed, in the record; the token nowhere.
    (published,) = world.registry.api().events(limit=100, types=["artifact.published"])
    assert published.detail["authority"] == "private-sigstore"
    assert published.detail["identity"] == f"email:{EMAIL}"
    signature_of_token = token.rsplit(".", 1)[1].encode()
    for folder in (world.tmp / "registry", world.tmp / "home", world.tmp / "out"):
        for file in folder.rglob("*"):
            assert not file.is_file() or signature_of_token not in file.read_bytes(), file


def test_pushing_again_keeps_one_signature_a_signer(world):
    """Each has a key of its own; every bundle that is kept goes into every grant."""

    def bundles_of():
        artifact = Digest.parse(pushed["artifact"])
        return [row.bundle for row in world.registry.api().artifact("demo/m", artifact).signatures]

    pushed = json.loads(world.push(world.sigstore.oidc.token(email=EMAIL)).stdout)
    first = bundles_of()
    for _ in range(2):
        world.push(world.sigstore.oidc.token(email=EMAIL))
    assert bundles_of() == first
    world.push(world.sigstore.oidc.token(subject="spiffe://demo.example/ns/train/llama"))
    assert len(bundles_of()) == 2


def test_a_plan_for_a_part_of_the_sigstore_lists_its_signatures(world):
    """Fulcio's issuers and the stamping authority are pinned; a bundle carries the leaf alone."""
    pushed = json.loads(world.push(world.sigstore.oidc.token(email=EMAIL)).stdout)
    later = ("--from", (datetime.now(UTC) + timedelta(days=1)).isoformat())

    def plan(certificate, *more, expect=40):
        key = f"sha256:{hashlib.sha256(certificate).hexdigest()}"
        return json.loads(world.run("trust", "revoke", "signer", key, *more, "--plan", "--json", expect=expect).stdout)[
            "withdraws"
        ]

    root = world.sigstore.trusted_root_json()
    for kind in ("certificateAuthorities", "timestampAuthorities"):
        for entry in root[kind][0]["certChain"]["certificates"]:
            der = base64.b64decode(entry["rawBytes"])
            assert [row["artifact"] for row in plan(der)] == [pushed["artifact"]]
            if kind == "certificateAuthorities":
                assert plan(der, *later, expect=0) == []  # it proves a time before that
            else:
                assert [row["signed_at"] for row in plan(der, *later)] == ["unprovable"]


def test_a_workloads_token_comes_from_a_file(world):
    file = world.tmp / "projected-token"
    file.write_text(world.sigstore.oidc.token(subject="spiffe://demo.example/ns/train/llama"))
    world.run(
        "push", world.model, "demo/m:v1", "--sign", "keyless", "--sigstore-config", world.sigstore.trust_config,
        "--sigstore-token-file", file,
    )  # fmt: skip

    shown = json.loads(world.run("pull", "demo/m:v1", "--json").stdout)
    assert shown["signer"]["identity"] == "uri:spiffe://demo.example/ns/train/llama"


def test_the_registry_refuses_a_keyless_signer_that_is_not_allowed(world):
    done = world.push(world.sigstore.oidc.token(email="bo@demo.example"), expect=12)

    problem = json.loads(done.stderr)
    assert problem["code"] == "signer-not-allowed"
    assert world.registry.api().events(limit=100, types=["artifact.published"]) == []


def test_the_registry_refuses_another_sigstore(world, tmp_path):
    with running_sigstore(tmp_path / "other") as other:
        world.push(other.oidc.token(email=EMAIL), "--sigstore-config", other.trust_config, expect=13)


def test_what_is_missing_is_said_before_anything_is_sent(world):
    no_ci = dict.fromkeys(["GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"], "")
    push = ("push", world.model, "demo/m", "--sign", "keyless", "--sigstore-config", world.sigstore.trust_config)

    assert "--sigstore-token-file" in world.run(*push, expect=1, **no_ci).stderr
    refused = world.push(world.sigstore.oidc.token(email=EMAIL, aud="elsewhere"), expect=1)
    assert "audience `sigstore`" in refused.stderr


def test_sign_picks_the_method(world):
    # The environment of this user has a key and its certificate; the policy allows the certificate.
    assert (
        "the trust policy does not use that"
        in world.run("push", world.model, "demo/m", "--sign", "key", expect=13).stderr
    )
    world.run("push", world.model, "demo/m", "--sign", "certificate")
    assert "--certificate" in world.run("push", world.model, "demo/m", "--sign", "certificate", expect=1,
                                        MODELREG_CERTIFICATE="").stderr  # fmt: skip
    assert json.loads(world.run("pull", "demo/m", "--json").stdout)["signer"]["authority"] == "pki"
    # Signed again by somebody else: another bundle over the same artifact.
    world.push(world.sigstore.oidc.token(email=EMAIL))
    types = [event.type for event in world.registry.api().events(limit=100)]
    assert "artifact.signed" in types


def test_a_revoked_keyless_signer_is_refused_by_the_client(world):
    before = datetime.now(UTC).replace(microsecond=0)
    world.push(world.sigstore.oidc.token(email=EMAIL))
    world.run("pull", "demo/m:v1")
    revoked = world.tmp / "revoked.toml"
    trusted = world.registry.trust

    for version, since, expect in ((2, before + timedelta(minutes=10), 0), (3, before, 21)):
        entry = {"identity": f"email:{EMAIL}", "from": since}
        revoked.write_text(policy_of(world.sigstore, version=version, revoked_signers=[entry])(trusted))
        world.run("pull", "demo/m:v1", "--trust-policy", revoked, expect=expect)


def drop_the_stamp(bundle):
    del bundle["verificationMaterial"]["timestampVerificationData"]


def _cut(command, env):
    """Run where there is no network at all, not even loopback."""
    return subprocess.run(["unshare", "-n", *command], env=env, capture_output=True, text=True, timeout=120)


def _need_unshare():
    reason = None
    if shutil.which("unshare") is None:
        reason = "there is no `unshare` here"
    elif (tried := _cut(["true"], os.environ.copy())).returncode != 0:
        reason = f"no network namespace can be made here (needs root): {tried.stderr.strip()}"
    if reason and os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)


def test_verified_again_with_the_network_cut_and_the_sigstore_gone(tmp_path):
    _need_unshare()
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(b"weights")
    with running_sigstore(tmp_path / "sigstore") as sigstore:
        with running_registry(tmp_path / "registry", policy=policy_of(sigstore)) as registry:
            env = registry.environment(tmp_path / "home")
            env["MODELREG_SIGSTORE_TOKEN"] = sigstore.oidc.token(email=EMAIL)
            config = ("--sigstore-config", sigstore.trust_config)
            pushed = cli("push", model, "demo/m:v1", "--sign", "keyless", *config, "--json", env=env)
            assert pushed.returncode == 0, pushed.stderr
            pulled = cli("pull", "demo/m:v1", "-o", tmp_path / "out", env=env)
            assert pulled.returncode == 0, pulled.stderr
    del env["MODELREG_SIGSTORE_TOKEN"]
    artifact = json.loads(pushed.stdout)["artifact"]
    modelreg = [sys.executable, "-m", "modelreg.cli"]
    network = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    assert "unreachable" in _cut([sys.executable, "-c", network], env).stderr.lower()

    for target in (["verify", f"demo/m@{artifact}"], ["verify", str(tmp_path / "out"), "--repository", "demo/m"]):
        done = _cut([*modelreg, *target, "--json"], env)

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["signer"]["identity"] == f"email:{EMAIL}"
    signature = tmp_path / "out" / "model.sig"
    signature.write_bytes(changed_bundle(signature.read_bytes(), drop_the_stamp))
    assert _cut([*modelreg, "verify", str(tmp_path / "out"), "--repository", "demo/m"], env).returncode == 13
