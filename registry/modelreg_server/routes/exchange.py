"""Logging in: what the registry takes, and the exchange. Public: the issuer's token is the credential."""

import logging

from fastapi import APIRouter, Depends, Request

from modelreg import wire
from modelreg.errors import TokenRefused, Unreachable
from modelreg_server import exchange
from modelreg_server.dependencies import PartsDep, Public, client_of

router = APIRouter(prefix="/v1", tags=["login"])
_log = logging.getLogger(__name__)


@router.get("/login-options", dependencies=[Depends(Public())], summary="Where people log in")
def login_options(parts: PartsDep) -> wire.LoginOptions:
    """The providers that people log in with, in the configured order."""
    return wire.LoginOptions(
        issuers=[
            wire.LoginOption(
                name=issuer.name, issuer=issuer.url, client_id=issuer.client_id, scopes=list(issuer.scopes)
            )
            for issuer in parts.federation.issuers()
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
    request.scope["modelreg_principal"] = made.row.principal
    return wire.Exchanged(token=made.text, principal=made.row.principal, expires_at=made.row.expires_at)
