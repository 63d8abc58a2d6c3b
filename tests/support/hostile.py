"""A corpus of hostile files, made here byte by byte. No payload does anything: nothing in it is ever loaded."""

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from support import models

# Ways to run something, or to get at what does: each is a name that a pickle can import. Most have been used against scanners.
IMPORTABLE = """
os.system os.popen os.execv os.execl os.execvp os.spawnl os.spawnv os.posix_spawn os.startfile os.fork os.putenv os.remove os.rename
os.open os.chmod os.symlink posix.system posix.execv posix.posix_spawn nt.system subprocess.Popen subprocess.call subprocess.run
subprocess.check_output subprocess.check_call subprocess.getoutput subprocess.getstatusoutput _posixsubprocess.fork_exec pty.spawn
builtins.eval builtins.exec builtins.compile builtins.__import__ builtins.getattr builtins.open builtins.globals builtins.breakpoint
builtins.vars __builtin__.eval __builtin__.exec __builtin__.apply importlib.import_module importlib.reload importlib.util.spec_from_file_location
imp.load_source imp.load_dynamic runpy.run_path runpy.run_module runpy._run_code code.InteractiveInterpreter code.interact codeop.compile_command
pdb.run pdb.Pdb bdb.Bdb.run profile.run profile.runctx cProfile.run cProfile.runctx trace.Trace.run timeit.timeit timeit.main doctest.debug_script
marshal.loads marshal.load pickle.loads pickle.load _pickle.loads shelve.open dill.loads cloudpickle.loads joblib.load types.FunctionType
types.CodeType functools.partial functools.reduce operator.attrgetter operator.methodcaller operator.itemgetter itertools.starmap
ctypes.CDLL ctypes.cdll.LoadLibrary ctypes.PyDLL cffi.FFI.dlopen _ctypes.dlopen mmap.mmap socket.socket socket.create_connection
urllib.request.urlopen urllib.request.urlretrieve http.client.HTTPConnection ftplib.FTP smtplib.SMTP telnetlib.Telnet webbrowser.open
requests.get requests.api.post httpx.get aiohttp.client.request asyncio.create_subprocess_shell asyncio.unix_events._UnixSubprocessTransport._start
multiprocessing.Process multiprocessing.util.spawnv_passfds concurrent.futures.process._process_worker shutil.rmtree shutil.move shutil.copy
glob.os.system tempfile.os.system pathlib.Path.write_text fileinput.FileInput logging.config.fileConfig logging.config._resolve zipimport.zipimporter
pip.main pip._internal.main setuptools.sandbox.run_setup distutils.spawn.spawn distutils.file_util.write_file ensurepip._run_pip venv.main
venv.create lib2to3.pgen2.grammar.Grammar.loads lib2to3.pgen2.pgen.ParserGenerator.make_label idlelib.run.Executive.runcode idlelib.pyshell.ModifiedInterpreter.runcode
idlelib.autocomplete.AutoComplete.fetch_completions idlelib.calltip.get_entity idlelib.debugobj.ObjectTreeItem.SetText pydoc.pipepager pydoc.locate
pkgutil.resolve_name sys.settrace sys.modules signal.signal threading.Thread.run gc.get_objects inspect.getattr_static linecache.getline
antigravity.geohash this.s ssl.get_server_certificate sqlite3.connect sqlite3.dbapi2.connect xmlrpc.client.ServerProxy platform.popen commands.getoutput
numpy.load numpy.testing._private.utils.runstring numpy.f2py.crackfortran.getlincoef numpy.f2py.crackfortran._eval_length numpy.f2py.compile
torch.load torch.hub.load torch.jit.load torch.ops.load_library torch.classes.load_library torch.utils.cpp_extension.load_inline
torch._dynamo.guards.GuardBuilder.get torch._inductor.codecache.compile_file torch.utils.collect_env.run torch.utils.bottleneck.__main__.run_cprofile
torch.utils.data.datapipes.utils.decoder.basichandlers torch.serialization.load torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression
torch.distributed.rpc.internal._run_function torch.cuda._jit_internal.createResolutionCallbackFromEnv pandas.read_pickle pandas.eval pandas.core.frame.DataFrame.query
sklearn.externals.joblib.load tensorflow.io.read_file tensorflow.io.write_file tensorflow.keras.models.load_model keras.models.load_model
transformers.AutoModel.from_pretrained transformers.dynamic_module_utils.get_class_from_dynamic_module huggingface_hub.snapshot_download
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Hostile:
    """A folder with something in it: `rule` is what must be found about `path`; `names` must be named."""

    name: str
    files: dict[str, bytes]
    path: str
    rule: str
    names: str = ""


def pickle_calling(name: str, style: int = 0) -> bytes:
    """A pickle that imports a name and calls it with a harmless text, in one of six spellings."""
    module, _, attribute = name.rpartition(".")
    m, a = module.encode(), attribute.encode()
    match style % 6:
        case 0:
            return b"c" + m + b"\n" + a + b"\n(S'harmless'\ntR."
        case 1:
            return b"(S'harmless'\ni" + m + b"\n" + a + b"\n."
        case 2:
            return b"\x80\x02c" + m + b"\n" + a + b"\nq\x00X\x08\x00\x00\x00harmlessq\x01\x85q\x02Rq\x03."
        case 3:  # names from the memo
            return (
                b"\x80\x04\x8c" + bytes([len(m)]) + m + b"\x94\x8c" + bytes([len(a)]) + a
                + b"\x9400h\x00h\x01\x93\x8c\x08harmless\x85R."
            )  # fmt: skip
        case 4:
            body = b"\x8c" + bytes([len(m)]) + m + b"\x8c" + bytes([len(a)]) + a + b"\x93\x8c\x08harmless\x85R."
            return b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body
        case _:  # OBJ, and a beginning of other values
            return b"(lp0\nI1\na0(c" + m + b"\n" + a + b"\nS'harmless'\no."


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _one(name: str, path: str, data: bytes, rule: str, names: str = "") -> Hostile:
    return Hostile(name, {path: data}, path, rule, names)


def corpus() -> list[Hostile]:
    """All of it."""
    return [*pickles(), *containers(), *polyglots(), *broken(), *disguised(), *configs(), *templates()]


def pickles() -> Iterator[Hostile]:
    for at, name in enumerate(IMPORTABLE):
        path = ("model.bin", "weights.pkl", "model.pt", "noext", "data.txt", "a.ckpt", "model.joblib")[at % 7]
        yield _one(f"pickle {name}", path, pickle_calling(name, at), "pickle-import", name)


def containers() -> Iterator[Hostile]:
    bad = pickle_calling("os.system", 4)
    torch = zipped({"archive/data.pkl": bad, "archive/version": b"3\n", "archive/data/0": b"\0" * 64})
    script = zipped({"a/constants.pkl": bad, "a/data.pkl": bad, "a/code/__torch__.py": b"pass"})
    yield _one("torch zip", "pytorch_model.bin", torch, "pickle-import", "os.system")
    yield _one("torch zip as safetensors", "model.safetensors", torch, "pickle-import", "os.system")
    yield _one("torchscript", "model.pt", script, "code-file")
    yield _one("zip", "a.zip", zipped({"x.bin": bad}), "pickle-import")
    yield _one("deflated zip", "a.zip", zipped({"x.bin": bad}, zipfile.ZIP_DEFLATED), "pickle-import")
    yield _one("zip in zip in zip", "a.zip", zipped({"b.zip": zipped({"c.zip": zipped({"d": bad})})}), "pickle-import")
    deep = bad
    for _ in range(12):
        deep = zipped({"n.zip": deep})
    yield _one("too deep", "a.zip", deep, "limit")
    yield _one("tar", "a.tar", tarred({"x/weights.pkl": bad}), "pickle-import")
    yield _one("nemo", "model.nemo", tarred({"model_weights.ckpt": torch, "m.yaml": b"a: 1\n"}), "pickle-import")
    yield _one("tar.gz", "a.tar.gz", gzip.compress(tarred({"x.pkl": bad})), "pickle-import")
    yield _one("gz", "a.pkl.gz", gzip.compress(bad), "pickle-import")
    yield _one("bz2", "a.pkl.bz2", bz2.compress(bad), "pickle-import")
    yield _one("xz", "a.pkl.xz", lzma.compress(bad), "pickle-import")
    yield _one("lzma", "a.pkl.lzma", lzma.compress(bad, lzma.FORMAT_ALONE), "pickle-import")
    yield _one("zlib", "a.joblib.z", zlib.compress(bad * 20), "pickle-import")
    yield _one("cut gz", "a.gz", gzip.compress(bad)[:-4], "pickle-import")
    yield _one("npy of objects", "a.npy", models.npy("|O", (1,), bad), "pickle-import")
    yield _one("npy record with object", "a.npy", models.npy("[('x', '|O')]", (1,), bad), "pickle-import")
    yield _one("npz of objects", "a.npz", zipped({"arr_0.npy": models.npy("|O", (1,), bad)}), "pickle-import")
    old = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00." + bad
    yield _one("legacy torch", "model.pth", old, "pickle-import", "os.system")
    yield _one("cut pickle", "a.bin", pickle_calling("os.system", 2)[:-1] + b"\xff\xff", "pickle-import", "os.system")
    yield _one("pickle of numbers", "a.bin", b"\x80\x04K\x01.", "pickle")
    patient = b"I1\n0" * 20_000 + pickle_calling("os.system", 0)
    yield _one("text that becomes a pickle late", "notes.txt", patient, "pickle-import", "os.system")
    endless = b"I1\n0" * 150_000 + pickle_calling("os.system", 0)
    yield _one("text that is a pickle for too long", "notes.txt", endless, "pickle")
    yield _one("no names known", "a.bin", b"\x80\x04N\x8c\x01a\x93)R.", "pickle-import", "computed")
    yield _one("extension registry", "a.bin", b"\x80\x02\x82\x05)R.", "pickle-import", "copyreg")
    keras = {
        "metadata.json": b'{"keras_version": "3.0.0"}',
        "config.json": b'{"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}}',
        "model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    }
    yield _one("keras lambda", "model.keras", zipped(keras), "keras-code")
    importing = {**keras, "config.json": b'{"module": "os", "class_name": "function", "registered_name": "system"}'}
    yield _one("keras import", "model.keras", zipped(importing), "keras-code")
    plain = {**keras, "config.json": b'{"module": "keras", "class_name": "Sequential"}'}
    yield _one("keras", "model.keras", zipped(plain), "unserved-format")
    yield _one("h5 lambda", "model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64) + b'{"class_name": "Lambda"}', "keras-code")
    yield _one("h5", "model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "unserved-format")
    yield _one("savedmodel", "saved_model.pb", b"\x08\x01\x12\x04\x0a\x02\x12\x00", "unserved-format")
    yield _one("flax", "flax_model.msgpack", b"\x81\xa6params\x81\xa1k\x01", "unserved-format")
    yield _one("encrypted zip", "a.zip", _flagged(zipped({"x": b"text"}), 1), "archive-unsafe")
    yield _one("zip with ..", "a.zip", zipped({"../x.txt": b"text"}), "archive-unsafe")
    yield _one("zip with /", "a.zip", zipped({"/etc/x": b"text"}), "archive-unsafe")
    yield _one("zip name twice", "a.zip", zipped({"x": b"text", "X": b"text"}), "archive-unsafe")
    yield _one("zip comment", "a.zip", _commented(zipped({"x": b"text"})), "archive-unsafe")
    yield _one(
        "zip other local name", "a.zip", zipped({"name": b"text"}).replace(b"name", b"evil", 1), "archive-unsafe"
    )
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    yield _one("zip link", "a.zip", link.getvalue(), "archive-unsafe")
    for kind, name in ((tarfile.SYMTYPE, "symlink"), (tarfile.LNKTYPE, "link"), (tarfile.CHRTYPE, "device")):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            member = tarfile.TarInfo("x")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        yield _one(f"tar {name}", "a.tar", out.getvalue(), "archive-unsafe")
    yield _one("tar with ..", "a.tar", tarred({"../x": b"t"}), "archive-unsafe")
    yield _one("behind a tar", "a.tar", tarred({"x": b"t"}) + tarred({"y.pkl": bad}), "archive-unsafe")
    yield _one("behind a gz", "a.gz", gzip.compress(b"text") + bad, "archive-unsafe")
    yield _one("zip bomb", "a.zip", zipped({"x": b"\0" * (80 << 20)}, zipfile.ZIP_DEFLATED), "limit")
    yield _one("gz bomb", "a.gz", gzip.compress(b" " * (80 << 20)), "limit")
    many = zipped({str(number): b"" for number in range(5000)})
    yield _one("many entries", "a.zip", many, "limit")


def _flagged(raw: bytes, flag: int) -> bytes:
    out = bytearray(raw)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        out[raw.index(mark) + offset] |= flag
    return bytes(out)


def _commented(raw: bytes) -> bytes:
    return raw[:-2] + struct.pack("<H", 6) + b"#!/bin"


def polyglots() -> Iterator[Hostile]:
    bad = pickle_calling("os.system", 0)
    archive = zipped({"archive/data.pkl": bad})
    tensors, gguf = models.safetensors({"w": ("U8", [4], b"\1\2\3\4")}), models.gguf()
    yield _one("safetensors + zip", "model.safetensors", tensors + archive, "polyglot")
    yield _one("safetensors + pickle", "model.safetensors", tensors + bad, "malformed")
    inner = models.safetensors({"w": ("U8", [len(archive)], archive)})
    yield _one("zip as the last tensor", "model.safetensors", inner, "polyglot")
    yield _one("gguf + zip", "model.gguf", gguf + archive, "polyglot")
    yield _one("gguf + pickle", "model.gguf", gguf + bad, "malformed")
    yield _one("prefix + zip", "model.bin", b"junk" * 10 + archive, "polyglot")
    yield _one("text + zip", "README.md", b"# Model\n" + archive, "polyglot")
    yield _one("png + zip", "logo.png", models.png() + archive, "polyglot")
    yield _one("jpeg + zip", "logo.jpg", b"\xff\xd8\xff\xe0" + bytes(20) + b"\xff\xd9" + archive, "polyglot")
    yield _one("zip + zip", "a.zip", zipped({"x": b"text"}) + archive, "archive-unsafe")
    yield _one("pickle through a header", "model.safetensors", _hopping(), "polyglot", "os.system")
    member = tarred({"x.pkl": bad})
    hidden = b"\x89PNG\r\n\x1a\n" + member[8:]
    checked = bytearray(hidden)
    checked[148:156] = b"%06o\0 " % (sum(hidden[:148]) + 8 * 32 + sum(hidden[156:512]))
    yield _one("png and tar", "logo.png", bytes(checked), "polyglot")
    h5 = tensors[:8] + tensors[8:].ljust(504, b"\0") + b"\x89HDF\r\n\x1a\n" + bytes(64)
    yield _one("safetensors and hdf5", "model.safetensors", h5, "polyglot")
    array = models.npy("|u1", (len(archive),), archive)
    yield _one("npy and zip", "a.npy", array, "polyglot")


def _hopping() -> bytes:
    """A sound safetensors file that is a pickle from its first byte on.

    Its header has 0x2058 bytes, which is an `X`, a text of 0x20 bytes; that ends within a text of the header, where further
    short texts (`U` and a printable length) lead over the rest of the header into the data. There it calls.
    """
    data = pickle_calling("os.system", 0)
    end = b'"},"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(data), len(data))
    begin = b'{"__metadata__":{"a":"'
    hops = b"." * (37 - 8 - len(begin)) + (b"U~" + b"." * 126) * 63 + b"US" + b"." * 83 + b"Ud"
    header = begin + hops + b"." * (100 - len(end)) + end
    assert len(header) == 0x2058
    return struct.pack("<Q", len(header)) + header + data


def _tensor_header(**changes: object) -> bytes:
    header = {"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4], **changes}}
    return models.safetensors_raw(json.dumps(header).encode(), b"\1\2\3\4")


def broken() -> Iterator[Hostile]:
    """Headers that a C reader might compute with, or that two readers read differently."""
    w = b'"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
    four = b"\1\2\3\4"
    sound = models.safetensors({"w": ("U8", [4], four)})
    headers = {
        "length of 2^63": struct.pack("<Q", 2**63) + b"{}",
        "length of the whole file": struct.pack("<Q", 10**8) + b"{}",
        "no json": models.safetensors_raw(b"{'w': 1}", four),
        "tensor twice": models.safetensors_raw(b"{" + w + b"," + w + b"}", four),
        "overlap": models.safetensors_raw(b"{" + w + b"," + w.replace(b'"w"', b'"v"') + b"}", four),
        "hole": models.safetensors_raw(b"{" + w.replace(b"[0,4]", b"[2,6]") + b"}", four + four[:2]),
        "shape and offsets": _tensor_header(shape=[5]),
        "negative offset": _tensor_header(data_offsets=[-4, 0]),
        "offset as text": _tensor_header(data_offsets=["0", 4]),
        "shape that wraps": _tensor_header(shape=[2**62, 2**62]),
        "unknown type": _tensor_header(dtype="PICKLE"),
        "further member": _tensor_header(code="x"),
        "metadata is no text": models.safetensors_raw(b'{"__metadata__":{"a":[1]},' + w + b"}", four),
        "cut": sound[:-1],
        "longer": sound + b"\0",
        "nested": models.safetensors_raw(b'{"w":' + b"[" * 5000 + b"]" * 5000 + b"}", four),
    }
    for name, raw in headers.items():
        rule = "unknown-format" if name == "length of 2^63" else "malformed"
        yield _one(f"safetensors: {name}", "model.safetensors", raw, rule)
    gguf = models.gguf
    files = {
        "version 1": (gguf(version=1), "malformed"),
        "version 4": (gguf(version=4), "malformed"),
        "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "malformed"),
        "2^63 tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "limit"),
        "2^63 members": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "limit"),
        "text of 2^62": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "limit"),
        "array of 2^61": (gguf({"a": (9, struct.pack("<IQ", 10, 2**61))}), "limit"),
        "array of arrays": (gguf({"a": (9, struct.pack("<IQ", 9, 1))}), "malformed"),
        "type 13": (gguf({"a": (13, b"")}), "malformed"),
        "truth of 2": (gguf({"a": (7, b"\2")}), "malformed"),
        "alignment 0": (gguf({"general.alignment": (4, struct.pack("<I", 0))}), "malformed"),
        "alignment 33": (gguf({"general.alignment": (4, struct.pack("<I", 33))}), "malformed"),
        "alignment as text": (gguf({"general.alignment": models.gguf_text("32")}), "malformed"),
        "no architecture": (gguf(architecture=None), "malformed"),
        "five dimensions": (gguf(tensors=[("w", [1, 1, 1, 1, 1], 0, 0, bytes(4))]), "malformed"),
        "sizes that wrap": (gguf(tensors=[("w", [2**32, 2**32], 0, 0, bytes(4))]), "malformed"),
        "rows of half a block": (gguf(tensors=[("w", [16], 2, 0, bytes(18))]), "malformed"),
        "unknown type": (gguf(tensors=[("w", [1], 99, 0, bytes(4))]), "malformed"),
        "offset behind the file": (gguf(tensors=[("w", [1], 0, 2**40, bytes(4))]), "malformed"),
        "offset into another": (gguf(tensors=[("v", [8], 0, 0, bytes(32)), ("w", [8], 0, 0, bytes(32))]), "malformed"),
        "tensor twice": (gguf(tensors=[("w", [8], 0, 0, bytes(32)), ("w", [8], 0, 32, bytes(32))]), "malformed"),
        "name of 64 bytes": (gguf(tensors=[("w" * 64, [1], 0, 0, bytes(4))]), "limit"),
        "cut": (gguf(tensors=[("w", [64], 0, 0, bytes(256))])[:-40], "malformed"),
        "member twice": (gguf(repeat=True), "malformed"),
        "token types for other tokens": (
            gguf({
                "tokenizer.ggml.tokens": models.gguf_texts(["a", "b"]),
                "tokenizer.ggml.token_type": (9, struct.pack("<IQi", 5, 1, 1)),
            }),
            "malformed",
        ),
        "token beyond the vocabulary": (
            gguf({
                "tokenizer.ggml.tokens": models.gguf_texts(["a", "b"]),
                "tokenizer.ggml.bos_token_id": (4, struct.pack("<I", 2)),
            }),
            "malformed",
        ),
    }  # fmt: skip
    for name, (raw, rule) in files.items():
        yield _one(f"gguf: {name}", "model.gguf", raw, rule)
    yield _one("npy: longer", "a.npy", models.npy("<f4", (1,), bytes(8)), "malformed")
    yield _one("npy: code", "a.npy", models.npy("<f4", (1,), bytes(4)).replace(b"'<f4'", b"exit("), "malformed")
    yield _one("npy: header of 4 GiB", "a.npy", b"\x93NUMPY\x02\0\xff\xff\xff\xff", "limit")
    yield _one("onnx: outside", "model.onnx", models.onnx(location="../../etc/passwd"), "onnx-external-data")
    yield _one("onnx: absolute", "model.onnx", models.onnx(location="/etc/passwd"), "onnx-external-data")
    yield _one("onnx: absent", "model.onnx", models.onnx(location="weights.bin"), "onnx-external-data")
    turned = models.onnx(location="../x").replace(b"\x0a\x08location\x12\x04../x", b"\x12\x04../x\x0a\x08location")
    yield _one("onnx: value before key", "model.onnx", turned, "onnx-external-data")
    yield _one("sentencepiece: odd piece", "tokenizer.model", models.sentencepiece() + b"\x0a\x02\x48\x01", "malformed")
    yield _one("png: more behind it", "a.png", models.png() + b"more", "malformed")


def disguised() -> Iterator[Hostile]:
    """What is no model at all, or another thing than its name says."""
    sound = models.safetensors({"w": ("U8", [4], b"\1\2\3\4")})
    for name, raw in (
        ("ELF", b"\x7fELF" + bytes(60)),
        ("PE", b"MZ\x90\0" + bytes(60)),
        ("Mach-O", b"\xcf\xfa\xed\xfe" + bytes(60)),
        ("wasm", b"\0asm\1\0\0\0"),
        ("class", b"\xca\xfe\xba\xbe" + bytes(60)),
        ("pyc", b"\xa7\x0d\x0d\x0a" + bytes(60)),
    ):
        yield _one(f"{name} as weights", "weights", raw, "executable")
    for path in (
        "modeling_x.py",
        "a/handler.py",
        "lib.so",
        "lib.so.1",
        "x.dll",
        "run.sh",
        "x.PY",
        "a.ipynb",
        "setup.pyc",
    ):
        yield _one(f"code {path}", path, b"text\n", "code-file")
    yield _one("a script", "run", b"#!/bin/sh\nid\n", "code-file")
    yield _one("lfs pointer", "model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs-pointer")
    yield _one("safetensors as bin", "pytorch_model.bin", sound, "extension-mismatch")
    yield _one("text as safetensors", "model.safetensors", b"weights\n", "extension-mismatch")
    yield _one("json as gguf", "model.gguf", b"{}", "extension-mismatch")
    yield _one("unknown extension", "x.mojo", b"fn main():\n", "extension-mismatch")
    yield _one("noise", "weights.dat", bytes(range(200, 256)) * 8, "unknown-format")
    yield _one("utf-16", "README.md", "text".encode("utf-16"), "unknown-format")
    yield _one("nul in text", "README.md", b"text\0more", "unknown-format")
    yield _one("empty weights", "model.safetensors", b"", "extension-mismatch")
    yield _one("ggml", "model.bin", b"lmgg" + bytes(60), "unserved-format")
    yield _one("tflite", "model.tflite", bytes(4) + b"TFL3" + bytes(60), "unserved-format")
    yield _one("pdf", "paper.pdf", b"%PDF-1.7\n", "unserved-format")
    yield _one("zstd", "a.zst", b"\x28\xb5\x2f\xfd" + bytes(20), "unserved-format")


def _config(name: str, rule: str, document: object, path: str = "config.json", **more: bytes) -> Hostile:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Hostile(f"config: {name}", {path: raw, **more}, path, rule)


def configs() -> Iterator[Hostile]:
    """Configurations that make a loader import, fetch or run something, or open another file."""
    yield _config("auto_map", "config-code", {"auto_map": {"AutoModel": "modeling.Evil"}})
    yield _config("nested auto_map", "config-code", {"text_config": {"auto_map": {"AutoModel": "other/repo--m.E"}}})
    yield _config("tokenizer auto_map", "config-code", {"auto_map": ["t.T", None]}, "tokenizer_config.json")
    yield _config("internal attention", "config-code", {"_attn_implementation_internal": "evil/kernel"})
    yield _config("hub kernel", "config-code", {"_attn_implementation": "evil/kernel:f"})
    yield _config("hub kernel by part", "config-code", {"attn_implementation": {"text": "evil/kernel"}})
    yield _config("trust_remote_code", "config-code", {"trust_remote_code": True})
    yield _config("trust_remote_code as text", "config-code", {"a": [{"trust_remote_code": "True"}]})
    yield _config("custom_pipelines", "config-code", {"custom_pipelines": {"x": {"impl": "x.P"}}})
    yield _config("mlx model_file", "config-code", {"model_file": "evil.py"})
    yield _config("hydra", "config-code", {"a": {"_target_": "os.system"}})
    yield _config("jsonpickle", "config-code", {"py/reduce": [{"py/type": "os.system"}]})
    yield _config("onnx runtime library", "config-code", {"session": {"custom_ops_library": "x"}}, "genai_config.json")
    yield _config("peft library", "config-code", {"auto_mapping": {"parent_library": "evil"}}, "adapter_config.json")
    yield _config("peft megatron", "config-code", {"megatron_core": "evil"}, "adapter_config.json")
    yield _config("diffusers module", "config-code", {"unet": ["evil", "Unet"]}, "model_index.json")
    yield _config("diffusers pipeline", "config-code", {"_class_name": ["evil", "P"]}, "model_index.json")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]
    yield _config("sentence-transformers type", "config-code", modules, "modules.json")
    leaving = [{"idx": 0, "name": "0", "path": "../x", "type": "sentence_transformers.models.Pooling"}]
    yield _config("sentence-transformers path", "config-path", leaving, "modules.json")
    for name, value in (("..", "../x.safetensors"), ("absolute", "/x.safetensors"), ("absent", "y.safetensors"),
                        ("url", "https://evil.example/x"), ("backslash", "..\\x"), ("empty", "")):  # fmt: skip
        index = {"metadata": {}, "weight_map": {"w": value}}
        yield _config(f"index {name}", "config-path", index, "model.safetensors.index.json")
    yield _config("index of numbers", "malformed", {"weight_map": {"w": 1}}, "model.safetensors.index.json")
    yield _config("index of nothing", "malformed", {"x": 1}, "model.safetensors.index.json")
    yield _config("member twice", "malformed", b'{"a": 1, "a": 2}')
    yield _config("nested 100,000 deep", "limit", b"[" * 100_000 + b"]" * 100_000)
    yield _config("nested 200 deep", "limit", b'{"a":' * 200 + b"1" + b"}" * 200)
    yield _config("no json", "malformed", b"{'a': 1}")
    yield _config("number of 10,000 digits", "malformed", b'{"a": ' + b"9" * 10_000 + b"}")
    yield _config("byte order mark", "malformed", b"\xef\xbb\xbf{}")
    yield _config("a template of no shape", "malformed", {"chat_template": [["a", "b"]]}, "tokenizer_config.json")
    yield _config("keras module", "keras-code", {"class_name": "system", "module": "os", "config": {}})
    yield _config("keras lambda", "keras-code", {"config": {"layers": [{"class_name": "Lambda"}]}})
    for name, text in (("object", b"a: !!python/object/apply:os.system [id]\n"), ("new", b"- !!python/object/new:os.x\n"),
                       ("short", b"a: !python/name:os.system\n"), ("long", b"a: !<tag:yaml.org,2002:python/name:os.x>\n"),
                       ("tag", b"%TAG ! tag:yaml.org,2002:python/\n---\na: 1\n")):  # fmt: skip
        yield _config(f"yaml {name}", "yaml-code", text, "model_config.yaml")
    yield _config("yaml hydra", "config-code", b"model:\n  _target_: os.system\n", "model_config.yaml")


TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ ''['__class__'] }}",
    "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "{{ ''['\\137\\137class\\137\\137'] }}",
    "{{ ''['\\u005f\\u005fclass__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ messages|attr(bos_token) }}",
    "{{ ''['__cla' ~ 'ss__'] }}",
    "{{ ''['_' * 2 ~ 'class' ~ '_' * 2] }}",
    "{% set p = '_' %}{{ ''[p ~ p ~ 'class' ~ p ~ p] }}",
    "{% set name = '_' ~ '_class_' ~ '_' %}{{ ''[name] }}",
    "{% set name = ['_', '_class_', '_'] | join %}{{ ''[name] }}",
    "{% for name in ['_' + '_class__'] %}{{ ''[name] }}{% endfor %}",
    "{% set a %}__class__{% endset %}{{ ''[a] }}",
    "{% macro m() %}__class__{% endmacro %}{{ ''[m()] }}",
    "{% macro m() %}__class__{% endmacro %}{% set a = m() %}{% set b = a %}{{ ''[b] }}",
    "{% set p = dict(_=1) | first %}{% set c = dict(class=1) | first %}{{ ''[p + p + c + p + p] }}",
    "{% set c = a ~ b %}{{ ''[c] }}",
    "{% set ns = namespace() %}{% set ns.c = '_' ~ a %}{{ ''[ns.c] }}",
    "{{ ''['_' '_class_' '_'] }}",
    "{{ messages | map('attr', name) | list }}",
    "{{ messages | map(attribute=name) | list }}",
    "{{ messages | selectattr(name) | list }}",
    "{{ not config.items() }}",
    "{% set x = lipsum %}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | selectattr('__class__') | list }}",
    "{{ messages | groupby('__class__') | list }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ messages[0].content.format(messages) }}",
    "{{ '%c%cclass%c%c' % (95, 95, 95, 95) }}",
    "{{ self._TemplateReference__context }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('id') }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ namespace.__init__ }}",
    "{{ range.mro() }}",
    "{{ config.items() }}",
    "{{ request.application }}",
    "{{ (messages | first).func_globals }}",
    "{{ f.gi_frame.f_globals }}",
    "{{ os.popen('id') }}",
    "{{ get('x') }}",
    "{{ eval('1') }}",
    "{% import 'os' as os %}",
    "{% from 'x' import y %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{% do messages.append(1) %}",
    "{% set x = open('/etc/passwd') %}",
    "{{ url_for.__globals__ }}",
    "{{ x._private }}",
    "{{ x }",
    "{% if x }}",
    "{# not closed",
    "{{ 'not closed }}",
    "{{ x @ y }}",
    "{% raw %}{{ x }}",
    "{{ (x }}",
    "{{ x | unheard_of }}",
]


def templates() -> Iterator[Hostile]:
    """Chat templates, in each of the places where a runtime takes one from."""
    for at, source in enumerate(TEMPLATES):
        places = (
            ("chat_template.jinja", source.encode()),
            ("tokenizer_config.json", json.dumps({"chat_template": source}).encode()),
            ("chat_template.json", json.dumps({"chat_template": source}).encode()),
            ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "a", "template": source}]}).encode()),
            ("model.gguf", models.gguf({"tokenizer.chat_template": models.gguf_text(source)})),
            ("processor_config.json", json.dumps({"chat_template": {"tool_use": source}}).encode()),
        )
        path, raw = places[at % len(places)]
        yield Hostile(f"template {source}", {path: raw}, path, "template-code")
