"""Whether the process is up and its record can be read. Needs no credential."""

from fastapi import APIRouter, Depends
from sqlalchemy import text

from modelreg_server.dependencies import Public, ReadSession
from modelreg_server.guarding import GuardedRoute

router = APIRouter(tags=["health"], route_class=GuardedRoute)


@router.get("/health", dependencies=[Depends(Public())], summary="Is the registry able to work?")
def health(session: ReadSession) -> dict[str, str]:
    """Answer `ok` when the database answers; says nothing about what is stored."""
    session.connection().execute(text("SELECT 1"))
    return {"status": "ok"}
