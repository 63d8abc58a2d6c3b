"""How rules speak: what is wrong with the evidence, what to do next, in bounded lines of printable text.

A rule collects every problem it finds; the worst of them is its status. What stands in facts was written by others: it
is shortened and escaped before it stands in a reason.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from unicodedata import ucd_3_2_0

from modelreg.promotion_facts import Outcome

MAX_REASON_CHARS = 2000
MAX_SHOWN_CHARS = 160  # of one text from outside
MAX_LISTED = 3
_category = ucd_3_2_0.category


class Problem(NamedTuple):
    """Why a rule does not pass. `fail`: what is known is wrong; `missing`: what it needs is not known."""

    status: Literal["fail", "missing"]
    what: str
    fix: str


def fail(what: str, fix: str) -> Problem:
    """What is known is wrong."""
    return Problem("fail", what, fix)


def missing(what: str, fix: str) -> Problem:
    """What the rule needs is not known."""
    return Problem("missing", what, fix)


def outcome(rule: str, problems: Sequence[Problem], passed: str) -> Outcome:
    """What a rule says: `passed`, or all its problems; the first fix of each kind."""
    if not problems:
        return Outcome(rule=rule, status="pass", reason=bounded(passed))
    worst = "fail" if any(problem.status == "fail" for problem in problems) else "missing"
    reason = ". Also: ".join(problem.what for problem in problems[:MAX_LISTED])
    if len(problems) > MAX_LISTED:
        reason += f". And {len(problems) - MAX_LISTED} more"
    fixes = dict.fromkeys(problem.fix for problem in problems[:MAX_LISTED])
    return Outcome(rule=rule, status=worst, reason=bounded(reason), fix=bounded("; ".join(fixes)))


def bounded(text: str) -> str:
    """The text as one printable line, not longer than a reason may be."""
    return _cut(_printable(text[: MAX_REASON_CHARS + 1]), MAX_REASON_CHARS)


def shown(untrusted_text: str) -> str:
    """A text from outside as it may stand in a line: printable and short."""
    return _cut(_printable(untrusted_text[: MAX_SHOWN_CHARS + 1]), MAX_SHOWN_CHARS)


def listed(untrusted_texts: Iterable[str]) -> str:
    """Some of them, and how many more there are."""
    texts = list(dict.fromkeys(untrusted_texts))
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return ", ".join(shown(text) for text in texts[:MAX_LISTED]) + more


def day(at: datetime) -> str:
    """A date: 2026-11-24."""
    return at.date().isoformat()


def minute(at: datetime) -> str:
    """A time: 2026-11-24 12:00Z."""
    return f"{at.replace(tzinfo=None).isoformat(' ', 'minutes')}Z"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _printable(text: str) -> str:
    """The text with everything escaped that is neither printable ASCII nor a letter or digit.

    Of a Unicode that never changes again: what newer ones call printable depends on the Python that asks, and a decision
    must not.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _plain(char) else ascii(char)[1:-1] for char in text)


def _plain(char: str) -> bool:
    return " " <= char <= "~" or char == "…" or _category(char)[0] in "LN"
