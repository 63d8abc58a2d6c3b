"""The model card among an artifact's files: which file it is, and what licence its first lines claim. Pure."""

import re
from collections.abc import Iterable

from modelreg.manifests import FileEntry

MAX_CARD_BYTES = 64 * 1024  # that are shown; a card has a few KiB
_NAMES = ("README.md", "MODEL_CARD.md", "model_card.md", "modelcard.md", "README.txt", "README")
# The front matter of a hub's card is YAML; of it this one line is read, and nothing is executed or resolved.
_LICENCE = re.compile(
    r"^(?:license|licence):[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9 .+_/-]{0,99}?)[\"']?[ \t]*$", re.MULTILINE
)


def find(files: Iterable[FileEntry]) -> FileEntry | None:
    """The card at the top of an artifact, if it has one."""
    by_path = {entry.path: entry for entry in files}
    return next((by_path[name] for name in _NAMES if name in by_path), None)


def text_of(untrusted: bytes) -> str:
    """A card's text as far as it is shown; what is no UTF-8 is replaced."""
    return untrusted[:MAX_CARD_BYTES].decode("utf-8", "replace")


def claimed_licence(text: str) -> str | None:
    """The licence that the card's front matter names: its author's claim."""
    if not text.startswith("---"):
        return None
    found = _LICENCE.search(text[3:].partition("\n---")[0])
    return found[1] if found else None
