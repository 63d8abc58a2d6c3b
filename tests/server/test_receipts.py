"""Answers carry their receipts: of a grant, of a report, for a client that knows nothing and for one that knows a checkpoint."""

import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from modelreg import merkle, notes, receipts, wire
from modelreg.trust import LogTrust
from modelreg_server import log_keys
from modelreg_server.witnessing import Witnesses
from support.registry import Trust, running_registry
from support.witnesses import WitnessProcess


def trust_of(registry):
    signer = registry.parts.database.log_signer
    return LogTrust(signer.origin, (log_keys.verifier_of(signer),))


@pytest.fixture
def served(either_database, tmp_path, publishing_to):
    """A registry on each database, with an artifact, and what verifies its receipts."""
    with running_registry(tmp_path / "registry", **either_database) as registry:
        pushed = publishing_to(registry).push({"a.bin": b"a"})
        yield registry, trust_of(registry), pushed.published.artifact


def grant(registry, artifact, **more):
    request = wire.GrantRequest(artifact=artifact, purpose="pull", host="h", **more)
    return registry.api().request_grant("demo/m", request)


def test_a_grant_and_both_reports_answer_with_a_receipt_that_verifies(served):
    registry, trusted, artifact = served
    api = registry.api()
    granted = grant(registry, artifact)
    entry = receipts.verify(granted.receipt.encode(), trusted)

    assert entry.index == granted.event
    entry.require(type="artifact.granted", repository="demo/m", artifact=artifact, detail={"grant": granted.id})
    assert granted.consistency == []
    received = api.report_received(granted.id, wire.ReceivedReport(transferred_bytes=1))
    assert receipts.verify(received.receipt.encode(), trusted).members["type"] == "artifact.received"
    report = wire.LoadedReport(command="vllm", pid=1, boot_id="b", client_version="1", known_size=received.event + 1)
    loaded = api.report_loaded(granted.id, report)
    entry = receipts.verify(loaded.receipt.encode(), trusted)
    assert entry.members["type"] == "artifact.loaded"
    assert "known_size" not in entry.members["detail"]
    assert loaded.consistency


def test_a_client_that_knows_a_checkpoint_is_shown_that_the_log_continues_it(served):
    registry, trusted, artifact = served
    seen = [receipts.verify(grant(registry, artifact).receipt.encode(), trusted).checkpoint for _ in range(9)]
    for known in seen:
        granted = grant(registry, artifact, known_size=known.size)
        new = receipts.verify(granted.receipt.encode(), trusted).checkpoint
        proof = notes.decode_hashes(granted.consistency, merkle.MAX_PROOF_HASHES)

        merkle.verify_consistency(known.size, known.root, new.size, new.root, proof)
        assert proof


@pytest.mark.parametrize("known_size", [None, 0, 10**9])
def test_where_nothing_leads_there_is_no_consistency_proof(served, known_size):
    registry, trusted, artifact = served
    granted = grant(registry, artifact, known_size=known_size)

    assert granted.consistency == []
    receipts.verify(granted.receipt.encode(), trusted)


def test_a_known_size_that_is_no_size_is_refused(served):
    _registry, _trusted, artifact = served
    from modelreg.errors import Invalid

    for size in (-1, 2**63):
        with pytest.raises(Invalid):
            wire.request(wire.GrantRequest, artifact=artifact, purpose="pull", host="h", known_size=size)


def test_base64_of_a_hash_is_what_stands_in_the_answer(served):
    registry, _trusted, artifact = served
    grant(registry, artifact)
    lines = grant(registry, artifact, known_size=1).consistency

    assert all(len(base64.b64decode(line, validate=True)) == merkle.HASH_BYTES for line in lines)
    assert lines


class RegistryLog:
    """What a witness is told of a registry's log."""

    def __init__(self, trusted):
        self.origin, self.vkey = trusted.origin, trusted.keys[0]


def test_receipts_carry_the_witnesses_that_a_policy_demands_also_with_two_workers(
    tmp_path, publishing_to, either_database, monkeypatch
):
    monkeypatch.setitem(
        Witnesses.__init__.__kwdefaults__, "deadline_seconds", 60.0
    )  # a busy machine is not the question
    trusted = Trust(tmp_path / "trust")
    pinned = LogTrust(
        log_keys.default_origin(trusted.log_key), (notes.parse_key(trusted.log_vkey, "x", notes.ED25519),)
    )
    witnesses = [
        WitnessProcess(tmp_path / name, f"{name}.example", RegistryLog(pinned)).start() for name in ("w1", "w2")
    ]
    listed = tmp_path / "witnesses"
    listed.write_text("".join(f"witness {w.vkey.name} {w.vkey} {w.url}\n" for w in witnesses))
    demanding = replace(pinned, witnesses=tuple(w.vkey for w in witnesses), required_witnesses=2)
    settings = {"trusted": trusted, "witnesses": listed, **either_database}
    try:
        with running_registry(tmp_path / "one", **settings) as one:
            artifact = publishing_to(one).push({"a.bin": b"a"}).published.artifact
            with running_registry(tmp_path / "one", **settings) as two:

                def ten(worker):
                    return [grant(worker, artifact).receipt for _ in range(10)]

                with ThreadPoolExecutor(4) as pool:
                    given = [text for some in pool.map(ten, (one, two, one, two)) for text in some]
        found = [receipts.verify(text.encode(), demanding) for text in given]
        assert len({entry.index for entry in found}) == 40
    finally:
        for witness in witnesses:
            witness.stop()
