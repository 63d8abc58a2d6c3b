"""Settings in layers, credentials that nobody else reads, and a trust policy that cannot be rolled back."""

import json
import stat

import pytest

from modelreg import connections, credentials, pinning, problem_details
from modelreg.errors import Misconfigured, ModelregError, StaleTrust, Unauthenticated, all_errors
from modelreg.settings import Settings
from support import keys
from support.policies import key_authority, policy_toml


def shown(out):
    return {row["setting"]: (row["value"], row.get("origin")) for row in json.loads(out)["settings"]}


def test_each_layer_goes_before_the_next_and_says_so(run, home):
    file = home / ".config" / "modelreg" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('registry = "https://file.example"\nconnections = 3\nhost_name = "from-file"\n')

    code, out, _ = run(
        "config", "show", "--origin", "--json", "--registry", "https://flag.example/",
        MODELREG_REGISTRY="https://environment.example", MODELREG_CONNECTIONS=5, MODELREG_HOST_NAME="",
    )  # fmt: skip

    assert code == 0
    rows = shown(out)
    assert rows["registry"] == ("https://flag.example", "flag")
    assert rows["connections"] == (5, "environment")
    assert rows["host_name"] == ("from-file", f"file {file}")
    assert rows["cache_dir"] == (str(home / ".cache" / "modelreg"), "default")
    assert rows["key"] == (None, "default")


def test_without_origin_only_values_are_shown(run):
    code, out, _ = run("config", "show")
    assert code == 0
    assert "registry" in out
    assert "default" not in out


def test_no_token_is_among_the_settings(run):
    _code, out, err = run("config", "show", "--origin", MODELREG_TOKEN="mrg_api_secret")
    assert "mrg_api_secret" not in out + err


def test_the_folders_are_those_of_xdg(tmp_path):
    settings = Settings.load(
        environment={"XDG_CONFIG_HOME": str(tmp_path / "c"), "XDG_CACHE_HOME": str(tmp_path / "k"), "HOME": "/home/x"}
    )
    assert settings.credentials == tmp_path / "c" / "modelreg" / "credentials.json"
    assert settings.cache_dir == tmp_path / "k" / "modelreg"
    assert str(settings.state_dir) == "/home/x/.local/state/modelreg"


@pytest.mark.parametrize(
    "text", ["unknown = 1", "registry = 7", 'connections = "x"', "connections = true", "connections = 1.5", "[registry]\nx = 1",
             'key = ["a"]', "key = 1", "registry = []", "=", "\x00", 'host_name = "a b"', 'registry = "http://example.org"'],
)  # fmt: skip
def test_a_malformed_file_is_refused_with_its_place(tmp_path, text):
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(Misconfigured) as refused:
        Settings.load(environment={"MODELREG_CONFIG": str(file)})
    assert str(file) in refused.value.detail


def test_a_configuration_file_that_was_named_must_be_there(tmp_path):
    with pytest.raises(Misconfigured, match="MODELREG_CONFIG"):
        Settings.load(environment={"MODELREG_CONFIG": str(tmp_path / "none.toml")})


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8470", "http://localhost", "http://[::1]:1", "https://a.example/x"]
)
def test_https_and_loopback_are_good_addresses(address):
    assert Settings.load({"registry": address + "/"}, {}).registry == address


@pytest.mark.parametrize(
    "address",
    ["http://example.org", "http://127.0.0.1.example.org", "http://127.0.0.2.nip.io", "http://localhost.example.org",
     "http://0.0.0.0", "http://10.0.0.1", "HTTP://example.org", "ftp://example.org", "example.org", "", "https://",
     "https://user@example.org", "https://user:pw@example.org", "https://@example.org", "https://example.org?x=1",
     "https://example.org/?", "https://example.org#x", "https://exa mple.org", "https://example.org:x", "https://[::1",
     "https://example.org:70000", "https://exämple.org", "https://example.org\\@evil.example", "http://127.0.0.1@evil.example"],
)  # fmt: skip
def test_any_other_address_is_refused(address):
    with pytest.raises(Misconfigured):
        Settings.load({"registry": address}, {})


def test_a_token_is_stored_for_its_registry_and_nobody_else_can_read_it(tmp_path, home):
    path = tmp_path / "c" / "credentials.json"
    credentials.store(path, "https://a.example", "mrg_a")
    credentials.store(path, "https://b.example", "mrg_b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert credentials.find(path, "https://a.example") == "mrg_a"
    with pytest.raises(Unauthenticated):
        credentials.find(path, "https://c.example")
    assert credentials.forget(path, "https://a.example") is True
    assert credentials.forget(path, "https://a.example") is False
    assert credentials.find(path, "https://b.example") == "mrg_b"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o666, 0o620, 0o602, 0o601])
def test_credentials_that_others_can_reach_are_refused(tmp_path, home, mode):
    path = tmp_path / "credentials.json"
    credentials.store(path, "https://a.example", "mrg_a")
    path.chmod(mode)
    for use in (
        lambda: credentials.find(path, "https://a.example"),
        lambda: credentials.store(path, "https://a.example", "mrg_b"),
        lambda: credentials.forget(path, "https://a.example"),
    ):
        with pytest.raises(Misconfigured, match="chmod 600"):
            use()


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": 1}', "{", "\x00", '{"a": ["x"]}'])
def test_malformed_credentials_are_refused(tmp_path, home, text):
    path = tmp_path / "credentials.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Misconfigured):
        credentials.find(path, "https://a.example")


def test_login_keeps_a_token_that_works_and_no_other(run, registry, home, monkeypatch):
    import io

    file = home / ".config" / "modelreg" / "credentials.json"
    address = {"MODELREG_REGISTRY": registry.url}
    monkeypatch.setattr("sys.stdin", io.StringIO("mrg_api_nonsense\n"))
    assert run("login", "--token-stdin", **address)[0] == 30
    assert not file.exists()

    token = registry.token("person:al")
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    code, out, err = run("login", "--token-stdin", **address)
    assert code == 0
    assert "person:al" in out
    assert token not in out + err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("whoami", **address)[0] == 0
    assert run("logout", **address)[0] == 0
    assert run("whoami", **address)[0] == 30


@pytest.fixture(scope="module")
def signer():
    return keys.make_key()


@pytest.fixture
def pinned(tmp_path, signer):
    """Writes a policy of a version and loads it as the CLI does."""
    path = tmp_path / "trust.toml"

    def load(version, identities=("key:ops-1",), where=path):
        authority = key_authority("ops", {"ops-1": signer})
        where.write_text(policy_toml(authority, allow={"ops": list(identities)}, version=version))
        return pinning.load_policy(where, tmp_path / "state")

    return load


def test_a_newer_policy_is_taken_and_an_older_one_refused_with_exit_14(pinned):
    pinned(1)
    assert pinned(3).version == 3
    assert pinned(3).version == 3
    for older in (1, 2):
        with pytest.raises(StaleTrust, match="has seen 3") as refused:
            pinned(older)
        assert refused.value.exit_code == 14
    assert pinned(4).version == 4


def test_a_changed_policy_of_the_same_version_is_refused_with_exit_14(pinned):
    pinned(2)
    with pytest.raises(StaleTrust, match="still version 2") as refused:
        pinned(2, ("key:ops-1", "key:evil"))
    assert refused.value.exit_code == 14
    assert pinned(2).version == 2


def test_another_policy_file_has_a_memory_of_its_own(pinned, tmp_path):
    pinned(5)
    assert pinned(1, where=tmp_path / "other.toml").version == 1
    with pytest.raises(StaleTrust):
        pinned(4)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"X": 1}', '{"X": ["1", 2]}', '{"X": []}', '{"X": [1, 2, 3]}', "\x00"]
)
def test_a_damaged_memory_is_said_and_not_forgotten(pinned, tmp_path, text):
    pinned(2)
    memory = tmp_path / "state" / "trust-seen.json"
    memory.write_text(text.replace("X", str((tmp_path / "trust.toml").resolve())))
    with pytest.raises(Misconfigured, match="remove it to forget"):
        pinned(1)


@pytest.mark.parametrize(
    "kind", [kind for kind in all_errors() if kind.__module__ == "modelreg.errors"], ids=lambda k: k.code
)
def test_an_error_comes_back_from_the_wire_as_itself(kind):
    facts = {"path": "a/b", "chunk": 3, "problems": [{"x": None}], "limit": 1.5}
    error = kind("what, where, what next: ünïcode", **facts)
    body = json.dumps(problem_details.problem_of(error, "urn:modelreg:request:1"))

    back = problem_details.error_of(problem_details.Problem.model_validate_json(body))

    assert (type(back), back.detail, back.facts) == (kind, error.detail, facts)
    assert back.exit_code == kind.exit_code
    assert json.loads(body)["status"] == kind.status


def test_facts_never_replace_what_the_problem_says_itself():
    error = ModelregError("the truth", type="urn:x", title="x", status=200, instance="x")
    body = problem_details.problem_of(error, "urn:modelreg:request:1")
    assert (body["type"], body["status"], body["instance"]) == (
        "urn:modelreg:problem:error",
        500,
        "urn:modelreg:request:1",
    )


def test_a_code_from_the_future_is_an_error_all_the_same():
    error = problem_details.error_of(
        problem_details.Problem(type="urn:modelreg:problem:from-the-future", detail="new", self=1, code="x")
    )
    assert type(error) is ModelregError
    assert error.exit_code == 1
    assert error.facts == {"self": 1, "code": "x"}


def test_waits_grow_and_end(monkeypatch):
    monkeypatch.setattr(connections, "TRIES", 6)
    slept, calls = [], []

    def action():
        calls.append(1)
        raise connections.Transient("later", wait_seconds=1000.0 if len(calls) == 5 else None)

    with pytest.raises(connections.Transient):
        connections.with_retries(action, slept.append)
    assert len(calls) == 6
    assert len(slept) == 5
    assert slept[:4] == sorted(slept[:4])
    assert slept[4] == 20.0
