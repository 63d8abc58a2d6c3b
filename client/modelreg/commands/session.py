"""The registry of a command, connected with the stored token."""

from collections.abc import Callable

from modelreg import connections, login
from modelreg.api import Api
from modelreg.settings import Settings


def connect(settings: Settings) -> Api:
    """The configured registry; a session is renewed when it ends.

    Raises:
        Unauthenticated: no token is stored for it.
    """
    return connect_with(settings, login.session_token(settings))


def connect_with(settings: Settings, token: str | Callable[[], str]) -> Api:
    """The configured registry, with this token."""
    return Api(settings.registry, token, connections.make_pool(settings.ca_file, settings.connections))
