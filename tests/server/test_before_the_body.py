"""Who may is answered before a body is read: a head alone is enough for a refusal, on every route that takes a body."""

import http.client
import json
import uuid
from contextlib import closing
from urllib.parse import urlsplit

import pytest

FOUR_MIB = 4 * 1024 * 1024
SOME_ID = str(uuid.uuid4())
FILLED = {
    "namespace": "demo", "name": "m", "artifact": "sha256:" + "0" * 64, "tag": "v1", "blake3": "0" * 64, "number": "1",
    "token_id": SOME_ID, "grant_id": SOME_ID, "publication_id": SOME_ID, "recall_id": SOME_ID, "load_id": SOME_ID,
}  # fmt: skip
# The routes that take a body; the test below holds this list against the document.
TAKING_BODIES = [
    "PATCH /v1/repositories/{namespace}/{name}",
    "POST /v1/access/grants",
    "POST /v1/alterations",
    "POST /v1/datasets/{namespace}/{name}",
    "POST /v1/datasets/{namespace}/{name}/{artifact}/declassification",
    "POST /v1/grants/{grant_id}/loads",
    "POST /v1/grants/{grant_id}/read-requests",
    "POST /v1/grants/{grant_id}/receipts",
    "POST /v1/loads/{load_id}/end",
    "POST /v1/hosts",
    "POST /v1/hosts/invitations",
    "POST /v1/publications/{publication_id}/part-requests",
    "POST /v1/publications/{publication_id}/uploads",
    "POST /v1/recalls/check",
    "POST /v1/recalls/{recall_id}/confirmations",
    "POST /v1/repositories/{namespace}/{name}/artifacts/{artifact}/attestations",
    "POST /v1/repositories/{namespace}/{name}/artifacts/{artifact}/demotions",
    "POST /v1/repositories/{namespace}/{name}/artifacts/{artifact}/promotions",
    "POST /v1/repositories/{namespace}/{name}/artifacts/{artifact}/recall",
    "POST /v1/repositories/{namespace}/{name}/artifacts/{artifact}/release",
    "POST /v1/repositories/{namespace}/{name}/grants",
    "POST /v1/repositories/{namespace}/{name}/publications",
    "POST /v1/timestamps",
    "POST /v1/tokens",
    "PUT /v1/trust",
    "PUT /v1/publications/{publication_id}/blobs/{blake3}/parts/{number}",
    "PUT /v1/repositories/{namespace}/{name}/tags/{tag}",
]
# Decided inside the operation, for it must be an event with what was asked for, or belongs to whoever holds an id.
DECIDED_LATER = {
    *(name for name in TAKING_BODIES if "_id}" in name or name.endswith("/{name}/grants")),
    *("POST /v1/recalls/check", "POST /v1/alterations"),  # what they name in the body
    *(name for name in TAKING_BODIES if name.endswith(("/promotions", "/demotions"))),  # an environment, in the body
}


def head_only(registry, method, path, headers):
    """Send a head that promises 4 MiB and nothing of it; the answer."""
    with closing(http.client.HTTPConnection(urlsplit(registry.url).netloc, timeout=10)) as connection:
        connection.putrequest(method, path)
        for name, value in {"Content-Length": str(FOUR_MIB), "Content-Type": "application/json", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_the_list_is_that_of_the_document(http_):
    document = http_("GET", "/openapi.json").json
    taking = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }
    # The exchange's body is the credential.
    assert taking - {"POST /v1/token-exchange"} == set(TAKING_BODIES)


@pytest.mark.parametrize("route", TAKING_BODIES)
def test_without_a_credential_the_body_is_not_waited_for(registry, route):
    method, path = route.split()
    before = registry.parts.counters.received_bytes
    status, problem = head_only(registry, method, path.format(**FILLED), {})
    assert (status, problem["type"]) == (401, "urn:modelreg:problem:unauthenticated")
    assert registry.parts.counters.received_bytes == before


@pytest.mark.parametrize(
    "route", [name for name in TAKING_BODIES if name not in DECIDED_LATER and name != "POST /v1/hosts"]
)
def test_without_the_right_the_body_is_not_waited_for(registry, route):
    method, path = route.split()
    headers = {"Authorization": f"Bearer {registry.token('person:other', 'pull:other/*')}"}
    before = registry.parts.counters.received_bytes
    status, problem = head_only(registry, method, path.format(**FILLED), headers)
    assert (status, problem["type"]) == (403, "urn:modelreg:problem:forbidden")
    assert registry.parts.counters.received_bytes == before


@pytest.mark.parametrize("route", TAKING_BODIES)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b"\xff", b" " * FOUR_MIB, b'{"unknown": 1}', b"x" * (FOUR_MIB + 1)]
)
def test_a_malformed_body_without_a_credential_is_answered_as_any_other(http_, route, body):
    method, path = route.split()
    answer = http_(method, path.format(**FILLED), body=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.code) == (401, "unauthenticated")
