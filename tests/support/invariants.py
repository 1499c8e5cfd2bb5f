"""The rules that must hold when an order has come to rest, checked with the sandbox's records."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from audit.evidence import Evidence, ProviderRecords, read_runs, read_snapshot
from audit.invariants import violations
from orders.models import SETTLED
from orders.verification import Violation
from sandbox.world import World

if TYPE_CHECKING:
    import asyncpg

SEEDED: Final = {"1": 100, "2": 40, "3": 40, "4": 40, "5": 1}


class ShopRecords(Protocol):
    """What the rules read: a database and a sandbox. A `client`, if there is one, gives the runs."""

    pool: "asyncpg.Pool[asyncpg.Record]"

    @property
    def world(self) -> World: ...


async def assert_invariants(shop: ShopRecords, order_id: str, stocked: Mapping[str, int] = SEEDED) -> None:
    """Check the stock, money, goods, e-mails and runs of an order at rest; `stocked` is the stock before it."""
    evidence = await collect_evidence(shop, order_id, stocked=stocked)
    statuses = {order.status for order in evidence.snapshot.orders}
    assert statuses <= SETTLED, f"the order has not come to rest: {statuses}"
    _assert_none(violations(evidence))


async def check_stock(shop: ShopRecords, stocked: Mapping[str, int] = SEEDED) -> None:
    """Check that every unit is available, reserved or sold."""
    _assert_none(violations(await collect_evidence(shop, stocked=stocked)))


async def collect_evidence(shop: ShopRecords, *orders: str, stocked: Mapping[str, int] = SEEDED) -> Evidence:
    """What the rules read about these orders."""
    client = getattr(shop, "client", None)
    snapshot = await read_snapshot(shop.pool, orders)
    records = ProviderRecords.model_validate(shop.world.provider_records())
    runs = await read_runs(client, orders, snapshot.claimed) if client else None
    return Evidence(snapshot, records, stocked, runs)


def _assert_none(found: list[Violation]) -> None:
    assert not found, "\n".join(f"{each.subject}: {each.what} ({each.rule})" for each in found)
