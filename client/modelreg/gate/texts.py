"""Text: UTF-8 without control characters, so that nothing binary can hide in it. Some of it steers loaders."""

import codecs
import re

from modelreg.gate import configs, templates
from modelreg.gate.looking import Look
from modelreg.gate.readable import WHOLE_BYTES, Window
from modelreg.gate.report import Objection, shown

MAX_BYTES = configs.MAX_BYTES
_HEAD_BYTES = 4096
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
_YAML_TAG = re.compile(
    r"(?:^|(?<=[\s\[{,:-]))(!<[^>\s]{0,100}>?|!![\w./:-]{0,100}|![A-Za-z][\w./:-]{0,100})", re.MULTILINE
)
_YAML_PLAIN = frozenset(
    [
        "!!str",
        "!!int",
        "!!float",
        "!!bool",
        "!!null",
        "!!map",
        "!!seq",
        "!!set",
        "!!binary",
        "!!timestamp",
        "!!omap",
        "!!pairs",
    ]
)
_TARGET = re.compile(r"^\s*(?:-\s+)?['\"]?_target_['\"]?\s*:", re.MULTILINE)
_LFS = "version https://git-lfs.github.com/spec/"


def is_text(window: Window) -> bool:
    """Whether all of it is UTF-8 text.

    Raises:
        Objection: `limit`: it begins like text, and is too long.
    """
    if not _is_start_of_text(window.head(_HEAD_BYTES), whole=window.size <= _HEAD_BYTES):
        return False
    if window.size > MAX_BYTES:
        raise Objection("limit", f"a text of more than {MAX_BYTES} bytes")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, window.size, WHOLE_BYTES):
            block = window.read(start, min(WHOLE_BYTES, window.size - start))
            if _CONTROL.search(decoder.decode(block)):
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _is_start_of_text(head: bytes, *, whole: bool) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return not _CONTROL.search(text)


def check(look: Look, window: Window, suffix: str) -> str:
    """Look at a text; returns its format."""
    raw = window.read(0, window.size)
    if suffix == ".json" or (suffix not in {".jinja", ".jinja2", ".j2"} and raw.lstrip()[:1] in {b"{", b"["}):
        return _json(look, raw, promised=suffix == ".json")
    text = raw.decode("utf-8")
    if text.startswith("#!"):
        look.object("code-file", "a script: it begins with #!")
    if text.startswith(_LFS):
        look.object("git-lfs-pointer", "only the pointer to the file; fetch the file itself (`git lfs pull`)")
    if suffix in {".jinja", ".jinja2", ".j2"}:
        for what in templates.objections(text):
            look.object("template-code", what)
        return "jinja"
    if suffix in {".yaml", ".yml"}:
        _yaml(look, text)
        return "yaml"
    return "markdown" if suffix in {".md", ".markdown"} else "text"


def _json(look: Look, raw: bytes, *, promised: bool) -> str:
    try:
        document = configs.parse(raw)
    except Objection as objection:
        if promised or objection.rule == "limit":
            look.object(objection.rule, objection.what)
        return "json" if promised else "text"
    configs.check(look, document)
    return "json"


def _yaml(look: Look, text: str) -> None:
    for tag in dict.fromkeys(found[1] for found in _YAML_TAG.finditer(text)):
        if tag not in _YAML_PLAIN:
            look.object("yaml-code", f"the tag {shown(tag, 60)} makes objects")
    if re.search(r"^%TAG", text, re.MULTILINE):
        look.object("yaml-code", "%TAG gives tags another meaning")
    if _TARGET.search(text):
        look.object("config-code", "_target_ makes hydra import and call something")
