"""Logging in and staying logged in: an issuer's token, exchanged at the registry for a session token of minutes or hours.

A person's login is renewed with the refresh token, at the issuer that was pinned at the first login; a workload's with
whatever token its platform gives now.
"""

import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from modelreg import ambient, connections, credentials, enrolment, oidc, providers, wire
from modelreg.api import Api
from modelreg.credentials import Login
from modelreg.errors import Misconfigured, ModelregError, Unauthenticated, Untrusted
from modelreg.settings import Settings

# A session is renewed so long before its end that a request which begins with it is judged before it ends.
MARGIN = timedelta(seconds=60)


@dataclass(frozen=True)
class LoggedIn:
    """A session that was made and stored."""

    principal: str
    expires_at: datetime


def as_person(
    settings: Settings,
    option: wire.LoginOption,
    *,
    device: bool,
    say: oidc.Say,
    open_browser: Callable[[str], object] | None,
    sleep: Callable[[float], None] = time.sleep,
) -> LoggedIn:
    """Log a person in at the provider and exchange the id token; stores session and refresh token.

    Raises:
        Unauthenticated: refused at the provider or the registry.
        Untrusted: what the provider sent does not belong to this login.
        Unreachable: the provider or the registry does not answer.
    """
    provider = oidc.open_provider(option.issuer, option.client_id, tuple(option.scopes), _tls(settings))
    found = oidc.by_device(provider, say, sleep) if device else oidc.by_browser(provider, say, open_browser)
    login = Login(
        token="",
        kind="person",
        issuer_name=option.name,
        issuer=option.issuer,
        client_id=option.client_id,
        scopes=tuple(option.scopes),
        subject=found.subject,
        refresh_token=found.refresh_token,
    )
    with credentials.locked(settings.credentials):
        return _exchanged(settings, login, found.id_token)[1]


def as_workload(settings: Settings) -> LoggedIn:
    """Find the ambient token and exchange it; stores the session.

    Raises:
        Unauthenticated: there is none, or the registry refuses it.
    """
    with credentials.locked(settings.credentials):
        return _ambient_login(settings)[1]


def with_token(settings: Settings, token: str) -> None:
    """Store an API token."""
    with credentials.locked(settings.credentials):
        credentials.write(settings.credentials, settings.registry, Login(token=token), keyring=_keyring(settings))


def choose(settings: Settings, name: str | None) -> wire.LoginOption | None:
    """The provider to log in at: the pinned one, or the one of this name, or the only one; None where there is none.

    Raises:
        Untrusted: the registry names another issuer or client than at the first login.
        Misconfigured: there are several and none was chosen, or none of this name.
    """
    options = anonymous(settings).login_options().issuers
    for option in options:
        providers.require_url(option.issuer, loopback=providers.is_plain(settings.registry))
    pinned = _read(settings)
    if pinned is not None and pinned.kind == "person":
        same = [option for option in options if (option.issuer, option.client_id) == (pinned.issuer, pinned.client_id)]
        if not same:
            raise Untrusted(
                f"{settings.registry} no longer names the provider of your first login, {pinned.issuer} (client "
                f"{pinned.client_id}); ask its administrators, and only if they changed it run `modelreg logout`, which "
                "forgets the old one, and log in again"
            )
        options = same
    if name is not None:
        options = [option for option in options if option.name == name]
        if not options:
            raise Misconfigured(f"{settings.registry} has no provider {name[:100]!r} for you to log in at")
    if len(options) > 1:
        names = ", ".join(option.name for option in options)
        raise Misconfigured(f"{settings.registry} names several providers; choose one with --issuer: {names}")
    return options[0] if options else None


def log_out(settings: Settings) -> tuple[bool, bool]:
    """Forget the login; returns whether there was one, and whether the provider ended its refresh token."""
    keyring = _keyring(settings)
    with credentials.locked(settings.credentials):
        login = _read(settings)
        forgotten = credentials.forget(settings.credentials, settings.registry, keyring=keyring)
    if login is None or login.refresh_token is None:
        return forgotten, False
    try:
        return forgotten, oidc.revoke(_provider_of(settings, login), login.refresh_token)
    except ModelregError:
        return forgotten, False


class SessionToken:
    """The token of a running command, renewed shortly before it ends. Thread-safe, and safe between processes."""

    def __init__(
        self, settings: Settings, login: Login, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._settings = settings
        self._login = login
        self._clock = clock
        self._lock = threading.Lock()

    def __call__(self) -> str:
        """A token that holds for the next minute.

        Raises:
            Unauthenticated: it has ended and cannot be renewed.
        """
        with self._lock:
            if self._ends_soon():
                self._renew()
            return self._login.token

    def _ends_soon(self) -> bool:
        return self._login.expires_at is not None and self._clock() >= self._login.expires_at - MARGIN

    def _renew(self) -> None:
        with credentials.locked(self._settings.credentials):
            stored = _read(self._settings)
            if stored is None:
                raise credentials.absent(self._settings.registry)  # logged out meanwhile
            self._login = stored  # another process may have renewed it
            if not self._ends_soon():
                return
            try:
                self._login = _renewed(self._settings, self._login)
            except ModelregError:
                if self._login.expires_at is None or self._clock() >= self._login.expires_at:
                    raise  # else it is good for a moment yet


def session_token(settings: Settings) -> str | Callable[[], str]:
    """The token for the registry: the environment's, the stored one, or with `workload` one exchanged now.

    Raises:
        Unauthenticated: there is none.
    """
    if (token := credentials.from_environment()) is not None:
        return credentials.require_token(token)
    login = _read(settings)
    if login is None and settings.workload:
        with credentials.locked(settings.credentials):
            login = _read(settings) or _ambient_login(settings)[0]
    if login is None:
        raise credentials.absent(settings.registry)
    return SessionToken(settings, login) if login.expires_at is not None else credentials.require_token(login.token)


def connect(settings: Settings) -> Api:
    """The configured registry, with what this machine has: a token or a session that renews itself, its host key, or both.

    Raises:
        Unauthenticated: no token is stored for it and this machine is not enrolled with it.
    """
    host_key = enrolment.key_for(settings.state_dir, settings.registry)
    token: str | Callable[[], str] | None = None
    try:
        token = session_token(settings)
    except Unauthenticated:
        # A token that was given and cannot be one is a mistake, not a wish to go without.
        if host_key is None or credentials.from_environment() is not None:
            raise
    return Api(settings.registry, token, connections.make_pool(settings.ca_file, settings.connections), host_key)


def anonymous(settings: Settings) -> Api:
    """The registry without a credential, for what is public."""
    return Api(settings.registry, None, connections.make_pool(settings.ca_file, 1))


def _renewed(settings: Settings, login: Login) -> Login:
    if login.kind == "workload":
        return _ambient_login(settings)[0]
    if login.refresh_token is None:
        raise Unauthenticated(f"the login to {settings.registry} has ended; run `modelreg login`")
    tokens = oidc.refresh(_provider_of(settings, login), login.refresh_token, login.subject)
    if tokens.refresh_token is not None:
        # Kept before anything else can fail: the old one is used up.
        login = replace(login, refresh_token=tokens.refresh_token)
        credentials.write(settings.credentials, settings.registry, login, keyring=_keyring(settings))
    return _exchanged(settings, login, tokens.id_token)[0]


def _ambient_login(settings: Settings) -> tuple[Login, LoggedIn]:
    audience = settings.audience or settings.registry
    found = ambient.find(os.environ, settings.identity_token_file, audience, _tls(settings))
    return _exchanged(settings, Login(token="", kind="workload"), found.text)


def _exchanged(settings: Settings, login: Login, identity_token: str) -> tuple[Login, LoggedIn]:
    request = wire.request(wire.ExchangeRequest, token=identity_token, issuer=login.issuer_name)
    made = anonymous(settings).exchange(request)
    login = replace(login, token=credentials.require_token(made.token), expires_at=made.expires_at)
    credentials.write(settings.credentials, settings.registry, login, keyring=_keyring(settings))
    return login, LoggedIn(made.principal, made.expires_at)


def _provider_of(settings: Settings, login: Login) -> oidc.Provider:
    if login.issuer is None or login.client_id is None:
        raise Misconfigured("the stored login names no provider; run `modelreg logout`, then `modelreg login`")
    providers.require_url(login.issuer, loopback=providers.is_plain(settings.registry))
    return oidc.open_provider(login.issuer, login.client_id, login.scopes, _tls(settings))


def _read(settings: Settings) -> Login | None:
    return credentials.read(settings.credentials, settings.registry, keyring=_keyring(settings))


def _keyring(settings: Settings) -> bool:
    return settings.credential_store == "keyring"


def _tls(settings: Settings) -> ssl.SSLContext:
    # The registry's own authority, and the public ones: the provider is often somebody else's.
    return providers.tls_context(settings.ca_file, beside_system=True)
