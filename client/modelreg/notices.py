"""What this machine has to say to the registry and could not yet: files in order, durable before anything relies on them.

    <state_dir>/notices/<registry>/000000000012.json    {"kind": "confirmation", "body": {…}}

Sending is the caller's; a message is removed when it was taken, or will never be.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelreg.durable import make_folder, replace_file, sync_folder
from modelreg.errors import TooLarge

MAX_WAITING = 10_000


@dataclass(frozen=True)
class Message:
    """One thing to say."""

    kind: str
    body: dict[str, Any]
    path: Path

    def remove(self) -> None:
        """It was said."""
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)


class Notices:
    """A folder of messages. One process writes it at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder)

    def put(self, kind: str, body: dict[str, Any]) -> None:
        """Add a message behind all others.

        Raises:
            TooLarge: as many wait as there is room for.
        """
        names = self._names()
        if len(names) >= MAX_WAITING:
            raise TooLarge(
                f"{MAX_WAITING} messages to the registry wait in {self._folder}; nothing is added before they are sent",
                limit=MAX_WAITING,
            )
        number = int(names[-1].stem) + 1 if names else 0
        replace_file(self._folder / f"{number:012}.json", json.dumps({"kind": kind, "body": body}).encode(), mode=0o600)

    def waiting(self) -> Iterator[Message]:
        """The messages, oldest first. One that cannot be read is put aside under another name, and not lost."""
        for path in self._names():
            try:
                document = json.loads(path.read_text("utf-8"))
                message = Message(str(document["kind"]), dict(document["body"]), path)
            except (ValueError, KeyError, TypeError):
                path.rename(path.with_suffix(".unreadable"))
                continue
            yield message

    def __len__(self) -> int:
        """How many wait."""
        return len(self._names())

    def _names(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.json") if path.stem.isdigit())
