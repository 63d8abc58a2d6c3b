"""What a file is, by its content alone. The order matters: what is certain comes first, what is only likely last."""

from modelreg.gate import arrays, gguf, images, packed, pickles, protobufs, tars, texts, zips
from modelreg.gate.readable import Window

HEAD_BYTES = 4096
MAX_SAFETENSORS_HEADER = 100_000_000
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_AT = (0, 512, 1024, 2048)
_MAGICS = (
    (gguf.MAGIC, "gguf"),
    (zips.ENTRY, "zip"),
    (zips.END, "zip"),
    (b"PK\x07\x08", "zip"),
    (_HDF5, "hdf5"),
    (arrays.MAGIC, "npy"),
    *images.MAGICS,
    *packed.MAGICS,
)
_EXECUTABLES = (
    (b"\x7fELF", "ELF"),
    (b"\xfe\xed\xfa\xce", "Mach-O"),
    (b"\xfe\xed\xfa\xcf", "Mach-O"),
    (b"\xce\xfa\xed\xfe", "Mach-O"),
    (b"\xcf\xfa\xed\xfe", "Mach-O"),
    (b"\xca\xfe\xba\xbe", "Mach-O or Java"),
    (b"\0asm", "WebAssembly"),
    (b"!<arch>\n", "a library archive"),
    (b"dex\n", "Dalvik"),
    (b"BC\xc0\xde", "LLVM bitcode"),
)
_WEAK_EXECUTABLES = ((b"MZ", "PE"),)
# Recognised, to say what it is; not looked into.
_UNSERVED = (
    (b"lmgg", "GGML"),
    (b"tjgg", "GGJT"),
    (b"fmgg", "GGMF"),
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"%PDF-", "PDF"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\x04\x22\x4d\x18", "LZ4"),
    (b"SQLite format 3\0", "SQLite"),
)


def recognise(window: Window) -> tuple[str, str]:
    """The format's word, and for some a further word on it.

    Raises:
        Objection: `limit`.
    """
    head = window.head(HEAD_BYTES)
    if (certain := _by_magic(window, head)) is not None:
        return certain
    if _is_safetensors(window, head):
        return "safetensors", ""
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return "pickle", f"protocol {head[1]}"
    if tars.is_header(head[:512]):
        return "tar", ""
    opcodes = pickles.follow(window)
    whole = opcodes.stop is not None and window.size - opcodes.stop <= 1
    if texts.is_text(window):
        return ("pickle", "protocol 0") if opcodes.acts or whole else ("text", "")
    if opcodes.acts or opcodes.pickles:
        return "pickle", "without a protocol"
    return _guess(window, head)


def _by_magic(window: Window, head: bytes) -> tuple[str, str] | None:
    for magic, name in _MAGICS:
        if head.startswith(magic) and (name != "lzma" or not texts.is_text(window)):
            return name, ""
    for magic, name in _EXECUTABLES:
        if head.startswith(magic):
            return "executable", name
    for magic, name in _UNSERVED:
        if head.startswith(magic):
            return "other", name
    if head[4:8] == b"TFL3":
        return "other", "TensorFlow Lite"
    return ("webp", "") if images.is_webp(head) else None


def _guess(window: Window, head: bytes) -> tuple[str, str]:
    for magic, name in _WEAK_EXECUTABLES:
        if head.startswith(magic):
            return "executable", name
    if len(head) >= 16 and head[2:4] == b"\r\n":
        return "executable", "Python bytecode"
    if packed.is_zlib(head[:64]):
        return "zlib", ""
    if (kind := protobufs.recognise(window)) is not None:
        return kind, ""
    if len(head) > 1 and (0x81 <= head[0] <= 0x8F or head[0] in {0xDE, 0xDF}) and _is_msgpack_text(head):
        return "msgpack", ""
    return "unknown", ""


def _is_safetensors(window: Window, head: bytes) -> bool:
    """A length that could be a header's, and then an object: broken or not, it is meant to be one."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    return int.from_bytes(head[:8], "little") <= max(MAX_SAFETENSORS_HEADER, window.size)


def _is_msgpack_text(head: bytes) -> bool:
    at = {0xDE: 3, 0xDF: 5}.get(head[0], 1)
    return len(head) > at and (0xA0 <= head[at] <= 0xBF or head[at] in {0xD9, 0xDA})


def other_readings(window: Window, found: str) -> list[str]:
    """What else a file is to a reader that looks elsewhere: at its end, behind its first block, or not at all."""
    readings = []
    if found not in {"pickle", "text"}:
        opcodes = pickles.follow(window)
        if opcodes.acts:
            readings.append(f"a pickle that imports {', '.join(list(opcodes.imports)[:5]) or 'nothing'}")
    if found != "zip" and zips.ends_like_one(window):
        readings.append("a ZIP archive, read from its end")
    head = window.head(HEAD_BYTES)
    if found != "tar" and tars.is_header(head[:512]):
        readings.append("a TAR archive")
    if found != "hdf5" and any(head[at : at + 8] == _HDF5 for at in _HDF5_AT):
        readings.append("an HDF5 file")
    return readings
