"""What a chain shows, and what it refuses to show: verified, recorded, claimed and unknown are told apart."""

from dataclasses import replace

import pytest

from modelreg import pki, provenance_chain, provenance_file, signing, statements
from modelreg.attestations import Kind
from modelreg.digests import sha256_of
from modelreg.errors import Invalid
from modelreg.provenance_file import ClaimedParent, CollectedArtifact, CollectedRecall
from modelreg.trust import Revocations
from support.chained import AT, Made, a_manifest, derivation_of, full, import_of
from support.registry import Trust


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(Trust(tmp_path_factory.mktemp("trust"), made_at=AT))


@pytest.fixture
def check(made):
    return lambda file, policy=None: provenance_chain.verify(file, policy or made.trust.policy, AT)


def told(chain, what, state=None):
    return [line for line in chain.lines if line.what == what and state in (None, line.state)]


def test_a_chain_down_to_an_import_with_attested_datasets_is_complete(made, check):
    chain = check(full(made))

    assert (chain.gaps, chain.exit_code, chain.complete) == ([], 0, True)
    assert [line.what for line in chain.lines if line.depth == 0] == [
        *("artifact", "signature", "published", "derivation", "scan", "verdict"),
    ]
    assert {line.state for line in chain.lines if line.what != "published"} == {"verified"}
    (scan,) = told(chain, "scan")
    assert "0 findings (0 blocking), everything was understood; modelreg-gate with rules 2026-11-24" in scan.text
    assert "PASSED for modelreg:demo/m" in told(chain, "verdict")[0].text
    (imported,) = told(chain, "import")
    assert imported.depth == 1
    assert "from hf://org/name at 3f1c" in imported.text
    assert "licence apache-2.0" in imported.text
    (dataset,) = told(chain, "dataset")
    assert (dataset.state, dataset.depth) == ("verified", 1)
    assert "class confidential, owner team-data" in dataset.text


def test_the_same_file_verifies_after_it_was_written_and_read(made, check):
    file = full(made)
    raw = provenance_file.render(file)
    assert provenance_file.parse(raw) == file
    assert provenance_file.render(provenance_file.parse(raw)) == raw
    assert check(provenance_file.parse(raw)).complete


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"schema": "modelreg/evidence/v1"}', b"[" * 100_000])
def test_what_is_no_provenance_file_is_refused(raw):
    with pytest.raises(Invalid, match="not a provenance file"):
        provenance_file.parse(raw)


def test_without_a_statement_the_origin_is_unknown_and_the_exit_code_23(made, check):
    manifest = a_manifest()
    chain = check(made.file(made.artifact("demo/m", manifest)))

    assert chain.exit_code == provenance_chain.INCOMPLETE == 23
    assert told(chain, "origin", "unknown")
    assert chain.gaps == [f"no verified import or derivation of {manifest.digest} (demo/m)"]


def test_a_parent_that_is_not_here_is_printed_as_unknown(made, check):
    manifest, absent = a_manifest(), sha256_of(b"elsewhere")
    said = made.provenance("demo/m", manifest.digest, derivation_of(("other/base", absent)))
    chain = check(made.file(made.artifact("demo/m", manifest, said)))

    (line,) = [line for line in told(chain, "artifact") if line.depth == 1]
    assert (line.state, line.about) == ("unknown", str(absent))
    assert chain.exit_code == 23
    assert "other/base" in chain.gaps[0]


def test_a_parent_whose_signature_does_not_hold_is_a_gap(made, check):
    base, manifest = a_manifest(), a_manifest("m")
    parent = made.artifact("demo/base", base, made.provenance("demo/base", base.digest, import_of(base)), signatures=[])
    said = made.provenance("demo/m", manifest.digest, derivation_of(("demo/base", base.digest)))
    chain = check(made.file(made.artifact("demo/m", manifest, said), parent))

    assert chain.exit_code == 23
    assert chain.gaps[0].startswith(f"signature of {base.digest}")


def test_a_dataset_that_is_only_named_is_recorded_and_a_gap(made, check):
    file = full(made).model_copy(update={"datasets": []})
    chain = check(file)

    (line,) = told(chain, "dataset")
    assert (line.state, chain.exit_code) == ("recorded", 23)
    assert "demo/tickets" in chain.gaps[0]


@pytest.mark.parametrize("of", ["signature", "manifest"])
def test_of_the_artifact_itself_a_failure_ends_with_its_own_code(made, check, of):
    manifest, other = a_manifest("m"), a_manifest("other")
    item = made.artifact("demo/m", manifest, made.provenance("demo/m", manifest.digest, import_of(manifest)))
    if of == "manifest":
        item = item.model_copy(update={"manifest": other.raw.decode()})
    else:
        item = item.model_copy(update={"signatures": made.artifact("demo/m", other).signatures})
    chain = check(made.file(item))

    assert chain.exit_code == {"manifest": 20, "signature": 13}[of]
    assert [line.state for line in chain.lines].count("failed") == 1


def test_an_artifact_without_signature_ends_with_10(made, check):
    manifest = a_manifest()
    assert check(made.file(made.artifact("demo/m", manifest, signatures=[]))).exit_code == 10


def test_a_statement_by_somebody_who_may_not_is_recorded_and_says_why(made, check):
    manifest = a_manifest()
    mallory = pki.issue_signer("email:mallory@evil.example", made.trust.intermediate, AT)
    signer = signing.CertificateSigner(mallory.private_key, (mallory.certificate, made.trust.intermediate.certificate))
    info = made.provenance("demo/m", manifest.digest, import_of(manifest))
    from modelreg import bundles

    forged = signing.sign(bundles.parse(info.bundle.encode()).payload, signer)
    chain = check(made.file(made.artifact("demo/m", manifest, info.model_copy(update={"bundle": forged.decode()}))))

    (line,) = told(chain, "statement")
    assert (line.state, chain.exit_code) == ("recorded", 23)
    assert "mallory@evil.example" in line.text
    assert chain.root.statements == []


def test_a_statement_about_another_artifact_proves_nothing_here(made, check):
    manifest, other = a_manifest(), a_manifest("other")
    info = made.provenance("demo/m", other.digest, import_of(other))
    chain = check(made.file(made.artifact("demo/m", manifest, info)))
    assert (told(chain, "statement")[0].state, chain.exit_code) == ("recorded", 23)


def test_a_verdict_is_believed_from_the_pinned_log_key_only(made, check):
    manifest = a_manifest()
    imported = made.provenance("demo/m", manifest.digest, import_of(manifest))
    verdict = {"verificationResult": "PASSED", "resourceUri": "x"}
    by_signer = made.statement(Kind.VERDICT, "demo/m", manifest.digest, verdict)
    by_registry = made.registrys(Kind.VERDICT, "demo/m", manifest.digest, verdict)

    chain = check(made.file(made.artifact("demo/m", manifest, imported, by_signer)))
    assert (told(chain, "verdict"), told(chain, "statement")[0].state) == ([], "recorded")
    chain = check(made.file(made.artifact("demo/m", manifest, imported, by_registry)))
    assert told(chain, "verdict")[0].state == "verified"
    chain = check(made.file(made.artifact("demo/m", manifest, imported, by_registry)), made.trust.unpinned)
    assert (told(chain, "verdict"), chain.exit_code) == ([], 0)
    assert "pins no custody log" in told(chain, "statement")[0].text


def test_claimed_parents_are_printed_as_claims_and_lead_nowhere(made, check):
    manifest, base = a_manifest(), a_manifest("base")
    imported = made.provenance("demo/m", manifest.digest, import_of(manifest))
    claim = ClaimedParent(artifact=str(base.digest), relation="finetune", grade="claimed", event=3)
    chain = check(
        made.file(made.artifact("demo/m", manifest, imported, claimed=[claim]), made.artifact("demo/base", base))
    )

    (line,) = told(chain, "parent")
    assert (line.state, list(chain.artifacts), chain.exit_code) == ("claimed", [str(manifest.digest)], 0)


def test_a_diamond_is_looked_at_once(made, check):
    base, left, right, top = (a_manifest(name) for name in ("base", "left", "right", "top"))
    items = [made.artifact("demo/base", base, made.provenance("demo/base", base.digest, import_of(base)))]
    for name, manifest in (("left", left), ("right", right)):
        said = made.provenance(f"demo/{name}", manifest.digest, derivation_of(("demo/base", base.digest)))
        items.append(made.artifact(f"demo/{name}", manifest, said))
    said = derivation_of(("demo/left", left.digest), ("demo/right", right.digest), relation="merge")
    chain = check(made.file(made.artifact("demo/top", top, made.provenance("demo/top", top.digest, said)), *items))

    assert (chain.exit_code, len(chain.artifacts)) == (0, 4)
    assert sum("as above" in line.text for line in chain.lines) == 1
    assert len(told(chain, "import")) == 1


def test_a_circle_of_statements_ends_and_is_a_gap(made, check):
    one, two = a_manifest("one"), a_manifest("two")
    first = made.artifact(
        "demo/one", one, made.provenance("demo/one", one.digest, derivation_of(("demo/two", two.digest)))
    )
    second = made.artifact(
        "demo/two", two, made.provenance("demo/two", two.digest, derivation_of(("demo/one", one.digest)))
    )
    chain = check(made.file(first, second))

    assert chain.exit_code == 23
    assert "in a circle" in chain.gaps[0]


def test_a_chain_that_is_too_deep_is_cut_and_says_so(made, check):
    manifests = [a_manifest(f"m{at}") for at in range(provenance_chain.MAX_DEPTH + 3)]
    items = []
    for at, manifest in enumerate(manifests):
        made_of = (
            import_of(manifest)
            if at == len(manifests) - 1
            else derivation_of((f"demo/m{at + 1}", manifests[at + 1].digest))
        )
        items.append(made.artifact(f"demo/m{at}", manifest, made.provenance(f"demo/m{at}", manifest.digest, made_of)))
    chain = check(made.file(*items))

    assert len(chain.artifacts) == provenance_chain.MAX_DEPTH + 1
    assert (chain.exit_code, "derivations away" in chain.gaps[0]) == (23, True)


def test_what_was_cut_when_it_was_collected_is_a_gap_and_what_was_not_read_is_said(made, check):
    file = full(made).model_copy(update={"cut": ["ancestors beyond 500"], "unread": ["entries of the log: no"]})
    chain = check(file)
    assert (chain.exit_code, chain.gaps) == (23, ["left out: ancestors beyond 500"])
    assert told(chain, "not read")[0].state == "unknown"


def test_a_recalled_artifact_keeps_its_provenance_and_says_that_it_is_refused(made, check):
    file = full(made)
    listed = made.trust.policy.revocations
    policy = replace(
        made.trust.policy,
        revocations=Revocations(listed.updated_at, listed.max_age, frozenset({sha256_of(b"x"), _digest(file)}), ()),
    )
    recall = CollectedRecall(kind="revocation", reason="INC-42", created_at=AT)
    item = file.artifacts[0].model_copy(update={"recall": recall})
    chain = check(file.model_copy(update={"artifacts": [item, *file.artifacts[1:]]}), policy)

    assert chain.exit_code == 0
    assert "TODAY IT IS REFUSED" in told(chain, "signature")[0].text
    assert told(chain, "recall")[0].state == "recorded"


def _digest(file):
    from modelreg.digests import Digest

    return Digest.parse(file.artifact)


def test_entries_of_the_log_are_verified_and_must_say_what_the_file_says(made, check):
    file = full(made)
    item = file.artifacts[0]
    stated = item.statements[0]
    published = {"type": "artifact.published", "artifact": item.artifact, "repository": "demo/m", "detail": {}}
    attested = {**published, "type": "artifact.attested", "detail": {"statement": stated.statement}}
    item = item.model_copy(update={"statements": [stated.model_copy(update={"event": 1}), *item.statements[1:]]})
    note, events = made.entries(published, attested, {**published, "artifact": str(sha256_of(b"another"))})
    file = file.model_copy(update={"artifacts": [item, *file.artifacts[1:]], "checkpoint": note, "entries": events})
    chain = check(file)
    assert [line.state for line in told(chain, "log")] == ["verified"] * 3
    assert [line.text.split(" at ")[0] for line in told(chain, "log")[1:]] == [
        "entry 0: artifact.published",
        "entry 1: artifact.attested",
    ]

    lying = item.model_copy(update={"statements": [item.statements[1].model_copy(update={"event": 1})]})
    chain = check(file.model_copy(update={"artifacts": [lying, *file.artifacts[1:]]}))
    assert chain.exit_code == 32

    tampered = events[1].model_copy(update={"entry": events[1].entry.replace("attested", "signed")})
    chain = check(file.model_copy(update={"entries": [events[0], tampered]}))
    assert chain.exit_code == 32

    chain = check(file, made.trust.unpinned)
    assert [line.state for line in told(chain, "log")] == ["recorded"]


def test_a_file_that_names_an_artifact_it_does_not_hold_shows_nothing(made, check):
    manifest = a_manifest()
    item = made.artifact("demo/m", manifest)
    file = made.file(item).model_copy(update={"artifact": str(sha256_of(b"another"))})
    chain = check(file)
    assert (chain.root.manifest, chain.exit_code) == (None, 23)


def test_whose_rules_apply_is_not_the_files_to_choose_beside_what_was_asked(made, check):
    manifest = a_manifest()
    item = made.artifact("demo/m", manifest, made.provenance("demo/m", manifest.digest, import_of(manifest)))
    chain = check(made.file(item).model_copy(update={"repository": "prod/m"}))
    assert (chain.root.manifest, chain.exit_code) == (None, 23)


def test_parents_without_end_are_cut(made, check, monkeypatch):
    monkeypatch.setattr(provenance_chain, "MAX_ARTIFACTS", 3)
    manifest = a_manifest()
    parents = [(f"demo/p{at}", sha256_of(bytes([at]))) for at in range(5)]
    said = made.provenance("demo/m", manifest.digest, derivation_of(*parents, relation="merge"))
    chain = check(made.file(made.artifact("demo/m", manifest, said)))
    assert (len(chain.artifacts), chain.gaps[-1]) == (3, "more than 3 artifacts")


def test_texts_of_others_are_bounded(made, check):
    manifest = a_manifest()
    long = CollectedArtifact(artifact=str(sha256_of(b"p")), name="n" * 1000, absent="w" * 1000)
    said = made.provenance("demo/m", manifest.digest, derivation_of(("n" * 1000, sha256_of(b"p"))))
    chain = check(made.file(made.artifact("demo/m", manifest, said), long))
    assert max(len(line.text) for line in chain.lines) < 1000


def test_statements_of_the_manifest_are_not_confused_with_those_beside_it(made, check):
    """An OMS signature is no attestation: its payload is refused as one."""
    manifest = a_manifest()
    raw = signing.sign(statements.build("m", manifest), made.trust.signer)
    info = made.provenance("demo/m", manifest.digest, import_of(manifest)).model_copy(update={"bundle": raw.decode()})
    chain = check(made.file(made.artifact("demo/m", manifest, info)))
    assert (chain.exit_code, told(chain, "statement")[0].state) == (23, "recorded")
