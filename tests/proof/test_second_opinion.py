"""The second opinion finds each tampering once, and knows nothing of the code that it judges."""

import ast
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.proof import second_opinion as module
from tests.proof.second_opinion import count_units, second_opinion
from tests.support.manual_actions import refund_by_hand
from tests.support.scenarios import REFUSED_ADDRESS
from tests.support.shop import CHARGES, FREE, Shop, an_order

OTHERS: Final = {"asyncpg", "collections", "httpx", "typing"}

A_KEY: Final = {"Authorization": "Bearer any", "Idempotency-Key": "by hand"}


OWED: Final = """
    INSERT INTO shortages (order_id, number, restock) VALUES ('o2', 1, false);
    INSERT INTO shortage_lines (order_id, number, product_id, quantity) VALUES ('o2', 1, '1', 1);
    INSERT INTO order_refunds (order_id, refund_id, request_hash, amount) VALUES ('o2', 'r1', '', 1);
    INSERT INTO shipments (order_id, id, shipped_at) VALUES ('o2', 'par_2', now())
"""


@pytest.fixture
async def sandbox(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=shop.sandbox.url, trust_env=False) as http:
        yield http


@pytest.mark.prove
async def test_four_tamperings_are_four_findings(shop: Shop, sandbox: httpx.AsyncClient) -> None:
    """A unit added, a foreign refund, a cancelled shipment and a second e-mail; nothing is wrong before."""
    units = await count_units(shop.pool)
    for order_id in ("placed", "refunded", "called-off", "told-twice", "returned"):
        await shop.place(order_id=order_id)
    await shop.cancel("returned")
    await shop.place(an_order(charges=CHARGES), "charged")
    await shop.place(FREE, "free")
    await shop.place(an_order(paymentMethodId="pm_card_chargeDeclined"), "declined")
    await shop.place(an_order(shippingAddress=REFUSED_ADDRESS), "refused")
    assert await second_opinion(shop.pool, sandbox, units) == []

    await shop.pool.execute("UPDATE inventory SET quantity = quantity + 1 WHERE product_id = '2'")
    await refund_by_hand(shop, (await shop.row("refunded"))["payment_intent_id"], 100)
    (await sandbox.post("/fulfillment/orders/called-off/cancel", headers=A_KEY, json={})).raise_for_status()
    email = {"to": "a@example.com", "template": "order_confirmation", "data": {"orderNumber": "told-twice"}}
    (await sandbox.post("/email/send", headers=A_KEY, json=email)).raise_for_status()

    assert await second_opinion(shop.pool, sandbox, units) == [
        "product 2: 40 units became 41 units, of which 0 are reserved",
        "order called-off: processing, its shipment is cancelled",
        "order refunded: processing, 5898 is paid instead of 5998",
        "order told-twice: order_confirmation was sent 2 times",
    ]


async def test_what_is_missing_is_found(shop: Shop, sandbox: httpx.AsyncClient) -> None:
    """An order that is not at rest, a charge and a shipment of no order, a confirmation that was never sent."""
    units = await count_units(shop.pool)
    await shop.place(order_id="o1")
    shop.world.journal.lines.clear()
    address = {"street": "1 Main St", "city": "Reno", "state": "NV", "zip": "89501"}
    line = {"productId": "1", "quantity": 1}
    body = {"orderId": "nobody", "items": [line], "priority": "standard", "shippingAddress": address}
    for _ in range(2):
        headers = {"Authorization": "Bearer any"}
        (await sandbox.post("/fulfillment/orders", headers=headers, json=body)).raise_for_status()
    assert await second_opinion(shop.pool, sandbox, units) == [
        "order nobody: absent, its shipment is accepted",
        "order nobody: its shipment was requested under 2 keys",
        "order o1: processing, and its confirmation was not sent",
    ]

    await shop.pool.execute("UPDATE orders SET status = 'capturing'")
    assert "order o1: it is capturing" in await second_opinion(shop.pool, sandbox, units)


async def test_goods_and_parts_are_found(shop: Shop, sandbox: httpx.AsyncClient) -> None:
    """Parcels that only one side knows or nobody was told of, a unit that is not refunded, an open claim."""
    units = await count_units(shop.pool)
    await shop.place(order_id="o1")
    await shop.place(order_id="o2")
    await shop.ship("o1", {"shipmentId": "par_1", "lines": [{"productId": "1", "quantity": 1}]})
    await shop.pool.execute(OWED)
    short = "order o2: 1 of product 1 can never leave, 0 are refunded, and nobody knows"
    others = [
        "order o1: processing, its shipment is shipping",
        "order o1: the warehouse says 1 parcel par_1, the shop nothing",
        "order o2: the warehouse says nothing, the shop 1 parcel par_2, 1 short of product 1",
    ]
    untold = "order o2: nobody was told of its parcel par_2"
    claimed = "order o2: its refund r1 is claimed, and neither made nor withdrawn"
    assert await second_opinion(shop.pool, sandbox, units) == [claimed, untold, short, *others]

    await shop.pool.execute("UPDATE order_refunds SET status = 'withdrawn', refusal = 'nothing_left'")
    await shop.pool.execute("INSERT INTO reminders (key) VALUES ('shortage:o2:1')")
    await shop.pool.execute(
        "INSERT INTO notifications (order_id, kind, about, state) VALUES ('o2', 'order_shipped', 'par_2', 'given_up')"
    )
    assert await second_opinion(shop.pool, sandbox, units) == others


async def test_units_that_are_written_off_wrongly_are_found(shop: Shop, sandbox: httpx.AsyncClient) -> None:
    """Of cancelled orders: a unit that can never leave and is for sale, and a refund that was made and lost nothing."""
    units = await count_units(shop.pool)
    for order_id in ("o1", "o2"):
        await shop.place(order_id=order_id)
        await shop.cancel(order_id)
    await shop.pool.execute("INSERT INTO shortages (order_id, number, restock) VALUES ('o1', 1, false)")
    await shop.pool.execute("INSERT INTO shortage_lines VALUES ('o1', 1, '1', 1)")
    await shop.pool.execute(
        "INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, status)"
        " VALUES ('o2', 'r1', '', 0, 'made')"
    )
    await shop.pool.execute("INSERT INTO order_refund_lines VALUES ('o2', 'r1', '1', 2, 1)")
    assert await second_opinion(shop.pool, sandbox, units) == [
        "order o1: 0 of product 1 are written off, 0 are refunded for good, 1 can never leave",
        "order o2: 0 of product 1 are written off, 1 are refunded for good, 0 can never leave",
        "order o1: the warehouse says nothing, the shop 1 short of product 1",
    ]


def test_it_shares_no_code() -> None:
    """It imports the standard library and the drivers of PostgreSQL and HTTP alone."""
    tree = ast.parse(Path(module.__file__).read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names}
    assert {name.partition(".")[0] for name in names} <= OTHERS
