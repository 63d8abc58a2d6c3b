"""What a user types to name an artifact: `namespace/name[:tag][@sha256:…]`, in look-ups also a bare digest."""

import re
from dataclasses import dataclass

from modelreg.digests import Digest
from modelreg.errors import Invalid

# The grammar of OCI repository names and tags, with exactly one namespace: safe in paths, URLs, keys and shell words.
_PART = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
REPOSITORY = re.compile(rf"(?P<namespace>{_PART})/(?P<name>{_PART})", re.ASCII)
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
MAX_REPOSITORY_CHARS = 128
DEFAULT_TAG = "latest"


@dataclass(frozen=True)
class Reference:
    """A parsed reference. With both tag and digest, the digest decides and the tag is only remembered."""

    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def tag_or_default(self) -> str:
        """The tag to resolve when there is no digest; `latest` where none is written, as in `docker pull`."""
        return self.tag or DEFAULT_TAG


def parse_reference(untrusted_text: str) -> Reference:
    """Read a reference.

    Raises:
        Invalid: not of the form above; the message says which part.
    """
    rest, at, digest_text = untrusted_text.partition("@")
    digest = Digest.parse(digest_text) if at else None
    if digest and digest.algorithm != "sha256":
        raise Invalid(
            f"{untrusted_text[:200]!r}: an artifact digest is a sha256; a blake3 names a single blob",
            field="reference",
            value=untrusted_text[:200],
        )
    repository, colon, tag = rest.partition(":")
    return Reference(parse_repository(repository), parse_tag(tag) if colon else None, digest)


def parse_repository(untrusted_text: str) -> str:
    """Return the text if it is `namespace/name`.

    Raises:
        Invalid: it is not.
    """
    if len(untrusted_text) > MAX_REPOSITORY_CHARS or not REPOSITORY.fullmatch(untrusted_text):
        raise Invalid(
            f"{untrusted_text[:200]!r} is not a repository; write namespace/name in lower case letters, digits and "
            f"single . _ - between them, at most {MAX_REPOSITORY_CHARS} characters",
            field="repository",
            value=untrusted_text[:200],
        )
    return untrusted_text


def parse_tag(untrusted_text: str) -> str:
    """Return the text if it is a tag.

    Raises:
        Invalid: it is not.
    """
    if not TAG.fullmatch(untrusted_text):
        raise Invalid(
            f"{untrusted_text[:200]!r} is not a tag; write 1 to 128 letters, digits, . _ -, not starting with . or -",
            field="tag",
            value=untrusted_text[:200],
        )
    return untrusted_text


def glob_matches(pattern: str, text: str) -> bool:
    """Anchored glob: `*` stands for any run of characters but `/`; everything else stands for itself.

    No `**`, no `?`, no classes: a rule is readable or it is wrong. Without backtracking: patterns come in queries too, and
    a regular expression of ten stars would hold the process for years.
    """
    wanted, found = pattern.split("/"), text.split("/")
    return len(wanted) == len(found) and all(map(_part_matches, wanted, found))


def _part_matches(pattern: str, text: str) -> bool:
    first, *rest = pattern.split("*")
    if not rest:
        return first == text
    *middle, last = rest
    start, end = len(first), len(text) - len(last)
    if start > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in middle:  # the first place where it stands leaves the most to those that follow
        found = text.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return True
