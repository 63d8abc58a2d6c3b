"""What will run, found out from files alone."""

import pytest

from modelreg import runtimes
from modelreg.runtimes import Runtime


@pytest.fixture
def prefix(tmp_path):
    """A virtual environment as far as files go: an interpreter's name and two distributions."""
    made = tmp_path / "venv"
    site = made / "lib" / "python3.12" / "site-packages"
    for name, version, points in (("vllm", "0.9.1", "vllm = vllm.main:run"), ("other-server", "2.0", "serve = o:run")):
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[console_scripts]\n{points}\n")
    (made / "bin").mkdir()
    for name, text in (
        ("python3", "#!/bin/sh\nexit 1\n"),
        ("vllm", f"#!{made}/bin/python3\n"),
        ("serve", f"#!{made}/bin/python3\n"),
        ("mine", f"#!{made}/bin/python3\n"),
        ("by-env", "#!/usr/bin/env python3\n"),
        ("binary", "\x7fELF"),
    ):
        (made / "bin" / name).write_text(text)
        (made / "bin" / name).chmod(0o755)
    return made


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["vllm", "serve", "{model}"], Runtime("vllm", "0.9.1")),
        (["serve"], Runtime("other-server", "2.0")),
        (["python3", "-m", "vllm.entrypoints.openai.api_server"], Runtime("vllm", "0.9.1")),
        (["python3", "-u", "-m", "other_server"], Runtime("other-server", "2.0")),
        (["python3", "-m", "nobody.knows"], None),
        (["python3", "script.py", "-m", "vllm"], None),
        (["python3", "-m"], None),
        (["python3"], None),
        (["mine"], None),
        (["by-env"], None),
        (["binary"], None),
        (["not-there"], None),
        (["/proc/self/mem"], None),
    ],
)
def test_a_runtime_is_found_by_its_distribution_or_not_at_all(prefix, command, expected):
    assert runtimes.of_command(command, str(prefix / "bin")) == expected


@pytest.mark.parametrize("text", ["Name: vllm\n", "", "Name: vllm\nVersion: \x1b[31m1\n", "\xff"])
def test_damaged_metadata_is_no_runtime(prefix, text):
    info = prefix / "lib" / "python3.12" / "site-packages" / "vllm-0.9.1.dist-info" / "METADATA"
    info.write_bytes(text.encode("latin-1"))
    assert runtimes.of_command(["vllm"], str(prefix / "bin")) is None
