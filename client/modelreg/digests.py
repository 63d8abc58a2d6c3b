"""Digests as text: `sha256:<64 lowercase hex>` or `blake3:<64 lowercase hex>`."""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, Self, get_args

from modelreg.errors import Invalid

Algorithm = Literal["sha256", "blake3"]
HEX_64 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, order=True)
class Digest:
    """An algorithm and 32 bytes as 64 lowercase hex digits. Always well-formed."""

    algorithm: Algorithm
    hex: str

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(Algorithm) or not is_hex_64(self.hex):
            raise Invalid(f"not a digest: {self.algorithm}:{self.hex[:80]!r}", field="digest")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def parse(cls, untrusted_text: str) -> Self:
        """Read `algorithm:hex`; nothing else is a digest (no upper case, no short form).

        Raises:
            Invalid: anything else.
        """
        algorithm, colon, value = untrusted_text.partition(":")
        if not colon or algorithm not in get_args(Algorithm) or not is_hex_64(value):
            raise Invalid(
                f"{untrusted_text[:90]!r} is not a digest; write sha256: or blake3: and 64 lowercase hex digits",
                field="digest",
                value=untrusted_text[:200],
            )
        return cls(algorithm, value)  # type: ignore[arg-type]  # checked against get_args above


def is_hex_64(untrusted_text: object) -> bool:
    """Whether this is a str of exactly 64 lowercase hex digits (safe in a path and in a key)."""
    return isinstance(untrusted_text, str) and HEX_64.fullmatch(untrusted_text) is not None


def sha256_of(data: bytes) -> Digest:
    """The SHA-256 digest of bytes already in memory."""
    return Digest("sha256", hashlib.sha256(data).hexdigest())
