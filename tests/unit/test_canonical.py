import json

import pytest
import rfc8785

from modelreg.canonical import MAX_INTEGER, canonical_json, strict_json
from support.fuzzing import bounded, given, st

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=0x7F), max_size=9), inner, max_size=4)
    ),
    max_leaves=15,
)


@bounded
@given(VALUES)
def test_canonical_json_is_what_an_independent_rfc_8785_writes(value):
    assert canonical_json(value) == rfc8785.dumps(value)


@bounded
@given(VALUES)
def test_strict_json_reads_back_what_canonical_json_wrote(value):
    assert strict_json(canonical_json(value)) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, False, None]}, b'{"a":[true,false,null],"b":1}'),
        ('\u20ac$\u000f\nA\'B"\\\\"/', '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()),
        ("\x7f\u2028\U0001f600", '"\x7f\u2028\U0001f600"'.encode()),
        ({"B": 0, "a": 0, "A": 0, "_": 0}, b'{"A":0,"B":0,"_":0,"a":0}'),
        (-(2**53) + 1, b"-9007199254740991"),
        ({}, b"{}"),
        ([], b"[]"),
    ],
)
def test_canonical_json_writes_these_bytes(value, expected):
    assert canonical_json(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        2**53,
        -(2**53),
        {"ä": 1},
        {1: 1},
        {"a": 0.5},
        [2**60],
        (1,),
        b"x",
        {"a"},
        "\ud800",
        ["\udfff"],
    ],
    ids=ascii,
)
def test_canonical_json_refuses_what_json_readers_disagree_on(value):
    with pytest.raises(ValueError, match="."):
        canonical_json(value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"a":2}}',
        b'{"a":1,"\\u0061":2}',
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"{'a':1}",
        b"[1,]",
        b"{} {}",
        b"01",
        b"9" * 5000,
        b'"\n"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda raw: ascii(raw[:24]),
)
def test_strict_json_refuses(raw):
    with pytest.raises(ValueError, match="."):
        strict_json(raw)


@bounded
@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_a_value_error(raw):
    try:
        value = strict_json(raw)
    except ValueError:
        return
    assert json.loads(raw) == value or value != value
