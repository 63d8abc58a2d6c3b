"""How much of the G7's "SBOM for AI - Minimum Elements" (12 May 2026) a verified chain fills, cluster by cluster.

Fifty elements in seven clusters, by the names of the paper. An element counts as filled when the documents state it from a
verified statement or the registry's record; for those that never are, the report says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelreg.bom_values import facts_of
from modelreg.provenance_chain import Chain

PROFILE = "g7-2026"
SCHEMA = "modelreg/bom-coverage/v1"
_Look = Callable[[Chain], bool]


@dataclass(frozen=True)
class Element:
    """One element: whether it is filled, and else why not."""

    name: str
    filled: bool
    why_not: str | None


@dataclass(frozen=True)
class Cluster:
    """A cluster of the paper with its elements."""

    name: str
    elements: tuple[Element, ...]

    @property
    def filled(self) -> int:
        """How many are."""
        return sum(element.filled for element in self.elements)


def coverage(chain: Chain) -> tuple[Cluster, ...]:
    """The report for one artifact."""
    return tuple(
        Cluster(
            cluster,
            tuple(
                Element(name, look(chain), None) if look(chain) else Element(name, filled=False, why_not=why)
                for name, (look, why) in elements.items()
            ),
        )
        for cluster, elements in _CLUSTERS.items()
    )


def _always(_chain: Chain) -> bool:
    return True


def _never(_chain: Chain) -> bool:
    return False


def _published(chain: Chain) -> bool:
    return chain.root.collected is not None and chain.root.collected.published_at is not None


def _lineage(chain: Chain) -> bool:
    return bool(chain.root.derivations)


def _licence(chain: Chain) -> bool:
    return bool(chain.root.licences)


def _datasets(chain: Chain) -> bool:
    return bool(chain.datasets)


def _every_dataset(member: str) -> _Look:
    def look(chain: Chain) -> bool:
        return bool(chain.datasets) and all(getattr(facts_of(one), member) for one in chain.datasets.values())

    return look


_DOCUMENT = (_always, "")
_NO_SYSTEM = "the document describes a model, not the system it serves in"
_CARD = "the model card is not read into the record"
_DATA = "no dataset is recorded, or one has no statement that says it"
_CLUSTERS: Mapping[str, Mapping[str, tuple[_Look, str]]] = {
    "Metadata": {
        "SBOM author": _DOCUMENT,
        "SBOM version": _DOCUMENT,
        "SBOM data format name": _DOCUMENT,
        "SBOM data format version": _DOCUMENT,
        "SBOM author signature": (_never, "the document itself is not signed"),
        "SBOM tool name": _DOCUMENT,
        "SBOM tool version": _DOCUMENT,
        "SBOM generation context": _DOCUMENT,
        "SBOM timestamp": _DOCUMENT,
        "SBOM dependency relationship": _DOCUMENT,
    },
    "System Level Properties": dict.fromkeys(
        (
            *("System name", "System components", "System producer", "System version", "System timestamp"),
            *("System data flow", "System data usage", "System input/output properties", "Intended application area"),
        ),
        (_never, _NO_SYSTEM),
    ),
    "Models": {
        "Model name": _DOCUMENT,
        "Model identifier": _DOCUMENT,
        "Model version": _DOCUMENT,
        "Model timestamp": (_published, "not recorded"),
        "Model producer": (_published, "not recorded"),
        "Model description": (_never, _CARD),
        "Model hash value": _DOCUMENT,
        "Model hash algorithm": _DOCUMENT,
        "Model properties": (_never, _CARD),
        "Model input/output properties": (_never, _CARD),
        "Model training properties": (_lineage, "no verified derivation says how it was made"),
        "Model license": (_licence, "no verified statement names one"),
        "Model external references": (_always, ""),
    },
    "Dataset Properties": {
        "Dataset name": (_datasets, _DATA),
        "Dataset description": (_never, "dataset statements hold none"),
        "Dataset content": (_never, "dataset statements hold none"),
        "Dataset identifier": (_datasets, _DATA),
        "Dataset hash": (_datasets, _DATA),
        "Dataset provenance": (_every_dataset("source"), _DATA),
        "Dataset statistical properties": (_never, "dataset statements hold none"),
        "Dataset sensitivity": (_every_dataset("classification"), _DATA),
        "Dataset dependency relationship": (_datasets, _DATA),
        "Dataset license": (_never, "dataset statements hold none"),
    },
    "Key Performance Indicators": dict.fromkeys(
        ("Security metrics", "Operational performance KPIs"), (_never, "evaluations are not in the record")
    ),
    "Infrastructure": dict.fromkeys(
        ("Infrastructure software", "Infrastructure hardware"),
        (_never, "runtimes are not in the record of an artifact"),
    ),
    "Security Properties": {
        "Security controls": (
            lambda chain: bool(chain.root.signatures) and bool(chain.root.statements),
            "there is a signature, and no verified statement beside it",
        ),
        "Security compliance": (_never, "not in the record"),
        "Cybersecurity policy information": (_never, "not in the record"),
        "Vulnerability referencing": (_never, "advisories are not in the record of an artifact"),
    },
}
