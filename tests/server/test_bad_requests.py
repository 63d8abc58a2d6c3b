"""Requests nobody should send: each gets a problem with its code, never a 500, and the registry works on."""

import json
import uuid

import pytest

from modelreg import wire

REPO = "/v1/repositories/demo/m"
DIGEST = "sha256:" + "0" * 64
NOWHERE = str(uuid.UUID(int=1))
HOST = {"purpose": "pull", "host": "h"}

BAD_REPOSITORIES = [
    "Demo/m", "demo/M", "demo/m%20x", "demo/.m", "demo/m.", "demo/m..x", "demo/-m", "demo/m_", "de%00mo/m", "demo/%6D%0A",
    "d%C3%A9mo/m", "demo/" + "m" * 200, "demo/m%3Fx", "demo/m%23x", "demo/m@x", "demo/m:v1", "demo/m*", "demo/%2E%2E",
    "%2E%2E/m", "demo/m;x", "demo/m$x", "demo/m%5Cx", "demo/~m", "demo/m+x",
]  # fmt: skip
BAD_TAGS = [
    "-v1",
    ".v1",
    "v%201",
    "v%001",
    "v" * 129,
    "v%0A",
    "v%2B1",
    "%E2%82%AC",
    "v@1",
    "v:1",
    "v%25",
    "v%5C",
    "v*",
    "v%3F",
]
BAD_DIGESTS = [
    "sha256:", "sha256:abc", "sha256:" + "0" * 63, "sha256:" + "0" * 65, "sha256:" + "G" * 64, "sha256:" + "A" * 64,
    "SHA256:" + "0" * 64, "md5:" + "0" * 32, "blake3:" + "0" * 64, "0" * 64, "sha256%3A" + "0" * 63, "sha512:" + "0" * 128,
    "latest", "sha256:" + "0" * 63 + "%0A",
]  # fmt: skip
BAD_TOKENS = [
    "x", "mrg_", "mrg_api_", "mrg_api_" + "a" * 43 + "_" + "b" * 6, "Bearer", "é", "mrg_api_" + "a" * 4000,
    "mrg_api_" + "a" * 43, "mrg_api_" + "-" * 43 + "_aaaaaa", "' OR 1=1 --", "null", "0", "{}",
]  # fmt: skip
BAD_RANGES = [
    "bytes=-1", "bytes=", "bytes=a-b", "bytes=0-1,2-3", "bytes=5-1", "items=0-1", "bytes=0", "0-1", "bytes= 0-1", "bytes=0-1 ",
    "bytes=--1", "bytes=1--2", "bytes=" + "9" * 40 + "-", "bytes=0x0-0x1", "bytes=\xb2-\xb3", "bytes=0-1-2", "bytes=999999-",
    "bytes=999999-1000000", "bytes=-", "BYTES=0-1", "bytes=+0-1", "bytes=0-" + "9" * 30,
]  # fmt: skip
BAD_BODIES = [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b"\xff\xfe", b"{'a': 1}", b'{"artifact": NaN}', b"[" * 3000, b'{"a":' * 2000,
    b'{"artifact": 1, "purpose": "pull", "host": "h"}', b'{"artifact": "x", "purpose": "pull", "host": "h"}',
    json.dumps({"artifact": DIGEST, **HOST, "purpose": "serve"}).encode(),
    json.dumps({"artifact": DIGEST, **HOST, "host": ""}).encode(),
    json.dumps({"artifact": DIGEST, **HOST, "host": "a b"}).encode(),
    json.dumps({"artifact": DIGEST, **HOST, "host": "h" * 300}).encode(),
    json.dumps({"artifact": DIGEST, **HOST, "host": "h\x00"}).encode(),
    json.dumps({"artifact": DIGEST, **HOST, "tag": "../x"}).encode(),
    json.dumps({"artifact": DIGEST, **HOST, "principal": "person:admin"}).encode(),
    json.dumps({"artifact": [DIGEST], **HOST}).encode(),
]  # fmt: skip
BAD_PUBLICATIONS = [
    ({"manifest": "", "bundle": ""}, "signature-invalid"),
    ({"manifest": "{}", "bundle": "{}"}, "signature-invalid"),
    ({"manifest": 1, "bundle": "x"}, "invalid"),
    ({"manifest": "x"}, "invalid"),
    ({"manifest": "x", "bundle": "x", "tags": ["../x"]}, "invalid"),
    ({"manifest": "x", "bundle": "x", "tags": ["a"] * 17}, "invalid"),
    ({"manifest": "x", "bundle": "x", "tags": "a"}, "invalid"),
    ({"manifest": "x", "bundle": "x", "extra": 1}, "invalid"),
    ({"manifest": "\ud800", "bundle": "x"}, "invalid"),
    ([], "invalid"),
]
BAD_QUERIES = [
    "/v1/events?limit=0", "/v1/events?limit=1001", "/v1/events?limit=x", "/v1/events?after=-2", "/v1/events?after=1e3",
    "/v1/events?after=" + "9" * 30, "/v1/events?type=nothing", "/v1/events?artifact=x", "/v1/events?repository=../x",
    "/v1/events?repository=" + "a" * 500, "/v1/events?newest=perhaps", "/v1/repositories?limit=-1",
    "/v1/repositories?after=" + "a" * 500, REPO + "/artifacts?before=-1", REPO + "/artifacts?before=x",
    REPO + "/artifacts?before=" + "9" * 30, REPO + "/artifacts?limit=0", REPO + "/tags/v1/history?limit=0",
]  # fmt: skip
BAD_IDS = ["x", "0", "1" * 36, "..", NOWHERE.upper() + "x", "%00", NOWHERE]
BAD_TOKEN_REQUESTS = [
    {"principal": "", "scopes": ["pull:*/*"], "expires_in_seconds": 60},
    {"principal": "a b", "scopes": ["pull:*/*"], "expires_in_seconds": 60},
    {"principal": "p", "scopes": [], "expires_in_seconds": 60},
    {"principal": "p", "scopes": ["pull"], "expires_in_seconds": 60},
    {"principal": "p", "scopes": ["fly:*/*"], "expires_in_seconds": 60},
    {"principal": "p", "scopes": ["pull:**"], "expires_in_seconds": 60},
    {"principal": "p", "scopes": ["pull:a/b/c"], "expires_in_seconds": 60},
    {"principal": "p", "scopes": ["pull:A/*"], "expires_in_seconds": 60},
    {"principal": "p", "scopes": ["pull:*/*"], "expires_in_seconds": 59},
    {"principal": "p", "scopes": ["pull:*/*"], "expires_in_seconds": 10**12},
    {"principal": "p", "scopes": ["pull:*/*"], "expires_in_seconds": "1h"},
    {"principal": "p", "scopes": ["pull:*/*"] * 65, "expires_in_seconds": 60},
]
BAD_METHODS = [("DELETE", REPO + "/tags"), ("PATCH", "/v1/whoami"), ("POST", "/health"), ("PUT", REPO + "/grants"),
               ("TRACE", "/v1/whoami"), ("GET", REPO + "/grants")]  # fmt: skip
BAD_PATHS = ["/", "/v1", "/v1/", "/v1/../health", "//v1/whoami", "/v1/whoami/", "/admin", "/v1/repositories/demo", "/.git/config",
             "/v1/repositories/demo/m/../../x", "/%2e%2e/%2e%2e/etc/passwd", "/docs", "/redoc", "/v1/whoami%00"]  # fmt: skip


@pytest.fixture(scope="module")
def token(registry):
    return registry.token()


@pytest.fixture(scope="module")
def grant(registry, publishing):
    """A granted artifact of one blob of 9 bytes and an empty one; returns grant id and the two BLAKE3."""
    pushed = publishing.push({"a.txt": b"nine byte", "empty": b""}, tags=("v1",))
    request = wire.GrantRequest(artifact=str(pushed.manifest.digest), purpose="pull", host="h")
    return registry.api().request_grant("demo/m", request).id, [entry.blake3 for entry in pushed.manifest.files]


def table():
    """Every row: a name, method, path, what else is sent, and the codes that may answer."""
    post = {"method": "POST"}
    for name in BAD_REPOSITORIES:
        yield f"repository {name}", {"path": f"/v1/repositories/{name}/tags"}, {"invalid", "not-found"}
    for name in BAD_TAGS:
        yield f"tag {name}", {"path": f"{REPO}/tags/{name}"}, {"invalid"}
    for name in BAD_DIGESTS:
        yield f"digest {name}", {"path": f"{REPO}/artifacts/{name}"}, {"invalid"}
    for text in BAD_TOKENS:
        yield f"token {text}", {"path": "/v1/whoami", "token": text}, {"unauthenticated"}
    for scheme in ("Basic eDp5", "Digest x", "bearer", "Token x"):
        yield f"scheme {scheme}", {"path": "/v1/whoami", "headers": {"Authorization": scheme}}, {"unauthenticated"}
    for at, body in enumerate(BAD_BODIES):
        yield f"body {at}", {**post, "path": REPO + "/grants", "body": body}, {"invalid"}
    for at, (body, code) in enumerate(BAD_PUBLICATIONS):
        yield f"publication {at}", {**post, "path": REPO + "/publications", "json": body}, {code}
    for path in BAD_QUERIES:
        yield f"query {path}", {"path": path}, {"invalid"}
    for text in BAD_IDS:
        yield f"publication id {text}", {**post, "path": f"/v1/publications/{text}/finish"}, {"invalid", "not-found"}
        yield f"token id {text}", {"method": "DELETE", "path": f"/v1/tokens/{text}"}, {"invalid", "not-found"}
    for at, body in enumerate(BAD_TOKEN_REQUESTS):
        yield f"token request {at}", {**post, "path": "/v1/tokens", "json": body}, {"invalid"}
    for method, path in BAD_METHODS:
        yield f"{method} {path}", {"method": method, "path": path}, {"method-not-allowed"}
    for path in BAD_PATHS:
        yield f"path {path}", {"path": path}, {"not-found"}
    yield "too large", {**post, "path": REPO + "/grants", "body": b" " * (5 << 20)}, {"too-large"}


ROWS = list(table())


def test_the_table_has_at_least_150_rows():
    assert len(ROWS) + len(BAD_RANGES) * 2 >= 150


@pytest.mark.parametrize(("sent", "codes"), [row[1:] for row in ROWS], ids=[ascii(row[0])[1:60] for row in ROWS])
def test_a_bad_request_gets_its_problem(http_, token, sent, codes):
    arguments = {"method": "GET", "token": token, **sent}
    if "headers" in sent:
        arguments["token"] = None
    method, path = arguments.pop("method"), arguments.pop("path")

    answer = http_(method, path, **arguments)

    assert answer.status < 500, answer
    assert answer.code in codes
    assert len(answer.json["detail"]) < 1000
    assert http_("GET", "/health").status == 200


@pytest.mark.parametrize("which", [0, 1], ids=["nine bytes", "empty"])
@pytest.mark.parametrize("text", BAD_RANGES, ids=ascii)
def test_a_bad_range_gets_its_problem_and_no_byte(http_, token, grant, text, which):
    grant_id, blobs = grant

    answer = http_("GET", f"/v1/grants/{grant_id}/blobs/{blobs[which]}", token, headers={"Range": text})

    if which == 0 and text == "bytes=0-" + "9" * 30:
        assert answer.code == "invalid"  # longer than any size
    else:
        assert answer.code in {"invalid", "range-not-satisfiable"}
    assert answer.status in {416, 422}


def test_good_ranges_give_exactly_these_bytes(http_, token, grant):
    grant_id, blobs = grant
    path = f"/v1/grants/{grant_id}/blobs/{blobs[0]}"

    for text, expected in (
        ("bytes=0-3", b"nine"),
        ("bytes=5-", b"byte"),
        ("bytes=8-8", b"e"),
        ("bytes=5-999", b"byte"),
    ):
        answer = http_("GET", path, token, headers={"Range": text})
        assert (answer.status, answer.body) == (206, expected)
    assert http_("GET", path, token).body == b"nine byte"
