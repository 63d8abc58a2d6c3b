"""The reference implementation and the specification of OMS as oracles; nothing of theirs is changed or imported."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from modelreg import bundles, hashing, manifests, pki, signing, statements, trees, verification
from modelreg.errors import DigestMismatch, SignatureInvalid
from modelreg.verify import signed_entries, verify_folder
from support import keys, shared, stamps
from support.keys import ALICE, NOW
from support.policies import certificate_authority, key_authority, policy

REPOSITORY = "acme/llama"
CHAIN = keys.make_chain()

# `a/b.txt` and `a-b.txt` sort one way by code point (ours, the specification's) and another by parts (the reference's).
FILES = {
    "a/b.txt": b"below",
    "a-b.txt": b"beside",
    "model.safetensors": bytes(range(256)) * 1000,
    "deep/er/and/deeper/x.bin": b"\x00",
    "empty.txt": b"",
    "Ünïcode/模型 1.bin": b"names",
}


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "llama"
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def model_signing(*arguments):
    return subprocess.run(
        [Path(sys.executable).with_name("model_signing"), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_succeeds(done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def sign_here(model, signer, stamp=None):
    """Our straight path: measure, manifest, statement, signature file outside the model."""
    manifest = manifests.build(hashing.hash_tree(model))
    raw_bundle = signing.sign(statements.build(model.name, manifest), signer, stamp)
    return manifest, raw_bundle, write(model.parent / "model.sig", raw_bundle)


def verify_with(model, signature, trusted, ignored=frozenset()):
    """The way `modelreg verify` goes: steps 1 to 6 and 9 for a folder that has a signature and no manifest."""
    return verify_folder(model, signature, trusted, repository=REPOSITORY, now=NOW, ignored=ignored)


def certificate_signer(curve):
    # The reference checks the chain at the time the leaf begins: it may not begin before its issuers.
    leaf = keys.make_certificate(CHAIN.intermediate, key=keys.make_key(curve).private_key, start=NOW)
    return keys.certificate_signer(leaf, CHAIN.intermediate)


# They accept ours


@pytest.mark.parametrize("curve", keys.CURVES)
def test_the_reference_accepts_our_key_signature(model, tmp_path, curve):
    signer = keys.make_key(curve)
    _, _, signature = sign_here(model, signer)
    public = write(tmp_path / "key.pub", keys.public_pem(signer))

    assert_succeeds(model_signing("verify", "key", model, "--signature", signature, "--public_key", public))


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_the_reference_accepts_our_certificate_signature(model, tmp_path, curve):
    signer = certificate_signer(curve)
    _, _, signature = sign_here(model, signer)
    root = write(tmp_path / "root.pem", CHAIN.root_pem)

    assert_succeeds(
        model_signing("verify", "certificate", model, "--signature", signature, "--certificate_chain", root)
    )


def test_the_reference_accepts_the_signature_of_a_leaf_we_issue(model, tmp_path):
    signer = keys.certificate_signer(pki.issue_signer(ALICE, CHAIN.intermediate, NOW), CHAIN.intermediate)
    _, _, signature = sign_here(model, signer)
    root = write(tmp_path / "root.pem", CHAIN.root_pem)

    assert_succeeds(
        model_signing("verify", "certificate", model, "--signature", signature, "--certificate_chain", root)
    )


@pytest.mark.parametrize("method", ["key", "certificate"])
def test_the_reference_accepts_our_signatures_with_a_time_stamp(model, tmp_path, method):
    tsa = stamps.make_tsa(CHAIN)
    signer = keys.make_key() if method == "key" else certificate_signer("p256")
    _, raw_bundle, signature = sign_here(model, signer, lambda made: stamps.answered(tsa, made))
    assert len(bundles.parse(raw_bundle).timestamps) == 1

    if method == "key":
        public = write(tmp_path / "key.pub", keys.public_pem(signer))
        assert_succeeds(model_signing("verify", "key", model, "--signature", signature, "--public_key", public))
    else:
        root = write(tmp_path / "root.pem", CHAIN.root_pem)
        assert_succeeds(
            model_signing("verify", "certificate", model, "--signature", signature, "--certificate_chain", root)
        )


def test_sigstore_s_own_models_read_the_time_stamp_we_write(model):
    from rfc3161_client import decode_timestamp_response
    from sigstore_models.bundle.v1 import Bundle

    tsa = stamps.make_tsa(CHAIN)
    _, raw_bundle, _ = sign_here(model, keys.make_key(), lambda made: stamps.answered(tsa, made))

    read = Bundle.from_json(raw_bundle)
    found = read.verification_material.timestamp_verification_data.rfc3161_timestamps

    assert len(found) == 1
    assert decode_timestamp_response(found[0].signed_timestamp).tst_info.gen_time == NOW


def test_the_reference_refuses_our_signature_over_other_bytes(model, tmp_path):
    signer = keys.make_key()
    _, _, signature = sign_here(model, signer)
    public = write(tmp_path / "key.pub", keys.public_pem(signer))
    (model / "a-b.txt").write_bytes(b"beside?")

    done = model_signing("verify", "key", model, "--signature", signature, "--public_key", public)

    assert done.returncode != 0
    assert "a-b.txt" in done.stdout + done.stderr


def test_our_signature_file_may_lie_in_the_model(model, tmp_path):
    signer = keys.make_key()
    _, raw_bundle, _ = sign_here(model, signer)
    signature = write(model / trees.SIGNATURE_FILE, raw_bundle)
    public = write(tmp_path / "key.pub", keys.public_pem(signer))

    assert_succeeds(model_signing("verify", "key", model, "--signature", signature, "--public_key", public))
    assert verify_with(
        model, signature, policy(key_authority("ops", {"a": signer}), allow={"ops": ["key:a"]}), trees.LEFT_OUT
    )


# We accept theirs


def test_we_accept_what_the_reference_signs_with_a_key(model, tmp_path):
    signer = keys.make_key("p384")
    private = write(tmp_path / "key.pem", pki.private_pem(signer.private_key))
    signature = tmp_path / "model.sig"
    done = model_signing("sign", "key", model, "--private_key", private, "--signature", signature)
    assert done.returncode == 0, done.stdout + done.stderr

    trusted = policy(key_authority("ops", {"a": signer}), allow={"ops": ["key:a"]})
    verified = verify_with(model, signature, trusted)

    assert {file.path for file in verified.statement.files} == set(FILES)
    (model / "evil.py").write_bytes(b"")
    with pytest.raises(DigestMismatch, match=r"evil\.py: not part of the artifact"):
        verify_with(model, signature, trusted)
    (model / "evil.py").unlink()
    (model / "a" / "b.txt").write_text("BELOW")
    with pytest.raises(DigestMismatch, match=r"a/b\.txt: wrong bytes"):
        verify_with(model, signature, trusted)


def test_we_accept_what_the_reference_signs_with_a_certificate(model, tmp_path):
    leaf = pki.issue_signer(ALICE, CHAIN.intermediate, NOW)
    arguments = {
        "--private_key": write(tmp_path / "key.pem", pki.private_pem(leaf.private_key)),
        "--signing_certificate": write(tmp_path / "leaf.pem", keys.certificate_pem(leaf.certificate)),
        "--certificate_chain": write(tmp_path / "chain.pem", keys.certificate_pem(CHAIN.intermediate.certificate)),
        "--signature": tmp_path / "model.sig",
    }
    done = model_signing("sign", "certificate", model, *(word for pair in arguments.items() for word in pair))
    assert done.returncode == 0, done.stdout + done.stderr

    trusted = policy(certificate_authority("pki", CHAIN), allow={"pki": [ALICE]})
    verified = verify_with(model, arguments["--signature"], trusted)

    assert verified.signer.identity == ALICE
    # The reference sorts by parts of the path, we by code point: the same files, two orders, two root digests.
    theirs = [file.path for file in verified.statement.files]
    assert theirs.index("a/b.txt") < theirs.index("a-b.txt")
    ours = statements.parse(statements.build("llama", manifests.build(hashing.hash_tree(model))))
    assert [file.path for file in ours.files].index("a-b.txt") < [file.path for file in ours.files].index("a/b.txt")
    assert ours.root_digest != verified.statement.root_digest


# The schemas of the specification


@pytest.fixture(scope="module")
def schemas():
    folder = shared.need(shared.SIGNATURES / "oms-spec" / "schemas")
    found = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    registry = Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in found.values())
    return {name: Draft202012Validator(schema, registry=registry) for name, schema in found.items()}


def test_our_bundles_pass_the_schemas(model, schemas):
    for signer in (*map(keys.make_key, keys.CURVES), certificate_signer("p256")):
        _, raw_bundle, _ = sign_here(model, signer)

        schemas["bundle.schema.json"].validate(json.loads(raw_bundle))
        statement = json.loads(bundles.parse(raw_bundle).payload)
        schemas["statement.schema.json"].validate(statement)
        schemas["predicate.schema.json"].validate(statement["predicate"])


# The vectors of the specification

SPECIFICATION = shared.SIGNATURES / "oms-spec"
KEYS = shared.SIGNATURES / "oms-real" / "keys"


def real_policy(*, legacy=False):
    """Trust in the published test key and test root."""
    shared.need(KEYS)
    return policy(
        key_authority("key", {"test": (KEYS / "signing-key-pub.pem").read_text()}),
        certificate_authority("pki", (KEYS / "ca-cert.pem").read_text(), legacy=legacy),
        allow={"key": ["key:test"], "pki": ["subject:CN=intermediate-ca"]},
    )


def verify_vector(path):
    return verification.verify_statement(path.read_bytes(), policy=real_policy(), repository=REPOSITORY, now=NOW)


@pytest.mark.parametrize("name", ["key", "certificate"])
def test_a_valid_vector_of_the_specification_is_accepted(name):
    verified = verify_vector(shared.need(SPECIFICATION / "valid" / f"{name}.bundle.json"))

    assert {file.path for file in verified.statement.files} == {"signme-1", "signme-2"}


@pytest.mark.parametrize(
    "name",
    [
        "invalid/empty",
        "invalid/missing-envelope",
        "invalid/missing-tlog-entries",
        "invalid/missing-verification-material",
        "invalid-payload/wrong-predicate",
    ],
)
def test_an_invalid_vector_of_the_specification_is_refused(name):
    with pytest.raises(SignatureInvalid):
        verify_vector(shared.need(SPECIFICATION / f"{name}.bundle.json"))


def test_every_vector_of_the_specification_is_tried():
    folder = shared.need(SPECIFICATION)

    assert len(list(folder.glob("*/*.bundle.json"))) == 8


def test_a_sigstore_vector_is_refused_by_name_of_its_material():
    with pytest.raises(SignatureInvalid, match="carries a certificate; the trust policy does not use that"):
        verify_vector(shared.need(SPECIFICATION / "valid" / "sigstore.bundle.json"))


# Real signatures of every released version of the reference

REAL = shared.SIGNATURES / "oms-real"
NOT_SIGNED = frozenset({"ignore-me"})  # it is the verifier who leaves it out, never the bundle


@pytest.mark.parametrize(
    "name", ["v1.0.1-elliptic-key", "v1.1.0-elliptic-key", "v1.0.1-certificate", "v1.1.0-certificate"]
)
def test_a_real_signature_verifies_with_its_files(name):
    model = shared.need(REAL / name)

    verified = verify_with(model, model / "model.sig", real_policy(), NOT_SIGNED)

    assert {file.path for file in verified.statement.files} == {"signme-1", "signme-2"}
    assert verified.signer.identity == ("key:test" if "key" in name else "subject:CN=intermediate-ca")
    # Without our annotations there is neither size nor BLAKE3 to hold the files against.
    assert {(entry.size, entry.blake3) for entry in signed_entries(verified.statement)} == {(-1, "")}


@pytest.mark.parametrize("name", ["v1.1.0-elliptic-key", "v1.1.0-certificate"])
def test_a_real_ignored_file_is_extra_here(name):
    # These signatures sign `ignore_paths: ["ignore-me", …]`; the reference says the directory verifies.
    model = shared.need(REAL / name)
    payload = json.loads(base64.b64decode(json.loads((model / "model.sig").read_bytes())["dsseEnvelope"]["payload"]))
    assert "ignore-me" in payload["predicate"]["serialization"]["ignore_paths"]

    with pytest.raises(DigestMismatch, match="ignore-me: not part of the artifact"):
        verify_with(model, model / "model.sig", real_policy())


def test_a_real_signature_of_0_2_verifies_with_the_legacy_flag_only():
    model = shared.need(REAL / "v0.2.0-certificate")

    verified = verify_with(model, model / "model.sig", real_policy(legacy=True), NOT_SIGNED)

    assert {file.path for file in verified.statement.files} == {"signme-1", "signme-2"}
    with pytest.raises(SignatureInvalid):
        verify_with(model, model / "model.sig", real_policy(), NOT_SIGNED)


@pytest.mark.parametrize("version", ["v0.3.1", "v1.0.0", "v1.0.1", "v1.1.0"])
def test_a_real_sigstore_signature_is_refused_where_no_sigstore_is_pinned(version):
    model = shared.need(REAL / f"{version}-sigstore")

    with pytest.raises(SignatureInvalid, match="carries a certificate; the trust policy does not use that"):
        verify_with(model, model / "model.sig", real_policy())


def test_a_real_signature_does_not_pass_for_another_model(tmp_path):
    model = shared.need(REAL / "v1.1.0-certificate")
    (tmp_path / "signme-1").write_bytes((model / "signme-1").read_bytes())
    (tmp_path / "signme-2").write_bytes(b"other")

    with pytest.raises(DigestMismatch, match="signme-2: wrong bytes"):
        verify_with(tmp_path, model / "model.sig", real_policy())


def test_a_real_signature_has_no_manifest_to_stand_for():
    model = shared.need(REAL / "v1.1.0-certificate")
    manifest = manifests.build(hashing.hash_tree(model, left_out=NOT_SIGNED))

    with pytest.raises(SignatureInvalid, match="of the artifact None"):
        verification.verify(
            (model / "model.sig").read_bytes(), manifest.raw, policy=real_policy(), repository=REPOSITORY, now=NOW
        )
