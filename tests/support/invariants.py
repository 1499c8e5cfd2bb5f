"""What must hold once an order has come to rest, however it got there: the invariants, by the sandbox's books."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from audit.evidence import Evidence, ProviderRecords, read_runs, read_snapshot
from audit.invariants import violations
from orders.models import SETTLED
from sandbox.world import World

if TYPE_CHECKING:
    import asyncpg

SEEDED: Final = {"1": 100, "2": 40, "3": 40, "4": 40, "5": 1}


class Accounts(Protocol):
    """Whose books can be checked: a shop with its database and its sandbox, and on a whole one also with its runs."""

    pool: "asyncpg.Pool[asyncpg.Record]"

    @property
    def world(self) -> World: ...


async def assert_invariants(
    shop: Accounts, order_id: str, stocked: Mapping[str, int] = SEEDED, *, terminated: bool = False
) -> None:
    """Stock, money, goods, emails_to_customer and runs of an order at rest; `stocked` is what each product began with.

    Where its run was `terminated` after all else was done, its confirmation may be missing.
    """
    evidence = await collect_evidence(shop, order_id, stocked=stocked)
    if terminated:
        evidence = evidence._replace(runs=None)
    statuses = {order.status for order in evidence.snapshot.orders}
    assert statuses <= SETTLED, f"the order has not come to rest: {statuses}"
    assert violations(evidence) == []


async def check_stock(shop: Accounts, stocked: Mapping[str, int] = SEEDED) -> None:
    """Every unit is on the shelf, held for an order, or sold."""
    assert violations(await collect_evidence(shop, stocked=stocked)) == []


async def collect_evidence(shop: Accounts, *orders: str, stocked: Mapping[str, int] = SEEDED) -> Evidence:
    """All that there is to judge these orders by."""
    client = getattr(shop, "client", None)
    snapshot = await read_snapshot(shop.pool, orders)
    books = ProviderRecords.model_validate(shop.world.provider_records())
    return Evidence(snapshot, books, stocked, await read_runs(client, orders) if client else None)
