"""Whether the orders of a run are right: a fast arm that loses money or stock has no result."""

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg
import httpx

from audit.evidence import Evidence, ProviderRecords, read_snapshot
from audit.invariants import violations
from benchmarks.arms.arm import Rules
from benchmarks.servers import Servers

# Of the naive saga: the stock that is gone is what orders have, nothing stays reserved, each order is complete.
NAIVE_PROBLEMS: Final = """
    SELECT format('%s orders, %s were answered', count(*), $1::integer) FROM naive.orders HAVING count(*) <> $1
    UNION ALL
    SELECT format('%s: %s gone, %s ordered, %s reserved', i.product_id, s.quantity - i.quantity, ordered, i.reserved)
    FROM naive.inventory i
    JOIN (SELECT product_id, quantity + reserved + sold AS quantity FROM public.inventory) s USING (product_id)
    LEFT JOIN LATERAL (
        SELECT coalesce(sum(quantity), 0) AS ordered FROM naive.order_items o WHERE o.product_id = i.product_id
    ) o ON true
    WHERE i.reserved <> 0 OR s.quantity - i.quantity <> ordered
"""

UNFINISHED: Final = "SELECT id || ': ' || status FROM orders WHERE id = ANY($1::text[]) AND status <> 'processing'"

MAX_SHOWN: Final = 20  # problems


class WrongRun(Exception):
    """The orders of a run are not right; it has no result."""


async def check_orders(servers: Servers, orders: Mapping[Rules, Sequence[str]]) -> None:
    """Check all orders of a run, which are given by the rules that they must obey.

    Raises:
        WrongRun: naming the first problems.
    """
    product, naive = orders.get("product", ()), orders.get("naive", ())
    connection = await asyncpg.connect(servers.database)
    try:
        found = [row[0] for row in await connection.fetch(NAIVE_PROBLEMS, len(naive))] if naive else []
        found += [row[0] for row in await connection.fetch(UNFINISHED, product)]
        snapshot = await read_snapshot(connection, product)
    finally:
        await connection.close()
    async with httpx.AsyncClient(base_url=servers.sandbox, timeout=60) as http:
        records = ProviderRecords.model_validate_json((await http.get("/_sandbox/records")).content)
    found += [f"{each.subject}: {each.what}" for each in violations(Evidence(snapshot, records, runs=()))]
    missing = {*product} - {order.id for order in snapshot.orders}
    found += [f"{order}: it has no row" for order in missing]
    still = await servers.client.count_workflows("ExecutionStatus = 'Running' AND WorkflowId STARTS_WITH 'bench-'")
    if still.count:
        found.append(f"{still.count} runs have not ended")
    if found:
        raise WrongRun("\n".join(found[:MAX_SHOWN]))
