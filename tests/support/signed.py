"""One small signed artifact and what it takes to verify it; tests change one thing at a time."""

import base64
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from modelreg import bundles, manifests, signing, statements, verification
from modelreg.digests import Digest
from modelreg.manifests import FileEntry
from modelreg.trust import TrustPolicy
from support import keys

REPOSITORY = "acme/llama"

MANIFEST = manifests.build(
    [
        FileEntry("config.json", 2, "a" * 64, "b" * 64),
        FileEntry("model.safetensors", 5, "c" * 64, "d" * 64),
        FileEntry("tokenizer/vocab.txt", 0, "e" * 64, "f" * 64),
    ]
)
PAYLOAD = statements.build("llama", MANIFEST)


def sign(signer: signing.Signer, payload: bytes = PAYLOAD) -> bytes:
    return signing.sign(payload, signer)


def verify(raw_bundle: bytes, policy: TrustPolicy, **changes: Any) -> verification.VerifiedManifest:
    arguments: dict[str, Any] = {
        "policy": policy,
        "repository": REPOSITORY,
        "now": keys.NOW,
        "artifact": MANIFEST.digest,
        **changes,
    }
    return verification.verify(raw_bundle, arguments.pop("raw_manifest", MANIFEST.raw), **arguments)


def changed_payload(change: Callable[[dict[str, Any]], Any], payload: bytes = PAYLOAD) -> bytes:
    """The statement after a change to its members, not signed yet."""
    members = json.loads(payload)
    change(members)
    return json.dumps(members).encode()


def changed_bundle(raw: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    members = json.loads(raw)
    change(members)
    return json.dumps(members).encode()


def replaced(raw: bytes, **members: Any) -> bytes:
    """The bundle with other members of `bundles.Bundle`."""
    return bundles.serialise(dataclasses.replace(bundles.parse(raw), **members))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def digest(letter: str) -> Digest:
    return Digest("sha256", letter * 64)
