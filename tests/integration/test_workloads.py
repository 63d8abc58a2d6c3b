"""CI jobs and pods push and pull with the tokens they already have, through the real CLI and a real server process."""

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.issuer import AUDIENCE, loopback_issuer
from support.registry import RegistryProcess, look_at_output

CANARY = "canary0in0every0token"


def identities(issuer):
    return f"""
[[issuers]]
name = "github"
url = "{issuer.url}"
kind = "workload"
audience = "{AUDIENCE}"
algorithms = ["RS256"]
required_claims = ["repository_id", "event_name"]

[[issuers.rules]]
claims = {{ repository = "acme/train", repository_id = "1234", ref = "refs/heads/main", environment = "production" }}
principal = "workload:ci/{{repository}}"
scopes = ["push:demo/train", "tag:demo/train", "pull:demo/train"]

[[issuers]]
name = "cluster"
url = "{issuer.url}/cluster"
kind = "workload"
audience = "{AUDIENCE}"
algorithms = ["ES256"]
jwks_file = "cluster-keys.json"

[[issuers.rules]]
claims = {{ "/kubernetes.io/namespace" = "serving", "/kubernetes.io/serviceaccount/name" = "vllm" }}
principal = "workload:k8s/{{/kubernetes.io/namespace}}/{{/kubernetes.io/serviceaccount/name}}"
scopes = ["push:demo/tuned", "tag:demo/tuned", "pull:demo/tuned"]
"""


@pytest.fixture(scope="module")
def issuer():
    with loopback_issuer() as running:
        yield running


@pytest.fixture(scope="module")
def registry(issuer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    (folder / "identities.toml").write_text(identities(issuer))
    (folder / "cluster-keys.json").write_text(json.dumps({"keys": [issuer.jwk("ec-1")]}))
    running = RegistryProcess(folder, {"MODELREG_IDENTITIES": str(folder / "identities.toml")})
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("train", "tuned"):
        (folder / name).mkdir()
        (folder / name / "weights.bin").write_bytes(name.encode() * 1000)
    return folder


class Job:
    """One CI job or pod: a home and an environment of its own."""

    seen = []  # every word any job printed, for the canary

    def __init__(self, registry, home, **environment):
        home.mkdir(parents=True)
        self.home = home
        self.environment = {
            "PATH": "/usr/bin:/bin", "HOME": str(home), "MODELREG_REGISTRY": registry.url,
            "MODELREG_TRUST_POLICY": str(registry.trust.policy_path), "MODELREG_KEY": str(registry.trust.key_path),
            "MODELREG_CERTIFICATE": str(registry.trust.chain_path), **environment,
        }  # fmt: skip

    def __call__(self, *arguments, **more):
        done = subprocess.run(
            [sys.executable, "-m", "modelreg.cli", *map(str, arguments)],
            env={**self.environment, **more}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        self.seen.append(done.stdout + done.stderr)
        look_at_output(arguments, done.stdout, done.stderr)
        return done

    @property
    def file(self):
        return self.home / ".config" / "modelreg" / "credentials.json"

    def end_session(self):
        text = self.file.read_text()
        self.file.write_text(re.sub(r'"expires_at": "[^"]*"', '"expires_at": "2026-01-01T00:00:00+00:00"', text))


def github_token(issuer, **claims):
    return issuer.token("rsa-1", **{
        "sub": "repo:acme/train:environment:production", "repository": "acme/train", "repository_id": "1234",
        "ref": "refs/heads/main", "environment": "production", "event_name": "push", "actor": "mallory", "canary": CANARY,
        "nbf": int(time.time()) - 5, **claims,
    })  # fmt: skip


def pod_token(issuer, **claims):
    return issuer.token("ec-1", **{
        "iss": f"{issuer.url}/cluster", "aud": [AUDIENCE], "sub": "system:serviceaccount:serving:vllm", "canary": CANARY,
        "kubernetes.io": {
            "namespace": "serving", "node": {"name": "gpu-1", "uid": "n"}, "pod": {"name": "vllm-0", "uid": "p"},
            "serviceaccount": {"name": "vllm", "uid": "s"},
        }, **claims,
    })  # fmt: skip


@pytest.fixture
def github(registry, issuer, tmp_path):
    """A job whose platform mints a fresh token for every request, for the audience that is asked for."""
    issuer.answers["/oidc?api-version=2.0&audience=https%3A%2F%2Fmodels.test"] = lambda: (
        200, {}, json.dumps({"value": github_token(issuer)}).encode()
    )  # fmt: skip
    yield Job(
        registry, tmp_path / "job", ACTIONS_ID_TOKEN_REQUEST_URL=f"{issuer.url}/oidc?api-version=2.0",
        ACTIONS_ID_TOKEN_REQUEST_TOKEN="runner-secret", MODELREG_AUDIENCE=AUDIENCE, MODELREG_WORKLOAD="1",
    )  # fmt: skip
    issuer.answers.clear()


@pytest.fixture
def pod(registry, issuer, tmp_path):
    """A pod with a projected token in a file that the kubelet would rotate."""
    file = tmp_path / "projected"
    file.write_text(pod_token(issuer) + "\n")
    job = Job(registry, tmp_path / "pod", MODELREG_IDENTITY_TOKEN_FILE=str(file))
    job.rotate = lambda: file.write_text(pod_token(issuer))
    return job


def events(registry, tmp_path):
    """The whole log, as an administrator sees it with the CLI."""
    admin = Job(registry, tmp_path / "admin", MODELREG_TOKEN=registry.admin_token)
    done = admin("log", "--json", "--limit", "1000")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["events"]


def only_own(job, models, own, other):
    """Push and pull what is allowed, and get nowhere else."""
    pushed = job("push", models / own, f"demo/{own}")
    assert pushed.returncode == 0, pushed.stderr
    pulled = job("pull", f"demo/{own}")
    assert pulled.returncode == 0, pulled.stderr
    assert job("push", models / own, f"demo/{other}").returncode == 30
    assert job("push", models / own, f"demo/{own}2").returncode == 30
    assert job("pull", f"demo/{other}").returncode == 11  # absent and forbidden answer alike
    assert job("ls", f"demo/{other}").returncode == 11
    assert job("token", "list").returncode == 30


def test_a_ci_job_pushes_and_pulls_only_its_repository(registry, github, issuer, models, tmp_path):
    only_own(github, models, "train", "tuned")

    (asked,) = [headers for path, headers in issuer.headers.items() if path.startswith("/oidc?")]
    assert asked["Authorization"] == "Bearer runner-secret"
    mine = [event for event in events(registry, tmp_path) if event["principal"] == "workload:ci/acme/train"]
    kinds = {event["type"] for event in mine}
    assert {"token.exchanged", "artifact.published", "tag.moved", "artifact.granted", "artifact.received"} <= kinds
    for event in mine:
        assert event["identity"] == {
            "issuer": issuer.url, "subject": "repo:acme/train:environment:production",
            "claims": {"repository": "acme/train", "repository_id": "1234", "ref": "refs/heads/main",
                       "environment": "production"},
        }  # fmt: skip


def test_a_pod_pushes_and_pulls_only_its_repository(registry, pod, issuer, models, tmp_path):
    done = pod("login", "--workload")
    assert done.returncode == 0, done.stderr
    assert "workload:k8s/serving/vllm" in done.stdout
    only_own(pod, models, "tuned", "train")

    mine = [event for event in events(registry, tmp_path) if event["principal"] == "workload:k8s/serving/vllm"]
    assert {"token.exchanged", "artifact.published", "artifact.granted", "artifact.received"} <= {
        e["type"] for e in mine
    }
    for event in mine:
        assert event["identity"] == {
            "issuer": f"{issuer.url}/cluster", "subject": "system:serviceaccount:serving:vllm",
            "claims": {"/kubernetes.io/namespace": "serving", "/kubernetes.io/serviceaccount/name": "vllm"},
        }  # fmt: skip


def test_a_pod_whose_session_ended_uses_the_rotated_token(pod):
    assert pod("login", "--workload").returncode == 0
    pod.end_session()
    again = pod("whoami")
    assert again.returncode == 30  # the same token once more
    assert "exchanged before" in again.stderr
    pod.rotate()
    assert pod("whoami").returncode == 0


def test_a_job_with_the_workload_setting_needs_no_login(github):
    done = github("whoami")
    assert done.returncode == 0, done.stderr
    assert "workload:ci/acme/train" in done.stdout
    github.end_session()
    assert github("whoami").returncode == 0  # the platform minted another


def test_processes_of_one_pod_that_start_together_share_one_exchange(registry, pod):
    """The projected token is good once; with the workload setting the second process finds the session of the first."""
    pod.environment["MODELREG_WORKLOAD"] = "1"
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _n: pod("whoami"), range(3)))
    assert [(process.returncode, process.stderr) for process in done] == [(0, "")] * 3


@pytest.mark.parametrize(
    "claims",
    [{"ref": "refs/heads/feature"}, {"repository": "acme/fork"}, {"repository_id": "9"}, {"environment": "staging"},
     {"aud": "https://pypi.test"}, {"repository": "mallory/train"}],
    ids=str,
)  # fmt: skip
def test_a_job_from_elsewhere_gets_nothing(registry, issuer, tmp_path, claims):
    job = Job(registry, tmp_path / "job", MODELREG_IDENTITY_TOKEN=github_token(issuer, **claims))
    done = job("login", "--workload")
    assert done.returncode == 30
    assert not job.file.exists()


def test_gitlab_hands_the_token_over_in_a_variable(registry, issuer, tmp_path):
    job = Job(registry, tmp_path / "job", MODELREG_ID_TOKEN=github_token(issuer))
    assert job("login", "--workload").returncode == 0


@pytest.mark.parametrize(
    ("environment", "code", "says"),
    [
        ({}, 30, "no identity token is around"),
        ({"MODELREG_IDENTITY_TOKEN": "nonsense"}, 30, "no identity token (a JWT)"),
        ({"MODELREG_IDENTITY_TOKEN": "a.b.c"}, 30, "malformed"),
        ({"MODELREG_IDENTITY_TOKEN": "a.b." + "c" * 20000}, 30, "no identity token"),
        ({"MODELREG_IDENTITY_TOKEN_FILE": "/nowhere/token"}, 1, "/nowhere/token"),
        ({"ACTIONS_ID_TOKEN_REQUEST_URL": "http://evil.example/x?y=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "s3cret"}, 1, "https"),
        ({"ACTIONS_ID_TOKEN_REQUEST_URL": "http://127.0.0.1:1/x?y=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "s3cret"}, 31, "answer"),
        ({"MODELREG_CREDENTIAL_STORE": "cloud"}, 1, "file or keyring"),
    ],
    ids=str,
)  # fmt: skip
def test_a_workload_without_a_good_token_is_told_what_to_do(registry, tmp_path, environment, code, says):
    done = Job(registry, tmp_path / "job", **environment)("login", "--workload")
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "s3cret" not in done.stderr
    assert done.stderr.startswith("modelreg: ")
    assert "(a bug" not in done.stderr


def test_no_token_is_in_any_log_event_error_or_database(registry, pod, github, issuer, models, tmp_path):
    """Runs last on this registry: everything above has left its traces by now."""
    assert pod("login", "--workload").returncode == 0
    pod.end_session()
    assert pod("whoami", "--json").returncode == 30
    assert github("whoami").returncode == 0
    raw = [github_token(issuer), pod_token(issuer), github_token(issuer, aud="other"), "x." + CANARY + ".y"]
    for token in raw:
        Job(registry, tmp_path / token[-6:], MODELREG_IDENTITY_TOKEN=token)("login", "--workload", "--json")
    sessions = [re.search(r"mrg_session_[0-9A-Za-z]{43}", job.file.read_text())[0] for job in (pod, github)]
    entries = json.dumps(events(registry, tmp_path))
    log = (registry.folder / "server.log").read_text()
    kept = b"".join(path.read_bytes() for path in (registry.folder / "data").glob("registry.sqlite3*")).decode(
        "latin-1"
    )
    assert "token exchange refused (replayed)" in log
    assert "token.exchanged" in kept
    secrets = [*sessions, *raw[:3], *(token.split(".")[1] for token in raw[:3]), CANARY, "runner-secret"]
    for name, text in {"log": log, "events": entries, "database": kept, "output": "\n".join(Job.seen)}.items():
        for secret in secrets:
            assert secret not in text, name
        assert name == "database" or "eyJ" not in text  # how every JWT begins; so does the payload of a bundle
