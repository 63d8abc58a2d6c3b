"""Malformed requests over real HTTP: each is answered with a problem, none with a failure, and the server goes on."""

import json
from typing import Any, NamedTuple

import pytest

from modelreg import wire

SOME_ID = "6f3a1c9e-0b7d-4e52-8f11-2a9d5c7e4b30"
HEX = "0" * 64
ABSENT = "sha256:" + HEX
REPOSITORY = "/v1/repositories/demo/m"
TOO_DEEP = b"[" * 100_000
HUGE_INTEGER = b"9" * 5000


class Row(NamedTuple):
    name: str
    method: str
    path: str
    status: int
    code: str
    body: bytes | None = None
    headers: dict[str, str] = {}


def raw(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def post(name, path, value, status=422, code="invalid", method="POST", content_type="application/json"):
    return Row(name, method, path, status, code, raw(value), {"Content-Type": content_type})


def get(name, path, status=422, code="invalid", method="GET", **headers):
    return Row(name, method, path, status, code, None, headers)


def each(kind, template, values, status=422, code="invalid"):
    return [get(f"{kind} {value[:40]!r}", template.format(value), status, code) for value in values]


ENCODED_NAMES = [
    "A", "UPPER", "-a", "a-", ".a", "a.", "..", ".", "a..b", "a__b", "_", "%00", "a%00", "a%0a", "a%0d%0a", "a%20b",
    "%c3%a9", "%ff", "%e2%80%ae", "a%3fb", "a%23b", "a%5cb", "%2e%2e", "a%25b", "a:b", "a@b", "a*", "*", "~a", "a" * 130,
    "%f0%9f%98%80", "a%09b", "a%7f", "a;b", "a,b", "a+b", "a%27b", "a%22b", "a%3cb%3e", "$(id)", "%24%7bx%7d",
]  # fmt: skip
TRAVERSALS = [
    "/v1/repositories/demo/m/artifacts/../../../../etc/passwd", "/v1/%2e%2e/%2e%2e/etc/passwd", "/../etc/passwd",
    "/v1/repositories/..%2f..%2f/m/tags", "/v1/repositories/demo%2fm/x/tags", "//v1/whoami", "/v1//whoami", "/v1/whoami/",
    "/v1/repositories/demo/m/tags/a%2fb", "/v1/repositories/demo//m/tags", "/V1/whoami", "/v1/whoami%00", "/", "/v1",
    "/docs", "/redoc", "/v2/", "/v1/grants", "/.git/config", "/v1/publications/" + SOME_ID,
]  # fmt: skip
DIGESTS = [
    "sha256", "sha256:", "sha256:abc", "sha256:" + "g" * 64, "sha256:" + "A" * 64, "sha256:" + "0" * 63,
    "sha256:" + "0" * 65, "blake3:" + HEX, "SHA256:" + HEX, HEX, "sha256:" + HEX + "%0a", "%20sha256:" + HEX, "%00",
    "md5:" + "0" * 32, "sha256%3a", "sha256:" + "%c2%b2" * 64,
]  # fmt: skip
IDS = [
    "x",
    "0" * 35,
    "0" * 37,
    "G" * 36,
    "0" * 36 + "%0a",
    "%00" * 36,
    "..",
    "'%20or%201=1--",
    "%ff" * 36,
    SOME_ID.upper(),
]
BLOBS = ["x", "0" * 63, "0" * 65, "g" * 64, "A" * 64, "blake3:" + HEX, "0" * 64 + "%0a", "%00" * 64]
NUMBERS = ["0", "-1", "10001", "x", "1.5", "1e2", "9" * 30, "9" * 5000, "%00", "0x1", "%d9%a1x", "NaN", ""]
TAGS = ["-a", ".a", "a" * 129, "%20", "a%20b", "a%00", "a:b", "a@b", "%c3%a9", "a%0a", "a+b"]

TOKEN = {"principal": "person:x", "scopes": ["pull:a/b"], "expires_in_seconds": 60}
GRANT = {"artifact": ABSENT, "purpose": "pull", "host": "h"}
LOADED = {"command": "x", "pid": 1, "boot_id": "", "client_version": "1"}

ANY_JSON = [  # wrong for every endpoint that takes a body
    ("no body", b""), ("not JSON", b"{"), ("a text", b'"x"'), ("null", b"null"), ("a list", b"[]"), ("a number", b"7"),
    ("NaN", b"NaN"), ("too deep", TOO_DEEP), ("too deep objects", b'{"a":' * 50_000), ("not UTF-8", b"\xff\xfe{}"),
    ("UTF-16", '{"a": 1}'.encode("utf-16")), ("a huge integer", HUGE_INTEGER), ("NUL", b"\x00"), ("BOM only", b"\xef\xbb\xbf"),
    ("an unknown member", b'{"unknown": 1}'), ("a surrogate's name", b'{"\\ud800": 1}'), ("a form", b"a=1&b=2"),
    ("a name of a megabyte", b'{"' + b"n" * 1_000_000 + b'": 1}'), ("self", b'{"self": 1, "detail": 2}'),
]  # fmt: skip
TAKING_JSON = {
    "tokens": "/v1/tokens",
    "publications": f"{REPOSITORY}/publications",
    "uploads": f"/v1/publications/{SOME_ID}/uploads",
    "grants": f"{REPOSITORY}/grants",
    "receipts": f"/v1/grants/{SOME_ID}/receipts",
    "access grants": "/v1/access/grants",
    "invitations": "/v1/hosts/invitations",
}


def token_rows():
    wrong = [
        ("principal", ""), ("principal", " "), ("principal", "a b"), ("principal", "x" * 201), ("principal", "é"),
        ("principal", "a\nb"), ("principal", "\x00"), ("principal", None), ("principal", 1), ("principal", ["x"]),
        ("scopes", []), ("scopes", "pull:a/b"), ("scopes", ["pull"]), ("scopes", ["fly:a/b"]), ("scopes", ["pull:A/b"]),
        ("scopes", ["pull:a/b\n"]), ("scopes", ["pull:a/b"] * 65), ("scopes", [None]), ("scopes", ["pull:../x"]),
        ("expires_in_seconds", 0), ("expires_in_seconds", 59), ("expires_in_seconds", -1),
        ("expires_in_seconds", 367 * 86400), ("expires_in_seconds", 2**63), ("expires_in_seconds", 10**300),
        ("expires_in_seconds", 60.5), ("expires_in_seconds", "x"), ("expires_in_seconds", None),
        ("expires_in_seconds", float("nan")), ("expires_in_seconds", float("inf")), ("expires_in_seconds", True),
        ("admin", True),
    ]  # fmt: skip
    return [post(f"token {name}={value!r:.40}", "/v1/tokens", {**TOKEN, name: value}) for name, value in wrong]


def grant_rows():
    wrong = [
        ("artifact", "x"), ("artifact", HEX), ("artifact", "blake3:" + HEX), ("artifact", None), ("artifact", ABSENT + "\n"),
        ("purpose", "steal"), ("purpose", ""), ("purpose", None), ("host", ""), ("host", "a b"), ("host", "h" * 201),
        ("host", "h\x00"), ("host", "é"), ("host", "\ud800"), ("tag", ""), ("tag", "-a"), ("tag", "a" * 129), ("tag", 1),
        ("principal", "person:boss"), ("now", "2000-01-01"),
    ]  # fmt: skip
    return [
        post(f"grant {name}={value!r:.40}", f"{REPOSITORY}/grants", {**GRANT, name: value}) for name, value in wrong
    ]


def report_rows():
    received, loads = f"/v1/grants/{SOME_ID}/receipts", f"/v1/grants/{SOME_ID}/loads"
    amounts = [-1, 1.5, None, "x", float("nan"), float("inf"), 2**53, 2**64, 10**300]
    wrong = [
        ("pid", 0), ("pid", -1), ("pid", 2**53), ("pid", 10**40), ("pid", None), ("command", "a\nb"), ("command", "x" * 201),
        ("command", "\x00"), ("command", "\x1b[31m"), ("boot_id", None), ("boot_id", "\ud800"), ("client_version", ["1"]),
        ("host", "other"),
    ]  # fmt: skip
    return [
        *[post(f"transferred_bytes={amount!r:.30}", received, {"transferred_bytes": amount}) for amount in amounts],
        *[post(f"load {name}={value!r:.30}", loads, {**LOADED, name: value}) for name, value in wrong],
    ]


def publication_rows():
    path = f"{REPOSITORY}/publications"
    entry = {"path": "a", "size": 1, "sha256": HEX, "blake3": HEX}
    manifest = {"schema": "modelreg/manifest/v1", "chunk_bytes": 8388608, "files": [entry]}
    bundle = "{}"

    def with_entry(**members):
        return json.dumps({**manifest, "files": [{**entry, **members}]}, separators=(",", ":"), sort_keys=True)

    manifests = {
        "empty": "", "not JSON": "{", "null": "null", "a list": "[]", "no files": json.dumps({**manifest, "files": []}),
        "not canonical": json.dumps(manifest, indent=1), "duplicate member": '{"schema":1,"schema":1}', "NaN": "NaN",
        "too deep": "[" * 100_000, "a huge integer": "9" * 5000, "NUL": "\x00", "1e999": '{"chunk_bytes":1e999}',
        "absolute": with_entry(path="/etc/passwd"), "dots": with_entry(path="../x"), "backslash": with_entry(path="a\\b"),
        "control": with_entry(path="a\x01"), "negative size": with_entry(size=-1), "float size": with_entry(size=1.0),
        "huge size": with_entry(size=2**60), "upper case digest": with_entry(sha256="A" * 64), "boolean": with_entry(size=True),
        "null path": with_entry(path=None), "empty path": with_entry(path=""), "long path": with_entry(path="a/" * 600 + "a"),
        "unknown member": with_entry(mode=1), "device": with_entry(path="con"), "short digest": with_entry(blake3="0"),
        "other chunk size": json.dumps({**manifest, "chunk_bytes": 1}, separators=(",", ":"), sort_keys=True),
    }  # fmt: skip
    valid = json.dumps(manifest, separators=(",", ":"), sort_keys=True)
    bundles = {
        "empty": "", "not JSON": "{", "null": "null", "a list": "[]", "too deep": '{"a":' * 50_000, "NUL": "\x00",
        "a wrong media type": '{"mediaType": "x"}', "duplicate": '{"mediaType":1,"mediaType":1}', "1e999": "1e999",
    }  # fmt: skip
    envelope = [
        ("tags a text", {"manifest": valid, "bundle": bundle, "tags": "v1"}),
        ("tags malformed", {"manifest": valid, "bundle": bundle, "tags": ["-x"]}),
        ("tags too many", {"manifest": valid, "bundle": bundle, "tags": [f"t{n}" for n in range(17)]}),
        ("tags null", {"manifest": valid, "bundle": bundle, "tags": [None]}),
        ("manifest an object", {"manifest": manifest, "bundle": bundle}),
        ("bundle missing", {"manifest": valid}),
        ("a lone surrogate", b'{"manifest": "\\ud800", "bundle": "{}"}'),
        ("a principal", {"manifest": valid, "bundle": bundle, "principal": "person:boss"}),
    ]
    return [
        # The signature is looked at before the manifest, so either says no; the point is that something does.
        *[post(f"manifest {name}", path, {"manifest": m, "bundle": bundle}, code="signature-invalid|manifest-invalid")
          for name, m in manifests.items()],
        *[post(f"bundle {name}", path, {"manifest": valid, "bundle": b}, code="signature-invalid|signature-missing|manifest-invalid") for name, b in bundles.items()],
        *[post(f"publication {name}", path, value) for name, value in envelope],
    ]  # fmt: skip


def batch_rows():
    rows = []
    for path in (f"/v1/publications/{SOME_ID}/uploads", f"/v1/grants/{SOME_ID}/read-requests"):
        for value in (
            [],
            [HEX] * 257,
            ["x"],
            [HEX.upper().replace("0", "A")],
            [None],
            [[HEX]],
            "x",
            {HEX: 1},
            [HEX + "\n"],
        ):
            rows.append(post(f"blobs={value!r:.30} {path[4:10]}", path, {"blobs": value}))
    path = f"/v1/publications/{SOME_ID}/part-requests"
    for number in (0, -1, 10_001, 1.5, None, "x", 10**300, float("nan")):
        rows.append(post(f"part number={number!r:.30}", path, {"parts": [{"blake3": HEX, "number": number}]}))
    return rows


QUERIES = [
    "limit=0", "limit=-1", "limit=1001", "limit=x", "limit=1.5", "limit=", "limit=" + "9" * 5000, "limit=%00", "limit=%ff",
    "after=-2", "after=x", "after=9223372036854775808", "after=" + "9" * 100, "newest=x", "type=x", "type=", "type=artifact",
    "type=artifact.published&type=x", "artifact=x", "artifact=sha256:", "artifact=" + HEX, "repository=x", "repository=",
    "repository=../x", "repository=A/b", "repository=" + "a" * 129, "repository=%00/x", "repository=a/b%0a",
]  # fmt: skip

ROWS = [
    *each("namespace", "/v1/repositories/{}/m/tags", [name for name in ENCODED_NAMES if name not in {"..", ".", "%2e%2e"}]),
    *each("name", "/v1/repositories/demo/{}/artifacts", [name for name in ENCODED_NAMES if name not in {"..", ".", "%2e%2e"}]),
    *each("traversal", "{}", TRAVERSALS, 404, "not-found"),
    *each("artifact", f"{REPOSITORY}/artifacts/{{}}", DIGESTS),
    *each("tag", f"{REPOSITORY}/tags/{{}}", TAGS),
    *each("tag history", f"{REPOSITORY}/tags/{{}}/history", TAGS[:4]),
    *[get(f"token id {value[:20]!r}", f"/v1/tokens/{value}", method="DELETE") for value in IDS if value != ".."],
    *[get(f"grant id {value[:20]!r}", f"/v1/grants/{value}/blobs/{HEX}") for value in IDS if value != ".."],
    *[post(f"publication id {value[:20]!r}", f"/v1/publications/{value}/finish", b"") for value in IDS if value != ".."],
    *each("blob", f"/v1/grants/{SOME_ID}/blobs/{{}}", BLOBS),
    *[
        post(f"part {value[:20]!r}", f"/v1/publications/{SOME_ID}/blobs/{HEX}/parts/{value}", b"x", method="PUT",
             status=422 if value else 404, code="invalid" if value else "not-found")
        for value in NUMBERS
    ],
    *each("host", "/v1/hosts/{}", ["A", "-a", ".a", "a__b", "%00", "a%0a", "a%20b", "%c3%a9", "%ff", "a*", "*", "a" * 101]),
    *[get(f"access grant id {value[:20]!r}", f"/v1/access/grants/{value}", method="DELETE") for value in IDS if value != ".."],
    *each("access of", "/v1/access/grants?subject={}", ["", "x", "person:", "group:x", "person:%00", "person:" + "a" * 200]),
    *each("events", "/v1/events?{}", QUERIES),
    *each("repositories", "/v1/repositories?{}", ["limit=0", "limit=x", "after=" + "a" * 129, "after=%00", "after=%ff"]),
    *each("artifacts", f"{REPOSITORY}/artifacts?{{}}", ["before=-1", "before=x", "before=9223372036854775808", "limit=0"]),
    *[
        post(f"{kind} {name}", path, body)
        for kind, path in TAKING_JSON.items()
        for name, body in ANY_JSON
    ],
    *token_rows(),
    *grant_rows(),
    *report_rows(),
    *publication_rows(),
    *batch_rows(),
    *[
        post(f"tag body {value!r:.40}", f"{REPOSITORY}/tags/v1", value, method="PUT")
        for value in ({}, {"artifact": "x"}, {"artifact": ABSENT, "expected": "x"}, {"artifact": ABSENT, "force": True},
                      {"artifact": [ABSENT]}, b'{"artifact": NaN}')
    ],
    *[
        get(f"method {method} {path}", path, 405, "method-not-allowed", method=method)
        for method, path in (
            ("DELETE", "/v1/whoami"), ("POST", "/v1/whoami"), ("PUT", "/health"), ("PATCH", REPOSITORY + "/tags/v1"),
            ("DELETE", REPOSITORY + "/tags/v1"), ("OPTIONS", "/v1/tokens"), ("TRACE", "/v1/whoami"),
            ("DELETE", "/v1/events"), ("PUT", "/v1/hosts/x"), ("PUT", "/v1/access/grants"), ("GET", REPOSITORY),
            ("PUT", "/v1/events"), ("GET", REPOSITORY + "/grants"),
        )
    ],
    *[
        post(f"content type {kind!r}", "/v1/tokens", TOKEN, content_type=kind)
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/octet-stream", "x", "")
    ],
    post("a body of 5 MiB", "/v1/tokens", b'{"principal": "' + b"x" * 5 * 1024 * 1024 + b'"}', 413, "too-large"),
    post("a grant of 5 MiB", f"{REPOSITORY}/grants", b" " * 5 * 1024 * 1024, 413, "too-large"),
    post("a publication of 161 MiB", f"{REPOSITORY}/publications", b" " * 161 * 1024 * 1024, 413, "too-large"),
    post("a tag of 5 MiB", f"{REPOSITORY}/tags/v1", b" " * 5 * 1024 * 1024, 413, "too-large", method="PUT"),
    get("a token of a kilobyte", "/v1/whoami", 401, "unauthenticated", Authorization="Bearer " + "x" * 1000),
    get("a token with NUL-like bytes", "/v1/whoami", 401, "unauthenticated", Authorization="Bearer \x80\xff"),
]  # fmt: skip


@pytest.fixture(scope="module")
def token(registry, publishing):
    publishing.push({"a": b"already here"}, tags=("v1",))
    return registry.token("person:clumsy", minutes=600)


def test_the_table_is_long_and_its_rows_are_different():
    assert len({(row.method, row.path, row.body, str(row.headers)) for row in ROWS}) == len(ROWS)
    assert len(ROWS) >= 150


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}"[:70].encode("ascii", "backslashreplace").decode())
def test_a_malformed_request_is_refused_with_a_problem(http_, token, row):
    answer = http_(row.method, row.path, token, body=row.body, headers=row.headers)

    assert answer.status == row.status, answer
    assert answer.code in row.code.split("|"), answer
    assert len(answer.body) < 20_000
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


@pytest.fixture(scope="module")
def granted(registry, publishing, token):
    """A grant for a blob of ten bytes and an empty one."""
    pushed = publishing.push({"ten": b"0123456789", "empty": b""})
    grant = registry.api(token).request_grant(
        "demo/m", wire.GrantRequest(artifact=str(pushed.manifest.digest), purpose="pull", host="h")
    )
    return {e.path: f"/v1/grants/{grant.id}/blobs/{e.blake3}" for e in pushed.manifest.files}


WRONG_RANGES = [
    "bytes=-1", "bytes=-10", "bytes=-0", "bytes=-", "bytes=", "bytes", "", "bytes=0-1,3-4", "bytes=0-0,-1", "bytes=a-b",
    "bytes=0x0-0x1", "bytes=1.5-2", "bytes= 0-1", "bytes=0 -1", "bytes=0-1;x", "items=0-1", "BYTES=0-1", "bytes=+1-2",
    "bytes=--1", "bytes=0--1", "bytes=" + "9" * 20 + "-", "bytes=0-" + "9" * 20, "bytes=0-" + "9" * 5000, "0-1",
    "bytes=\xb2-\xb3", "bytes=\xd9\xa1-\xd9\xa2", "bytes=\xff", "bytes=0-1 bytes=0-1", "none", "bytes=0-1,",
]  # fmt: skip
UNSATISFIABLE = ["bytes=10-", "bytes=10-11", "bytes=999999-", "bytes=5-4", "bytes=9-0", "bytes=9999999999999999999-"]
RIGHT_RANGES = [
    ("bytes=0-9", b"0123456789", "bytes 0-9/10"),
    ("bytes=0-0", b"0", "bytes 0-0/10"),
    ("bytes=9-", b"9", "bytes 9-9/10"),
    ("bytes=3-5", b"345", "bytes 3-5/10"),
    ("bytes=0-", b"0123456789", "bytes 0-9/10"),
    ("bytes=5-9999999999999999999", b"56789", "bytes 5-9/10"),
]


@pytest.mark.parametrize("value", WRONG_RANGES)
def test_a_malformed_range_is_refused(http_, token, granted, value):
    for path in granted.values():
        answer = http_("GET", path, token, headers={"Range": value})
        assert (answer.status, answer.code) == (422, "invalid"), answer


@pytest.mark.parametrize("value", UNSATISFIABLE)
def test_a_range_outside_the_blob_is_not_satisfiable(http_, token, granted, value):
    for path in granted.values():
        answer = http_("GET", path, token, headers={"Range": value})
        assert (answer.status, answer.code) == (416, "range-not-satisfiable"), answer


@pytest.mark.parametrize(("value", "body", "content_range"), RIGHT_RANGES)
def test_a_range_gives_its_bytes(http_, token, granted, value, body, content_range):
    answer = http_("GET", granted["ten"], token, headers={"Range": value})
    assert (answer.status, answer.body, answer.headers["content-range"]) == (206, body, content_range)
    assert http_("GET", granted["empty"], token, headers={"Range": value}).status == 416


def test_an_empty_blob_can_be_fetched(http_, token, granted):
    answer = http_("GET", granted["empty"], token)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


def test_parts_that_do_not_fit_are_refused(http_, token, publishing, registry):
    manifest = publishing.manifest({"p": b"0123456789abcdef"})
    blob = manifest.files[0].blake3
    api = registry.api(token)
    state = api.begin_publication("demo/m", publishing.request(manifest))
    path = f"/v1/publications/{state.id}/blobs/{blob}/parts/"
    assert http_("PUT", path + "1", token, body=b"0123456789abcdef").code == "not-found"  # no upload is open
    api.uploads(state.id, [blob])

    for number, body, status in (
        ("1", b"", 422), ("1", b"012", 422), ("1", b"0123456789abcdefg", 413), ("1", b"x" * 5_000_000, 413),
        ("2", b"0123456789abcdef", 422), ("2", b"", 422), ("10000", b"x", 422),
    ):  # fmt: skip
        answer = http_("PUT", path + number, token, body=body)
        assert answer.status == status, (number, len(body), answer)
        assert answer.code == {422: "invalid", 413: "too-large"}[status]
    assert api.uploads(state.id, [blob])[0].written_parts == []
    assert http_("PUT", path + "1", token, body=b"0123456789abcdef").status == 204


@pytest.mark.parametrize(
    "head",
    [
        b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00",
        b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v1/whoami HTTP/1.1\r\nBad Header: x\r\n\r\n", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_not_http_is_dropped(http_, token, head):
    import contextlib
    import socket

    host, _, port = http_.netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(head)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
    assert not answer.startswith(b"HTTP/1.1 5")
    assert not answer.startswith(b"HTTP/1.1 2")
    assert http_("GET", "/v1/whoami", token).status == 200


def test_postgresql_refuses_the_same_rows_alike(postgres, tmp_path, publishing_to, http_to):
    """Rows that reach the database: what one refuses as malformed, the other must not answer with a failure."""
    from support.registry import running_registry

    with running_registry(tmp_path / "registry", database_url=postgres.make_database("bad")) as registry:
        publishing_to(registry).push({"a": b"x"}, tags=("v1",))
        token, http = registry.token(), http_to(registry.url)
        wrong = []
        for row in ROWS:
            if row.body is not None and len(row.body) > 200_000:
                continue
            answer = http(row.method, row.path, token, body=row.body, headers=row.headers)
            if answer.status != row.status or answer.code not in row.code.split("|"):
                wrong.append((row.name, row.status, answer.status, answer.body[:200]))
        assert wrong == []


def test_after_all_that_the_server_works(http_, token, publishing, registry):
    assert http_("GET", "/health").json == {"status": "ok"}
    pushed = publishing.push({"a": b"still working"}, tags=("alive",), api=registry.api(token))
    assert pushed.published.created is True
    assert registry.api(token).resolve("demo/m", "alive").artifact == str(pushed.manifest.digest)
