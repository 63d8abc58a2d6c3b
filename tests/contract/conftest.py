"""Where the suites find their servers."""

import pytest


@pytest.fixture
def kms(monkeypatch):
    """A KMS, with credentials for it in the environment."""
    from support import kms

    with kms.kms_server() as server:
        if isinstance(server, kms.KmsServer):
            for name, value in kms.credentials().items():
                monkeypatch.setenv(name, value)
        yield server
