"""Pictures of a model card: from their first marker to their last, and nothing behind it."""

from modelreg.gate.readable import Window
from modelreg.gate.report import Objection

MAX_CHUNKS = 100_000
MAX_BYTES = 64 * 1024 * 1024
MAGICS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"))


def is_webp(head: bytes) -> bool:
    """Whether it begins as a WebP."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def check(window: Window, name: str) -> None:
    """Look at a picture.

    Raises:
        Objection: `malformed` where something follows it, `limit`.
    """
    if window.size > MAX_BYTES:
        raise Objection("limit", f"a picture of more than {MAX_BYTES} bytes")
    if name == "png":
        _png(window)
    elif name == "webp":
        if int.from_bytes(window.read(4, 4), "little") + 8 != window.size:
            raise Objection("malformed", "something follows the picture")
    elif window.tail(1 if name == "gif" else 2) != (b";" if name == "gif" else b"\xff\xd9"):
        raise Objection("malformed", "something follows the picture")


def _png(window: Window) -> None:
    at = 8
    for _ in range(MAX_CHUNKS):
        length, kind = int.from_bytes(window.read(at, 4), "big"), window.read(at + 4, 4)
        at += 12 + length
        if kind == b"IEND":
            if at != window.size:
                raise Objection("malformed", "something follows the picture")
            return
    raise Objection("limit", f"more than {MAX_CHUNKS} parts")
