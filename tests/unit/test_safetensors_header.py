"""The reader of safetensors headers against the reference implementation, the format's rules, and noise."""

import json
import random

import numpy
import pytest
from safetensors import SafetensorError, safe_open
from safetensors import deserialize as reference
from safetensors.numpy import save

from modelreg import safetensors_header
from modelreg.errors import Invalid
from support.fuzzing import assert_value_or_refusal, bounded, given, json_texts, mutations, st


def read(raw):
    return safetensors_header.read(lambda start, stop: raw[start:stop], len(raw))


def file_of(header, data=b"", pad=0):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw += b" " * pad
    return len(raw).to_bytes(8, "little") + raw + data


def tensor(start, stop, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


VALID = save(
    {
        "a.weight": numpy.arange(12, dtype=numpy.float32).reshape(3, 4),
        "b": numpy.array(3, dtype=numpy.int64),
        "empty": numpy.zeros((0, 7), dtype=numpy.float16),
    },
    metadata={"format": "np"},
)


def test_what_the_reference_writes_is_read_with_the_same_types_shapes_and_bytes(tmp_path):
    header = read(VALID)
    assert header.metadata == {"format": "np"}
    (tmp_path / "f").write_bytes(VALID)
    with safe_open(tmp_path / "f", "np") as theirs:
        assert set(header.tensors) == set(theirs.keys())
        for name, found in header.tensors.items():
            expected = theirs.get_tensor(name)
            assert found.shape == expected.shape
            assert VALID[found.start : found.stop] == expected.tobytes()
    assert header.tensors["a.weight"].dtype == "F32"


@pytest.mark.parametrize("bits", safetensors_header.BITS.items())
def test_every_type_has_the_size_that_the_reference_gives_it(bits):
    dtype, size = bits
    raw = file_of({"t": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}, bytes(size))
    assert read(raw).tensors["t"].dtype == dtype
    assert reference(raw)[0][1]["dtype"] == dtype


REFUSED = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "no header": (0).to_bytes(8, "little"),
    "a header longer than the file": (10**6).to_bytes(8, "little") + b"{}",
    "a header longer than the format allows": (100_000_001).to_bytes(8, "little") + b"{}",
    "a length of 2^64-1": b"\xff" * 8 + b"{}",
    "a list": file_of([]),
    "not UTF-8": file_of(b'{"\xff":1}'),
    "white space before": file_of(b' {"a":' + json.dumps(tensor(0, 1)).encode() + b"}", b"x"),
    "padded with line ends": file_of(b'{"a":' + json.dumps(tensor(0, 1)).encode() + b"}\n\n", b"x"),
    "padded with zeros": file_of(b"{}\0\0"),
    "two objects": file_of(b"{}{}"),
    "a tensor twice": file_of(b'{"a":%b,"a":%b}' % ((json.dumps(tensor(0, 1)).encode(),) * 2), b"x"),
    "a member twice": file_of(b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "a member too many": file_of({"a": {**tensor(0, 1), "more": 1}}, b"x"),
    "a member too few": file_of({"a": {"dtype": "U8", "shape": [1]}}, b"x"),
    "an unknown type": file_of({"a": tensor(0, 1, dtype="Q8")}, b"x"),
    "a type that is no text": file_of({"a": tensor(0, 1, dtype=8)}, b"x"),
    "a negative size": file_of({"a": tensor(0, 1, [-1])}, b"x"),
    "two negative sizes": file_of({"a": tensor(0, 1, [-1, -1])}, b"x"),
    "a size that is a float": file_of({"a": tensor(0, 1, [1.0])}, b"x"),
    "a size that is true": file_of({"a": tensor(0, 1, [True])}, b"x"),
    "a size beyond 2^53": file_of({"a": tensor(0, 0, [0, 2**53])}),
    "a size of 5000 digits": file_of(b'{"a":{"dtype":"U8","shape":[%b],"data_offsets":[0,1]}}' % (b"9" * 5000), b"x"),
    "sixty-five dimensions": file_of({"a": tensor(0, 1, [1] * 65)}, b"x"),
    "offsets that are three": file_of({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"x"),
    "offsets backwards": file_of({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}}, b"x"),
    "more bytes than the shape": file_of({"a": tensor(0, 2, [1])}, b"xx"),
    "half a byte": file_of({"a": tensor(0, 1, [1], "F4")}, b"x"),
    "an overlap": file_of({"a": tensor(0, 2), "b": tensor(1, 3)}, b"xxx"),
    "the same range twice": file_of({"a": tensor(0, 2), "b": tensor(0, 2)}, b"xx"),
    "a hole": file_of({"a": tensor(0, 1), "b": tensor(2, 3)}, b"xxx"),
    "a hole at the front": file_of({"a": tensor(1, 2)}, b"xx"),
    "bytes after the last tensor": file_of({"a": tensor(0, 1)}, b"xx"),
    "bytes and no tensor": file_of({}, b"x"),
    "a tensor past the end": file_of({"a": tensor(0, 9)}, b"x"),
    "metadata that is a list": file_of({"__metadata__": []}),
    "metadata that is a number": file_of({"__metadata__": {"a": 1}}),
    "a name that is half a character": file_of(b'{"\\ud800":%b}' % json.dumps(tensor(0, 1)).encode(), b"x"),
    "an empty name": file_of({"": tensor(0, 1)}, b"x"),
    "a name of a megabyte": file_of({"x" * 1_000_000: tensor(0, 1)}, b"x"),
    "NaN": file_of(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', b"x"),
    "a thousand brackets": file_of(b'{"a":' + b"[" * 100_000 + b"}"),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_refused(raw):
    with pytest.raises(Invalid, match="not a safetensors file"):
        read(raw)


def test_a_header_of_too_many_values_is_refused_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr(safetensors_header, "MAX_VALUES", 10)
    with pytest.raises(Invalid, match="more than 10 values"):
        read(file_of({f"t{n}": tensor(n, n + 1) for n in range(4)}, b"xxxx"))


def test_padding_with_spaces_and_no_tensor_at_all_are_fine():
    assert (
        read(file_of({"a": tensor(0, 1)}, b"x", pad=7)).tensors["a"].stop
        == 8 + len(json.dumps({"a": tensor(0, 1)})) + 7 + 1
    )
    assert read(file_of({"__metadata__": {"a": "b"}})).tensors == {}


def test_mutated_files_give_a_header_or_a_refusal_and_never_one_that_the_reference_refuses():
    agreed = 0
    for raw in mutations(VALID, 2000):
        assert_value_or_refusal(read, raw)
        try:
            read(raw)
        except Invalid:
            continue
        reference(raw)  # raises where the reference is stricter
        agreed += 1
    assert agreed > 20  # those whose tensors' bytes were flipped


@bounded
@given(json_texts(), st.sampled_from(["dtype", "shape", "data_offsets", "whole"]))
def test_any_json_in_any_member_gives_a_header_or_a_refusal(value, member):
    one = tensor(0, 3)
    header = {"t": value if member == "whole" else {**one, member: value}}
    try:
        raw = json.dumps(header).encode()
    except ValueError:
        return
    assert_value_or_refusal(read, file_of(raw, b"xxx"))


def test_random_layouts_agree_with_the_reference():
    chance = random.Random(7)
    accepted = refused = 0
    for _ in range(500):
        at, header = 0, {}
        for n in range(chance.randint(0, 4)):
            size = chance.randint(0, 5)
            shift = chance.choice([0, 0, 0, 0, 0, 1, -1])
            start = max(0, at + shift)
            header[f"t{n}"] = tensor(start, start + size)
            at = start + size
        raw = file_of(header, bytes(max(0, at + chance.choice([0, 0, 0, 1, -1]))))
        try:
            reference(raw)
        except SafetensorError:
            refused += 1
            with pytest.raises(Invalid):
                read(raw)
        else:
            accepted += 1
            assert len(read(raw).tensors) == len(header)
    assert accepted > 50
    assert refused > 50
