"""Notes, checkpoints and receipts: the C2SP forms, and every one that is nearly one."""

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import checkpoints, merkle, notes, receipts
from modelreg.canonical import canonical_json
from modelreg.errors import LogNotIntact, LogUnwitnessed, Misconfigured, ReceiptMismatch
from modelreg.trust import LogTrust
from support.fuzzing import mutations

ORIGIN = "registry.example/log"
KEY = Ed25519PrivateKey.generate()
WITNESSES = [Ed25519PrivateKey.generate() for _ in range(3)]
VKEY = notes.key_of(ORIGIN, notes.ED25519, KEY.public_key())
NAMES = [f"witness-{at}.example" for at in range(3)]
WITNESS_KEYS = tuple(notes.key_of(n, notes.COSIGNATURE, k.public_key()) for n, k in zip(NAMES, WITNESSES, strict=True))
TRUST = LogTrust(ORIGIN, (VKEY,))
AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
ENTRIES = [
    canonical_json({"v": 2, "type": "artifact.granted", "time": AT.isoformat(), "detail": {"grant": str(at)}})
    for at in range(11)
]


def log_of(entries=ENTRIES):
    tree = merkle.Growing(0, [])
    for entry in entries:
        tree.append(merkle.leaf_hash(entry))
    nodes = {(level, index): value for level, index, value in tree.finished}
    return tree, lambda wanted: [nodes[node] for node in wanted]


def note_of(tree, key=KEY, origin=ORIGIN):
    return checkpoints.sign(origin, tree.size, tree.root(), key)


def receipt(index=4, note=None):
    tree, read = log_of()
    return receipts.render(ENTRIES[index], index, merkle.inclusion(index, tree.size, read), note or note_of(tree))


def test_the_example_of_the_signed_note_specification_verifies():
    key = notes.parse_key("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", "x", notes.ED25519)
    line = "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
    note = notes.parse(f"This is an example message.\n\n{line}".encode())
    assert notes.verified_by(note, [key]) == [(key, None)]
    assert str(key) == "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    with pytest.raises(LogNotIntact, match="does not hold"):
        notes.verified_by(replace(note, text=b"This is another message.\n"), [key])


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "name+00000000+", f"{str(VKEY)[:-1]}", str(VKEY).replace("+", " "), f"{VKEY}x",
        f"other+{VKEY.key_id.hex()}+{str(VKEY).rsplit('+', 1)[1]}", str(WITNESS_KEYS[0]),
        f"{ORIGIN}+{VKEY.key_id.hex()}+{base64.b64encode(bytes([1, *bytes(31)])).decode()}",
    ],
)  # fmt: skip
def test_what_is_no_key_of_a_log_is_refused(text):
    with pytest.raises(Misconfigured):
        notes.parse_key(text, "log.keys", notes.ED25519)


def test_a_receipt_verifies_and_says_what_it_is_for():
    verified = receipts.verify(receipt(), TRUST)
    assert (verified.index, verified.entry, verified.time) == (4, ENTRIES[4], AT)
    verified.require(type="artifact.granted", detail={"grant": "4"})
    with pytest.raises(ReceiptMismatch, match="artifact.granted"):
        verified.require(type="artifact.loaded")


def test_a_receipt_of_another_log_key_or_leaf_is_refused():
    tree, read = log_of()
    path = merkle.inclusion(4, tree.size, read)
    other = Ed25519PrivateKey.generate()
    lies = [
        receipt(note=note_of(tree, other)),
        receipt(note=note_of(tree, origin="other.example/log")),
        receipts.render(ENTRIES[5], 4, path, note_of(tree)),
        receipts.render(ENTRIES[4], 5, path, note_of(tree)),
        receipts.render(ENTRIES[4], 4, path[:-1], note_of(tree)),
        receipts.render(ENTRIES[4], 4, [*path, bytes(32)], note_of(tree)),
        receipts.render(ENTRIES[4], tree.size, path, note_of(tree)),
        receipts.render(ENTRIES[4], 4, path, note_of(log_of(ENTRIES[:-1])[0])),
        receipt(note=note_of(tree).replace(b"\n11\n", b"\n12\n")),
    ]
    for lie in lies:
        with pytest.raises(LogNotIntact):
            receipts.verify(lie, TRUST)


@pytest.mark.parametrize("entry", [b"{}", b"[]", b'{"v": 2}', b"\xff", canonical_json({"v": 3, "type": "a", "time": AT.isoformat()}),
                                   canonical_json({"v": 2, "type": "a", "time": "2026-11-24T12:00:00"}), b'{"type":"a","v":2}'])  # fmt: skip
def test_an_entry_that_no_registry_writes_is_refused_even_if_it_is_in_the_log(entry):
    tree, read = log_of([entry])
    with pytest.raises(LogNotIntact, match="entry"):
        receipts.verify(receipts.render(entry, 0, merkle.inclusion(0, 1, read), note_of(tree)), TRUST)


def test_a_receipt_that_was_changed_anywhere_verifies_to_the_same_or_not_at_all():
    accepted = 0
    for changed in mutations(receipt(), 2000):
        try:
            found = receipts.verify(changed, TRUST)
        except LogNotIntact:
            continue
        assert (found.index, found.entry) == (4, ENTRIES[4])
        accepted += 1
    assert accepted < 200  # those whose changes undid each other, or hit a second signature line


def test_a_checkpoint_that_was_changed_anywhere_is_the_same_or_refused():
    tree, _ = log_of()
    for changed in mutations(note_of(tree), 2000):
        try:
            found = checkpoints.verify(changed, TRUST)
        except LogNotIntact:
            continue
        assert (found.size, found.root) == (11, tree.root())


def test_k_of_n_witnesses_count_by_distinct_keys():
    tree, _ = log_of()
    note = note_of(tree)
    text = notes.parse(note).text
    lines = [notes.cosign(text, key, name, AT) for key, name in zip(WITNESSES, NAMES, strict=True)]
    trusted = replace(TRUST, witnesses=WITNESS_KEYS, required_witnesses=2)

    assert checkpoints.verify(note + lines[0] + lines[2], trusted).witnessed_at == (AT, AT)
    for few in (note, note + lines[1], note + lines[1] + lines[1]):
        with pytest.raises(LogUnwitnessed):
            checkpoints.verify(few, trusted)
    # One key under two names is one witness.
    twin = notes.key_of("twin.example", notes.COSIGNATURE, WITNESSES[0].public_key())
    twice = note + lines[0] + notes.cosign(text, WITNESSES[0], "twin.example", AT)
    with pytest.raises(LogUnwitnessed):
        checkpoints.verify(twice, replace(trusted, witnesses=(*WITNESS_KEYS, twin)))
    # The log's own signature, a stranger's, and a cosignature over another head do not count.
    stranger = notes.cosign(text, Ed25519PrivateKey.generate(), "stranger.example", AT)
    with pytest.raises(LogUnwitnessed):
        checkpoints.verify(note + lines[0] + stranger, trusted)
    other = notes.cosign(notes.parse(note_of(log_of(ENTRIES[:3])[0])).text, WITNESSES[1], NAMES[1], AT)
    with pytest.raises(LogNotIntact, match="does not hold"):
        checkpoints.verify(note + lines[0] + other, trusted)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"x", b"a\n\n", b"origin\n1\n" + base64.b64encode(bytes(32)) + b"\n", b"o\n01\n" + base64.b64encode(bytes(32)) + b"\n\n- o AAAA\n",
        b"\xff\n\n\xe2\x80\x94 o AAAAAAAA\n", b"o\n1\nAAAA\n\n\xe2\x80\x94 o AAAAAAAA\n",
        b"o\n1\n" + base64.b64encode(bytes(32)) + b"\nextension\n\n\xe2\x80\x94 o AAAAAAAA\n",
        b"o\n0\n" + base64.b64encode(bytes(32)) + b"\n\n\xe2\x80\x94 o AAAAAAAA\n",
        b"o\n99999999999999999999\n" + base64.b64encode(bytes(32)) + b"\n\n\xe2\x80\x94 o AAAAAAAA\n",
        b"x" * 70_000,
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text):
    with pytest.raises(LogNotIntact):
        checkpoints.parse(text)
