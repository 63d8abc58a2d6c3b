"""Fuzzing with a bound and without chance: the same examples on every machine, at every run."""

import random
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelreg.errors import ModelregError

bounded = settings(
    max_examples=200,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

__all__ = ["assert_value_or_refusal", "bounded", "given", "json_texts", "mutations", "st"]


def assert_value_or_refusal(read: Callable[[Any], Any], untrusted: Any) -> None:
    """A parser gives a value or one of our errors; any other exception fails the test by itself."""
    try:
        read(untrusted)
    except ModelregError as error:
        assert error.detail


def mutations(valid: bytes, count: int = 200) -> list[bytes]:
    """Copies of valid bytes with bytes flipped, cut, doubled, moved; always the same ones."""
    chance = random.Random(len(valid))
    found = []
    for _ in range(count):
        raw = bytearray(valid)
        for _ in range(chance.randint(1, 3)):
            at, size = chance.randrange(len(raw)), chance.randint(1, 20)
            match chance.randrange(5):
                case 0:
                    raw[at] ^= 1 << chance.randrange(8)
                case 1:
                    del raw[at : at + size]
                case 2:
                    raw[at:at] = raw[at : at + size]
                case 3:
                    raw[at:at] = chance.choice(
                        [b"\x00", b"\xff", b"[", b"{", b'"', b"9" * 30, b"1e999", b"null", b"\\ud800"]
                    )
                case 4:
                    other = chance.randrange(len(raw))
                    raw[at : at + size], raw[other : other + size] = raw[other : other + size], raw[at : at + size]
            if not raw:
                break
        found.append(bytes(raw))
    return found


def json_texts() -> st.SearchStrategy[Any]:
    """Any JSON value, for swapping into a member of a valid document."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
