"""What a file is by its first bytes, whatever those bytes claim."""

import json
import struct

import pytest

from modelreg import formats


def safetensors(header, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, 291, 25), "gguf"),
        (b"GGUF", "gguf"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b'{"a": 1}', "json"),
        (b"", "unknown"),
        (b"\0" * 100, "unknown"),
        (safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), "safetensors"),
    ],
)
def test_a_format_is_known_by_its_magic(tmp_path, data, name):
    (tmp_path / "f").write_bytes(data)
    assert formats.describe(tmp_path / "f")[0] == name


def test_headers_are_counted_and_quoted_briefly(tmp_path):
    header = {f"t{at}": {"dtype": "BF16" if at % 2 else "F32"} for at in range(7)}
    header["__metadata__"] = {f"k{at}": "v" * 500 for at in range(20)}
    (tmp_path / "f").write_bytes(safetensors(header))
    name, detail = formats.describe(tmp_path / "f")
    assert (name, detail["tensors"], detail["types"]) == ("safetensors", 7, "BF16, F32")
    assert len([key for key in detail if key.startswith("metadata.")]) == 8
    assert max(len(str(value)) for value in detail.values()) == 100
    (tmp_path / "g").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 291, 25))
    assert formats.describe(tmp_path / "g")[1] == {"version": 3, "tensors": 291, "metadata": 25}


@pytest.mark.parametrize(
    "data",
    [
        safetensors(b"{not json"),
        safetensors(b"{}", length=2**63),
        safetensors(b"{}", length=16 * 1024 * 1024 + 1),
        safetensors(b"[" * 50_000),
        safetensors(b"{" + b'"a":[' * 50_000),
        safetensors(b'{"\xff": 1}'),
        struct.pack("<Q", 5) + b"{",
    ],
)
def test_a_header_that_lies_about_itself_is_no_header(tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    assert formats.describe(tmp_path / "f") == ("unknown", {})


def test_a_header_with_members_of_any_type_is_described(tmp_path):
    (tmp_path / "f").write_bytes(safetensors({"w": 5, "__metadata__": [1], "x": {"dtype": ["F", 1]}}))
    assert formats.describe(tmp_path / "f") == ("safetensors", {"tensors": 2, "types": "['F', 1]"})


def test_what_is_no_unicode_is_told_as_unicode(tmp_path):
    (tmp_path / "f").write_bytes(safetensors(b'{"__metadata__": {"\\ud800": "\\udfff"}, "w": {"dtype": "\\ud800"}}'))
    assert formats.describe(tmp_path / "f")[1] == {"tensors": 1, "types": "?", "metadata.?": "?"}
