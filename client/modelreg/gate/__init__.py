"""The format, configuration and content gate: what is in the files of an artifact, and what of it must not be served.

Pure: it reads ranges of untrusted bytes and gives a report; nothing is unpickled, imported, rendered or run, and every
size, count, depth and number of reads has a limit. What is not understood is blocked (docs/spec/gate.md).
"""

from collections.abc import Iterable, Mapping

from modelreg.gate.examining import examine
from modelreg.gate.looking import Look
from modelreg.gate.readable import Held, OpenFile, Readable, Window
from modelreg.gate.report import RULES, RULES_VERSION, TOOL, Finding, Report, merged

__all__ = [
    "RULES",
    "RULES_VERSION",
    "TOOL",
    "Finding",
    "Held",
    "OpenFile",
    "Readable",
    "Report",
    "merged",
    "scan",
    "scan_file",
]


def scan(files: Mapping[str, Readable]) -> Report:
    """Scan the files of an artifact; the same bytes under the same rules give the same report."""
    names = frozenset(files)
    return merged([scan_file(path, files[path], names) for path in sorted(files)])


def scan_file(path: str, source: Readable, names: Iterable[str] | None) -> Report:
    """Scan one file.

    Args:
        path: its path in the artifact.
        source: its bytes, untrusted. What its `read` raises comes through.
        names: the paths of all files of the artifact; None where they are not known.
    """
    look = Look(path, frozenset(names) if names is not None else None)
    found = examine(look, Window(source))
    return Report({path: found}, tuple(sorted(look.findings)), look.complete)
