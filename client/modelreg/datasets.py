"""A dataset's record as its owner signs it: what it is, whose, how sensitive, on which basis, where and for how long.

The predicate of a `dataset` statement (docs/spec/attestations.md), whose subject is the dataset by digest. Pure.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelreg.classification import Classification
from modelreg.digests import Digest
from modelreg.errors import Invalid, ModelregError, SignatureInvalid
from modelreg.references import parse_repository

MAX_LINE_CHARS = 200
MAX_SOURCE_CHARS = 2000
MAX_ZONES = 32
_ZONE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_MEMBERS = frozenset(
    {"name", "owner", "classification", "lawful_basis", "residency", "retention_until", "source"},
)


@dataclass(frozen=True)
class Dataset:
    """A dataset by name and digest (sha256). `residency` are the zones where it may rest; none says nothing of it.

    `stated_at` is when its owner says so: a registry takes a record in place of an older one only.
    """

    name: str
    digest: Digest
    owner: str
    classification: Classification
    lawful_basis: str
    residency: tuple[str, ...] = ()
    retention_until: datetime | None = None
    source: str | None = None
    stated_at: datetime | None = None

    def __post_init__(self) -> None:
        parse_repository(self.name)
        if self.digest.algorithm != "sha256":
            raise Invalid(f"a dataset is named by its sha256, not by {self.digest}", field="digest")
        for field, text, limit in (
            ("owner", self.owner, MAX_LINE_CHARS),
            ("lawful_basis", self.lawful_basis, MAX_LINE_CHARS),
            ("source", self.source if self.source is not None else "-", MAX_SOURCE_CHARS),
        ):
            if not text.strip() or len(text) > limit or not text.isprintable():
                raise Invalid(f"{field} is one line of 1 to {limit} characters", field=field, value=text[:80])
        if len(self.residency) > MAX_ZONES or len(set(self.residency)) < len(self.residency):
            raise Invalid(f"residency is a list of up to {MAX_ZONES} zones, each once", field="residency")
        for zone in self.residency:
            if not _ZONE.fullmatch(zone):
                raise Invalid(f"{zone[:80]!r} is no zone; write it as eu-1", field="residency", value=zone[:80])
        for field, at in (("retention_until", self.retention_until), ("stated_at", self.stated_at)):
            if at is not None and at.tzinfo is None:
                raise Invalid(f"{field} needs an offset, such as 2028-01-01T00:00:00Z", field=field)

    @property
    def predicate(self) -> dict[str, Any]:
        """What is signed; the digest is the statement's subject."""
        until, stated = self.retention_until, self.stated_at
        members = {
            "name": self.name,
            "owner": self.owner,
            "classification": self.classification.value,
            "lawful_basis": self.lawful_basis,
            "residency": list(self.residency),
            "retention_until": f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if until is not None else None,
            "source": self.source,
        }
        if stated is not None:
            members["stated_at"] = f"{stated.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        return members


def read(digest: Digest, predicate: Mapping[str, Any]) -> Dataset:
    """Read the predicate of a statement about `digest`.

    Args:
        predicate: untrusted as far as its signer is.

    Raises:
        SignatureInvalid: a member is missing, unknown or malformed.
    """
    if not _MEMBERS <= predicate.keys() <= _MEMBERS | {"stated_at"}:
        raise SignatureInvalid(f"the dataset statement has not exactly the members {', '.join(sorted(_MEMBERS))}")
    try:
        return Dataset(
            name=_text(predicate, "name"),
            digest=digest,
            owner=_text(predicate, "owner"),
            classification=Classification(_text(predicate, "classification")),
            lawful_basis=_text(predicate, "lawful_basis"),
            residency=tuple(_texts(predicate["residency"])),
            retention_until=_time(predicate["retention_until"], "retention_until"),
            stated_at=_time(predicate.get("stated_at"), "stated_at"),
            source=_text(predicate, "source") if predicate["source"] is not None else None,
        )
    except (ModelregError, ValueError) as error:
        what = error.detail if isinstance(error, ModelregError) else str(error)
        raise SignatureInvalid(f"the dataset statement cannot be read: {what[:200]}") from None


def _text(members: Mapping[str, Any], name: str) -> str:
    if not isinstance(members[name], str):
        raise SignatureInvalid(f"{name} is no text")
    return str(members[name])


def _texts(untrusted: Any) -> Sequence[str]:
    if not isinstance(untrusted, list) or not all(isinstance(item, str) for item in untrusted):
        raise SignatureInvalid("residency is no list of texts")
    return untrusted


def _time(untrusted: Any, name: str) -> datetime | None:
    if untrusted is None:
        return None
    if not isinstance(untrusted, str):
        raise SignatureInvalid(f"{name} is no time")
    value = datetime.fromisoformat(untrusted)
    if value.tzinfo is None:
        raise ValueError(f"{name} has no offset")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name} is outside the years 1 to 9999") from None
