"""Evidence on every combination of database and store, from the command line, with the server gone when it is verified."""

import json

from modelreg_server import log_keys
from support.logged import without_log
from support.registry import cli


def test_evidence_is_made_by_an_auditor_and_verified_where_there_is_no_registry(registry, model_folder, tmp_path):
    env = registry.environment(tmp_path / "home")
    assert cli("push", model_folder, "demo/m:v1", env=env).returncode == 0
    pulled = cli("pull", "demo/m:v1", "-o", tmp_path / "out", env=env)
    assert pulled.returncode == 0, pulled.stderr
    made = cli("evidence", "create", "demo/m:v1", "-o", tmp_path / "m.evidence.json", env=env)
    assert made.returncode == 0, made.stdout
    vkey = log_keys.verifier_of(registry.parts.database.log_signer)
    clean = tmp_path / "clean.toml"
    clean.write_text(
        without_log(registry.trust.policy_path.read_text()) + f'\n[log]\norigin = "{vkey.name}"\nkeys = ["{vkey}"]\n'
    )
    elsewhere = {
        **{name: value for name, value in env.items() if not name.startswith("MODELREG_")},
        "HOME": str(tmp_path / "elsewhere"),
        "MODELREG_TRUST_POLICY": str(clean),
    }
    verified = cli("evidence", "verify", tmp_path / "m.evidence.json", "--json", env=elsewhere)
    assert verified.returncode == 0, verified.stdout
    events = {json.loads(e["entry"])["type"] for e in json.loads((tmp_path / "m.evidence.json").read_bytes())["events"]}
    assert events >= {"artifact.published", "artifact.granted", "artifact.received", "tag.moved"}
