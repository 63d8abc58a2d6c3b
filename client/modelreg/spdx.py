"""SPDX 3.0.1 of a verified chain, as JSON-LD (https://spdx.github.io/spdx-spec/v3.0.1/), with the AI and Dataset classes.

    ai_AIPackage            the artifact and its ancestors      descendantOf   verified derivations
    dataset_DatasetPackage  their datasets                      trainedOn      verified derivations
    software_File           every file of the artifact          contains

Profiles `core`, `software` and `simpleLicensing` are claimed. `ai` and `dataset` demand members that nobody records here (who
supplied an ancestor, how data was collected), and nothing is made up to satisfy them.
"""

from datetime import datetime
from typing import Any

from modelreg import bom_values
from modelreg.attestations import Kind
from modelreg.bom_values import facts_of, iri, page_of, spdx_id, statement_text
from modelreg.classification import Classification
from modelreg.provenance_chain import Chain, DatasetNode, Node, words_of

SPEC_VERSION = "3.0.1"
CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_CREATION = "_:creation"
# How SPDX words it: the traffic light protocol.
_LEVELS = {
    Classification.PUBLIC: "clear",
    Classification.INTERNAL: "green",
    Classification.CONFIDENTIAL: "amber",
    Classification.RESTRICTED: "red",
}


def build(chain: Chain, at: datetime) -> dict[str, Any]:
    """The document, as JSON values in a fixed order.

    Args:
        chain: verified by this process.
        at: the document's time; the same chain and time give the same document.

    Raises:
        Invalid: nothing verified is known of the artifact.
    """
    bom_values.require_root(chain)
    return _Graph(chain, at).build()


class _Graph:
    """A document in the making: elements in order, each with an id below one namespace."""

    def __init__(self, chain: Chain, at: datetime) -> None:
        self._chain = chain
        self._at = at
        self._namespace = bom_values.serial_of(chain, at, f"spdx-{SPEC_VERSION}").urn
        self._elements: list[dict[str, Any]] = []
        self._count = 0

    def build(self) -> dict[str, Any]:
        chain, root = self._chain, self._chain.root
        agent = self._add("SoftwareAgent", "tool", name=f"{bom_values.TOOL} {bom_values.TOOL_VERSION}")
        for node in chain.artifacts.values():
            self._package(node)
        for dataset in chain.datasets.values():
            self._dataset(dataset)
        for node in chain.artifacts.values():
            self._lineage(node)
            self._licences(node)
        self._files(root)
        self._signatures(root)
        for gap in chain.gaps:
            self._annotation(root, f"not recorded: {gap}")
        ids = [element["spdxId"] for element in self._elements]
        profiles = ["core", "software", "simpleLicensing"]
        sbom = self._add(
            "software_Sbom",
            "sbom",
            rootElement=[self._id(root)],
            element=ids,
            profileConformance=profiles,
            software_sbomType=["analyzed"],
        )
        self._add(
            "SpdxDocument",
            "document",
            name=f"{chain.file.repository}@{root.digest}",
            rootElement=[sbom],
            element=[*ids, sbom],
            profileConformance=profiles,
        )
        creation = {
            "type": "CreationInfo",
            "@id": _CREATION,
            "specVersion": SPEC_VERSION,
            "created": bom_values.time_text(self._at),
            "createdBy": [agent],
        }
        return {"@context": CONTEXT, "@graph": [creation, *self._elements]}

    def _package(self, node: Node) -> None:
        item = node.collected
        known: dict[str, Any] = {}
        if node.manifest is not None:
            page = page_of(self._chain, node)
            known["software_downloadLocation"] = page
            references = [_reference("sourceArtifact", iri(said.source), said.revision) for said, _ in node.imports]
            references += [
                _reference(
                    "secureSoftwareAttestation", f"{page}/attestations?kind={one.kind.value}", statement_text(one)
                )
                for one in node.statements
            ]
            if references:
                known["externalRef"] = references
        if item is not None and item.published_at is not None:
            known["releaseTime"] = bom_values.time_text(item.published_at)
            tags = f"; tags: {', '.join(item.tags)}" if item.tags else ""
            sensitive = f"; class {item.classification}" if item.classification is not None else ""
            known["comment"] = f"as the registry recorded it: published by {item.published_by}{tags}{sensitive}"
        if made := [said for said, _ in node.derivations]:
            runs = [f"training run {said.training_run}" for said in made if said.training_run]
            known["ai_informationAboutTraining"] = "; ".join([*dict.fromkeys(said.relation for said in made), *runs])
        self._add(
            "ai_AIPackage",
            f"artifact-{node.digest.hex}",
            name=item.repository if item is not None and item.repository else node.name,
            software_packageVersion=str(node.digest),
            software_primaryPurpose="model",
            verifiedUsing=[_hash("sha256", node.digest.hex, "of the canonical manifest, modelreg/manifest/v1")],
            **known,
        )

    def _dataset(self, dataset: DatasetNode) -> None:
        facts = facts_of(dataset)
        known: dict[str, Any] = {}
        if facts.classification is not None:
            known["dataset_confidentialityLevel"] = _LEVELS[facts.classification]
        if facts.source is not None:
            known["software_downloadLocation"] = iri(facts.source)
        said = [
            *([f"owner {facts.owner}"] if facts.owner else []),
            *([f"lawful basis {facts.lawful_basis}"] if facts.lawful_basis else []),
            *([f"residency {', '.join(facts.residency)}"] if facts.residency else []),
            *([f"retention until {facts.retention_until}"] if facts.retention_until else []),
        ]
        if said:
            known["comment"] = "; ".join(said)
        self._add(
            "dataset_DatasetPackage",
            f"dataset-{dataset.digest.hex}",
            name=facts.name,
            software_packageVersion=str(dataset.digest),
            software_primaryPurpose="data",
            verifiedUsing=[_hash("sha256", dataset.digest.hex)],
            dataset_datasetType=["noAssertion"],
            **known,
        )

    def _lineage(self, node: Node) -> None:
        for said, stated in node.derivations:
            comment = f"{said.relation}, by statement {stated.digest}"
            parents = [f"{self._namespace}#artifact-{one.digest.hex}" for one in said.parents]
            datasets = [f"{self._namespace}#dataset-{one.digest.hex}" for one in said.datasets]
            if parents := list(dict.fromkeys(parents)):
                self._relate("descendantOf", self._id(node), parents, comment=comment)
            if datasets := list(dict.fromkeys(datasets)):
                self._relate("trainedOn", self._id(node), datasets, comment=comment)

    def _licences(self, node: Node) -> None:
        for licence in node.licences:
            known = spdx_id(licence)
            reference = "LicenseRef-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in licence)[:200]
            expression = self._add(
                "simplelicensing_LicenseExpression",
                self._next("licence"),
                name=licence,
                simplelicensing_licenseExpression=known or reference,
            )
            self._relate("hasDeclaredLicense", self._id(node), [expression])

    def _files(self, root: Node) -> None:
        assert root.manifest is not None
        files = [
            self._add(
                "software_File",
                self._next("file"),
                name=entry.path,
                software_primaryPurpose="file",
                verifiedUsing=[_hash("sha256", entry.sha256), _hash("blake3", entry.blake3)],
                comment=f"{entry.size} bytes",
            )
            for entry in root.manifest.files
        ]
        self._relate("contains", self._id(root), files, completeness="complete")

    def _signatures(self, root: Node) -> None:
        for signer, bundle in root.signatures:
            text = f"OMS signature by {signer.identity} ({signer.authority}), bundle {bundle}, verified"
            self._annotation(root, text)
        for stated in root.statements:
            if stated.kind is not Kind.PROVENANCE:
                self._annotation(root, f"{stated.kind.value}, verified: {words_of(stated)}")
        item = root.collected
        if item is not None and item.recall is not None:
            self._annotation(root, f"{item.recall.kind}, as the registry recorded it: {item.recall.reason}")

    def _annotation(self, node: Node, statement: str) -> None:
        self._add(
            "Annotation",
            self._next("annotation"),
            annotationType="other",
            subject=self._id(node),
            statement=statement,
            contentType="text/plain",
        )

    def _relate(self, kind: str, source: str, to: list[str], **more: str) -> None:
        self._add("Relationship", self._next("relationship"), **{"from": source}, relationshipType=kind, to=to, **more)

    def _add(self, kind: str, fragment: str, /, **members: Any) -> str:
        spdx_identifier = f"{self._namespace}#{fragment}"
        self._elements.append({"type": kind, "spdxId": spdx_identifier, "creationInfo": _CREATION, **members})
        return spdx_identifier

    def _id(self, node: Node) -> str:
        return f"{self._namespace}#artifact-{node.digest.hex}"

    def _next(self, word: str) -> str:
        self._count += 1
        return f"{word}-{self._count}"


def _hash(algorithm: str, value: str, comment: str | None = None) -> dict[str, Any]:
    more = {"comment": comment} if comment else {}
    return {"type": "Hash", "algorithm": algorithm, "hashValue": value, **more}


def _reference(kind: str, locator: str, comment: str) -> dict[str, Any]:
    return {"type": "ExternalRef", "externalRefType": kind, "locator": [locator], "comment": comment}
