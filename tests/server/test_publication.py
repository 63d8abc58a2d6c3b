"""Publishing step by step: repeated, resumed, and refused. Races are in `test_publication_races`."""

import dataclasses
import json
from datetime import UTC, datetime

import pytest
from sqlmodel import select

from modelreg import manifests, pki, signing, wire
from modelreg.digests import Digest
from modelreg.errors import (
    Conflict,
    DigestMismatch,
    Forbidden,
    Misconfigured,
    ModelregError,
    NotFound,
    SignatureInvalid,
    SignerNotAllowed,
    Untrusted,
)
from modelreg_server import countersigning
from modelreg_server.tables import Blob, BlobUpload, Signature
from support.registry import running_registry


def events_of(registry, *types):
    return [event for event in registry.whole_log() if event.type in types]


def second_signer(registry, name="email:bo@demo.example"):
    leaf = pki.issue_signer(name, registry.trust.intermediate, datetime.now(UTC))
    return signing.CertificateSigner(leaf.private_key, (leaf.certificate, registry.trust.intermediate.certificate))


def bytes_of(registry, blake3):
    with registry.parts.database.reading() as session:
        row = session.exec(select(Blob).where(Blob.blake3 == blake3)).one()
    return b"".join(registry.parts.store.read(row.key, 0, row.size_bytes))


@pytest.fixture
def api(registry):
    return registry.api()


def ready(publishing, api, files, *tags, repository="demo/m", **more):
    """A publication whose every blob is uploaded and measured."""
    manifest = publishing.manifest(files)
    state = api.begin_publication(repository, publishing.request(manifest, *tags, **more))
    data = {entry.blake3: files[entry.path] for entry in manifest.files}
    for blob in state.missing:
        publishing.upload(api, state.id, blob, data[blob])
    return manifest, state


def test_beginning_again_finds_the_same_publication(publishing, api):
    manifest = publishing.manifest({"a": b"begin twice"})
    request = publishing.request(manifest)

    first = api.begin_publication("demo/m", request)
    again = api.begin_publication("demo/m", request)

    assert again == first
    assert first.missing == [manifest.files[0].blake3]


def test_finishing_twice_gives_the_same_answer_and_one_event(registry, publishing, api):
    manifest, state = ready(publishing, api, {"a": b"finish twice"}, "v1")

    answers = [api.finish_publication(state.id) for _ in range(3)]

    assert answers[0] == answers[1] == answers[2]
    assert answers[0].created is True
    assert [e.artifact for e in events_of(registry, "artifact.published")].count(str(manifest.digest)) == 1


def test_pushing_what_is_published_sends_nothing_and_creates_nothing(publishing):
    first = publishing.push({"a": b"push twice"})
    again = publishing.push({"a": b"push twice"})

    assert first.published.created is True
    assert (again.published.created, again.transferred_bytes) == (False, 0)
    assert again.published.event == first.published.event


def test_an_interrupted_upload_resumes_with_the_parts_that_were_written(registry, publishing, api):
    data = bytes(range(256)) * 4096 * 20  # 20 MiB: two parts
    manifest = publishing.manifest({"big": data})
    blob = manifest.files[0].blake3
    state = api.begin_publication("demo/m", publishing.request(manifest))
    plan = api.uploads(state.id, [blob])[0]
    assert (plan.part_count, plan.written_parts) == (2, [])
    second = data[plan.part_bytes :]
    request = api.part_requests(state.id, [wire.PartName(blake3=blob, number=2)])[0]
    api.open_direct(request, {"Content-Length": str(len(second))}, second).close()

    with pytest.raises(Conflict):
        api.measure(state.id, blob)
    assert api.uploads(state.id, [blob])[0].written_parts == [2]

    pushed = publishing.push({"big": data})

    assert pushed.transferred_bytes == plan.part_bytes
    assert bytes_of(registry, blob) == data


def test_wrong_bytes_are_refused_discarded_and_can_be_sent_again(registry, publishing, api):
    right, wrong = b"right bytes", b"wrong bytes"
    manifest = publishing.manifest({"a": right})
    blob = manifest.files[0].blake3
    state = api.begin_publication("demo/m", publishing.request(manifest))
    publishing.upload(api, state.id, blob, wrong, measure=False)

    with pytest.raises(DigestMismatch):
        api.measure(state.id, blob)

    with registry.parts.database.reading() as session:
        assert session.exec(select(BlobUpload).where(BlobUpload.blake3 == blob)).all() == []
    assert not list(registry.parts.settings.data_dir.glob(f"blobs/blake3/*/{blob}/*"))
    with pytest.raises(NotFound):
        api.measure(state.id, blob)
    with pytest.raises(Conflict) as refused:
        api.finish_publication(state.id)
    assert refused.value.facts["missing_count"] == 1
    publishing.upload(api, state.id, blob, right)
    assert api.finish_publication(state.id).created is True
    assert bytes_of(registry, blob) == right


def test_a_measured_blob_takes_no_more_parts(publishing, api):
    manifest, state = ready(publishing, api, {"a": b"measured already"})
    blob = manifest.files[0].blake3

    with pytest.raises(Conflict, match="already uploaded"):
        api.part_requests(state.id, [wire.PartName(blake3=blob, number=1)])
    path = f"/v1/publications/{state.id}/blobs/{blob}/parts/1"
    direct = wire.DirectRequest(blake3=blob, method="PUT", url=path, headers={}, expires_in_seconds=60)
    with pytest.raises(Conflict, match="already uploaded"):
        api.open_direct(direct, {}, b"MEASURED ALREADY")


def test_a_part_that_is_too_short_or_too_long_does_not_count(publishing, api):
    data = b"exactly so long"
    manifest = publishing.manifest({"a": data})
    blob = manifest.files[0].blake3
    state = api.begin_publication("demo/m", publishing.request(manifest))
    api.uploads(state.id, [blob])
    for wrong in (b"", data[:-1], data + b"x"):
        request = api.part_requests(state.id, [wire.PartName(blake3=blob, number=1)])[0]
        with pytest.raises(ModelregError) as refused:
            api.open_direct(request, {}, wrong)
        assert refused.value.code in {"invalid", "too-large"}
        assert api.uploads(state.id, [blob])[0].written_parts == []


def test_tags_move_with_the_publication_in_neighbouring_events(registry, publishing, api):
    _first, state = ready(publishing, api, {"a": b"tags 1"}, "t1", "t2")
    before = api.finish_publication(state.id)
    manifest, state = ready(publishing, api, {"a": b"tags 2"}, "t1")
    after = api.finish_publication(state.id)

    assert [e.type for e in registry.whole_log() if before.event <= e.index <= before.event + 2] == [
        "artifact.published",
        "tag.moved",
        "tag.moved",
    ]
    moved = next(e for e in registry.whole_log() if e.index == after.event + 1)
    assert (moved.type, moved.tag, moved.detail["from"]) == ("tag.moved", "t1", before.artifact)
    tags = {tag.tag: tag.artifact for tag in api.tags("demo/m")}
    assert tags["t1"] == str(manifest.digest)
    assert tags["t2"] == before.artifact


def test_a_refused_finish_moves_no_tag(registry, publishing, api):
    manifest = publishing.manifest({"a": b"never sent"})
    state = api.begin_publication("demo/m", publishing.request(manifest, "never"))

    with pytest.raises(Conflict):
        api.finish_publication(state.id)

    assert "never" not in [tag.tag for tag in api.tags("demo/m")]
    assert not [e for e in registry.whole_log() if e.artifact == str(manifest.digest)]


def test_tags_need_the_right_to_move_tags_at_the_beginning_and_at_the_end(registry, publishing):
    api = registry.api(registry.token("person:pusher", "push:demo/*"))
    request = publishing.request(publishing.manifest({"a": b"tag right"}), "v9")

    with pytest.raises(Forbidden, match="not move tags"):
        api.begin_publication("demo/m", request)
    both = registry.api(registry.token("person:pusher", "push:demo/*", "tag:demo/*"))
    _manifest, state = ready(publishing, both, {"a": b"tag right"}, "v9")
    with pytest.raises(Forbidden, match="not move tags"):
        api.finish_publication(state.id)
    assert both.finish_publication(state.id).tags == ["v9"]


def test_losing_the_right_to_push_ends_a_publication(registry, publishing):
    api = registry.api(registry.token("person:leaver", "push:demo/*"))
    _manifest, state = ready(publishing, api, {"a": b"leaver"})

    with pytest.raises(Forbidden, match="any more"):
        registry.api(registry.token("person:leaver", "pull:demo/*")).finish_publication(state.id)


def test_a_second_signer_stands_beside_the_first(registry, publishing, api):
    files = {"a": b"signed twice"}
    first = publishing.push(files)
    again = publishing.push(files, signer=second_signer(registry))
    publishing.push(files, signer=registry.trust.signer)  # the first signer again: no further event

    detail = api.artifact("demo/m", first.manifest.digest)
    signed = [e for e in events_of(registry, "artifact.signed") if e.artifact == str(first.manifest.digest)]
    assert [row.identity for row in detail.signatures] == ["email:al@demo.example", "email:bo@demo.example"]
    assert [e.detail["identity"] for e in signed] == ["email:bo@demo.example"]
    assert again.published.event == first.published.event
    grant = api.request_grant(
        "demo/m", wire.GrantRequest(artifact=str(first.manifest.digest), purpose="pull", host="h")
    )
    assert len(grant.bundles) == 2


def test_an_artifact_takes_as_many_signatures_as_a_grant_has_room_for(registry, publishing, api, monkeypatch):
    monkeypatch.setattr(countersigning, "MAX_SIGNATURES", 2)
    files = {"a": b"signed by everybody"}
    first = publishing.push(files)
    publishing.push(files, signer=second_signer(registry))
    with pytest.raises(Conflict, match="2 good signatures"):
        publishing.push(files, signer=second_signer(registry, "email:cy@demo.example"))
    publishing.push(files)  # who is there already may come again

    # One that does not hold any more is not in the way.
    with registry.parts.database.writing() as session, session.begin():
        row = session.exec(
            select(Signature).where(Signature.identity == "email:bo@demo.example").order_by(Signature.id.desc())
        ).first()
        row.bundle = b"{}"
    publishing.push(files, signer=second_signer(registry, "email:cy@demo.example"))
    rows = api.artifact("demo/m", first.manifest.digest).signatures
    assert [row.identity for row in rows] == ["email:al@demo.example", "email:cy@demo.example"]


def test_two_artifacts_share_a_blob_and_it_is_sent_once(registry, publishing):
    shared = b"shared bytes"
    publishing.push({"shared": shared, "own": b"1"})
    second = publishing.push({"renamed": shared, "own": b"2"}, "demo/other")

    assert second.transferred_bytes == 1
    entry = next(e for e in second.manifest.files if e.path == "renamed")
    assert bytes_of(registry, entry.blake3) == shared


def test_the_same_bytes_under_two_names_are_one_blob(registry, publishing):
    pushed = publishing.push({"a": b"twice in one", "b": b"twice in one", "empty": b""})

    assert pushed.transferred_bytes == len(b"twice in one")
    for entry in pushed.manifest.files:
        assert len(bytes_of(registry, entry.blake3)) == entry.size


def lying(manifest, path, **members):
    entries = [dataclasses.replace(e, **members) if e.path == path else e for e in manifest.files]
    return manifests.build(entries)


def test_a_stored_blob_is_not_reused_under_another_sha256_or_size(publishing, api):
    manifest = publishing.push({"a": b"liar's bytes"}).manifest
    for members in ({"sha256": "0" * 64}, {"size": 11}):
        with pytest.raises(DigestMismatch, match="another size, sha256 or chunks"):
            api.begin_publication("demo/m", publishing.request(lying(manifest, "a", **members)))


def test_a_stored_blob_is_not_reused_under_other_chunks(publishing, api):
    data = b"\x07" * (9 * 1024 * 1024)
    manifest = publishing.push({"a": data}).manifest
    chunks = manifest.files[0].chunks
    with pytest.raises(DigestMismatch, match="another size, sha256 or chunks"):
        api.begin_publication("demo/m", publishing.request(lying(manifest, "a", chunks=(chunks[1], chunks[0]))))


def test_one_blake3_for_different_bytes_in_one_manifest_is_refused(publishing, api):
    manifest = publishing.manifest({"a": b"same", "b": b"same"})
    with pytest.raises(Untrusted, match="one BLAKE3 to different bytes"):
        api.begin_publication("demo/m", publishing.request(lying(manifest, "b", sha256="1" * 64)))


def test_one_blake3_with_different_chunks_in_one_manifest_is_refused(publishing, api):
    data = b"\x09" * (8 * 1024 * 1024) + b"x"
    manifest = publishing.manifest({"a": data, "b": data})
    chunks = manifest.files[0].chunks
    with pytest.raises(Untrusted, match="one BLAKE3 to different bytes"):
        api.begin_publication("demo/m", publishing.request(lying(manifest, "b", chunks=(chunks[1], chunks[0]))))


def test_a_claimed_sha256_that_is_not_the_bytes_is_found_when_they_are_measured(publishing, api):
    data = b"claimed sha256"
    manifest = lying(publishing.manifest({"a": data}), "a", sha256="2" * 64)
    state = api.begin_publication("demo/m", publishing.request(manifest))

    publishing.upload(api, state.id, manifest.files[0].blake3, data, measure=False)
    with pytest.raises(DigestMismatch):
        api.measure(state.id, manifest.files[0].blake3)


def test_a_signer_the_policy_does_not_name_is_refused_with_exit_12(registry, publishing, api):
    manifest = publishing.manifest({"a": b"stranger"})
    stranger = second_signer(registry, "email:eve@evil.example")
    with pytest.raises(SignerNotAllowed) as refused:
        api.begin_publication("demo/m", publishing.request(manifest, signer=stranger))
    assert refused.value.exit_code == 12


@pytest.mark.parametrize("bundle", ["", "{}", "garbage", "[]", "null", '{"mediaType": 1}', "\u0000", "{" * 2000])
def test_a_bundle_that_is_none_is_refused_with_exit_13(publishing, api, bundle):
    request = wire.PublicationRequest(manifest=publishing.manifest({"a": b"garbage"}).raw.decode(), bundle=bundle)
    with pytest.raises(SignatureInvalid) as refused:
        api.begin_publication("demo/m", request)
    assert refused.value.exit_code == 13


def test_a_bundle_over_another_manifest_is_refused(publishing, api):
    one, other = publishing.manifest({"a": b"one"}), publishing.manifest({"a": b"other"})
    request = publishing.request(one).model_copy(update={"manifest": other.raw.decode()})
    with pytest.raises(Untrusted):
        api.begin_publication("demo/m", request)


def test_a_changed_signature_is_refused(publishing, api):
    request = publishing.request(publishing.manifest({"a": b"changed"}))
    bundle = json.loads(request.bundle)
    signature = bundle["dsseEnvelope"]["signatures"][0]
    signature["sig"] = ("B" if signature["sig"][20] == "A" else "A").join(
        [signature["sig"][:20], signature["sig"][21:]]
    )
    with pytest.raises(SignatureInvalid):
        api.begin_publication("demo/m", request.model_copy(update={"bundle": json.dumps(bundle)}))


def test_without_a_trust_policy_nothing_is_published(tmp_path, publishing_to):
    with running_registry(tmp_path / "registry") as registry:
        publishing = publishing_to(registry)
        request = publishing.request(publishing.manifest({"a": b"x"}))
        registry.trust.policy_path.unlink()
        with pytest.raises(Misconfigured):
            registry.api().begin_publication("demo/m", request)


def test_a_policy_edited_between_begin_and_finish_decides_the_finish(own_registry, publishing_to):
    publishing, api = publishing_to(own_registry), own_registry.api()
    _manifest, state = ready(publishing, api, {"a": b"edited policy"})
    path = own_registry.trust.policy_path
    path.write_text(path.read_text().replace("email:*@demo.example", "email:cy@demo.example"))

    with pytest.raises(SignerNotAllowed):
        api.finish_publication(state.id)
    assert list(api.repositories()) == []


def test_an_expired_publication_is_gone_and_swept(own_registry, publishing_to):
    from datetime import timedelta

    from modelreg_server.sweeping import sweep

    publishing, api = publishing_to(own_registry), own_registry.api()
    published = publishing.push({"a": b"stays"})
    manifest = publishing.manifest({"a": b"goes"})
    state = api.begin_publication("demo/m", publishing.request(manifest))
    publishing.upload(api, state.id, manifest.files[0].blake3, b"goes")

    removed = sweep(own_registry.parts.database, own_registry.parts.store, datetime.now(UTC) + timedelta(days=8))

    assert removed == 1
    with pytest.raises(NotFound):
        api.finish_publication(state.id)
    assert bytes_of(own_registry, published.manifest.files[0].blake3) == b"stays"
    files = [path for path in (own_registry.parts.settings.data_dir / "blobs").rglob("*") if path.is_file()]
    assert len(files) == 1
    assert publishing.push({"a": b"goes"}).published.created is True


@pytest.mark.parametrize("expected", [None, "none"])
def test_a_tag_moves_only_from_where_it_is_expected(publishing, api, expected):
    one = publishing.push({"a": b"move 1"}).published.artifact
    two = publishing.push({"a": b"move 2"}).published.artifact
    tag = f"guarded-{expected}"
    api.move_tag("demo/m", tag, wire.TagRequest(artifact=one, expected=expected))

    with pytest.raises(Conflict) as refused:
        api.move_tag("demo/m", tag, wire.TagRequest(artifact=two, expected=two))
    assert refused.value.facts["current"] == one
    with pytest.raises(Conflict):
        api.move_tag("demo/m", tag, wire.TagRequest(artifact=two, expected="none"))
    moved = api.move_tag("demo/m", tag, wire.TagRequest(artifact=two, expected=one))
    assert moved.artifact == two
    assert [e.artifact for e in api.tag_history("demo/m", tag)] == [one, two]


def test_a_tag_cannot_point_outside_its_repository(publishing, api):
    publishing.push({"a": b"inside"}, "demo/inside")
    elsewhere = publishing.push({"a": b"outside"}, "demo/outside").published.artifact
    with pytest.raises(NotFound):
        api.move_tag("demo/inside", "t", wire.TagRequest(artifact=elsewhere))
    with pytest.raises(NotFound):
        api.move_tag("demo/inside", "t", wire.TagRequest(artifact=str(Digest("sha256", "0" * 64))))
