"""What a runtime gets from `launch`: the verified folder and an environment without our secrets."""

from modelreg import launch
from support.registry import cli


def test_a_runtime_gets_none_of_the_secrets_that_modelreg_was_given(registry, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"w")
    env = registry.environment(tmp_path / "home")
    assert cli("push", tmp_path / "model", "demo/m", env=env).returncode == 0
    secret = {name: f"canary-{name}" for name in launch.SECRETS if name != "MODELREG_TOKEN"}

    launched = cli("launch", "demo/m", "--", "env", "MODEL={model}", env={**env, **secret, "OPENAI_API_KEY": "theirs"})

    assert launched.returncode == 0, launched.stderr
    given = dict(line.split("=", 1) for line in launched.stdout.splitlines() if "=" in line)
    assert given.keys().isdisjoint(launch.SECRETS)
    assert "MODELREG_TOKEN" in launch.SECRETS
    assert given["OPENAI_API_KEY"] == "theirs"
    assert given["MODELREG_MODEL"] == given["MODEL"]
    assert given["HF_HUB_OFFLINE"] == "1"
