"""Rules about what an artifact was made of: parents, datasets, and what comes down from them (class, licence).

Only attested edges satisfy a rule. A claim (a model card, a header) never does; but a claim of something bad still blocks.
"""

from datetime import datetime
from string import ascii_lowercase, ascii_uppercase

from modelreg.promotion_facts import AncestorFact, DatasetFact, Facts, Outcome
from modelreg.promotion_outcomes import Problem, day, fail, listed, missing, outcome, shown
from modelreg.promotion_policy import DatasetsRule, Entry, named
from modelreg.provenance import ORIGINAL, RELATIONS

# Of ASCII alone: what other letters become depends on the Python that asks, and a decision must not.
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_STATE_IT = "push it again with what it was made of: --base REF --dataset DIGEST --relation …"


def lineage(entry: Entry, facts: Facts) -> Outcome:
    """What was made of something says of what: an attested base, and datasets where the relation has any."""
    parents = [one for one in facts.ancestors if one.depth == 1]
    bases = list(dict.fromkeys(one.artifact for one in parents if one.grade == "attested"))
    claims = [f"{one.artifact} ({one.grade})" for one in parents if one.grade != "attested"]
    only = f"; only {listed(claims)}, which does not count" if claims else ""
    relation = facts.relation
    problems: list[Problem] = []
    if facts.cycle:
        problems.append(
            fail("it descends from itself; the recorded lineage has a cycle", "push it again with its right base")
        )
    if relation is None:
        if facts.source is None:
            problems.append(missing(f"nobody attests how it was made{only}", _STATE_IT))
        passed = f"imported as it is; made of nothing in this registry, as far as anybody attests{only}"
    else:
        problems += _derived(entry, facts, relation, bases, only)
        passed = f"{shown(relation)} of {listed(bases)}, attested"
    return outcome("lineage", problems, passed)


def _derived(entry: Entry, facts: Facts, relation: str, bases: list[str], only: str) -> list[Problem]:
    problems = []
    if relation not in {*RELATIONS, ORIGINAL}:
        problems.append(
            fail(
                f"it was made by {shown(relation)}, which is no known relation", f"state one of {', '.join(RELATIONS)}"
            )
        )
    if relation == ORIGINAL and bases:
        problems.append(fail(f"it is said to be made of no other artifact, and of {listed(bases)}", _STATE_IT))
    if relation != ORIGINAL and not bases:
        problems.append(missing(f"{shown(relation)} of no attested base{only}", _STATE_IT))
    if relation == "adapter" and len(bases) > 1:
        problems.append(fail(f"an adapter has one base; attested are {listed(bases)}", _STATE_IT))
    if named(entry.lineage.datasets_for, relation):
        own = [one for one in facts.datasets if one.depth == 1]
        if not any(one.grade == "attested" for one in own):
            claims = [f"{one.digest} ({one.grade})" for one in own]
            less = f"; only {listed(claims)}, which does not count" if claims else ""
            problems.append(missing(f"{shown(relation)} with no attested dataset{less}", _STATE_IT))
    return problems


def ancestors(entry: Entry, facts: Facts) -> Outcome:
    """No ancestor is taken back, by whatever evidence; attested ones are here, so that they could be."""
    problems = [
        fail(
            f"{_ancestor(one)} is {'quarantined' if one.recalled == 'quarantine' else 'revoked'}; {one.relation} at "
            f"depth {one.depth}, {one.grade}",
            "make it again of a base that is not recalled, or have the recall released",
        )
        for one in facts.ancestors
        if one.recalled is not None
    ]
    unknown = [one for one in facts.ancestors if not one.known and one.grade == "attested"]
    if unknown and entry.ancestors.unknown == "refuse":
        problems.append(
            missing(
                f"{len(unknown)} attested ancestors are not in this registry, so nobody can recall them; "
                f"{listed(map(_ancestor, unknown))}",
                "import or push them; they are known by their digest",
            )
        )
    count = len({one.artifact for one in facts.ancestors})
    unheld = f", {len(unknown)} of them not in this registry" if unknown else ""
    passed = f"none of its {count} ancestors is recalled{unheld}" if count else "it has no recorded ancestor"
    return outcome("ancestors", problems, passed)


def _ancestor(one: AncestorFact) -> str:
    return f"{one.name}@{one.artifact}" if one.name else one.artifact


def datasets(entry: Entry, facts: Facts) -> Outcome:
    """Each dataset, its own or inherited, is registered with a signed statement, and may still be used."""
    problems = [problem for one in facts.datasets for problem in _dataset(entry.datasets, one, facts.evaluated_at)]
    names = listed(one.name or one.digest for one in facts.datasets)
    passed = f"registered, stated and in time: {names}" if facts.datasets else "no dataset is recorded"
    return outcome("datasets", problems, passed)


def _dataset(rule: DatasetsRule, one: DatasetFact, now: datetime) -> list[Problem]:
    name = f"the dataset {shown(one.name or '')} {shown(one.digest)}".replace("  ", " ")
    if not one.registered or one.statement is None:
        lacks = "is not registered" if not one.registered else "has no signed statement"
        return [missing(f"{name} {lacks}; it is {one.grade}", "have its owner run `modelreg dataset register`")]
    again, said = "have its owner register it again with it", f"statement {shown(one.statement)}"
    problems = []
    if one.classification is None:
        problems.append(missing(f"{name} declares no class; {said}", again))
    if one.lawful_basis is None:
        problems.append(missing(f"{name} states no lawful basis; {said}", again))
    elif rule.lawful_bases is not None and one.lawful_basis not in rule.lawful_bases:
        problems.append(
            fail(
                f"{name} is held on a basis that the policy does not accept; {shown(one.lawful_basis)}, accepted are "
                f"{listed(rule.lawful_bases)}",
                "make it without that dataset, or have its owner state another basis",
            )
        )
    if one.retention_until is None:
        if rule.retention:
            problems.append(missing(f"{name} states no end of retention; {said}", again))
    elif one.retention_until <= now:
        problems.append(
            fail(
                f"{name} was to be deleted by {day(one.retention_until)}; {said}",
                "make it without that dataset, or have its owner extend the retention",
            )
        )
    return problems


def classification(entry: Entry, facts: Facts) -> Outcome:
    """It is not more sensitive than this environment takes, and nobody made it less so without a signature."""
    rule, found = entry.classification, facts.classification
    assert rule is not None  # it is on
    if found is None:
        return outcome(
            "classification",
            [
                missing(
                    "nobody worked out how sensitive it is", "push it again with --class, or have the registry do so"
                )
            ],
            "",
        )
    problems = []
    if rule.declared and found.declared is None and found.inherited is None:
        problems.append(missing("nobody declared how sensitive it is", "push or import it again with --class"))
    if found.effective.rank > rule.maximum.rank:
        problems.append(
            fail(
                f"it is {found.effective}, and {shown(facts.environment)} takes {rule.maximum} at most",
                "promote it to an environment for its class, or have it declassified (`modelreg declassify`)",
            )
        )
    lower = [
        one for one in (found.declared, found.effective) if one and found.inherited and one.rank < found.inherited.rank
    ]
    if lower and found.lowered_by is None:
        problems.append(
            fail(
                f"it is said to be {lower[0]}, and what it was made of is {found.inherited}",
                "have it declassified by whoever may (`modelreg declassify`), or push it with its right class",
            )
        )
    lowered = f", lowered from {found.inherited} by {shown(found.lowered_by)}" if found.lowered_by else ""
    return outcome("classification", problems, f"it is {found.effective}{lowered}; at most {rule.maximum} may be here")


def licence(entry: Entry, facts: Facts) -> Outcome:
    """It has a licence that the policy allows and does not deny."""
    rule, found = entry.licence, facts.licence
    assert rule is not None  # it is on
    if found is None:
        return outcome(
            "licence", [missing("no licence is stated", "import it with its licence, or add it to the model card")], ""
        )
    value, problems = found.value.translate(_LOWER), []
    denied = [pattern for pattern in rule.deny or () if named((pattern.translate(_LOWER),), value)]
    if denied:
        problems.append(
            fail(f"the policy denies its licence; {shown(found.value)} is named by {denied[0]}", "use another model")
        )
    elif not named(tuple(pattern.translate(_LOWER) for pattern in rule.allow), value):
        problems.append(
            fail(
                f"the policy does not allow its licence; {shown(found.value)}, allowed are {listed(rule.allow)}",
                "have the licence looked at and added to the policy, or use another model",
            )
        )
    if found.grade == "inferred" or (found.grade == "claimed" and not rule.claimed):
        problems.append(
            missing(
                f"nobody attests its licence; {shown(found.value)} is only {found.grade}",
                "import it with its licence, or set `claimed` in the policy",
            )
        )
    return outcome("licence", problems, f"{shown(found.value)}, {found.grade}")
