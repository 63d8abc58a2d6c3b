"""What files say of a model, read from bytes that anybody can have written."""

import json
import struct
import time

import pytest

from modelreg_server import model_claims
from modelreg_server.model_claims import Claim
from support.fuzzing import bounded, given, mutations, st


def claims(path, raw):
    return {(claim.kind, claim.value, claim.member) for claim in model_claims.read(path, raw)}


def card(*lines):
    return "\n".join(["---", *lines, "---", "# A model", ""]).encode()


def text(value):
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def gguf(*members, version=3, count=None, tensors=0):
    raw = b"GGUF" + struct.pack("<IQQ", version, tensors, len(members) if count is None else count)
    return raw + b"".join(text(key) + value for key, value in members)


def said(value):
    return struct.pack("<I", 8) + text(value)


def safetensors(metadata, **tensors):
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    return struct.pack("<Q", len(header)) + header


# Model cards


def test_a_card_claims_its_bases_how_its_datasets_and_its_licence():
    raw = card(
        "license: other", "license_name: acme-1", "language:", "- en",
        "base_model:", "  - meta-llama/Llama-3.1-8B", "  - acme/other", "base_model_relation: merge", "datasets: [squad, c4]",
    )  # fmt: skip
    assert claims("README.md", raw) == {
        ("licence", "other", "license"),
        ("licence", "acme-1", "license_name"),
        ("base_model", "meta-llama/Llama-3.1-8B", "base_model"),
        ("base_model", "acme/other", "base_model"),
        ("relation", "merge", "base_model_relation"),
        ("dataset", "squad", "datasets"),
        ("dataset", "c4", "datasets"),
    }


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"# no front matter\nlicense: mit\n",
        b"---\nlicense: mit\n",
        b" ---\nlicense: mit\n---\n",
        card(),
        card("license: {a: b}"),
        card("license: [[a]]"),
        card("license: |", "  two", "  lines"),
        card("license:"),
        card("base_model: " + "x" * 501),
        card('license: "a\\u0007b"'),
        card("license: *mit"),
        card("base_model: &a [x]", "datasets: *a"),
        card("license: [", "base_model: x"),
        card("license: 'unfinished"),
        card("- license: mit"),
        card("\tlicense: mit"),
        b"---\nlicense: \xff\n---\n",
        b"---\nlicense: mit\0\n---\n",
    ],
)
def test_a_card_that_is_not_as_it_should_be_claims_nothing(raw):
    assert claims("README.md", raw) == set()


def test_nothing_in_a_card_is_taken_for_anything_but_text():
    raw = card(
        "license: !!python/object/apply:os.system ['true']", "base_model: no", "datasets: [2024-01-01, 1.5, null]"
    )
    assert claims("README.md", raw) == {
        ("licence", "true", "license"),
        ("base_model", "no", "base_model"),
        *(("dataset", value, "datasets") for value in ("2024-01-01", "1.5", "null")),
    }


def test_aliases_that_would_grow_to_gigabytes_are_refused_at_once():
    bomb = ["base_model:", "- &a0 [x]", *[f"- &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at in range(1, 12)]]
    started = time.perf_counter()
    assert claims("README.md", card(*bomb)) == set()
    assert time.perf_counter() - started < 1


def test_a_card_with_long_evaluations_is_read_and_one_that_only_looks_so_is_not():
    evaluations = ["model-index:", *["- results: [a, b]"] * 8000]
    assert claims("README.md", card(*evaluations, "license: mit")) == {("licence", "mit", "license")}
    assert claims("README.md", card("base_model:", *["- x/y"] * 8000)) == set()
    assert claims("README.md", card("x: " + "y" * 300_000, "license: mit")) == set()
    assert len(claims("README.md", card("base_model:", *[f"- x/{at}" for at in range(200)]))) == model_claims.MAX_CLAIMS


@pytest.mark.parametrize(
    "raw", [b"[" * 16_000, b"{" * 16_000, b"- " * 8_000, b"? " * 8_000, b"'" * 16_000, b"1:" * 8_000, b"!" * 16_000]
)
def test_no_card_takes_long(raw):
    started = time.perf_counter()
    claims("README.md", b"---\nlicense: " + raw + b"\n---\n")
    assert time.perf_counter() - started < 2


def test_windows_line_ends_and_a_byte_order_mark_are_read():
    raw = b"\xef\xbb\xbf" + card("license: mit", "datasets:", "- a").replace(b"\n", b"\r\n")
    assert claims("README.md", raw) == {("licence", "mit", "license"), ("dataset", "a", "datasets")}


# Adapters


def test_an_adapter_names_its_base_and_is_one():
    raw = json.dumps({"base_model_name_or_path": "acme/base", "r": 8}).encode()
    assert claims("adapter_config.json", raw) == {
        ("base_model", "acme/base", "base_model_name_or_path"),
        ("relation", "adapter", "adapter_config.json"),
    }
    for raw in (b"{", b"[]", b'{"base_model_name_or_path": {"a": 1}}', b"x" * (model_claims.MAX_DOCUMENT_BYTES + 1)):
        assert claims("adapter_config.json", raw) == {("relation", "adapter", "adapter_config.json")}


# Safetensors


def test_safetensors_metadata_is_read_as_far_as_it_is_text():
    raw = safetensors({"format": "pt", "base_model": "acme/base", "modelspec.license": "mit", "ss_sd_model_name": 7})
    assert claims("model-00001-of-00002.safetensors", raw) == {
        ("base_model", "acme/base", "__metadata__.base_model"),
        ("licence", "mit", "__metadata__.modelspec.license"),
    }
    for broken in (
        b"",
        raw[:7],
        raw[:20],
        struct.pack("<Q", 2**63) + b"{}",
        safetensors([]),
        safetensors(None),
        struct.pack("<Q", 2) + b"[]",
    ):
        assert claims("m.safetensors", broken) == set()


# GGUF


def test_gguf_names_bases_datasets_and_a_licence():
    raw = gguf(
        ("general.architecture", said("llama")),
        ("general.type", said("adapter")),
        ("general.file_type", struct.pack("<II", 4, 7)),
        ("tokenizer.ggml.tokens", struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("\0")),
        ("tokenizer.ggml.scores", struct.pack("<IIQ", 9, 6, 2) + b"\0" * 8),
        ("general.license", said("apache-2.0")),
        ("general.base_model.count", struct.pack("<II", 4, 2)),
        ("general.base_model.0.name", said("Llama")),
        ("general.base_model.0.organization", said("Meta")),
        ("general.base_model.1.name", said("x")),
        ("general.base_model.1.repo_url", said("https://huggingface.co/acme/base")),
        ("general.dataset.0.repo_url", said("https://huggingface.co/datasets/acme/rows")),
    )
    assert claims("q4.gguf", raw) == {
        ("relation", "adapter", "general.type"),
        ("licence", "apache-2.0", "general.license"),
        ("base_model", "Meta/Llama", "general.base_model.0"),
        ("base_model", "https://huggingface.co/acme/base", "general.base_model.1"),
        ("dataset", "https://huggingface.co/datasets/acme/rows", "general.dataset.0"),
    }


def test_a_gguf_header_is_read_as_far_as_it_holds():
    members = [("general.license", said("mit")), ("general.type", said("adapter"))]
    first = ("licence", "mit", "general.license")
    assert claims("m.gguf", gguf(*members)[:-3]) == {first}
    for broken in (
        ("x", struct.pack("<I", 99)),
        ("x", struct.pack("<IIQ", 9, 9, 1)),  # an array of arrays
        ("x", struct.pack("<IIQ", 9, 8, 2**63)),
        ("x", struct.pack("<IIQ", 9, 6, 2**63)),
        ("x", struct.pack("<IQ", 8, 2**64 - 1)),
        (b"\xff", said("mit")),
        ("k" * 257, said("x")),
    ):
        assert claims("m.gguf", gguf(members[0], broken, members[1])) == {first}
    for raw in (b"", b"GGUF", gguf(*members, version=1), gguf(*members, count=2**63), b"GGML" + gguf(*members)[4:]):
        assert claims("m.gguf", raw) == set()


def test_files_of_other_names_are_not_read():
    for path in ("docs/README.md", "readme.md", "x/adapter_config.json", "model.bin", "a.gguf.txt"):
        assert model_claims.read(path, card("license: mit")) == []
    assert model_claims.read("README.md", card("license: mit")) == [Claim("licence", "mit", "README.md", "license")]


VALID = {
    "README.md": card("license: mit", "base_model:", "- acme/base", "datasets: [a, b]"),
    "adapter_config.json": b'{"base_model_name_or_path": "acme/base"}',
    "m.safetensors": safetensors({"base_model": "acme/base"}),
    "m.gguf": gguf(
        ("general.license", said("mit")),
        ("general.base_model.0.name", said("x")),
        ("t", struct.pack("<IIQ", 9, 8, 1) + text("a")),
    ),
}


@pytest.mark.parametrize("path", VALID)
def test_whatever_the_bytes_are_readers_give_claims_and_never_fail(path):
    for raw in mutations(VALID[path], 400):
        for claim in model_claims.read(path, raw):
            assert claim.value.isprintable()
            assert 0 < len(claim.value) <= model_claims.MAX_TEXT_CHARS


@bounded
@given(st.sampled_from(sorted(VALID)), st.binary(max_size=300), st.integers(0, 40))
def test_random_bytes_behind_a_good_beginning_are_read_without_failing(path, raw, kept):
    model_claims.read(path, VALID[path][:kept] + raw)
