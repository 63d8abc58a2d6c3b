"""SLSA provenance v1 as we write and read it: of an import (where the bytes came from), and of a derivation (what of what).

    buildType                        externalParameters                             resolvedDependencies
    urn:modelreg:build:import:v1     source, revision, licence, fetched_by          every file, with what upstream declared
    urn:modelreg:build:derive:v1     relation, classification, training_run         parents and datasets, by role

Pure: predicates in, values out. https://slsa.dev/spec/v1.2/provenance is the form; a digest is what the others may rely on,
everything else is the signer's word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelreg.classification import Classification
from modelreg.digests import Digest, is_hex_64
from modelreg.errors import Invalid, SignatureInvalid

IMPORT = "urn:modelreg:build:import:v1"
DERIVATION = "urn:modelreg:build:derive:v1"
BUILDER = "urn:modelreg:client"
RELATIONS = ("finetune", "adapter", "merge", "quantized", "converted", "distilled")
ORIGINAL = "original"  # made from no other artifact: trained from nothing but datasets, or nobody knows from what
MAX_DEPENDENCIES = 20_000
MAX_PARENTS = 64  # of one derivation
MAX_DATASETS = 1000
MAX_TEXT_CHARS = 2000


@dataclass(frozen=True)
class Input:
    """A parent artifact or a dataset, by digest (sha256). `name` is for people."""

    digest: Digest
    name: str


@dataclass(frozen=True)
class Derivation:
    """What an artifact was made of, and how. `classification` is what its maker declares it to be."""

    relation: str
    parents: tuple[Input, ...]
    datasets: tuple[Input, ...]
    training_run: str | None = None
    classification: Classification | None = None


@dataclass(frozen=True)
class ImportedFile:
    """One file as it was fetched. `upstream` holds the digests that the source declares, by algorithm; maybe none."""

    path: str
    sha256: str
    uri: str
    upstream: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Import:
    """Where an artifact's bytes came from. `revision` cannot move: a commit, a version id, or a digest.

    `upstream_signature` is what was found of a signature at the source: `{"verdict": …, "identity": …, "bundle": digest}`.
    """

    source: str
    revision: str
    files: tuple[ImportedFile, ...]
    fetched_by: str
    licence: str | None = None
    classification: Classification | None = None
    upstream_signature: Mapping[str, Any] | None = None


def predicate_of(
    made: Derivation | Import, *, version: str, started_at: datetime, finished_at: datetime
) -> dict[str, Any]:
    """The predicate that says it; `version` is the tool's.

    Raises:
        Invalid: a relation that is none, a derivation of nothing, too many files.
    """
    metadata = {"startedOn": _time(started_at), "finishedOn": _time(finished_at)}
    if isinstance(made, Import):
        if len(made.files) > MAX_DEPENDENCIES:
            raise Invalid(f"{len(made.files)} files are more than a provenance statement holds ({MAX_DEPENDENCIES})")
        parameters = {
            "source": made.source,
            "revision": made.revision,
            "licence": made.licence,
            "fetched_by": made.fetched_by,
            "classification": made.classification,
            "upstream_signature": dict(made.upstream_signature) if made.upstream_signature else None,
        }
        build_type, dependencies = IMPORT, [_file(file) for file in made.files]
    else:
        if made.relation not in (*RELATIONS, ORIGINAL):
            raise Invalid(f"{made.relation!r} is no relation; write one of {', '.join(RELATIONS)}", field="relation")
        if made.relation == ORIGINAL and made.parents:
            raise Invalid("what has a base is not original; say how it was made from it", field="relation")
        if made.relation != ORIGINAL and not made.parents and not made.datasets:
            raise Invalid("an artifact is made of something: name a base or a dataset", field="parents")
        if len(made.parents) > MAX_PARENTS or len(made.datasets) > MAX_DATASETS:
            raise Invalid(f"more than {MAX_PARENTS} parents or {MAX_DATASETS} datasets", field="parents")
        parameters = {
            "relation": made.relation,
            "training_run": made.training_run,
            "classification": made.classification,
        }
        build_type = DERIVATION
        dependencies = [_input(item, "parent") for item in made.parents]
        dependencies += [_input(item, "dataset") for item in made.datasets]
        if made.training_run:
            metadata["invocationId"] = made.training_run
    return {
        "buildDefinition": {
            "buildType": build_type,
            "externalParameters": {name: value for name, value in parameters.items() if value is not None},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {"builder": {"id": BUILDER, "version": {"modelreg": version}}, "metadata": metadata},
    }


def read(predicate: Mapping[str, Any]) -> Derivation | Import:
    """Read a provenance predicate whose signature holds.

    Raises:
        SignatureInvalid: another build type, a malformed member, a dependency without a sha256, an unknown relation.
    """
    definition = _object(predicate.get("buildDefinition"), "buildDefinition")
    parameters = _object(definition.get("externalParameters"), "externalParameters")
    dependencies = definition.get("resolvedDependencies", [])
    if not isinstance(dependencies, list) or len(dependencies) > MAX_DEPENDENCIES:
        raise SignatureInvalid(f"resolvedDependencies is not a list of at most {MAX_DEPENDENCIES}")
    if definition.get("buildType") == IMPORT:
        return _read_import(parameters, dependencies)
    if definition.get("buildType") == DERIVATION:
        return _read_derivation(parameters, dependencies)
    raise SignatureInvalid(f"build type {ascii(definition.get('buildType'))[:120]} is none that this version reads")


def _read_import(parameters: Mapping[str, Any], dependencies: Sequence[Any]) -> Import:
    files = []
    for at, item in enumerate(dependencies):
        where = f"resolvedDependencies[{at}]"
        members = _object(item, where)
        annotations = _object(members.get("annotations", {}), f"{where}.annotations")
        declared = _object(annotations.get("upstream", {}), f"{where}.upstream")
        upstream = {_text(name, where): _text(value, where) for name, value in declared.items()}
        files.append(
            ImportedFile(
                _text(members.get("name"), where),
                _sha256(members, where).hex,
                _text(members.get("uri"), where),
                upstream,
            )
        )
    signature = parameters.get("upstream_signature")
    return Import(
        source=_text(parameters.get("source"), "source"),
        revision=_text(parameters.get("revision"), "revision"),
        files=tuple(files),
        fetched_by=_text(parameters.get("fetched_by"), "fetched_by"),
        licence=_maybe_text(parameters, "licence"),
        classification=_classification(parameters),
        upstream_signature=_object(signature, "upstream_signature") if signature is not None else None,
    )


def _read_derivation(parameters: Mapping[str, Any], dependencies: Sequence[Any]) -> Derivation:
    relation = _text(parameters.get("relation"), "relation")
    if relation not in (*RELATIONS, ORIGINAL):
        raise SignatureInvalid(f"the provenance names the relation {ascii(relation)[:60]}, which is none")
    by_role: dict[str, list[Input]] = {"parent": [], "dataset": []}
    for at, item in enumerate(dependencies):
        where = f"resolvedDependencies[{at}]"
        members = _object(item, where)
        role = _object(members.get("annotations", {}), f"{where}.annotations").get("role")
        if not isinstance(role, str) or role not in by_role:
            raise SignatureInvalid(f"{where} is neither a parent nor a dataset")
        by_role[role].append(Input(_sha256(members, where), _text(members.get("name"), where)))
    if relation == ORIGINAL and by_role["parent"]:
        raise SignatureInvalid("the provenance names parents of something original")
    if relation != ORIGINAL and not by_role["parent"] and not by_role["dataset"]:
        raise SignatureInvalid("the provenance names neither a parent nor a dataset")
    if len(by_role["parent"]) > MAX_PARENTS or len(by_role["dataset"]) > MAX_DATASETS:
        raise SignatureInvalid(f"the provenance names more than {MAX_PARENTS} parents or {MAX_DATASETS} datasets")
    return Derivation(
        relation,
        tuple(by_role["parent"]),
        tuple(by_role["dataset"]),
        _maybe_text(parameters, "training_run"),
        _classification(parameters),
    )


def _file(file: ImportedFile) -> dict[str, Any]:
    return {
        "name": file.path,
        "uri": file.uri,
        "digest": {"sha256": file.sha256},
        "annotations": {"upstream": dict(file.upstream)},
    }


def _input(item: Input, role: str) -> dict[str, Any]:
    return {
        "name": item.name,
        "uri": f"modelreg:{item.name}@{item.digest}",
        "digest": {"sha256": item.digest.hex},
        "annotations": {"role": role},
    }


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _object(untrusted: Any, where: str) -> dict[str, Any]:
    if not isinstance(untrusted, dict):
        raise SignatureInvalid(f"the provenance's {where} is not an object")
    return untrusted


def _text(untrusted: Any, where: str) -> str:
    if (
        not isinstance(untrusted, str)
        or not untrusted
        or len(untrusted) > MAX_TEXT_CHARS
        or not untrusted.isprintable()
    ):
        raise SignatureInvalid(f"the provenance's {where} holds no text of 1 to {MAX_TEXT_CHARS} characters")
    return untrusted


def _maybe_text(members: Mapping[str, Any], name: str) -> str | None:
    return _text(members[name], name) if members.get(name) is not None else None


def _sha256(members: Mapping[str, Any], where: str) -> Digest:
    digest = _object(members.get("digest"), f"{where}.digest").get("sha256")
    if not is_hex_64(digest):
        raise SignatureInvalid(f"the provenance's {where} has no sha256 of 64 lowercase hex digits")
    return Digest("sha256", str(digest))


def _classification(parameters: Mapping[str, Any]) -> Classification | None:
    value = parameters.get("classification")
    if value is None:
        return None
    try:
        return Classification(value)
    except ValueError:
        raise SignatureInvalid(f"the provenance names the class {ascii(value)[:60]}, which is none") from None
