"""A second opinion on a shop at rest. It shares no code with the product, the sandbox or the invariants.

It reads the tables, the journal and the services' own HTTP APIs, and derives everything from what was ordered and what
was asked for. It holds for a shop in which nobody has refunded, restocked or called off anything by hand.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import httpx

if TYPE_CHECKING:
    import asyncpg

# The statuses of a paid order, each with what the warehouse says of it: nothing that it told is unknown any more.
PAID: Final = {"processing": {"accepted"}, "shipping": {"shipping"}, "shipped": {"shipped"}, "delivered": {"delivered"}}
CLOSED: Final = {"rejected", "failed", "cancelled"}
MAY_TAKE_MONEY: Final = {"requires_action", "requires_capture", "processing"}
JOURNAL_KEEPS: Final = 20_000  # entries; in a longer run the first ones are missing
SUCCESS: Final = range(200, 300)

READ_STOCK: Final = """
    SELECT i.product_id, i.reserved, i.quantity + coalesce((
        SELECT sum(l.quantity) FROM order_items l JOIN orders o ON o.id = l.order_id
        WHERE l.product_id = i.product_id AND o.status IN ('processing', 'shipping', 'shipped', 'delivered')
    ), 0) - coalesce((
        SELECT sum(l.restock) FROM order_refund_lines l JOIN orders o ON o.id = l.order_id
        JOIN order_refunds r ON (r.order_id, r.refund_id) = (l.order_id, l.refund_id)
        WHERE l.product_id = i.product_id AND r.status = 'made'
          AND o.status IN ('processing', 'shipping', 'shipped', 'delivered')
    ), 0) + coalesce((
        SELECT sum(v.written_off) FROM reservations v JOIN orders o ON o.id = v.order_id
        WHERE v.product_id = i.product_id AND o.status IN ('rejected', 'failed', 'cancelled')
    ), 0) AS units
    FROM inventory i
"""

# The products whose sums, which verify-orders goes by, are not those of their reservations.
MISCOUNTED: Final = """
    SELECT product_id FROM reservation_totals t FULL JOIN (
        SELECT product_id, sum(quantity) FILTER (WHERE state = 'held') AS held,
            sum(CASE state WHEN 'sold' THEN quantity - returned WHEN 'released' THEN written_off END) AS sold
        FROM reservations GROUP BY product_id
    ) r USING (product_id)
    WHERE (t.held, t.sold) IS DISTINCT FROM (coalesce(r.held, 0), coalesce(r.sold, 0))
"""

# Lines of closed orders of which other units are written off than were refunded for good, or can never leave.
MISWRITTEN: Final = """
    SELECT w.* FROM (
        SELECT v.order_id, v.product_id, v.written_off, v.quantity - v.returned AS kept, coalesce((
            SELECT sum(l.quantity - l.restock) FROM order_refund_lines l
            JOIN order_refunds r ON (r.order_id, r.refund_id) = (l.order_id, l.refund_id)
            WHERE (l.order_id, l.product_id) = (v.order_id, v.product_id) AND (r.status = 'made' OR r.restocked)
        ), 0) AS gone, coalesce((
            SELECT sum(l.quantity) FROM shortage_lines l
            JOIN shortages s ON (s.order_id, s.number) = (l.order_id, l.number)
            WHERE (l.order_id, l.product_id) = (v.order_id, v.product_id) AND NOT s.restock
        ), 0) AS short
        FROM reservations v WHERE v.state = 'released'
    ) w WHERE w.written_off <> least(w.kept, greatest(w.gone, w.short))
    ORDER BY w.order_id, w.product_id
"""

READ_ORDERS: Final = """
    SELECT o.id, o.status,
           (coalesce((SELECT sum(l.quantity * l.price) FROM order_items l WHERE l.order_id = o.id), 0)
               + coalesce((SELECT sum(c.amount) FROM order_charges c WHERE c.order_id = o.id), 0)
               - coalesce((SELECT sum(r.amount) FROM order_refunds r WHERE r.order_id = o.id AND r.status = 'made'), 0)
           )::bigint AS price,
           EXISTS (SELECT FROM reminders m WHERE m.key = 'unconfirmed:' || o.id) OR EXISTS (
               SELECT FROM notifications n
               WHERE n.order_id = o.id AND n.kind = 'order_confirmation' AND n.state IN ('given_up', 'dropped')
           ) AS unconfirmed
    FROM orders o
"""
READ_PARCELS: Final = "SELECT order_id, id FROM shipments WHERE shipped_at IS NOT NULL"
READ_SHORTED: Final = """
    SELECT order_id, product_id, sum(quantity)::integer AS units FROM shortage_lines GROUP BY order_id, product_id
"""

# Units that can never leave of a paid order, unless as many are refunded, all of its money is, or operators know.
UNREFUNDED: Final = """
    SELECT s.* FROM (
        SELECT l.order_id, l.product_id, sum(l.quantity) AS units, coalesce((
            SELECT sum(f.quantity) FROM order_refund_lines f
            JOIN order_refunds r ON (r.order_id, r.refund_id) = (f.order_id, f.refund_id)
            WHERE (f.order_id, f.product_id) = (l.order_id, l.product_id) AND r.status = 'made'
        ), 0) AS refunded
        FROM shortage_lines l GROUP BY l.order_id, l.product_id
    ) s JOIN orders o ON o.id = s.order_id
    WHERE o.status IN ('processing', 'shipping', 'shipped', 'delivered') AND s.refunded < s.units
      AND (o.total = 0 OR o.total > (
          SELECT coalesce(sum(r.amount), 0) FROM order_refunds r WHERE r.order_id = o.id AND r.status = 'made'
      ))
      AND NOT EXISTS (SELECT FROM reminders m WHERE starts_with(m.key, 'shortage:' || o.id || ':'))
      AND ($1::text[] IS NULL OR o.id = ANY($1))
    ORDER BY s.order_id, s.product_id
"""

# Whatever came of the message: sent, dropped or given up.
UNTOLD: Final = """
    SELECT order_id, id FROM shipments s
    WHERE shipped_at IS NOT NULL AND ($1::text[] IS NULL OR order_id = ANY($1)) AND NOT EXISTS (
        SELECT FROM notifications n WHERE (n.order_id, n.kind, n.about) = (s.order_id, 'order_shipped', s.id)
    ) ORDER BY order_id, id
"""

CLAIMED: Final = """
    SELECT order_id, refund_id FROM order_refunds
    WHERE status = 'claimed' AND ($1::text[] IS NULL OR order_id = ANY($1)) ORDER BY order_id, refund_id
"""


async def count_units(pool: "asyncpg.Pool[asyncpg.Record]") -> dict[str, int]:
    """The units of each product: those in stock and those in the orders that are paid."""
    return {row["product_id"]: int(row["units"]) for row in await pool.fetch(READ_STOCK)}


async def second_opinion(
    pool: "asyncpg.Pool[asyncpg.Record]", sandbox: httpx.AsyncClient, units: Mapping[str, int]
) -> list[str]:
    """What is wrong; `units` are those before the first order. Every order must be at rest."""
    journal = (await sandbox.get("/_sandbox/journal")).raise_for_status().json()
    orders = {row["id"]: row for row in await pool.fetch(READ_ORDERS)}
    ships, messages = requests_by_order(journal)
    goods = await read_goods(pool)
    found = [
        f"order {each['id']}: it is {each['status']}"
        for each in orders.values()
        if each["status"] not in PAID.keys() | CLOSED
    ]
    found += await stock_findings(pool, units)
    found += await part_findings(pool)
    net, open_payments = await read_money(sandbox)
    for order_id in sorted(orders.keys() | net.keys() | ships.keys()):
        order = orders.get(order_id)
        status = order["status"] if order else "absent"
        due = order["price"] if order and status in PAID else 0
        if net[order_id] != due or order_id in open_payments:
            authorized = ", and more may be taken" if order_id in open_payments else ""
            found.append(f"order {order_id}: {status}, {net[order_id]} is paid instead of {due}{authorized}")
        shipment = await read_shipment(sandbox, order_id)
        if shipment["status"] not in PAID.get(status, {"unknown", "cancelled"}):
            found.append(f"order {order_id}: {status}, its shipment is {shipment['status']}")
        is_told = status in PAID or shipment["status"] == "cancelled"
        if is_told and (said := goods_in(shipment)) != goods[order_id]:
            found.append(f"order {order_id}: the warehouse says {text_of(said)}, the shop {text_of(goods[order_id])}")
        if len(ships[order_id]) > 1:
            found.append(f"order {order_id}: its shipment was requested under {len(ships[order_id])} keys")
        sent = messages[order_id]
        found += [f"order {order_id}: {kind} was sent {count} times" for kind, count in sent.items() if count > 1]
        is_missing = status in PAID and order and not order["unconfirmed"] and not sent["order_confirmation"]
        if is_missing and len(journal) < JOURNAL_KEEPS:
            found.append(f"order {order_id}: {status}, and its confirmation was not sent")
    return found


async def stock_findings(pool: "asyncpg.Pool[asyncpg.Record]", units: Mapping[str, int]) -> list[str]:
    found: list[str] = []
    for row in await pool.fetch(READ_STOCK):
        before = units.get(row["product_id"])
        if row["units"] != before or row["reserved"]:
            now = f"{row['units']} units, of which {row['reserved']} are reserved"
            found.append(f"product {row['product_id']}: {before} units became {now}")
    found += [f"product {row['product_id']}: its reservations are miscounted" for row in await pool.fetch(MISCOUNTED)]
    return found + [
        f"order {row['order_id']}: {row['written_off']} of product {row['product_id']} are written off, "
        f"{row['gone']} are refunded for good, {row['short']} can never leave"
        for row in await pool.fetch(MISWRITTEN)
    ]


async def part_findings(pool: "asyncpg.Pool[asyncpg.Record]", orders: Sequence[str] | None = None) -> list[str]:
    """What is still owed of parts of the orders, None: of all orders, an hour after they have come to rest."""
    found = [
        f"order {row['order_id']}: its refund {row['refund_id']} is claimed, and neither made nor withdrawn"
        for row in await pool.fetch(CLAIMED, orders)
    ]
    found += [
        f"order {row['order_id']}: nobody was told of its parcel {row['id']}"
        for row in await pool.fetch(UNTOLD, orders)
    ]
    return found + [
        f"order {row['order_id']}: {row['units']} of product {row['product_id']} can never leave, "
        f"{row['refunded']} are refunded, and nobody knows"
        for row in await pool.fetch(UNREFUNDED, orders)
    ]


def requests_by_order(journal: list[dict[str, Any]]) -> tuple[dict[str, set[str]], dict[str, Counter[str]]]:
    """The idempotency keys of the accepted requests to ship, and the number of accepted messages of each kind."""
    ships: dict[str, set[str]] = defaultdict(set)
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for number, entry in enumerate(journal):
        body = entry["body"]
        if entry["method"] != "POST" or entry["status"] not in SUCCESS:
            continue
        key = entry["headers"].get("idempotency-key", f"none {number}")
        match entry["service"], entry["path"]:
            case "fulfillment", "/orders":
                ships[body["orderId"]].add(key)
            case "email", _ if order_id := body["data"].get("orderNumber"):
                about = body["data"].get("shipmentId") or body["data"].get("refundId")
                keys[order_id, " ".join(filter(None, (body["template"], about)))].add(key)
            case "analytics", _ if order_id := body["properties"].get("orderId"):
                keys[order_id, body["event"]].add(key)
    messages: dict[str, Counter[str]] = defaultdict(Counter)
    for (order_id, kind), used in keys.items():
        messages[order_id][kind] = len(used)
    return ships, messages


async def read_money(sandbox: httpx.AsyncClient) -> tuple[Counter[str], set[str]]:
    """What the shop keeps for each order that a payment names, and the orders for which more may be taken."""
    net: Counter[str] = Counter()
    may_take: set[str] = set()
    order_of: dict[str, str] = {}
    async for payment in list_all(sandbox, "payment_intents"):
        if order_id := payment["metadata"].get("order_id"):
            order_of[payment["id"]] = order_id
            net[order_id] += payment["amount_received"]
            may_take |= {order_id} if payment["status"] in MAY_TAKE_MONEY else set()
    async for refund in list_all(sandbox, "refunds"):
        if refund["status"] not in {"failed", "canceled"} and (order_id := order_of.get(refund["payment_intent"])):
            net[order_id] -= refund["amount"]
    return net, may_take


async def list_all(sandbox: httpx.AsyncClient, kind: str) -> AsyncIterator[dict[str, Any]]:
    """All objects of the payment provider, page after page."""
    params: dict[str, Any] = {"limit": 100}
    while True:
        headers = {"Authorization": "Bearer sk_test_second_opinion"}
        page = (await sandbox.get(f"/stripe/v1/{kind}", params=params, headers=headers)).raise_for_status().json()
        for each in page["data"]:
            yield each
        if not page["has_more"]:
            return
        params["starting_after"] = page["data"][-1]["id"]


async def read_shipment(sandbox: httpx.AsyncClient, order_id: str) -> dict[str, Any]:
    """The warehouse's answer about the order."""
    answer = await sandbox.get(f"/fulfillment/orders/{order_id}", headers={"Authorization": "Bearer any"})
    unknown = answer.status_code == httpx.codes.NOT_FOUND
    shipment: dict[str, Any] = {"status": "unknown"} if unknown else answer.raise_for_status().json()
    return shipment


async def read_goods(pool: "asyncpg.Pool[asyncpg.Record]") -> dict[str, Counter[str]]:
    """The parcels that have left, and the units that never can, by order."""
    goods: dict[str, Counter[str]] = defaultdict(Counter)
    for row in await pool.fetch(READ_PARCELS):
        goods[row["order_id"]][f"parcel {row['id']}"] += 1
    for row in await pool.fetch(READ_SHORTED):
        goods[row["order_id"]][f"short of product {row['product_id']}"] += row["units"]
    return goods


def goods_in(shipment: dict[str, Any]) -> Counter[str]:
    """The same in the warehouse's answer. What leaves as a whole is one parcel."""
    parcels = [each["shipmentId"] for each in shipment.get("parcels", ())]
    if not parcels and shipment["status"] in {"shipped", "delivered"}:
        parcels = [shipment["id"]]
    goods = Counter(f"parcel {each}" for each in parcels)
    for line in shipment.get("shorted", ()):
        goods[f"short of product {line['productId']}"] += line["quantity"]
    return goods


def text_of(goods: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(goods.items())) or "nothing"
