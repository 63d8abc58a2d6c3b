"""API tokens: their form, what is kept of them, when they end, and where their text never appears."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import select

from modelreg import wire
from modelreg.errors import Forbidden, Invalid, NotFound, TooLarge, Unauthenticated
from modelreg_server.custody import Actor
from modelreg_server.identity import Scope, Verb, parse_scope, tokens
from modelreg_server.tables import Token
from support.fuzzing import bounded
from support.registry import RegistryProcess, running_registry

FORM = re.compile(r"mrg_api_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}")


def request(principal="person:new", *scopes, seconds=600):
    return wire.TokenRequest(principal=principal, scopes=list(scopes) or ["pull:demo/*"], expires_in_seconds=seconds)


def test_a_token_has_a_form_that_scanners_recognise(registry):
    text = registry.token()
    assert FORM.fullmatch(text)
    assert tokens.is_well_formed(text)


def test_tokens_are_all_different(registry):
    assert len({registry.token() for _ in range(20)}) == 20


def test_one_changed_character_breaks_the_checksum(registry):
    text = registry.token()
    for at in range(len(text)):
        other = "0" if text[at] != "0" else "1"
        assert not tokens.is_well_formed(text[:at] + other + text[at + 1 :]), at


@given(st.text(max_size=80))
@bounded
def test_what_is_not_a_token_is_not_well_formed(text):
    assert not tokens.is_well_formed(text)


def test_the_text_is_stored_nowhere_but_hashed(own_registry):
    api = own_registry.api()
    issued = api.issue_token(request())
    own_registry.api(issued.token).whoami()

    secret = issued.token.split("_")[2].encode()
    files = [path for path in own_registry.parts.settings.data_dir.rglob("*") if path.is_file()]
    assert any(path.name.startswith("registry.sqlite3") for path in files)
    for path in files:
        assert secret not in path.read_bytes(), path
    with own_registry.parts.database.reading() as session:
        row = session.get(Token, issued.info.id)
    assert row.hash == hashlib.sha256(issued.token.encode()).hexdigest()
    assert row.last_four == issued.token[-4:]


def test_the_text_is_shown_once(registry):
    api = registry.api()
    issued = api.issue_token(request())
    assert FORM.fullmatch(issued.token)
    later = [row.model_dump_json() for row in api.tokens()] + [e.model_dump_json() for e in registry.whole_log()]
    assert not any(issued.token in text or issued.token.split("_")[2] in text for text in later)
    assert any(issued.info.id in text for text in later)


def test_issuing_and_revoking_are_events(registry):
    api = registry.api(registry.token("person:boss", "admin:*/*"))
    issued = api.issue_token(request("workload:ci", "push:demo/*", "tag:demo/m"))
    api.revoke_token(issued.info.id)
    api.revoke_token(issued.info.id)  # again: nothing more to tell

    about = [e for e in registry.whole_log() if e.detail.get("token") == issued.info.id]
    assert [(e.type, e.principal) for e in about] == [("token.issued", "person:boss"), ("token.revoked", "person:boss")]
    assert about[0].detail["for"] == "workload:ci"
    assert about[0].detail["scopes"] == ["push:demo/*", "tag:demo/m"]


def test_of_several_who_revoke_a_token_at_once_one_is_told_of(either_database, tmp_path):
    with running_registry(tmp_path / "registry", **either_database) as running:
        api = running.api(connections_at_once=8)
        for _round in range(3):
            issued = api.issue_token(request())
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _n, issued=issued: api.revoke_token(issued.info.id), range(8)))
            revoked = [event for event in running.whole_log() if event.type == "token.revoked"]
            assert [event.detail["token"] for event in revoked].count(issued.info.id) == 1


def test_a_revoked_token_is_refused_from_the_next_request_on(registry):
    api = registry.api()
    issued = api.issue_token(request())
    user = registry.api(issued.token)
    assert user.whoami().principal == "person:new"

    assert api.revoke_token(issued.info.id).revoked_at is not None

    with pytest.raises(Unauthenticated):
        user.whoami()


def test_revoking_what_is_not_there_is_not_found(registry):
    with pytest.raises(NotFound):
        registry.api().revoke_token("0" * 36)


def test_a_token_ends_at_its_instant(own_registry):
    database, now = own_registry.parts.database, datetime.now(UTC)
    authenticate = own_registry.parts.authenticator.authenticate
    with database.writing() as session, session.begin():
        text, _row = tokens.issue(
            session, Actor("test", None), principal="person:p", scopes=[], lifetime=timedelta(hours=1), now=now
        )
    with database.reading() as session:
        assert authenticate(session, text, now + timedelta(seconds=3599)).name == "person:p"
        for late in (timedelta(hours=1), timedelta(days=400)):
            with pytest.raises(Unauthenticated):
                authenticate(session, text, now + late)


def test_the_last_use_is_noted_but_not_at_every_request(own_registry):
    api = own_registry.api()
    issued = api.issue_token(request())
    assert api.tokens()[0].last_used_at is None
    user = own_registry.api(issued.token)
    user.whoami()
    first = api.tokens()[0].last_used_at
    user.whoami()
    assert first is not None
    assert api.tokens()[0].last_used_at == first


def test_only_an_administrator_of_everything_handles_tokens(registry):
    for scopes in (["admin:demo/*"], ["pull:*/*", "push:*/*", "tag:*/*", "audit:*/*"]):
        api = registry.api(registry.token("person:almost", *scopes))
        for call in (
            api.tokens,
            lambda api=api: api.issue_token(request()),
            lambda api=api: api.revoke_token("0" * 36),
        ):
            with pytest.raises(Forbidden):
                call()


def test_scopes_too_many_for_one_event_are_refused_and_no_token_exists(registry):
    api = registry.api()
    long = "pull:" + "a" * 60 + "/" + "b" * 60 + "{}"
    with pytest.raises((TooLarge, Invalid)):
        api.issue_token(request("person:many", *[long.format(n) for n in range(64)]))
    assert "person:many" not in [row.principal for row in api.tokens()]


@pytest.mark.parametrize(
    "text", ["", "pull", "pull:", "pull:x", "pull:/", "pull:a/b/c", "PULL:a/b", "pull:A/b", "fly:a/b", "pull:a/**b ",
             "pull:../b", "pull:a/b\n", ":a/b", "pull::a/b", "admin:*", "pull:a b/c", "pull:*/*/*", "pull:é/x"],
)  # fmt: skip
def test_what_is_not_a_scope_is_refused(text):
    with pytest.raises(Invalid):
        parse_scope(text)


@pytest.mark.parametrize(
    ("scope", "verb", "repository", "may"),
    [
        ("pull:demo/*", Verb.PULL, "demo/m", True),
        ("pull:demo/*", Verb.READ_METADATA, "demo/m", True),
        ("pull:demo/*", Verb.PUSH, "demo/m", False),
        ("pull:demo/*", Verb.PULL, "demo2/m", False),
        ("pull:demo/*", Verb.PULL, "xdemo/m", False),
        ("pull:demo/m", Verb.PULL, "demo/mm", False),
        ("pull:demo/m*", Verb.PULL, "demo/mm", True),
        ("pull:*/m", Verb.PULL, "any/m", True),
        ("push:demo/*", Verb.READ_METADATA, "demo/m", False),
        ("push:demo/*", Verb.TAG, "demo/m", False),
        ("admin:*/*", Verb.PULL, "demo/m", False),
        ("read-metadata:*/*", Verb.PULL, "demo/m", False),
        ("pull:d.mo/m", Verb.PULL, "demo/m", False),
    ],
)
def test_a_scope_permits_what_it_says_and_nothing_beside(scope, verb, repository, may):
    from modelreg_server.identity import Principal

    principal = Principal("person:p", "t", (parse_scope(scope),), datetime.now(UTC))
    assert principal.may(verb, repository) is may
    assert str(Scope(*scope_parts(scope))) == scope


def scope_parts(text):
    scope = parse_scope(text)
    return scope.verb, scope.pattern


def server(*arguments, folder, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELREG_")}
    return subprocess.run(
        [sys.executable, "-c", "import modelreg_server as s; raise SystemExit(s.main())", *arguments],
        env={**kept, "MODELREG_DATA_DIR": str(folder), **more}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_init_prints_one_admin_token_and_refuses_to_do_it_again(tmp_path):
    done = server("init", folder=tmp_path / "data")
    assert done.returncode == 0, done.stderr
    found = FORM.findall(done.stdout)
    assert len(found) == 1
    assert "mrg_" not in done.stderr

    again = server("init", folder=tmp_path / "data")
    assert again.returncode == 1
    assert "initialised before" in again.stderr
    assert not FORM.findall(again.stdout + again.stderr)

    with running_registry(tmp_path) as registry:  # the same data folder
        who = registry.api(found[0]).whoami()
        assert who.principal == "person:admin"
        assert set(who.scopes) == {f"{verb.value}:*/*" for verb in Verb}
        assert who.expires_at - datetime.now(UTC) <= timedelta(hours=1)
        with registry.parts.database.reading() as session:
            assert len([row for row in session.exec(select(Token)) if row.principal == "person:admin"]) == 1


@pytest.mark.parametrize(
    ("arguments", "more", "says"),
    [
        (["migrate"], {"MODELREG_DATABASE_URL": "postgresql+psycopg://127.0.0.1:1/x"}, "does not answer"),
        (["serve", "--host", "0.0.0.0"], {}, "without TLS"),
        (["serve"], {}, "modelreg-server migrate"),
        (["serve", "--port", "70000"], {}, "MODELREG_PORT"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(tmp_path, arguments, more, says):
    done = server(*arguments, folder=tmp_path / "data", **more)
    assert done.returncode == 1, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def process(tmp_path):
    running = RegistryProcess(tmp_path)
    running.start()
    yield running
    running.stop()


def log_lines(process, count):
    """The request lines of the real server's log; the last may be written a moment after its answer."""
    deadline = time.monotonic() + 10
    while True:
        text = (process.folder / "server.log").read_text()
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        if len(lines) >= count or time.monotonic() > deadline:
            return text, lines
        time.sleep(0.02)


def test_secrets_never_reach_the_log_nor_a_problem(process, http_to):
    http, token = http_to(process.url), process.admin_token
    secret = token.split("_")[2]
    bad = token[:-1] + ("0" if token[-1] != "0" else "1")
    answers = [
        http("GET", "/v1/whoami", token),
        http("GET", "/v1/whoami", bad),
        http("GET", f"/v1/{token}", token),
        http("GET", "/v1/whoami", headers={"Authorization": f"Basic {token}"}),
        http("POST", "/v1/tokens", token, json={"principal": f"{token} x", "scopes": 1, "expires_in_seconds": token}),
        http("POST", "/v1/repositories/demo/m/publications", token, json={"bundle": token, "manifest": token}),
        http("GET", f"/v1/events?repository={token}", token),
        http("GET", f"/v1/events?artifact={token}&type={token}", token),
    ]
    text, lines = log_lines(process, len(answers))

    assert len(lines) == len(answers)
    assert lines[0]["principal"] == "person:admin"
    assert secret not in text
    # What is not a repository is quoted to whoever sent it; nothing else is.
    for answer in answers[:6]:
        assert secret not in answer.body.decode()


def test_every_request_leaves_one_line_without_query_or_headers(process, http_to):
    http_to(process.url)("GET", "/v1/events?artifact=sha256:" + "7" * 64, process.admin_token)
    text, lines = log_lines(process, 1)
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [("GET", "/v1/events", 200)]
    assert "7777" not in text
