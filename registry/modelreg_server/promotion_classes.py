"""How sensitive an artifact is, by what its statements declare and what it was made of; never below that, unless lowered.

What is not known is None: an artifact of something of which nobody said how sensitive it is, unless it is in the highest class
anyway. Claimed edges and statements of other repositories count too, since they can only raise it; to lower it takes a
declassification in every repository that holds the artifact.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from modelreg.attestations import Kind
from modelreg.classification import Classification, highest
from modelreg.promotion_facts import ClassFact
from modelreg_server.promotion_lineage import Lineage, Made, class_in, datasets_in, holders_of
from modelreg_server.promotion_statements import Statements


@dataclass(frozen=True)
class _Lowering:
    """A declassification: what is `was` or below becomes `to`, by `statement`."""

    was: Classification
    to: Classification
    statement: str


def class_of(statements: Statements, lineage: Lineage) -> ClassFact | None:
    """How sensitive the artifact is; None where that of something it was made of is not known, or nobody said anything."""
    if lineage.cycle:
        return None
    lowered = _lowered(statements, lineage)
    classes = {fact.digest: fact.classification for fact in lineage.datasets}
    found: dict[str, _Class] = {}
    for name in lineage.order:
        found[name] = _class(lineage, lineage.made[name], found, lowered.get(name), classes)
    own = found[lineage.artifact]
    if own.effective is None or not own.complete:
        return None
    return ClassFact(
        declared=highest(_declared(lineage.made[lineage.artifact])),
        inherited=own.inherited,
        effective=own.effective,
        lowered_by=own.lowered_by,
    )


def _declared(made: Made) -> list[Classification]:
    return [said.classification for said in made.said if said.classification is not None]


@dataclass(frozen=True)
class _Class:
    """What is known of one artifact: of what it was made of, in the end, and whether of all of it."""

    inherited: Classification | None
    effective: Classification | None
    complete: bool
    lowered_by: str | None = None


def _class(
    lineage: Lineage,
    made: Made,
    above: Mapping[str, _Class],
    lowering: _Lowering | None,
    classes: Mapping[str, Classification | None],
) -> _Class:
    """`above` holds the artifacts that it was made of; `classes` those of the datasets."""
    parents = [above[parent] for parent in made.parents if parent in lineage.made]
    data = [classes[str(item.digest)] for said in made.said for item in datasets_in(said)]
    known = [one for one in (*(parent.effective for parent in parents), *data) if one is not None]
    inherited = highest(known)
    complete = all(parent.complete for parent in parents) and None not in data
    effective = highest([*known, *_declared(made)])
    # There is nothing above the highest class that could be missing.
    complete = effective is Classification.RESTRICTED or (complete and effective is not None)
    if lowering is None or effective is None or not complete or effective.rank > lowering.was.rank:
        return _Class(inherited, effective, complete)
    to = min(effective, lowering.to, key=lambda one: one.rank)
    return _Class(inherited, to, complete, lowering.statement if to is not effective else None)


def _lowered(statements: Statements, lineage: Lineage) -> dict[str, _Lowering]:
    """What declassifications allow: one in every repository that holds the artifact, and no more than each of them says."""
    given: dict[str, dict[str, _Lowering]] = {}
    rows = statements.all_of(Kind.DECLASSIFICATION, lineage.made)
    for row, verified in statements.believed(rows):
        predicate = verified.attestation.predicate
        was, to = class_in(predicate, "from"), class_in(predicate, "to")
        if was is not None and to is not None:
            made = _Lowering(was, to, str(verified.attestation.digest))
            given.setdefault(row.about_digest, {})[row.repository] = made  # the newest of each
    found: dict[str, _Lowering] = {}
    holders = holders_of(statements.session, given)
    for artifact, by_repository in given.items():
        held = holders.get(artifact, set())
        if not held or not held <= by_repository.keys():
            continue
        least = max((by_repository[name] for name in sorted(held)), key=lambda one: one.to.rank)
        was = min((by_repository[name].was for name in held), key=lambda one: one.rank)
        found[artifact] = _Lowering(was, least.to, least.statement)
    return found
