"""How sensitive an artifact or a dataset is: four classes in one order. What is made of something is never below it."""

from collections.abc import Iterable
from enum import StrEnum

from modelreg.errors import Invalid


class Classification(StrEnum):
    """From what anybody may have to what few may; members stand in that order."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"

    @property
    def rank(self) -> int:
        """0 for public; a higher one is more sensitive."""
        return list(Classification).index(self)


def highest(classes: Iterable[Classification]) -> Classification | None:
    """The most sensitive of them; None of none."""
    return max(classes, key=lambda one: one.rank, default=None)


def parse_classification(untrusted_text: str) -> Classification:
    """Read a class.

    Raises:
        Invalid: it is none of the four.
    """
    try:
        return Classification(untrusted_text)
    except ValueError:
        raise Invalid(
            f"{untrusted_text[:80]!r} is no class; write one of {', '.join(Classification)}",
            field="classification",
            value=untrusted_text[:80],
        ) from None
