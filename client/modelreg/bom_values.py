"""What the bills of materials have in common: which facts of a verified chain they state, and in which words.

A document says what a verified statement or the registry's record says, and nothing else: what is not recorded is absent.
It is a pure function of the chain, the time and the format, so that the same question gives the same bytes.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from modelreg import __version__
from modelreg.classification import Classification
from modelreg.errors import Invalid
from modelreg.provenance_chain import Chain, DatasetNode, Node, Stated

TOOL = "modelreg"
TOOL_VERSION = __version__
_NAMESPACE = uuid.UUID("6d2c2f6e-0a0d-5b52-9d1c-6f1b3f3a9a55")  # ours, fixed for ever
# Ids as hubs write them, lower case; what is not here is stated as a name.
_SPDX_IDS = {
    name.lower(): name
    for name in (
        *("0BSD", "AFL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause"),
        *("BSD-3-Clause", "BSL-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-2.0", "CC-BY-NC-4.0"),
        *("CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0"),
        *("CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "EPL-2.0", "EUPL-1.2", "GPL-2.0-only"),
        *("GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC", "LGPL-2.1-only", "LGPL-3.0-only", "MIT"),
        *("MPL-2.0", "MS-PL", "NCSA", "ODbL-1.0", "OFL-1.1", "PDDL-1.0", "PostgreSQL", "Unlicense", "WTFPL", "Zlib"),
    )
}


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset as its own verified statement describes it; None is what that does not say."""

    name: str
    owner: str | None = None
    classification: Classification | None = None
    lawful_basis: str | None = None
    residency: tuple[str, ...] = ()
    retention_until: str | None = None
    source: str | None = None


def serial_of(chain: Chain, at: datetime, form: str) -> uuid.UUID:
    """The document's number: the same for the same artifact, time and format."""
    return uuid.uuid5(_NAMESPACE, f"{form}\n{chain.file.artifact}\n{chain.file.repository}\n{time_text(at)}")


def time_text(at: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def spdx_id(licence: str) -> str | None:
    """The id in the SPDX licence list that is meant, if it is one that is known here."""
    return _SPDX_IDS.get(licence.strip().lower())


def iri(untrusted_text: str) -> str:
    """A place as an IRI may be written: what cannot stand in one is escaped."""
    return quote(untrusted_text, safe=":/?#[]@!$&'()*+,;=%-._~")


def page_of(chain: Chain, node: Node) -> str:
    """Where the registry answers about an artifact."""
    repository = node.collected.repository if node.collected is not None else None
    return f"{chain.file.registry}/v1/repositories/{repository or chain.file.repository}/artifacts/{node.digest}"


def facts_of(dataset: DatasetNode) -> DatasetFacts:
    """What a dataset's verified statement says; the name alone without one."""
    if dataset.statement is None:
        return DatasetFacts(dataset.name)
    said = dataset.statement.predicate
    residency = said.get("residency")
    return DatasetFacts(
        name=_text(said, "name") or dataset.name,
        owner=_text(said, "owner"),
        classification=_class(said),
        lawful_basis=_text(said, "lawful_basis"),
        residency=tuple(one for one in residency if isinstance(one, str)) if isinstance(residency, list) else (),
        retention_until=_text(said, "retention_until"),
        source=_text(said, "source"),
    )


def statement_text(stated: Stated) -> str:
    """Who stated what, for people."""
    signer = stated.verified.signer
    return f"{stated.kind.value} by {signer.identity} ({signer.authority}), verified"


def require_root(chain: Chain) -> None:
    """Go on only where there is something to write about.

    Raises:
        Invalid: the artifact's own manifest or signature does not hold.
    """
    if chain.root.manifest is None or not chain.root.signatures:
        raise Invalid(
            f"nothing verified is known of {chain.file.artifact}, so there is nothing to write", field="reference"
        )


def render(document: Mapping[str, Any]) -> bytes:
    """A document's bytes."""
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    return value if isinstance(value, str) and value else None


def _class(members: Mapping[str, Any]) -> Classification | None:
    try:
        return Classification(members.get("classification"))  # type: ignore[arg-type]  # anything may be there
    except ValueError:
        return None
