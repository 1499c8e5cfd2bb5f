"""The refunds of payments, as the table `refunds` keeps them: what Stripe says, and which attempts an operator allows.

A refund is kept under the order that its payment names, also if the payment is an orphan. Every function that takes an
order row expects it locked: see order_store.lock_row.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import stripe

from gateways.order_refunds import follow_claims, read_resolved
from gateways.order_store import lock_row, write_event
from gateways.reminders import not_alerted_today
from gateways.stripe import Intent, attempt_of, is_by_hand, made_at, part_of
from orders.errors import Permanent
from orders.models import KEPT, OrderRow
from orders.names import refund_step
from orders.refunds import ARRIVING, FAILED, STANDING, UNDER_WAY, ByHand, paid_elsewhere

if TYPE_CHECKING:
    import asyncpg

    from gateways.postgres import Connection, Database

UNKNOWN: Final = "unknown"  # a status that Stripe did not name

# The later of two statuses first. A status only goes forward: a caller that read an earlier one comes too late. But one
# that is not in this list replaces any.
LATEST_FIRST: Final = ("failed", "canceled", "succeeded", "requires_action", "pending")

# One statement, so that `refunds` in its last part is the table before the change.
KEEP_REFUNDS: Final = """
    WITH kept AS (
        INSERT INTO refunds AS r
            (order_id, payment_intent_id, id, amount, status, attempt, refund_id, by_hand, made_at)
        SELECT $1, $2, * FROM unnest(
            $3::text[], $4::bigint[], $5::text[], $6::integer[], $8::text[], $9::boolean[], $10::timestamptz[]
        )
        ON CONFLICT (id) DO UPDATE SET status = CASE
            WHEN array_position($7::text[], r.status) < array_position($7::text[], excluded.status) THEN r.status
            ELSE excluded.status
        END
        RETURNING id, status, attempt
    )
    SELECT kept.id, kept.status FROM kept LEFT JOIN refunds before USING (id)
    WHERE kept.status IS DISTINCT FROM before.status
    ORDER BY kept.attempt
"""

MARK_CHECKED: Final = "UPDATE refunds SET checked_at = now() WHERE (order_id, payment_intent_id) = ($1, $2)"

CHECK_PAYMENT_AGAIN: Final = "UPDATE orders SET payment_checked_at = NULL WHERE id = $1"

READ_STANDING: Final = "SELECT id FROM refunds WHERE payment_intent_id = $1 AND status = ANY($2::text[])"

# Of refunds of parts the customer was told when they were made.
READ_REFUNDED: Final = """
    SELECT coalesce(sum(r.amount), 0)
    FROM refunds r JOIN orders o ON (r.order_id, r.payment_intent_id) = (o.id, o.payment_intent_id)
    WHERE o.id = $1 AND r.refund_id IS NULL AND r.status = ANY($2::text[])
"""

# Whether the retry came after the refund was known: one that answered an earlier problem allows nothing.
IS_RETRIED: Final = """
    SELECT EXISTS (
        SELECT FROM resolutions s JOIN refunds r ON r.id = $3
        WHERE s.order_id = $1 AND s.step = $2 AND s.action = 'retry' AND s.at > r.at
    )
"""

FIND_KEPT: Final = "SELECT DISTINCT payment_intent_id FROM refunds WHERE payment_intent_id = ANY($1::text[])"

FIND_PAYMENTS: Final = "SELECT DISTINCT payment_intent_id FROM refunds WHERE order_id = $1"

# A refund may fail days after it succeeded (docs.stripe.com/refunds).
FIND_CHANGEABLE: Final = """
    SELECT order_id FROM refunds
    WHERE (status = ANY($3::text[]) AND checked_at < now() - $1::interval)
       OR (status <> ALL($3::text[])
           AND checked_at < now() - interval '1 day' AND at > now() - interval '30 days')
    GROUP BY order_id ORDER BY min(checked_at) LIMIT $2
"""

# Whether the customer still lacks the money of a refund `r`, of the order `o`, that failed. That of a part is not made
# up for by that of another part, and one by hand only by another one by hand: an undo refunds nothing that an operator
# says is paid. Once all of the order's payment is refunded nothing is lacking.
IS_LACKING: Final = """
    r.amount > (
        SELECT coalesce(sum(s.amount), 0) FROM refunds s
        WHERE s.payment_intent_id = r.payment_intent_id AND s.attempt > r.attempt AND s.status = ANY($2::text[])
          AND (s.refund_id IS NULL OR s.refund_id = r.refund_id)
          AND (s.by_hand OR NOT r.by_hand OR r.payment_intent_id IS DISTINCT FROM o.payment_intent_id)
    )
    AND (r.payment_intent_id IS DISTINCT FROM o.payment_intent_id OR o.total > (
        SELECT coalesce(sum(s.amount), 0) FROM refunds s
        WHERE s.payment_intent_id = r.payment_intent_id AND s.status = ANY($2::text[])
    ))
"""

# The customer must act, or the bank takes longer than it should (docs.stripe.com/refunds). Or a refund has failed that
# nothing else reports: that of an orphan payment, or one by hand of an order that is kept, or of which an operator says
# that it is paid; any other closed order is compared with its payment. It is reported until later refunds make up for
# it, or until an operator settles it.
FIND_STUCK: Final = f"""
    SELECT p.key, r.id, r.order_id, r.refund_id, r.amount, r.status, o.currency
    FROM refunds r JOIN orders o ON o.id = r.order_id CROSS JOIN concat('refund:', r.id, ':', r.status) AS p (key)
    WHERE (r.status = 'requires_action'
       OR (r.status = 'pending' AND r.at < now() - interval '7 days')
       OR (r.status = ANY($1::text[])
           AND (r.payment_intent_id IS DISTINCT FROM o.payment_intent_id
               OR (r.by_hand AND (o.status = ANY($3::text[]) OR EXISTS (
                   SELECT FROM resolutions s WHERE s.order_id = r.order_id AND s.action <> 'retry'
                   AND (s.step = 'void_payment' OR starts_with(s.step, 'refund:'))
               ))))
           AND {IS_LACKING}
           AND NOT EXISTS (
               SELECT FROM resolutions s WHERE s.order_id = r.order_id AND s.step = 'refund:' || r.id
           )))
       AND {not_alerted_today("p.key")}
    ORDER BY r.at LIMIT $4
"""  # noqa: S608 (constants of ours)


async def keep_refunds(
    connection: "Connection", row: OrderRow, intent_id: str, refunds: Sequence[stripe.Refund]
) -> list[str]:
    """Write what Stripe says of the refunds of a payment, newest first. Returns what changed, as text.

    The claims of parts follow. After a change reconciliation compares the order with its payment once more.
    """
    oldest_first = refunds[::-1]
    changed = await connection.fetch(
        KEEP_REFUNDS,
        row.id,
        intent_id,
        [refund.id for refund in oldest_first],
        [refund.amount for refund in oldest_first],
        [refund.status or UNKNOWN for refund in oldest_first],
        [*range(1, len(refunds) + 1)],
        LATEST_FIRST,
        [part_of(refund) for refund in oldest_first],
        [is_by_hand(refund) for refund in oldest_first],
        [made_at(refund) for refund in oldest_first],
    )
    await connection.execute(MARK_CHECKED, row.id, intent_id)
    texts = [f"refund {refund['id']} {refund['status']}" for refund in changed]
    for text in texts:
        await write_event(connection, row.id, text)
    if texts:
        await connection.execute(CHECK_PAYMENT_AGAIN, row.id)
    await follow_claims(connection, row.id)
    return texts


async def save_refunds(
    database: "Database", order_id: str, intent_id: str, refunds: Sequence[stripe.Refund]
) -> list[str]:
    """Keep the refunds in a transaction of their own; see keep_refunds."""
    async with database.transaction() as connection:
        return await keep_refunds(connection, await lock_row(connection, order_id), intent_id, refunds)


async def take_attempt(
    database: "Database", order_id: str, intent_id: str, refunds: Sequence[stripe.Refund], *, of: str | None = None
) -> int:
    """The number of the next refund of the part with the refund id `of`; None: of all that is left.

    Refunds of parts, and those by hand, do not count for the rest: if one fails, what it leaves is refunded by another
    attempt.

    Raises:
        Permanent: one has failed, and no operator has allowed another one since. The failure is kept: the operator's
            word must come after it.
    """
    mine = [refund for refund in refunds if part_of(refund) == of and not is_by_hand(refund)]
    async with database.transaction() as connection:
        attempt = await next_attempt(connection, order_id, refund_step(of) if of else "void_payment", mine)
    if attempt is None:
        await save_refunds(database, order_id, intent_id, refunds)
        raise refund_failed(next(refund for refund in mine if refund.status in FAILED))
    return attempt


async def next_attempt(
    connection: "Connection", order_id: str, step: str, refunds: Sequence[stripe.Refund]
) -> int | None:
    """The number of the step's next refund; `refunds` are those that it has made, newest first.

    None: one has failed, and no operator has allowed another one since. A number stays the next one until Stripe shows
    a refund with it: under another number, and so another key, a request that is still under way could take effect
    twice. An error that Stripe has saved spends only the key: see SpentKeys.
    """
    failed = next((refund for refund in refunds if refund.status in FAILED), None)
    if failed and not await connection.fetchval(IS_RETRIED, order_id, step, failed.id):
        return None
    return 1 + max((attempt_of(refund) or 0 for refund in refunds), default=0)


async def read_paid_elsewhere(connection: "Connection", order_id: str, refunds: Sequence[stripe.Refund]) -> int:
    """What operators have paid back of parts by other means than Stripe, in minor units, beside these refunds."""
    parts = {part_of(refund) for refund in refunds if refund.status not in FAILED}
    by_hand = [refund for refund in refunds if is_by_hand(refund) and refund.status in STANDING]
    in_dashboard = [ByHand(refund.amount, made_at(refund)) for refund in by_hand]
    return paid_elsewhere(await read_resolved(connection, order_id, parts), in_dashboard)


async def read_standing(connection: "Connection", intent_id: str) -> set[str]:
    """The refunds of the payment that stand as far as we know. Read them before Stripe's: another attempt adds some."""
    return {record["id"] for record in await connection.fetch(READ_STANDING, intent_id, STANDING)}


def refuse_unknown(standing: Iterable[str], refunds: Iterable[stripe.Refund]) -> None:
    """Return only if Stripe knows every refund of the payment that we know. Else one more might be one too many.

    Raises:
        Permanent: it does not; an operator must decide.
    """
    if unknown := sorted({*standing} - {refund.id for refund in refunds}):
        raise Permanent(f"stripe does not know the refund {unknown[0]}, which it once made", type="refund_unknown")


async def read_refunded(connection: "Connection", order_id: str) -> int:
    """How much of the order's own payment is refunded, in minor units, beside the refunds of its parts."""
    refunded: int = await connection.fetchval(READ_REFUNDED, order_id, ARRIVING)
    return refunded


async def find_kept(connection: "Connection", intent_ids: Iterable[str]) -> set[str]:
    """Those of the payments that have a refund in the table."""
    return {record["payment_intent_id"] for record in await connection.fetch(FIND_KEPT, list(intent_ids))}


async def find_payments(connection: "Connection", order_id: str) -> list[str]:
    """The payments that have refunds under this order."""
    return [record["payment_intent_id"] for record in await connection.fetch(FIND_PAYMENTS, order_id)]


async def find_changeable(connection: "Connection", after: timedelta, limit: int) -> list[str]:
    """The orders with a refund whose status may change; those that were read longest ago come first.

    A refund under way is due `after` it was last read, any other one after a day, for thirty days.
    """
    return [record["order_id"] for record in await connection.fetch(FIND_CHANGEABLE, after, limit, UNDER_WAY)]


async def find_stuck(connection: "Connection", limit: int) -> list["asyncpg.Record"]:
    """Refunds that an operator must know of: key, id, order_id, refund_id, amount, status, currency."""
    return await connection.fetch(FIND_STUCK, FAILED, STANDING, KEPT, limit)


def left_of(intent: Intent, refunds: Iterable[stripe.Refund]) -> int:
    """What is left of a charge after its refunds, in minor units. One of unknown status may have taken its part."""
    return intent.amount_received - sum(refund.amount for refund in refunds if refund.status not in FAILED)


def refund_failed(refund: stripe.Refund) -> Permanent:
    if refund.status in FAILED:
        why = f": {reason}" if (reason := getattr(refund, "failure_reason", None)) else ""
        return Permanent(f"the refund failed ({refund.id}){why}", type="refund_failed")
    return Permanent(f"the status of the refund {refund.id} is not known to us: {refund.status}", type="refund_unknown")
