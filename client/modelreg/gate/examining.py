"""One file, or one entry of an archive: its format, the checks that go with it, and what its name promises."""

from collections.abc import Callable

from modelreg import safetensors_header
from modelreg.errors import Invalid
from modelreg.gate import (
    arrays,
    gguf,
    images,
    naming,
    packed,
    pickles,
    protobufs,
    recognising,
    tars,
    texts,
    zips,
)
from modelreg.gate.looking import Look
from modelreg.gate.readable import Held, Window
from modelreg.gate.report import Objection, shown

_NAMED = 12  # imports in a sentence
_HDF5_SEARCHED_BYTES = 8 * 1024 * 1024
_LAMBDAS = (b'"Lambda"', b'"__lambda__"', b"TorchModuleWrapper", b"TFSMLayer")
_UNSERVED = {
    "savedmodel": "a TensorFlow SavedModel: a graph is a program, with operators that read and write files",
    "msgpack": "msgpack (Flax): no runtime of ours reads it",
}


def examine(look: Look, window: Window) -> str:
    """Look at a file; returns its format. What is wrong with it is added to the look, nothing is raised for it."""
    if naming.is_code(look.name):
        look.object("code-file", "by its name it is code")
    found = "unknown"
    try:
        found, further = recognising.recognise(window) if window.size else ("text", "")
        found = _check(look, window, found, further)
        for reading in recognising.other_readings(window, _read_as(found)):
            look.object("polyglot", f"as {found} and as {reading}")
    except Objection as objection:
        look.object(objection.rule, objection.what)
    if (what := naming.disagreement(look.name, found)) is not None:
        look.object("extension-mismatch", what)
    return found


def _read_as(found: str) -> str:
    return "zip" if found in {"npz", "torch-zip", "torchscript", "keras"} else found


def _check(look: Look, window: Window, found: str, further: str) -> str:
    """The format's own checks; the format may turn out to be a narrower one.

    What a check refuses to go on with is a finding, and the format stays what it is.
    """
    narrower = found
    try:
        if found == "safetensors":
            _safetensors(window)
        elif found == "text":
            narrower = texts.check(look, window, naming.suffix_of(look.name))
        elif found == "zip":
            narrower = _zip(look, window)
        elif found == "npy":
            _npy(look, window)
        elif found == "pickle":
            _pickle(look, window, further)
        elif found in packed.FORMATS:
            _packed(look, window, found)
        elif (check := _CHECKS.get(found)) is not None:
            check(look, window)
        else:
            _refuse(look, window, found, further)
    except Objection as objection:
        look.object(objection.rule, objection.what)
    return narrower


def _refuse(look: Look, window: Window, found: str, further: str) -> None:
    """What is refused by what it is."""
    if found == "executable":
        look.object("executable", f"machine code or bytecode: {further}")
    elif found == "other":
        look.object("unserved-format", f"{further} is not looked into and no format to serve")
    elif found in _UNSERVED:
        look.object("unserved-format", _UNSERVED[found])
    else:
        look.object("unknown-format", f"it begins with {window.head(8).hex()}, which is nothing that is understood")


def _safetensors(window: Window) -> None:
    try:
        safetensors_header.read(lambda start, stop: window.read(start, min(stop, window.size) - start), window.size)
    except Invalid as error:
        raise Objection("malformed", shown(error.detail, 300)) from None


def _images(name: str) -> Callable[[Look, Window], None]:
    return lambda _look, window: images.check(window, name)


def _tar(look: Look, window: Window) -> None:
    before = len(look.findings)
    for member in tars.members(window):
        if member.size > look.room():
            raise Objection("limit", f"{shown(member.name)} has {member.size} bytes; there is room for {look.room()}")
        _inside(look, member.name, window.read(member.start, member.size))
    _archive(look, before)


def _inside(look: Look, name: str, data: bytes) -> str:
    """Look at an entry of an archive."""
    within = look.within(name)
    look.spent.unpacked_bytes += len(data)
    found = examine(within, Window(Held(data)))
    look.complete = look.complete and within.complete
    return found


def _archive(look: Look, before: int) -> None:
    if len(look.findings) == before:
        look.object("archive", "an archive; all that is in it was looked at, and no runtime needs it packed")


def _zip(look: Look, window: Window) -> str:
    try:
        entries = zips.entries(window)
    except Objection as objection:
        _glance(look, window)
        look.object(objection.rule, objection.what)
        return "zip"
    names = {entry.name for entry in entries}
    kind = _kind_of_zip(names)
    if kind in {"torch-zip", "torchscript"}:
        # Its other entries are the tensors' bare bytes.
        entries = [entry for entry in entries if naming.is_code(entry.name) or entry.name.endswith(".pkl")]
        look.object("pickle", f"{kind}: what torch.save writes, tensors around a pickle")
    elif kind == "keras":
        look.object("unserved-format", "a Keras model: layers are imported by name, weights are HDF5")
    before = len(look.findings)
    for entry in entries:
        if entry.is_folder:
            continue
        try:
            found = _inside(look, entry.name, zips.data_of(window, entry, look.room()))
        except Objection as objection:
            look.object(objection.rule, f"{shown(entry.name)}: {objection.what}")
            continue
        if kind == "npz" and found != "npy":
            kind = "zip"
    if kind == "zip":
        _archive(look, before)
    return kind


def _kind_of_zip(names: set[str]) -> str:
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        scripted = any("/code/" in f"/{name}" or name.endswith("constants.pkl") for name in names)
        return "torchscript" if scripted else "torch-zip"
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return "keras"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "zip"


def _glance(look: Look, window: Window) -> None:
    """Name the pickle at the beginning of an archive that is refused already."""
    head = window.head(recognising.HEAD_BYTES)
    start = 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if head[:4] == zips.ENTRY and head[start : start + 1] == b"\x80":
        opcodes = pickles.follow(Window(Held(head[start:])))
        if opcodes.imports:
            look.object("pickle", f"its first entry is a pickle that imports {_imports(opcodes)}")


def _npy(look: Look, window: Window) -> None:
    if arrays.check(window):
        start = arrays.data_start(window)
        rest = Held(window.read(start, min(window.size - start, look.room())))
        opcodes = pickles.follow(Window(rest))
        _say_pickle(look, opcodes, "an array of Python objects: its items are a pickle")


def _pickle(look: Look, window: Window, further: str) -> None:
    _say_pickle(look, pickles.follow(window), f"a pickle, {further}")


def _say_pickle(look: Look, opcodes: pickles.Opcodes, what: str) -> None:
    look.object("pickle", f"{what}; it imports {_imports(opcodes)}" if opcodes.imports else f"{what}; no imports seen")
    if opcodes.unusual:
        named = ", ".join(opcodes.unusual[:_NAMED])
        more = f" and {len(opcodes.unusual) - _NAMED} more" if len(opcodes.unusual) > _NAMED else ""
        look.object("pickle-import", f"it imports what no tensor needs: {named}{more}")


def _imports(opcodes: pickles.Opcodes) -> str:
    named = ", ".join(list(opcodes.imports)[:_NAMED])
    return f"{named} and {len(opcodes.imports) - _NAMED} more" if len(opcodes.imports) > _NAMED else named


def _packed(look: Look, window: Window, name: str) -> None:
    before = len(look.findings)
    data, objection = packed.unpack(window, name, look.room())
    # Inside `weights.tar.gz` is `weights.tar`.
    inner = look.name.rpartition("/")[2]
    stem = inner.rpartition(".")[0] if naming.suffix_of(inner) in {".gz", ".bz2", ".xz", ".z", ".lzma"} else inner
    stem = f"{inner[:-4]}.tar" if inner.lower().endswith(".tgz") else stem
    if data or objection is None:
        _inside(look, stem or "content", data)
    if objection is not None:
        raise objection
    _archive(look, before)


def _hdf5(look: Look, window: Window) -> None:
    look.object("unserved-format", "HDF5 (h5py, Keras): links, filters and layers in it are not checked")
    head = window.read(0, min(window.size, _HDF5_SEARCHED_BYTES))
    for word in _LAMBDAS:
        if word in head:
            look.object("keras-code", f"it names {shown(word)}: a layer that carries code")


_CHECKS: dict[str, Callable[[Look, Window], None]] = {
    "gguf": gguf.check,
    "onnx": protobufs.check_onnx,
    "sentencepiece": lambda _look, window: protobufs.check_sentencepiece(window),
    "tar": _tar,
    "hdf5": _hdf5,
    **{name: _images(name) for name in ("png", "jpeg", "gif", "webp")},
}
