"""The signer, its token and its failures; the local Sigstore with the unmodified tools of others."""

import contextlib
import json
import logging
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelreg import bundles, hashing, keyless, manifests, signing, statements
from modelreg.errors import DigestMismatch, Misconfigured, Unauthenticated, Unreachable
from modelreg.verify import verify_folder
from support import signed
from support.policies import policy, sigstore_authority
from support.sigstore_ca import OidcIssuer
from support.sigstore_local import running_sigstore

EMAIL = "al@acme.example"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def sigstore(tmp_path_factory):
    with running_sigstore(tmp_path_factory.mktemp("sigstore")) as running:
        yield running


@pytest.fixture
def no_ambient(monkeypatch):
    """As on a machine that is no CI."""
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE", "SIGSTORE_ID_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "llama"
    for path, data in {"a/b.txt": b"below", "a-b.txt": b"beside", "model.bin": bytes(range(256)), "empty": b""}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def load(sigstore, token, config=None):
    return keyless.load_keyless(config or sigstore.trust_config, None, {keyless.TOKEN_VARIABLE: token})


def trusting(sigstore):
    now = datetime.now(UTC)
    return policy(
        sigstore_authority("private", sigstore.trusted_root, sigstore.issuer),
        allow={"private": [f"email:{EMAIL}"]},
        expires=now + timedelta(days=1),
        updated_at=now,
    )


def tool(name, *arguments):
    return subprocess.run([BIN / name, *map(str, arguments)], capture_output=True, text=True, timeout=120)


# The tools of others


def test_the_reference_accepts_what_we_sign(sigstore, model, tmp_path):
    manifest = manifests.build(hashing.hash_tree(model))
    signature = tmp_path / "model.sig"
    signer = load(sigstore, sigstore.oidc.token(email=EMAIL))
    signature.write_bytes(signing.sign(statements.build("llama", manifest), signer))
    arguments = ["verify", "sigstore", model, "--signature", signature, "--trust_config", sigstore.trust_config]

    done = tool("model_signing", *arguments, "--identity", EMAIL, "--identity_provider", sigstore.issuer)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    wrong = tool("model_signing", *arguments, "--identity", "bo@acme.example", "--identity_provider", sigstore.issuer)
    assert wrong.returncode != 0
    (model / "a-b.txt").write_bytes(b"changed")
    changed = tool("model_signing", *arguments, "--identity", EMAIL, "--identity_provider", sigstore.issuer)
    assert changed.returncode != 0


def test_we_accept_what_the_reference_signs(sigstore, model, tmp_path):
    signature = tmp_path / "model.sig"
    token = sigstore.oidc.token(email=EMAIL)
    done = tool(
        "model_signing", "sign", "sigstore", model, "--signature", signature,
        "--trust_config", sigstore.trust_config, "--identity_token", token,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

    def verify():
        return verify_folder(
            model, signature, trusting(sigstore), repository=signed.REPOSITORY, now=datetime.now(UTC)
        )  # fmt: skip

    assert verify().signer.identity == f"email:{EMAIL}"
    (model / "a-b.txt").write_bytes(b"BESIDE")
    with pytest.raises(DigestMismatch):
        verify()


def test_the_sigstore_command_line_signs_and_verifies_here(sigstore, tmp_path):
    file, bundle = tmp_path / "hello.txt", tmp_path / "hello.json"
    file.write_bytes(b"hello")
    config = ("--trust-config", sigstore.trust_config)
    signing_done = tool(
        "sigstore", *config, "sign", "--identity-token", sigstore.oidc.token(email=EMAIL), "--bundle", bundle, file
    )
    assert signing_done.returncode == 0, signing_done.stderr

    def verify(identity):
        return tool(
            "sigstore", *config, "verify", "identity", "--bundle", bundle,
            "--cert-identity", identity, "--cert-oidc-issuer", sigstore.issuer, file,
        )  # fmt: skip

    assert verify(EMAIL).returncode == 0
    assert verify("bo@acme.example").returncode != 0
    file.write_bytes(b"hullo")
    assert verify(EMAIL).returncode != 0


# What is signed


def test_exactly_our_bytes_are_signed(sigstore):
    payload = signed.PAYLOAD.replace(b'{"_type"', b'{ "_type"')  # no canonical form is made of them

    raw = signing.sign(payload, load(sigstore, sigstore.oidc.token(email=EMAIL)))

    assert bundles.parse(raw).payload == payload
    assert bundles.parse(raw).kind == "certificate"


# The token


def test_the_token_file_is_read_anew_for_each_signature(sigstore, tmp_path):
    file = tmp_path / "token"
    file.write_text(sigstore.oidc.token(email=EMAIL) + "\n")
    signer = keyless.load_keyless(sigstore.trust_config, file, {})
    file.write_text(sigstore.oidc.token(email="bo@acme.example"))

    leaf = bundles.parse(signing.sign(signed.PAYLOAD, signer)).certificates[0]

    assert b"bo@acme.example" in leaf


def test_the_file_goes_before_the_environment(sigstore, tmp_path):
    file = tmp_path / "token"
    file.write_text(sigstore.oidc.token(email=EMAIL))
    signer = keyless.load_keyless(sigstore.trust_config, file, {keyless.TOKEN_VARIABLE: "nonsense"})

    assert signer.read_token().issuer == sigstore.issuer


def test_an_ambient_token_is_found(sigstore, no_ambient, monkeypatch):
    # GitLab's way, as the `id` package looks for it.
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.oidc.token(email=EMAIL))

    signer = keyless.load_keyless(sigstore.trust_config, None, {})

    assert EMAIL.encode() in bundles.parse(signing.sign(signed.PAYLOAD, signer)).certificates[0]


def test_without_a_token_the_message_says_what_to_do(sigstore, no_ambient):
    with pytest.raises(Misconfigured, match=r"--sigstore-token-file or MODELREG_SIGSTORE_TOKEN.*audience `sigstore`"):
        keyless.load_keyless(sigstore.trust_config, None, {})


def test_a_ci_that_may_not_have_a_token_says_so(sigstore, no_ambient, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", raising=False)

    with pytest.raises(Misconfigured, match="GitHub: missing or insufficient OIDC token permissions.*give --sigstore"):
        keyless.load_keyless(sigstore.trust_config, None, {})


def test_a_ci_that_does_not_answer_says_so(sigstore, no_ambient, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "canary")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.url}/nowhere?")

    with pytest.raises(Misconfigured, match="cannot be had: GitHub") as refused:
        keyless.load_keyless(sigstore.trust_config, None, {})
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "claims",
    [{"lifetime_seconds": -60}, {"aud": "modelreg"}, {"nbf": 4_000_000_000}, {"sub": None}],
    ids=["expired", "of another audience", "not valid yet", "without a subject"],
)
def test_a_token_that_will_not_do_is_refused_before_anything_is_hashed(sigstore, claims):
    token = sigstore.oidc.token(email=EMAIL, **claims)

    with pytest.raises(Misconfigured, match="holds is no OIDC token") as refused:
        load(sigstore, token)
    assert token not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no token", b"\xff\xfe", b"x" * (keyless.MAX_TOKEN_BYTES + 1)])
def test_a_token_file_without_a_token_is_refused(sigstore, tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)

    with pytest.raises(Misconfigured):
        keyless.load_keyless(sigstore.trust_config, file, {})


def test_a_token_file_that_is_not_there_is_named(sigstore, tmp_path):
    with pytest.raises(Misconfigured, match="token: No such file"):
        keyless.load_keyless(sigstore.trust_config, tmp_path / "token", {})


@pytest.mark.parametrize("what", ["another key", "another issuer", "unverified e-mail", "a subject that is no URI"])
def test_a_token_the_authority_does_not_take_is_not_authenticated(sigstore, what):
    stranger = OidcIssuer(sigstore.issuer, sigstore.clock)
    token = {
        "another key": lambda: stranger.token(email=EMAIL),
        "another issuer": lambda: sigstore.oidc.token(email=EMAIL, iss="https://elsewhere.example"),
        "unverified e-mail": lambda: sigstore.oidc.token(email=EMAIL, email_verified=False),
        "a subject that is no URI": lambda: sigstore.oidc.token(subject="al"),
    }[what]()
    entries = len(sigstore.rekor.tree.leaves)

    with pytest.raises(Unauthenticated, match=r"does not take the identity token \(HTTP 401\)") as refused:
        signing.sign(signed.PAYLOAD, load(sigstore, token))
    assert token not in str(refused.value)
    assert len(sigstore.rekor.tree.leaves) == entries


def test_the_token_stands_in_no_log(sigstore, caplog):
    caplog.set_level(logging.DEBUG)
    token = sigstore.oidc.token(email=EMAIL)
    signing.sign(signed.PAYLOAD, load(sigstore, token))
    with contextlib.suppress(Unauthenticated):
        signing.sign(signed.PAYLOAD, load(sigstore, OidcIssuer(sigstore.issuer, sigstore.clock).token(email=EMAIL)))

    assert caplog.records
    assert token not in caplog.text
    assert token.rsplit(".", 1)[1] not in caplog.text


# The configuration and the services


def test_a_sigstore_that_is_down_is_unreachable(tmp_path):
    with running_sigstore(tmp_path / "gone") as gone:
        signer = load(gone, gone.oidc.token(email=EMAIL))

    with pytest.raises(Unreachable, match=r"Sigstore at 127\.0\.0\.1:\d+ failed \(ConnectionError\)"):
        signing.sign(signed.PAYLOAD, signer)


def test_a_log_that_fails_is_unreachable_and_nothing_comes_out(sigstore, monkeypatch):
    monkeypatch.setattr(sigstore.rekor, "add", lambda request: 1 / 0)
    signer = load(sigstore, sigstore.oidc.token(email=EMAIL))

    with pytest.raises(Unreachable, match=r"failed \(HTTP 500\)"):
        signing.sign(signed.PAYLOAD, signer)


def test_a_time_stamping_authority_that_fails_makes_no_signature_without_a_time(sigstore, monkeypatch):
    monkeypatch.setattr(sigstore.tsa, "answer", lambda request: b"no stamp")
    signer = load(sigstore, sigstore.oidc.token(email=EMAIL))

    with pytest.raises(Unreachable, match="nothing was published"):
        signing.sign(signed.PAYLOAD, signer)


def test_a_sigstore_that_says_nothing_ends_in_time(sigstore, tmp_path, monkeypatch):
    monkeypatch.setattr(keyless, "SIGNING_TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = json.loads(sigstore.trust_config.read_text())
        config["signingConfig"]["caUrls"][0]["url"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        file = tmp_path / "silent.json"
        file.write_text(json.dumps(config))

        with pytest.raises(Unreachable, match="did not answer within"):
            signing.sign(signed.PAYLOAD, load(sigstore, sigstore.oidc.token(email=EMAIL), file))


def test_a_token_is_not_sent_over_plain_http(sigstore, tmp_path):
    config = json.loads(sigstore.trust_config.read_text())
    config["signingConfig"]["caUrls"][0]["url"] = "http://fulcio.acme.example"
    file = tmp_path / "plain.json"
    file.write_text(json.dumps(config))

    with pytest.raises(Misconfigured, match="use https"):
        load(sigstore, sigstore.oidc.token(email=EMAIL), file)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.clear(),
        lambda config: config.update(also="this"),
        lambda config: config["signingConfig"].update(rekorTlogUrls=[]),
        lambda config: config["signingConfig"].update(caUrls=[]),
        lambda config: config["signingConfig"].update(mediaType="application/vnd.dev.sigstore.signingconfig.v0.1+json"),
        lambda config: config["trustedRoot"].update(certificateAuthorities=[]),
        lambda config: config["signingConfig"].update(rekorTlogConfig={"selector": "EXACT", "count": 5}),
    ],
)
def test_a_configuration_that_will_not_do_is_refused_before_anything_is_hashed(sigstore, tmp_path, change):
    config = json.loads(sigstore.trust_config.read_text())
    change(config)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))

    with pytest.raises(Misconfigured, match="is no Sigstore client trust configuration"):
        load(sigstore, sigstore.oidc.token(email=EMAIL), file)


# Imports

CHILD = """
import sys
from modelreg import cli
try:
    code = cli.main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
loaded = {"sigstore", "rfc3161_client", "tuf", "jwt", "requests"} & sys.modules.keys()
sys.exit(f"imported {sorted(loaded)}" if loaded else code)
"""


def child(*arguments):
    return subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def test_help_imports_no_sigstore():
    done = child("push", "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert "--sign {key,certificate,keyless}" in done.stdout


@pytest.mark.parametrize("method", ["key", "certificate", "key beside a sigstore"])
def test_verifying_by_key_or_certificate_imports_no_sigstore(sigstore, model, tmp_path, method, monkeypatch):
    from support import keys, policies

    monkeypatch.setenv("HOME", str(tmp_path))
    now = datetime.now(UTC)
    chain = keys.make_chain(now=now)
    leaf = keys.make_certificate(chain.intermediate, start=now - timedelta(minutes=1))
    signer = keys.make_key() if method.startswith("key") else keys.certificate_signer(leaf, chain.intermediate)
    authorities = [policies.certificate_authority("one", chain)]
    if method.startswith("key"):
        authorities = [policies.key_authority("one", {"k": signer})]
    if "sigstore" in method:
        authorities.append(sigstore_authority("two", sigstore.trusted_root, sigstore.issuer))
    text = policies.policy_toml(*authorities, allow={"one": ["*"]}, expires=now + timedelta(days=1), updated_at=now)
    (tmp_path / "trust.toml").write_text(text)
    (model / "model.sig").write_bytes(
        signing.sign(statements.build("llama", manifests.build(hashing.hash_tree(model))), signer)
    )

    done = child("verify", model, "--repository", "acme/llama", "--trust-policy", tmp_path / "trust.toml")

    assert (done.returncode, done.stderr) == (0, "")
