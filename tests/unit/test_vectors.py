"""The committed vectors are what their descriptions make, and the script that says so would notice."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelreg import manifests
from modelreg.errors import ManifestInvalid

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors"


def build_vectors(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "build-vectors", *arguments], capture_output=True, text=True, timeout=120
    )


def test_the_vectors_are_what_their_descriptions_make():
    done = build_vectors("--check")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", json.loads((VECTORS / "manifest-v1" / "valid.json").read_bytes()))
def test_a_valid_manifest_is_read(name):
    described = json.loads((VECTORS / "manifest-v1" / "valid.json").read_bytes())[name]

    manifest = manifests.parse((VECTORS / "manifest-v1" / "valid" / f"{name}.json").read_bytes())

    assert str(manifest.digest) == described["artifact"]
    assert {entry.path for entry in manifest.files} == set(described["files"])


@pytest.mark.parametrize(
    ("name", "reason"), json.loads((VECTORS / "manifest-v1" / "invalid.json").read_bytes()).items()
)
def test_an_invalid_manifest_is_refused_for_its_reason(name, reason):
    with pytest.raises(ManifestInvalid) as caught:
        manifests.parse((VECTORS / "manifest-v1" / "invalid" / f"{name}.json").read_bytes())

    assert caught.value.detail.startswith(reason)


def test_a_changed_missing_or_foreign_vector_is_noticed(tmp_path):
    folder = tmp_path / "vectors"
    shutil.copytree(VECTORS, folder)
    (folder / "manifest-v1" / "valid" / "one-file.json").write_bytes(b"{}")
    (folder / "signature" / "cases.json").unlink()
    (folder / "signature" / "stray.json").write_bytes(b"")
    shutil.copy(folder / "signature" / "key-p384.sig.json", folder / "signature" / "key-p256.sig.json")

    done = build_vectors("--check", "--folder", folder)

    assert done.returncode == 1
    for line in (
        "manifest-v1/valid/one-file.json differs",
        "signature/cases.json differs",
        "signature/stray.json is nobody's",
        "signature case 'key on P-256': {'verified': 'key:p384'}",
    ):
        assert line in done.stderr


def test_new_signatures_can_be_made_and_then_hold(tmp_path):
    made = build_vectors("--resign", "--folder", tmp_path)
    checked = build_vectors("--check", "--folder", tmp_path)

    assert made.returncode == checked.returncode == 0, made.stderr + checked.stderr
    for kind in ("valid.json", "invalid.json"):
        assert (tmp_path / "manifest-v1" / kind).read_bytes() == (VECTORS / "manifest-v1" / kind).read_bytes()


def test_no_vector_holds_a_private_key():
    for path in (path for path in VECTORS.rglob("*") if path.is_file()):
        assert b"PRIVATE" not in path.read_bytes()
