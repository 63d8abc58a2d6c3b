"""Rules about the bytes themselves: are they whole, not taken back, signed, from where, what are they, what is in them.

Each takes the policy's entry and the facts, and answers; pure and total.
"""

from datetime import timedelta

from modelreg.promotion_facts import Facts, Outcome, ScanFact, SourceFact
from modelreg.promotion_outcomes import Problem, day, fail, listed, minute, missing, outcome, shown
from modelreg.promotion_policy import RULES_VERSION, Entry, ScanRule, SourceRule, named

MAX_CLOCK_SKEW = timedelta(minutes=5)
_SCAN_AGAIN = "have the registry scan it again"


def integrity(_entry: Entry, facts: Facts) -> Outcome:
    """Every stored byte was measured, and nothing is missing since."""
    problems = []
    if facts.measured is None:
        problems.append(
            missing(
                "nobody measured the stored bytes; the registry has no result", "have the registry measure it again"
            )
        )
    elif not facts.measured:
        problems.append(
            fail(
                "the stored bytes are not what was published; the registry's last measurement found some missing or changed",
                "restore the blobs from a backup, or push the artifact again from where it was made",
            )
        )
    return outcome("integrity", problems, "every stored byte was measured and is what the manifest says")


def recall(_entry: Entry, facts: Facts) -> Outcome:
    """The artifact itself is not taken back."""
    problems = []
    if facts.recalled == "quarantine":
        problems.append(
            fail("the artifact is quarantined", "find out why (`modelreg recall list`), then `modelreg release` it")
        )
    elif facts.recalled is not None:
        problems.append(fail("the artifact is revoked, for good", "promote another artifact"))
    return outcome("recall", problems, "it is neither quarantined nor revoked")


def signature(entry: Entry, facts: Facts) -> Outcome:
    """A signature that the trust policy believes holds, by whom this policy asks for."""
    rule = entry.signature
    holding = [one for one in facts.signatures if one.valid]
    by = [one for one in holding if rule.identities is None or named(rule.identities, one.identity)]
    timed = [one for one in by if one.signed_at is not None or not rule.trusted_time]
    problems = []
    if not facts.signatures:
        problems.append(missing("the artifact has no signature", "sign it: `modelreg push` by an allowed signer"))
    elif not holding:
        whys = listed(f"{one.identity}: {one.why or 'it does not hold'}" for one in facts.signatures)
        problems.append(
            fail(
                f"none of {len(facts.signatures)} signatures holds; {whys}",
                "have an allowed signer sign it again (`modelreg push` of the same files)",
            )
        )
    elif not by:
        problems.append(
            fail(
                f"no signature is by whom the policy asks for; signed by {listed(one.identity for one in holding)}, the "
                f"policy names {listed(rule.identities or ())}",
                "have one of those sign it (`modelreg push` of the same files)",
            )
        )
    elif not timed:
        problems.append(
            missing(
                f"no trusted time proves when it was signed; signed by {listed(one.identity for one in by)}",
                "sign it again with a time stamp (`modelreg push` without --no-timestamp)",
            )
        )
    bad = len(facts.signatures) - len(holding)
    others = f"; {bad} further do not hold" if bad else ""
    passed = ", ".join(
        f"{shown(one.identity)} ({shown(one.authority)}{f', {minute(one.signed_at)}' if one.signed_at else ''})"
        for one in timed[:3]
    )
    return outcome("signature", problems, f"signed by {passed}{others}")


def source(entry: Entry, facts: Facts) -> Outcome:
    """Where the bytes first came from is stated, allowed, and what upstream has."""
    rule = entry.source
    assert rule is not None  # it is on
    problems: list[Problem] = []
    if facts.source is not None:
        problems += _imported(rule, facts.source)
        passed = (
            f"imported from {shown(facts.source.uri)} at {shown(facts.source.revision)} by "
            f"{shown(facts.source.fetched_by)}; signed by {shown(facts.source.identity)}"
        )
    elif facts.relation is None:
        passed = ""
        problems.append(
            missing(
                "nobody states where the bytes come from; there is neither an import nor a provenance statement",
                "import it (`modelreg import`), or push it with what it was made of (--base, --dataset)",
            )
        )
    else:
        passed = f"made here ({shown(facts.relation)}), by attested provenance"
        if not rule.made_here:
            problems.append(
                fail(f"it was made here ({shown(facts.relation)}); the policy takes imports only", "set `made_here`")
            )
    foreign = [one for one in facts.ancestors if one.source is not None and not named(rule.allow or (), one.source)]
    if foreign:
        where = listed(f"{one.artifact} from {one.source}" for one in foreign)
        problems.append(
            fail(
                f"it was made of what comes from a source that is not allowed; {where}",
                "make it of an allowed base, or have the source added to the policy",
            )
        )
    return outcome("source", problems, passed)


def _imported(rule: SourceRule, found: SourceFact) -> list[Problem]:
    problems = []
    if not named(rule.allow or (), found.uri):
        problems.append(
            fail(
                f"its source is not allowed; imported from {shown(found.uri)}, the policy allows "
                f"{listed(rule.allow) if rule.allow else 'no imports'}",
                "import it from an allowed source, or have this one added to the policy",
            )
        )
    if found.matched is False:
        problems.append(
            fail(
                f"the bytes are not what the source declared; statement {shown(found.statement)}",
                "import it again; if it stays so, tell whoever runs the source",
            )
        )
    elif found.matched is None and not rule.undeclared_digests:
        problems.append(
            missing(
                f"the source declared no digest to compare with; statement {shown(found.statement)}",
                "import it from a source that declares digests, or set `undeclared_digests` in the policy",
            )
        )
    if found.drift:
        problems.append(
            fail(
                f"the source serves other bytes today under {shown(found.revision)}, by the newest check",
                "find out which are right (`modelreg source check`), then import it again",
            )
        )
    elif found.drift is None and rule.checked:
        problems.append(missing("nobody checked the source since the import", "run `modelreg source check`"))
    if found.upstream_signature == "invalid":
        problems.append(
            fail("the signature that came from upstream does not hold", "import a revision whose signature holds")
        )
    elif rule.upstream_signature and found.upstream_signature != "valid":
        said = shown(found.upstream_signature or "none")
        problems.append(
            missing(
                f"no signature of upstream's was verified; it is {said}",
                "import a signed revision by a signer that the trust policy names",
            )
        )
    return problems


def formats(entry: Entry, facts: Facts) -> Outcome:
    """Every file is of a format that the policy allows, by the newest scans."""
    rule = entry.format
    assert rule is not None  # it is on
    problems = []
    found = [one for scan in newest(facts.scans) for one in scan.formats or ()]
    refused = [one for one in found if not named(rule.allow, one.format)]
    if not found:
        problems.append(missing("no scan says what formats the files are of", _SCAN_AGAIN))
    if refused:
        which = listed(f"{one.format}: {one.path} ({one.files} files)" for one in refused)
        problems.append(
            fail(
                f"files of formats that the policy does not allow; {which}",
                "convert them (weights to safetensors), leave them out, and push again",
            )
        )
    return outcome("format", problems, f"all files are {listed(sorted({one.format for one in found}))}")


def scan(entry: Entry, facts: Facts) -> Outcome:
    """The tools that the policy names scanned it completely, lately, by new rules; no tool's newest scan objects."""
    rule = entry.scan
    assert rule is not None  # it is on
    scans = newest(facts.scans)
    problems = [
        missing(f"there is no scan by {tool}", _SCAN_AGAIN)
        for tool in rule.tools
        if not any(one.tool == tool for one in scans)
    ]
    for one in scans:
        if one.tool in rule.tools:
            problems += _aged(rule, one, facts)
        found = [finding for finding in one.findings if rule.refuse == "warn" or finding.severity == "block"]
        if found:
            what = listed(f"{finding.rule} in {finding.path}: {finding.what}" for finding in found)
            problems.append(
                fail(
                    f"the newest scan by {shown(one.tool)} objects {len(found)} times; {what}",
                    "remove what it names and push again; where it is wrong, ask for a waiver",
                )
            )
    required = [one for one in scans if one.tool in rule.tools]
    passed = listed(f"{one.tool} {one.tool_version} on {day(one.scanned_at)}" for one in required)
    return outcome("scan", problems, f"complete and without objection: {passed}")


def newest(scans: tuple[ScanFact, ...]) -> list[ScanFact]:
    """The newest scan of each tool; all of them where several are of one time, so that none can hide another."""
    last = {one.tool: one.scanned_at for one in sorted(scans, key=lambda one: one.scanned_at)}
    return [one for one in scans if one.scanned_at == last[one.tool]]


def _aged(rule: ScanRule, found: ScanFact, facts: Facts) -> list[Problem]:
    name, problems = f"the newest scan by {shown(found.tool)}", []
    age = facts.evaluated_at - found.scanned_at
    if age > timedelta(days=rule.max_age_days):
        problems.append(
            fail(
                f"{name} is {age.days} days old; {day(found.scanned_at)}, and {rule.max_age_days} days are allowed",
                _SCAN_AGAIN,
            )
        )
    elif age < -MAX_CLOCK_SKEW:
        problems.append(fail(f"{name} is dated in the future; {minute(found.scanned_at)}", _SCAN_AGAIN))
    if not RULES_VERSION.fullmatch(found.rules_version) or found.rules_version < rule.rules_version:
        problems.append(
            fail(
                f"{name} went by old rules; {shown(found.rules_version)}, and {rule.rules_version} or newer is asked for",
                _SCAN_AGAIN,
            )
        )
    if not found.complete:
        problems.append(
            fail(
                f"{name} is not complete; a file was not understood or not read ({shown(found.statement)})",
                "see what it names (`modelreg scan`), repair or leave out that file, and push again",
            )
        )
    return problems
