"""The issuers this registry takes tokens of, as the configuration says now, and what is remembered of their keys."""

import threading
from datetime import datetime
from pathlib import Path

from modelreg_server.identity import assertions, issuers
from modelreg_server.identity.assertions import Assertion
from modelreg_server.identity.issuers import Issuer
from modelreg_server.identity.jwks import KeySet


class Federation:
    """Reads `identities.toml` on every use, so that an edit holds at once; keeps one key set a source. Thread-safe."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._key_sets: dict[tuple[object, ...], KeySet] = {}

    def issuers(self) -> tuple[Issuer, ...]:
        """The configured issuers; none where there is no file.

        Raises:
            Misconfigured: the file is not as it must be.
        """
        return issuers.read(self._path) if self._path is not None else ()

    def verify(self, untrusted_token: str, name: str | None, now: datetime) -> Assertion:
        """Verify a token of one of the issuers; may fetch that issuer's keys.

        Raises:
            TokenRefused: it does not hold.
            Unreachable: the issuer's keys cannot be had.
            Misconfigured: the file is not as it must be.
        """
        issuer = assertions.choose(self.issuers(), untrusted_token, name)
        return assertions.verify(untrusted_token, issuer, self._keys(issuer).find, now)

    def _keys(self, issuer: Issuer) -> KeySet:
        source = (issuer.url, issuer.jwks_url, issuer.jwks_file, issuer.ca_file)
        with self._lock:
            return self._key_sets.setdefault(source, KeySet(issuer))
