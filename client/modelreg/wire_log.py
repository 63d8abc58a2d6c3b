"""What travels of the custody log itself (API v1): proofs and entries. Hashes, entries and salts are base64."""

from typing import Annotated, Any

from pydantic import Field

from modelreg.merkle import MAX_PROOF_HASHES
from modelreg.wire import Hex64, Wire

MAX_ENTRIES = 256  # of one answer

Index = Annotated[int, Field(ge=0, lt=2**63)]
Base64Hash = Annotated[str, Field(max_length=44)]
Hashes = Annotated[list[Base64Hash], Field(max_length=MAX_PROOF_HASHES)]


class InclusionProof(Wire):
    """The audit path of entry `index` in the log of `size` entries, from the sibling up."""

    index: Index
    size: Index
    hashes: Hashes


class ConsistencyProof(Wire):
    """That the log of `old` entries is the beginning of that of `new`."""

    old: Index
    new: Index
    hashes: Hashes


class Opening(Wire):
    """What a commitment in an entry stands for: SHA-256 over `salt` and the canonical JSON of `body`."""

    commitment: Hex64
    salt: Annotated[str, Field(max_length=44)]
    body: dict[str, Any]


class LogEntries(Wire):
    """Entries from `start` on, and the openings of their commitments as far as they were not erased."""

    start: Index
    entries: Annotated[list[Annotated[str, Field(max_length=11_000)]], Field(max_length=MAX_ENTRIES)]
    openings: Annotated[list[Opening], Field(max_length=2 * MAX_ENTRIES)]
