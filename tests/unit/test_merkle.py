"""The tree of RFC 6962: its published vectors, every size to 257 by definition, and every proof that is not one."""

import hashlib
import random

import pytest

from modelreg import merkle
from modelreg.errors import LogForked, LogNotIntact, LogRolledBack

# Inputs and roots of the Certificate Transparency reference tests (google/certificate-transparency, merkle_tree_test).
CT_INPUTS = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves(count):
    return [merkle.leaf_hash(str(at).encode()) for at in range(count)]


def grown(hashes):
    tree = merkle.Growing(0, [])
    roots = [tree.root()]
    for value in hashes:
        tree.append(value)
        roots.append(tree.root())
    nodes = {(level, index): value for level, index, value in tree.finished}
    return roots, lambda wanted: [nodes[node] for node in wanted]


def by_definition(hashes):
    """RFC 6962 §2.1, word for word."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    half = 1
    while half * 2 < len(hashes):
        half *= 2
    return hashlib.sha256(b"\1" + by_definition(hashes[:half]) + by_definition(hashes[half:])).digest()


def test_the_vectors_of_certificate_transparency():
    roots, _ = grown([merkle.leaf_hash(raw) for raw in CT_INPUTS])
    assert [root.hex() for root in roots[1:]] == CT_ROOTS
    assert roots[0] == merkle.EMPTY_ROOT


@pytest.mark.parametrize("size", [*range(130), 255, 256, 257, 1000])
def test_every_proof_of_a_size_verifies(size):
    hashes = leaves(size)
    roots, read = grown(hashes)
    assert roots[size] == by_definition(hashes) == merkle.root(size, read)
    for index in range(size):
        merkle.verify_inclusion(hashes[index], index, size, merkle.inclusion(index, size, read), roots[size])
    for old in range(size + 1):
        merkle.verify_consistency(old, roots[old], size, roots[size], merkle.consistency(old, size, read))


def test_a_proof_for_another_leaf_index_size_or_root_is_refused():
    hashes = leaves(300)
    roots, read = grown(hashes)
    chance = random.Random(7)
    for _ in range(3000):
        size = chance.randrange(2, 301)
        index = chance.randrange(size)
        path = merkle.inclusion(index, size, read)
        match chance.randrange(6):
            case 0:
                lie = (hashes[(index + 1) % size], index, size, path, roots[size])
            case 1:
                lie = (hashes[index], (index + 1) % size, size, path, roots[size])
            case 2:
                lie = (hashes[index], index, size, path, roots[size - 1])
            case 3:
                lie = (hashes[index], index, size, [*path, path[0]], roots[size])
            case 4:
                lie = (hashes[index], index, size, path[:-1], roots[size])
            case _:
                at = chance.randrange(len(path))
                lie = (hashes[index], index, size, [*path[:at], bytes(32), *path[at + 1 :]], roots[size])
        with pytest.raises(LogNotIntact):
            merkle.verify_inclusion(*lie)


def test_a_history_that_was_changed_is_a_fork_and_a_shorter_one_a_rollback():
    hashes = leaves(300)
    roots, _read = grown(hashes)
    chance = random.Random(11)
    for _ in range(500):
        old = chance.randrange(1, 299)
        new = chance.randrange(old + 1, 301)
        changed = [*hashes]
        changed[chance.randrange(old)] = bytes(32)
        forged, forged_read = grown(changed)
        with pytest.raises(LogForked):
            merkle.verify_consistency(old, roots[old], new, forged[new], merkle.consistency(old, new, forged_read))
        with pytest.raises(LogForked):
            merkle.verify_consistency(old, roots[old], new, forged[new], [])
    with pytest.raises(LogRolledBack):
        merkle.verify_consistency(200, roots[200], 199, roots[199], [])
    with pytest.raises(LogForked):
        merkle.verify_consistency(200, roots[200], 200, forged[200], [])


def test_a_stored_frontier_that_does_not_fit_its_size_is_refused():
    assert merkle.growing_from(0, b"").root() == merkle.EMPTY_ROOT
    for size, stored in ((1, b""), (3, bytes(32)), (4, bytes(64)), (-1, b"")):
        with pytest.raises(LogNotIntact, match="head"):
            merkle.growing_from(size, stored)
