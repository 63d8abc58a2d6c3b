"""A registry or store that answers anything: every answer ends in an error of ours, and nothing is admitted."""

import contextlib
import json
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from modelreg import api as api_module
from modelreg import connections, pull, push, wire
from modelreg.api import Api
from modelreg.cache import Cache
from modelreg.errors import ModelregError, Unreachable
from modelreg.references import parse_reference
from support.registry import QUIET

# The evil server's own threads die in the middle of what never ends.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

TOKEN = "mrg_api_canary"
NEVER = object()  # a body that does not end
DRIP = object()  # a body that does not end either, one byte at a time


class Evil(ThreadingHTTPServer):
    """Answers what it was told to, and remembers what it was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer):
        self.answer = answer  # (method, path, headers, body) -> (status, headers, body)
        self.seen = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        status, headers, answer = self.server.answer(self.command, self.path, self.headers, body)
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if answer is NEVER:
            self.end_headers()
            while True:
                self.wfile.write(b" " * 65536)
        if answer is DRIP:
            if "Content-Length" not in headers:
                self.send_header("Content-Length", "1000000")
            self.end_headers()
            while True:
                self.wfile.write(b" ")
                time.sleep(0.05)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.close_connection = headers.get("Connection") == "close"

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def evil(monkeypatch):
    monkeypatch.setattr(api_module, "_MAX_ANSWER_BYTES", 1024 * 1024)
    monkeypatch.setattr(connections, "READ_SECONDS", 5.0)
    made = []

    def start(answer):
        made.append(Evil(answer if callable(answer) else lambda *_: answer))
        return made[-1]

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


def client(server):
    return Api(server.url, TOKEN, connections.make_pool(None, 2))


PROBLEM = {"Content-Type": "application/problem+json"}
JSON = {"Content-Type": "application/json"}
WHO = {
    "principal": "p", "scopes": [], "expires_at": "2030-01-01T00:00:00Z", "token_id": "t", "host": None, "host_class": None,
    "host_zone": None, "grants": [],
}  # fmt: skip


def problem(status=503, **members):
    return (status, PROBLEM, json.dumps({"type": "urn:modelreg:problem:error", "detail": "x", **members}).encode())


ANSWERS = [
    ("HTML with 200", (200, {"Content-Type": "text/html"}, b"<html>hello</html>")),
    ("nothing", (200, JSON, b"")),
    ("half a JSON", (200, JSON, b'{"principal": "p"')),
    ("another object", (200, JSON, b'{"a": 1}')),
    ("a list", (200, JSON, b"[]")),
    ("null", (200, JSON, b"null")),
    ("NaN", (200, JSON, json.dumps({**WHO, "principal": float("nan")}).encode())),
    ("wrong types", (200, JSON, json.dumps({**WHO, "scopes": "all"}).encode())),
    ("a member named self", (200, JSON, json.dumps({**WHO, "self": 1}).encode())),
    ("members named detail and code", (200, JSON, json.dumps({**WHO, "detail": 1, "code": 2}).encode())),
    ("not UTF-8", (200, JSON, b'{"principal": "\xff"}')),
    ("nested deeply", (200, JSON, b"[" * 100_000)),
    ("a date that is none", (200, JSON, json.dumps({**WHO, "expires_at": "soon"}).encode())),
    ("a date beyond dates", (200, JSON, json.dumps({**WHO, "expires_at": "99999-01-01T00:00:00Z"}).encode())),
    ("a body over the limit", (200, JSON, b" " * 1_100_000)),
    ("a body without end", (200, JSON, NEVER)),
    ("a short body", (200, {**JSON, "Content-Length": "500", "Connection": "close"}, b"{}")),
    ("a length that is none", (200, {**JSON, "Content-Length": "many"}, b"{}")),
    ("two lengths", (200, {**JSON, "Content-Length": "2, 3"}, b"{}")),
    ("a chunk that is none", (200, {**JSON, "Transfer-Encoding": "chunked", "Content-Length": "0"}, b"ZZ\r\n{}\r\n")),
    ("204", (204, {}, b"")),
    ("an error in HTML", (404, {"Content-Type": "text/html"}, b"<html>")),
    ("an error without end", (404, {}, NEVER)),
    ("an error over the limit", (400, PROBLEM, b" " * 1_100_000)),
    ("a bad gateway", (502, {}, b"bad")),
    ("a bad gateway without end", (502, {}, NEVER)),
    ("too many requests", (429, {"Retry-After": "99999999999"}, b"")),
    ("a retry after that is none", (503, {"Retry-After": "-1"}, b"")),
    ("a problem that is a list", (400, PROBLEM, b"[]")),
    ("a problem with a status in words", (400, PROBLEM, b'{"status": "x"}')),
    ("a problem of nothing", (400, PROBLEM, b"{}")),
    ("a problem with a member named self", problem(400, self=1, detail="x")),
    ("a problem with every name", problem(400, code="x", kind="x", args=1, facts=2, title="t", exit_code=0, path="/")),
    ("a problem that wants a wait in words", problem(type="urn:modelreg:problem:storage-unavailable", wait_seconds="x")),
    ("a problem that wants to go back in time", problem(type="urn:modelreg:problem:storage-unavailable", wait_seconds=-5)),
    ("a problem of another scheme", problem(400, type="about:blank")),
    ("a problem with control characters", problem(400, detail="\x1b[2J\x07 gotcha")),
    ("a success that claims to be a problem", (200, PROBLEM, b'{"type": "urn:modelreg:problem:error"}')),
]  # fmt: skip


@pytest.mark.parametrize("answer", [answer for _, answer in ANSWERS], ids=[name for name, _ in ANSWERS])
def test_any_answer_ends_in_an_error_of_ours(evil, answer):
    server = evil(answer)
    with pytest.raises(ModelregError) as refused:
        client(server).whoami()
    assert TOKEN not in refused.value.detail
    assert 0 < refused.value.exit_code < 126


def test_a_wait_the_server_names_never_breaks_the_retries(evil, monkeypatch):
    monkeypatch.setattr(connections, "TRIES", 2)
    for wait in ("x", -5, None, [1]):
        server = evil(problem(type="urn:modelreg:problem:storage-unavailable", wait_seconds=wait))
        with pytest.raises(Unreachable):
            client(server).whoami()
        assert len(server.seen) == 2


def test_after_an_oversize_answer_the_connection_is_not_used_again(evil):
    answers = [(200, JSON, b" " * 1_100_000), (200, JSON, json.dumps(WHO).encode())]
    server = evil(lambda *_: answers.pop(0))
    api = client(server)
    with pytest.raises(Unreachable):
        api.whoami()
    assert api.whoami().principal == "p"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_token_stays_home(evil, status):
    other = evil((200, JSON, json.dumps(WHO).encode()))
    server = evil((status, {"Location": other.url + "/v1/whoami"}, b""))
    with pytest.raises(ModelregError):
        client(server).whoami()
    assert other.seen == []


def test_the_store_never_sees_the_token(evil):
    store, server = evil((200, {}, b"x")), evil((200, JSON, b"{}"))
    api = client(server)
    for headers in ({}, {"X-Amz": "1"}):
        request = wire.DirectRequest(
            blake3="0" * 64, method="GET", url=store.url + "/b", headers=headers, expires_in_seconds=9
        )
        api.open_direct(request, {"Range": "bytes=0-1"}).close()
    assert len(store.seen) == 2
    assert all("Authorization" not in headers and TOKEN not in str(headers) for _, _, headers, _ in store.seen)


@pytest.mark.parametrize(
    ("url", "headers"),
    [("ftp://127.0.0.1/x", {}), ("", {}), ("x", {}), ("http://", {}), ("http://[::1", {}), ("http://127.0.0.1:x/", {}),
     ("http://127.0.0.1:1/", {}), ("file:///etc/passwd", {}), ("@127.0.0.1", {}), ("http://127.0.0.1:99999/", {}),
     ("STORE", {"X": "a\r\nInjected: 1"}), ("STORE", {"X\r\nInjected": "1"}), ("STORE", {"X": "\u20ac"}), ("STORE", {"": "x"})],
)  # fmt: skip
def test_a_request_that_cannot_be_sent_is_refused(evil, url, headers):
    store = evil((200, {}, b"x"))
    request = wire.DirectRequest(
        blake3="0" * 64, method="GET", url=url.replace("STORE", store.url), headers=headers, expires_in_seconds=9
    )
    with pytest.raises(ModelregError):
        client(store).open_direct(request, {})
    assert not any("Injected" in seen for _, _, seen, _ in store.seen)


@pytest.mark.parametrize("status", [302, 400, 403, 404, 500, 503])
def test_a_store_that_refuses_without_end_is_left(evil, status):
    store = evil((status, {"Location": "http://127.0.0.1:1/"}, NEVER))
    request = wire.DirectRequest(blake3="0" * 64, method="PUT", url=store.url, headers={}, expires_in_seconds=9)
    with pytest.raises(Unreachable):
        client(store).open_direct(request, {}, b"x")


def test_an_answer_that_drips_in_without_end_is_left(evil, monkeypatch):
    monkeypatch.setattr(connections, "TRIES", 1)
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.5)
    with pytest.raises(Unreachable):
        client(evil((200, JSON, DRIP))).whoami()


@pytest.mark.parametrize("url", ["http://store.example/b", "http://10.0.0.7/b", "http://127.0.0.1.example/b"])
def test_a_presigned_request_never_leaves_this_machine_over_plain_http(evil, url):
    request = wire.DirectRequest(blake3="0" * 64, method="GET", url=url, headers={}, expires_in_seconds=9)
    with pytest.raises(Unreachable, match="plain http"):
        client(evil((200, {}, b"x"))).open_direct(request, {})


def test_what_a_registry_says_is_cut_before_it_fills_the_terminal(evil):
    with pytest.raises(ModelregError) as refused:
        client(evil(problem(status=409, detail="x" * 100_000, title="y" * 100_000))).whoami()
    assert len(refused.value.detail) <= 2000


def test_lists_that_go_in_circles_end(evil):
    row = {"repository": "a/b", "artifacts": 1, "created_at": "2030-01-01T00:00:00Z", "sensitive": False}
    server = evil((200, JSON, json.dumps({"repositories": [row], "next_after": "a/b"}).encode()))
    with pytest.raises(Unreachable, match="circle"):
        list(client(server).repositories())
    server = evil((200, JSON, json.dumps({"artifacts": [], "next_before": 7}).encode()))
    with pytest.raises(Unreachable, match="circle"):
        list(client(server).artifacts("a/b"))


# --- a whole pull and push against a registry that changes its mind -------------------------------------------------


@pytest.fixture(scope="module")
def pushed(registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "weights").write_bytes(b"w" * 1000)
    api = registry.api()
    return push.push(
        api, folder, parse_reference("demo/m"), registry.trust.signer, tags=["v1"], connections_at_once=2, meter=QUIET
    )


def in_between(registry, change):
    """Passes requests on to the real registry and lets `change` have the answer."""
    import urllib3

    pool = urllib3.PoolManager()
    real = registry.token("person:between")

    def answer(method, path, headers, body):
        sent = {"Authorization": f"Bearer {real}", "Content-Type": headers.get("Content-Type") or "application/json"}
        if "Range" in headers:
            sent["Range"] = headers["Range"]
        response = pool.request(
            method, registry.url + path, headers=sent, body=body or None, retries=False, redirect=False
        )
        kept = {k: v for k, v in response.headers.items() if k.lower() in {"content-type", "content-range"}}
        return change(method, path, (response.status, kept, response.data))

    return answer


def at(part, **how):
    """Changes the JSON of answers to paths that hold `part`, or replaces status, headers or body."""

    def change(_method, path, answer):
        if part not in path:
            return answer
        status, headers, body = answer
        for name, value in how.items():
            if name == "status":
                status = value
            elif name == "headers":
                headers = {**headers, **value}
            elif name == "body":
                body = value(body) if callable(value) else value
            elif name == "json":
                members = json.loads(body)
                value(members)
                body = json.dumps(members).encode()
        return status, headers, body

    return change


def put(*keys_and_value):
    *path, value = keys_and_value

    def change(members):
        for key in path[:-1]:
            members = members[key]
        members[path[-1]] = value

    return change


BLOB = "/blobs/"
PULLS = [
    ("another artifact's manifest", at("/grants", json=put("manifest", "{}"))),
    ("no bundles", at("/grants", json=put("bundles", []))),
    ("garbage as bundle", at("/grants", json=put("bundles", ["{}"]))),
    ("a tag to somewhere else", at("/tags/v1", json=put("artifact", "sha256:" + "1" * 64))),
    ("no read request", at("/read-requests", json=put("requests", []))),
    ("a read request for another blob", at("/read-requests", json=put("requests", 0, "blake3", "1" * 64))),
    ("a request that lives for ever", at("/read-requests", json=put("requests", 0, "expires_in_seconds", 10**400))),
    ("a request that died before", at("/read-requests", json=put("requests", 0, "expires_in_seconds", -1))),
    ("a request to a file", at("/read-requests", json=put("requests", 0, "url", "file:///etc/passwd"))),
    ("a request with injected headers", at("/read-requests", json=put("requests", 0, "headers", {"X": "a\r\nb: c"}))),
    ("200 instead of 206", at(BLOB, status=200)),
    ("another range", at(BLOB, headers={"Content-Range": "bytes 1-1000/1001"})),
    ("a range of another size", at(BLOB, headers={"Content-Range": "bytes 0-999/9999"})),
    ("a range that is none", at(BLOB, headers={"Content-Range": "x"})),
    ("other bytes", at(BLOB, body=b"x" * 1000)),
    ("too few bytes", at(BLOB, body=b"w" * 999)),
    ("too many bytes", at(BLOB, body=b"w" * 1001)),
    ("no bytes", at(BLOB, body=b"")),
    ("bytes without end", at(BLOB, body=NEVER)),
    ("a body shorter than its length", at(BLOB, body=b"w" * 10, headers={"Content-Length": "1000", "Connection": "close"})),
    ("HTML", at(BLOB, status=200, headers={"Content-Type": "text/html"}, body=b"<html>")),
    ("a redirect", at(BLOB, status=302, headers={"Location": "http://127.0.0.1:1/"}, body=b"")),
    ("204", at(BLOB, status=204, body=b"")),
]  # fmt: skip


@pytest.mark.parametrize("change", [change for _, change in PULLS], ids=[name for name, _ in PULLS])
def test_nothing_is_admitted_from_a_registry_that_lies(evil, registry, pushed, tmp_path, change):
    server = evil(in_between(registry, change))
    cache = Cache(tmp_path / "cache")
    with pytest.raises(ModelregError):
        pull_from(server, registry, cache)

    assert [path for path in (cache.root / "blobs").rglob("*") if path.is_file()] == []
    assert list((cache.root / "snapshots").iterdir()) == []
    assert not any("/receipts" in path for _, path, _, _ in server.seen)


def pull_from(server, registry, cache):
    return pull.pull(
        client(server), cache, registry.trust.policy, parse_reference("demo/m:v1"), purpose="pull", host="h",
        now=datetime.now(UTC), connections_at_once=2, meter=QUIET, state_dir=cache.root.with_name("state"),
    )  # fmt: skip


def test_weights_that_drip_in_are_given_up_and_nothing_is_admitted(evil, registry, pushed, tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "TRIES", 2)
    monkeypatch.setattr(connections, "READ_SECONDS", 0.5)
    server = evil(in_between(registry, at(BLOB, body=DRIP)))
    with pytest.raises(Unreachable):
        pull_from(server, registry, Cache(tmp_path / "cache"))
    assert [path for path in (tmp_path / "cache" / "blobs").rglob("*") if path.is_file()] == []


def test_an_unchanged_answer_is_admitted(evil, registry, pushed, tmp_path):
    server = evil(in_between(registry, lambda _method, _path, answer: answer))
    pulled = pull_from(server, registry, Cache(tmp_path / "cache"))
    assert (pulled.folder / "weights").read_bytes() == b"w" * 1000


def grow(members):
    members["uploads"][0]["part_count"] = 10**12


PUSHES = [
    ("a blob of nobody", at("/publications", json=lambda m: m.get("missing") and m["missing"].append("1" * 64))),
    ("no uploads", at("/uploads", json=put("uploads", []))),
    ("an upload of another blob", at("/uploads", json=put("uploads", 0, "blake3", "1" * 64))),
    ("parts without number", at("/uploads", json=grow)),
    ("another size", at("/uploads", json=put("uploads", 0, "size", 10**15))),
    ("parts of a byte", at("/uploads", json=put("uploads", 0, "part_bytes", 1))),
    ("no part request", at("/part-requests", json=put("requests", []))),
    ("a part that is read", at("/parts/1", status=500, body=NEVER)),
    ("a measurement that is none", at("/measurement", json=put("state", "perhaps"))),
    ("a publication that is none", at("/finish", json=put("event", "x"))),
]  # fmt: skip


@pytest.mark.parametrize("change", [change for _, change in PUSHES], ids=[name for name, _ in PUSHES])
def test_a_push_to_a_registry_that_lies_ends_with_an_error(evil, registry, tmp_path, change, request):
    server = evil(in_between(registry, change))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text(request.node.name)
    with pytest.raises(ModelregError):
        push.push(
            client(server), folder, parse_reference("demo/p"), registry.trust.signer, tags=[], connections_at_once=2,
            meter=QUIET,
        )  # fmt: skip


def test_a_registry_that_hangs_up_is_unreachable_and_not_a_death_by_sigpipe(registry, run, tmp_path):
    """Seen: with SIGPIPE's default action a peer that closes during an upload ended the process without a word."""
    import signal
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.recv(10)
                connection.close()

    threading.Thread(target=hang_up, daemon=True).start()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_bytes(b"x")
    env = {
        name: value for name, value in registry.environment(tmp_path / "home").items() if name.startswith("MODELREG_")
    }
    env["MODELREG_REGISTRY"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
    code, _out, err = run("push", folder, "demo/m", **env)
    listener.close()

    assert (code, "does not answer" in err) == (31, True)
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN


def test_output_into_a_closed_pipe_ends_quietly(registry, tmp_path):
    import subprocess
    import sys

    env = registry.environment(tmp_path / "home")
    command = f"'{sys.executable}' -m modelreg.cli completion bash; echo $? >&2"
    done = subprocess.run(["sh", "-c", f"({command}) | true"], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr.split() == ["141"]
