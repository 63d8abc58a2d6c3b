"""A hub, or a file server, that answers anything: every answer ends in an error of ours, and nothing is published."""

import json
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from modelreg import connections, fetching, staging
from modelreg.errors import Conflict, ModelregError, Unreachable
from modelreg.hub import Hub
from modelreg.outside import Outside
from modelreg.outside_files import FileUrl
from modelreg.outside_urls import Rules
from modelreg.sources import HubSource, UrlSource
from support.hub import Server, running, running_hub

COMMIT = "a" * 40
GOOD = {"type": "file", "path": "config.json", "size": 2, "oid": "9e26dfeeb6e641a33dae4961196235bdb965b21b"}
RULES = Rules(http=True, private_addresses=True)


class Says(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status, headers, body = self.server.says(self.path, self.headers)
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = "Content-Length" in headers

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with running(Server(Says)) as one:
        yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(connections, "TRIES", 1)
    monkeypatch.setattr(connections, "READ_SECONDS", 3.0)


def outside():
    return Outside(RULES, None, 2)


def fetch(upstream, folder):
    resolved = upstream.resolve()
    with staging.opened(folder, resolved) as area:
        return area, fetching.fetch(upstream, resolved, area, connections_at_once=2, progress=lambda _count: None)


def hub_saying(server, *, revision=None, tree=None, file=None):
    def says(path, headers):
        if "/revision/" in path:
            value = {"id": "a/b", "sha": COMMIT} if revision is None else revision
        elif "/tree/" in path:
            value = [GOOD] if tree is None else tree
        else:
            return file or (206, {"Content-Range": "bytes 0-1/2"}, b"{}")
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return 200, {"Content-Type": "application/json"}, raw

    server.says = says
    return Hub(outside(), server.url, HubSource("a/b"))


def test_the_answers_of_an_honest_hub_are_taken(server, tmp_path):
    area, fetched = fetch(hub_saying(server), tmp_path)

    assert fetched.transferred_bytes == 2
    assert (area.files / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "revision",
    [b"", b"<html>", b"[" * 100_000, [], "x", 5, None, {}, {"sha": None}, {"sha": "main"}, {"sha": "A" * 40}, {"sha": "a" * 64},
     {"sha": COMMIT + "\n"}, {"sha": "../" + "a" * 37}, b"\xff\xfe", b"null"],
)  # fmt: skip
def test_a_revision_that_is_no_commit_is_refused(server, revision):
    hub = hub_saying(server, revision=revision if revision is not None else b"null")

    with pytest.raises(Unreachable):
        hub.resolve()


def with_(**changes):
    return [{**GOOD, **changes}]


@pytest.mark.parametrize(
    "tree",
    [
        b"", b"{}", {}, "x", [1], [None], [[]], [{}], [{"path": 5}], with_(size=-1), with_(size="2"), with_(size=True),
        with_(size=2.5), with_(size=2**60), with_(size=None), with_(oid=None), with_(oid="x"), with_(oid="A" * 40), with_(lfs={}),
        with_(lfs={"oid": "a" * 40}), with_(lfs={"oid": "A" * 64, "size": 2}), with_(lfs=5, oid=None), with_(type="symlink"),
        with_(type="commit"), with_(type=None), with_(path=""), with_(path="../x"), with_(path="/x"), with_(path="a\ud800"),
        with_(path="a" * 5000), [GOOD, GOOD], [], [{**GOOD, "type": "directory"}], with_(path=".gitattributes"),
    ],
)  # fmt: skip
def test_a_tree_that_is_none_is_refused_before_a_file_is_asked_for(server, tree, tmp_path):
    def never(path, headers):
        raise AssertionError(path)

    hub = hub_saying(server, tree=tree, file=(200, {}, b"{}"))

    with pytest.raises(ModelregError):
        fetch(hub, tmp_path)

    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.parametrize(
    "link", ["http://evil.example/api", "https://127.0.0.1/", "//169.254.169.254/x", "http://[::1]/x"]
)
def test_a_list_of_files_does_not_continue_on_another_host(server, link):
    server.says = lambda path, headers: (
        (200, {}, json.dumps({"sha": COMMIT}).encode())
        if "/revision/" in path
        else (200, {"Link": f'<{link}>; rel="next"'}, json.dumps([GOOD]).encode())
    )

    with pytest.raises(ModelregError):
        Hub(outside(), server.url, HubSource("a/b")).resolve()


def test_a_list_of_files_has_an_end(server, monkeypatch):
    monkeypatch.setattr("modelreg.hub.MAX_PAGES", 20)
    server.says = lambda path, headers: (
        (200, {}, json.dumps({"sha": COMMIT}).encode())
        if "/revision/" in path
        else (200, {"Link": f'<{path}>; rel="next"'}, json.dumps([GOOD]).encode())
    )

    with pytest.raises(Unreachable, match="more than 20 pages"):
        Hub(outside(), server.url, HubSource("a/b")).resolve()


@pytest.mark.parametrize(
    "file",
    [
        (200, {}, b""), (200, {}, b"{"), (206, {}, b"{}"), (206, {"Content-Range": "bytes 0-1/3"}, b"{}"),
        (206, {"Content-Range": "bytes 1-2/2"}, b"{}"), (206, {"Content-Range": "bytes 0-1/2"}, b"{"),
        (206, {"Content-Range": "bytes 0-1/2"}, b"[]"), (204, {}, b""), (304, {}, b""), (404, {}, b""), (500, {}, b""),
        (302, {"Location": "http://169.254.169.254/"}, b""), (416, {"Content-Range": "bytes */2"}, b""),
        (206, {"Content-Range": "bytes 0-1/2", "X-Repo-Commit": "b" * 40}, b"{}"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_the_file_is_refused_and_not_kept(server, file, tmp_path):
    hub = hub_saying(server, file=file)

    with pytest.raises(ModelregError):
        fetch(hub, tmp_path)

    assert not list(tmp_path.glob("imports/*/files/*"))


@pytest.mark.parametrize(
    "file",
    [
        (200, {}, b"{}}"), (206, {"Content-Range": "bytes 0-1/2"}, b"{}}"),
        (206, {"Content-Range": "bytes 0-1/2", "Content-Length": "200"}, b"{}"),
    ],
)  # fmt: skip
def test_what_follows_the_bytes_that_were_asked_for_is_not_taken(server, file, tmp_path):
    area, _ = fetch(hub_saying(server, file=file), tmp_path)

    assert (area.files / "config.json").read_bytes() == b"{}"


def test_a_hub_without_ranges_serves_small_files(server, tmp_path):
    fetch(hub_saying(server, file=(200, {}, b"{}")), tmp_path)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 200), ({"ETag": 'W/"weak"'}, 206), ({"ETag": "unquoted"}, 206), ({"ETag": '"strong"'}, 200)],
)
def test_a_file_without_a_strong_validator_or_ranges_comes_in_one_piece(server, tmp_path, headers, status):
    body, asked = b"x" * 3_000_000, []

    def says(path, got):
        asked.append(got.get("Range"))
        if got.get("Range") == "bytes=0-0" and status == 206:
            return 206, {**headers, "Content-Range": f"bytes 0-0/{len(body)}"}, b"x"
        return 200, headers, body

    server.says = says
    area, _ = fetch(FileUrl(outside(), UrlSource(f"{server.url}/model.bin")), tmp_path)

    assert asked == ["bytes=0-0", None]
    assert (area.files / "model.bin").read_bytes() == body


def test_a_file_that_changes_while_it_is_fetched_is_not_put_together(server, tmp_path):
    size, turn = 70 * 1024 * 1024, []

    def says(path, got):
        turn.append(got.get("Range"))
        etag = '"one"' if len(turn) < 3 else '"two"'
        first, last = map(int, got["Range"].removeprefix("bytes=").split("-"))
        return 206, {"ETag": etag, "Content-Range": f"bytes {first}-{last}/{size}"}, b"x" * (last - first + 1)

    server.says = says

    with pytest.raises(Unreachable, match="changed while it was fetched"):
        fetch(FileUrl(outside(), UrlSource(f"{server.url}/model.bin")), tmp_path)

    assert not list(tmp_path.glob("imports/*/files/*"))


def test_an_empty_file_is_a_file(server, tmp_path):
    server.says = lambda path, got: (416, {"Content-Range": "bytes */0"}, b"") if "Range" in got else (200, {}, b"")

    area, _ = fetch(FileUrl(outside(), UrlSource(f"{server.url}/empty.bin")), tmp_path)

    assert (area.files / "empty.bin").read_bytes() == b""


@pytest.mark.parametrize("headers", [{"Content-Length": "-1"}, {"Content-Length": "x"}, {"Content-Length": "9" * 30}])
def test_a_file_of_no_known_length_is_not_fetched(server, headers, tmp_path):
    server.says = lambda path, got: (200, headers, b"")

    with pytest.raises(ModelregError):
        fetch(FileUrl(outside(), UrlSource(f"{server.url}/model.bin")), tmp_path)


def test_two_runs_do_not_fetch_the_same(tmp_path):
    with running_hub() as hub:
        hub.add("a/b", {"config.json": b"{}"})
        upstream = Hub(outside(), hub.url, HubSource("a/b"))
        resolved = upstream.resolve()
        with staging.opened(tmp_path, resolved), pytest.raises(Conflict, match="another import"):
            with staging.opened(tmp_path, resolved):
                pass


def test_what_does_not_fit_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 1})())
    with running_hub() as hub:
        hub.add("a/b", {"config.json": b"{}" * 10_000})
        upstream = Hub(outside(), hub.url, HubSource("a/b"))
        with pytest.raises(ModelregError, match="20000 bytes and there are"):
            fetch(upstream, tmp_path)
        assert hub.total_sent == 0


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 32 * 2**20, 32 * 2**20 + 1, 65 * 2**20])
def test_every_size_comes_whole_and_is_measured_right(tmp_path, size):
    body = (bytes(range(251)) * (size // 251 + 1))[:size]
    with running_hub() as hub:
        model = hub.add("a/b", {"model.safetensors": body, "config.json": body[:100]})
        area, fetched = fetch(Hub(outside(), hub.url, HubSource("a/b")), tmp_path)

    assert (area.files / "model.safetensors").read_bytes() == body
    assert fetched.sha256 == {name: file.sha256 for name, file in model.commits[model.commit].items()}
    assert (fetched.transferred_bytes, fetched.kept_bytes) == (size + min(size, 100), 0)


def test_a_connection_that_breaks_in_the_middle_loses_one_chunk(tmp_path, monkeypatch):
    """The rest of a range is asked for again from where it broke."""
    monkeypatch.setattr(connections, "TRIES", 6)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    size = 20 * 1024 * 1024
    body, asked, lock = bytes(range(256)) * (size // 256), [], threading.Lock()

    class Breaks(Says):
        def do_GET(self):
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            with lock:
                asked.append(first)
            self.send_response_only(206)
            for name, value in (("ETag", '"e"'), ("Content-Range", f"bytes {first}-{last}/{size}")):
                self.send_header(name, value)
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            self.wfile.write(body[first : min(last + 1, first + 3 * 1024 * 1024 + 5)])
            self.close_connection = True

    with running(Server(Breaks)) as one:
        area, fetched = fetch(FileUrl(outside(), UrlSource(f"{one.url}/model.bin")), tmp_path)

    assert (area.files / "model.bin").read_bytes() == body
    assert asked[1:] == [at * 3 * 1024 * 1024 for at in range(7)]
    assert fetched.transferred_bytes < size + 7 * 1024 * 1024
