"""The committed vectors of the custody log are what the script makes, and verify."""

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from modelreg import merkle, notes, receipts, tiles
from modelreg.canonical import canonical_json
from modelreg.trust import LogTrust

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors" / "log"


def read(name):
    return (VECTORS / name).read_bytes()


def hashes(texts):
    return [base64.b64decode(text) for text in texts]


def test_the_vectors_are_what_the_script_makes():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "build-log-vectors", "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_worked_receipt_verifies_and_its_actor_opens():
    key = notes.parse_key(read("vkey.txt").decode().strip(), "vkey.txt", notes.ED25519)
    verified = receipts.verify(read("receipt.txt"), LogTrust(key.name, (key,)))
    assert (verified.index, verified.entry) == (0, read("entry.json"))
    opening = json.loads(read("opening.json"))
    salted = base64.b64decode(opening["salt"]) + canonical_json(opening["body"])
    assert verified.members["actor"] == opening["commitment"] == hashlib.sha256(salted).hexdigest()
    assert canonical_json(opening["body"]) == read("body.json")


def test_the_worked_bundle_hashes_to_the_worked_tile():
    entries = tiles.split_entries(read("tile-entries-000.p-3"), 3)
    assert [merkle.leaf_hash(entry) for entry in entries] == tiles.split_hashes(read("tile-0-000.p-3"), 3)


def test_every_proof_that_another_implementation_checked_verifies_here():
    tree = json.loads(read("tree.json"))
    roots = {int(size): bytes.fromhex(root) for size, root in tree["roots"].items()}
    for it in tree["inclusion"]:
        leaf = merkle.leaf_hash(str(it["index"]).encode())
        merkle.verify_inclusion(leaf, it["index"], it["size"], hashes(it["hashes"]), roots[it["size"]])
    for it in tree["consistency"]:
        merkle.verify_consistency(it["old"], roots[it["old"]], it["new"], roots[it["new"]], hashes(it["hashes"]))
    assert len(tree["inclusion"]) > 100
    assert len(tree["consistency"]) > 70
