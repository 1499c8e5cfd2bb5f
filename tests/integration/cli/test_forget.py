"""starter.py forget: what is personal leaves, money and stock stay, and what is not over is named."""

import asyncio
import base64

import asyncpg
import pytest
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from client.orders import submit_order
from config.payload_keys import Key
from gateways.erasure_store import OVER
from gateways.temporal import delete_run, find_run
from orders.errors import Permanent
from orders.models import Status
from orders.names import CUSTOMER_ID, PROCESS_ORDER, TASK_QUEUE, cancel_order_id
from tests.integration.cli.conftest import Starter
from tests.support.invariants import assert_invariants
from tests.support.shop import Shop, an_order, eventually, new_order_id

CUSTOMER = "cus_forgotten"
HASHED = "cus_hashed"
REFUNDED = "cus_refunded"
ADDRESS = "canary@canary.example"
QUOTE = "Mrs Canary lives in 7 Canary Street"
LOGINS = """
    DROP ROLE IF EXISTS privacy, counter;
    CREATE ROLE privacy LOGIN PASSWORD 'canary' IN ROLE orders_privacy;
    CREATE ROLE counter LOGIN PASSWORD 'canary' IN ROLE orders_app;
"""
ALL = "SELECT * FROM {}"
TABLES = (
    "orders",
    "order_items",
    "order_charges",
    "reservations",
    "order_events",
    "resolutions",
    "notifications",
    "refunds",
    "order_refunds",
    "order_refund_lines",
)


@pytest.fixture
async def login(database_url: str) -> str:
    """The address for a login that may answer requests for erasure, and do nothing else."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(LOGINS)
    await connection.close()
    return database_url.replace("orders:orders", "privacy:canary")


async def kept(shop: Shop) -> str:
    """All that the database holds of orders and stock, as text."""
    return str([[dict(row) for row in await shop.pool.fetch(ALL.format(table))] for table in TABLES])


async def money_and_stock(shop: Shop) -> list[str]:
    queries = (
        "SELECT id, status, total, currency, payment_intent_id, fulfillment_id, error_code FROM orders ORDER BY id",
        "SELECT * FROM order_items ORDER BY order_id",
        "SELECT order_id, position, type, amount FROM order_charges ORDER BY order_id, position",
        "SELECT * FROM reservations ORDER BY order_id",
        "SELECT id, amount, status FROM refunds ORDER BY id",
        "SELECT order_id, refund_id, amount, status FROM order_refunds ORDER BY order_id, refund_id",
        "SELECT * FROM inventory ORDER BY product_id",
        "SELECT order_id, at, to_status, actor FROM order_events WHERE why NOT LIKE 'personal%' ORDER BY id",
    )
    return [str(await shop.pool.fetch(query)) for query in queries]


async def test_a_customer_is_forgotten(shop: Shop, starter: Starter, login: str) -> None:
    """Orders that are over, and nobody else's; a second time there is nothing left but what is not over."""
    cancelled, declined, failed, paid, others = ids = [new_order_id() for _ in range(5)]
    mine = an_order(customerId=CUSTOMER, customerEmail=ADDRESS)
    await shop.place(mine | {"charges": [{"type": "fee", "name": QUOTE, "amount": 1}]}, cancelled)
    assert (await shop.refund(cancelled, "r1", lines=[{"productId": "1", "quantity": 1}], reason=QUOTE)).refunded
    await shop.cancel(cancelled, ADDRESS)
    await shop.place(mine | {"paymentMethodId": "pm_card_chargeDeclined"}, declined)
    shop.hooks.fail("request_fulfillment", Permanent(QUOTE, type="fulfillment_refuses_us"), workflow_id=failed)
    await submit_order(shop.client, failed, mine, task_queue=TASK_QUEUE)
    await shop.place(mine, paid)
    await shop.place(an_order(), others)
    await shop.pool.execute(
        "INSERT INTO resolutions (order_id, step, action, reason, actor, key) VALUES ($1, 's', 'skip', $2, 'ann', 'k')",
        cancelled,
        QUOTE,
    )
    await eventually(lambda: is_closed(shop, failed), "the run is closed")
    before, facts = await kept(shop), await money_and_stock(shop)
    assert QUOTE in before

    dry = await starter("forget", CUSTOMER, "--dry-run", "--json", DATABASE_URL=login)
    assert (dry.status, dry.json["erased"], sorted(dry.json["orders"])) == (1, 0, sorted([cancelled, declined, failed]))
    assert await kept(shop) == before
    said = await starter("forget", CUSTOMER, "--by", "ann", DATABASE_URL=login)
    assert said.status == 1, said
    assert f"{paid}  it is processing" in said.out
    assert "3 orders forgotten" in said.out

    assert await money_and_stock(shop) == facts
    after = await kept(shop)
    assert QUOTE not in after
    assert [(await shop.row(each))["customer_id"] for each in (paid, others)] == [CUSTOMER, "cus_123"]
    (name,) = {(await shop.row(each))["customer_id"] for each in (cancelled, declined, failed)}
    (erasure,) = await shop.pool.fetch("SELECT id, actor, orders FROM erasures")
    assert (name, erasure["actor"], erasure["orders"]) == (f"forgotten-{erasure['id']}", "ann", 3)
    for order_id in ids:
        await assert_invariants(shop, order_id)

    again = await starter("forget", CUSTOMER, "--json", DATABASE_URL=login)
    assert (again.status, again.json["erased"], [each["orderId"] for each in again.json["left"]]) == (1, 0, [paid])


async def test_an_order_with_a_refund_that_is_not_made_is_left(shop: Shop, starter: Starter, login: str) -> None:
    """Its histories stay too: the refund still needs them."""
    order_id = new_order_id()
    await shop.place(an_order(customerId=REFUNDED), order_id)
    await shop.cancel(order_id)
    await shop.pool.execute(
        "INSERT INTO order_refunds (order_id, refund_id, request_hash, amount) VALUES ($1, 'r1', '', 1)", order_id
    )

    said = await starter("forget", REFUNDED, "--json", DATABASE_URL=login)
    assert (said.status, said.json["orders"], said.json["erased"], said.json["histories"]) == (1, [], 0, [])
    assert said.json["left"] == [{"orderId": order_id, "why": "a refund of a part of it is not made"}]


@pytest.mark.prove  # Temporal deletes what has just been closed after half a minute
async def test_histories_are_deleted(shop: Shop, starter: Starter, login: str) -> None:
    """Those of the order and of its cancel; a submit is still answered, by the row. Nobody else's are touched."""
    order_id, others = new_order_id(), new_order_id()
    mine = an_order(customerId=CUSTOMER, paymentMethodId="pm_card_chargeDeclined")
    await shop.place(an_order(), others)
    declined = await submit_order(shop.client, order_id, mine, task_queue=TASK_QUEUE)
    await shop.cancel(order_id)
    await eventually(lambda: is_closed(shop, order_id), "the run is closed")
    assert (await starter("forget", CUSTOMER, DATABASE_URL=login)).status == 0
    async with asyncio.timeout(100):
        while any([await find_run(shop.client, each) for each in (order_id, cancel_order_id(order_id))]):
            await asyncio.sleep(0.2)

    again = await submit_order(shop.client, order_id, mine, task_queue=TASK_QUEUE)
    assert again == declined.model_copy(update={"error": "(erased)"})
    assert await find_run(shop.client, others)


async def test_what_was_ended_in_between_is_done_again(shop: Shop, starter: Starter, login: str) -> None:
    """Histories are deleted before the rows forget whose they were; an order whose run is open is left."""
    ended, under_way = new_order_id(), new_order_id()
    await shop.place(an_order(customerId=CUSTOMER, paymentMethodId="pm_card_chargeDeclined"), ended)
    run = await find_run(shop.client, ended)
    assert run
    await delete_run(shop.client, run.workflow_id, run.run_id)  # and then it crashes
    held = shop.hooks.hold("send_email")
    shop.hooks.fail("request_fulfillment", Permanent("no", type="fulfillment_refuses_us"), workflow_id=under_way)
    await submit_order(shop.client, under_way, an_order(customerId=CUSTOMER), task_queue=TASK_QUEUE)
    await held.reached.wait()

    said = await starter("forget", CUSTOMER, "--json", DATABASE_URL=login)
    assert (said.status, said.json["erased"]) == (1, 1)
    assert said.json["left"] == [{"orderId": under_way, "why": f"its run {under_way} is running"}]
    held.let_go()
    await eventually(lambda: is_closed(shop, under_way), "its e-mail is sent")
    said = await starter("forget", CUSTOMER, "--json", DATABASE_URL=login)
    assert (said.status, said.json["erased"], said.json["left"]) == (0, 1, [])
    assert (await starter("forget", CUSTOMER, "--json", DATABASE_URL=login)).json["orders"] == []
    for order_id in (ended, under_way):
        await assert_invariants(shop, order_id)


async def is_closed(shop: Shop, order_id: str) -> bool:
    run = await find_run(shop.client, order_id)
    return run is not None and not run.is_open


async def test_encrypted_runs_are_found_by_the_hash(shop: Shop, starter: Starter, login: str) -> None:
    """Also one without a row: its CustomerId is all that leads to it."""
    key = Key("k1", bytes(range(32)))
    ours, others = new_order_id(), new_order_id()
    for order_id, customer in ((ours, HASHED), (others, "cus_123")):
        handle = await shop.client.start_workflow(
            PROCESS_ORDER,
            {"customerId": customer},
            id=order_id,
            task_queue=TASK_QUEUE,
            search_attributes=TypedSearchAttributes([SearchAttributePair(CUSTOMER_ID, key.tag(customer))]),
        )
        await handle.result()
    environment = {"DATABASE_URL": login, "PAYLOAD_KEYS": f"k1:{base64.b64encode(key.secret).decode()}"}

    async def is_found() -> bool:
        found = (await starter("forget", HASHED, "--dry-run", "--json", **environment)).json["histories"]
        return bool(found)

    await eventually(is_found, "the run is listed")
    said = await starter("forget", HASHED, "--json", **environment)
    assert [each["workflowId"] for each in said.json["histories"]] == [ours]


async def test_only_who_may_erase_erases(shop: Shop, starter: Starter, database_url: str, login: str) -> None:
    """The programs cannot, and who may erase can change nothing else, and no order that is not over."""
    order_id = new_order_id()
    await shop.place(an_order(customerId=CUSTOMER), order_id)
    refused = await starter("forget", CUSTOMER, DATABASE_URL=database_url.replace("orders:orders", "counter:canary"))
    assert refused.status == 4
    assert refused.err.strip().endswith("run GRANT orders_privacy TO counter as an administrator")
    assert (await starter("forget", "no customer", DATABASE_URL=login)).status == 2

    for url, statement in (
        (login, "UPDATE orders SET customer_id = 'x'"),
        (login, "INSERT INTO erasures (actor, orders) VALUES ('x', 1)"),
        (login, "SET order_sagas.forgetting = 'on'; UPDATE order_events SET why = ''"),
        (database_url.replace("orders:orders", "counter:canary"), "SELECT forget_orders('x', '{}', 'x')"),
    ):
        connection = await asyncpg.connect(url)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
        await connection.close()
    connection = await asyncpg.connect(login)
    assert await connection.fetchval("SELECT forget_orders($1, $2, 'x')", CUSTOMER, [order_id]) == []
    await connection.close()
    assert (await shop.row(order_id))["customer_id"] == CUSTOMER
    source = await shop.pool.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'forget_orders'")
    statuses = source.partition("status IN (")[2].partition(")")[0]
    assert {Status(each.strip(" '")) for each in statuses.split(",")} == OVER
