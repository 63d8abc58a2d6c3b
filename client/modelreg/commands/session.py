"""The registry of a command, connected with the stored token."""

from modelreg import connections, credentials
from modelreg.api import Api
from modelreg.settings import Settings


def connect(settings: Settings) -> Api:
    """The configured registry.

    Raises:
        Unauthenticated: no token is stored for it.
    """
    token = credentials.find(settings.credentials, settings.registry)
    return connect_with(settings, token)


def connect_with(settings: Settings, token: str) -> Api:
    """The configured registry, with this token."""
    return Api(settings.registry, token, connections.make_pool(settings.ca_file, settings.connections))
