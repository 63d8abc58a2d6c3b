"""Test data that lies beside the checkout (`../shared`): real signatures, advisories. CI has it; a laptop may not."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared"
SIGNATURES = SHARED / "signatures"


def need(path: Path) -> Path:
    """The path, if it is there; under CI a missing one fails, so that no run is green by omission."""
    if path.exists():
        return path
    reason = f"{path.name} is missing: {SHARED} should hold the shared test data"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
