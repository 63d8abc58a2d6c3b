"""Logging in: what the registry takes, and the exchange. Public: the issuer's token is the credential."""

import logging

from fastapi import APIRouter, Depends, Request

from modelreg import wire
from modelreg.errors import Misconfigured, TokenRefused, Unreachable
from modelreg_server import exchange
from modelreg_server.dependencies import Parts, PartsDep, Public, client_of
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity.issuers import Issuer

router = APIRouter(prefix="/v1", tags=["login"], route_class=GuardedRoute)
_log = logging.getLogger(__name__)


@router.get("/login-options", dependencies=[Depends(Public())], summary="Where people log in")
def login_options(parts: PartsDep) -> wire.LoginOptions:
    """The providers that people log in with, in the configured order."""
    return wire.LoginOptions(
        issuers=[
            wire.LoginOption(
                name=issuer.name, issuer=issuer.url, client_id=issuer.client_id, scopes=list(issuer.scopes)
            )
            for issuer in _issuers(parts)
            if issuer.kind == "person" and issuer.client_id is not None
        ]
    )


@router.post(
    "/token-exchange",
    dependencies=[Depends(Public())],
    status_code=201,
    summary="Exchange an issuer's token for a session token",
)
def token_exchange(body: wire.ExchangeRequest, request: Request, parts: PartsDep) -> wire.Exchanged:
    """Verify the token, find the rule that admits it, and answer with a session token, shown once."""
    address, agent = client_of(request)
    try:
        made = exchange.exchange(
            parts.database,
            parts.federation,
            body.token,
            body.issuer,
            client_address=address,
            user_agent=agent,
            now=parts.clock(),
        )
    except (TokenRefused, Unreachable) as error:
        # Nobody is authenticated, so this is no custody event: whoever can connect could fill the record.
        _log.warning("token exchange refused (%s): %s", error.facts.get("reason", error.code), error.detail)
        raise
    except Misconfigured as error:
        raise _not_ready(error) from None
    request.scope["modelreg_principal"] = made.row.principal
    return wire.Exchanged(token=made.text, principal=made.row.principal, expires_at=made.row.expires_at)


def _issuers(parts: Parts) -> tuple[Issuer, ...]:
    try:
        return parts.federation.issuers()
    except Misconfigured as error:
        raise _not_ready(error) from None


def _not_ready(error: Misconfigured) -> Misconfigured:
    """What is wrong with a file of the server is for its log; these routes answer everybody."""
    _log.error("nobody can log in: %s", error.detail)
    return Misconfigured("this registry's list of issuers cannot be used; its log says why")
