"""Evidence on every combination of database and store, from the command line, with the server gone when it is verified."""

import json

from support.registry import cli


def test_evidence_is_made_by_an_auditor_and_verified_where_there_is_no_registry(registry, model_folder, tmp_path):
    env = registry.environment(tmp_path / "home")
    assert cli("push", model_folder, "demo/m:v1", env=env).returncode == 0
    pulled = cli("pull", "demo/m:v1", "-o", tmp_path / "out", env=env)
    assert pulled.returncode == 0, pulled.stderr
    made = cli("evidence", "create", "demo/m:v1", "-o", tmp_path / "m.evidence.json", env=env)
    assert made.returncode == 0, made.stdout
    unpinned = tmp_path / "unpinned.toml"
    unpinned.write_text(registry.trust.unpinned_text)
    # With a policy that pins no log it is written all the same, and said so.
    again = cli("evidence", "create", "demo/m:v1", "-o", tmp_path / "n.json", "--trust-policy", unpinned, env=env)
    assert again.returncode == 32, again.stdout
    clean = tmp_path / "clean.toml"
    clean.write_text(registry.trust.policy_path.read_text())
    elsewhere = {
        **{name: value for name, value in env.items() if not name.startswith("MODELREG_")},
        "HOME": str(tmp_path / "elsewhere"),
        "MODELREG_TRUST_POLICY": str(clean),
    }
    verified = cli("evidence", "verify", tmp_path / "m.evidence.json", "--json", env=elsewhere)
    assert verified.returncode == 0, verified.stdout
    events = {json.loads(e["entry"])["type"] for e in json.loads((tmp_path / "m.evidence.json").read_bytes())["events"]}
    assert events >= {"artifact.published", "artifact.granted", "artifact.received", "tag.moved"}
