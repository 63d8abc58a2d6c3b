"""What the pages say is what the code does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelreg import errors

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_pages_are_those_the_code_makes():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "build-docs", "--check"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_every_error_has_a_code_of_its_own_and_is_drawn_in_the_tree():
    kinds = errors.all_errors()

    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert re.search(rf"\b{kind.__name__}\b", errors.__doc__)


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_exit_codes_in_the_help_are_those_of_the_errors():
    from modelreg import cli

    told = {int(code) for code in re.findall(r"(?:^|\s{2,})\s*(\d{1,3}) [a-z]", cli._EXIT_CODES, re.MULTILINE)}

    assert {kind.exit_code for kind in errors.all_errors()} <= told
