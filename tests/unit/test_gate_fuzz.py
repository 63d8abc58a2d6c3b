"""The gate under bytes that nobody would write: always a report, and always soon.

Bounded and without chance. `MODELREG_FUZZ_EXECUTIONS=1000000 pytest tests/unit/test_gate_fuzz.py` is the full run, with so
many executions in all; `MODELREG_FUZZ_SEED` gives others.
"""

import gzip
import json
import os
import random
import struct
import time
import zlib

import pytest

from modelreg import gate
from modelreg.canonical import canonical_json
from modelreg.gate import templates
from support import hostile, models

SECONDS = 1.0  # none may take longer
EXECUTIONS = int(os.environ.get("MODELREG_FUZZ_EXECUTIONS", "6000"))
SEED = os.environ.get("MODELREG_FUZZ_SEED", "1")
INTERESTING = [
    *(struct.pack("<I", value) for value in (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
    *(struct.pack("<Q", value) for value in (0, 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)),
    b"\x80\x04", b"R.", b"cos\nsystem\n", b"(", b"t", b"\x93", b"\x94", b"PK\x03\x04", b"PK\x05\x06", b"{", b"}", b"[" * 40,
    b'"', b"{{", b"}}", b"{%", b"%}", b"__class__", b"|attr(", b"\xff", b"\0" * 16, b"1e999", b"\\ud800", b"9" * 40,
]  # fmt: skip


def _seeds():
    """Sound and hostile files by format: what a mutation begins with."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    files = [(path, data) for layout in models.clean().values() for path, data in layout.items()]
    files += [(path, data) for case in hostile.corpus() for path, data in case.files.items() if len(data) < 20_000]
    for path, data in files:
        kind = gate.scan_file(path, gate.Held(data), None).formats[path]
        found.setdefault(kind, []).append((path, data))
    found["template"] = [("t.jinja", text.encode()) for text in [*hostile.TEMPLATES, models.CHATML, models.TOOLS]]
    found["gzip"] = [
        ("a.gz", gzip.compress(b"text" * 50)),
        ("a.gz", gzip.compress(hostile.pickle_calling("os.system"))),
    ]
    found["zlib"] = [("a.z", zlib.compress(b"text" * 50))]
    return found


SEEDS = _seeds()
# The formats with a parser of our own get most of it.
WEIGHTS = {"safetensors": 4, "gguf": 6, "pickle": 6, "zip": 5, "json": 4, "template": 5, "npy": 2, "tar": 3, "onnx": 3}


def mutated(chance: random.Random, seeds: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    path, data = chance.choice(seeds)
    raw = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(7):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << chance.randrange(8)
            case 1:
                del raw[at : at + chance.randint(1, 24)]
            case 2:
                raw[at:at] = raw[at : at + chance.randint(1, 64)]
            case 3:
                piece = chance.choice(INTERESTING)
                raw[at : at + len(piece)] = piece
            case 4:
                raw[at:at] = chance.choice(INTERESTING)
            case 5:
                other = chance.choice(seeds)[1]
                begin = chance.randrange(len(other) + 1)
                raw[at:] = other[begin:]
            case _:
                raw[at:at] = chance.randbytes(chance.randint(1, 16))
    return path, bytes(raw[:64_000])


def run(kind: str, executions: int, seed: str) -> float:
    """Returns how long the slowest took, in seconds."""
    chance = random.Random(f"{seed} {kind}")
    seeds, slowest = SEEDS[kind], 0.0
    for number in range(executions):
        path, data = mutated(chance, seeds)
        begin = time.thread_time()
        try:
            report = gate.scan_file(path, gate.Held(data), frozenset({path}))
        except Exception as error:
            raise AssertionError(
                f"{kind} {number} {path} {data.hex()[:4000]}: {type(error).__name__}: {error}"
            ) from error
        took = time.thread_time() - begin
        if took > slowest:
            slowest = took
            assert took < SECONDS, (kind, number, path, data.hex()[:4000])
        if number % 100 == 0:
            canonical_json(report.predicate("1", _NOW))
    return slowest


def _shares():
    weights = {kind: WEIGHTS.get(kind, 1) for kind in sorted(SEEDS)}
    return {kind: max(20, EXECUTIONS * weight // sum(weights.values())) for kind, weight in weights.items()}


from datetime import UTC, datetime  # noqa: E402

_NOW = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.mark.timeout(0 if EXECUTIONS > 100_000 else 120)
@pytest.mark.parametrize(("kind", "executions"), _shares().items())
def test_any_bytes_give_a_report_within_a_second(kind, executions):
    slowest = run(kind, executions, SEED)
    print(f"fuzz {kind}: {executions} executions, slowest {slowest * 1000:.1f} ms")


def test_any_text_is_a_template_or_not_one():
    chance = random.Random(7)
    words = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "-",
        "'",
        '"',
        "\\",
        "x",
        ".",
        "[",
        "]",
        "(",
        ")",
        "|",
        "attr",
        "set",
        "=",
        " ",
    ]
    for _ in range(2000):
        text = "".join(chance.choices(words, k=chance.randint(0, 60)))
        assert all(isinstance(what, str) for what in templates.objections(text))


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("t.jinja", b"{{ " + b"(" * 200_000),
        ("t.jinja", b"{{ '" + b"\\" * 500_000),
        ("t.jinja", b"{{ x }}" * 150_000),
        ("t.jinja", b"{{" + b" a[" * 20_000 + b"0" + b"]" * 20_000 + b"}}"),
        ("t.jinja", b"{% set a = 'x' ~ 'y' %}" * 40_000),
        ("a.bin", b"(" * 500_000 + b"t" * 10),
        ("a.bin", b"\x80\x04" + b"N\x94" * 200_000 + b"."),
        ("a.bin", b"\x80\x04(" + b"(" * 90_000 + b"1" * 90_000 + b"."),
        ("a.bin", b"I" + b"9" * 60_000 + b"\n."),
        ("a.bin", b"S'" + b"'" * 60_000 + b"\n."),
        ("a.json", b"[" * 1_000_000),
        ("a.json", b'{"a":' * 200_000),
        ("a.json", b"[" + b"0," * 200_000 + b"0]"),
        ("a.json", b'{"chat_template":"' + b"{{" * 200_000 + b'"}'),
        ("a.yaml", b"!" * 400_000),
        ("a.yaml", b"- !!x\n" * 60_000),
        ("a.txt", b"c" + b"a" * 500_000),
        ("a.zip", b"PK\x05\x06" * 100_000),
        ("a.bin", b"x" * 300_000 + b"PK\x05\x06" * 16_000),
        ("a.tar", b"\0" * 400_000),
        ("a.model", b"\x0a\x00" * 200_000),
        ("a.onnx", b"\x08\x01\x3a\x00" * 100_000),
        ("m.gguf", models.gguf({f"k{n}": (9, struct.pack("<IQ", 0, 0)) for n in range(20_000)})),
        ("m.gguf", models.gguf({"a": models.gguf_texts([""] * 300_000)})),
        ("m.safetensors", models.safetensors_raw(b"[" * 500_000)),
        (
            "m.safetensors",
            models.safetensors_raw(json.dumps({"__metadata__": {str(n): "" for n in range(50_000)}}).encode()),
        ),
        ("m.npy", models.npy("[" + "('a', '<f4'), " * 500 + "]", (1,), b"")),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_what_is_made_to_take_long_does_not(path, raw):
    begin = time.thread_time()
    gate.scan_file(path, gate.Held(raw), frozenset())
    assert time.thread_time() - begin < SECONDS
