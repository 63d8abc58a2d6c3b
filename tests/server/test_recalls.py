"""Quarantine, release and revocation at the registry: at once, everywhere, once, and by nobody who may not."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from modelreg import wire
from modelreg import wire_recalls as models
from modelreg.errors import Conflict, Forbidden, NotFound, Quarantined, Revoked, TooLarge
from modelreg_server import confirmations, custody, recalls
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.tables import Derivation, RecallConfirmation, RuntimeLoad
from support.hosts import enrol, grant
from support.registry import running_registry


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def registry(request, tmp_path_factory):
    settings = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres").make_database("recalls")
    with running_registry(tmp_path_factory.mktemp("registry"), **settings) as running:
        policy = running.trust.policy_path
        policy.write_text(policy.read_text().replace('"demo/*"', '"*/*"'))
        yield running


@pytest.fixture
def api(registry):
    return registry.api()


@pytest.fixture
def pushed(publishing):
    return publishing.push({"w": uuid.uuid4().bytes * 100}, "demo/m")


@pytest.fixture
def artifact(pushed):
    return pushed.manifest.digest


def recall(api, artifact, kind="quarantine", repository="demo/m", reason="odd answers", **more):
    return api.recall(repository, artifact, models.RecallRequest(kind=kind, reason=reason, **more))


def release(api, artifact, reason="false alarm", repository="demo/m"):
    return api.release(repository, artifact, models.ReleaseRequest(reason=reason))


def ask(api, artifact, host="gpu-1", repository="demo/m"):
    request = wire.GrantRequest(artifact=str(artifact), purpose="launch", host=host)
    return api.request_grant(repository, request)


def confirm(api, recall_id, state, host="gpu-1"):
    return api.confirm_recall(recall_id, models.ConfirmationRequest(state=state, host=host)).event


def events_of(registry, artifact, *types):
    return [e for e in registry.whole_log() if e.artifact == str(artifact) and (not types or e.type in types)]


def derive(registry, child, parent, relation="finetune", grade="attested"):
    with registry.parts.database.writing() as session, session.begin():
        session.add(
            Derivation(
                child=str(child), parent=str(parent), relation=relation, grade=grade,
                recorded_at=datetime.now(UTC), event_index=0,
            )
        )  # fmt: skip


def load(registry, artifact, host, *, verified=False, at=None, ended=None, event=0):
    at = at or datetime.now(UTC)
    with registry.parts.database.writing() as session, session.begin():
        session.add(
            RuntimeLoad(
                id=str(uuid.uuid4()), artifact_digest=str(artifact), repository="demo/m", host=host,
                verified_host=host if verified else None, boot_id="b", pid=7, command="vllm", loaded_at=at,
                event_index=event, last_seen_at=at, ended_at=ended,
            )
        )  # fmt: skip


def happened(registry, type_, artifact, host):
    """An event about an artifact on a host that calls itself so."""
    event = Event(EventType(type_), repository="demo/m", artifact=str(artifact), host=host)
    with registry.parts.database.writing() as session, session.begin():
        return custody.append(session, Actor("person:x", None), event, datetime.now(UTC))


# What a recall does.


def test_a_quarantined_artifact_is_granted_to_nobody_until_it_is_released(registry, api, artifact):
    made = recall(api, artifact).artifacts[0]
    assert (made.changed, made.recall.kind, made.repositories) == (True, "quarantine", ["demo/m"])

    with pytest.raises(Quarantined, match="odd answers") as refused:
        ask(api, artifact)
    assert refused.value.exit_code == 21
    assert refused.value.facts["recall"] == made.recall.id
    (event,) = events_of(registry, artifact, "artifact.refused")
    assert (event.detail["reason"], event.host, event.purpose) == ("quarantined", "gpu-1", "launch")

    freed = release(api, artifact)
    assert (freed.changed, freed.recall.id, freed.recall.lifted_by) == (True, made.recall.id, "person:tester")
    assert ask(api, artifact).artifact == str(artifact)
    told = [(e.type, e.detail["reason"]) for e in events_of(registry, artifact) if "recall" in e.detail]
    assert told == [("artifact.quarantined", "odd answers"), ("artifact.released", "false alarm")]


def test_a_grant_from_before_opens_nothing_any_more_and_still_takes_reports(registry, api, pushed, http_to):
    artifact, blob = pushed.manifest.digest, pushed.manifest.files[0].blake3
    token = registry.token()
    mine = registry.api(token)
    given = ask(mine, artifact)
    assert mine.read_requests(given.id, [blob])

    recall(api, artifact)

    with pytest.raises(Quarantined):
        mine.read_requests(given.id, [blob])
    answer = http_to(registry.url)("GET", f"/v1/grants/{given.id}/blobs/{blob}", token)
    assert (answer.status, answer.code) == (403, "quarantined")
    assert [e.detail["grant"] for e in events_of(registry, artifact, "artifact.refused")] == [given.id, given.id]
    assert mine.report_received(given.id, wire.ReceivedReport(transferred_bytes=1)).event

    release(api, artifact)
    assert mine.read_requests(given.id, [blob])


def test_the_servers_own_trust_policy_closes_grants_from_before_too(own_registry, publishing_to):
    pushed = publishing_to(own_registry).push({"a": b"revoked by the policy"})
    api = own_registry.api(own_registry.token())
    blob = pushed.manifest.files[0].blake3
    grants = {kind: ask(api, pushed.manifest.digest) for kind in ("revoked", "quarantined")}
    path = own_registry.trust.policy_path
    text = path.read_text()

    path.write_text(text.replace("artifacts = []", f'artifacts = ["{pushed.manifest.digest}"]'))
    with pytest.raises(Revoked):
        api.read_requests(grants["revoked"].id, [blob])
    entry = f'{{artifact = "{pushed.manifest.digest}", reason = "odd"}}'
    path.write_text(text.replace("artifacts = []", f"artifacts = []\nquarantined = [{entry}]"))
    with pytest.raises(Quarantined, match="odd"):
        api.read_requests(grants["quarantined"].id, [blob])
    with pytest.raises(Quarantined):
        ask(api, pushed.manifest.digest)
    path.write_text(text)
    assert api.read_requests(grants["revoked"].id, [blob])


def test_bytes_under_way_are_cut_off_when_the_artifact_is_recalled(own_registry, publishing_to, monkeypatch):
    """One request may ask for a file of a hundred gigabytes."""
    from modelreg_server.routes import grants as routes

    monkeypatch.setattr(routes, "_ASK_AGAIN_BYTES", 1024 * 1024)
    size = 64 * 1024 * 1024
    pushed = publishing_to(own_registry).push({"w": b"\1" * size})
    api = own_registry.api(own_registry.token())
    given = ask(api, pushed.manifest.digest)
    request = api.read_requests(given.id, [pushed.manifest.files[0].blake3])[0]
    response = api.open_direct(request, {})
    got = len(response.read(1024 * 1024))
    recall(api, pushed.manifest.digest)
    with pytest.raises(Exception, match="IncompleteRead|Connection broken|closed"):
        while data := response.read(1024 * 1024):
            got += len(data)
    assert got < size
    assert [e.detail["reason"] for e in events_of(own_registry, pushed.manifest.digest, "artifact.refused")]


def test_a_revocation_is_final(registry, api, artifact):
    first = recall(api, artifact, "revocation", reason="stolen key").artifacts[0].recall

    with pytest.raises(Revoked, match="stolen key"):
        ask(api, artifact)
    with pytest.raises(Conflict, match="final"):
        release(api, artifact)
    with pytest.raises(Conflict, match="final"):
        recall(api, artifact, "quarantine")
    again = recall(api, artifact, "revocation", reason="said twice").artifacts[0]
    assert (again.changed, again.recall) == (False, first)
    assert len(events_of(registry, artifact, "artifact.revoked")) == 1


def test_a_quarantine_can_become_a_revocation_which_hosts_confirm_anew(registry, api, artifact):
    ask(api, artifact)
    quarantine = recall(api, artifact).artifacts[0].recall
    confirm(api, quarantine.id, "holding")
    revocation = recall(api, artifact, "revocation").artifacts[0].recall

    assert revocation.id != quarantine.id
    assert [row.id for row in api.check_recalls([artifact]).recalls] == [revocation.id]
    with pytest.raises(Conflict, match="ended"):
        confirm(api, quarantine.id, "removed")
    assert api.recall_status(quarantine.id).recall.lifted_at is not None
    assert api.recall_status(revocation.id).unsettled == 1


def test_doing_it_again_is_no_event(registry, api, artifact):
    recall(api, artifact)
    assert recall(api, artifact, reason="again").artifacts[0].changed is False
    assert release(api, artifact).changed is True
    assert release(api, artifact).changed is False
    assert [e.type for e in events_of(registry, artifact) if "recall" in e.detail] == [
        "artifact.quarantined",
        "artifact.released",
    ]
    other = recall(api, artifact).artifacts[0]
    assert other.changed is True


def test_what_was_never_quarantined_cannot_be_released(api, artifact):
    with pytest.raises(Conflict, match="not quarantined"):
        release(api, artifact)


def test_a_recalled_artifact_is_published_in_no_other_repository(registry, api, publishing):
    for kind, error in (("quarantine", Quarantined), ("revocation", Revoked)):
        files = {"w": uuid.uuid4().bytes}
        artifact = publishing.push(files, "demo/m").manifest.digest
        recall(api, artifact, kind)
        with pytest.raises(error):
            publishing.push(files, "demo/elsewhere")


def test_a_publication_that_began_before_the_recall_is_not_finished_after_it(registry, api, publishing):
    files = {"w": uuid.uuid4().bytes}
    manifest = publishing.push(files, "demo/m").manifest
    pusher = registry.api(registry.token("person:late", "push:demo/*"))
    state = pusher.begin_publication("demo/late", publishing.request(manifest))
    publishing.upload(pusher, state.id, state.missing[0], files["w"])
    recall(api, manifest.digest, "revocation")
    with pytest.raises(Revoked):
        pusher.finish_publication(state.id)


def test_a_tag_still_resolves(api, publishing):
    pushed = publishing.push({"w": uuid.uuid4().bytes}, "demo/tagged", tags=("v1",))
    recall(api, pushed.manifest.digest, repository="demo/tagged")
    assert api.resolve("demo/tagged", "v1").artifact == str(pushed.manifest.digest)


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "a\x00b", "\x1b[31m", "x" * 201])
def test_a_reason_is_one_line_that_says_something(registry, http_to, artifact, reason):
    http, token = http_to(registry.url), registry.token()
    path = f"/v1/repositories/demo/m/artifacts/{artifact}"
    for tail, more in (("recall", {"kind": "quarantine"}), ("release", {})):
        answer = http("POST", f"{path}/{tail}", token, json={"reason": reason, **more})
        assert (answer.status, answer.code) == (422, "invalid")


# Who may.


def test_a_recall_needs_the_verb_in_every_repository_that_holds_the_artifact(registry, api, publishing):
    files = {"w": uuid.uuid4().bytes}
    artifact = publishing.push(files, "demo/mine").manifest.digest
    one = registry.api(registry.token("person:one", "quarantine:demo/mine"))
    assert recall(one, artifact, repository="demo/mine").artifacts[0].changed
    release(one, artifact, repository="demo/mine")

    publishing.push(files, "other/team")
    for act in (
        lambda: recall(one, artifact, repository="demo/mine"),
        lambda: release(one, artifact, repository="demo/mine"),
    ):
        with pytest.raises(Forbidden) as refused:
            act()
        assert "other/team" not in refused.value.detail
    assert events_of(registry, artifact, "access.denied") == []
    denials = [e for e in registry.whole_log() if e.type == "access.denied" and e.principal == "person:one"]
    assert [e.detail["verb"] for e in denials] == ["quarantine", "quarantine"]

    both = registry.api(registry.token("person:both", "quarantine:demo/mine", "quarantine:other/*"))
    made = recall(both, artifact, repository="demo/mine").artifacts[0]
    assert made.repositories == ["demo/mine", "other/team"]
    assert [e.repository for e in events_of(registry, artifact, "artifact.quarantined")[-2:]] == made.repositories
    admin = registry.api(registry.token("person:admin", "admin:*/*"))
    assert release(admin, artifact, repository="other/team").changed


def test_open_recalls_are_listed_to_who_may_see_a_holder(registry, api, publishing):
    mine = publishing.push({"w": uuid.uuid4().bytes}, "demo/listed").manifest.digest
    theirs = publishing.push({"w": uuid.uuid4().bytes}, "other/listed").manifest.digest
    made = {
        recall(api, mine, repository="demo/listed").artifacts[0].recall.id,
        recall(api, theirs, repository="other/listed").artifacts[0].recall.id,
    }
    assert made <= {row.id for row in api.recalls()}
    reader = registry.api(registry.token("person:reader", "pull:demo/listed"))
    assert [row.artifact for row in reader.recalls()] == [str(mine)]
    # A host that names what it has is told of it, whatever it may see.
    nobody = registry.api(registry.token("person:nobody", "pull:no/where"))
    assert list(nobody.recalls()) == []
    assert {row.artifact for row in nobody.check_recalls([mine, theirs]).recalls} == {str(mine), str(theirs)}


def test_a_check_names_at_most_a_thousand(registry, http_to):
    body = {"artifacts": [f"sha256:{n:064x}" for n in range(1001)]}
    http, token = http_to(registry.url), registry.token()
    assert http("POST", "/v1/recalls/check", token, json=body).status == 422
    body["artifacts"].pop()
    assert http("POST", "/v1/recalls/check", token, json=body).json == {"recalls": [], "expected": []}


# What was made from it.


def test_a_cascade_reaches_every_descendant_once_and_ends_in_a_circle(registry, api, publishing):
    base, tuned, quantized, other = (
        publishing.push({"w": uuid.uuid4().bytes}, name).manifest.digest
        for name in ("demo/base", "demo/tuned", "demo/quant", "demo/other")
    )
    nowhere = f"sha256:{uuid.uuid4().hex * 2}"
    derive(registry, tuned, base)
    derive(registry, quantized, tuned, "quantized", "claimed")
    derive(registry, quantized, base, "quantized")
    derive(registry, base, quantized)  # a lie, but it must not hang us
    derive(registry, nowhere, tuned, "merge", "claimed")

    shown = recall(api, base, repository="demo/base", cascade=True, dry_run=True)
    assert shown.dry_run
    assert [(row.artifact, row.depth) for row in shown.artifacts] == [
        (str(base), 0),
        *sorted([(str(tuned), 1), (str(quantized), 1)]),
        (nowhere, 2),
    ]
    assert api.check_recalls([base, tuned, quantized]).recalls == []

    done = recall(api, base, repository="demo/base", cascade=True)
    assert {row.artifact for row in done.artifacts} == {str(base), str(tuned), str(quantized), nowhere}
    assert all(row.changed for row in done.artifacts)
    with pytest.raises(Quarantined):
        ask(api, quantized, repository="demo/quant")
    assert ask(api, other, repository="demo/other")
    (event,) = events_of(registry, quantized, "artifact.quarantined")
    assert event.detail["parent"] in {str(base), str(tuned)}
    assert events_of(registry, nowhere, "artifact.quarantined")[0].repository is None

    later = recall(api, base, "revocation", repository="demo/base", cascade=True)
    assert all(row.changed and row.recall.kind == "revocation" for row in later.artifacts)


def test_a_cascade_is_all_or_nothing_and_names_nothing_hidden(registry, api, publishing):
    base = publishing.push({"w": uuid.uuid4().bytes}, "demo/root").manifest.digest
    hidden = publishing.push({"w": uuid.uuid4().bytes}, "other/secret").manifest.digest
    derive(registry, hidden, base)
    mine = registry.api(registry.token("person:mine", "quarantine:demo/*"))

    shown = recall(mine, base, repository="demo/root", cascade=True, dry_run=True).artifacts
    assert [(row.artifact, row.allowed, row.repositories) for row in shown] == [
        (str(base), True, ["demo/root"]),
        (None, False, []),
    ]
    with pytest.raises(Forbidden) as refused:
        recall(mine, base, repository="demo/root", cascade=True)
    assert "secret" not in str(vars(refused.value))
    assert api.check_recalls([base, hidden]).recalls == []
    assert recall(mine, base, repository="demo/root").artifacts[0].changed


def test_a_cascade_has_a_limit(registry, api, artifact, monkeypatch):
    monkeypatch.setattr(recalls, "MAX_CASCADE", 3)
    for n in range(3):
        derive(registry, f"sha256:{uuid.uuid4().hex * 2}", artifact, f"r{n}")
    with pytest.raises(TooLarge, match="without --cascade"):
        recall(api, artifact, cascade=True)
    assert api.check_recalls([artifact]).recalls == []


# What hosts say.


def test_status_lists_who_may_have_it_worst_first_until_all_have_confirmed(registry, api, artifact):
    for host in ("pulled", "loaded", "silent"):
        given = ask(api, artifact, host)
        if host != "silent":
            api.report_received(given.id, wire.ReceivedReport(transferred_bytes=1))
        if host == "loaded":
            happened(registry, "artifact.loaded", artifact, host)
    load(registry, artifact, "runs")
    row = recall(api, artifact, "revocation").artifacts[0].recall

    found = api.recall_status(row.id)
    assert [(h.host, h.exposure, h.settled) for h in found.hosts] == [
        ("runs", "running", False), ("loaded", "loaded", False), ("pulled", "received", False), ("silent", "unknown", False),
    ]  # fmt: skip
    assert (found.unsettled, found.complete) == (4, True)

    for host, state in (("runs", "removed"), ("loaded", "removed"), ("pulled", "holding"), ("silent", "absent")):
        confirm(api, row.id, state, host)
    found = api.recall_status(row.id)
    # Bytes that are kept are not settled where they will never be used again.
    assert [(h.host, h.state, h.settled) for h in found.hosts][:2] == [
        ("pulled", "holding", False),
        ("loaded", "removed", True),
    ]
    confirm(api, row.id, "removed", "pulled")
    assert api.recall_status(row.id).unsettled == 0


def test_a_load_whose_end_nobody_reported_is_over_when_the_host_looked(registry, api, artifact):
    load(registry, artifact, "h", at=datetime.now(UTC) - timedelta(minutes=5))
    row = recall(api, artifact).artifacts[0].recall
    found = api.recall_status(row.id).hosts[0]
    assert (found.exposure, found.running) == ("running", 1)
    confirm(api, row.id, "running", "h")
    assert api.recall_status(row.id).hosts[0].running == 1
    confirm(api, row.id, "holding", "h")
    found = api.recall_status(row.id).hosts[0]
    assert (found.exposure, found.running, found.settled) == ("loaded", 0, True)


def test_for_a_quarantine_keeping_the_bytes_is_enough_and_running_them_is_not(registry, api, artifact):
    ask(api, artifact, "h")
    row = recall(api, artifact).artifacts[0].recall
    confirm(api, row.id, "running", "h")
    assert api.recall_status(row.id).unsettled == 1
    confirm(api, row.id, "holding", "h")
    assert api.recall_status(row.id).unsettled == 0


def test_a_host_that_got_it_after_it_confirmed_has_to_say_it_again(registry, api, artifact):
    given = ask(api, artifact, "h")
    row = recall(api, artifact).artifacts[0].recall
    first = confirm(api, row.id, "absent", "h")
    assert confirm(api, row.id, "absent", "h") == first
    assert api.check_recalls([], "h").expected == []

    api.report_received(given.id, wire.ReceivedReport(transferred_bytes=1))  # the download was under way
    assert api.recall_status(row.id).hosts[0].settled is False
    assert [r.id for r in api.check_recalls([], "h").expected] == [row.id]
    assert confirm(api, row.id, "absent", "h") > first
    assert api.recall_status(row.id).unsettled == 0

    load(registry, artifact, "h", at=datetime.now(UTC) + timedelta(seconds=1))  # a heartbeat since then
    assert api.recall_status(row.id).hosts[0].exposure == "running"
    assert api.recall_status(row.id).unsettled == 1


def test_a_claimed_name_never_speaks_for_a_verified_host(registry, api, artifact):
    name = f"gpu-{uuid.uuid4().hex[:8]}"
    machine = enrol(registry, name)
    grant(registry, f"host:{name}", "pull", "demo/*")
    ask(machine.api(), artifact, name)
    row = recall(api, artifact).artifacts[0].recall

    confirm(api, row.id, "absent", name)  # an administrator's laptop that calls itself so
    found = {(h.host, h.verified): (h.state, h.settled) for h in api.recall_status(row.id).hosts}
    assert found == {(name, True): (None, False), (name, False): ("absent", True)}

    confirm(machine.api(), row.id, "holding", "whatever-it-calls-itself")
    found = {(h.host, h.verified): (h.state, h.settled) for h in api.recall_status(row.id).hosts}
    assert found[(name, True)] == ("holding", True)
    (event,) = [e for e in events_of(registry, artifact, "recall.confirmed") if e.verified_host]
    assert (event.verified_host, event.detail["state"], event.detail["recall"]) == (name, "holding", row.id)
    assert event.repository == "demo/m", "its auditors see what its hosts say"


def test_an_enrolled_host_is_asked_for_what_the_record_says_it_has(registry, api, artifact):
    name = f"gpu-{uuid.uuid4().hex[:8]}"
    machine = enrol(registry, name)
    given = grant(registry, f"host:{name}", "pull", "demo/*")
    ask(machine.api(), artifact, name)
    registry.api().revoke_access(given)  # it may see nothing any more, and is still asked
    row = recall(api, artifact).artifacts[0].recall
    answer = machine.api().check_recalls([artifact], name)
    assert [r.id for r in answer.recalls] == [r.id for r in answer.expected] == [row.id]
    confirm(machine.api(), row.id, "absent", name)
    assert machine.api().check_recalls([artifact], name).expected == []


def test_who_has_nothing_to_do_with_the_artifact_hears_of_no_recall(registry, api, artifact):
    ask(api, artifact, "victim")
    row = recall(api, artifact).artifacts[0].recall
    stranger = registry.api(registry.token("person:stranger", "pull:other/*"))
    absent = str(uuid.uuid4())
    said = []
    for recall_id in (row.id, absent):
        for act in (
            lambda r=recall_id: confirm(stranger, r, "absent", "victim"),
            lambda r=recall_id: stranger.recall_status(r),
        ):
            with pytest.raises(NotFound) as refused:
                act()
            said.append(refused.value.detail.replace(recall_id, "ID"))
    assert len(set(said)) == 1
    assert stranger.check_recalls([], "victim").expected == []


def test_status_needs_a_right_in_every_repository_that_holds_it(registry, api, publishing):
    files = {"w": uuid.uuid4().bytes}
    artifact = publishing.push(files, "demo/both").manifest.digest
    publishing.push(files, "other/both")
    row = recall(api, artifact, repository="demo/both").artifacts[0].recall
    half = registry.api(registry.token("person:half", "audit:demo/both", "pull:*/*"))
    with pytest.raises(NotFound):
        half.recall_status(row.id)
    assert registry.api(registry.token("person:whole", "audit:demo/both", "quarantine:other/*")).recall_status(row.id)


def test_more_hosts_than_an_answer_holds_are_said_to_be_left_out(registry, api, artifact, monkeypatch):
    monkeypatch.setattr(confirmations, "MAX_HOSTS", 2)
    for n in range(3):
        ask(api, artifact, f"h{n}")
    found = api.recall_status(recall(api, artifact).artifacts[0].recall.id)
    assert (len(found.hosts), found.unsettled, found.complete) == (2, 3, False)


# Files that changed.


def alteration(artifact, repository="demo/m", **more):
    told = {"host": "gpu-1", "where": "file", "what": "changed", "path": "w", "measured": "blake3:00", **more}
    return models.AlterationReport(artifact=str(artifact), repository=repository, **told)


def test_an_altered_file_is_recorded_with_host_path_and_what(registry, api, artifact):
    machine = enrol(registry, f"gpu-{uuid.uuid4().hex[:8]}")
    grant(registry, f"host:{machine.name}", "pull", "demo/*")
    index = machine.api().report_alteration(alteration(artifact, pid=77, where="process", what="replaced")).event
    (event,) = events_of(registry, artifact, "artifact.altered")
    assert (event.index, event.verified_host, event.repository) == (index, machine.name, "demo/m")
    assert event.detail == {
        "where": "process", "what": "replaced", "path": "w", "expected": "", "measured": "blake3:00", "pid": 77,
    }  # fmt: skip


def test_a_report_into_a_repository_one_has_nothing_to_do_with_is_not_taken(registry, api, artifact, publishing):
    publishing.push({"w": uuid.uuid4().bytes}, "other/x")
    stranger = registry.api(registry.token("person:stranger", "pull:demo/other"))
    for report in (alteration(artifact), alteration(artifact, "demo/absent")):
        with pytest.raises(NotFound, match="no repository"):
            stranger.report_alteration(report)
    with pytest.raises(NotFound):
        api.report_alteration(alteration(artifact, "other/x"))  # which does not hold it
    puller = registry.api(registry.token("person:puller", "pull:demo/m"))
    ask(puller, artifact)
    assert registry.api(registry.token("person:puller", "pull:no/more")).report_alteration(alteration(artifact)).event


def test_rows_of_confirmations_are_one_a_host(registry, api, artifact):
    row = recall(api, artifact).artifacts[0].recall
    for state in ("running", "holding", "removed"):
        confirm(api, row.id, state, "h")
    with registry.parts.database.reading() as session:
        rows = session.exec(select(RecallConfirmation).where(RecallConfirmation.recall_id == row.id)).all()
        assert [(r.host, r.state) for r in rows] == [("h", "removed")]
    assert len(events_of(registry, artifact, "recall.confirmed")) == 3
