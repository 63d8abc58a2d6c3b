"""What travels about scans: the answer to a request to scan an artifact again. The signed statement says the same."""

from typing import Annotated, Literal

from pydantic import Field

from modelreg.wire import Wire


class ScanFinding(Wire):
    """One thing that the gate objects to."""

    rule: str
    path: str
    severity: Literal["block", "warn"]
    what: str


class ScanRecorded(Wire):
    """A scan that was made, signed and recorded now. `findings` are the first; `bundle` is what to believe."""

    artifact: str
    statement: str  # sha256:… of the payload
    bundle: str
    rules_version: str
    complete: bool
    findings: Annotated[list[ScanFinding], Field(max_length=200)]
    finding_count: int
    event: int
