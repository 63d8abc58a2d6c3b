"""CycloneDX ML-BOM 1.6 and 1.7 of a verified chain, as JSON (https://cyclonedx.org/docs/1.7/json/).

Written by hand: the Python library drops `modelCard` and `data` when it reads a document back (11.12). Tests hold what is
written here against the official schemas, strictly.

    metadata.component   the artifact: hashes, licence, signatures as evidence, every file as a component of its own
    components           its ancestors (machine-learning-model) and datasets (data), each with its own pedigree
    compositions         whether files and lineage are known to be complete
"""

from datetime import datetime
from typing import Any, Literal

from modelreg import bom_values
from modelreg.attestations import Kind
from modelreg.bom_values import facts_of, iri, page_of, spdx_id, statement_text
from modelreg.provenance_chain import Chain, DatasetNode, Node, words_of

SpecVersion = Literal["1.6", "1.7"]
SPEC_VERSIONS: tuple[SpecVersion, ...] = ("1.6", "1.7")


def build(chain: Chain, at: datetime, spec_version: SpecVersion = "1.6") -> dict[str, Any]:
    """The document, as JSON values in a fixed order.

    Args:
        chain: verified by this process.
        at: the document's time; the same chain and time give the same document.
        spec_version: of CycloneDX.

    Raises:
        Invalid: nothing verified is known of the artifact.
    """
    bom_values.require_root(chain)
    root = chain.root
    ancestors = [node for node in chain.artifacts.values() if node is not root]
    datasets = list(chain.datasets.values())
    components = [_model(chain, node) for node in ancestors] + [_dataset(one) for one in datasets]
    document: dict[str, Any] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{spec_version}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": spec_version,
        "serialNumber": bom_values.serial_of(chain, at, f"cyclonedx-{spec_version}").urn,
        "version": 1,
        "metadata": {
            "timestamp": bom_values.time_text(at),
            "lifecycles": [{"phase": "post-build"}],
            "tools": {
                "components": [
                    {"type": "application", "name": bom_values.TOOL, "version": bom_values.TOOL_VERSION},
                ]
            },
            "component": _model(chain, root, whole=True),
        },
        "components": components,
        "dependencies": [
            {"ref": _ref(root), **({"dependsOn": bases} if (bases := _bases(root)) else {})},
        ],
        "compositions": [
            {"aggregate": "complete", "assemblies": [_ref(root)]},  # the signed manifest names every file
            {"aggregate": "complete" if chain.complete else "incomplete", "dependencies": [_ref(root)]},
        ],
        "properties": [
            _property("provenance", "complete" if chain.complete else "incomplete"),
            *[_property("provenance:gap", gap) for gap in chain.gaps],
        ],
    }
    return document if components else {name: value for name, value in document.items() if name != "components"}


def _model(chain: Chain, node: Node, *, whole: bool = False) -> dict[str, Any]:
    """An artifact. `whole` names its files; of ancestors only what they are."""
    item = node.collected
    namespace, _, name = (item.repository if item is not None and item.repository else node.name).rpartition("/")
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _ref(node),
        **({"group": namespace} if namespace else {}),
        "name": name,
        "version": str(node.digest),
        "hashes": [{"alg": "SHA-256", "content": node.digest.hex}],
    }
    if node.licences:
        component["licenses"] = [_licence(one) for one in node.licences]
    if parents := _parents(chain, node):
        component["pedigree"] = {"ancestors": parents}
    if references := _references(chain, node):
        component["externalReferences"] = references
    if whole and node.manifest is not None:
        component["components"] = [
            {
                "type": "file",
                "bom-ref": f"{_ref(node)}#{entry.path}",
                "name": entry.path,
                "hashes": [
                    {"alg": "SHA-256", "content": entry.sha256},
                    {"alg": "BLAKE3", "content": entry.blake3},
                ],
                "properties": [_property("size_bytes", str(entry.size))],
            }
            for entry in node.manifest.files
        ]
    if node.signatures:
        methods = [
            {
                "technique": "attestation",
                "confidence": 1,
                "value": f"OMS signature by {signer.identity} ({signer.authority}), bundle {bundle}, verified",
            }
            for signer, bundle in node.signatures
        ]
        component["evidence"] = {"identity": [{"field": "hash", "confidence": 1, "methods": methods}]}
    if card := _card(node):
        component["modelCard"] = card
    component["properties"] = _properties(node)
    return component


def _parents(chain: Chain, node: Node) -> list[dict[str, Any]]:
    """Direct parents by verified derivations, in short: each is a component with a pedigree of its own."""
    found: dict[str, dict[str, Any]] = {}
    for said, stated in node.derivations:
        for parent in said.parents:
            known = chain.artifacts.get(str(parent.digest))
            found.setdefault(
                str(parent.digest),
                {
                    "type": "machine-learning-model",
                    "name": known.name if known is not None else parent.name,
                    "version": str(parent.digest),
                    "hashes": [{"alg": "SHA-256", "content": parent.digest.hex}],
                    "properties": [
                        _property("relation", said.relation),
                        _property("grade", "attested"),
                        _property("statement", str(stated.digest)),
                    ],
                },
            )
    return list(found.values())


def _references(chain: Chain, node: Node) -> list[dict[str, Any]]:
    """Where it is, where it came from, and the statements about it."""
    if node.manifest is None:
        return []
    page = page_of(chain, node)
    found: list[dict[str, Any]] = [{"type": "distribution", "url": page}]
    for imported, stated in node.imports:
        found.append(
            {
                "type": "source-distribution",
                "url": iri(imported.source),
                "comment": f"revision {imported.revision}, by statement {stated.digest}",
            }
        )
    found += [
        {
            "type": "attestation",
            "url": f"{page}/attestations?kind={stated.kind.value}",
            "comment": statement_text(stated),
            "hashes": [{"alg": "SHA-256", "content": stated.digest.hex}],
        }
        for stated in node.statements
    ]
    return found


def _card(node: Node) -> dict[str, Any]:
    """What is recorded of what a model card holds: the data it was made from, and how it was made."""
    refs = list(dict.fromkeys(_data_ref(str(one.digest)) for said, _ in node.derivations for one in said.datasets))
    runs = [said.training_run for said, _ in node.derivations if said.training_run]
    relations = [said.relation for said, _ in node.derivations]
    if not refs and not relations:
        return {}
    card: dict[str, Any] = {"modelParameters": {"datasets": [{"ref": ref} for ref in refs]}} if refs else {}
    card["properties"] = [
        *[_property("relation", one) for one in dict.fromkeys(relations)],
        *[_property("training_run", one) for one in dict.fromkeys(runs)],
    ]
    return card


def _properties(node: Node) -> list[dict[str, str]]:
    item = node.collected
    found = [
        _property("artifact", str(node.digest)),
        _property("hash_of", "the canonical manifest (modelreg/manifest/v1)"),
    ]
    if node.manifest is None:
        return [*found, _property("known", "false")]
    found.append(_property("size_bytes", str(node.manifest.total_bytes)))
    if item is not None and item.published_at is not None:
        found.append(_property("recorded:published_at", bom_values.time_text(item.published_at)))
        found.append(_property("recorded:publisher", item.published_by or ""))
        found += [_property("recorded:tag", tag) for tag in item.tags]
    if item is not None and item.classification is not None:
        found.append(_property("recorded:classification", item.classification.value))
    if node.classification is not None:
        found.append(_property("classification:declared", node.classification.value))
    for imported, _ in node.imports:
        found += [_property("import:revision", imported.revision), _property("import:fetched_by", imported.fetched_by)]
    found += [
        _property(stated.kind.value, words_of(stated))
        for stated in node.statements
        if stated.kind is not Kind.PROVENANCE  # those are the pedigree, the card and the references
    ]
    if item is not None and item.recall is not None:
        found.append(_property(f"recorded:{item.recall.kind}", item.recall.reason))
    if item is not None:
        attested = {str(parent.digest) for said, _ in node.derivations for parent in said.parents}
        found += [
            _property("claimed:parent", f"{one.relation} of {one.artifact}")
            for one in item.claimed
            if one.artifact not in attested
        ]
    return found


def _dataset(dataset: DatasetNode) -> dict[str, Any]:
    facts = facts_of(dataset)
    data: dict[str, Any] = {"type": "dataset", "name": facts.name}
    if facts.classification is not None:
        data["classification"] = facts.classification.value
    if facts.owner is not None:
        data["governance"] = {"owners": [{"organization": {"name": facts.owner}}]}
    properties = [
        *([_property("lawful_basis", facts.lawful_basis)] if facts.lawful_basis else []),
        *[_property("residency", zone) for zone in facts.residency],
        *([_property("retention_until", facts.retention_until)] if facts.retention_until else []),
        _property("statement", str(dataset.statement.digest) if dataset.statement else "none"),
    ]
    component: dict[str, Any] = {
        "type": "data",
        "bom-ref": _data_ref(str(dataset.digest)),
        "name": facts.name,
        "version": str(dataset.digest),
        "hashes": [{"alg": "SHA-256", "content": dataset.digest.hex}],
        "data": [data],
        "properties": properties,
    }
    if facts.source is not None:
        component["externalReferences"] = [{"type": "source-distribution", "url": iri(facts.source)}]
    return component


def _licence(text: str) -> dict[str, Any]:
    known = spdx_id(text)
    return {"license": {**({"id": known} if known else {"name": text}), "acknowledgement": "declared"}}


def _bases(node: Node) -> list[str]:
    """What it does not run without: an adapter needs its base."""
    bases = [
        f"modelreg:{parent.digest}"
        for said, _ in node.derivations
        if said.relation == "adapter"
        for parent in said.parents
    ]
    return list(dict.fromkeys(bases))


def _ref(node: Node) -> str:
    return f"modelreg:{node.digest}"


def _data_ref(digest: str) -> str:
    return f"modelreg:dataset:{digest}"


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"modelreg:{name}", "value": value}
