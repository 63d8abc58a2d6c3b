"""JSON, and what in it makes a loader import, fetch or run code, or open another file than it was given."""

import json
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any

from modelreg.gate import templates
from modelreg.gate.looking import Look
from modelreg.gate.report import Objection, shown

MAX_BYTES = 64 * 1024 * 1024
MAX_VALUES = 4_000_000  # commas and brackets: what parsing costs in memory
MAX_DEPTH = 100
_PLAIN_ATTENTION = re.compile(r"(paged\|)?[A-Za-z0-9_]{0,60}")
_PIPELINE_LIBRARIES = frozenset({"diffusers", "transformers", "onnxruntime", "stable_diffusion"})
_ADAPTER_LIBRARIES = frozenset({"transformers", "diffusers", "peft", "sentence_transformers"})

Check = Callable[[Any], str | None]


def parse(raw: bytes) -> Any:
    """Parse a document as every reader must read it; NaN is allowed, as trainers write it.

    Raises:
        Objection: `malformed` or `limit`.
    """
    if len(raw) > MAX_BYTES or sum(raw.count(mark) for mark in (b"{", b"[", b",")) > MAX_VALUES:
        raise Objection("limit", f"a JSON document of more than {MAX_BYTES} bytes or {MAX_VALUES} values")
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_members)
    except RecursionError:
        raise Objection("limit", "JSON nested too deeply") from None
    except ValueError as error:
        raise Objection("malformed", f"not JSON: {shown(error)}") from None
    if _is_deep(document):
        raise Objection("limit", f"JSON nested more than {MAX_DEPTH} deep")
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _is_deep(document: Any) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [item for value in level if isinstance(value, (dict, list)) for item in _items(value)]
        if not level:
            return False
    return True


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
    """The containers in a container, and one of the rest: depth goes by them."""
    inner = value.values() if isinstance(value, dict) else value
    return [item for item in inner if isinstance(item, (dict, list))] or ([None] if value else [])


def check(look: Look, document: Any) -> None:
    """Hold a parsed document against the rules; which apply goes by members, and for a few by the file's name."""
    base = posixpath.basename(look.name)
    for value in _objects(document):
        if (what := _keras_module(value)) is not None:
            look.object("keras-code", what)
        _members_of(look, value)
    if isinstance(document, dict):
        if isinstance(document.get("weight_map"), dict):
            _weight_map(look, document["weight_map"])
        elif base.endswith((".safetensors.index.json", ".bin.index.json")):
            look.object("malformed", "an index without weight_map")
        if base == "model_index.json":
            _pipeline(look, document)
    if base == "modules.json" and isinstance(document, list):
        _modules(look, document)


def _members_of(look: Look, members: dict[str, Any]) -> None:
    for member, value in members.items():
        if isinstance(value, int) and not isinstance(value, bool):
            continue  # a vocabulary may have any word; it maps it to a number
        if member.startswith("py/"):
            look.object("config-code", f"{shown(member)} makes jsonpickle build Python objects")
        elif member == "chat_template":
            found = _templates(value)
            if found is None:
                look.object("malformed", "a chat template that is neither a text nor several by name")
            for name, source in found or []:
                for objection in templates.objections(source):
                    look.object("template-code", f"the chat template{name}: {objection}")
        elif (rule := _MEMBERS.get(member)) is not None and (what := rule(value)) is not None:
            look.object("keras-code" if member == "class_name" else "config-code", what)


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    todo = [document]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            yield value
            todo.extend(item for item in value.values() if isinstance(item, (dict, list)))
        elif isinstance(value, list):
            todo.extend(item for item in value if isinstance(item, (dict, list)))


def _templates(value: Any) -> list[tuple[str, str]] | None:
    """Chat templates as there are: a text, its lines, or several by name. None where it is anything else."""
    if value is None:
        return []
    if isinstance(value, str):
        return [("", value)]
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return [("", "".join(value))]
    found: list[tuple[Any, Any]]
    if isinstance(value, list):
        found = [(item.get("name"), item.get("template")) if isinstance(item, dict) else (None, None) for item in value]
    elif isinstance(value, dict):
        found = list(value.items())
    else:
        return None
    if not all(isinstance(text, str) for _, text in found):
        return None
    return [(f" {shown(name, 40)}", text) for name, text in found]


def _present(what: str) -> Check:
    return lambda value: what if value not in (None, False, "", [], {}) else None


def _trust_remote_code(value: Any) -> str | None:
    on = value is True or (isinstance(value, str) and value.strip().lower() in {"true", "1", "yes", "on"})
    return "trust_remote_code makes loaders run Python files of the model" if on else None


def _attention(value: Any) -> str | None:
    named = value.values() if isinstance(value, dict) else [value]
    for name in named:
        # A kernel of a hub is named `owner/repository`; what is no such name and not known, transformers refuses itself.
        if isinstance(name, str) and not _PLAIN_ATTENTION.fullmatch(name):
            return f"attention {shown(name, 60)} is none that comes with transformers: a hub kernel is native code"
    return None


def _class_name(value: Any) -> str | None:
    if value in ("Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer"):
        return f"a Keras layer {value}, which carries or loads code"
    return None


def _diffusers_class(value: Any) -> str | None:
    plain = isinstance(value, str) and value.isidentifier()
    return None if plain or value is None else f"_class_name {shown(value, 60)} names a module to import"


def _adapter_library(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.partition(".")[0] in _ADAPTER_LIBRARIES):
        return None
    return f"parent_library {shown(value, 60)} is imported by PEFT"


def _megatron(value: Any) -> str | None:
    return None if value in (None, "megatron.core") else f"megatron_core {shown(value, 60)} is imported by PEFT"


def _keras_module(value: dict[str, Any]) -> str | None:
    """Keras imports the module that stands beside a class's name."""
    module = value.get("module")
    if "class_name" not in value or not isinstance(module, str) or module.partition(".")[0] in _KERAS_MODULES:
        return None
    return None if module.startswith("tensorflow.keras.") else f"the module {shown(module, 60)} is imported by Keras"


_KERAS_MODULES = frozenset({"keras", "tf_keras", "keras_hub", "keras_nlp", "keras_cv"})
_MEMBERS: dict[str, Check] = {
    "auto_map": _present("auto_map makes transformers run Python files of the model"),
    "custom_pipelines": _present("custom_pipelines makes transformers run Python files of the model"),
    "trust_remote_code": _trust_remote_code,
    "_attn_implementation_internal": _present(
        "_attn_implementation_internal loads a kernel in spite of trust_remote_code"
    ),
    "_attn_implementation": _attention,
    "attn_implementation": _attention,
    "kernel_config": _present("kernel_config loads native code from a hub"),
    "model_file": _present("model_file makes mlx-lm run a Python file of the model"),
    "custom_ops_library": _present("custom_ops_library loads a shared object"),
    "_target_": _present("_target_ makes hydra import and call something"),
    "_class_name": _diffusers_class,
    "parent_library": _adapter_library,
    "megatron_core": _megatron,
    "class_name": _class_name,
}


def _weight_map(look: Look, weight_map: dict[str, Any]) -> None:
    folder = posixpath.dirname(look.name)
    files = sorted({value if isinstance(value, str) else repr(value) for value in weight_map.values()})
    if not all(isinstance(value, str) for value in weight_map.values()):
        look.object("malformed", "its weight_map names something that is no file")
    for name in files:
        require_name(look, folder, name, "weight_map", "config-path")


def require_name(look: Look, folder: str, name: str, where: str, rule: str) -> None:
    """Object to a file name that leaves the artifact, or is not in it."""
    parts = name.split("/")
    if not name or name.startswith("/") or "\\" in name or ":" in name or ".." in parts or "\0" in name:
        look.object(rule, f"{where} names {shown(name)}, which leaves the artifact")
    elif look.names is not None and posixpath.normpath(posixpath.join(folder, name)) not in look.names:
        look.object(rule, f"{where} names {shown(name)}, which is not in the artifact")


def _pipeline(look: Look, document: dict[str, Any]) -> None:
    for name, value in document.items():
        if not isinstance(value, list) or len(value) != 2 or name.startswith("_"):
            continue
        library = value[0]
        if library is not None and library not in _PIPELINE_LIBRARIES:
            look.object("config-code", f"{shown(name, 40)} comes from the module {shown(library, 60)}, run as code")


def _modules(look: Look, modules: list[Any]) -> None:
    for module in modules:
        kind = module.get("type") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
            look.object("config-code", f"the module type {shown(kind, 60)} is imported by sentence-transformers")
            continue
        path = module.get("path", "")
        if not isinstance(path, str) or path.startswith("/") or ".." in path.split("/") or "\\" in path:
            look.object("config-path", f"modules.json names the folder {shown(path)}, which leaves the artifact")
