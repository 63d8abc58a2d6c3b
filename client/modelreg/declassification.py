"""A declassification: somebody who may says that an artifact or dataset need not be as sensitive as what it was made from.

The predicate of a `declassification` statement (docs/spec/attestations.md). It covers what it names and nothing above: a
class that is raised later beyond `from` is not lowered by it. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelreg.classification import Classification
from modelreg.digests import Digest
from modelreg.errors import Invalid, ModelregError, SignatureInvalid

MAX_REASON_CHARS = 500
MAX_APPROVERS = 16
_REQUIRED = frozenset({"artifact", "from", "to", "reason"})


@dataclass(frozen=True)
class Declassification:
    """From one class to a lower one. `approved_by` names people beside the signer; their word is not checked here."""

    subject: Digest
    was: Classification
    to: Classification
    reason: str
    approved_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.to.rank >= self.was.rank:
            raise Invalid(
                f"{self.to} is not below {self.was}; a class is raised without a declassification", field="to"
            )
        for text in (self.reason, *self.approved_by):
            if not text.strip() or len(text) > MAX_REASON_CHARS or not text.isprintable():
                raise Invalid(f"a reason is one line of 1 to {MAX_REASON_CHARS} characters", field="reason")
        if len(self.approved_by) > MAX_APPROVERS:
            raise Invalid(f"more than {MAX_APPROVERS} approvers", field="approved_by")

    @property
    def predicate(self) -> dict[str, Any]:
        """What is signed."""
        members = {
            "artifact": str(self.subject),
            "from": self.was.value,
            "to": self.to.value,
            "reason": self.reason,
        }
        return {**members, "approved_by": list(self.approved_by)} if self.approved_by else members

    def lowers(self, present: Classification) -> Classification:
        """What a class becomes by it: unchanged where it is above what this covers."""
        if present.rank > self.was.rank:
            return present
        return min(present, self.to, key=lambda one: one.rank)


def read(subject: Digest, predicate: Mapping[str, Any]) -> Declassification:
    """Read the predicate of a statement about `subject`.

    Raises:
        SignatureInvalid: a member is missing, unknown or malformed, or it names something else than its subject.
    """
    if not _REQUIRED <= predicate.keys() <= _REQUIRED | {"approved_by"}:
        raise SignatureInvalid(f"the declassification has not the members {', '.join(sorted(_REQUIRED))}")
    names = ["artifact", "from", "to", "reason"]
    approved_by = predicate.get("approved_by", [])
    if not isinstance(approved_by, list) or not all(
        isinstance(text, str) for text in (*approved_by, *(predicate[name] for name in names))
    ):
        raise SignatureInvalid("the declassification holds something that is no text")
    if predicate["artifact"] != str(subject):
        raise SignatureInvalid(f"the declassification names {predicate['artifact'][:80]}, and is about {subject}")
    try:
        return Declassification(
            subject,
            Classification(predicate["from"]),
            Classification(predicate["to"]),
            predicate["reason"],
            tuple(approved_by),
        )
    except (ModelregError, ValueError) as error:
        what = error.detail if isinstance(error, ModelregError) else str(error)
        raise SignatureInvalid(f"the declassification cannot be read: {what[:200]}") from None


def best(given: Iterable[Declassification], present: Classification) -> Classification:
    """The lowest class that one of them allows."""
    return min((one.lowers(present) for one in given), key=lambda one: one.rank, default=present)
