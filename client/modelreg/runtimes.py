"""What a command will run, as far as files tell: the Python distribution behind a script or a `-m` module.

Nothing is executed: `--version` of an unknown program could do anything. What is not found out is None, not guessed.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_INTERPRETER = re.compile(r"(python|pypy)[0-9.]*", re.ASCII)
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", re.ASCII)
_MAX_SHEBANG_BYTES = 512
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,100}", re.ASCII)


@dataclass(frozen=True)
class Runtime:
    """A distribution by name and version, as its metadata say it (claimed: whoever can write there can say anything)."""

    name: str
    version: str


def of_command(command: Sequence[str], search_path: str | None) -> Runtime | None:
    """The runtime of a command line, or None. O(distributions installed beside it)."""
    try:
        program = shutil.which(command[0], path=search_path)
        if program is None:
            return None
        path = Path(program)
        if _INTERPRETER.fullmatch(path.name):
            module = _module_of(command[1:])
            return _distribution(path, module.split(".")[0]) if module else None
        interpreter = _interpreter_of(path)
        return _distribution_of_script(interpreter, path.name) if interpreter else None
    except (OSError, ValueError, LookupError, TypeError):  # TypeError: metadata without a name or without a file
        return None


def _module_of(arguments: Sequence[str]) -> str | None:
    """What `-m` names, if it is among the interpreter's own options."""
    for at, argument in enumerate(arguments):
        if argument == "-m" and at + 1 < len(arguments) and _MODULE.fullmatch(arguments[at + 1]):
            return arguments[at + 1]
        if not argument.startswith("-"):
            return None
    return None


def _interpreter_of(script: Path) -> Path | None:
    """The interpreter that the first line names; what goes through `env` depends on who asks, so it is left alone."""
    with script.open("rb") as file:
        first = file.readline(_MAX_SHEBANG_BYTES)
    if not first.startswith(b"#!"):
        return None
    words = first[2:].decode("utf-8").split()
    found = Path(words[0]) if words else None
    return found if found is not None and _INTERPRETER.fullmatch(found.name) else None


def _site_folders(interpreter: Path) -> list[str]:
    """Where an interpreter in `<prefix>/bin` has its packages; links are not followed, a virtual environment has its own."""
    prefix = interpreter.parent.parent
    return [str(folder) for folder in sorted(prefix.glob("lib*/python3*/*-packages"))]


def _distribution(interpreter: Path, name: str) -> Runtime | None:
    found = next(iter(metadata.distributions(name=name, path=_site_folders(interpreter))), None)
    return _runtime(found) if found is not None else None


def _distribution_of_script(interpreter: Path, script: str) -> Runtime | None:
    for found in metadata.distributions(path=_site_folders(interpreter)):
        if any(point.group == "console_scripts" and point.name == script for point in found.entry_points):
            return _runtime(found)
    return None


def _runtime(found: metadata.Distribution) -> Runtime | None:
    name, version = str(found.metadata["Name"] or ""), str(found.version or "")
    if not (_PRINTABLE.fullmatch(name) and _PRINTABLE.fullmatch(version)):
        return None
    return Runtime(name, version)
