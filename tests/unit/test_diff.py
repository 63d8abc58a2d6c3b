"""What differs, held against what was changed on purpose."""

import json

import numpy
import pytest
from safetensors.numpy import save_file

from modelreg import diff, hashing, manifests
from modelreg.diff import FolderBytes

CHUNK = manifests.CHUNK_BYTES


def write(folder, files):
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            save_file(content, target)
        else:
            target.write_bytes(content)
    return folder


def compare(before, after, *, values=True):
    old, new = (manifests.build(hashing.hash_tree(folder)) for folder in (before, after))
    found = diff.compare_files(old, new)
    if diff.needs_bytes(found):
        diff.compare_contents(found, FolderBytes(before), FolderBytes(after), values=values, chunk_bytes=CHUNK)
    return found


def differ(tmp_path, before, after, **more):
    return compare(write(tmp_path / "before", before), write(tmp_path / "after", after), **more)


def rows(found):
    return {(row.name, row.change) for row in found.tensors}


def noise(*shape, seed=1, dtype=numpy.float32):
    return numpy.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_the_same_files_have_no_difference_and_nothing_is_read(tmp_path):
    files = {"model.safetensors": {"a": noise(4)}, "config.json": b"{}"}
    found = differ(tmp_path, files, files)
    assert (found.files, found.same_files, found.areas) == ([], 2, [])


def test_files_are_added_removed_and_changed_by_area(tmp_path):
    found = differ(
        tmp_path,
        {
            "config.json": b'{"a":1}',
            "old.py": b"1",
            "same.txt": b"s",
            "tokenizer.json": b"{}",
            "x/chat_template.jinja": b"a",
        },
        {
            "config.json": b'{"a":2}',
            "new.py": b"1",
            "same.txt": b"s",
            "tokenizer.json": b'{"v":1}',
            "x/chat_template.jinja": b"b",
        },
    )
    assert {(row.path, row.change, row.area) for row in found.files} == {
        ("config.json", "changed", "config"),
        ("old.py", "removed", "code"),
        ("new.py", "added", "code"),
        ("tokenizer.json", "changed", "tokenizer"),
        ("x/chat_template.jinja", "changed", "chat-template"),
    }
    assert found.areas == ["config", "tokenizer", "chat-template", "code"]
    assert found.same_files == 1


def test_tensors_are_told_apart_by_name_type_shape_and_values(tmp_path):
    before = {
        "same": noise(8),
        "gone": noise(2),
        "shape": noise(2, 3),
        "dtype": noise(4),
        "values": noise(5),
        "empty": noise(0, 3),
    }
    after = {
        "same": before["same"],
        "new": noise(2),
        "shape": before["shape"].reshape(3, 2),
        "dtype": before["dtype"].astype(numpy.float16),
        "values": before["values"] + numpy.float32(1e-6),
        "empty": before["empty"],
    }
    found = differ(tmp_path, {"m.safetensors": before}, {"m.safetensors": after})
    assert rows(found) == {
        ("gone", "removed"),
        ("new", "added"),
        ("shape", "retyped"),
        ("dtype", "retyped"),
        ("values", "values"),
    }
    assert found.tensor_counts["same"] == 2
    changed = next(row for row in found.tensors if row.change == "values")
    assert changed.before.blake3 != changed.after.blake3
    assert None not in (changed.before.blake3, changed.after.blake3)


def test_one_flipped_bit_anywhere_in_a_big_tensor_is_found_also_by_chunks_alone(tmp_path):
    before = {"big": noise(5 * 1024 * 1024), "small": noise(3)}  # 20 MiB
    for name, at in (("first", 0), ("middle", 9 * 1024 * 1024 // 4), ("last", -1)):
        changed = before["big"].copy()
        changed.view(numpy.uint32)[at] ^= 1
        found = differ(tmp_path / name, {"m.safetensors": before}, {"m.safetensors": {**before, "big": changed}})
        assert rows(found) == {("big", "values")}
        told = differ(
            tmp_path / f"{name}-headers",
            {"m.safetensors": before},
            {"m.safetensors": {**before, "big": changed}},
            values=False,
        )
        # Only the chunk in the middle is wholly inside the tensor; the others hold something else as well.
        expected = {"first": {("big", "not-compared")}, "middle": {("big", "values")}}
        assert rows(told) == expected.get(name, {("big", "not-compared"), ("small", "not-compared")})


def test_moving_tensors_to_other_shards_is_no_difference_of_tensors(tmp_path):
    tensors = {f"t{n}": noise(16, seed=n) for n in range(6)}
    parts = [{name: tensors[name] for name in names} for names in (("t0", "t5"), ("t1", "t2", "t3", "t4"))]
    found = differ(
        tmp_path,
        {"model.safetensors": tensors},
        {"model-1-of-2.safetensors": parts[0], "model-2-of-2.safetensors": parts[1]},
    )
    assert found.tensors == []
    assert found.tensor_counts == {"same": 6}
    assert {row.change for row in found.files} == {"added", "removed"}


def test_tensors_of_one_name_in_two_folders_are_not_mixed_up(tmp_path):
    one, two = noise(4, seed=1), noise(4, seed=2)
    found = differ(
        tmp_path,
        {"unet/m.safetensors": {"w": one}, "vae/m.safetensors": {"w": two}},
        {"unet/m.safetensors": {"w": two}, "vae/m.safetensors": {"w": one}},
    )
    assert [(row.before.path, row.change) for row in found.tensors] == [
        ("unet/m.safetensors", "values"),
        ("vae/m.safetensors", "values"),
    ]


def test_free_text_in_a_safetensors_header_is_compared(tmp_path):
    for side, text in (("before", "a"), ("after", "b")):
        (tmp_path / side).mkdir()
        save_file({"t": noise(2)}, tmp_path / side / "m.safetensors", metadata={"note": text})
    found = compare(tmp_path / "before", tmp_path / "after")
    assert [(row.pointer, row.before, row.after) for row in found.members] == [("/__metadata__/note", '"a"', '"b"')]
    assert found.tensor_counts == {"same": 1}


def test_a_file_that_is_no_safetensors_is_named_and_its_tensors_are_not_called_removed(tmp_path):
    found = differ(tmp_path, {"m.safetensors": {"t": noise(2)}}, {"m.safetensors": b"\xff" * 40})
    assert found.tensors == []
    assert len(found.problems) == 1
    assert found.problems[0][0] == "after: m.safetensors"
    assert "not a safetensors file" in found.problems[0][1]


def test_members_of_json_are_compared_by_value_and_type(tmp_path):
    before = {
        "a": 1,
        "b": {"c": [1, 2], "d": "x"},
        "gone": None,
        "kind": 1,
        "a/b~": 1,
        "list": [1],
        "chat_template": "old",
    }
    after = {
        "a": 1,
        "b": {"c": [1, 3], "d": "x"},
        "new": True,
        "kind": True,
        "a/b~": 2,
        "list": [1, 2],
        "chat_template": "new",
    }
    found = differ(
        tmp_path,
        {"tokenizer_config.json": json.dumps(before).encode()},
        {"tokenizer_config.json": json.dumps(after).encode()},
    )
    assert {(row.pointer, row.change, row.before, row.after) for row in found.members} == {
        ("/b/c/1", "changed", "2", "3"),
        ("/gone", "removed", "null", None),
        ("/new", "added", None, "true"),
        ("/kind", "changed", "1", "true"),
        ("/a~1b~0", "changed", "1", "2"),
        ("/list", "changed", "[1]", "[1, 2]"),
        ("/chat_template", "changed", '"old"', '"new"'),
    }
    assert found.areas == ["tokenizer", "chat-template"]


def test_what_is_listed_has_a_bound_and_the_rest_a_count(tmp_path, monkeypatch):
    monkeypatch.setattr(diff, "MAX_ROWS", 10)
    before = {
        "vocab.json": json.dumps({f"w{n}": n for n in range(500)}).encode(),
        "m.safetensors": {f"t{n}": noise(1, seed=n) for n in range(40)},
    }
    after = {
        "vocab.json": json.dumps({f"w{n}": n + 1 for n in range(500)}).encode(),
        "m.safetensors": {f"t{n}": noise(1, seed=n + 99) for n in range(40)},
    }
    found = differ(tmp_path, before, after)
    assert (len(found.members), found.members_left_out) == (10, 490)
    assert (len(found.tensors), found.tensor_counts["values"]) == (10, 40)


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[" * 100_000, b"\xff", b'{"a":1,"a":2}', b'{"a":NaN}'],
    ids=["cut off", "nested too deeply", "not UTF-8", "a member twice", "NaN"],
)
def test_hostile_json_is_a_problem_of_that_file(tmp_path, raw):
    found = differ(tmp_path, {"config.json": b"{}"}, {"config.json": raw})
    assert found.members == []
    assert found.problems[0][0] == "after: config.json"


def test_deep_and_long_names_in_json_stay_bounded(tmp_path):
    deep = lambda value: b'{"' + b"k" * 100_000 + b'":' + b'{"k":' * 500 + value + b"}" * 501  # noqa: E731
    found = differ(tmp_path, {"config.json": deep(b"1")}, {"config.json": deep(b'"' + b"v" * 100_000 + b'"')})
    (row,) = found.members
    assert len(row.pointer) <= diff.MAX_POINTER_CHARS
    assert len(row.after) <= diff.MAX_VALUE_CHARS + 1


def test_json_larger_than_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(diff, "MAX_JSON_BYTES", 10)
    found = differ(tmp_path, {"config.json": b'{"a": 11111}'}, {"config.json": b'{"a": 22222}'})
    assert "only 10 are looked into" in found.problems[0][1]


def test_a_json_file_of_more_values_than_memory_is_for_is_not_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr(diff.safetensors_header, "MAX_VALUES", 1000)
    monkeypatch.setattr(diff, "strict_json", lambda raw: pytest.fail("it was parsed") if len(raw) > 100 else {})
    found = differ(tmp_path, {"config.json": b"{}"}, {"config.json": b"[" + b"[]," * 1000 + b"[]]"})
    assert "more than 1000 values" in found.problems[0][1]
