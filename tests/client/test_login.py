"""`modelreg login` for people, against a real provider and a real registry."""

import json
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import urllib3

from modelreg import connections, credentials, login, oidc, providers
from modelreg.api import Api
from modelreg.errors import TokenRefused, Unauthenticated, Unreachable, Untrusted
from modelreg.settings import Settings
from support import oidc as provider_support
from support.issuer import as_json, loopback_issuer, segment
from support.oidc import CLIENT, walk
from support.registry import cli_environment, look_at_output, running_registry


def identities(url, client=CLIENT, name="company", scopes='["openid", "offline_access", "email"]'):
    return f"""
[[issuers]]
name = "{name}"
url = "{url}"
kind = "person"
client_id = "{client}"
algorithms = ["RS256"]
scopes = {scopes}

[[issuers.rules]]
claims = {{ email = "*@acme.example", email_verified = true }}
principal = "person:{{email}}"
scopes = ["pull:demo/*"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(oidc_provider, folder):
    (folder / "identities.toml").write_text(identities(oidc_provider.url))
    with running_registry(folder, identities=folder / "identities.toml") as running:
        yield running


@pytest.fixture(autouse=True)
def as_configured(oidc_provider, folder):
    yield
    (folder / "identities.toml").write_text(identities(oidc_provider.url))


@pytest.fixture
def browser(monkeypatch):
    """The user's browser: whoever calls `webbrowser.open` has somebody walk through the provider's pages."""
    opened = []

    def install(user="alice", **more):
        def open_browser(url):
            opened.append(url)
            threading.Thread(target=walk, args=(url, user), kwargs=more, daemon=True).start()
            return True

        monkeypatch.setattr("webbrowser.open", open_browser)
        return opened

    return install


@pytest.fixture
def file(home):
    return home / ".config" / "modelreg" / "credentials.json"


def stored(file, registry):
    return json.loads(file.read_text())[registry.url]


def change(file, registry, **members):
    value = json.loads(file.read_text())
    value[registry.url] |= members
    file.write_text(json.dumps(value))


def ended(file, registry):
    """The session has ended; its token would be refused, so whatever works has renewed it."""
    time.sleep(1.1)  # this provider's id tokens of one second are one token, and good for one exchange
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    change(file, registry, expires_at=past, token="mrg_session_ended")


@pytest.fixture
def logged_in(run, registry, browser, file):
    browser()
    assert run("login", "--registry", registry.url)[0] == 0
    return {"MODELREG_REGISTRY": registry.url}


def test_a_person_logs_in_with_the_browser(run, registry, browser, file):
    opened = browser()
    code, out, err = run("login", "--registry", registry.url)

    assert code == 0, err
    assert "person:alice@acme.example" in out
    asked = provider_support.parameters(opened[0])
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"].startswith("http://127.0.0.1:")
    assert {"state", "nonce", "code_challenge"} <= asked.keys()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = stored(file, registry)
    assert (kept["kind"], kept["issuer_name"], kept["client_id"], kept["subject"]) == (
        "person",
        "company",
        CLIENT,
        "alice",
    )
    assert kept["token"].startswith("mrg_session_")
    assert not any("eyJ" in str(value) for value in kept.values())  # the id token is used up and gone
    for secret in (kept["token"], kept["refresh_token"]):
        assert secret not in out + err
    code, out, _ = run("whoami", "--json", "--registry", registry.url)
    who = json.loads(out)
    assert (who["principal"], who["scopes"]) == ("person:alice@acme.example", ["pull:demo/*"])
    assert datetime.fromisoformat(who["expires_at"]) - datetime.now(UTC) <= timedelta(hours=1)
    event = [event for event in registry.whole_log() if event.type == "token.exchanged"][-1]
    assert event.identity == {
        "issuer": asked_issuer(registry), "subject": "alice",
        "claims": {"email": "alice@acme.example", "email_verified": True},
    }  # fmt: skip


def asked_issuer(registry):
    return Api(registry.url, None, connections.make_pool(None, 1)).login_options().issuers[0].issuer


def real_login(registry, home, *flags):
    env = cli_environment(registry.url, "", registry.trust, home)
    return subprocess.Popen(
        [sys.executable, "-m", "modelreg.cli", "login", *flags],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_without_a_browser_the_address_is_printed(registry, home, file):
    with real_login(registry, home, "--no-browser") as process:
        address = None
        while address is None:
            address = provider_support.address_in(process.stderr.readline())
        assert "You can close this window" in walk(address, "carol")
        out, err = process.communicate(timeout=60)
        look_at_output(["login"], out, err)
    assert process.returncode == 0, err
    assert "person:carol@acme.example" in out


def test_the_device_flow_needs_no_browser_on_this_host(registry, home, file):
    with real_login(registry, home, "--device", "-q") as process:
        words = process.stderr.readline().split()
        address, user_code = words[3], words[-1]
        assert "Success" in walk(address, "dave", user_code=user_code)
        out, err = process.communicate(timeout=60)
        look_at_output(["login"], out, err)
    assert process.returncode == 0, err
    assert stored(file, registry)["subject"] == "dave"


def test_a_device_login_that_is_denied_ends_with_30(registry, home, file):
    with real_login(registry, home, "--device") as process:
        words = process.stderr.readline().split()
        walk(words[3], "dave", user_code=words[-1], deny=True)
        out, err = process.communicate(timeout=60)
        look_at_output(["login"], out, err)
    assert process.returncode == 30
    assert "access_denied" in err
    assert not file.exists()


def test_a_login_denied_in_the_browser_ends_with_30(run, registry, browser, file):
    browser(deny=True)
    code, _out, err = run("login", "--registry", registry.url)
    assert code == 30
    assert "access_denied" in err
    assert not file.exists()


# --- renewal


def test_a_session_that_ended_is_renewed_by_itself(run, registry, logged_in, file):
    before = stored(file, registry)
    ended(file, registry)

    code, out, err = run("whoami", **logged_in)

    assert code == 0, err
    assert "person:alice@acme.example" in out
    after = stored(file, registry)
    assert after["token"] != before["token"]
    assert after["refresh_token"] != before["refresh_token"]  # this provider rotates them
    assert {name: after[name] for name in ("issuer", "client_id", "subject")} == {
        name: before[name] for name in ("issuer", "client_id", "subject")
    }


def test_processes_that_renew_at_once_use_the_refresh_token_once(registry, logged_in, home, file):
    """A rotated refresh token that is used twice ends the login at the provider."""
    ended(file, registry)
    env = cli_environment(registry.url, "", registry.trust, home)

    def whoami(_n):
        return subprocess.run(
            [sys.executable, "-m", "modelreg.cli", "whoami"], env=env, capture_output=True, text=True, timeout=60
        )  # fmt: skip

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(whoami, range(4)))

    assert [(process.returncode, process.stderr) for process in done] == [(0, "")] * 4
    ended(file, registry)
    assert whoami(0).returncode == 0


def test_a_running_command_renews_before_the_end(registry, logged_in, home, file):
    settings = Settings.load({"registry": registry.url})
    record = credentials.read(settings.credentials, registry.url)
    token = login.SessionToken(settings, record)
    first = token()
    assert first == record.token
    time.sleep(1.1)  # see `ended`
    later = login.SessionToken(settings, record, clock=lambda: record.expires_at - timedelta(seconds=30))
    assert later() != first


def test_a_command_does_not_bring_a_login_back_that_was_ended_meanwhile(run, registry, logged_in, file):
    settings = Settings.load({"registry": registry.url})
    record = credentials.read(settings.credentials, registry.url)
    token = login.SessionToken(settings, record, clock=lambda: record.expires_at)
    assert run("logout", **logged_in)[0] == 0
    with pytest.raises(Unauthenticated):
        token()
    assert registry.url not in json.loads(file.read_text())


def test_without_a_refresh_token_the_login_just_ends(run, registry, folder, oidc_provider, browser, file):
    (folder / "identities.toml").write_text(identities(oidc_provider.url, scopes='["openid", "email"]'))
    browser()
    assert run("login", "--registry", registry.url)[0] == 0
    assert "refresh_token" not in stored(file, registry)
    ended(file, registry)
    code, _out, err = run("whoami", "--registry", registry.url)
    assert code == 30
    assert "modelreg login" in err


def test_when_the_provider_has_ended_the_login_the_user_is_told_to_log_in(run, registry, logged_in, file):
    ended(file, registry)
    change(file, registry, refresh_token="used-up")
    code, _out, err = run("whoami", **logged_in)
    assert code == 30
    assert "invalid_grant" in err
    assert "modelreg login" in err
    assert "used-up" not in err


def test_provider_down_is_31_and_a_session_that_still_holds_is_used(run, tmp_path, browser, file, monkeypatch):
    reason = provider_support.why_not()
    assert reason is None
    with provider_support.oidc_provider() as provider:
        (tmp_path / "identities.toml").write_text(identities(provider.url))
        with running_registry(tmp_path / "r", identities=tmp_path / "identities.toml") as registry:
            browser()
            address = {"MODELREG_REGISTRY": registry.url}
            assert run("login", **address)[0] == 0
            provider.stop()

            soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
            change(file, registry, expires_at=soon)
            assert run("whoami", **address)[0] == 0
            ended(file, registry)
            code, _out, err = run("whoami", **address)
            assert code == 31
            assert provider.url in err
            assert run("login", **address)[0] == 31

            # Started again it has other keys and remembers nobody; a login works at once.
            provider.start()
            assert run("whoami", **address)[0] == 30
            assert run("login", **address)[0] == 0
            assert run("whoami", **address)[0] == 0


# --- whom a registry may name


def test_a_registry_cannot_move_the_login_to_another_provider(run, registry, logged_in, folder, file, browser):
    opened = browser()
    opened.clear()
    before = file.read_text()
    for changed in (identities("https://evil.example"), identities(asked_issuer(registry), client="other-client")):
        (folder / "identities.toml").write_text(changed)
        code, _out, err = run("login", **logged_in)
        assert code == 13
        assert "modelreg logout" in err
    assert opened == []
    assert file.read_text() == before


def test_renewal_asks_the_pinned_provider_whatever_the_registry_says_now(run, registry, logged_in, folder, file):
    ended(file, registry)
    (folder / "identities.toml").write_text(identities("https://evil.example"))
    code, _out, err = run("whoami", **logged_in)
    assert code == 30  # renewed at the old provider, whose tokens this registry no longer takes
    assert "evil" not in err


def test_with_several_providers_one_is_chosen_by_name(run, registry, folder, oidc_provider, browser):
    both = identities(oidc_provider.url) + identities(oidc_provider.url, client="other-client", name="partners")
    (folder / "identities.toml").write_text(both)
    browser()
    address = {"MODELREG_REGISTRY": registry.url}
    code, _out, err = run("login", **address)
    assert code == 1
    assert "company, partners" in err
    assert run("login", "--issuer", "nobody", **address)[0] == 1
    assert run("login", "--issuer", "partners", **address)[0] == 0


def test_a_registry_on_https_cannot_name_a_provider_on_this_machine(monkeypatch):
    settings = Settings.load({"registry": "https://models.example"}, {})

    class Answers:
        def login_options(self):
            from modelreg import wire

            option = wire.LoginOption(name="x", issuer="http://127.0.0.1:1", client_id="c", scopes=["openid"])
            return wire.LoginOptions(issuers=[option])

    monkeypatch.setattr(login, "anonymous", lambda _settings: Answers())
    from modelreg.errors import Misconfigured

    with pytest.raises(Misconfigured, match="only https"):
        login.choose(settings, None)


def test_logout_forgets_and_ends_the_refresh_token_at_the_provider(run, registry, logged_in, file, oidc_provider):
    refresh_token = stored(file, registry)["refresh_token"]
    code, out, _err = run("logout", **logged_in)
    assert code == 0
    assert "ended the login" in out
    assert registry.url not in json.loads(file.read_text())
    provider = oidc.open_provider(oidc_provider.url, CLIENT, ("openid",), providers.tls_context(None))
    with pytest.raises(Unauthenticated, match="invalid_grant"):
        oidc.refresh(provider, refresh_token, None)


# --- tokens of the real provider that are not for this registry


@pytest.fixture
def id_token(oidc_provider):
    def get(client=CLIENT):
        provider = oidc.open_provider(oidc_provider.url, client, ("openid", "email"), providers.tls_context(None))

        def open_browser(url):
            threading.Thread(target=walk, args=(url, "erin"), daemon=True).start()

        return oidc.by_browser(provider, lambda _text: None, open_browser).id_token

    return get


def exchange(registry, token):
    from modelreg import wire

    return Api(registry.url, None, connections.make_pool(None, 1)).exchange(wire.ExchangeRequest(token=token))


def test_an_id_token_for_another_client_is_refused(registry, id_token):
    with pytest.raises(TokenRefused) as caught:
        exchange(registry, id_token("other-client"))
    assert caught.value.facts["reason"] == "audience"


def test_an_id_token_of_another_issuer_is_refused(registry, id_token, folder, oidc_provider):
    token = id_token()
    (folder / "identities.toml").write_text(identities(oidc_provider.url.replace("127.0.0.1", "localhost")))
    with pytest.raises(TokenRefused) as caught:
        exchange(registry, token)
    assert caught.value.facts["reason"] == "issuer"


def test_an_access_token_is_no_id_token(registry, oidc_provider, folder):
    (folder / "identities.toml").write_text(identities(oidc_provider.url, client=provider_support.AUDIENCE))
    with pytest.raises(TokenRefused) as caught:
        exchange(registry, oidc_provider.client_credentials())
    assert caught.value.facts["reason"] == "header"


def test_a_service_exchanges_its_access_token_as_a_workload(registry, oidc_provider, folder):
    (folder / "identities.toml").write_text(f"""
[[issuers]]
name = "services"
url = "{oidc_provider.url}"
kind = "workload"
audience = "{provider_support.AUDIENCE}"
[[issuers.rules]]
claims = {{ client_id = "worker" }}
principal = "workload:service/{{client_id}}"
""")
    assert exchange(registry, oidc_provider.client_credentials()).principal == "workload:service/worker"


# --- a provider that is not honest


@pytest.fixture
def hostile():
    with loopback_issuer() as issuer:
        issuer.answers["/.well-known/openid-configuration"] = lambda: as_json(
            {"issuer": issuer.url, "authorization_endpoint": f"{issuer.url}/auth", "token_endpoint": f"{issuer.url}/token",
             "device_authorization_endpoint": f"{issuer.url}/device"}
        )  # fmt: skip
        yield issuer


def code_flow(issuer, id_token, **redirected):
    """Log in at a provider that answers at once with this id token; `nonce` in it becomes the one that was asked for."""
    provider = oidc.open_provider(issuer.url, CLIENT, ("openid",), providers.tls_context(None))

    def open_browser(url):
        asked = provider_support.parameters(url)
        claims = {name: asked["nonce"] if value == "NONCE" else value for name, value in id_token.items()}
        token = f"{segment({'alg': 'RS256'})}.{segment(claims)}.{segment(b'unchecked')}"
        issuer.answers["/token"] = lambda: as_json({"id_token": token})
        answer = {"code": "c", "state": asked["state"], **redirected}
        query = "&".join(f"{name}={value}" for name, value in answer.items())
        urllib.request.urlopen(f"{asked['redirect_uri']}?{query}", timeout=10).close()

    return oidc.by_browser(provider, lambda _text: None, open_browser)


def test_the_answer_must_belong_to_this_login(hostile):
    good = {"iss": hostile.url, "aud": CLIENT, "sub": "x", "nonce": "NONCE"}
    assert code_flow(hostile, good).subject == "x"
    for changed in ({"nonce": "another"}, {"nonce": None}, {"iss": "https://other.example"}, {"aud": "other"},
                    {"aud": [CLIENT, "other"]}, {"sub": ""}, {"sub": 7}):  # fmt: skip
        with pytest.raises(Untrusted):
            code_flow(hostile, {**good, **changed})
    with pytest.raises(Untrusted):
        code_flow(hostile, good, iss="https://other.example")


def test_only_the_redirect_with_our_state_ends_the_wait(hostile):
    provider = oidc.open_provider(hostile.url, CLIENT, ("openid",), providers.tls_context(None))

    def open_browser(url):
        asked = provider_support.parameters(url)
        token = f"{segment({})}.{segment({'iss': hostile.url, 'aud': CLIENT, 'sub': 'x', 'nonce': asked['nonce']})}.x"
        hostile.answers["/token"] = lambda: as_json({"id_token": token})
        redirect, state = asked["redirect_uri"], asked["state"]
        pool = urllib3.PoolManager(retries=False)
        for query in ("", "?", "?code=evil", "?code=evil&state=", "?code=evil&state=wrong", f"?state={state}x",
                      f"?state={state}&state={state}", "?" + "&".join(f"a{n}=1" for n in range(50))):  # fmt: skip
            assert pool.request("GET", redirect + query).status == 404, query
        assert pool.request("GET", redirect.replace("/callback", f"/?state={state}&code=evil")).status == 404
        assert pool.request("GET", f"{redirect}?state={state}&code=good").status == 200
        assert pool.request("GET", f"{redirect}?state={state}&code=late").status == 404

    assert oidc.by_browser(provider, lambda _text: None, open_browser).subject == "x"


def test_nobody_coming_is_told_and_nothing_hangs(hostile, monkeypatch):
    monkeypatch.setattr(oidc, "BROWSER_SECONDS", 0.2)
    provider = oidc.open_provider(hostile.url, CLIENT, ("openid",), providers.tls_context(None))
    with pytest.raises(Unauthenticated, match="in time"):
        oidc.by_browser(provider, lambda _text: None, None)


def device_answer(hostile, **members):
    answer = {
        "device_code": "d",
        "user_code": "ABCD",
        "verification_uri": f"{hostile.url}/device-page",
        "expires_in": 60,
    }
    hostile.answers["/device"] = lambda: as_json({**answer, **members})


def test_the_device_flow_waits_as_it_is_told_and_gives_up(hostile):
    provider = oidc.open_provider(hostile.url, CLIENT, ("openid",), providers.tls_context(None))
    slept = []
    errors = iter(["authorization_pending", "slow_down"] + ["authorization_pending"] * 1000)
    hostile.answers["/token"] = lambda: (400, {}, json.dumps({"error": next(errors)}).encode())
    device_answer(hostile)
    with pytest.raises(Unauthenticated, match="in time"):
        oidc.by_device(provider, lambda _text: None, slept.append)
    assert slept == [5, 5, 10, 10, 10, 10, 10]
    # A provider cannot make us ask in a loop without rest, or for days.
    slept.clear()
    device_answer(hostile, interval=0.0001, expires_in=10**5)
    errors = iter(["authorization_pending"] * 10_000)
    with pytest.raises(Unauthenticated):
        oidc.by_device(provider, lambda _text: None, slept.append)
    assert min(slept) >= 1
    assert sum(slept) <= oidc.MAX_DEVICE_SECONDS + 1


def test_a_device_page_that_may_not_be_asked_is_not_shown(hostile):
    provider = oidc.open_provider(hostile.url, CLIENT, ("openid",), providers.tls_context(None))
    for address in ("http://evil.example/", "javascript:alert(1)", 7, None, "https://a.example/\x1b[2J"):
        device_answer(hostile, verification_uri=address)
        with pytest.raises(Unreachable):
            oidc.by_device(provider, pytest.fail, lambda _seconds: None)


def test_a_provider_without_s256_is_refused(hostile):
    from modelreg.errors import Misconfigured

    provider = oidc.Provider(
        hostile.url, CLIENT, ("openid",), {"code_challenge_methods_supported": ["plain"]}, providers.tls_context(None)
    )
    with pytest.raises(Misconfigured, match="S256"):
        oidc.by_browser(provider, lambda _text: None, None)


def test_a_renewal_that_becomes_somebody_else_is_refused(hostile):
    provider = oidc.open_provider(hostile.url, CLIENT, ("openid",), providers.tls_context(None))
    token = f"{segment({})}.{segment({'iss': hostile.url, 'aud': CLIENT, 'sub': 'mallory'})}.x"
    hostile.answers["/token"] = lambda: as_json({"id_token": token})
    assert oidc.refresh(provider, "r", "mallory").subject == "mallory"
    with pytest.raises(Untrusted, match="another subject"):
        oidc.refresh(provider, "r", "alice")


# --- where it is kept


def test_the_keyring_keeps_the_login_and_no_file_does(run, registry, browser, file):
    import keyring
    import keyring.backend

    class Memory(keyring.backend.KeyringBackend):
        priority = 1
        kept = {}

        def get_password(self, service, username):
            return self.kept.get((service, username))

        def set_password(self, service, username, password):
            self.kept[service, username] = password

        def delete_password(self, service, username):
            del self.kept[service, username]

    before = keyring.get_keyring()
    keyring.set_keyring(Memory())
    try:
        where = {"MODELREG_REGISTRY": registry.url, "MODELREG_CREDENTIAL_STORE": "keyring"}
        browser()
        assert run("login", **where)[0] == 0
        assert not file.exists()
        kept = json.loads(Memory.kept["modelreg", registry.url])
        assert kept["subject"] == "alice"
        time.sleep(1.1)  # see `ended`
        kept["expires_at"] = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
        Memory.kept["modelreg", registry.url] = json.dumps(kept)
        assert run("whoami", **where)[0] == 0
        assert json.loads(Memory.kept["modelreg", registry.url])["token"] != kept["token"]
        assert run("logout", **where)[0] == 0
        assert Memory.kept == {}
        assert run("whoami", **where)[0] == 30
        Memory.kept["modelreg", registry.url] = "{"
        assert run("whoami", **where)[0] == 1
    finally:
        keyring.set_keyring(before)


@pytest.mark.parametrize(
    "value",
    [{}, {"token": 1}, {"token": "t", "unknown": "x"}, {"token": "t", "kind": "god"}, {"token": "t", "scopes": "x"},
     {"token": "t", "scopes": [1]}, {"token": "t", "expires_at": "soon"}, {"token": "t", "expires_at": "2026-01-01T00:00:00"},
     {"token": "t", "refresh_token": None}, [], None, 7],
)  # fmt: skip
def test_a_malformed_login_is_refused(tmp_path, value):
    from modelreg.errors import Misconfigured

    path = tmp_path / "credentials.json"
    path.write_text(json.dumps({"https://a.example": value}))
    path.chmod(0o600)
    with pytest.raises(Misconfigured):
        credentials.read(path, "https://a.example")


def test_a_login_is_read_as_it_was_written_and_shows_no_secret(tmp_path):
    path = tmp_path / "credentials.json"
    made = credentials.Login(
        token="mrg_session_secret", kind="person", expires_at=datetime.now(UTC), issuer_name="n", issuer="https://i",
        client_id="c", scopes=("openid",), subject="s", refresh_token="very-secret",
    )  # fmt: skip
    credentials.write(path, "https://a.example", made)
    assert credentials.read(path, "https://a.example") == made
    assert "secret" not in repr(made)
    credentials.store(path, "https://b.example", "mrg_api_x")
    assert json.loads(path.read_text())["https://b.example"] == "mrg_api_x"  # as earlier versions wrote it
