"""Records of datasets, declassifications, derivations and Croissant files: read as they were written, or refused."""

import json
from datetime import UTC, datetime

import pytest

from modelreg import croissant, datasets, declassification, provenance
from modelreg.classification import Classification, highest, parse_classification
from modelreg.datasets import Dataset
from modelreg.declassification import Declassification
from modelreg.errors import Invalid, SignatureInvalid
from support.fuzzing import assert_value_or_refusal, bounded, given, json_texts, mutations, st
from support.keys import NOW
from support.signed import digest

PUBLIC, INTERNAL, CONFIDENTIAL, RESTRICTED = Classification
RECORD = Dataset(
    "acme/rows",
    digest("a"),
    "team:data",
    RESTRICTED,
    "contract",
    ("eu-1",),
    datetime(2028, 1, 1, tzinfo=UTC),
    "https://x",
    NOW,
)


def test_a_record_is_read_as_it_was_written():
    assert datasets.read(digest("a"), json.loads(json.dumps(RECORD.predicate))) == RECORD
    plain = Dataset("acme/rows", digest("a"), "o", PUBLIC, "b")
    assert plain.predicate == {
        "name": "acme/rows", "owner": "o", "classification": "public", "lawful_basis": "b", "residency": [],
        "retention_until": None, "source": None,
    }  # fmt: skip
    assert datasets.read(digest("a"), plain.predicate) == plain


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("name", "rows"), ("name", None), ("owner", ""), ("owner", " "), ("owner", "a\nb"), ("owner", "x" * 201),
        ("classification", "secret"), ("classification", ["public"]), ("lawful_basis", None), ("residency", "eu-1"),
        ("residency", [1]), ("residency", ["EU"]), ("residency", ["eu-1", "eu-1"]),
        ("residency", [f"z{at}" for at in range(33)]), ("retention_until", "2028-01-01"), ("retention_until", "soon"),
        ("retention_until", 7), ("retention_until", "9999-12-31T23:59:59-23:00"), ("source", ""), ("source", 7),
        ("source", "x" * 2001), ("stated_at", "2028-01-01T00:00:00"), ("more", 1),
    ],
)  # fmt: skip
def test_a_malformed_record_is_refused(member, value):
    with pytest.raises(SignatureInvalid):
        datasets.read(digest("a"), {**RECORD.predicate, member: value})


def test_a_record_lacks_no_member():
    for member in RECORD.predicate.keys() - {"stated_at"}:
        with pytest.raises(SignatureInvalid):
            datasets.read(digest("a"), {name: value for name, value in RECORD.predicate.items() if name != member})


@bounded
@given(st.sampled_from(sorted(RECORD.predicate)), json_texts())
def test_any_json_in_any_member_is_a_record_or_refused(member, value):
    assert_value_or_refusal(lambda found: datasets.read(digest("a"), {**RECORD.predicate, member: found}), value)


# Declassifications


SAID = Declassification(digest("a"), RESTRICTED, INTERNAL, "no data left", ("person:riko",))


def test_a_declassification_is_read_as_it_was_written_and_names_its_subject():
    assert declassification.read(digest("a"), SAID.predicate) == SAID
    with pytest.raises(SignatureInvalid, match="is about"):
        declassification.read(digest("b"), SAID.predicate)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("from", "internal"), ("from", "public"), ("to", "restricted"), ("to", None), ("to", "none"), ("reason", ""),
        ("reason", "a\nb"), ("reason", "x" * 501), ("approved_by", "riko"), ("approved_by", [1]), ("approved_by", ["x"] * 17),
        ("artifact", "x"), ("artifact", 7), ("more", 1),
    ],
)  # fmt: skip
def test_a_malformed_declassification_is_refused(member, value):
    with pytest.raises(SignatureInvalid):
        declassification.read(digest("a"), {**SAID.predicate, member: value})


@bounded
@given(st.sampled_from(sorted(SAID.predicate)), json_texts())
def test_any_json_in_any_member_is_a_declassification_or_refused(member, value):
    assert_value_or_refusal(lambda found: declassification.read(digest("a"), {**SAID.predicate, member: found}), value)


def test_a_declassification_lowers_what_it_covers_and_nothing_above():
    low = Declassification(digest("a"), CONFIDENTIAL, INTERNAL, "r")
    assert [low.lowers(one) for one in Classification] == [PUBLIC, INTERNAL, INTERNAL, RESTRICTED]
    assert declassification.best([], RESTRICTED) is RESTRICTED
    assert declassification.best([low, SAID], RESTRICTED) is INTERNAL
    for one in Classification:  # monotone, so that classes settle also in circles
        above = [other for other in Classification if other.rank >= one.rank]
        assert all(low.lowers(other).rank >= low.lowers(one).rank for other in above)


def test_classes_are_in_one_order():
    assert highest([INTERNAL, RESTRICTED, PUBLIC]) is RESTRICTED
    assert highest([]) is None
    assert parse_classification("internal") is INTERNAL
    with pytest.raises(Invalid, match="public, internal, confidential, restricted"):
        parse_classification("secret")


# Derivations


def made(relation="finetune", parents=1, sets=1, **more):
    return provenance.Derivation(
        relation,
        tuple(provenance.Input(digest("a"), "acme/base") for _ in range(parents)),
        tuple(provenance.Input(digest("b"), "acme/rows") for _ in range(sets)),
        **more,
    )


def predicate(one):
    return provenance.predicate_of(one, version="1", started_at=NOW, finished_at=NOW)


@pytest.mark.parametrize(
    "one",
    [
        made(training_run="https://ci/1", classification=RESTRICTED),
        made("adapter", sets=0),
        made("original", parents=0, sets=0, classification=PUBLIC),
        made("original", parents=0),
        made("distilled", parents=0),
    ],
)
def test_a_derivation_is_read_as_it_was_written(one):
    assert provenance.read(predicate(one)) == one


@pytest.mark.parametrize(
    "one", [made("cousin"), made(parents=0, sets=0), made("original"), made(parents=65), made(sets=1001)]
)
def test_a_derivation_that_says_nothing_too_much_or_contradicts_itself_is_not_made(one):
    with pytest.raises(Invalid):
        predicate(one)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["buildDefinition"].pop("externalParameters"),
        lambda p: p["buildDefinition"].update(buildType="x"),
        lambda p: p["buildDefinition"]["externalParameters"].update(relation="cousin"),
        lambda p: p["buildDefinition"]["externalParameters"].update(relation="original"),
        lambda p: p["buildDefinition"]["externalParameters"].update(classification="secret"),
        lambda p: p["buildDefinition"]["externalParameters"].update(training_run="a\nb"),
        lambda p: p["buildDefinition"].update(resolvedDependencies=[]),
        lambda p: p["buildDefinition"].update(resolvedDependencies={}),
        lambda p: p["buildDefinition"]["resolvedDependencies"][0]["annotations"].update(role="uncle"),
        lambda p: p["buildDefinition"]["resolvedDependencies"][0].update(digest={"sha256": "x"}),
        lambda p: p["buildDefinition"]["resolvedDependencies"][0].pop("name"),
        lambda p: p["buildDefinition"].update(resolvedDependencies=p["buildDefinition"]["resolvedDependencies"] * 65),
    ],
)
def test_a_malformed_derivation_is_refused(change):
    members = predicate(made())
    change(members)
    with pytest.raises(SignatureInvalid):
        provenance.read(members)


# Croissant


CROISSANT = {
    "@context": {"sc": "https://schema.org/"},
    "@type": "sc:Dataset",
    "name": "rows",
    "sc:url": "https://data.example/rows",
    "license": {"@id": "https://spdx.org/licenses/MIT"},
    "creator": [{"@type": "Person", "name": "Dana"}, {"name": "Eve"}],
    "distribution": [
        {"@type": "cr:FileObject", "contentUrl": "./a.jsonl", "sha256": "a" * 64},
        {"@type": "cr:FileSet", "contentUrl": "b", "sha256": "b" * 64},
        {"@type": ["cr:FileObject"], "contentUrl": "c", "sha256": "short"},
        7,
    ],
}


def test_a_croissant_file_gives_names_and_digests_of_files():
    found = croissant.parse(json.dumps(CROISSANT).encode())
    assert (found.name, found.url, found.creator) == ("rows", "https://data.example/rows", "Dana")
    assert found.licence == "https://spdx.org/licenses/MIT"
    assert found.files == {"a.jsonl": "a" * 64}


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"@type": "Dataset"}', b'{"@context": 1, "@type": "Person"}', b"{" * 9, b"\xff"]
)
def test_what_is_no_croissant_file_is_refused(raw):
    with pytest.raises(Invalid):
        croissant.parse(raw)


def test_a_croissant_file_is_bounded():
    with pytest.raises(Invalid, match="limit"):
        croissant.parse(b" " * (croissant.MAX_CROISSANT_BYTES + 1))
    many = {**CROISSANT, "distribution": [{}] * (croissant.MAX_FILES + 1)}
    with pytest.raises(Invalid, match="limit"):
        croissant.parse(json.dumps(many).encode())


def test_a_broken_croissant_file_is_read_or_refused():
    for raw in mutations(json.dumps(CROISSANT).encode(), 400):
        assert_value_or_refusal(croissant.parse, raw)


@bounded
@given(st.sampled_from(sorted(CROISSANT)), json_texts())
def test_any_json_in_a_croissant_file_is_read_or_refused(member, value):
    raw = json.dumps({**CROISSANT, member: value}).encode()
    assert_value_or_refusal(croissant.parse, raw)
