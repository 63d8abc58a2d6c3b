"""push → pull → verify → launch, and the refusals, on every combination of database and store."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import modelreg
from modelreg.errors import DigestMismatch
from modelreg.settings import Settings
from support.registry import cli, running_registry, s3_settings


@pytest.fixture
def user(registry, tmp_path):
    """Runs the real CLI as one user with a home of their own."""
    env = registry.environment(tmp_path / "home")

    def run(*arguments, expect=0, **changes):
        done = cli(*arguments, env={**env, **changes})
        assert done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    run.env = env
    return run


def stored_blob(registry, size_above):
    """The (only) big blob, and a function that changes one byte of it behind the registry's back."""
    from sqlmodel import select

    from modelreg_server.tables import Blob

    with registry.parts.database.reading() as session:
        blob = next(row for row in session.exec(select(Blob)) if row.size_bytes > size_above)
    store = registry.parts.store
    if registry.parts.settings.s3_bucket is None:
        path = registry.parts.settings.data_dir / blob.key

        def change(offset):
            path.chmod(0o600)
            with path.open("r+b") as file:
                file.seek(offset)
                byte = file.read(1)[0]
                file.seek(offset)
                file.write(bytes([byte ^ 1]))
    else:
        client = store._client

        def change(offset):
            body = bytearray(client.get_object(Bucket=registry.parts.settings.s3_bucket, Key=blob.key)["Body"].read())
            body[offset] ^= 1
            client.put_object(Bucket=registry.parts.settings.s3_bucket, Key=blob.key, Body=bytes(body))

    return blob, change


def test_the_main_job_from_push_to_a_loader_reading_tensors(registry, user, model_folder, tmp_path):
    pushed = json.loads(user("push", model_folder, "demo/m:v1", "--tag", "prod", "--json").stdout)
    assert pushed["created"] is True
    assert sorted(pushed["tags"]) == ["prod", "v1"]
    assert pushed["transferred_bytes"] == pushed["size_bytes"] > 41_000_000

    pulled = json.loads(user("pull", "demo/m:prod", "-o", tmp_path / "out", "--json").stdout)
    assert pulled["artifact"] == pushed["artifact"]
    assert pulled["signer"]["identity"] == "email:al@demo.example"
    for path in model_folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "out" / path.relative_to(model_folder)).read_bytes() == path.read_bytes()

    user("verify", tmp_path / "out", "--repository", "demo/m")
    user("verify", f"demo/m@{pushed['artifact']}")
    program = "import sys; from safetensors import safe_open; f = safe_open(sys.argv[1], 'numpy'); print(len(f.keys()))"
    launched = user("launch", "demo/m:prod", "--", sys.executable, "-c", program, "{model}/model.safetensors")
    assert launched.stdout.strip() == "10"

    types = [event.type for event in registry.whole_log() if event.repository == "demo/m"]
    assert types[:3] == ["artifact.published", "tag.moved", "tag.moved"]
    assert types.count("artifact.granted") == types.count("artifact.received") == 2
    assert types[-1] == "artifact.loaded"


def test_a_second_push_sends_no_byte_and_a_changed_file_sends_that_file_only(registry, user, model_folder, tmp_path):
    first = json.loads(user("push", model_folder, "demo/m", "--json").stdout)
    again = json.loads(user("push", model_folder, "demo/m", "--json").stdout)
    assert again["created"] is False
    assert again["transferred_bytes"] == 0

    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    (copy / "config.json").write_text('{"hidden_size": 2048}')
    changed = json.loads(user("push", copy, "demo/m", "--json").stdout)
    assert changed["artifact"] != first["artifact"]
    assert changed["transferred_bytes"] == len('{"hidden_size": 2048}')


def test_weight_bytes_pass_through_the_server_only_where_the_store_cannot_presign(
    registry, user, model_folder, tmp_path
):
    counters = registry.parts.counters
    size = sum(path.stat().st_size for path in model_folder.rglob("*") if path.is_file())

    user("push", model_folder, "demo/m")
    user("pull", "demo/m", MODELREG_CACHE_DIR=str(tmp_path / "fresh"))

    if registry.parts.settings.s3_bucket is None:
        assert counters.received_bytes > size
        assert counters.sent_bytes > size
    else:
        # Manifests, bundles and JSON: a few kilobytes for 42 MB of weights.
        assert counters.received_bytes < 30_000
        assert counters.sent_bytes < 60_000


def test_one_changed_byte_in_storage_is_refused_with_file_and_chunk(registry, user, model_folder, tmp_path):
    user("push", model_folder, "demo/m")
    _blob, change = stored_blob(registry, 40_000_000)
    change(20_000_000)

    refused = user("pull", "demo/m", "-o", tmp_path / "out", expect=20, MODELREG_CACHE_DIR=str(tmp_path / "fresh"))

    assert "model.safetensors, chunk 2" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "fresh" / "snapshots").iterdir())
    types = [event.type for event in registry.whole_log()]
    assert "artifact.received" not in types


def test_one_changed_byte_on_disk_is_refused_and_kept_as_evidence(registry, user, model_folder, tmp_path):
    user("push", model_folder, "demo/m")
    pulled = json.loads(user("pull", "demo/m", "--json").stdout)
    local = Path(pulled["path"]) / "model.safetensors"
    status = local.stat()
    local.chmod(0o600)
    with local.open("r+b") as file:
        file.seek(30_000_000)
        file.write(b"\x00\x01\x02")
    os.utime(local, ns=(status.st_atime_ns, status.st_mtime_ns))  # times forged back

    refused = user("launch", "demo/m", "--", "true", "{model}", expect=20)

    assert "model.safetensors, chunk 3" in refused.stderr
    cache = Path(user.env["HOME"]) / ".cache" / "modelreg"
    assert len(list((cache / "rejected").iterdir())) == 1
    assert "artifact.loaded" not in [event.type for event in registry.whole_log()]
    assert json.loads(user("pull", "demo/m", "--json").stdout)["transferred_bytes"] == local.stat().st_size


def test_loaders_get_tensors_from_the_measured_buffer_and_sealed_files(
    registry, user, model_folder, tmp_path, monkeypatch
):
    user("push", model_folder, "demo/m")
    for name, value in user.env.items():
        if name.startswith("MODELREG_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("MODELREG_CACHE_DIR", str(tmp_path / "loader"))

    with modelreg.open_verified("demo/m", Settings.load()) as model:
        tensors = model.tensors("model.safetensors")
        sealed = model.sealed_path("model.safetensors")
        assert Path(sealed).read_bytes() == (model_folder / "model.safetensors").read_bytes()
        with open(sealed, "r+b", buffering=0) as file, pytest.raises(PermissionError):  # not even root may write
            file.write(b"x")
        local = model.paths["model.safetensors"]
        local.chmod(0o600)
        with local.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff\xff")
        with pytest.raises(DigestMismatch, match="chunk 0"):
            model.read("model.safetensors")

    assert tensors["layer.3.weight"].shape == (1024, 1024)
    assert [event.type for event in registry.whole_log() if event.repository][-1] == "artifact.loaded"


def test_another_repositories_signer_is_refused_by_client_and_server(registry, user, model_folder):
    refused = user("push", model_folder, "other/m", expect=12)

    assert "nobody may sign for it" in refused.stderr


def test_bytes_pass_through_the_server_when_the_setting_says_so(request, tmp_path, model_folder):
    server = request.getfixturevalue("s3_server")
    with running_registry(tmp_path / "through", bytes_through_server=True, **s3_settings(server)) as registry:
        env = registry.environment(tmp_path / "home")
        assert cli("push", model_folder, "demo/m", env=env).returncode == 0
        assert cli("pull", "demo/m", env=env).returncode == 0
        assert registry.parts.counters.sent_bytes > 41_000_000
