import hashlib

import pytest

from modelreg.digests import Digest, is_hex_64, sha256_of
from modelreg.errors import Invalid
from support.fuzzing import assert_value_or_refusal, bounded, given, st

HEX = "0123456789abcdef" * 4

MALFORMED = [
    "",
    ":",
    "sha256",
    "sha256:",
    HEX,
    f"sha256:{HEX[:-1]}",
    f"sha256:{HEX}0",
    f"sha256:{HEX.upper()}",
    f"SHA256:{HEX}",
    f"Sha256:{HEX}",
    f"sha-256:{HEX}",
    f"sha512:{HEX}{HEX}",
    f"sha512:{HEX}",
    f"md5:{HEX[:32]}",
    f"blake2b:{HEX}",
    f"sha256-{HEX}",
    f"sha256::{HEX}",
    f"sha256:{HEX}:{HEX}",
    f"sha256: {HEX}",
    f" sha256:{HEX}",
    f"sha256:{HEX} ",
    f"sha256:{HEX}\n",
    f"sha256:{HEX}\r\n",
    f"sha256:{HEX}\x00",
    f"sha256:0x{HEX[2:]}",
    f"sha256:{HEX[:-1]}g",
    f"sha256:{HEX[:-1]}\uff11",  # FULLWIDTH DIGIT ONE is a digit to str.isdigit
    f"sha256:{HEX[:-1]}\u0661",
    f"sha256:../../../{HEX[9:]}",
    f"sha256:{'/' * 64}",
    f"sha256:{HEX[:32]}\\{HEX[33:]}",
    f"sha256:{HEX[:-3]}%2e",
    f"\ud800sha256:{HEX}",
]


@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
def test_a_digest_reads_back_as_it_is_written(algorithm):
    digest = Digest.parse(f"{algorithm}:{HEX}")

    assert (digest.algorithm, digest.hex, str(digest)) == (algorithm, HEX, f"{algorithm}:{HEX}")


@pytest.mark.parametrize("text", MALFORMED, ids=ascii)
def test_anything_else_is_no_digest(text):
    with pytest.raises(Invalid) as caught:
        Digest.parse(text)

    assert caught.value.facts["field"] == "digest"
    assert len(caught.value.facts["value"]) <= 200


@pytest.mark.parametrize(("algorithm", "value"), [("sha512", HEX), ("sha256", HEX.upper()), ("sha256", ""), ("", HEX)])
def test_a_digest_cannot_be_made_malformed(algorithm, value):
    with pytest.raises(Invalid):
        Digest(algorithm, value)


def test_digests_are_values():
    assert Digest("sha256", HEX) == Digest.parse(f"sha256:{HEX}")
    assert len({Digest("sha256", HEX), Digest("blake3", HEX), Digest("sha256", HEX)}) == 2
    assert sorted([Digest("sha256", HEX), Digest("blake3", HEX)])[0].algorithm == "blake3"


def test_sha256_of_bytes_is_that_of_hashlib():
    assert sha256_of(b"abc") == Digest("sha256", hashlib.sha256(b"abc").hexdigest())


@pytest.mark.parametrize("value", [None, 5, b"0" * 64, ["0" * 64], "", HEX + "\n", HEX.upper()], ids=ascii)
def test_is_hex_64_says_no_to_what_is_not_64_lowercase_hex_digits(value):
    assert is_hex_64(HEX)
    assert not is_hex_64(value)


@bounded
@given(st.text(max_size=100))
def test_any_text_is_a_digest_or_invalid(text):
    assert_value_or_refusal(Digest.parse, text)
    assert_value_or_refusal(Digest.parse, f"sha256:{text}")
