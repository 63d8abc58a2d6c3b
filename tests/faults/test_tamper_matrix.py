"""The tamper matrix: more than 2,000 random changes to stored blobs, local files, manifest and bundle; none goes unnoticed.

Run with `-s` to see the counts. "harmless" is a change of the bundle's text that means the same and verifies the same bytes.
"""

import os
import random
import shutil
from collections import Counter
from datetime import UTC, datetime

import pytest
from sqlmodel import select

from modelreg import hashing, manifests, pull, push, verification
from modelreg.cache import Cache
from modelreg.errors import ModelregError, Untrusted
from modelreg.references import parse_reference
from modelreg.verify import verify_folder
from modelreg_server.tables import Blob
from support.registry import QUIET, running_registry

CASES = {"bundle": 700, "manifest": 700, "local": 500, "stored": 130}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A registry with one artifact: a file of three chunks and some small ones."""
    folder = tmp_path_factory.mktemp("tamper")
    model = folder / "model"
    (model / "sub").mkdir(parents=True)
    dice = random.Random(1)
    (model / "weights.bin").write_bytes(dice.randbytes(2 * manifests.CHUNK_BYTES + 12_345))
    (model / "config.json").write_bytes(b'{"a": 1}')
    (model / "sub" / "a.txt").write_bytes(dice.randbytes(5_000))
    (model / "sub" / "b.txt").write_bytes(dice.randbytes(5_000))
    with running_registry(folder / "registry") as registry:
        push.push(
            registry.api(), model, parse_reference("demo/m"), registry.trust.signer,
            tags=["latest"], connections_at_once=4, meter=QUIET,
        )  # fmt: skip
        pulled = _pull(registry, folder / "cache")
        pull.export(pulled, folder / "out", lambda _count: None)
        yield registry, pulled, folder


def _pull(registry, cache):
    return pull.pull(
        registry.api(), Cache(cache), registry.trust.policy, parse_reference("demo/m"),
        purpose="pull", host="test", now=datetime.now(UTC), connections_at_once=4, meter=QUIET,
        state_dir=cache.with_name(f"{cache.name}-state"),
    )  # fmt: skip


def change(dice, data):
    """One random change: a flipped bit, a cut, an addition, a zeroed or a swapped range. Never the same bytes."""
    while True:
        kind = dice.choice(["flip", "flip", "flip", "cut", "add", "zero", "swap"])
        at = dice.randrange(len(data))
        changed = bytearray(data)
        match kind:
            case "flip":
                changed[at] ^= 1 << dice.randrange(8)
            case "cut":
                del changed[at:]
            case "add":
                changed[at:at] = dice.randbytes(dice.randrange(1, 40))
            case "zero":
                changed[at : at + 50] = bytes(len(changed[at : at + 50]))
            case "swap":
                other = dice.randrange(len(data))
                changed[at], changed[other] = changed[other], changed[at]
        if bytes(changed) != data:
            return kind, bytes(changed)


@pytest.mark.parametrize("what", ["manifest", "bundle"])
def test_a_changed_manifest_or_bundle_is_refused_or_means_the_same(published, what):
    registry, pulled, _folder = published
    dice, counts = random.Random(what), Counter()
    raw = {"bundle": pulled.verified.raw_bundle, "manifest": pulled.verified.manifest.raw}
    for _ in range(CASES[what]):
        kind, changed = change(dice, raw[what])
        sent = {**raw, what: changed}
        try:
            verified = verification.verify(
                sent["bundle"], sent["manifest"], policy=registry.trust.policy, repository="demo/m",
                now=datetime.now(UTC), artifact=pulled.verified.manifest.digest,
            )  # fmt: skip
        except ModelregError:
            counts[kind, "refused"] += 1
            continue
        assert verified.manifest == pulled.verified.manifest
        assert verified.signer == pulled.verified.signer
        counts[kind, "harmless"] += 1

    print(what, dict(counts))
    assert sum(counts.values()) == CASES[what]
    assert what == "bundle" or not [key for key in counts if key[1] == "harmless"]


def test_a_changed_local_folder_is_refused(published):
    """By `verify DIR` alone: no registry, only the folder and its signature."""
    registry, _pulled, folder = published
    root, dice, counts = folder / "out", random.Random("local"), Counter()
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "model.sig"]
    for _ in range(CASES["local"]):
        target = dice.choice(files)
        kind = dice.choice(["content", "content", "content", "swap", "missing", "extra", "rename", "link"])
        backup = {path: path.read_bytes() for path in files} if kind == "swap" else {target: target.read_bytes()}
        added = None
        match kind:
            case "content":
                kind, changed = change(dice, backup[target])
                status = target.stat()
                target.write_bytes(changed)
                os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
            case "swap":
                one, other = root / "sub" / "a.txt", root / "sub" / "b.txt"
                one.write_bytes(backup[other])
                other.write_bytes(backup[one])
            case "missing":
                target.unlink()
            case "extra":
                added = root / "sub" / f"extra-{dice.random()}.py"
                added.write_text("import os")
            case "rename":
                added = target.rename(target.with_name("renamed"))
            case "link":
                added = folder / "elsewhere"
                shutil.move(target, added)
                target.symlink_to(added)
        with pytest.raises(ModelregError):
            verify_folder(root, root / "model.sig", registry.trust.policy, repository="demo/m", now=datetime.now(UTC))
        counts[kind] += 1
        if added is not None:
            added.unlink()
        for path, data in backup.items():
            path.unlink(missing_ok=True)
            path.write_bytes(data)
    verify_folder(root, root / "model.sig", registry.trust.policy, repository="demo/m", now=datetime.now(UTC))

    print("local", dict(counts))
    assert sum(counts.values()) == CASES["local"]


def test_a_changed_stored_blob_is_refused_and_nothing_wrong_gets_a_final_name(published):
    registry, pulled, folder = published
    dice, counts = random.Random("stored"), Counter()
    store = registry.parts.settings.data_dir
    right = {entry.blake3 for entry in pulled.verified.manifest.files}
    with registry.parts.database.reading() as session:
        blobs = {row.blake3: store / row.key for row in session.exec(select(Blob))}
    cache = folder / "fresh"
    for _ in range(CASES["stored"]):
        blake3 = dice.choice(sorted(blobs))
        path = blobs[blake3]
        data = path.read_bytes()
        path.chmod(0o600)
        kind = dice.choice(["content", "content", "content", "missing", "swap"])
        if kind == "content":
            kind, changed = change(dice, data)
            path.write_bytes(changed)
        elif kind == "missing":
            path.unlink()
        else:
            path.write_bytes(blobs[dice.choice([other for other in sorted(blobs) if other != blake3])].read_bytes())
        shutil.rmtree(cache, ignore_errors=True)

        appended = kind == "add" and path.read_bytes()[: len(data)] == data
        if appended:
            # Bytes behind the blob's end are never asked for: what arrives is right.
            assert _pull(registry, cache).verified.manifest == pulled.verified.manifest
        else:
            with pytest.raises(Untrusted):
                _pull(registry, cache)
            assert not list((cache / "snapshots").iterdir())
        for admitted in (cache / "blobs").rglob("*"):
            if admitted.is_file():
                assert admitted.name in right
                assert hashing.blake3(admitted.read_bytes()).hexdigest() == admitted.name
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        counts[kind] += 1

    print("stored", dict(counts))
    assert sum(counts.values()) == CASES["stored"]


def test_the_matrix_has_at_least_2000_cases():
    assert sum(CASES.values()) >= 2_000
