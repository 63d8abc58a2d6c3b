"""The tests' hub is one: the unmodified `huggingface_hub` downloads from it."""

import json
import os
import subprocess
import sys

import pytest

from support.hub import Cdn, running, running_hub

FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 8192,
    "tokenizer/vocab.txt": b"a\nb\n",
    "empty.txt": b"",
}

DOWNLOAD = """
import json, sys, hashlib, pathlib
from huggingface_hub import HfApi
url, name, revision, folder, token = sys.argv[1:]
api = HfApi(endpoint=url, token=token or None)
where = api.snapshot_download(name, revision=revision, local_dir=folder)
files = {str(p.relative_to(where)): hashlib.sha256(p.read_bytes()).hexdigest()
         for p in pathlib.Path(where).rglob("*") if p.is_file() and ".cache" not in p.parts}
info = api.model_info(name, revision=revision)
refs = api.list_repo_refs(name)
print(json.dumps({"files": files, "sha": info.sha, "branches": [b.name for b in refs.branches]}))
"""


def download(url, name, revision, tmp_path, token=""):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env = {
        **kept,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_ENDPOINT": url,
    }
    return subprocess.run(
        [sys.executable, "-c", DOWNLOAD, url, name, revision, str(tmp_path / "got"), token],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("cdn", [False, True])
def test_huggingface_hub_downloads_a_pinned_commit(tmp_path, cdn):
    with running_hub() as hub, running(Cdn(hub)) as other:
        hub.cdn = other if cdn else None
        model = hub.add("acme-ai/tiny", FILES)
        pinned = model.commit
        hub.add("acme-ai/tiny", {"config.json": b"{1}"})
        done = download(hub.url, "acme-ai/tiny", pinned, tmp_path)

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["sha"], told["branches"]) == (pinned, ["main"])
    assert told["files"] == {name: file.sha256 for name, file in model.commits[pinned].items()}


def test_huggingface_hub_needs_the_token_of_a_gated_model(tmp_path):
    with running_hub() as hub:
        hub.add("acme-ai/gated", FILES, gated_for="hf_right_token")

        refused = download(hub.url, "acme-ai/gated", "main", tmp_path / "a")
        taken = download(hub.url, "acme-ai/gated", "main", tmp_path / "b", "hf_right_token")

    assert refused.returncode != 0
    assert "GatedRepoError" in refused.stderr
    assert taken.returncode == 0, taken.stderr


def test_huggingface_hub_takes_a_flipped_byte_which_is_why_import_measures(tmp_path):
    with running_hub() as hub:
        model = hub.add("acme-ai/flipped", FILES)
        model.flipped["model.safetensors"] = 1000
        done = download(hub.url, "acme-ai/flipped", "main", tmp_path)

    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)["files"]["model.safetensors"]
    assert got != model.commits[model.commit]["model.safetensors"].sha256
