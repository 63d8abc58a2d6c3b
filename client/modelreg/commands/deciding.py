"""policy check, test, diff, init: promotion policies as files, without a registry."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modelreg import promotion_cases, promotion_policy, promotion_template
from modelreg.commands import one_line, output_of, table_lines
from modelreg.errors import Conflict, Invalid, NotFound
from modelreg.promotion_cases import Case, Change, Checked
from modelreg.promotion_facts import Decision
from modelreg.promotion_policy import Entry, PromotionPolicy

FINDINGS = 40
_MAX_FILES = 100_000


def run_check(options: argparse.Namespace) -> int:
    """`modelreg policy check FILE`."""
    policy = _policy(options.file)
    rows: list[dict[str, Any]] = [
        {
            "environment": environment,
            "repositories": list(entry.repositories),
            "off": dict(entry.off),
            "waivable": _waivable(entry),
            "maximum": entry.classification.maximum if entry.classification else None,
            "approvals": entry.approvals.count if entry.approvals else 0,
        }
        for environment, entries in policy.environments.items()
        for entry in entries
    ]
    value = {"version": policy.version, "digest": str(policy.digest), "entries": rows}
    lines = [f"promotion policy version {policy.version}, {policy.digest}"]
    shown = [{**row, "maximum": row["maximum"] or "any", "off": sorted(row["off"])} for row in rows]
    columns = ("environment", "repositories", "maximum", "approvals", "off", "waivable")
    output_of(options).result(value, *lines, *table_lines(shown, columns))
    return 0


def run_test(options: argparse.Namespace) -> int:
    """`modelreg policy test FILE CASES…`."""
    policy = _policy(options.file)
    # Facts alone, which lie beside the cases that change them, expect nothing.
    results = [promotion_cases.check(policy, case) for case in _cases(options.cases) if case.expected is not None]
    if not results:
        raise Invalid("no case expects anything; name a file of cases, or stored decisions", field="cases")
    wrong = [one for one in results if one.wrong]
    value = {"policy": str(policy.digest), "cases": [_checked(one) for one in results], "wrong": len(wrong)}
    rows: list[dict[str, Any]] = [
        {"": "WRONG" if one.wrong else "ok", "case": one.case.name, "answer": promotion_cases.answer(one.decision)}
        for one in results
    ]
    lines = table_lines(rows, ("", "case", "answer"))
    for one in wrong:
        lines += ["", f"WRONG {one.case.name}", *(f"  {why}" for why in one.wrong)]
    output_of(options).result(value, *lines, "", f"{len(results) - len(wrong)} of {len(results)} cases are as expected")
    return FINDINGS if wrong else 0


def run_diff(options: argparse.Namespace) -> int:
    """`modelreg policy diff OLD NEW --cases DIR`."""
    old, new, cases = _policy(options.old), _policy(options.new), _cases(options.cases)
    changes = promotion_cases.changes(old, new, cases)
    turned = [change for change in changes if change.turned]
    refused = sum(change.before.allowed for change in turned)
    value = {
        "old": str(old.digest),
        "new": str(new.digest),
        "cases": len(cases),
        "turned": len(turned),
        "changed": [_change(change) for change in changes],
    }
    lines: list[str] = []
    for change in changes:
        facts = change.case.facts
        which = f"{facts.repository}@{facts.artifact}  {facts.environment}"
        lines.append(f"{which}  {_word(change.before)} -> {_word(change.after)}  ({change.case.name})")
        lines += [
            f"  {before.rule}: {before.status} -> {after.status}: {after.reason}" for before, after in change.rules
        ]
    lines.append(
        f"{len(turned)} of {len(cases)} decisions turn: {refused} from allowed to refused, {len(turned) - refused} from "
        f"refused to allowed; {len(changes) - len(turned)} stay with other reasons"
    )
    output_of(options).result(value, *lines)
    return FINDINGS if changes else 0


def run_init(options: argparse.Namespace) -> int:
    """`modelreg policy init [FILE] [--cases DIR]`."""
    output = output_of(options)
    files = {options.file: promotion_template.POLICY.encode()}
    if options.cases is not None:
        files[options.cases / "cases.toml"] = promotion_template.CASES.encode()
        files[options.cases / "example.facts.json"] = promotion_template.example_facts().raw + b"\n"
    if there := [path for path in files if path.exists()]:
        raise Conflict(f"{there[0]} is there already; name another file, or remove it", path=str(there[0]))
    for path, raw in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(raw)
    digest = promotion_policy.parse(promotion_template.POLICY.encode()).digest
    output.result(
        {"written": [str(path) for path in files], "digest": str(digest)},
        *(f"written: {path}" for path in files),
        "read it, and change what says CHANGE THIS; then `modelreg policy check`",
    )
    return 0


def _policy(path: Path) -> PromotionPolicy:
    return promotion_policy.parse(_read(path, promotion_policy.MAX_POLICY_BYTES))


def _cases(paths: Iterable[Path]) -> list[Case]:
    found: list[Case] = []
    for path in paths:
        # In a folder, what `facts = …` of a file of cases names is a case of its own as well: facts without expectation.
        files = sorted(one for one in path.rglob("*") if one.suffix in {".json", ".toml"}) if path.is_dir() else [path]
        if len(files) > _MAX_FILES:
            raise Invalid(f"{path} has more than {_MAX_FILES} files", field="cases")
        for file in files:
            found += promotion_cases.read_cases(
                _read(file, promotion_cases.MAX_CASES_BYTES),
                file.name,
                toml=file.suffix == ".toml",
                read=lambda name, file=file: _read(file.parent / name, promotion_cases.MAX_CASES_BYTES),  # type: ignore[misc]
            )
    if not found:
        raise Invalid("there is no case; name files of cases or facts, or a folder of them", field="cases")
    return found


def _read(path: Path, limit: int) -> bytes:
    if not path.is_file():
        raise NotFound(f"{one_line(str(path))} is not a file", path=str(path)[:200])
    with path.open("rb") as file:
        return file.read(limit + 1)  # one too many is for the parser to refuse


def _waivable(entry: Entry) -> list[str]:
    return sorted({rule for waiver in entry.waivers for rule in waiver.rules})


def _word(decision: Decision) -> str:
    return "allowed" if decision.allowed else "refused"


def _checked(one: Checked) -> dict[str, Any]:
    return {"name": one.case.name, "wrong": list(one.wrong), "decision": one.decision.model_dump(mode="json")}


def _change(change: Change) -> dict[str, Any]:
    facts = change.case.facts
    return {
        "case": change.case.name,
        "repository": facts.repository,
        "artifact": facts.artifact,
        "environment": facts.environment,
        "before": _word(change.before),
        "after": _word(change.after),
        "rules": [
            {
                "rule": before.rule,
                "before": before.status,
                "after": after.status,
                "reason": after.reason,
                "fix": after.fix,
            }
            for before, after in change.rules
        ],
    }
