"""The page on trust distribution says what the code does."""

import re
from pathlib import Path

from modelreg import distribution, revocations, trust_metadata

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "spec" / "trust-distribution.md").read_text()


def test_the_list_on_the_page_is_a_list_but_for_its_digest():
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    parsed = revocations.parse(text.replace("sha256:…", "sha256:" + "0" * 64).encode())

    assert (parsed.version, len(parsed.revocations.signers)) == (7, 1)


def test_the_limits_on_the_page_are_those_of_the_code():
    rows = dict(re.findall(r"(?m)^\| ([a-z ,]+) \| (\d+)", PAGE.partition("## Limits")[2]))
    metadata = trust_metadata.MAX_METADATA_BYTES

    assert {name: int(value) for name, value in rows.items()} == {
        "root, targets metadata": metadata["root"],
        "snapshot metadata": metadata["snapshot"],
        "timestamp metadata": metadata["timestamp"],
        "each file": trust_metadata.MAX_TARGET_BYTES,
        "root rotations in one refresh": trust_metadata.MAX_ROOT_ROTATIONS,
        "keys in a root": trust_metadata.MAX_KEYS,
        "version of any metadata": trust_metadata.MAX_VERSION,
        "one refresh": int(distribution.REFRESH_SECONDS),
    }
    assert metadata["root"] == metadata["targets"]


def test_the_names_on_the_page_are_those_that_are_served():
    for name in ("timestamp.json", "7.root.json", "7.snapshot.json", "7.targets.json"):
        assert trust_metadata.matches(trust_metadata.METADATA_NAME, name)
        assert name.replace("7", "N") in PAGE
    for name in trust_metadata.TARGETS:
        assert trust_metadata.matches(trust_metadata.TARGET_NAME, f"{'0' * 64}.{name}")
        assert f"<sha256>.{name}" in PAGE
