"""Who is answered what about whose record; what a publication says of its parents; roots of artifacts from before."""

import hashlib
import json
from datetime import UTC, datetime

import pytest
from alembic import command
from sqlalchemy import text
from sqlmodel import select

from modelreg import statements, wire
from modelreg.errors import Forbidden, Invalid
from modelreg_server import database, migrations
from modelreg_server.tables import Artifact, ArtifactFile, Derivation, Publication

NEVER = "sha256:" + "0" * 64
QUESTIONS = ("trace", "pulls", "loaded", "lineage", "blast-radius", "signatures", "timeline")


def parent(digest, relation="finetune"):
    return wire.Parent(artifact=digest, relation=relation)


@pytest.fixture(scope="module")
def everywhere(registry):
    """The trust policy lets the one signer sign for every repository."""
    path = registry.trust.policy_path
    path.write_text(path.read_text().replace('"demo/*"', '"*/*"'))


@pytest.fixture(scope="module")
def published(publishing, everywhere):
    """An artifact in a repository of mine and one of theirs, and theirs alone, with children on either side."""
    shared = publishing.push({"a": b"in both"}, "mine/shared", tags=("v1",)).published.artifact
    publishing.push({"a": b"in both"}, "theirs/shared", tags=("v1",))
    hidden = publishing.push({"a": b"theirs alone", "common": b"a common file"}, "theirs/hidden").published.artifact
    open_ = publishing.push({"b": b"mine alone", "common": b"a common file"}, "mine/open").published.artifact
    return {"shared": shared, "hidden": hidden, "open": open_}


@pytest.fixture(scope="module")
def ask(registry, http_):
    def call(question, token, **query):
        from urllib.parse import urlencode

        return http_("GET", f"/v1/lookups/{question}?{urlencode(query)}", token)

    return call


@pytest.fixture(scope="module")
def mine(registry):
    return registry.token("person:auditor", "audit:mine/*")


@pytest.mark.parametrize("question", QUESTIONS)
def test_who_may_audit_nothing_is_refused_and_it_is_recorded(registry, ask, published, question):
    token = registry.token(f"person:curious-{question}", "pull:*/*", "read-metadata:*/*", "admin:*/*")
    answers = [ask(question, token, digest=digest) for digest in (published["shared"], NEVER)]
    assert [answer.status for answer in answers] == [403, 403]
    assert answers[0].same_for_all == answers[1].same_for_all
    denied = [event for event in registry.whole_log() if event.type == "access.denied"]
    assert [event.principal for event in denied[-2:]] == [f"person:curious-{question}"] * 2


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_artifact_of_others_answers_as_one_that_never_was(ask, published, mine, question):
    told = []
    for digest in (published["hidden"], NEVER):
        answer = ask(question, mine, digest=digest)
        assert answer.status == 200, answer
        value = {**answer.json, "as_of": None}
        assert value["found"] == []
        told.append(json.dumps(value).replace(digest, "DIGEST"))
    assert told[0] == told[1]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_repository_of_others_answers_as_one_that_is_not_there(ask, published, mine, question):
    told = []
    for repository in ("theirs/shared", "theirs/absent"):
        answer = ask(question, mine, repository=repository, tag="v1")
        assert (answer.status, answer.code) == (403, "forbidden")
        told.append(str(answer.same_for_all).replace(repository, "REPOSITORY"))
    assert told[0] == told[1]


def test_an_artifact_in_two_repositories_shows_the_one_that_may_be_audited(registry, ask, published, mine):
    artifact = published["shared"]
    traced = ask("trace", mine, digest=artifact).json["artifacts"][0]
    assert [row["repository"] for row in traced["publications"]] == ["mine/shared"]
    assert [row["repository"] for row in traced["signatures"]] == ["mine/shared"]
    assert {row["repository"] for row in ask("signatures", mine, digest=artifact).json["signatures"]} == {"mine/shared"}
    assert {row["repository"] for row in ask("timeline", mine, digest=artifact).json["events"]} == {"mine/shared"}
    everything = registry.token("person:chief", "audit:*/*")
    both = ask("trace", everything, digest=artifact).json["artifacts"][0]
    assert [row["repository"] for row in both["publications"]] == ["mine/shared", "theirs/shared"]


def test_a_file_leads_only_to_artifacts_that_may_be_audited(registry, ask, published, mine):
    digest = "sha256:" + hashlib.sha256(b"a common file").hexdigest()
    assert [row["artifact"] for row in ask("trace", mine, digest=digest).json["found"]] == [published["open"]]
    everything = registry.token("person:chief", "audit:*/*")
    found = {row["artifact"] for row in ask("trace", everything, digest=digest).json["found"]}
    assert found == {published["open"], published["hidden"]}


def test_grants_of_others_are_not_counted_for_whoever_may_not_read_them(registry, ask, published, mine):
    for repository in ("mine/shared", "theirs/shared"):
        request = wire.GrantRequest(artifact=published["shared"], purpose="pull", host="h")
        registry.api(registry.token(f"person:{repository[:4]}")).request_grant(repository, request)
    answer = ask("pulls", mine, digest=published["shared"]).json
    assert (answer["granted"], [row["repository"] for row in answer["pulls"]]) == (1, ["mine/shared"])
    reach = ask("blast-radius", mine, digest=published["shared"]).json
    assert (reach["counts"]["grants"], {row["principal"] for row in reach["people"]}) == (
        1, {"person:mine", "person:tester"},
    )  # fmt: skip
    for query in ({"host": "h"}, {"principal": "person:tester"}, {"signer": "email:al@demo.example"}):
        names = {n for row in ask("blast-radius", mine, **query).json["artifacts"] for n in row["repositories"]}
        assert names == {"mine/open", "mine/shared"} - ({"mine/open"} if "host" in query else set())


def test_children_of_others_are_left_out_and_parents_of_others_are_only_named(
    registry, ask, publishing, published, mine
):
    def child(repository, data, of):
        files = {"c": data}
        manifest = publishing.manifest(files)
        request = publishing.request(manifest).model_copy(update={"parents": [parent(of)]})
        api = registry.api()
        state = api.begin_publication(repository, request)
        publishing.upload(api, state.id, state.missing[0], data)
        return api.finish_publication(state.id).artifact

    theirs = child("theirs/child", b"their child", published["shared"])
    ours = child("mine/child", b"our child", published["hidden"])
    grandchild = child("mine/grandchild", b"our grandchild through them", theirs)

    below = ask("lineage", mine, digest=published["shared"]).json
    assert (below["down"], len(below["nodes"])) == ([], 1)
    assert theirs not in json.dumps(below)
    above = ask("lineage", mine, digest=ours).json
    assert [edge["parent"] for edge in above["up"]] == [published["hidden"]]
    named = next(node for node in above["nodes"] if node["artifact"] == published["hidden"])
    assert (named["known"], named["repositories"], named["confidence"]) == (False, [], "unknown")
    reach = ask("blast-radius", mine, digest=published["shared"]).json
    assert grandchild not in {row["artifact"] for row in reach["artifacts"]}
    everything = registry.token("person:chief", "audit:*/*")
    whole = ask("blast-radius", everything, digest=published["shared"]).json
    assert {theirs, grandchild} <= {row["artifact"] for row in whole["artifacts"]}


@pytest.mark.parametrize(
    ("question", "query"),
    [
        ("trace", {}),
        ("trace", {"repository": "mine/shared"}),
        ("trace", {"digest": "sha256:short"}),
        ("trace", {"digest": "md5:" + "0" * 64}),
        ("trace", {"digest": NEVER, "at": "2026-01-01T00:00:00"}),
        ("trace", {"digest": NEVER, "at": "0001-01-01T00:00:00+14:00"}),
        ("trace", {"digest": NEVER, "at": "2999-01-01T00:00:00Z"}),
        ("pulls", {"digest": NEVER, "limit": 0}),
        ("pulls", {"digest": NEVER, "limit": 1001}),
        ("pulls", {"digest": NEVER, "before": -1}),
        ("pulls", {"digest": NEVER, "before": 2**63}),
        ("blast-radius", {}),
        ("blast-radius", {"signer": "a", "principal": "b"}),
        ("blast-radius", {"digest": NEVER, "host": "b"}),
        ("blast-radius", {"host": "\0"}),
        ("blast-radius", {"host": ""}),
        ("timeline", {}),
        ("timeline", {"repository": "no"}),
    ],
)
def test_a_malformed_question_is_refused_as_such(registry, ask, published, question, query):
    answer = ask(question, registry.token("person:chief", "audit:*/*"), **query)
    assert (answer.status, answer.code) == (422, "invalid")


def test_answers_name_their_schema_and_what_they_are_as_of(registry, ask, published):
    token = registry.token("person:chief", "audit:*/*")
    for question in QUESTIONS:
        answer = ask(question, token, digest=published["shared"]).json
        assert answer["schema"] == f"modelreg/{question}/v1"
        assert answer["as_of"]["time"] == answer["as_of"]["answered_at"]
        assert answer["as_of"]["log_size"] > 0


def test_a_file_in_very_many_artifacts_leads_to_the_first_and_says_so(registry, ask, published, everywhere):
    digest = "ef" * 32
    database_ = registry.parts.database
    with database_.writing() as session, session.begin():
        blob = session.exec(select(ArtifactFile.blake3)).first()
        repository = session.exec(select(Publication.repository_id)).first()
        for at in range(130):
            name = f"sha256:{at:064x}"
            session.add(Artifact(digest=name, manifest=b"{}", size_bytes=1, file_count=1))
            session.flush()
            session.add(ArtifactFile(artifact_digest=name, path="LICENSE", blake3=blob, sha256=digest))
            session.add(
                Publication(
                    repository_id=repository, artifact_digest=name, published_at=datetime.now(UTC), published_by="p",
                    event_index=0,
                )
            )  # fmt: skip
    token = registry.token("person:chief", "audit:*/*")
    answer = ask("trace", token, digest=f"sha256:{digest}").json
    assert (len(answer["found"]), len(answer["artifacts"]), answer["truncated"]) == (100, 20, True)
    assert ask("blast-radius", token, digest=f"sha256:{digest}").json["truncated"]


def begin(registry, publishing, parents, repository="mine/parents", token=None, data=b"parents"):
    manifest = publishing.manifest({"p": data})
    request = publishing.request(manifest).model_copy(update={"parents": parents})
    return registry.api(token).begin_publication(repository, request), manifest


def test_an_artifact_is_not_its_own_parent(registry, publishing, everywhere):
    manifest = publishing.manifest({"p": b"parents"})
    with pytest.raises(Invalid, match="its own parent"):
        begin(registry, publishing, [parent(str(manifest.digest))])


def test_who_may_only_sign_says_nothing_of_parents(registry, publishing, everywhere):
    files = {"p": b"signed by another"}
    publishing.push(files, "mine/parents")
    token = registry.token("person:signer", "sign:mine/*")
    begin(registry, publishing, [], token=token, data=files["p"])
    with pytest.raises(Forbidden, match="what was made from what"):
        begin(registry, publishing, [parent(NEVER)], token=token, data=files["p"])
    with registry.parts.database.reading() as session:
        assert session.exec(select(Derivation).where(Derivation.parent == NEVER)).all() == []


def test_as_many_parents_as_may_be_named_fit_into_the_event(registry, publishing, everywhere):
    parents = [parent(f"sha256:{at:064x}", relation) for at, relation in enumerate(["merge", "distilled"] * 32)]
    data = b"of sixty-four"
    state, _ = begin(registry, publishing, parents, data=data)
    api = registry.api()
    publishing.upload(api, state.id, state.missing[0], data)
    published = api.finish_publication(state.id)
    event = next(event for event in registry.whole_log() if event.index == published.event)
    assert sorted(event.detail["parents"]["merge"] + event.detail["parents"]["distilled"]) == [
        one.artifact for one in parents
    ]
    with registry.parts.database.reading() as session:
        rows = session.exec(select(Derivation).where(Derivation.child == published.artifact)).all()
        assert {(row.parent, row.relation, row.grade, row.event_index) for row in rows} == {
            (one.artifact, one.relation, "claimed", published.event) for one in parents
        }


def test_more_parents_or_an_unknown_relation_are_refused(registry, http_, publishing, everywhere):
    manifest = publishing.manifest({"p": b"parents"})
    request = publishing.request(manifest).model_dump()
    many = [{"artifact": f"sha256:{at:064x}", "relation": "merge"} for at in range(65)]
    for parents in (many, [{"artifact": NEVER, "relation": "cousin"}], [{"artifact": "blake3:" + "0" * 64, "relation": "merge"}]):  # fmt: skip
        answer = http_("POST", "/v1/repositories/mine/parents/publications", registry.token(), json={**request, "parents": parents})  # fmt: skip
        assert (answer.status, answer.code) == (422, "invalid")


def test_artifacts_from_before_get_the_root_that_oms_gives_them(either_database, publishing):
    manifest = publishing.manifest({"b/z": b"1", "a": b"2", "b-": b"3", "ä": b"4"})
    opened = database.connect(either_database["database_url"], 5)
    with opened.engine.begin() as connection:
        command.upgrade(migrations.configuration(connection), "0005")
        connection.execute(
            text("INSERT INTO artifact (digest, manifest, size_bytes, file_count) VALUES (:digest, :manifest, 4, 4)"),
            {"digest": str(manifest.digest), "manifest": manifest.raw},
        )
    migrations.migrate(opened.engine)
    signed = statements.parse(statements.build("m", manifest))
    with opened.reading() as session:
        assert session.exec(select(Artifact.root_digest)).one() == str(signed.root_digest)
    opened.dispose()
