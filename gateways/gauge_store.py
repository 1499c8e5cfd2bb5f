"""What the database says of the shop as a whole, in numbers. Each query reads an index, however old the shop is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, get_args

from gateways.refund_store import IS_LACKING
from gateways.warning_store import OVER
from orders.models import UNFINISHED, UNSHIPPED, Status, WarningKind
from orders.refunds import FAILED, STANDING

if TYPE_CHECKING:
    from gateways.postgres import Database

COUNT_UNFINISHED: Final = """
    SELECT status, count(*) AS orders, count(*) FILTER (WHERE parked_step IS NOT NULL) AS parked,
           extract(epoch FROM now() - min(created_at) FILTER (WHERE parked_step IS NULL))::float AS oldest
    FROM orders WHERE status = ANY($1::text[]) GROUP BY status
"""

COUNT_UNSHIPPED: Final = "SELECT status, count(*) AS orders FROM orders WHERE status = ANY($1::text[]) GROUP BY status"

# A payment whose refund failed twice counts once. That of a part that was withdrawn is owed to nobody. What an operator
# said of the whole payment may mean a refund by hand, which has failed since.
COUNT_FAILED_REFUNDS: Final = f"""
    SELECT count(DISTINCT r.payment_intent_id) FROM refunds r JOIN orders o ON o.id = r.order_id
    WHERE r.status = ANY($1::text[])
      AND {IS_LACKING}
      AND NOT EXISTS (
          SELECT FROM resolutions s WHERE s.order_id = r.order_id AND s.action <> 'retry'
          AND (s.step = 'refund:' || coalesce(r.refund_id, r.id)
               OR (s.step = 'void_payment' AND NOT r.by_hand
                   AND r.payment_intent_id IS NOT DISTINCT FROM o.payment_intent_id))
      )
      AND NOT EXISTS (
          SELECT FROM order_refunds w
          WHERE (w.order_id, w.refund_id) = (r.order_id, r.refund_id) AND w.status = 'withdrawn'
      )
"""  # noqa: S608 (a constant of ours)

COUNT_WARNINGS: Final = """
    SELECT w.kind, count(*) AS warnings FROM payment_warnings w
    WHERE w.status <> ALL($1::text[])
      AND NOT EXISTS (SELECT FROM resolutions s WHERE s.order_id = w.order_id AND s.step = 'warning:' || w.id)
    GROUP BY w.kind
"""


class ShopNumbers(NamedTuple):
    """`open_orders` by status, `open_warnings` by kind, all of them, also those that are 0; `oldest` in seconds."""

    open_orders: Mapping[Status, int]
    parked: int
    oldest: float
    failed_refunds: int
    open_warnings: Mapping[str, int]


async def read_numbers(database: "Database") -> ShopNumbers:
    """The numbers of this moment.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        unfinished = await connection.fetch(COUNT_UNFINISHED, UNFINISHED)
        unshipped = await connection.fetch(COUNT_UNSHIPPED, UNSHIPPED)
        failed_refunds: int = await connection.fetchval(COUNT_FAILED_REFUNDS, FAILED, STANDING)
        warnings = await connection.fetch(COUNT_WARNINGS, OVER)
    counted = {row["status"]: row["orders"] for row in (*unfinished, *unshipped)}
    return ShopNumbers(
        open_orders={status: counted.get(status, 0) for status in sorted(UNFINISHED | UNSHIPPED)},
        parked=sum(row["parked"] for row in unfinished),
        oldest=max((row["oldest"] or 0.0 for row in unfinished), default=0.0),
        failed_refunds=failed_refunds,
        open_warnings=dict.fromkeys(get_args(WarningKind), 0) | {row["kind"]: row["warnings"] for row in warnings},
    )
