"""An adapter is good for one base: which one, its signed provenance says, and no file name or flag.

Adapters (LoRA and the like) are small and look alike; on another base than the one they were trained for, the same weights
make another model, which nobody has looked at.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from modelreg import attestations, provenance
from modelreg.api import Api
from modelreg.attestations import Kind, VerifiedAttestation
from modelreg.cache import Cache
from modelreg.errors import ModelregError, NotFound, PolicyRefused
from modelreg.provenance import Derivation, Input
from modelreg.trust import TrustPolicy
from modelreg.verification import VerifiedManifest

CONFIGURATION = "adapter_config.json"
_RELATION = "adapter"


def fetch(
    api: Api, cache: Cache, verified: VerifiedManifest, policy: TrustPolicy, now: datetime
) -> list[VerifiedAttestation]:
    """The provenance of an artifact in the local store, as far as it holds; kept there for when nobody answers.

    Raises:
        Unreachable: the registry does not answer.
    """
    try:
        rows = api.attestations(verified.repository, verified.manifest.digest, Kind.PROVENANCE.value).attestations
    except NotFound:  # a registry from before there were statements
        rows = []
    found = _holding((row.bundle.encode() for row in rows), verified, policy, now)
    cache.keep_provenance(verified.manifest.digest, [said.raw_bundle for said in found])
    return found


def kept(cache: Cache, verified: VerifiedManifest, policy: TrustPolicy, now: datetime) -> list[VerifiedAttestation]:
    """What `fetch` kept, verified again."""
    return _holding(cache.kept_provenance(verified.manifest.digest), verified, policy, now)


def require_whole(verified: VerifiedManifest, said: Sequence[VerifiedAttestation]) -> None:
    """Refuse an adapter where a model is asked for.

    Raises:
        PolicyRefused: its files or its provenance say that it is one.
    """
    bases = _bases(said)
    if not bases and all(entry.path != CONFIGURATION for entry in verified.manifest.files):
        return
    base = next((f"{base.name}@{base.digest}" for base in bases), "BASE")
    raise PolicyRefused(
        f"{verified.repository}@{verified.manifest.digest} is an adapter and no model; start its base with it: "
        f"modelreg launch {base} --adapter {verified.repository}@{verified.manifest.digest} -- CMD … {{model}} … {{adapter}}",
        artifact=str(verified.manifest.digest),
        bases=[str(base.digest) for base in bases],
    )


def require_base(adapter: VerifiedManifest, base: VerifiedManifest, said: Sequence[VerifiedAttestation]) -> None:
    """Refuse an adapter that is not for this base.

    Args:
        said: the adapter's provenance.

    Raises:
        PolicyRefused: its provenance names another base, or nobody attests one.
    """
    bases = _bases(said)
    if any(one.digest == base.manifest.digest for one in bases):
        return
    name, asked = f"{adapter.repository}@{adapter.manifest.digest}", f"{base.repository}@{base.manifest.digest}"
    facts = {"artifact": str(adapter.manifest.digest), "base": str(base.manifest.digest)}
    if not bases:
        raise PolicyRefused(
            f"nobody attests which base {name} is an adapter of; whoever trained it pushes it again with "
            f"--relation adapter --base {asked}",
            **facts,
            bases=[],
        )
    names = ", ".join(f"{one.name}@{one.digest}" for one in bases)
    raise PolicyRefused(
        f"{name} is an adapter of {names}, not of {asked}; launch that base, or another adapter",
        **facts,
        bases=[str(one.digest) for one in bases],
    )


def _bases(said: Iterable[VerifiedAttestation]) -> list[Input]:
    """What an artifact is an adapter of, each once."""
    found: dict[str, Input] = {}
    for one in said:
        made = provenance.read(one.attestation.predicate)
        if isinstance(made, Derivation) and made.relation == _RELATION:
            for parent in made.parents:
                found.setdefault(str(parent.digest), parent)
    return list(found.values())


def _holding(
    raw_bundles: Iterable[bytes], verified: VerifiedManifest, policy: TrustPolicy, now: datetime
) -> list[VerifiedAttestation]:
    """Those of the statements that hold now for this artifact; the others are as good as none."""
    found = []
    for raw_bundle in raw_bundles:
        try:
            said = attestations.verify(
                raw_bundle,
                policy=policy,
                repository=verified.repository,
                now=now,
                subject=verified.manifest.digest,
                kind=Kind.PROVENANCE,
            )
            provenance.read(said.attestation.predicate)
        except ModelregError:
            continue
        found.append(said)
    return found
