"""The search for secrets finds one in each place it looks at; so a suite without a hit says something."""

import logging
import secrets
from datetime import UTC, datetime

import pytest

from modelreg.errors import Unauthenticated
from modelreg_server.custody import Actor, Event, EventType, append
from support import canary
from support.registry import cli, running_registry

TOKEN = f"mrg_api_{secrets.token_hex(22)}_abcdef"


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"GET /weights/x?X-Amz-Signature={'0' * 64}",
        f"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwcyJ9.{'s' * 43}",
        "-----BEGIN PRIVATE" + " KEY-----",
    ],
    ids=["token", "presigned URL", "JWT", "key"],
)
def test_each_form_is_recognised_and_not_repeated(text):
    with canary.expected() as found:
        canary.look("log", f"a line about {text}")
    assert len(found) == 1
    assert text not in found[0]


def test_a_planted_secret_is_recognised():
    pin = canary.plant(f"pin-{secrets.token_hex(8)}")
    with canary.expected() as found:
        canary.look("output", f"wrong PIN {pin}")
    assert len(found) == 1


def test_a_log_line_of_ours_is_looked_at():
    with canary.expected() as found:
        logging.getLogger("modelreg.anything").debug("sent %s", TOKEN)
    assert any(hit.startswith("log") for hit in found)


def test_an_error_is_looked_at_with_its_facts():
    with canary.expected() as found:
        Unauthenticated("no", token=TOKEN)
    assert [hit.split(":")[0] for hit in found] == ["error"]


def test_an_event_and_a_url_are_looked_at(tmp_path):
    with running_registry(tmp_path) as registry:
        with canary.expected() as found, registry.parts.database.writing() as session, session.begin():
            event = Event(EventType.TOKEN_ISSUED, detail={"token": TOKEN})
            append(session, Actor("test:setup", None), event, datetime.now(UTC))
        assert [hit.split(":")[0] for hit in found] == ["event"]
        with canary.expected() as found, pytest.raises(Exception, match=r".*"):
            registry.api()._get(f"/v1/repositories?after={TOKEN}", type(None))
        assert "url" in {hit.split(":")[0] for hit in found}


def test_the_output_of_a_command_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(canary, "_planted", {"usage: modelreg"})
    with canary.expected() as found:
        cli("--help", env={"HOME": str(tmp_path), "PATH": ""})
    assert [hit.split(":")[0] for hit in found] == ["output"]
