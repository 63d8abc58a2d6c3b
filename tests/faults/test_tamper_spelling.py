"""Beside the random matrix: every byte of a bundle changed once, its other spellings, and the local store.

A bundle has spellings that mean the same (spaces, `keyid`, the ECDSA twin): each is refused, or gives the same manifest
and signer. Run with `-s` to see the counts.
"""

import base64
import json
import random
from collections import Counter
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from modelreg import hashing, manifests, pull, push, verification
from modelreg.cache import Cache
from modelreg.errors import ModelregError, Untrusted
from modelreg.references import parse_reference
from support.keys import P256_ORDER
from support.registry import QUIET, running_registry


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A registry with two artifacts of one repository; the first is in a local store."""
    folder = tmp_path_factory.mktemp("spelling")
    dice = random.Random(2)
    with running_registry(folder / "registry") as registry:
        for name in ("other", "m"):
            model = folder / name
            (model / "sub").mkdir(parents=True)
            (model / "weights.bin").write_bytes(dice.randbytes(2 * manifests.CHUNK_BYTES + 99))
            (model / "sub" / "a.txt").write_bytes(dice.randbytes(3_000))
            (model / "sub" / "b.txt").write_bytes(dice.randbytes(3_000))
            push.push(
                registry.api(), model, parse_reference("demo/m"), registry.trust.signer,
                tags=[name], connections_at_once=2, meter=QUIET,
            )  # fmt: skip
        yield registry, folder, _pull(registry, folder, "m"), _pull(registry, folder, "other")


def _pull(registry, folder, tag):
    return pull.pull(
        registry.api(), Cache(folder / "cache"), registry.trust.policy, parse_reference(f"demo/m:{tag}"),
        purpose="pull", host="test", now=datetime.now(UTC), connections_at_once=2, meter=QUIET, state_dir=folder / "state",
    )  # fmt: skip


def outcome(registry, right, raw_bundle, raw_manifest=None):
    """`refused`, `harmless` (the same is verified) or `undetected`."""
    try:
        verified = verification.verify(
            raw_bundle, raw_manifest or right.manifest.raw, policy=registry.trust.policy, repository="demo/m",
            now=right.verified_at, artifact=right.manifest.digest,
        )  # fmt: skip
    except ModelregError:
        return "refused"
    same = (verified.manifest, verified.signer, verified.repository) == (right.manifest, right.signer, "demo/m")
    return "harmless" if same else "undetected"


def test_every_byte_of_a_bundle_changed_once_is_refused_or_means_the_same(published):
    registry, _folder, pulled, _other = published
    raw, dice, counts, harmless = pulled.verified.raw_bundle, random.Random(3), Counter(), []
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << dice.randrange(8)
        found = outcome(registry, pulled.verified, bytes(changed))
        counts[found] += 1
        if found == "harmless":
            harmless.append((at, raw[at - 12 : at + 4], bytes(changed[at - 12 : at + 4])))

    print("every byte of the bundle", dict(counts), harmless)
    assert counts["undetected"] == 0
    assert counts["refused"] > 0.99 * len(raw)


def test_other_spellings_of_a_bundle_are_refused_or_mean_the_same(published):
    registry, _folder, pulled, _other = published
    raw = pulled.verified.raw_bundle
    envelope = json.loads(raw)["dsseEnvelope"]
    text = envelope["signatures"][0]["sig"]
    r, s = decode_dss_signature(base64.b64decode(text))

    def changed(**members):
        document = json.loads(raw)
        document["dsseEnvelope"]["signatures"][0] |= members
        return json.dumps(document).encode()

    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    loose_bits = body[:-1] + alphabet[alphabet.index(body[-1]) ^ 1] + "=" * (len(text) - len(body))
    spellings = {
        "spaces": json.dumps(json.loads(raw), indent=2).encode(),
        "space behind": raw + b" \n",
        "keyid": changed(keyid="somebody"),
        "ECDSA twin": changed(sig=base64.b64encode(encode_dss_signature(r, P256_ORDER - s)).decode()),
        "line break in base64": changed(sig=text[:20] + "\n" + text[20:]),
        "space in base64": changed(sig=text[:20] + " " + text[20:]),
        "no padding": changed(sig=body),
        "more padding": changed(sig=text + "="),
        "urlsafe base64": changed(sig=text.replace("+", "-").replace("/", "_") + "-"),
        "loose bits": changed(sig=loose_bits),
        "bytes behind the signature": changed(sig=base64.b64encode(base64.b64decode(text) + b"\0").decode()),
        "escaped": raw.replace(b"dsseEnvelope", b"\\u0064sseEnvelope"),
        "byte order mark": b"\xef\xbb\xbf" + raw,
        "member twice": raw.replace(b'"dsseEnvelope":', b'"dsseEnvelope":{},"dsseEnvelope":', 1),
        "member more": raw.replace(b'"dsseEnvelope":', b'"x":1,"dsseEnvelope":', 1),
    }
    found = {name: outcome(registry, pulled.verified, spelling) for name, spelling in spellings.items()}

    print("spellings", found)
    assert "undetected" not in found.values()
    assert found["spaces"] == found["keyid"] == found["ECDSA twin"] == "harmless"
    # Without padding is another text only where there was some, which depends on the signature.
    for name in ("line break in base64", "space in base64", "member twice", "member more"):
        assert found[name] == "refused", name


def test_a_good_bundle_or_manifest_of_another_artifact_is_refused(published):
    registry, _folder, pulled, other = published
    mine, theirs = pulled.verified, other.verified

    assert outcome(registry, mine, theirs.raw_bundle) == "refused"
    assert outcome(registry, mine, mine.raw_bundle, theirs.manifest.raw) == "refused"
    assert outcome(registry, mine, theirs.raw_bundle, theirs.manifest.raw) == "refused"


def test_a_changed_local_store_is_refused_set_aside_and_fetched_anew(published):
    registry, folder, pulled, _other = published
    cache, dice, counts = Cache(folder / "cache"), random.Random(5), Counter()
    files = pulled.verified.manifest.files
    for _ in range(90):
        entry = dice.choice(files)
        target = pulled.folder / entry.path
        kind = dice.choice(["flip", "cut", "add", "zero", "missing", "extra", "swap"])
        target.chmod(0o600)
        at = dice.randrange(entry.size)
        match kind:
            case "flip" | "zero":
                with target.open("r+b") as file:
                    old = (file.seek(at) and file.read(40)) or target.read_bytes()[:40]
                    file.seek(at)
                    file.write(bytes([old[0] ^ 1 << dice.randrange(8)]) if kind == "flip" else bytes(len(old)))
            case "cut":
                with target.open("r+b") as file:
                    file.truncate(at)
            case "add":
                with target.open("ab") as file:
                    file.write(b"\0")
            case "missing":
                target.unlink()
            case "extra":
                (pulled.folder / "sub" / "code.py").write_text("import os")
            case "swap":
                one, two = pulled.folder / "sub" / "a.txt", pulled.folder / "sub" / "b.txt"
                one.rename(pulled.folder / "c")
                two.rename(one)
                (pulled.folder / "c").rename(two)
        with pytest.raises(Untrusted):
            cache.check(pulled.verified)
        assert not pulled.folder.exists()  # nothing is left for a loader
        again = _pull(registry, folder, "m")
        assert again.folder == pulled.folder
        for file in files:
            assert hashing.blake3((again.folder / file.path).read_bytes()).hexdigest() == file.blake3
        for rejected in (folder / "cache" / "rejected").iterdir():
            rejected.unlink()
        counts[kind] += 1

    print("local store", dict(counts))
    assert sum(counts.values()) == 90
