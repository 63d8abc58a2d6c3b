"""The registry of a command, connected with what this machine has: a stored token, its host key, or both."""

from collections.abc import Callable

from modelreg import connections, enrolment
from modelreg.api import Api
from modelreg.login import connect
from modelreg.settings import Settings

__all__ = ["connect", "connect_with"]


def connect_with(settings: Settings, token: str | Callable[[], str]) -> Api:
    """The configured registry, with this token."""
    pool = connections.make_pool(settings.ca_file, settings.connections)
    return Api(settings.registry, token, pool, enrolment.key_for(settings.state_dir, settings.registry))
