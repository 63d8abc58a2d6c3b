"""Wrong calls of the CLI: the exit code of the design, one line on stderr, never a traceback."""

import json
import shutil

import pytest

from support.registry import cli_environment

DIGEST = "sha256:" + "0" * 64
BAD = "a registry reference that is none"


@pytest.fixture
def environment(registry, home):
    """A working client, so that a row is wrong in one thing only."""
    made = cli_environment(registry.url, registry.token("person:clumsy"), registry.trust, home)
    return {name: value for name, value in made.items() if name.startswith("MODELREG_")}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_bytes(b"x")
    return folder


def broken(name, text):
    """A file in the working folder with these bytes."""
    return (name, text)


# name, arguments, exit code, what is changed in the environment; {} files are made in the working folder
ROWS = [
    ("no command", [], 2, {}),
    ("an unknown command", ["fly"], 2, {}),
    ("an unknown option", ["ls", "--fly"], 2, {}),
    ("push without arguments", ["push"], 2, {}),
    ("push of nothing", ["push", "nothing", "demo/m"], 11, {}),
    ("push of a file", ["push", "model/a", "demo/m"], 2, {}),
    ("push with a digest", ["push", "model", f"demo/m@{DIGEST}"], 2, {}),
    ("push to a malformed name", ["push", "model", "Demo/M"], 2, {}),
    ("push to no namespace", ["push", "model", "m"], 2, {}),
    ("push to three parts", ["push", "model", "a/b/c"], 2, {}),
    ("push with a malformed tag", ["push", "model", "demo/m:-x"], 2, {}),
    ("push with a malformed --tag", ["push", "model", "demo/m", "--tag", "a b"], 2, {}),
    ("push with too many tags", ["push", "model", "demo/m", *[f"--tag=t{n}" for n in range(20)]], 2, {}),
    ("push without a key", ["push", "model", "demo/m"], 1, {"MODELREG_KEY": ""}),
    ("push with no such key", ["push", "model", "demo/m", "--key", "nokey"], 1, {}),
    ("push with a folder as key", ["push", "model", "demo/m", "--key", "model"], 1, {}),
    ("push with garbage as key", ["push", "model", "demo/m", "--key", "model/a"], 1, {}),
    ("push with garbage as certificate", ["push", "model", "demo/m", "--certificate", "model/a"], 1, {}),
    ("push of an empty folder", ["push", "empty", "demo/m"], 20, {}),
    ("push for a repository of nobody", ["push", "model", "other/m"], 12, {}),
    ("pull without a reference", ["pull"], 2, {}),
    ("pull of nothing", ["pull", ""], 2, {}),
    ("pull of a malformed reference", ["pull", "demo/m:"], 2, {}),
    ("pull of a malformed digest", ["pull", "demo/m@sha256:x"], 2, {}),
    ("pull of a blake3", ["pull", "demo/m@blake3:" + "0" * 64], 2, {}),
    ("pull of control characters", ["pull", "demo/m\x1b[31m\n"], 2, {}),
    ("pull of what is absent", ["pull", "demo/absent"], 11, {}),
    ("pull of an absent digest", ["pull", f"demo/m@{DIGEST}"], 11, {}),
    ("pull without a policy", ["pull", "demo/m"], 1, {"MODELREG_TRUST_POLICY": "nowhere.toml"}),
    ("pull with a folder as policy", ["pull", "demo/m"], 1, {"MODELREG_TRUST_POLICY": "model"}),
    ("pull with garbage as policy", ["pull", "demo/m"], 1, {"MODELREG_TRUST_POLICY": "model/a"}),
    ("pull with a file as cache", ["pull", "demo/m", "--cache-dir", "model/a"], 1, {}),
    ("pull with a bad token", ["pull", "demo/m"], 30, {"MODELREG_TOKEN": "mrg_api_x"}),
    ("a token with a line end", ["whoami"], 30, {"MODELREG_TOKEN": "mrg\nX-Evil: 1"}),
    ("a token that is not ASCII", ["whoami"], 30, {"MODELREG_TOKEN": "mrg_ü€"}),
    ("no token", ["whoami"], 30, {"MODELREG_TOKEN": ""}),
    ("nobody listens", ["whoami"], 31, {"MODELREG_REGISTRY": "http://127.0.0.1:1"}),
    ("an address that is none", ["whoami"], 1, {"MODELREG_REGISTRY": "registry"}),
    ("an address with a bad port", ["whoami"], 1, {"MODELREG_REGISTRY": "http://127.0.0.1:port"}),
    ("an address with a port beyond ports", ["whoami"], 1, {"MODELREG_REGISTRY": "http://127.0.0.1:99999"}),
    ("plain http to elsewhere", ["whoami"], 1, {"MODELREG_REGISTRY": "http://models.example.org"}),
    ("a password in the address", ["whoami"], 1, {"MODELREG_REGISTRY": "https://:pw@models.example.org"}),
    ("a query in the address", ["whoami"], 1, {"MODELREG_REGISTRY": "https://models.example.org/?x"}),
    ("an address with spaces", ["whoami"], 1, {"MODELREG_REGISTRY": "https://models example.org"}),
    ("an address with half a bracket", ["whoami"], 1, {"MODELREG_REGISTRY": "http://[::1"}),
    ("a file address", ["whoami", "--registry", "file:///etc/passwd"], 1, {}),
    ("roots that are not there", ["whoami"], 1, {"MODELREG_CA_FILE": "nowhere.pem"}),
    ("roots that are garbage", ["whoami"], 1, {"MODELREG_CA_FILE": "model/a", "MODELREG_REGISTRY": "https://127.0.0.1:1"}),
    ("a home of nobody", ["whoami"], 1, {"MODELREG_CA_FILE": "~nosuchuser/x"}),
    ("a workload perhaps", ["whoami"], 1, {"MODELREG_WORKLOAD": "perhaps"}),
    ("credentials in a cloud", ["whoami"], 1, {"MODELREG_CREDENTIAL_STORE": "cloud"}),
    ("two ways to log in", ["login", "--device", "--workload"], 2, {}),
    ("connections of none", ["whoami"], 1, {"MODELREG_CONNECTIONS": "0"}),
    ("connections in words", ["whoami"], 1, {"MODELREG_CONNECTIONS": "many"}),
    ("connections in superscript", ["whoami"], 1, {"MODELREG_CONNECTIONS": "²"}),
    ("a host name with spaces", ["whoami"], 1, {"MODELREG_HOST_NAME": "a b"}),
    ("a folder as configuration", ["whoami"], 1, {"MODELREG_CONFIG": "model"}),
    ("a malformed configuration", ["whoami"], 1, {"MODELREG_CONFIG": "model/a"}),
    ("verify of what is neither", ["verify", "nothing-here"], 11, {}),
    ("verify of a folder without a repository", ["verify", "model"], 2, {}),
    ("verify of a folder with a malformed one", ["verify", "model", "--repository", "x"], 2, {}),
    ("verify of a folder without a signature", ["verify", "model", "--repository", "demo/m"], 10, {}),
    ("verify with garbage as signature", ["verify", "model", "--repository", "demo/m", "--signature", "garbage"], 13, {}),
    ("verify of what was never pulled", ["verify", f"demo/m@{DIGEST}"], 11, {}),
    ("launch without a command", ["launch", "demo/m"], 2, {}),
    ("launch without a placeholder", ["launch", "demo/m", "--", "true"], 2, {}),
    ("launch of what is absent", ["launch", "demo/absent", "--", "true", "{model}"], 11, {}),
    ("ls of a malformed name", ["ls", "x"], 2, {}),
    ("ls of what is absent", ["ls", "demo/absent"], 11, {}),
    ("show of what is absent", ["show", "demo/absent"], 11, {}),
    ("show of a bare digest", ["show", DIGEST], 2, {}),
    ("tag with a malformed new one", ["tag", f"demo/m@{DIGEST}", "-x"], 2, {}),
    ("tag of what is absent", ["tag", f"demo/m@{DIGEST}", "new"], 11, {}),
    ("log of a malformed name", ["log", "x"], 2, {}),
    ("log of an unknown type", ["log", "--type", "artifact.flown"], 2, {}),
    ("log with a limit of none", ["log", "--limit", "0"], 2, {}),
    ("log with a limit in words", ["log", "--limit", "ten"], 2, {}),
    ("token for nobody", ["token", "create", "", "--scope", "pull:a/b"], 2, {}),
    ("token for a name with spaces", ["token", "create", "a b", "--scope", "pull:a/b"], 2, {}),
    ("token for a host", ["token", "create", "host:x", "--scope", "pull:a/b"], 2, {}),
    ("access for nobody", ["access", "grant", "alice", "pull", "demo/*"], 2, {}),
    ("access to what is no verb", ["access", "grant", "person:a", "fly", "demo/*"], 2, {}),
    ("access to what is no pattern", ["access", "grant", "person:a", "pull", "demo"], 2, {}),
    ("access to a pattern in capitals", ["access", "grant", "person:a", "pull", "Demo/*"], 2, {}),
    ("access from a class of machine there is not", ["access", "grant", "person:a", "pull", "a/b", "--host-class", "x"], 2, {}),
    ("access for a while", ["access", "grant", "person:a", "pull", "a/b", "--until", "soon"], 2, {}),
    ("access revoked that is none", ["access", "revoke", "x"], 2, {}),
    ("an explanation for nobody", ["access", "explain", "x", "pull", "a/b"], 2, {}),
    ("a repository set to nothing", ["repository", "set", "demo/m"], 2, {}),
    ("a repository set that is not there", ["repository", "set", "demo/none", "--sensitive"], 11, {}),
    ("a host with a bad name", ["host", "invite", "GPU 1", "--class", "server", "--zone", "z"], 2, {}),
    ("a host without a zone", ["host", "invite", "gpu", "--class", "server"], 2, {}),
    ("a host with a bad label", ["host", "invite", "gpu", "--class", "server", "--zone", "z", "--label", "x"], 2, {}),
    ("a host that is none", ["host", "show", "nobody"], 11, {}),
    ("a host to end that is none", ["host", "revoke", "nobody"], 11, {}),
    ("token with a malformed scope", ["token", "create", "person:x", "--scope", "fly:a/b"], 2, {}),
    ("token with an empty scope", ["token", "create", "person:x", "--scope", ""], 2, {}),
    ("token without end", ["token", "create", "person:x", "--scope", "pull:a/b", "--expires", "400d"], 2, {}),
    ("token for no time", ["token", "create", "person:x", "--scope", "pull:a/b", "--expires", "0m"], 2, {}),
    ("token for a while", ["token", "create", "person:x", "--scope", "pull:a/b", "--expires", "a while"], 2, {}),
    ("token to revoke that is none", ["token", "revoke", "x"], 2, {}),
    ("token to revoke that is absent", ["token", "revoke", "0" * 36], 11, {}),
    ("login without a terminal", ["login"], 2, {}),
    ("completion of an unknown shell", ["completion", "fish-and-chips"], 2, {}),
    ("config without show", ["config"], 2, {}),
    ("trust issue without a PKI", ["trust", "issue", "model", "email:a@b.example"], 1, {}),
    ("trust init into a PKI", ["trust", "init", "pki", "--repository", "a/*", "--identity", "email:*@b.example"], 1, {}),
    ("trust issue for days that were", ["trust", "issue", "pki", "email:a@b.example", "--days", "-1"], 2, {}),
    ("trust issue for days without end", ["trust", "issue", "pki", "email:a@b.example", "--days", "99999999"], 2, {}),
    ("trust issue for no kind of identity", ["trust", "issue", "pki", "somebody"], 2, {}),
    ("trust show without a policy", ["trust", "show"], 1, {"MODELREG_TRUST_POLICY": "nowhere.toml"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    from modelreg import cli

    folder = tmp_path_factory.mktemp("pki") / "pki"
    assert cli.main(["trust", "init", str(folder), "--repository", "a/*", "--identity", "email:*@b.example", "-q"]) == 0
    return folder


def test_the_table_is_long():
    assert len(ROWS) >= 40
    assert len({name for name, *_ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("name", "arguments", "code", "changes"), ROWS, ids=[row[0] for row in ROWS])
def test_a_wrong_call_ends_with_its_code_and_one_line(
    run, environment, model, pki, tmp_path, monkeypatch, name, arguments, code, changes
):
    import io

    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage").write_text("garbage")
    shutil.copytree(pki, tmp_path / "pki")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    found, out, err = run(*arguments, **{**environment, **changes})

    assert found == code, err
    assert "Traceback" not in out + err
    assert "(a bug" not in err
    assert environment["MODELREG_TOKEN"] not in out + err
    lines = err.strip().splitlines()
    if code == 2 and lines[0].startswith("usage:"):
        assert "error:" in err
    else:
        assert len(lines) == 1, err
        assert lines[0].startswith("modelreg: ")
    assert all(char.isprintable() or char == "\n" for char in err)


@pytest.mark.parametrize("arguments", [["pull", "demo/absent"], ["push", "nothing", "demo/m"], ["show", "x"]])
def test_with_json_a_failure_is_an_object_on_stderr(run, environment, arguments):
    code, out, err = run(*arguments, "--json", **environment)
    body = json.loads(err)
    assert body["exit_code"] == code != 0
    assert body["code"]
    assert out == ""
