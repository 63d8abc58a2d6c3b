"""Where a workload's identity token is found, and in which order."""

import pytest

from modelreg import ambient, providers
from modelreg.errors import Unauthenticated, Unreachable
from support.issuer import as_json, loopback_issuer

TOKEN = "{}.claims.signature"


@pytest.fixture
def places(tmp_path):
    for name in ("named", "projected"):
        (tmp_path / name).write_text(TOKEN.format(name) + "\n")
    return tmp_path


def find(environment, places, file=None, projected="nowhere"):
    tls = providers.tls_context(None)
    return ambient.find(environment, file, "https://models.test", tls, places / projected)


def test_the_first_place_that_has_one_decides(places):
    gitlab = {"MODELREG_ID_TOKEN": TOKEN.format("gitlab")}
    variable = {"MODELREG_IDENTITY_TOKEN": TOKEN.format("variable"), **gitlab}
    with loopback_issuer() as service:
        service.answers["/t?audience=https%3A%2F%2Fmodels.test"] = lambda: as_json({"value": TOKEN.format("github")})
        github = {"ACTIONS_ID_TOKEN_REQUEST_URL": f"{service.url}/t", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "b", **gitlab}
        for environment, file, expected in (
            (github | variable, places / "named", "named"),
            (github | variable, None, "variable"),
            (github, None, "github"),
            (gitlab, None, "gitlab"),
            ({}, None, "projected"),
        ):
            found = find(environment, places, file, "projected")
            assert found.text == TOKEN.format(expected)
            assert "claims" not in repr(found)
    with pytest.raises(Unauthenticated, match="no identity token is around"):
        find({}, places)


@pytest.mark.parametrize("answer", [{}, {"value": 7}, {"value": ""}, {"value": "a b.c.d"}, {"token": "a.b.c"}], ids=str)
def test_what_the_service_gives_must_be_a_token(places, answer):
    with loopback_issuer() as service:
        service.answers["/t?x=1&audience=https%3A%2F%2Fmodels.test"] = lambda: as_json(answer)
        environment = {"ACTIONS_ID_TOKEN_REQUEST_URL": f"{service.url}/t?x=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "b"}
        with pytest.raises((Unauthenticated, Unreachable)):
            find(environment, places)


@pytest.mark.parametrize("raw", [b"", b"a.b", b"a.b.c.d", b"\xff.b.c", b"a.b.c\nd", b"a." + b"b" * 20_000 + b".c"])
def test_a_file_that_holds_no_token_is_refused(places, raw):
    (places / "named").write_bytes(raw)
    with pytest.raises(Unauthenticated, match="token"):
        find({}, places, places / "named")
