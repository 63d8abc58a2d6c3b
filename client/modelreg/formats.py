"""What a file of weights is, by its first bytes: for files that no registry knows. Nothing in it is believed or run.

All lengths come from the file itself, so each is held against a limit before anything is read.
"""

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

_HEAD_BYTES = 64
_MAX_HEADER_BYTES = 16 * 1024 * 1024
_MAX_METADATA = 8  # members shown
_MAX_TEXT_CHARS = 100

_MAGICS = (
    (b"GGUF", "gguf"),
    (b"PK\x03\x04", "zip"),  # what torch.save writes: pickles in it
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"\x93NUMPY", "numpy"),
    (b"\x80\x02", "pickle"),
    (b"\x80\x03", "pickle"),
    (b"\x80\x04", "pickle"),
    (b"\x80\x05", "pickle"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


def describe(path: Path) -> tuple[str, dict[str, str | int]]:
    """The format of a file, and what its header says: of safetensors the tensors and metadata, of GGUF the version.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        for magic, name in _MAGICS:
            if head.startswith(magic):
                return name, _gguf(head) if name == "gguf" else {}
        if (header := _safetensors_header(file, head)) is not None:
            return "safetensors", _safetensors(header)
        return ("json", {}) if head.lstrip()[:1] in {b"{", b"["} else ("unknown", {})


def _gguf(head: bytes) -> dict[str, str | int]:
    if len(head) < 24:
        return {}
    version, tensors, members = struct.unpack_from("<IQQ", head, 4)
    return {"version": version, "tensors": tensors, "metadata": members}


def _safetensors_header(file: BinaryIO, head: bytes) -> dict[str, Any] | None:
    if len(head) < 9 or head[8:9] != b"{":
        return None
    (length,) = struct.unpack_from("<Q", head)
    if length > _MAX_HEADER_BYTES:
        return None
    file.seek(8)
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def _safetensors(header: dict[str, Any]) -> dict[str, str | int]:
    tensors = {name: value for name, value in header.items() if name != "__metadata__"}
    types = sorted({str(value.get("dtype"))[:20] for value in tensors.values() if isinstance(value, dict)})
    found: dict[str, str | int] = {"tensors": len(tensors), "types": readable(", ".join(types))}
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict):
        for name, value in sorted(metadata.items())[:_MAX_METADATA]:
            found[f"metadata.{readable(name)}"] = readable(str(value))
    return found


def readable(text: str) -> str:
    """A short text that is Unicode, whatever a file or a file's name holds."""
    return text[:_MAX_TEXT_CHARS].encode("utf-8", "replace").decode()
