import hashlib
import json

import pytest

from modelreg import statements
from modelreg.canonical import canonical_json
from modelreg.digests import Digest
from modelreg.errors import SignatureInvalid
from modelreg.statements import SignedFile
from support.fuzzing import assert_value_or_refusal, bounded, given, json_texts, mutations, st
from support.paths import REFUSED, TWINS
from support.signed import MANIFEST, PAYLOAD, changed_payload

A, B = "a" * 64, "b" * 64


def with_files(*files):
    """A v1.0 statement of these (name, sha256) with the right root digest."""

    def change(it):
        it["predicate"]["resources"] = [
            {"name": name, "algorithm": "sha256", "digest": sha256} for name, sha256 in files
        ]
        root = hashlib.sha256(b"".join(bytes.fromhex(sha256) for _, sha256 in files)).hexdigest()
        it["subject"][0] = {"name": "m", "digest": {"sha256": root}}

    return changed_payload(change)


def legacy(*files):
    return json.dumps(
        {
            "_type": statements.STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in files],
            "predicateType": statements.OMS_PREDICATE_0_2,
            "predicate": {"unused": "x"},
        }
    ).encode()


def test_a_statement_reads_back_what_the_manifest_says():
    statement = statements.parse(PAYLOAD)

    assert statement.name == "llama"
    assert statement.artifact == MANIFEST.digest
    assert [(file.path, file.size, file.sha256, file.blake3) for file in statement.files] == [
        (entry.path, entry.size, entry.sha256, entry.blake3) for entry in MANIFEST.files
    ]


def test_the_root_digest_is_over_the_digests_in_order():
    expected = hashlib.sha256(b"".join(bytes.fromhex(entry.sha256) for entry in MANIFEST.files)).hexdigest()

    assert statements.parse(PAYLOAD).root_digest == Digest("sha256", expected)
    assert json.loads(PAYLOAD)["subject"][0]["digest"] == {"sha256": expected}


def test_a_statement_is_canonical_json():
    assert canonical_json(json.loads(PAYLOAD)) == PAYLOAD


def test_a_foreign_statement_has_no_sizes_and_no_artifact():
    statement = statements.parse(with_files(("b", A), ("a", B)))

    assert statement.files == (SignedFile("b", A), SignedFile("a", B))
    assert statement.artifact is None


@pytest.mark.parametrize("annotations", [[], "x", None, {}, {"note": 1}], ids=ascii)
def test_foreign_annotations_are_no_promise(annotations):
    payload = changed_payload(lambda it: it["predicate"]["resources"][0].update(annotations=annotations))

    first = statements.parse(payload).files[0]

    assert (first.size, first.blake3) == (None, None)


def test_signed_ignore_paths_are_read_and_never_honoured():
    payload = changed_payload(lambda it: it["predicate"]["serialization"].update(ignore_paths=["evil.py", "."]))

    assert statements.parse(payload).files == statements.parse(PAYLOAD).files


def _resource(**members):
    return lambda it: it["predicate"]["resources"][0].update(members)


def _without_in_resource(name):
    return lambda it: it["predicate"]["resources"][0].pop(name)


def _serialization(**members):
    return lambda it: it["predicate"]["serialization"].update(members)


def _subject(**members):
    return lambda it: it["subject"][0].update(members)


WRONG = {
    "type absent": lambda it: it.pop("_type"),
    "type v0.1": lambda it: it.update(_type="https://in-toto.io/Statement/v0.1"),
    "type a list": lambda it: it.update(_type=[statements.STATEMENT_TYPE]),
    "unknown member": lambda it: it.update(extra=1),
    "predicate type absent": lambda it: it.pop("predicateType"),
    "predicate type of SLSA": lambda it: it.update(predicateType="https://slsa.dev/provenance/v1"),
    "predicate type of 0.2": lambda it: it.update(predicateType=statements.OMS_PREDICATE_0_2),
    "predicate type with a slash more": lambda it: it.update(predicateType=statements.OMS_PREDICATE + "/"),
    "predicate absent": lambda it: it.pop("predicate"),
    "predicate a list": lambda it: it.update(predicate=[]),
    "subject absent": lambda it: it.pop("subject"),
    "subject an object": lambda it: it.update(subject=it["subject"][0]),
    "no subject": lambda it: it.update(subject=[]),
    "two subjects": lambda it: it["subject"].append(it["subject"][0]),
    "subject a string": lambda it: it.update(subject=["x"]),
    "subject without digest": lambda it: it["subject"][0].pop("digest"),
    "subject with another digest": _subject(digest={"sha256": A}),
    "subject with an upper case digest": lambda it: _subject(
        digest={"sha256": it["subject"][0]["digest"]["sha256"].upper()}
    )(it),
    "subject digest of another algorithm": _subject(digest={"sha512": A * 2}),
    "subject digest a string": _subject(digest=A),
    "subject name a number": _subject(name=1),
    "artifact malformed": _subject(annotations={"artifact": "latest"}),
    "artifact a number": _subject(annotations={"artifact": 1}),
    "method shards": _serialization(method="shards", shard_size=1),
    "hash type blake3": _serialization(hash_type="blake3"),
    "symlinks allowed": _serialization(allow_symlinks=True),
    "symlinks null": _serialization(allow_symlinks=None),
    "method absent": lambda it: it["predicate"]["serialization"].pop("method"),
    "serialization absent": lambda it: it["predicate"].pop("serialization"),
    "serialization a string": lambda it: it["predicate"].update(serialization="files"),
    "resources absent": lambda it: it["predicate"].pop("resources"),
    "resources an object": lambda it: it["predicate"].update(resources={}),
    "resource a string": lambda it: it["predicate"].update(resources=["x"]),
    "resource without name": _without_in_resource("name"),
    "resource without digest": _without_in_resource("digest"),
    "resource without algorithm": _without_in_resource("algorithm"),
    "resource name a number": _resource(name=1),
    "resource of blake2b": _resource(algorithm="blake2b"),
    "resource of a shard": _resource(algorithm="sha256-sharded-100"),
    "resource digest upper case": _resource(digest="A" * 64),
    "resource digest short": _resource(digest="aa"),
    "resource digest with algorithm": _resource(digest=f"sha256:{A}"),
    "resource digest changed": _resource(digest=B),
    "size negative": _resource(annotations={"size": -1}),
    "size text": _resource(annotations={"size": "2"}),
    "size true": _resource(annotations={"size": True}),
    "size a fraction": _resource(annotations={"size": 2.0}),
    "blake3 malformed": _resource(annotations={"blake3": "b"}),
    "blake3 a number": _resource(annotations={"blake3": 1}),
    "resources in another order": lambda it: it["predicate"]["resources"].reverse(),
}


@pytest.mark.parametrize("name", WRONG)
def test_step_1_refuses_a_statement_with(name):
    with pytest.raises(SignatureInvalid):
        statements.parse(changed_payload(WRONG[name]))


def test_step_1_refuses_a_statement_of_no_file():
    for payload, legacy_0_2 in ((with_files(), False), (legacy(), True)):
        with pytest.raises(SignatureInvalid, match="at least one file"):
            statements.parse(payload, legacy_0_2=legacy_0_2)


@pytest.mark.parametrize(
    "path", [path for path in REFUSED if path.isprintable()][::3], ids=lambda path: ascii(path)[:30]
)
def test_step_1_refuses_a_resource_with_a_harmful_name(path):
    for payload, legacy_0_2 in ((with_files(("x", A), (path, B)), False), (legacy(("x", A), (path, B)), True)):
        with pytest.raises(SignatureInvalid, match="the statement's files"):
            statements.parse(payload, legacy_0_2=legacy_0_2)


@pytest.mark.parametrize(("one", "other"), TWINS, ids=ascii)
def test_step_1_refuses_two_resources_for_one_file(one, other):
    for payload, legacy_0_2 in ((with_files((one, A), (other, B)), False), (legacy((one, A), (other, B)), True)):
        with pytest.raises(SignatureInvalid, match="the statement's files"):
            statements.parse(payload, legacy_0_2=legacy_0_2)


def test_a_statement_of_0_2_is_read_only_when_asked_for():
    payload = legacy(("signme-1", A), ("signme-2", B))

    statement = statements.parse(payload, legacy_0_2=True)

    assert statement.files == (SignedFile("signme-1", A), SignedFile("signme-2", B))
    assert (statement.root_digest, statement.artifact) == (None, None)
    with pytest.raises(SignatureInvalid, match="predicate type"):
        statements.parse(payload)
    with pytest.raises(SignatureInvalid, match="predicate type"):
        statements.parse(PAYLOAD, legacy_0_2=True)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b"\xff", PAYLOAD + b"x", PAYLOAD + PAYLOAD, b"[" * 10_000])
def test_step_1_refuses_a_payload_that_is_not_one_json_object(raw):
    with pytest.raises(SignatureInvalid):
        statements.parse(raw)


@bounded
@given(st.binary(max_size=300))
def test_any_bytes_are_a_statement_or_invalid(raw):
    assert_value_or_refusal(statements.parse, raw)


@bounded
@given(
    st.sampled_from(
        [
            ("_type",),
            ("subject",),
            ("subject", 0),
            ("subject", 0, "name"),
            ("subject", 0, "digest"),
            ("subject", 0, "digest", "sha256"),
            ("subject", 0, "annotations"),
            ("subject", 0, "annotations", "artifact"),
            ("predicateType",),
            ("predicate",),
            ("predicate", "serialization"),
            ("predicate", "serialization", "method"),
            ("predicate", "serialization", "allow_symlinks"),
            ("predicate", "resources"),
            ("predicate", "resources", 0),
            ("predicate", "resources", 0, "name"),
            ("predicate", "resources", 0, "digest"),
            ("predicate", "resources", 0, "algorithm"),
            ("predicate", "resources", 0, "annotations"),
            ("predicate", "resources", 0, "annotations", "size"),
            ("predicate", "resources", 0, "annotations", "blake3"),
        ]
    ),
    json_texts(),
    st.booleans(),
)
def test_any_value_of_a_member_is_a_statement_or_invalid(path, value, legacy_0_2):
    def change(members):
        at = members
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value

    payload = changed_payload(change)
    assert_value_or_refusal(lambda raw: statements.parse(raw, legacy_0_2=legacy_0_2), payload)
    assert_value_or_refusal(
        lambda raw: statements.parse(raw, legacy_0_2=legacy_0_2), legacy(("a", A)) if not legacy_0_2 else payload
    )


def test_a_damaged_statement_is_a_statement_or_invalid():
    for raw in mutations(PAYLOAD):
        assert_value_or_refusal(statements.parse, raw)


@pytest.mark.parametrize("member", ["_type", "predicateType", "subject"])
def test_a_value_nested_to_the_edge_of_the_parser_is_still_only_invalid(member):
    for depth in range(850, 1000, 3):
        raw = changed_payload(lambda it: it.update({member: "@"})).replace(b'"@"', b"[" * depth + b"]" * depth)
        with pytest.raises(SignatureInvalid):
            statements.parse(raw)
