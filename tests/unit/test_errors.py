import json
import pickle
import re

import pytest

from modelreg import errors
from modelreg.errors import ModelregError, all_errors


def test_the_tree_drawn_at_the_top_is_the_tree():
    drawn = set(re.findall(r"[─├└] *([A-Z][A-Za-z]+)", errors.__doc__)) | {"ModelregError"}

    assert drawn == {kind.__name__ for kind in all_errors()}


def test_every_class_has_its_own_code_and_a_title():
    kinds = all_errors()

    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all("code" in vars(kind) and "title" in vars(kind) for kind in kinds)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code) for kind in kinds)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.code)
def test_no_error_exits_with_success(kind):
    assert 0 < kind.exit_code < 126
    assert 400 <= kind.status < 600


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.code)
def test_an_error_crosses_a_process_with_its_facts(kind):
    error = kind("what, where, what next", path="a/b", chunk=3)

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), copy.detail, copy.facts) == (kind, error.detail, error.facts)
    assert str(copy) == "what, where, what next"
    assert json.dumps(copy.facts)


def test_parents_come_before_children():
    seen = set()
    for kind in all_errors():
        assert kind is ModelregError or kind.__base__ in seen
        seen.add(kind)


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("SignatureMissing", 10),
        ("NotFound", 11),
        ("SignerNotAllowed", 12),
        ("SignatureInvalid", 13),
        ("StaleTrust", 14),
        ("DigestMismatch", 20),
        ("ManifestInvalid", 20),
        ("Revoked", 21),
        ("Quarantined", 21),
        ("PolicyRefused", 22),
        ("Unauthenticated", 30),
        ("Forbidden", 30),
        ("Unreachable", 31),
        ("RecordUnavailable", 32),
    ],
)
def test_exit_codes_are_those_of_the_design(name, exit_code):
    assert getattr(errors, name).exit_code == exit_code
