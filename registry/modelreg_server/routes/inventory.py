"""The inventory over HTTP."""

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from modelreg import wire_inventory
from modelreg.classification import Classification
from modelreg.wire import PlaceName, Word
from modelreg_server import inventory
from modelreg_server.callers import Caller
from modelreg_server.dependencies import ReadSession, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.routes import LimitQuery

router = APIRouter(tags=["inventory"], route_class=GuardedRoute)


@router.get("/v1/inventory", summary="Every artifact one may read")
def listed(
    caller: Annotated[Caller, Depends(Requires(None))],
    session: ReadSession,
    owner: Annotated[Word | None, Query()] = None,
    classification: Annotated[Classification | None, Query(alias="class")] = None,
    environment: Annotated[PlaceName | None, Query()] = None,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: LimitQuery = 100,
) -> wire_inventory.Inventory:
    """In the order of publication: owner, class, state, environments, and for auditors how often it is loaded now."""
    wanted = inventory.Wanted(owner, classification, environment)
    found, following = inventory.page(session, caller, wanted, after, limit)
    return wire_inventory.Inventory(rows=[_row(item) for item in found], next_after=following)


def _row(item: inventory.Item) -> wire_inventory.InventoryRow:
    loads = None
    if item.loads is not None:
        counts = Counter(load.state for load in item.loads)
        loads = wire_inventory.LiveLoads(running=counts["running"], stale=counts["stale"], unknown=counts["unknown"])
    return wire_inventory.InventoryRow(
        repository=item.repository,
        artifact=item.artifact,
        tags=item.tags,
        owner=item.owner,
        published_at=item.published_at,
        size_bytes=item.size_bytes,
        files=item.files,
        classification=item.classification,
        state=item.state.state,
        state_reason=item.state.reason,
        environments=item.environments,
        live_loads=loads,
    )
