"""Machines for tests: enrolled through the real API, and requests signed by hand where a test wants to bend one."""

import base64
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import connections, host_signing, wire
from modelreg.api import Api
from support.registry import Registry


@dataclass(frozen=True)
class Machine:
    """A machine with a key, enrolled at a registry under a name."""

    registry: Registry
    name: str
    key: Ed25519PrivateKey

    def api(self, token: str | None = None) -> Api:
        """The real client on this machine; without a token the machine speaks for itself."""
        return Api(self.registry.url, token, connections.make_pool(None, 2), self.key)

    def headers(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: bytes | None = None,
        key: Ed25519PrivateKey | None = None,
        now: datetime | None = None,
        nonce: str | None = None,
        url: str | None = None,
    ) -> dict[str, str]:
        """The headers of one signed request."""
        authorization = None if token is None else f"Bearer {token}"
        digest = None if body is None else host_signing.content_digest(body)
        message = host_signing.message_to(method, (url or self.registry.url) + path, authorization, digest)
        signed = host_signing.sign(
            message, key or self.key, now or datetime.now(UTC), nonce or secrets.token_urlsafe(18)
        )
        headers = {} if authorization is None else {"Authorization": authorization}
        headers |= {} if digest is None else {"Content-Digest": digest, "Content-Type": "application/json"}
        return {**headers, **signed}


def invite(registry: Registry, name: str, host_class: Any = "server", zone: str = "eu-1", **more: Any) -> str:
    """An enrolment token."""
    request = wire.HostInvitationRequest(name=name, host_class=host_class, zone=zone, **more)
    return registry.api().invite_host(request).token


def enrol_request(key: Ed25519PrivateKey) -> wire.HostEnrolment:
    """The body of an enrolment."""
    return wire.HostEnrolment(public_key=base64.b64encode(host_signing.public_der(key.public_key())).decode())


def enrol(registry: Registry, name: str, host_class: Any = "server", zone: str = "eu-1") -> Machine:
    """A machine that is invited and enrolled."""
    key = Ed25519PrivateKey.generate()
    token = invite(registry, name, host_class, zone)
    Api(registry.url, token, connections.make_pool(None, 1), key).enroll_host(enrol_request(key))
    return Machine(registry, name, key)


def grant(registry: Registry, subject: str, verb: Any, repository: str, **conditions: Any) -> str:
    """An access grant; its id."""
    request = wire.AccessGrantRequest(subject=subject, verb=verb, repository=repository, **conditions)
    return registry.api().grant_access(request).id


def token_without_scopes(registry: Registry, principal: str) -> str:
    """A token that has its principal's access grants."""
    return registry.api().issue_token(wire.TokenRequest(principal=principal, expires_in_seconds=600)).token
