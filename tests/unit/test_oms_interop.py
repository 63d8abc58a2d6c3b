"""What others write we read, and what we write they read: the unmodified `model_signing` 1.1.1 and real OMS bundles."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelreg import hashing, manifests, pki, signing, statements, trust, verification
from modelreg.errors import DigestMismatch, SignatureInvalid
from modelreg.verify import signed_entries, verify_folder
from support import keys, policies
from support.keys import NOW

SHARED = Path(__file__).resolve().parents[3] / "shared" / "signatures"
MODEL_SIGNING = Path(sys.executable).with_name("model_signing")


@pytest.fixture
def shared():
    """The real bundles beside the checkout."""
    if not SHARED.is_dir():
        message = f"no real OMS bundles at {SHARED}"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return SHARED


@pytest.fixture
def model(tmp_path):
    """Nested folders, and the pair of names on which spec order and reference order differ."""
    root = tmp_path / "model"
    (root / "a").mkdir(parents=True)
    (root / "a" / "b.txt").write_text("nested")
    (root / "a-b.txt").write_text("dash")
    (root / "config.json").write_text("{}")
    (root / "empty").write_bytes(b"")
    (root / "model.safetensors").write_bytes(os.urandom(100_000))
    return root


def model_signing(*arguments):
    return subprocess.run(
        [MODEL_SIGNING, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def our_bundle(model, signer):
    return signing.sign(statements.build("model", manifests.build(hashing.hash_tree(model))), signer)


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_model_signing_accepts_our_key_bundles(model, tmp_path, curve):
    key = keys.make_key(curve)
    (tmp_path / "key.pem").write_text(keys.public_pem(key))
    (tmp_path / "model.sig").write_bytes(our_bundle(model, key))

    done = model_signing(
        "verify", "key", model, "--signature", tmp_path / "model.sig", "--public_key", tmp_path / "key.pem"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout


def test_model_signing_accepts_our_certificate_bundles_and_refuses_a_changed_file(model, tmp_path):
    chain = keys.make_chain(now=pki.datetime.now(keys.UTC))
    leaf = pki.issue_signer(keys.ALICE, chain.intermediate, pki.datetime.now(keys.UTC))
    (tmp_path / "root.pem").write_text(chain.root_pem)
    (tmp_path / "model.sig").write_bytes(our_bundle(model, keys.certificate_signer(leaf, chain.intermediate)))
    arguments = ["verify", "certificate", model, "--signature", tmp_path / "model.sig"]
    arguments += ["--certificate_chain", tmp_path / "root.pem"]

    assert model_signing(*arguments).returncode == 0
    (model / "config.json").write_text("[]")
    assert model_signing(*arguments).returncode != 0


def test_our_bundles_match_the_schemas_of_oms_1_0(model, shared):
    import jsonschema
    from referencing import Registry, Resource

    schemas = [json.loads(path.read_text()) for path in (shared / "oms-spec" / "schemas").iterdir()]
    registry = Registry().with_resources([(schema["$id"], Resource.from_contents(schema)) for schema in schemas])
    by_id = {schema["$id"]: schema for schema in schemas}
    bundle = json.loads(our_bundle(model, keys.make_key()))
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))

    for kind, value in (("bundle", bundle), ("statement", payload), ("predicate", payload["predicate"])):
        schema = by_id[f"https://model_signing/{kind}/v1.0/schema"]
        jsonschema.Draft202012Validator(schema, registry=registry).validate(value)


def test_we_accept_what_model_signing_signs_with_a_key(model, tmp_path):
    key = keys.make_key("p384")
    (tmp_path / "private.pem").write_bytes(pki.private_pem(key.private_key))
    signature = tmp_path / "model.sig"
    done = model_signing("sign", "key", model, "--signature", signature, "--private_key", tmp_path / "private.pem")
    assert done.returncode == 0, done.stderr
    trusted = policies.policy(policies.key_authority("ops", {"k": key}), allow={"ops": ["key:k"]})

    verified = verify_folder(model, signature, trusted, repository="acme/m", now=NOW)

    assert len(verified.statement.files) == 5
    (model / "a" / "b.txt").write_text("Nested")
    with pytest.raises(DigestMismatch, match=r"a/b\.txt"):
        verify_folder(model, signature, trusted, repository="acme/m", now=NOW)


def test_we_accept_what_model_signing_signs_with_a_certificate(model, tmp_path):
    chain = keys.make_chain()
    leaf = keys.make_certificate(chain.intermediate)
    (tmp_path / "private.pem").write_bytes(pki.private_pem(leaf.private_key))
    (tmp_path / "leaf.pem").write_text(keys.certificate_pem(leaf.certificate))
    (tmp_path / "chain.pem").write_text(keys.certificate_pem(chain.intermediate.certificate))
    signature = tmp_path / "model.sig"
    done = model_signing(
        "sign", "certificate", model, "--signature", signature, "--private_key", tmp_path / "private.pem",
        "--signing_certificate", tmp_path / "leaf.pem", "--certificate_chain", tmp_path / "chain.pem",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trusted = policies.policy(policies.certificate_authority("pki", chain), allow={"pki": [keys.ALICE]})

    assert verify_folder(model, signature, trusted, repository="acme/m", now=NOW).signer.identity == keys.ALICE


@pytest.fixture
def real_policy(shared):
    folder = shared / "oms-real" / "keys"
    return policies.policy(
        policies.certificate_authority("pki", (folder / "ca-cert.pem").read_text(), legacy=True),
        policies.key_authority("ops", {"real": (folder / "signing-key-pub.pem").read_text()}),
        allow={"pki": ["subject:CN=intermediate-ca"], "ops": ["key:real"]},
    )


@pytest.mark.parametrize(
    "name",
    ["v0.2.0-certificate", "v1.0.1-certificate", "v1.1.0-certificate", "v1.0.1-elliptic-key", "v1.1.0-elliptic-key"],
)
def test_real_bundles_verify_with_their_files(shared, real_policy, name):
    folder = shared / "oms-real" / name
    # `ignore-me` is not signed; it is the verifier who leaves it out, never the bundle.
    ignored = frozenset({"ignore-me"})

    verified = verify_folder(folder, folder / "model.sig", real_policy, repository="acme/x", now=NOW, ignored=ignored)

    assert {file.path for file in verified.statement.files} == {"signme-1", "signme-2"}
    if (folder / "ignore-me").exists():
        with pytest.raises(DigestMismatch, match="ignore-me: not part of the artifact"):
            verify_folder(folder, folder / "model.sig", real_policy, repository="acme/x", now=NOW)


@pytest.mark.parametrize("name", ["v0.3.1-sigstore", "v1.0.0-sigstore", "v1.0.1-sigstore", "v1.1.0-sigstore"])
def test_keyless_bundles_are_refused_until_a_policy_can_name_that_method(shared, real_policy, name):
    raw = (shared / "oms-real" / name / "model.sig").read_bytes()

    with pytest.raises(SignatureInvalid, match="carries a certificate; the trust policy does not use that"):
        verification.verify_statement(raw, policy=real_policy, repository="acme/x", now=NOW)


@pytest.mark.parametrize("name", ["key", "certificate"])
def test_valid_vectors_of_the_specification_are_accepted(shared, real_policy, name):
    raw = (shared / "oms-spec" / "valid" / f"{name}.bundle.json").read_bytes()

    assert verification.verify_statement(raw, policy=real_policy, repository="acme/x", now=NOW).statement.files


@pytest.mark.parametrize(
    "name",
    ["invalid/empty", "invalid/missing-envelope", "invalid/missing-tlog-entries",
     "invalid/missing-verification-material", "invalid-payload/wrong-predicate"],
)  # fmt: skip
def test_invalid_vectors_of_the_specification_are_refused(shared, real_policy, name):
    raw = (shared / "oms-spec" / f"{name}.bundle.json").read_bytes()

    with pytest.raises(SignatureInvalid):
        verification.verify_statement(raw, policy=real_policy, repository="acme/x", now=NOW)


def test_signed_entries_without_our_annotations_say_so(shared, real_policy):
    raw = (shared / "oms-real" / "v1.1.0-elliptic-key" / "model.sig").read_bytes()
    verified = verification.verify_statement(raw, policy=real_policy, repository="acme/x", now=NOW)

    assert {(entry.size, entry.blake3) for entry in signed_entries(verified.statement)} == {(-1, "")}
    assert isinstance(real_policy, trust.TrustPolicy)
