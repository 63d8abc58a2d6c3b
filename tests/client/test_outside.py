"""HTTP to hosts outside, against real servers on loopback; only the resolver is a test's own."""

import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg import outside
from modelreg.connections import Transient
from modelreg.errors import Forbidden, Invalid, NotFound, Unauthenticated, Unreachable
from modelreg.outside import Outside
from modelreg.outside_urls import Rules
from support import canary, keys
from support.hub import Server, running

LOCAL = Rules(http=True, private_addresses=True)
TOKEN = canary.plant("hf_canary_outside_token_0123456789")


class Says(BaseHTTPRequestHandler):
    """Answers what the test says; remembers what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        status, headers, body = self.server.says(self.path)
        self.send_response_only(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = []

    def start(says):
        one = Server(Says)
        one.says = says if callable(says) else lambda _path: says
        made.append(one)
        return one

    yield start
    for one in made:
        with running(one):
            pass


def at(*addresses):
    """A resolver that knows these addresses for every name, and counts."""

    def resolve(host, port):
        resolve.asked.append(host)
        return [ip_address(address) for address in addresses]

    resolve.asked = []
    return resolve


def client(token=None, origin=None, rules=LOCAL, resolver=outside.resolve):
    return Outside(rules, None, 2, token, origin, resolver)


def test_a_name_is_resolved_once_and_asked_under_its_own_name(server):
    one = server((200, {}, b"hello"))
    port = one.server_address[1]
    resolver = at("127.0.0.1")
    asking = client(resolver=resolver)

    for _ in range(3):
        assert asking.read(f"http://models.example:{port}/x")[1] == b"hello"

    assert resolver.asked == ["models.example"]
    assert one.asked[0][1]["Host"] == f"models.example:{port}"


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["169.254.169.254"], ["::ffff:127.0.0.1"]]
)
def test_a_name_that_leads_to_a_private_address_is_not_asked(server, addresses):
    one = server((200, {}, b"secret"))
    asking = client(rules=Rules(http=True), resolver=at(*addresses))

    with pytest.raises(Forbidden, match=r"rebind\.example, which is .*, is a .* address and is not asked"):
        asking.read(f"http://rebind.example:{one.server_address[1]}/x")

    assert one.asked == []


@pytest.mark.parametrize("where", ["http://localhost:{}/", "http://127.0.0.1:{}/", "http://[::1]:{}/"])
def test_this_machine_is_not_asked_without_leave(server, where):
    one = server((200, {}, b"secret"))

    with pytest.raises(Forbidden, match="--allow-private-address"):
        client(rules=Rules(http=True)).read(where.format(one.server_address[1]))

    assert one.asked == []


def test_the_next_address_is_tried_when_the_first_does_not_answer(server, monkeypatch):
    monkeypatch.setattr("modelreg.connections.TRIES", 3)
    monkeypatch.setattr("modelreg.connections.CONNECT_SECONDS", 1.0)
    one = server((200, {}, b"hello"))
    asking = client(resolver=at("127.0.0.9", "127.0.0.1"))

    # 127.0.0.9 is this machine as well, but the server listens on 127.0.0.1 only.
    assert asking.read(f"http://models.example:{one.server_address[1]}/x")[1] == b"hello"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_origin_goes_without_the_token(server, status):
    other = server((200, {}, b"bytes"))
    first = server((status, {"Location": f"{other.url}/file"}, b""))

    answer, raw = client(TOKEN, first.url).read(f"{first.url}/x")

    assert raw == b"bytes"
    assert first.asked[0][1]["Authorization"] == f"Bearer {TOKEN}"
    assert "Authorization" not in other.asked[0][1]
    assert answer.url.origin == other.url


def test_a_redirect_within_the_origin_keeps_the_token(server):
    one = server(lambda path: (302, {"Location": "/y"}, b"moved") if path == "/x" else (200, {}, b"bytes"))

    client(TOKEN, one.url).read(f"{one.url}/x")

    assert [headers["Authorization"] for _, headers in one.asked] == [f"Bearer {TOKEN}"] * 2


def test_a_token_comes_back_to_its_origin_only_when_that_is_asked(server):
    """Another origin that redirects to the token's own gets its answer; it never sees the token."""
    one = server((200, {}, b"bytes"))
    other = server((302, {"Location": f"{one.url}/x"}, b""))

    client(TOKEN, one.url).read(f"{other.url}/start")

    assert "Authorization" not in other.asked[0][1]


def test_a_token_is_not_sent_over_plain_http_to_another_machine(server):
    one = server((200, {}, b"bytes"))
    url = f"http://models.example:{one.server_address[1]}"

    client(TOKEN, url, resolver=at("127.0.0.1")).read(f"{url}/x")

    assert "Authorization" not in one.asked[0][1]


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/latest", "http://metadata.example/", "http://2130706433/", "ftp://x/", "", "http://"],
)
def test_a_redirect_to_where_nothing_is_asked_is_not_followed(server, location):
    one = server((302, {"Location": location}, b""))
    resolver = at("169.254.169.254")

    with pytest.raises((Forbidden, Invalid, Unreachable)):
        client(resolver=resolver).read(f"{one.url}/x")


def test_redirects_are_bounded(server):
    one = server((302, {"Location": "/again"}, b""))

    with pytest.raises(Unreachable, match="redirects more than 5 times"):
        client().read(f"{one.url}/x")

    assert len(one.asked) == 6


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    proxy, one = server((200, {}, b"proxied")), server((200, {}, b"direct"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy.url)

    assert client().read(f"{one.url}/x")[1] == b"direct"
    assert proxy.asked == []


def test_an_answer_without_end_is_cut(server):
    one = server((200, {}, b"x" * 2000))

    with pytest.raises(Unreachable, match="more than 1000 bytes"):
        client().read(f"{one.url}/x", limit=1000)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Unauthenticated),
        (403, Unauthenticated),
        (404, NotFound),
        (410, NotFound),
        (418, Unreachable),
        (503, Transient),
    ],
)
def test_what_an_answer_means(server, status, error):
    one = server((status, {}, b""))

    with pytest.raises(error, match=str(status)) as refused:
        client().read(f"{one.url}/x?X-Amz-Signature={'a' * 64}")

    assert "X-Amz" not in str(refused.value)


def test_a_name_without_an_address_may_have_one_later():
    with pytest.raises(Transient, match="has no address"):
        outside.resolve("does-not-exist.invalid", 443)


def test_tls_is_verified_for_the_name_and_not_for_the_address(server, tmp_path):
    """A certificate for another name is refused, although the address is the right one; the right name is taken."""
    now = datetime.now(UTC)
    days = {"start": now - timedelta(days=1), "end": now + timedelta(days=1)}
    root = keys.make_certificate(None, ca=True, names=None, purposes=None, common_name="root", **days)
    leaf = keys.make_certificate(
        root, names=[x509.DNSName("models.example")], purposes=[ExtendedKeyUsageOID.SERVER_AUTH], **days
    )
    (tmp_path / "root.pem").write_text(keys.certificate_pem(root.certificate))
    (tmp_path / "leaf.pem").write_text(keys.certificate_pem(leaf.certificate))
    (tmp_path / "leaf.key.pem").write_bytes(
        leaf.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "leaf.pem", tmp_path / "leaf.key.pem")
    seen = []
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    one = server((200, {}, b"hello"))
    one.socket = context.wrap_socket(one.socket, server_side=True)
    port = one.server_address[1]
    rules = Rules(private_addresses=True)

    right = Outside(rules, tmp_path / "root.pem", 1, resolver=at("127.0.0.1"))
    assert right.read(f"https://models.example:{port}/x")[1] == b"hello"
    assert seen == ["models.example"]
    wrong = Outside(rules, tmp_path / "root.pem", 1, resolver=at("127.0.0.1"))
    with pytest.raises(Unreachable, match="certificate"):
        wrong.read(f"https://other.example:{port}/x")
    stranger = Outside(rules, None, 1, resolver=at("127.0.0.1"))
    with pytest.raises(Unreachable, match="certificate"):
        stranger.read(f"https://models.example:{port}/x")


def test_the_client_is_safe_for_several_threads(server):
    one = server((200, {}, b"x" * 10_000))
    asking, found = client(), []

    def ask():
        for _ in range(20):
            found.append(len(asking.read(f"{one.url}/x")[1]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [10_000] * 80
