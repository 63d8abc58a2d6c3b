"""What the registry demands of an import's provenance before it publishes the bytes."""

import uuid
from datetime import UTC, datetime

import pytest

from modelreg import attestations, provenance, push, signing, wire_attestations
from modelreg.attestations import Kind
from modelreg.digests import Digest
from modelreg.errors import Forbidden, Invalid, SignatureInvalid
from modelreg.provenance import Derivation, Import, ImportedFile, Input
from modelreg.references import parse_reference
from support import keys
from support.registry import QUIET

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def files_of(manifest):
    return [ImportedFile(entry.path, entry.sha256, f"https://hub.example/{entry.path}") for entry in manifest.files]


def statement(manifest, repository, **changes):
    """The payload of an honest import by the tester, after changes."""
    members = {
        "source": "hf://acme-ai/tiny",
        "revision": "a" * 40,
        "files": tuple(files_of(manifest)),
        "fetched_by": "person:tester",
        **changes,
    }
    predicate = provenance.predicate_of(Import(**members), version="1", started_at=NOW, finished_at=NOW)
    return attestations.build(Kind.PROVENANCE, repository, manifest.digest, predicate)


@pytest.fixture
def publish(registry, publishing):
    """Push fresh bytes with what `make(manifest, repository)` says of them; the repository."""

    def push_with(make, repository=None, *, principal="person:tester", signer=None):
        repository = repository or f"demo/{uuid.uuid4().hex[:12]}"
        folder = publishing.make({"model.bin": uuid.uuid4().bytes, "config.json": b"{}"})
        signer = signer or registry.trust.signer
        pushed = push.push(
            registry.api(registry.token(principal)),
            folder,
            parse_reference(repository),
            registry.trust.signer,
            tags=["latest"],
            connections_at_once=2,
            meter=QUIET,
            attest=lambda manifest: [signing.sign(payload, signer) for payload in make(manifest, repository)],
        )
        return repository, pushed

    return push_with


def events(registry, repository):
    return [event.type for event in registry.whole_log() if event.repository == repository]


def test_an_import_is_recorded_with_the_publication_in_one_transaction(registry, publish):
    repository, pushed = publish(
        lambda manifest, name: [statement(manifest, name, upstream_signature={"verdict": "valid"})]
    )

    assert events(registry, repository) == [
        "artifact.published", "artifact.imported", "artifact.attested", "tag.moved", "artifact.scanned",
    ]  # fmt: skip
    (event,) = [e for e in registry.whole_log() if e.repository == repository and e.type == "artifact.imported"]
    assert event.principal == "person:tester"
    assert event.artifact == pushed.published.artifact
    assert event.detail["source"] == "hf://acme-ai/tiny"
    assert event.detail["upstream_signature"] == "valid"
    artifact = Digest.parse(pushed.published.artifact)
    (row,) = registry.api().attestations(repository, artifact, kind="provenance").attestations
    assert event.detail["statement"] == row.statement


def test_the_same_statement_sent_again_is_no_event(registry, publishing, publish):
    made = {}

    def once(manifest, name):
        made.setdefault("bundle", statement(manifest, name))
        return [made["bundle"]]

    repository, pushed = publish(once)
    request = publishing.request(pushed.manifest)
    bundle = signing.sign(made["bundle"], registry.trust.signer)
    api = registry.api(registry.token("person:tester"))
    again = api.begin_publication(repository, request.model_copy(update={"attestations": [bundle.decode()]}))
    api.finish_publication(again.id)

    assert events(registry, repository).count("artifact.imported") == 1


def test_nobody_says_that_somebody_else_fetched_it(registry, publish):
    with pytest.raises(Forbidden, match="says that person:tester fetched it, and it comes from person:mallory"):
        publish(lambda manifest, name: [statement(manifest, name)], "demo/elses", principal="person:mallory")

    assert events(registry, "demo/elses") == []


@pytest.mark.parametrize("what", ["missing", "extra", "digest", "twice"])
def test_every_file_must_be_in_it_as_it_was_fetched(registry, publish, what):
    def wrong(manifest, name):
        files = files_of(manifest)
        other = ImportedFile("model.bin", "0" * 64, "https://hub.example/model.bin")
        changed = {
            "missing": files[1:],
            "extra": [*files, ImportedFile("evil.py", "0" * 64, "https://hub.example/evil.py")],
            "digest": [file for file in files if file.path != "model.bin"] + [other],
            "twice": [*files, files[0]],
        }[what]
        return [statement(manifest, name, files=tuple(changed))]

    with pytest.raises(Invalid, match="provenance of the import"):
        publish(wrong, f"demo/files-{what}")

    assert events(registry, f"demo/files-{what}") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "https://user:password@hub.example/x"}, {"source": "https://hub.example/x?X-Amz-Signature=abc"},
        {"source": "https://hub.example/" + "x" * 1000}, {"revision": "x" * 201}, {"source": "https://[/"},
    ],
)  # fmt: skip
def test_a_source_that_may_hold_a_credential_or_fits_no_event_is_refused(publish, changes):
    with pytest.raises(Invalid):
        publish(lambda manifest, name: [statement(manifest, name, **changes)])


def test_a_file_whose_address_may_hold_a_credential_is_refused(publish):
    def presigned(manifest, name):
        first, *rest = files_of(manifest)
        return [statement(manifest, name, files=(ImportedFile(first.path, first.sha256, first.uri + "?sig=x"), *rest))]

    with pytest.raises(Invalid, match="credentials or a query"):
        publish(presigned)


def test_an_import_signed_by_a_stranger_is_refused(publish):
    with pytest.raises(SignatureInvalid):
        publish(lambda manifest, name: [statement(manifest, name)], signer=keys.make_key())


def test_the_provenance_of_an_import_is_not_taken_without_its_bytes(registry, publish):
    repository, pushed = publish(lambda *_: [])
    artifact = pushed.manifest.digest
    late = signing.sign(statement(pushed.manifest, repository), registry.trust.signer)

    with pytest.raises(Invalid, match="comes with its bytes"):
        registry.api().attest(repository, artifact, wire_attestations.AttestationRequest(bundle=late.decode()))

    assert "artifact.imported" not in events(registry, repository)


def test_other_provenance_is_no_import(registry, publish):
    made = Derivation("finetune", (Input(Digest("sha256", "a" * 64), "base"),), ())

    def derived(manifest, name):
        predicate = provenance.predicate_of(made, version="1", started_at=NOW, finished_at=NOW)
        return [attestations.build(Kind.PROVENANCE, name, manifest.digest, predicate)]

    repository, _ = publish(derived)

    assert events(registry, repository) == [
        "artifact.published", "artifact.attested", "tag.moved", "artifact.scanned",
    ]  # fmt: skip
