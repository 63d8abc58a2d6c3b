"""The specification pages say what the vectors and the constants say."""

import hashlib
import importlib
import json
import re
from pathlib import Path

import pytest

from modelreg import bundles, errors, trust
from support import keys
from support.sigstore_local import LocalSigstore

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors"
PAGES = {
    name: (ROOT / "docs" / "spec" / f"{name}.md")
    for name in ("manifest", "signature", "trust-policy", "verification", "custody-log", "attestations")
}

WORKED = re.compile(r"<!-- worked: ([a-z0-9-]+) ?([^>]*?) ?-->\n```\w*\n(.*?)\n```", re.DOTALL)
BLOCKS = [
    pytest.param(name, *match.groups(), id=f"{name}: {match.group(1)} {match.group(2)}")
    for name, page in PAGES.items()
    for match in WORKED.finditer(page.read_text())
]


def expected(kind, words):
    path, *more = words.split()
    raw = (VECTORS / path).read_bytes()
    match kind:
        case "bytes":
            return raw.decode()
        case "text":
            return raw.decode().replace("\n", "")
        case "leaf":
            return hashlib.sha256(b"\0" + raw).hexdigest()
        case "commitment":
            return json.loads(raw)["commitment"]
        case "hex":
            return raw.hex()
        case "sha256":
            return f"sha256:{hashlib.sha256(raw).hexdigest()}"
        case "pae":
            return bundles.pae(raw)[:48].hex()
        case "hint":
            return bundles.parse(raw).hint
        case "key-id":
            authority, name = more
            return str(next(key.key_id for key in trust.parse(raw).authorities[authority].keys if key.name == name))
    raise AssertionError(f"nobody knows how to work {kind}")


@pytest.mark.parametrize(("page", "kind", "words", "block"), [block for block in BLOCKS if block.values[1] != "policy"])
def test_worked_bytes_on_the_page_are_those_of_the_vectors(page, kind, words, block):
    assert block.replace("\n", "") == expected(kind, words)


def test_no_worked_block_is_skipped():
    marked = sum(page.read_text().count("<!-- worked: ") for page in PAGES.values())

    assert marked == len(BLOCKS) + 1  # and the table of cases
    assert len(BLOCKS) >= 8


def test_the_policy_on_the_page_is_a_policy_but_for_its_keys(tmp_path):
    (text,) = (block.values[3] for block in BLOCKS if block.values[1] == "policy")
    text = text.replace("-----BEGIN CERTIFICATE-----…", keys.make_chain().root_pem)
    text = text.replace('{"mediaType": …}', LocalSigstore("http://127.0.0.1:1", tmp_path).trusted_root)
    text = text.replace("'''-----BEGIN PUBLIC KEY-----…'''", json.dumps(keys.public_pem(keys.make_key())))

    parsed = trust.parse(text.encode())

    assert (parsed.version, set(parsed.authorities)) == (3, {"corp-pki", "ops", "private-sigstore"})


def test_the_table_of_cases_is_that_of_the_vectors():
    rows = re.findall(
        r"(?m)^\| ([^|]+) \| `([^`]+)` \| (verified )?`([^`]+)` \| (?:(\d) )?\|$", PAGES["verification"].read_text()
    )
    cases = json.loads((VECTORS / "signature" / "cases.json").read_bytes())

    assert [
        (name, f"{bundle}.sig.json", "verified" if verified else "refused", result, int(step) if step else None)
        for name, bundle, verified, result, step in rows
    ] == [
        (
            name,
            case["bundle"],
            *next((key, case[key]) for key in ("verified", "refused") if key in case),
            case.get("step"),
        )
        for name, case in cases.items()
    ]


@pytest.mark.parametrize("name", PAGES)
def test_limits_on_the_page_are_those_of_the_code(name):
    limits = re.findall(r"(?m)^\| `(\w+)\.(MAX_\w+)` \| (\d+) \|", PAGES[name].read_text())

    for module, constant, value in limits:
        assert getattr(importlib.import_module(f"modelreg.{module}"), constant) == int(value)
    assert limits or name == "verification"


def test_every_limit_of_the_core_is_on_a_page():
    pages = "".join(page.read_text() for page in PAGES.values())

    for module in ("manifests", "bundles", "trust", "trusted_root", "verification"):
        for constant in vars(importlib.import_module(f"modelreg.{module}")):
            if constant.startswith("MAX_") and constant not in {"MAX_CLOCK_SKEW"}:
                assert f"`{module}.{constant}`" in pages


def test_refusals_on_the_page_have_the_codes_and_exits_of_the_tree():
    kinds = {kind.code: kind for kind in errors.all_errors()}
    rows = re.findall(r"(?m)^\| ((?:`[a-z-]+`(?:, )?)+) \| (\d+) \|", PAGES["verification"].read_text())

    assert len(rows) == 7
    for codes, exit_code in rows:
        for code in re.findall(r"`([a-z-]+)`", codes):
            assert kinds[code].exit_code == int(exit_code)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_begins_with_its_words(name):
    headings = re.findall(r"(?m)^## (.+)$", PAGES[name].read_text())

    assert headings[0] == "Terminology"


def test_the_steps_of_the_code_are_those_of_the_page():
    from modelreg import verification

    steps = re.compile(r"(?m)^(\d)\. ")

    assert steps.findall(PAGES["verification"].read_text()) == steps.findall(verification.__doc__) == list("123456789")


def test_the_gate_s_page_has_its_rules_and_limits():
    from modelreg import gate
    from modelreg.gate import configs, looking, pickles, readable, report, templates
    from modelreg.gate import gguf as gguf_gate

    page = (ROOT / "docs" / "spec" / "gate.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (block|warn) \|", page, re.MULTILINE))
    assert rows == {rule: severity for rule, (severity, _) in gate.RULES.items()}
    assert all(f"| {text} |" in page for _, text in gate.RULES.values())
    assert f"rules {gate.RULES_VERSION}" in page
    mib = 1 << 20
    for text in (
        f"{readable.MAX_READS:,}, {readable.MAX_READ_BYTES // mib} MiB",
        f"{configs.MAX_BYTES // mib} MiB, {configs.MAX_VALUES:,} values, {configs.MAX_DEPTH} deep",
        f"{gguf_gate.MAX_HEADER_BYTES // mib} MiB, {gguf_gate.MAX_TENSORS:,} tensors, {gguf_gate.MAX_MEMBERS:,} members",
        f"{gguf_gate.MAX_ITEMS:,} items, {gguf_gate.MAX_TEXT_BYTES // mib} MiB a text",
        f"{looking.MAX_DEPTH} deep, {looking.MAX_MEMBERS:,} entries, {looking.MAX_MEMBER_BYTES // mib} MiB an entry",
        f"{looking.MAX_UNPACKED_BYTES // mib} MiB in all",
        f"{pickles.MAX_OPCODES:,} opcodes, {pickles.MAX_PICKLES} pickles",
        f"{templates.MAX_CHARS:,} characters, {templates.MAX_TOKENS:,} words, brackets {templates.MAX_DEPTH} deep",
        f"| {report.MAX_FINDINGS_OF_FILE}, {report.MAX_FINDINGS_STATED:,} |",
    ):
        assert text in page, text
