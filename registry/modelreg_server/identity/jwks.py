"""An issuer's public keys, by key id: fetched over https within limits, kept for a while, asked for again with restraint.

A token's key id is a name to look up in the published set, and nothing else: no URL, no path, no reason to fetch more
than once a minute. When the provider is down, the keys that were known are used for an hour longer.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import InvalidKeyError, PyJWK, PyJWTError

from modelreg import providers
from modelreg.errors import Misconfigured, ModelregError, TokenRefused, Unreachable
from modelreg_server.identity.issuers import Issuer

FRESH_SECONDS = 600.0
STALE_SECONDS = 3600.0  # how long the last known keys serve when the provider does not answer
UNKNOWN_KEY_SECONDS = 60.0  # an unknown key id makes us ask again at most this often
FAILURE_SECONDS = 10.0  # and a provider that failed is left alone for so long
MAX_WAITING = 4  # requests of one issuer that wait for its keys as long as it takes; others wait so long:
WAIT_SECONDS = 1.0
MAX_KEYS = 100
MAX_KEY_ID_CHARS = 200
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_PUBLIC_MEMBERS = ("kty", "crv", "x", "y", "n", "e")  # private ones, if a provider publishes them, are not ours to read


@dataclass(frozen=True)
class _Known:
    keys: dict[str, Mapping[str, Any]]
    fetched_at: float


class KeySet:
    """The keys of one issuer. Thread-safe; one thread fetches, the others wait for it, most of them not for long."""

    def __init__(self, issuer: Issuer, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._clock = clock
        self._known: _Known | None = None
        self._places = threading.BoundedSemaphore(MAX_WAITING)  # a slow provider must not take every request's thread
        self._lock = threading.Lock()
        self._asked_for_unknown_at = float("-inf")
        self._failed_at = float("-inf")
        self._failure: Unreachable | None = None

    def find(self, untrusted_key_id: str, algorithm: str) -> PublicKey:
        """The key of this id, if it is one for this algorithm.

        Raises:
            TokenRefused: the issuer publishes no such key (`unknown-key`), or one for something else (`algorithm`).
            Unreachable: the issuer's keys cannot be had, and none are known that are recent enough.
            Misconfigured: the file of keys cannot be read.
        """
        keys = self._current(untrusted_key_id) if self._issuer.jwks_file is None else self._from_file()
        if untrusted_key_id not in keys:
            raise TokenRefused(
                f"{self._issuer.url} publishes no key with the id in the token's header", reason="unknown-key"
            )
        return _public_key(keys[untrusted_key_id], algorithm)

    def _current(self, untrusted_key_id: str) -> dict[str, Mapping[str, Any]]:
        known = self._known
        has_it = known is not None and untrusted_key_id in known.keys
        if known is not None and has_it and self._age(known) < FRESH_SECONDS:
            return known.keys
        if not self._places.acquire(timeout=WAIT_SECONDS):
            if known is not None and has_it and self._age(known) < FRESH_SECONDS + STALE_SECONDS:
                return known.keys
            raise Unreachable(f"the keys of {self._issuer.url} are being fetched; try again", issuer=self._issuer.name)
        try:
            with self._lock:
                return self._refreshed(untrusted_key_id)
        finally:
            self._places.release()

    def _refreshed(self, untrusted_key_id: str) -> dict[str, Mapping[str, Any]]:
        now, known = self._clock(), self._known
        if known is not None and self._age(known) < FRESH_SECONDS:
            if untrusted_key_id in known.keys or now - self._asked_for_unknown_at < UNKNOWN_KEY_SECONDS:
                return known.keys
            self._asked_for_unknown_at = now  # the issuer may have a new key
        if self._failure is None or now - self._failed_at >= FAILURE_SECONDS:
            try:
                self._known, self._failure = _Known(self._fetch(), now), None
                return self._known.keys
            except Unreachable as error:
                self._failure, self._failed_at = error, self._clock()
        if known is not None and self._age(known) < FRESH_SECONDS + STALE_SECONDS:
            return known.keys
        raise Unreachable(self._failure.detail, issuer=self._issuer.name)

    def _age(self, known: _Known) -> float:
        return self._clock() - known.fetched_at

    def _fetch(self) -> dict[str, Mapping[str, Any]]:
        issuer = self._issuer
        tls = providers.tls_context(issuer.ca_file)
        url = issuer.jwks_url or providers.endpoint(providers.discover(issuer.url, tls), "jwks_uri", issuer.url)
        status, document = providers.ask(url, tls)
        if status != 200:
            raise Unreachable(f"the keys of {issuer.url} cannot be had (answer {status})")
        return _keys_of(document, issuer)

    def _from_file(self) -> dict[str, Mapping[str, Any]]:
        path = self._issuer.jwks_file
        assert path is not None
        try:
            with path.open("rb") as file:
                document = json.loads(file.read(providers.MAX_ANSWER_BYTES + 1))
            return _keys_of(document if isinstance(document, dict) else {}, self._issuer)
        except (OSError, ValueError, RecursionError, Unreachable) as error:
            why = error.detail if isinstance(error, ModelregError) else f"{type(error).__name__}"
            raise Misconfigured(f"the keys in {path} cannot be read: {why}", path=str(path)) from None


def _keys_of(document: Mapping[str, Any], issuer: Issuer) -> dict[str, Mapping[str, Any]]:
    """The signing keys of a JWK Set (RFC 7517 §5). What is not one is skipped; two under one id are refused."""
    listed = document.get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise Unreachable(f"the key set of {issuer.url} is no list of at most {MAX_KEYS} keys")
    keys: dict[str, Mapping[str, Any]] = {}
    for key in listed:
        if not isinstance(key, dict) or not isinstance(key.get("kid"), str):
            continue
        if key.get("kty") not in {"RSA", "EC", "OKP"} or key.get("use", "sig") != "sig":
            continue
        if key["kid"] in keys:
            raise Unreachable(f"the key set of {issuer.url} has two keys under one id")
        keys[key["kid"]] = key
    return keys


def _public_key(jwk: Mapping[str, Any], algorithm: str) -> PublicKey:
    if jwk.get("alg", algorithm) != algorithm:
        raise _other_key(algorithm)
    try:
        made = PyJWK({name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}, algorithm)
        key = made.key
    except (PyJWTError, InvalidKeyError, ValueError, TypeError):
        raise _other_key(algorithm) from None
    if algorithm[:2] in {"RS", "PS"}:
        fits = isinstance(key, rsa.RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS
    elif algorithm == "EdDSA":
        fits = isinstance(key, ed25519.Ed25519PublicKey)
    else:
        fits = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _CURVES[algorithm]
    if not fits:
        raise _other_key(algorithm)
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    return key


def _other_key(algorithm: str) -> TokenRefused:
    return TokenRefused(f"the key that the token names is not one for {algorithm}", reason="algorithm")
