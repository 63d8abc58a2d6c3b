"""Cases that a promotion policy must decide in a known way, and what another policy would decide instead.

    schema = "modelreg/promotion-cases/v1"

    [[cases]]
    name = "its publisher cannot approve it"
    facts = "minilm.facts.json"             # facts as the registry exports them, beside this file; or the facts themselves
    with = {"approvals.0.principal" = "person:trainer"}     # members replaced, by path
    without = ["licence"]                   # members emptied: null, or no entry
    expect = {allowed = false, rules = {approvals = "fail"}, says = {approvals = "they published it"}}

A rule that `rules` does not name must pass or be off. Facts alone, and a stored decision with its facts, are cases too.
"""

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from modelreg.canonical import strict_json
from modelreg.errors import Invalid
from modelreg.promotion_facts import Decision, Facts, Outcome, parse_facts
from modelreg.promotion_policy import PromotionPolicy, RuleName, Text, first_problem
from modelreg.promotion_rules import evaluate

SCHEMA = "modelreg/promotion-cases/v1"
MAX_CASES_BYTES = 16 * 1024 * 1024
MAX_CASES = 10_000  # of a file
MAX_CHANGES = 100  # of a case

Status = Literal["pass", "fail", "missing", "waived", "off"]


class _Member(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expected(_Member):
    """What a policy must answer: the statuses of the rules that do not pass, and words of their reasons or fixes."""

    allowed: StrictBool
    rules: dict[RuleName, Status] = {}
    says: dict[RuleName, Text] = {}


class _Written(_Member):
    name: Text
    facts: str | dict[str, Any]
    with_: Annotated[dict[Text, Any], Field(alias="with", max_length=MAX_CHANGES)] = {}
    without: Annotated[tuple[Text, ...], Field(max_length=MAX_CHANGES)] = ()
    expect: Expected


class _File(_Member):
    schema_: Literal["modelreg/promotion-cases/v1"] = Field(alias="schema")
    cases: Annotated[tuple[_Written, ...], Field(min_length=1, max_length=MAX_CASES)]


class _Stored(_Member):
    facts: Facts
    decision: Decision


@dataclass(frozen=True)
class Case:
    """Facts under a name. `expected` is None where they stand alone: then only a difference can be asked for."""

    name: str
    facts: Facts
    expected: Expected | None


@dataclass(frozen=True)
class Checked:
    """A case, the decision, and each way in which it is not as expected."""

    case: Case
    decision: Decision
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What another policy makes of the same facts: both decisions, and the rules whose answer differs."""

    case: Case
    before: Decision
    after: Decision
    rules: tuple[tuple[Outcome, Outcome], ...]

    @property
    def turned(self) -> bool:
        """Whether the decision itself is another."""
        return self.before.allowed != self.after.allowed


def read_cases(raw: bytes, name: str, *, toml: bool, read: Callable[[str], bytes]) -> list[Case]:
    """Read a file of cases, facts, or a stored decision.

    Args:
        raw: the operator's, not believed to be right.
        name: of the case where the file is one, and of the file in messages.
        read: the bytes of a file that a case names.

    Raises:
        Invalid: malformed, an unknown member, a path into nothing, facts that are none.
        OSError: what `read` raises.
    """
    if len(raw) > MAX_CASES_BYTES:
        raise Invalid(f"{name} has {len(raw)} bytes; the limit is {MAX_CASES_BYTES}", field="cases")
    try:
        document = tomllib.loads(raw.decode("utf-8")) if toml else strict_json(raw)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{name} is not {'TOML' if toml else 'JSON'}: {error}", field="cases") from None
    members = document if isinstance(document, dict) else {}
    if "schema_id" in members:
        return [Case(name, parse_facts(_json(document, name)), None)]
    try:
        if "decision" in members:
            # As `modelreg promote --json` prints it, with more beside: when it was recorded, and by whom.
            pair = {member: members[member] for member in ("facts", "decision") if member in members}
            stored = _Stored.model_validate_json(_json(pair, name), strict=True)
            rules = {one.rule: one.status for one in stored.decision.outcomes}
            expected = Expected.model_validate({"allowed": stored.decision.allowed, "rules": rules})
            return [Case(name, stored.facts, expected)]
        written = _File.model_validate(document)
    except ValidationError as error:
        raise Invalid(f"{name}: {first_problem(error)}", field="cases") from None
    return [_case(one, f"{name}: cases[{at}]", read) for at, one in enumerate(written.cases)]


def _case(written: _Written, where: str, read: Callable[[str], bytes]) -> Case:
    if isinstance(written.facts, str):
        # What others exported must be facts before it is changed here; a typing error must not look like one of theirs.
        members = parse_facts(read(written.facts)).model_dump(mode="json")
    else:
        members = json.loads(_json(written.facts, where))
    for path in written.without:
        _replace(members, path, None, where)
    for path, value in written.with_.items():
        _replace(members, path, value, where)
    try:
        return Case(written.name, parse_facts(_json(members, where)), written.expect)
    except Invalid as error:
        raise Invalid(f"{where}: {error.detail}", field="cases") from None


def _replace(members: Any, path: str, value: Any, where: str) -> None:
    *parents, last = path.split(".")
    at: Any = members
    for part in parents:
        at = at[_step(at, part, path, where)]
    step = _step(at, last, path, where)
    at[step] = ([] if isinstance(at[step], list) else None) if value is None else value


def _step(at: Any, part: str, path: str, where: str) -> Any:
    if isinstance(at, dict) and part in at:
        return part
    if isinstance(at, list) and part.isdecimal() and part.isascii() and len(part) < 7 and int(part) < len(at):
        return int(part)
    raise Invalid(f"{where}: {path!r} leads nowhere in the facts; {part!r} is not there", field="cases")


def _json(value: Any, where: str) -> bytes:
    def text_of(other: Any) -> str:
        if isinstance(other, datetime):  # of TOML
            return other.isoformat()
        raise Invalid(f"{where}: {type(other).__name__} is no value that facts hold", field="cases")

    try:
        return json.dumps(value, default=text_of, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{where}: the facts cannot be written as JSON: {error}", field="cases") from None


def check(policy: PromotionPolicy, case: Case) -> Checked:
    """Evaluate a case and hold the decision against what it expects."""
    decision, expected, wrong = evaluate(policy, case.facts), case.expected, []
    if expected is None:
        return Checked(case, decision, ("the case expects nothing; write `expect`",))
    if decision.allowed != expected.allowed:
        wrong.append(
            f"it is {'allowed' if decision.allowed else 'refused'}, not {'allowed' if expected.allowed else 'refused'}"
        )
    for one in decision.outcomes:
        wanted = next((status for rule, status in expected.rules.items() if rule == one.rule), None)
        if one.status != wanted and (wanted is not None or one.status not in {"pass", "off"}):
            wrong.append(f"{one.rule} is {one.status}, not {wanted or 'pass'}: {one.reason}")
        words = next((words for rule, words in expected.says.items() if rule == one.rule), "")
        if words not in f"{one.reason}\n{one.fix or ''}":
            wrong.append(f"{one.rule} does not say {words!r}: {one.reason}")
    return Checked(case, decision, tuple(wrong))


def changes(old: PromotionPolicy, new: PromotionPolicy, cases: Sequence[Case]) -> list[Change]:
    """The cases that two policies decide differently, or for other rules' sake; those whose decision turns come first."""
    found = []
    for case in cases:
        before, after = evaluate(old, case.facts), evaluate(new, case.facts)
        pairs = zip(before.outcomes, after.outcomes, strict=True)
        rules = tuple((one, other) for one, other in pairs if one.status != other.status)
        if rules:
            found.append(Change(case, before, after, rules))
    return sorted(found, key=lambda change: not change.turned)


def answer(decision: Decision) -> str:
    """A decision in a word, with the rules that refuse it."""
    if decision.allowed:
        return "allowed"
    return "refused: " + ", ".join(one.rule for one in decision.outcomes if one.status in {"fail", "missing"})
