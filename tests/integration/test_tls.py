"""The way to the registry: TLS of the real `modelreg-server serve`, and whose forwarded headers are believed."""

import http.client
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg import pki
from support import keys
from support.registry import RegistryProcess, cli, cli_environment

LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
SERVE = [sys.executable, "-c", "import modelreg_server as s; raise SystemExit(s.main())", "serve"]


class Authority:
    """Who issues the server's certificate."""

    def __init__(self, folder):
        self.folder = folder
        now = datetime.now(UTC)
        self.root = keys.make_certificate(
            None, common_name="TLS root", ca=True, digital_signature=False, purposes=None, names=None,
            start=now - timedelta(days=2), end=now + timedelta(days=30),
        )  # fmt: skip
        self.ca_file = folder / "roots.pem"
        self.ca_file.write_bytes(pki.certificate_pem(self.root.certificate))

    def environment(self, names=(LOOPBACK,), days=5):
        """The server's settings with a new certificate for these names, which ends in so many days."""
        now = datetime.now(UTC)
        leaf = keys.make_certificate(
            self.root, names=list(names), purposes=[ExtendedKeyUsageOID.SERVER_AUTH],
            start=now - timedelta(days=2), end=now + timedelta(days=days),
        )  # fmt: skip
        chain, key = self.folder / "tls.pem", self.folder / "tls.key.pem"
        chain.write_bytes(pki.certificate_pem(leaf.certificate))
        key.write_bytes(pki.private_pem(leaf.private_key))
        return {"MODELREG_TLS_CERTIFICATE": str(chain), "MODELREG_TLS_KEY": str(key)}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def serve(tmp_path):
    """Starts the real server with these settings."""
    started = []

    def start(**environment):
        number = len(started)
        started.append(RegistryProcess(tmp_path / f"registry-{number}", environment).start())
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(range(256)) * 1000)
    return folder


def user_of(server, tmp_path, **changes):
    env = {**cli_environment(server.url, server.admin_token, server.trust, tmp_path / "home"), **changes}

    def run(*arguments, expect=0):
        start = time.monotonic()
        done = cli(*arguments, env=env)
        assert done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert server.admin_token not in done.stdout + done.stderr
        run.seconds = time.monotonic() - start
        return done

    return run


def test_push_and_pull_go_over_tls_that_the_clients_roots_confirm(serve, authority, model, tmp_path):
    server = serve(**authority.environment())
    assert server.url.startswith("https://127.0.0.1:")
    user = user_of(server, tmp_path, MODELREG_CA_FILE=str(authority.ca_file))

    user("push", model, "demo/m:v1")
    user("pull", "demo/m:v1", "--output", tmp_path / "out")

    assert (tmp_path / "out" / "weights").read_bytes() == (model / "weights").read_bytes()
    version = negotiated(server, authority)
    assert version in {"TLSv1.2", "TLSv1.3"}


def negotiated(server, authority):
    context = ssl.create_default_context(cafile=authority.ca_file)
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=20)
    connection.request("GET", "/health")
    version = connection.sock.version()
    connection.close()
    return version


REFUSED = {
    "no roots": ({}, False, "unable to get local issuer certificate"),
    "another name": ({"names": [x509.DNSName("registry.example.org")]}, True, "IP address mismatch"),
    "no name": ({"names": [x509.RFC822Name("a@example.org")]}, True, "IP address mismatch"),
    "expired": ({"days": -1}, True, "certificate has expired"),
}


@pytest.mark.parametrize(("certificate", "roots", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_certificate_that_does_not_hold_ends_with_exit_31_at_once(serve, authority, model, tmp_path, certificate, roots, reason):  # fmt: skip
    server = serve(**authority.environment(**certificate))
    user = user_of(server, tmp_path, **({"MODELREG_CA_FILE": str(authority.ca_file)} if roots else {}))

    done = user("push", model, "demo/m:v1", expect=31)

    assert "TLS certificate is not accepted" in done.stderr
    assert reason in done.stderr
    assert "MODELREG_CA_FILE" in done.stderr
    assert user.seconds < 8  # not asked again and again


def test_roots_of_somebody_else_do_not_confirm_the_server(serve, authority, model, tmp_path):
    (tmp_path / "other").mkdir()
    user = user_of(
        serve(**authority.environment()), tmp_path, MODELREG_CA_FILE=str(Authority(tmp_path / "other").ca_file)
    )
    assert "TLS certificate is not accepted" in user("push", model, "demo/m:v1", expect=31).stderr


def test_plain_http_to_another_machine_is_refused_before_a_token_is_sent(serve, model, tmp_path):
    user = user_of(serve(), tmp_path, MODELREG_REGISTRY="http://10.0.0.1:8470")
    assert "plain http is for loopback only" in user("push", model, "demo/m:v1", expect=1).stderr


def test_a_tls_server_does_not_answer_plain_http(serve, authority, tmp_path):
    server = serve(**authority.environment())
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.request("GET", "/health")
        connection.getresponse()
    connection.close()


# Settings that a server does not start with


def refused_start(tmp_path, **environment):
    """The sentence with which `serve` ends, before it opens anything."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELREG_")}
    env = {**kept, "MODELREG_DATA_DIR": str(tmp_path / "data"), **environment}
    done = subprocess.run([*SERVE, "--port", "0"], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()
    return done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "registry.example.org"])
def test_without_tls_or_a_proxy_only_loopback_is_listened_on(tmp_path, host):
    assert f"refusing to listen on {host} without TLS" in refused_start(tmp_path, MODELREG_HOST=host)


def test_with_tls_every_address_can_be_listened_on(serve, authority, tmp_path, model):
    server = serve(MODELREG_HOST="0.0.0.0", **authority.environment())
    user_of(server, tmp_path, MODELREG_CA_FILE=str(authority.ca_file))("push", model, "demo/m:v1")


@pytest.mark.parametrize("name", ["MODELREG_TLS_CERTIFICATE", "MODELREG_TLS_KEY"])
def test_half_of_a_tls_pair_is_refused(tmp_path, authority, name):
    assert "go together" in refused_start(tmp_path, **{name: authority.environment()[name]})


def test_tls_files_that_cannot_be_used_are_named(tmp_path, authority):
    good, key = authority.environment(), keys.make_key().private_key
    files = {"junk": b"junk", "other": pki.private_pem(key), "locked": pki.private_pem(key, b"password")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    wrong = [("MODELREG_TLS_CERTIFICATE", "absent"), ("MODELREG_TLS_CERTIFICATE", "junk")]
    wrong += [("MODELREG_TLS_KEY", name) for name in ("absent", *files)]
    for setting, name in wrong:
        sentence = refused_start(tmp_path, **{**good, setting: str(tmp_path / name)})
        assert str(tmp_path / name) in sentence
        assert "cannot serve TLS" in sentence


@pytest.mark.parametrize("value", ["*", "0.0.0.0/0", "::/0", "proxy.example.org", "10.0.0.1,*", "10.0.0.1;10.0.0.2", "10.0.0.0/33", "10.0.0.1/8", ""])  # fmt: skip
def test_proxies_are_addresses_and_never_everybody(tmp_path, value):
    sentence = refused_start(tmp_path, MODELREG_BEHIND_PROXY=value)
    assert "MODELREG_BEHIND_PROXY" in sentence
    assert "write the proxies' addresses" in sentence


# Forwarded headers


def address_in_the_record(server, forwarded):
    """Move a tag with these headers; the address that the event names."""
    headers = {"Authorization": f"Bearer {server.admin_token}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    body = json.dumps({"principal": "person:al", "scopes": ["pull:demo/*"], "expires_in_seconds": 900})
    connection.putrequest("POST", "/v1/tokens")
    for name, value in [*headers.items(), *forwarded, ("Content-Length", str(len(body)))]:
        connection.putheader(name, value)
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    assert answer.status in {200, 201}, answer.read()
    answer.read()
    connection.request("GET", "/v1/events?limit=1000", headers=headers)
    events = json.loads(connection.getresponse().read())["events"]
    connection.close()
    return max(events, key=lambda event: event["index"])["client_address"]


FORWARDED = ("X-Forwarded-For", "203.0.113.7")


def test_a_listed_proxy_says_who_the_client_is(serve):
    server = serve(MODELREG_BEHIND_PROXY="10.9.9.9, 127.0.0.1")
    assert address_in_the_record(server, [FORWARDED]) == "203.0.113.7"
    assert address_in_the_record(server, [("X-Forwarded-For", "2001:db8::7")]) == "2001:db8::7"
    assert address_in_the_record(server, []) == "127.0.0.1"
    # What a client wrote itself stands before what the proxy added.
    assert address_in_the_record(server, [("X-Forwarded-For", "198.51.100.1, 203.0.113.7")]) == "203.0.113.7"
    assert address_in_the_record(server, [("X-Forwarded-For", "198.51.100.1"), FORWARDED]) == "203.0.113.7"
    # A second listed proxy in between.
    assert address_in_the_record(server, [("X-Forwarded-For", "203.0.113.7, 10.9.9.9")]) == "203.0.113.7"


def test_what_is_no_address_is_not_recorded_as_one(serve):
    server = serve(MODELREG_BEHIND_PROXY="127.0.0.1")
    for junk in ("unknown", "x" * 300, "203.0.113.7 OR 1=1", "203.0.113"):
        assert address_in_the_record(server, [("X-Forwarded-For", junk)]) is None


@pytest.mark.parametrize("proxy", [{}, {"MODELREG_BEHIND_PROXY": "10.9.9.9"}, {"MODELREG_BEHIND_PROXY": "10.0.0.0/8"}])
def test_nobody_else_is_believed(serve, proxy):
    server = serve(**proxy)
    for forwarded in (
        [FORWARDED],
        [("X-Forwarded-For", "10.9.9.9")],
        [("Forwarded", "for=203.0.113.7")],
        [("X-Real-IP", "203.0.113.7")],
    ):
        assert address_in_the_record(server, forwarded) == "127.0.0.1"
