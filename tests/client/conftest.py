"""What the client's tests share: the real CLI without a process, in an environment of its own."""

import os

import pytest

from modelreg import cli, connections
from support.registry import look_at_output, running_registry


@pytest.fixture(autouse=True)
def one_try(monkeypatch):
    """A server that never answers well is asked once, not for half a minute."""
    monkeypatch.setattr(connections, "TRIES", 1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own and no setting from outside."""
    for name in list(os.environ):
        if name.startswith(("MODELREG_", "XDG_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture
def run(home, capsys, monkeypatch):
    """`modelreg …` in this process: the exit code, stdout and stderr."""

    def call(*arguments, **environment):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, str(value))
            try:
                code = cli.main([str(argument) for argument in arguments])
            except SystemExit as error:
                code = error.code
        out, err = capsys.readouterr()
        look_at_output(arguments, out, err)
        return code, out, err

    return call
