import copy
import hashlib
import json
import random
import time

import pytest

from modelreg import manifests
from modelreg.canonical import canonical_json
from modelreg.errors import ManifestInvalid
from modelreg.manifests import CHUNK_BYTES, FileEntry
from support.fuzzing import assert_value_or_refusal, bounded, given, json_texts, mutations, st
from support.paths import ACCEPTED, REFUSED, TWINS

A, B, C = "a" * 64, "b" * 64, "c" * 64


def entry(path="model.bin", size=1, sha256=A, blake3=B, chunks=()):
    return FileEntry(path, size, sha256, blake3, tuple(chunks))


BIG = entry("big.bin", 2 * CHUNK_BYTES + 1, chunks=(A, B, C))
VALID = manifests.build([entry("a/b.txt", 0), entry("a-b.txt", 5), BIG])


def document():
    return json.loads(VALID.raw)


def rewritten(change):
    """Canonical bytes of the valid manifest after a change to its members."""
    members = document()
    change(members)
    return canonical_json(members)


# What is written


def test_a_manifest_is_canonical_json_with_files_sorted_by_code_point():
    assert VALID.raw == (
        b'{"chunk_bytes":8388608,"files":['
        b'{"blake3":"%(b)s","path":"a-b.txt","sha256":"%(a)s","size":5},'
        b'{"blake3":"%(b)s","path":"a/b.txt","sha256":"%(a)s","size":0},'
        b'{"blake3":"%(b)s","chunks":["%(a)s","%(b)s","%(c)s"],"path":"big.bin","sha256":"%(a)s","size":16777217}'
        b'],"schema":"modelreg/manifest/v1"}' % {b"a": A.encode(), b"b": B.encode(), b"c": C.encode()}
    )


def test_the_artifact_digest_is_the_sha256_of_the_bytes():
    assert str(VALID.digest) == "sha256:" + hashlib.sha256(VALID.raw).hexdigest()


def test_the_order_of_entries_does_not_matter():
    assert manifests.build(reversed(VALID.files)) == VALID


def test_a_manifest_reads_back_as_it_was_written():
    assert manifests.parse(VALID.raw) == VALID


def test_total_bytes_adds_up():
    assert VALID.total_bytes == 2 * CHUNK_BYTES + 6


def test_a_file_of_one_chunk_has_its_own_digest_as_chunk_digest():
    assert entry().chunk_digests() == (B,)
    assert BIG.chunk_digests() == (A, B, C)


def test_files_sort_by_code_point_not_by_utf_16_unit():
    built = manifests.build([entry("\U0001f916"), entry("\uffe0")])

    assert [file.path for file in built.files] == ["\uffe0", "\U0001f916"]


@bounded
@given(st.lists(st.tuples(st.sampled_from(ACCEPTED), st.integers(0, 3 * CHUNK_BYTES)), min_size=1, max_size=6))
def test_whatever_is_built_reads_back(files):
    entries = [
        entry(path, size, chunks=[C] * -(-size // CHUNK_BYTES) if size > CHUNK_BYTES else ())
        for path, size in dict(files).items()
    ]
    built = manifests.build(entries)

    assert manifests.parse(built.raw) == built


# Paths


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: ascii(path)[:30])
def test_a_harmful_path_is_refused(path):
    with pytest.raises(ManifestInvalid):
        manifests.require_path(path)
    with pytest.raises(ManifestInvalid):
        manifests.build([entry(path)])
    raw = (
        b'{"chunk_bytes":8388608,"files":['
        + json.dumps(
            {"blake3": B, "path": path, "sha256": A, "size": 1}, separators=(",", ":"), sort_keys=True
        ).encode()
        + b'],"schema":"modelreg/manifest/v1"}'
    )
    with pytest.raises(ManifestInvalid):
        manifests.parse(raw)


def test_there_are_enough_harmful_paths():
    assert len(REFUSED) >= 150
    assert not set(REFUSED) & set(ACCEPTED)


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: ascii(path)[:30])
def test_a_plain_path_is_accepted(path):
    manifests.require_path(path)

    assert manifests.parse(manifests.build([entry(path)]).raw).files[0].path == path


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: ascii(path)[:30])
def test_a_refusal_can_be_printed_and_sent(path):
    with pytest.raises(ManifestInvalid) as caught:
        manifests.require_path(path)

    caught.value.detail.encode("ascii")
    json.dumps(caught.value.facts, ensure_ascii=False).encode("utf-8")
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize(("one", "other"), TWINS, ids=ascii)
def test_two_names_for_one_file_are_refused(one, other):
    for paths in ([one, other], [other, one], [one, "between", other]):
        with pytest.raises(ManifestInvalid, match="same on some file systems|name of a file or of another folder"):
            manifests.require_names(paths)


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "b"],
        ["a/b", "a/c"],
        ["a-b", "a/b", "a.b", "a0"],
        ["a/b/c", "a/b-c", "a-b/c"],
        ["a/b", "ab"],
        ["model", "model.bin", "model-1/x"],
        ["x/a/y", "x/a-/y", "x/a!/y"],
    ],
    ids=str,
)
def test_neighbouring_names_are_not_twins(paths):
    manifests.require_names(paths)


def test_a_twin_far_away_in_the_list_is_found():
    chance = random.Random(7)
    paths = [f"layer-{at}/part-{chance.randrange(10**9)}.bin" for at in range(2000)]
    manifests.require_names(paths)

    for twin in (paths[1000].upper(), "layer-1000", "LAYER-1000/other", paths[1000] + "/below"):
        with pytest.raises(ManifestInvalid):
            manifests.require_names([*paths[:1000], twin, *paths[1000:]])


def test_deep_paths_cost_no_more_than_their_bytes():
    # Once: 11 s and 1.7 GB for these 3 MB of names.
    paths = [f"{at:04d}/" + "/".join(["a"] * 500) for at in range(3000)]
    start = time.process_time()

    manifests.require_names(paths)

    assert time.process_time() - start < 5


def test_no_file_at_all_is_no_artifact():
    for make in (lambda: manifests.build([]), lambda: manifests.parse(rewritten(lambda it: it.update(files=[])))):
        with pytest.raises(ManifestInvalid, match="at least one file"):
            make()


def test_too_many_files_are_refused(monkeypatch):
    monkeypatch.setattr(manifests, "MAX_FILES", 2)

    for make in (lambda: manifests.build(VALID.files), lambda: manifests.parse(VALID.raw)):
        with pytest.raises(ManifestInvalid, match="3 files; the limit is 2"):
            make()


def test_too_many_bytes_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", len(VALID.raw) - 1)

    with pytest.raises(ManifestInvalid, match="the limit is"):
        manifests.parse(VALID.raw)
    with pytest.raises(ManifestInvalid, match="the limit is"):
        manifests.build(VALID.files)


# Members


def _file(**members):
    return lambda it: it["files"][0].update(members)


def _without(name):
    return lambda it: it["files"][0].pop(name)


WRONG = {
    "schema absent": lambda it: it.pop("schema"),
    "schema of a later version": lambda it: it.update(schema="modelreg/manifest/v2"),
    "schema null": lambda it: it.update(schema=None),
    "schema a list": lambda it: it.update(schema=["modelreg/manifest/v1"]),
    "chunk_bytes absent": lambda it: it.pop("chunk_bytes"),
    "chunk_bytes other": lambda it: it.update(chunk_bytes=CHUNK_BYTES * 2),
    "chunk_bytes zero": lambda it: it.update(chunk_bytes=0),
    "chunk_bytes text": lambda it: it.update(chunk_bytes=str(CHUNK_BYTES)),
    "chunk_bytes true": lambda it: it.update(chunk_bytes=True),
    "files absent": lambda it: it.pop("files"),
    "files an object": lambda it: it.update(files={}),
    "files null": lambda it: it.update(files=None),
    "files of strings": lambda it: it.update(files=["a"]),
    "unknown member": lambda it: it.update(note="x"),
    "unknown member of a file": _file(mode=0o755),
    "path absent": _without("path"),
    "path a number": _file(path=1),
    "path null": _file(path=None),
    "size absent": _without("size"),
    "size negative": _file(size=-1),
    "size text": _file(size="1"),
    "size true": _file(size=True),
    "size beyond the limit": _file(size=manifests.MAX_FILE_BYTES + 1),
    "sha256 absent": _without("sha256"),
    "sha256 short": _file(sha256="a" * 63),
    "sha256 upper case": _file(sha256="A" * 64),
    "sha256 with algorithm": _file(sha256="sha256:" + "a" * 57),
    "sha256 null": _file(sha256=None),
    "sha256 a path": _file(sha256="../" + "a" * 61),
    "blake3 absent": _without("blake3"),
    "blake3 short": _file(blake3="b"),
    "blake3 a number": _file(blake3=0),
    "chunks empty": _file(chunks=[]),
    "chunks of one": _file(chunks=[B]),
    "chunks null": _file(chunks=None),
    "chunks text": _file(chunks=A),
    "chunks of something else": lambda it: it["files"][2].update(chunks=[A, B, "c"]),
    "chunks too few": lambda it: it["files"][2].update(chunks=[A, B]),
    "chunks too many": lambda it: it["files"][2].update(chunks=[A, B, C, A]),
    "chunks absent of a big file": lambda it: it["files"][2].pop("chunks"),
    "one file twice": lambda it: it["files"].insert(0, copy.deepcopy(it["files"][0])),
    "files not sorted": lambda it: it["files"].reverse(),
    "sorted by parts of the path": lambda it: it["files"].insert(0, it["files"].pop(1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_member_is_refused(name):
    with pytest.raises(ManifestInvalid):
        manifests.parse(rewritten(WRONG[name]))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"\xef\xbb\xbf" + VALID.raw,
        VALID.raw + b"\n",
        b" " + VALID.raw,
        VALID.raw[:-1],
        VALID.raw + VALID.raw,
        VALID.raw.replace(b",", b", "),
        VALID.raw.replace(b'"size":5', b'"size":5.0'),
        VALID.raw.replace(b'"size":5', b'"size":5e0'),
        VALID.raw.replace(b'"size":5', b'"size":1e999'),
        VALID.raw.replace(b'"size":5', b'"size":-0'),
        VALID.raw.replace(b'"size":0', b'"size":-0'),
        VALID.raw.replace(b"8388608", b"8388608.0"),
        VALID.raw.replace(b"8388608", b"8.388608e6"),
        VALID.raw.replace(b"a/b.txt", b"a\\/b.txt"),
        VALID.raw.replace(b"a/b.txt", b"\\u0061/b.txt"),
        VALID.raw.replace(b'"size":5', b'"size":5,"size":5'),
        VALID.raw.replace(b'{"blake3"', b'{"sha256":"%s","blake3"' % A.encode(), 1),
        VALID.raw.decode().encode("utf-16"),
    ],
    ids=lambda raw: ascii(raw[:20]),
)
def test_any_other_spelling_is_refused(raw):
    with pytest.raises(ManifestInvalid):
        manifests.parse(raw)


def test_build_refuses_chunks_that_do_not_fit_the_size():
    for wrong in (entry(size=CHUNK_BYTES, chunks=(A,)), entry(size=CHUNK_BYTES + 1, chunks=(A,)), entry(chunks=(A, B))):
        with pytest.raises(ManifestInvalid, match="chunks"):
            manifests.build([wrong])


def test_build_accepts_a_file_of_exactly_one_chunk():
    assert b"chunks" not in manifests.build([entry(size=CHUNK_BYTES)]).raw


# Fuzzing


@bounded
@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_invalid(raw):
    assert_value_or_refusal(manifests.parse, raw)


@bounded
@given(st.sampled_from(["schema", "chunk_bytes", "files"]), json_texts())
def test_any_value_of_a_member_is_a_manifest_or_invalid(member, value):
    assert_value_or_refusal(manifests.parse, json.dumps({**document(), member: value}).encode())


@bounded
@given(st.sampled_from(["path", "size", "sha256", "blake3", "chunks"]), json_texts())
def test_any_value_of_a_file_member_is_a_manifest_or_invalid(member, value):
    members = document()
    members["files"][0][member] = value
    assert_value_or_refusal(manifests.parse, json.dumps(members).encode())


def test_a_damaged_manifest_is_invalid_or_another_artifact():
    for raw in mutations(VALID.raw):
        try:
            parsed = manifests.parse(raw)
        except ManifestInvalid:
            continue
        assert parsed.raw == raw
        assert raw == VALID.raw or parsed.digest != VALID.digest


@pytest.mark.parametrize("member", ["schema", "chunk_bytes"])
def test_a_value_nested_to_the_edge_of_the_parser_is_still_only_invalid(member):
    for depth in range(850, 1000, 3):
        value = "[" * depth + "]" * depth
        raw = json.dumps({**document(), member: "@"}).replace('"@"', value).encode()
        with pytest.raises(ManifestInvalid):
            manifests.parse(raw)
