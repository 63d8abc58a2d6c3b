"""docs/tutorial/hub-to-production.md as it stands there: five commands from a hub on loopback to a runtime with a permit."""

import json
import re
import struct
from pathlib import Path

import pytest

from modelreg import pki, promotion_template
from support import models
from support.hub import running_hub
from support.registry import cli, running_registry

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "hub-to-production.md"
LINE = re.compile(r"^(?P<who>al|bo|cy)\$ modelreg (?P<rest>.+)$", re.MULTILINE)
PEOPLE = {
    "al": ("push:*/*", "promote:*/*", "pull:*/*", "tag:*/*", "read-metadata:*/*", "audit:*/*"),
    "bo": ("approve:*/*", "read-metadata:*/*"),
    "cy": ("approve:*/*", "read-metadata:*/*"),
}
ATTESTS = """
[[rules]]
repositories = ["acme/*"]
attests = ["approval"]
allow = [{authority = "pki", identities = ["email:*@demo.example"]}]

[revocations]"""
TENSORS = {"embeddings.weight": ("F32", [2, 2], struct.pack("<4f", 0, 1, 2, 3))}
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# MiniLM\n",
    "config.json": b'{"model_type": "bert", "hidden_size": 2}',
    "model.safetensors": models.safetensors(TENSORS),
    "tokenizer.json": b'{"version": "1.0", "model": {"type": "WordPiece", "vocab": {"a": 0}}}',
}


def commands():
    """What the page says to type, by whom."""
    found = [(match["who"], match["rest"].split()) for match in LINE.finditer(PAGE.read_text())]
    assert [words[0] for _, words in found] == [
        "import", "approve", "approve", "promote", "launch", "provenance", "bom", "inventory",
    ]  # fmt: skip
    return found


@pytest.fixture
def world(tmp_path):
    def trust(trusted):
        return trusted.policy_path.read_text().replace("demo/*", "acme/*").replace("[revocations]", ATTESTS, 1)

    rules = tmp_path / "promotion.toml"
    rules.write_text(promotion_template.POLICY)
    settings = {"gate": "refuse", "promotion_policy": rules}
    with running_hub() as hub, running_registry(tmp_path / "registry", policy=trust, **settings) as registry:
        yield hub, registry


@pytest.fixture
def person(world, tmp_path):
    hub, registry = world
    trusted = registry.trust

    def call(name, words, expect=0, also=()):
        token = registry.token(f"person:{name}", *PEOPLE[name], *also)
        env = registry.environment(tmp_path / name, token)
        key, chain = tmp_path / f"{name}.key.pem", tmp_path / f"{name}.chain.pem"
        if not key.exists():
            leaf = pki.issue_signer(f"email:{name}@demo.example", trusted.intermediate, trusted.made_at, 90)
            key.write_bytes(pki.private_pem(leaf.private_key))
            certificates = (leaf.certificate, trusted.intermediate.certificate)
            chain.write_bytes(b"".join(pki.certificate_pem(one) for one in certificates))
        env |= {"MODELREG_KEY": str(key), "MODELREG_CERTIFICATE": str(chain)}
        if words[0] == "import":  # the mirror is on loopback here
            words = [*words, "--from-endpoint", hub.url, "--allow-http", "--allow-private-address"]
        done = cli(*words, env=env, cwd=tmp_path)
        assert done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return call


def test_the_five_commands_of_the_page_bring_a_model_from_the_hub_to_production(world, person, tmp_path):
    hub, _ = world
    hub.add("acme-mirror/minilm", FILES)
    said = {}
    for who, words in commands():
        if words[0] == "promote":  # nothing serves before it is allowed to
            assert "is not promoted to production" in person("al", commands()[4][1], expect=22)
        said[words[0]] = person(who, words)
    assert "published acme/minilm@sha256:" in said["import"]
    assert said["promote"].count(" pass ") == 12
    assert "verdict verified" in said["promote"]
    assert "permit: verified, for production until " in said["launch"]
    assert FILES["config.json"].decode() in said["launch"]
    assert "incomplete" not in said["provenance"]
    assert "import      from hf://acme-mirror/minilm at " in said["provenance"]
    document = json.loads((tmp_path / "minilm.cdx.json").read_text())
    assert document["metadata"]["component"]["type"] == "machine-learning-model"
    assert "acme/minilm" in said["inventory"]
    assert "production" in said["inventory"]


def test_a_model_that_carries_code_does_not_get_past_the_first_command(world, person):
    hub, registry = world
    hub.add("acme-mirror/minilm", {**FILES, "modeling_evil.py": b"import os\nos.system('id')\n"})
    assert "modeling_evil.py" in person("al", commands()[0][1], expect=22)
    assert not [event for event in registry.whole_log() if event.type == "artifact.published"]


def test_who_brought_it_in_cannot_approve_it(world, person):
    hub, _ = world
    hub.add("acme-mirror/minilm", FILES)
    typed = commands()
    person("al", typed[0][1])
    person("al", typed[1][1], also=("approve:*/*",))
    person("bo", typed[1][1])
    assert "published it" in person("al", typed[3][1], expect=22)
