"""A file that arrives in pieces, in any order: which neighbouring chunks to ask for together, and bytes put in their place."""

import os
from collections.abc import Sequence


def runs(chunks: Sequence[int], longest: int) -> list[range]:
    """Neighbouring chunks (by number, ascending) together, at most `longest` of them."""
    found: list[range] = []
    for at in chunks:
        if found and found[-1].stop == at and len(found[-1]) < longest:
            found[-1] = range(found[-1].start, at + 1)
        else:
            found.append(range(at, at + 1))
    return found


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` from `offset` (bytes) on; the kernel may take it in parts.

    Raises:
        OSError: it does not take it.
    """
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written
