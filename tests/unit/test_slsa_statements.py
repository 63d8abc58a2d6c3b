"""What we state of origins and verdicts is read by in-toto's own library, field by field.

`validate()` of in-toto-attestation 0.9.3 takes a digest of `zz`, so the fields are asserted here, and ours is the parser that refuses.
"""

import json
import re

import pytest
from google.protobuf.json_format import MessageToDict

from modelreg import attestations, provenance
from modelreg.attestations import Kind
from modelreg.classification import Classification
from modelreg.digests import sha256_of
from modelreg.errors import SignatureInvalid
from modelreg.provenance import Derivation, Import, ImportedFile, Input
from support.chained import AT

SUBJECT = sha256_of(b"artifact")
ROOT = sha256_of(b"root")
HEX = re.compile("[0-9a-f]{64}")

IMPORT = Import(
    "hf://org/name",
    "3f1c" + "0" * 36,
    tuple(
        ImportedFile(f"model-{at}.safetensors", sha256_of(bytes([at])).hex, f"hf://org/name/{at}", {"sha256": "0" * 64})
        for at in range(3)
    ),
    "workload:importer",
    "apache-2.0",
    Classification.INTERNAL,
    {"verdict": "valid", "identity": "email:x@y.example", "bundle": str(sha256_of(b"bundle"))},
)
DERIVATION = Derivation(
    "finetune",
    (Input(sha256_of(b"base"), "acme/base"),),
    (Input(sha256_of(b"one"), "acme/tickets"), Input(sha256_of(b"two"), "acme/chats")),
    "https://ci.example/run/7",
    Classification.RESTRICTED,
)
# SLSA VSA v1 as the registry signs it; `promotion` fills in the values.
VERDICT = {
    "verifier": {"id": "https://models.example", "version": {"modelreg": "0"}},
    "timeVerified": "2026-11-24T12:00:00Z",
    "resourceUri": f"modelreg:acme/chat@{SUBJECT}",
    "policy": {"uri": "urn:modelreg:policy", "digest": {"sha256": sha256_of(b"policy").hex}},
    "inputAttestations": [{"uri": "urn:modelreg:facts", "digest": {"sha256": sha256_of(b"facts").hex}}],
    "verificationResult": "PASSED",
    "verifiedLevels": ["SLSA_BUILD_LEVEL_UNEVALUATED"],
    "slsaVersion": "1.0",
}


def predicate_of(made):
    return provenance.predicate_of(made, version="1.2", started_at=AT, finished_at=AT)


def parsed(kind, predicate):
    """Our payload as in-toto's library reads it, validated."""
    from in_toto_attestation.v1.statement import Statement

    payload = json.loads(attestations.build(kind, "acme/chat", SUBJECT, predicate, also=[("root", ROOT)]))
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.v1 import statement_pb2

    # Strict: a member that the schema of statements does not know is an error.
    read = Statement.copy_from_pb(ParseDict(payload, statement_pb2.Statement()))
    read.validate()
    return read.pb


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_statement_is_an_in_toto_statement(kind):
    read = parsed(kind, {"a": "b"})
    assert read.type == "https://in-toto.io/Statement/v1"
    assert read.predicate_type == attestations.PREDICATE_TYPES[kind]
    assert [(one.name, dict(one.digest)) for one in read.subject] == [
        ("acme/chat", {"sha256": SUBJECT.hex}),
        ("root", {"sha256": ROOT.hex}),
    ]
    assert MessageToDict(read.predicate) == {"a": "b"}


@pytest.mark.parametrize("made", [IMPORT, DERIVATION], ids=["import", "derivation"])
def test_provenance_is_slsa_provenance_v1(made):
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2

    read = parsed(Kind.PROVENANCE, predicate_of(made))
    assert read.predicate_type == "https://slsa.dev/provenance/v1"
    message = ParseDict(MessageToDict(read.predicate), provenance_pb2.Provenance())
    definition, details = message.build_definition, message.run_details

    assert details.builder.id == "urn:modelreg:client"
    assert dict(details.builder.version) == {"modelreg": "1.2"}
    assert (
        details.metadata.started_on.ToJsonString()
        == details.metadata.finished_on.ToJsonString()
        == "2026-11-24T12:00:00Z"
    )
    parameters = MessageToDict(definition.external_parameters)
    dependencies = {one.name: one.digest["sha256"] for one in definition.resolved_dependencies}
    assert all(HEX.fullmatch(digest) for digest in dependencies.values())
    if isinstance(made, Import):
        assert definition.build_type == "urn:modelreg:build:import:v1"
        assert dependencies == {file.path: file.sha256 for file in made.files}
        assert {name: parameters[name] for name in ("source", "revision", "licence", "fetched_by", "classification")} == {
            "source": made.source, "revision": made.revision, "licence": "apache-2.0",
            "fetched_by": "workload:importer", "classification": "internal",
        }  # fmt: skip
        assert parameters["upstream_signature"] == dict(made.upstream_signature)
    else:
        assert definition.build_type == "urn:modelreg:build:derive:v1"
        assert dependencies == {one.name: one.digest.hex for one in (*made.parents, *made.datasets)}
        assert parameters == {
            "relation": "finetune", "training_run": "https://ci.example/run/7", "classification": "restricted",
        }  # fmt: skip
        assert details.metadata.invocation_id == "https://ci.example/run/7"
        roles = [one.annotations["role"] for one in definition.resolved_dependencies]
        assert roles == ["parent", "dataset", "dataset"]
    assert provenance.read(MessageToDict(read.predicate)) == made


def test_a_verdict_is_a_slsa_verification_summary_v1():
    """SLSA 1.2 has a list of levels and a version of the verifier; the messages of in-toto-attestation 0.9.3 have neither."""
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.vsa.v1 import vsa_pb2

    read = parsed(Kind.VERDICT, VERDICT)
    assert read.predicate_type == "https://slsa.dev/verification_summary/v1"
    predicate = MessageToDict(read.predicate)
    assert predicate == VERDICT
    levels, version = predicate.pop("verifiedLevels"), predicate["verifier"].pop("version")
    assert (levels, version) == (["SLSA_BUILD_LEVEL_UNEVALUATED"], {"modelreg": "0"})
    message = ParseDict(predicate, vsa_pb2.VerificationSummary())
    assert (message.verification_result, message.verifier.id) == ("PASSED", "https://models.example")
    assert message.resource_uri == f"modelreg:acme/chat@{SUBJECT}"
    assert message.time_verified.ToJsonString() == "2026-11-24T12:00:00Z"
    assert dict(message.policy.digest) == {"sha256": sha256_of(b"policy").hex}
    assert [dict(one.digest) for one in message.input_attestations] == [{"sha256": sha256_of(b"facts").hex}]


def test_a_digest_that_is_none_passes_their_validation_and_not_our_parser():
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    payload = json.loads(attestations.build(Kind.PROVENANCE, "a/b", SUBJECT, predicate_of(IMPORT)))
    payload["subject"][0]["digest"]["sha256"] = "zz"
    Statement.copy_from_pb(ParseDict(payload, statement_pb2.Statement())).validate()
    with pytest.raises(SignatureInvalid, match="no sha256"):
        attestations.parse(json.dumps(payload).encode())

    predicate = predicate_of(DERIVATION)
    predicate["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"] = "zz"
    with pytest.raises(SignatureInvalid, match="no sha256"):
        provenance.read(predicate)
