"""Whatever orders come together, in whatever order: each ends as if all of them had been decided one by one."""

import asyncio
import os
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from activities.inventory import Inventory
from deploy.local.postgres import Postgres
from orders.errors import Unavailable
from orders.models import OrderRow, ReservationRequest
from sandbox.server import Running
from sandbox.world import World
from tests.support.activity_bench import ActivityBench, open_activity_bench, open_clients, order_of
from tests.support.servers import copy_database
from tests.support.shop import settings_for

BATCHES: Final = int(os.environ.get("SEQUENCES", "500"))
SEED: Final = int(os.environ.get("SEED", "1"))
STOCK: Final = "UPDATE inventory SET quantity = $1, reserved = 0, sold = 0"
UNITS: Final = "SELECT product_id, quantity, reserved FROM inventory ORDER BY product_id"
WRITTEN: Final = """
    SELECT substr(o.id, 2) AS id, o.status, o.total, o.closing, o.error_code, o.error,
        ARRAY(SELECT (r.product_id, r.quantity)::text FROM reservations r WHERE r.order_id = o.id ORDER BY 1),
        ARRAY(SELECT (i.product_id, i.quantity, i.price)::text FROM order_items i WHERE i.order_id = o.id ORDER BY 1),
        ARRAY(SELECT to_status || ': ' || actor || ', ' || why FROM order_events e WHERE e.order_id = o.id)
    FROM orders o WHERE o.id LIKE $1 || '%' ORDER BY o.id
"""


class Wish(NamedTuple):
    """One order, or one more attempt of it; a quantity below one makes its transaction fail."""

    number: int
    lines: dict[str, int]
    currency: str


wishes = st.builds(
    Wish,
    number=st.integers(0, 5),
    lines=st.dictionaries(
        st.sampled_from(["1", "2", "3", "unknown"]),
        st.sampled_from([1, 1, 2, 3, -1]),
        min_size=1,
        max_size=3,
    ),
    currency=st.sampled_from(["usd", "usd", "usd", "eur"]),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("batches", [15, pytest.param(BATCHES, marks=pytest.mark.prove)])
async def test_a_batch_decides_as_one_by_one(postgres: Postgres, batches: int) -> None:
    """The same answers, the same rows, the same stock; and no unit is sold twice."""
    loop = asyncio.get_running_loop()
    nowhere = Running("http://127.0.0.1:1", World())
    async with copy_database(postgres) as url:
        chosen = settings_for(url, nowhere)
        async with open_clients(chosen) as clients, open_activity_bench(chosen, nowhere, clients) as bench:

            @seed(SEED)
            @settings(max_examples=batches, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(st.lists(wishes, min_size=2, max_size=12), st.integers(0, 8))
            def compare(batch: list[Wish], units: int) -> None:
                asyncio.run_coroutine_threadsafe(_compare(bench, batch, units), loop).result(60)

            await asyncio.to_thread(compare)


_examples = iter(range(1_000_000))


async def _compare(bench: ActivityBench, batch: list[Wish], units: int) -> None:
    example = f"{next(_examples)}-"
    alone = await _decide(bench, f"a{example}", batch, units, together=False)
    assert await _decide(bench, f"b{example}", batch, units, together=True) == alone
    for _, quantity, reserved in alone[-1]:
        assert (quantity + reserved, quantity >= 0) == (units, True)


async def _decide(bench: ActivityBench, prefix: str, batch: list[Wish], units: int, *, together: bool) -> list[Any]:
    """The answers, and what is in the database then; order ids without their first letter."""
    await bench.pool.execute(STOCK, units)
    attempts = [_attempt(bench, _request(prefix, wish)) for wish in batch]
    answers = await asyncio.gather(*attempts) if together else [await attempt for attempt in attempts]
    rows = [tuple(row) for row in await bench.pool.fetch(WRITTEN, prefix)]
    return [*answers, rows, [tuple(row) for row in await bench.pool.fetch(UNITS)]]


async def _attempt(bench: ActivityBench, request: ReservationRequest) -> object:
    try:
        row = await bench.do(Inventory.reserve_stock, request, run=request.order_id[1:])
    except Unavailable as error:
        return error.type, str(error)
    assert isinstance(row, OrderRow)
    return row.model_dump(exclude={"id"})


def _request(prefix: str, wish: Wish) -> ReservationRequest:
    items = [{"productId": product, "quantity": max(1, quantity)} for product, quantity in wish.lines.items()]
    request = order_of(f"{prefix}{wish.number}", items=items, currency=wish.currency).reservation
    lines = tuple(line.model_copy(update={"quantity": wish.lines[line.product_id]}) for line in request.lines)
    return request.model_copy(update={"lines": lines})
