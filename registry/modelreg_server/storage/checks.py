"""What every store checks before it acts on what it was given."""

import re
from collections.abc import Iterable, Iterator

from modelreg.errors import Invalid
from modelreg_server.storage import Upload

# What blob_key() makes. No dot: so neither `..`, which leaves a directory and which HTTP libraries resolve in a URL,
# nor any name that a store makes for itself by adding a suffix.
_KEY = re.compile(r"[0-9A-Za-z_-]{1,128}(/[0-9A-Za-z_-]{1,128})*")
# What `log_copies` makes: the same, below `log/`, and `.p` where tlog-tiles has it.
_LOG_KEY = re.compile(r"log(/[0-9A-Za-z_-]{1,128}(\.p)?)+")
MAX_LISTED = 1000


def checked_key(key: str) -> str:
    """The key, if it is one of ours. Keys are made by us, so this is the second lock on the door.

    Raises:
        Invalid: it is not.
    """
    if not _KEY.fullmatch(key):
        raise Invalid("This is not a blob key.", field="key", value=key[:200])
    return key


def checked_log_key(key: str) -> str:
    """The key or folder, if it is one of the log's.

    Raises:
        Invalid: it is not.
    """
    if not _LOG_KEY.fullmatch(key):
        raise Invalid("This is not a key of the log's.", field="key", value=key[:200])
    return key


def part_size_bytes(upload: Upload, number: int) -> int:
    """The size of part `number`.

    Raises:
        Invalid: the upload has no such part. (`Upload.part_size_bytes` itself would answer with nonsense.)
    """
    if not 1 <= number <= upload.part_count:
        raise Invalid(f"The upload has parts 1 to {upload.part_count}.", field="part", value=str(number)[:200])
    return upload.part_size_bytes(number)


def part_body(upload: Upload, number: int, body: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks of `body`, held to the length of part `number`. `body` is untrusted and read no further than needed.

    A block that would pass the end of the part is never yielded, so it cannot reach the neighbouring part.

    Raises:
        Invalid: there is no such part, or (when the last block was taken) the body is too short or too long.
    """
    expected_bytes = part_size_bytes(upload, number)
    seen_bytes = 0
    for block in body:
        seen_bytes += len(block)
        if seen_bytes > expected_bytes:
            break
        if block:
            yield block
    if seen_bytes != expected_bytes:
        many = f"at least {seen_bytes}" if seen_bytes > expected_bytes else str(seen_bytes)
        raise Invalid(
            f"Part {number} must be {expected_bytes} bytes long, {many} came: send the part again.",
            field="body",
            value=f"{many} bytes",
        )
