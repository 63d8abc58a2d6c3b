"""What a file's name promises. Runtimes choose readers by it, so a name that disagrees with the content is refused."""

import posixpath
import re

# Source, scripts, notebooks, packages, machine code: by name, whatever is in them.
_CODE = frozenset(
    (  # noqa: SIM905
        ".py .pyi .pyw .pyx .pxd .pyc .pyo .pyd .pyz .pyzw .ipynb .whl .egg .so .dylib .dll .exe .com .msi .sys "
        ".a .o .ko .wasm .sh .bash .zsh .fish .csh .ksh .bat .cmd .ps1 .psm1 .vbs .js .mjs .cjs .ts .tsx .jsx "
        ".jar .class .war .dex .apk .lua .rb .pl .pm .php .r .jl .go .rs .java .kt .scala .swift .c .cc .cpp .cxx "
        ".h .hh .hpp .cu .cuh .cl .ptx .cubin .fatbin .m .mm .asm .s .f90 .tcl .awk .sed .desktop .service .deb "
        ".rpm .dmg .pkg .appimage .elf .mk .cmake .gradle .nix"
    ).split()
)
_CODE_NAMES = frozenset(
    "makefile dockerfile containerfile jenkinsfile vagrantfile rakefile gemfile procfile".split()  # noqa: SIM905
)
_SHARED_OBJECT = re.compile(r"\.so(\.[0-9]+)+$")
_TEXTS = frozenset(
    (  # noqa: SIM905
        ".txt .md .markdown .rst .json .jsonl .ndjson .jinja .jinja2 .j2 .yaml .yml .toml .ini .cfg .csv .tsv "
        ".vocab .merges .bpe .tiktoken .model .license .log .template .tmpl .prompt .labels .lst .dict "
        ".gitattributes .gitignore .gitkeep .sha256 .sum .cff .bib .sig .crc .lock .codes .names .imatrix .bnf "
        ".gbnf"
    ).split()
)
_TEXT_FORMATS = frozenset({"text", "json", "markdown", "jinja", "yaml"})
_PROMISES: dict[str, frozenset[str]] = {
    ".safetensors": frozenset({"safetensors"}),
    ".gguf": frozenset({"gguf"}),
    ".json": frozenset({"json"}),
    ".npy": frozenset({"npy"}),
    ".npz": frozenset({"npz"}),
    ".onnx": frozenset({"onnx"}),
    ".model": frozenset({"sentencepiece", "text"}),
    ".spm": frozenset({"sentencepiece"}),
    ".png": frozenset({"png"}),
    ".jpg": frozenset({"jpeg"}),
    ".jpeg": frozenset({"jpeg"}),
    ".gif": frozenset({"gif"}),
    ".webp": frozenset({"webp"}),
    ".zip": frozenset({"zip"}),
    ".tar": frozenset({"tar"}),
    ".gz": frozenset({"gzip"}),
    ".tgz": frozenset({"gzip"}),
    ".bz2": frozenset({"bzip2"}),
    ".xz": frozenset({"xz"}),
}
# Blocked by what they are; their names need no second finding.
_BLOCKED = frozenset(
    "pickle torch-zip torchscript keras hdf5 savedmodel msgpack executable unknown other".split()  # noqa: SIM905
)


def suffix_of(path: str) -> str:
    """The last extension in lower case, with its dot; of `.gitattributes` there is none, of `v1.5` neither."""
    suffix = posixpath.splitext(posixpath.basename(path))[1].lower()
    return "" if suffix[1:].isdecimal() else suffix


def is_code(path: str) -> bool:
    """Whether the name is that of code."""
    base = posixpath.basename(path).lower()
    return suffix_of(path) in _CODE or base in _CODE_NAMES or _SHARED_OBJECT.search(base) is not None


def disagreement(path: str, found: str) -> str | None:
    """Why the name does not go with the format; None where it does.

    Without an extension the content alone decides, for every reader.
    """
    suffix = suffix_of(path)
    if not suffix or found in _BLOCKED or is_code(path):
        return None
    promised = _PROMISES.get(suffix)
    if promised is None and suffix in _TEXTS:
        promised = _TEXT_FORMATS
    if promised is None:
        return f"the extension {ascii(suffix)[1:-1]} is none that is known for {found}"
    if found not in promised:
        return f"the name ends in {suffix}, the content is {found}"
    return None
