"""Acceptance 5 with the real CLI on every database and store: classes come down, and an adapter has one base."""

import uuid

from support.registry import cli

POLICY_REFUSED = 22


def test_a_finetune_is_as_sensitive_as_its_base_and_an_adapter_launches_on_its_own_base_only(registry, tmp_path):
    env = registry.environment(tmp_path / "home")

    def run(*arguments, expect=0):
        done = cli(*arguments, env=env)
        assert done.returncode == expect, (arguments, done.stdout, done.stderr)
        return done

    def folder(*names):
        root = tmp_path / uuid.uuid4().hex
        root.mkdir()
        for name in names:
            (root / name).write_bytes(uuid.uuid4().bytes)
        return root

    # a. A fine-tune of a restricted base is refused as internal.
    run("push", folder("w.bin"), "demo/base:prod", "--class", "restricted")
    tuned = folder("w.bin")
    refused = run("push", tuned, "demo/tuned", "--base", "demo/base:prod", "--class", "internal", expect=POLICY_REFUSED)
    assert "finetune of demo/base@sha256:" in refused.stderr
    assert "(restricted)" in refused.stderr
    run("show", "demo/tuned", expect=11)
    run("push", tuned, "demo/tuned", "--base", "demo/base:prod", "--class", "restricted")
    assert "class       restricted" in run("show", "demo/tuned").stdout
    assert "[attested]" in run("lineage", "demo/tuned", "--up", expect=40).stdout
    # b. An adapter refuses another base, and to be alone.
    run(
        "push", folder("adapter_config.json", "a.bin"), "demo/lora", "--base", "demo/base:prod", "--relation", "adapter"
    )
    words = ("--", "printf", "%s", "{model}{adapter}")
    run("launch", "demo/base:prod", "--adapter", "demo/lora", *words)
    refused = run("launch", "demo/tuned", "--adapter", "demo/lora", *words, expect=POLICY_REFUSED)
    assert "is an adapter of demo/base@" in refused.stderr
    run("launch", "demo/lora", "--", "printf", "{model}", expect=POLICY_REFUSED)
    loads = [event for event in registry.whole_log() if event.type == "artifact.loaded"]
    assert [event.repository for event in loads] == ["demo/base", "demo/lora"]
