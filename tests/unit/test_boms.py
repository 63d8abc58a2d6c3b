"""Bills of materials: valid by the official schemas, reproducible, and without a word that nobody said."""

import copy
import json
import re
from datetime import timedelta

import pytest

from modelreg import bom_values, cyclonedx, minimum_elements, provenance_chain, spdx
from modelreg.classification import Classification
from modelreg.digests import sha256_of
from modelreg.errors import Invalid
from modelreg.provenance_file import ClaimedParent, CollectedRecall
from support import shared
from support.chained import AT, Made, a_manifest, derivation_of, full, import_of
from support.registry import SIGNER, Trust

SPDX_SCHEMA = shared.SHARED / "schemas" / "spdx-3.0.1.schema.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(Trust(tmp_path_factory.mktemp("trust"), made_at=AT))


@pytest.fixture
def chain_of(made):
    return lambda file: provenance_chain.verify(file, made.trust.policy, AT)


def bare(made):
    return made.file(made.artifact("demo/m", a_manifest()))


def hostile(made):
    """Everything that a signer or a registry may write into a chain, at its strangest."""
    manifest, base, data = a_manifest("Ünï cödé/模型 1.bin", "b"), a_manifest(), sha256_of(b"d")
    said = derivation_of(("not a repository ✓", base.digest), datasets=(("some data <x>", data),), relation="adapter")
    imported = import_of(manifest, licence="llama3.1 community (see file)", source="https://host/a b?q=é|{}")
    item = made.artifact(
        "demo/m",
        manifest,
        made.provenance("demo/m", manifest.digest, said),
        made.provenance("demo/m", manifest.digest, imported),
        recall=CollectedRecall(kind="quarantine", reason="suspicious", created_at=AT),
        claimed=[ClaimedParent(artifact=str(sha256_of(b"c")), relation="merge", grade="claimed", event=3)],
    )
    return made.file(item, datasets=[made.dataset("some data <x>", data, source="s3://bucket/a b", owner="ö")])


def doubled(made):
    """Two people signed the same artifact and stated the same of it; the registry says how sensitive it is."""
    file = full(made)
    first = file.artifacts[0]
    twice = {"signatures": first.signatures * 2, "statements": first.statements * 2}
    return file.model_copy(
        update={
            "artifacts": [
                first.model_copy(update={**twice, "classification": Classification.RESTRICTED}),
                *file.artifacts[1:],
            ]
        }
    )


KINDS = {"full": full, "bare": bare, "hostile": hostile, "doubled": doubled}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", cyclonedx.SPEC_VERSIONS)
def test_cyclonedx_documents_are_valid_by_the_official_schema_strictly(made, chain_of, kind, version):
    errors = cyclonedx_errors(cyclonedx.build(chain_of(KINDS[kind](made)), AT, version), version)
    assert errors is None


def cyclonedx_errors(document, version):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator({"1.6": SchemaVersion.V1_6, "1.7": SchemaVersion.V1_7}[version])
    return validator.validate_str(json.dumps(document))


@pytest.mark.parametrize("version", cyclonedx.SPEC_VERSIONS)
def test_the_validator_would_notice_a_wrong_member(made, chain_of, version):
    document = cyclonedx.build(chain_of(full(made)), AT, version)
    for spoil in (
        lambda d: d["metadata"]["component"].update({"modelcard": {}}),
        lambda d: d["metadata"]["component"]["hashes"][0].update({"content": "zz"}),
        lambda d: d["components"][0].update({"type": "model"}),
        lambda d: d.update({"serialNumber": "1"}),
    ):
        spoiled = copy.deepcopy(document)
        spoil(spoiled)
        assert cyclonedx_errors(spoiled, version) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_spdx_documents_are_read_by_the_official_model_and_written_back_the_same(made, chain_of, kind):
    from spdx_python_model import v3_0_1

    document = spdx.build(chain_of(KINDS[kind](made)), AT)
    objects = v3_0_1.SHACLObjectSet()
    v3_0_1.JSONLDDeserializer().deserialize_data(document, objects)
    assert {type(one).__name__ for one in objects.objects} >= {
        *("CreationInfo", "SpdxDocument", "software_Sbom", "ai_AIPackage", "software_File", "Relationship"),
    }
    assert not list(objects.link()), "an element refers to one that is not there"
    written = v3_0_1.JSONLDSerializer().serialize_data(objects)
    assert by_id(written) == by_id(document)


def by_id(document):
    """Elements by their ids; the name of the one blank node is the writer's business."""
    (creation,) = {element["creationInfo"] for element in document["@graph"] if "creationInfo" in element}
    found = {}
    for element in document["@graph"]:
        if element["type"] == "CreationInfo":
            assert element["@id"] == creation
        members = {name: value for name, value in element.items() if name not in {"@id", "creationInfo"}}
        found[element.get("spdxId", "creation")] = members
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_spdx_documents_are_valid_by_the_official_schema(made, chain_of, kind):
    import jsonschema

    if not SPDX_SCHEMA.exists():
        pytest.skip(f"{SPDX_SCHEMA} is missing: spdx-spec, branch gh-pages, 3.0.1/rdf/schema.json (Community-Spec-1.0)")
    validator = jsonschema.Draft202012Validator(json.loads(SPDX_SCHEMA.read_text()))
    document = spdx.build(chain_of(KINDS[kind](made)), AT)
    assert list(validator.iter_errors(document)) == []
    if kind == "bare":
        document["@graph"][-1]["rootelement"] = []
        assert list(validator.iter_errors(document)), "the validator would notice nothing"


def test_the_same_chain_and_time_give_the_same_bytes(made, chain_of):
    file = full(made)

    def written(at, now):
        chain = provenance_chain.verify(file, made.trust.policy, now)
        return [
            bom_values.render(document)
            for document in (
                cyclonedx.build(chain, at, "1.6"),
                cyclonedx.build(chain, at, "1.7"),
                spdx.build(chain, at),
            )
        ]

    first, again = written(AT, AT), written(AT, AT + timedelta(minutes=5))
    later = written(AT + timedelta(days=1), AT)
    assert first == again
    assert all(one != other for one, other in zip(first, later, strict=True))
    numbers = [json.loads(raw)["serialNumber"] for raw in (*first[:2], *later[:2])]
    assert len(set(numbers)) == 4


def test_a_cyclonedx_document_says_what_is_verified(made, chain_of):
    chain = chain_of(full(made))
    document = cyclonedx.build(chain, AT)
    model = document["metadata"]["component"]
    (base, data) = document["components"]

    assert (model["type"], model["group"], model["name"]) == ("machine-learning-model", "demo", "m")
    assert model["version"] == chain.file.artifact
    for entry, component in zip(chain.root.manifest.files, model["components"], strict=True):
        assert component["name"] == entry.path
        assert {h["alg"]: h["content"] for h in component["hashes"]} == {
            "SHA-256": entry.sha256,
            "BLAKE3": entry.blake3,
        }
    (ancestor,) = model["pedigree"]["ancestors"]
    assert ancestor["version"] == base["version"] == f"sha256:{base['hashes'][0]['content']}"
    assert {"name": "modelreg:relation", "value": "finetune"} in ancestor["properties"]
    assert base["licenses"] == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    assert {"type": "source-distribution", "url": "hf://org/name"}.items() <= base["externalReferences"][1].items()
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    assert data["data"] == [
        {
            "type": "dataset",
            "name": "demo/tickets",
            "classification": "confidential",
            "governance": {"owners": [{"organization": {"name": "team-data"}}]},
        }
    ]
    (method,) = model["evidence"]["identity"][0]["methods"]
    assert SIGNER in method["value"]
    stated = {r["hashes"][0]["content"] for r in model["externalReferences"] if r["type"] == "attestation"}
    assert stated == {one.digest.hex for one in chain.root.statements}
    assert {one["aggregate"] for one in document["compositions"]} == {"complete"}
    (scan,) = [one["value"] for one in model["properties"] if one["name"] == "modelreg:scan"]
    assert scan.startswith("0 findings (0 blocking)")


def test_an_spdx_document_says_what_is_verified(made, chain_of):
    document = spdx.build(chain_of(full(made)), AT)
    elements = {element.get("spdxId"): element for element in document["@graph"]}
    edges = {
        (one["relationshipType"], elements[one["from"]]["name"], tuple(elements[to]["name"] for to in one["to"]))
        for one in document["@graph"]
        if one["type"] == "Relationship"
    }
    assert edges == {
        ("descendantOf", "demo/m", ("demo/base",)),
        ("trainedOn", "demo/m", ("demo/tickets",)),
        ("hasDeclaredLicense", "demo/base", ("apache-2.0",)),
        ("contains", "demo/m", ("config.json", "model.safetensors")),
    }
    (data,) = [one for one in document["@graph"] if one["type"] == "dataset_DatasetPackage"]
    assert data["dataset_confidentialityLevel"] == "amber"


def test_what_nobody_recorded_is_absent(made, chain_of):
    chain = chain_of(bare(made))
    document = cyclonedx.build(chain, AT)
    model = document["metadata"]["component"]
    assert not {"licenses", "pedigree", "modelCard"} & model.keys()
    assert "components" not in document
    assert [one["aggregate"] for one in document["compositions"]] == ["complete", "incomplete"]
    assert [p["value"] for p in document["properties"] if p["name"] == "modelreg:provenance:gap"] == chain.gaps
    text = json.dumps([document, spdx.build(chain, AT)])
    assert not re.search(r"unknown|noassertion|n/a|todo|example\.com", text, re.IGNORECASE)


def test_the_class_that_the_registry_records_is_said_to_be_its_word(made, chain_of):
    document = cyclonedx.build(chain_of(doubled(made)), AT)
    properties = document["metadata"]["component"]["properties"]
    assert {"name": "modelreg:recorded:classification", "value": "restricted"} in properties
    assert "class restricted" in json.dumps(spdx.build(chain_of(doubled(made)), AT))


def test_claims_are_told_from_lineage_and_an_adapter_depends_on_its_base(made, chain_of):
    document = cyclonedx.build(chain_of(hostile(made)), AT)
    model = document["metadata"]["component"]
    claimed = [p["value"] for p in model["properties"] if p["name"] == "modelreg:claimed:parent"]
    assert len(claimed) == 1
    assert all(one["version"] not in claimed[0] for one in model["pedigree"]["ancestors"])
    (unknown,) = [one for one in document["components"] if one["type"] == "machine-learning-model"]
    assert {"name": "modelreg:known", "value": "false"} in unknown["properties"]
    assert document["dependencies"] == [{"ref": model["bom-ref"], "dependsOn": [unknown["bom-ref"]]}]
    assert model["licenses"] == [{"license": {"name": "llama3.1 community (see file)", "acknowledgement": "declared"}}]


def test_nothing_is_written_of_an_artifact_that_does_not_verify(made, chain_of):
    chain = chain_of(made.file(made.artifact("demo/m", a_manifest(), signatures=[])))
    for build in (cyclonedx.build, spdx.build):
        with pytest.raises(Invalid, match="nothing verified"):
            build(chain, AT)


def test_the_coverage_report_has_the_papers_clusters_and_follows_the_record(made, chain_of):
    reports = {kind: minimum_elements.coverage(chain_of(make(made))) for kind, make in KINDS.items()}
    assert {one.name: len(one.elements) for one in reports["full"]} == {
        "Metadata": 10,
        "System Level Properties": 9,
        "Models": 13,
        "Dataset Properties": 10,
        "Key Performance Indicators": 2,
        "Infrastructure": 2,
        "Security Properties": 4,
    }
    filled = {
        kind: {one.name: {e.name for e in one.elements if e.filled} for one in report}
        for kind, report in reports.items()
    }
    assert "Dataset sensitivity" in filled["full"]["Dataset Properties"]
    assert filled["bare"]["Dataset Properties"] == set()
    assert "Model training properties" in filled["full"]["Models"] - filled["bare"]["Models"]
    assert "Model license" in filled["hostile"]["Models"]
    assert "SBOM author signature" not in filled["full"]["Metadata"]
    for report in reports.values():
        for element in (e for cluster in report for e in cluster.elements):
            assert element.filled is (element.why_not is None), element
