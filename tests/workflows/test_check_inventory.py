"""check-and-alert-inventory: one alert about each low product, whatever happens to Slack; orders never wait for it."""

import asyncio
import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload as RawPayload
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError, CancelledError

from orders.names import CHECK_INVENTORY
from orders.stock import StockReport
from sandbox.faults import Fault
from tests.support.scenarios import is_running, marks, outage, seconds_to_retry, until_attempts
from tests.support.shop import Shop, eventually

Run = WorkflowHandle[Any, StockReport]

NAMED = re.compile(r"^• (.+): \d+ units \(reorder level \d+\)$", re.MULTILINE)

ADD_PRODUCTS = """
    WITH added AS (
        INSERT INTO products (id, name, price, currency)
        SELECT 'low-' || number, name || number, 1999, 'usd' FROM numbered RETURNING id, name
    )
    INSERT INTO inventory (product_id, product_name, quantity, reorder_level)
    SELECT 'low-' || number, name || number, 3, 10 FROM numbered
""".replace("numbered", "(SELECT $1::text AS name, number FROM generate_series(1, $2) AS number) AS numbered")


@pytest.fixture
async def shop(shop: Shop) -> Shop:
    """A shop where nothing is low."""
    await shop.pool.execute("UPDATE inventory SET quantity = 100; TRUNCATE stock_alerts")
    return shop


async def start(shop: Shop, *given: Any, client: Client | None = None) -> Run:
    """As any client would: by name, with plain JSON."""
    return await (client or shop.client).start_workflow(
        CHECK_INVENTORY,
        args=given or [{}],
        id=f"{CHECK_INVENTORY}:{uuid.uuid4().hex}",
        task_queue=shop.task_queue,
        result_type=StockReport,
    )


async def check(shop: Shop) -> StockReport:
    return await (await start(shop)).result()


def told(shop: Shop) -> list[str]:
    """The names of the products in all messages, oldest first."""
    texts = (block["text"]["text"] for alert in shop.world.inbox.alerts for block in alert.blocks)  # type: ignore[call-overload,index]
    return [name for text in texts for name in NAMED.findall(str(text))]


def out(status: int = 503, times: int | None = None, **more: Any) -> Fault:
    return Fault(service="slack", kind="status", status=status, times=times, **more)


# ---------------------------------------------------------------------------------------------------------- the story


async def test_nothing_is_low(shop: Shop) -> None:
    """An empty list, and no message."""
    assert await check(shop) == StockReport(low_stock_items=[])
    assert list(shop.world.journal.about()) == []


async def test_one_product_is_low(shop: Shop) -> None:
    """One alert is sent; every later run lists the product all the same."""
    await shop.set_stock(4)
    reports = [await check(shop) for _ in range(3)]

    assert [report.alerted for report in reports] == [1, 0, 0]
    assert [[item.product_id for item in report.low_stock_items] for report in reports] == [["1"]] * 3
    assert told(shop) == ["Walnut desk organiser"]
    [alert] = shop.world.inbox.alerts
    assert alert.text.startswith("⚠️ Low Stock Alert")


async def test_the_answer_is_in_the_reference_names(shop: Shop) -> None:
    """As a client without our models reads it."""
    await shop.set_stock(4)
    plain = Client(shop.client.service_client, namespace=shop.client.namespace)
    run = await start(shop, client=plain)
    assert await plain.get_workflow_handle(run.id).result() == {
        "lowStockItems": [
            {
                "product_id": "1",
                "product_name": "Walnut desk organiser",
                "quantity": 4,
                "reorder_level": 10,
                "price": 29.99,
                "currency": "usd",
            }
        ],
        "unlisted": 0,
        "alerted": 1,
        "undelivered": None,
    }


async def test_five_hundred_products_are_low(shop: Shop) -> None:
    """All are listed, and each is named once, in a handful of messages that the sandbox takes as Slack would."""
    await shop.pool.execute(ADD_PRODUCTS, "Lamp ", 500)
    report = await check(shop)
    assert (len(report.low_stock_items), report.unlisted, report.alerted) == (500, 0, 500)
    assert sorted(told(shop)) == sorted(f"Lamp {number}" for number in range(1, 501))
    assert len(shop.world.inbox.alerts) == 5


@pytest.mark.prove
async def test_a_run_posts_only_so_many_messages(shop: Shop) -> None:
    """Its history has a limit; the next run goes on where it ended, and nothing is lost."""
    await shop.pool.execute(ADD_PRODUCTS, "&" * 149, 2_300)
    first, second = await check(shop), await check(shop)
    assert len(shop.world.inbox.alerts) > 200
    assert first.undelivered is not None
    assert second.undelivered is None
    assert first.alerted + second.alerted == 2_300


async def test_a_product_that_recovered_is_told_again(shop: Shop) -> None:
    """Also where it was above its level only between two runs; a day later so is one that stays low."""
    await shop.set_stock(4)
    await check(shop)
    await shop.set_stock(11)
    await shop.set_stock(4)
    assert (await check(shop)).alerted == 1
    assert (await check(shop)).alerted == 0
    await shop.pool.execute("UPDATE stock_alerts SET sent_at = sent_at - interval '1 day'")
    assert (await check(shop)).alerted == 1


@pytest.mark.prove
async def test_twenty_runs_at_once(shop: Shop) -> None:
    """One alert is sent for each product, and no run ends before all are sent."""
    await shop.pool.execute(ADD_PRODUCTS, "Lamp ", 250)
    runs = [await start(shop) for _ in range(20)]
    reports = await asyncio.gather(*(run.result() for run in runs))

    assert sum(report.alerted for report in reports) == 250
    assert sorted(told(shop)) == sorted(f"Lamp {number}" for number in range(1, 251))
    assert {report.undelivered for report in reports} == {None}
    assert {len(report.low_stock_items) for report in reports} == {250}


# ------------------------------------------------------------------------------------------------- what may go wrong


@pytest.mark.prove
async def test_slack_is_down_for_an_hour(shop: Shop) -> None:
    """Orders go on; when Slack is back, what is still low is reported once, and what has recovered is not."""
    await shop.set_stock(4)
    await shop.set_stock(4, "2")
    shop.world.faults.add(out())
    run = await start(shop)
    await until_attempts(shop, "post_low_stock", 2)
    assert (await shop.place()).success
    await shop.advance(run, timedelta(hours=1))
    assert await is_running(run)

    await shop.set_stock(50, "2")
    shop.world.faults.clear()
    await shop.advance(run, timedelta(minutes=20))
    report = await run.result()
    assert (report.alerted, report.undelivered) == (1, None)
    assert len(report.low_stock_items) == 2, "what it found when it looked"
    assert told(shop) == ["Walnut desk organiser"]


async def test_slack_is_down_past_the_deadline(shop: Shop) -> None:
    """After two hours the run completes with its list and the reason, and is marked; the next run sends the alert."""
    await shop.set_stock(4)
    shop.world.faults.add(out())
    run = await start(shop)
    await until_attempts(shop, "post_low_stock", 1)
    await shop.advance(run, timedelta(hours=2))
    report = await run.result()
    assert (len(report.low_stock_items), report.alerted, report.undelivered) == (
        1,
        0,
        "slack: HTTP 503: scripted: This failure was asked for.",
    )
    assert (await marks(run))[1] == "post_low_stock"

    shop.world.faults.clear()
    assert (await check(shop)).alerted == 1
    assert told(shop) == ["Walnut desk organiser"]


async def test_slack_refuses(shop: Shop) -> None:
    """A webhook that is gone does not come back: the run completes at once and is marked; the next one tries again."""
    await shop.set_stock(4)
    shop.world.faults.add(out(404, times=1))
    run = await start(shop)
    report = await run.result()
    assert (report.alerted, report.undelivered) == (0, "slack: HTTP 404: scripted: This failure was asked for.")
    assert (await marks(run))[1] == "post_low_stock"
    assert (await check(shop)).alerted == 1


async def test_a_refusal_half_way(shop: Shop) -> None:
    """The alerts that were sent stay sent; the next run sends the rest."""
    await shop.pool.execute(ADD_PRODUCTS, "Lamp ", 150)

    async def gone() -> None:
        shop.world.faults.add(out(404, times=1))

    shop.hooks.when("post_low_stock", gone, "after")
    reports = [await check(shop) for _ in range(2)]
    assert [report.alerted for report in reports] == [100, 50]
    assert [report.undelivered for report in reports] == [
        "slack: HTTP 404: scripted: This failure was asked for.",
        None,
    ]
    assert len(set(told(shop))) == len(told(shop)) == 150


async def test_slack_asks_to_wait(shop: Shop) -> None:
    """429 with Retry-After: the next attempt is so much later, and no sooner."""
    await shop.set_stock(4)
    shop.world.faults.add(out(429, times=1, headers={"Retry-After": "90"}))
    run = await start(shop)
    assert await seconds_to_retry(run) == 90
    assert told(shop) == []
    await shop.advance(run, timedelta(seconds=90))
    assert (await run.result()).alerted == 1


async def test_a_worker_that_dies_after_the_mark(shop: Shop) -> None:
    """The run does not know that the alert was sent; the table does, and no second one is sent."""
    await shop.set_stock(4)
    shop.hooks.fail("post_low_stock", outage(), "after")
    report = await check(shop)
    assert (report.alerted, report.undelivered) == (0, None)
    assert told(shop) == ["Walnut desk organiser"]


@pytest.mark.prove
async def test_the_lease_of_a_dead_worker_is_waited_for(shop: Shop) -> None:
    """The run waits until the lease has lapsed and sends the alert again: two alerts are better than none."""
    await shop.set_stock(4)
    await shop.pool.execute(
        "INSERT INTO stock_alerts VALUES ('1', 0, NULL, $1, now() + interval '1 minute')", uuid.uuid4()
    )
    run = await start(shop)
    await until_attempts(shop, "post_low_stock", 2)
    assert await is_running(run)
    await shop.pool.execute("UPDATE stock_alerts SET leased_until = now()")
    assert (await run.result()).alerted == 1


async def test_the_page_of_the_run_tells_its_story(shop: Shop) -> None:
    """It says how many products are low, how many were reported, and that this was all."""
    await shop.set_stock(4)
    run = await start(shop)
    await run.result()
    page = await run.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    assert [line.split(" ", 2)[2] for line in page.current_details.splitlines()] == [
        "products at or below their reorder level: 1",
        "products reported to Slack: 1",
        "every low product is reported",
    ]


async def test_postgres_is_out_past_the_deadline(shop: Shop) -> None:
    """The stock cannot be read: the run fails, and its error names the outage."""
    shop.hooks.fail("find_low_stock", outage(), times=None)
    run = await start(shop)
    await until_attempts(shop, "find_low_stock", 1)
    await shop.advance(run, timedelta(hours=2))
    with pytest.raises(WorkflowFailureError) as failure:
        await run.result()
    assert "scripted outage" in str(failure.value.cause.__cause__)


@pytest.mark.parametrize("when", ["in flight", "between attempts"])
async def test_an_operators_cancel(shop: Shop, when: str) -> None:
    """A run that is canceled while Slack is out ends as canceled; a later run sends its alerts."""
    await shop.set_stock(4)
    shop.world.faults.add(out(429, headers={"Retry-After": "90"}))
    held = shop.hooks.hold("post_low_stock") if when == "in flight" else None
    run = await start(shop)
    await (held.reached.wait() if held else seconds_to_retry(run))
    await run.cancel()
    if held:
        await until_cancel_is_known(run)
        held.let_go()
    with pytest.raises(WorkflowFailureError) as failure:
        await run.result()
    assert isinstance(failure.value.cause, CancelledError)
    shop.world.faults.clear()
    assert (await check(shop)).alerted == 1


async def until_cancel_is_known(run: Run) -> None:
    async def known() -> bool:
        kinds = [event.event_type async for event in run.fetch_history_events()]
        return EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED in kinds

    await eventually(known, "the activity is asked to stop")


# --------------------------------------------------------------------------------------------------------- the input


async def check_raw(shop: Shop, data: bytes, encoding: bytes) -> StockReport:
    """Start the run through a client without our converter, with these very bytes."""
    plain = Client(shop.client.service_client, namespace=shop.client.namespace, data_converter=DataConverter.default)
    run = await start(shop, RawValue(RawPayload(metadata={"encoding": encoding}, data=data)), client=plain)
    try:
        report: StockReport = await shop.client.get_workflow_handle(run.id, result_type=StockReport).result()
    finally:
        kinds = [event.event_type async for event in run.fetch_history_events()]
        assert EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED not in kinds
    return report


@pytest.mark.parametrize(
    ("data", "encoding"), [(b"{}", b"json/plain"), (b"null", b"json/plain"), (b"", b"binary/null")]
)
async def test_nothing_by_any_name(shop: Shop, data: bytes, encoding: bytes) -> None:
    """`{}`, null and nothing are the same input."""
    assert await check_raw(shop, data, encoding) == StockReport(low_stock_items=[])


async def test_no_argument_at_all(shop: Shop) -> None:
    """As a Schedule may start it."""
    run = await shop.client.start_workflow(
        CHECK_INVENTORY, id=uuid.uuid4().hex, task_queue=shop.task_queue, result_type=StockReport
    )
    assert await run.result() == StockReport(low_stock_items=[])


@pytest.mark.parametrize(
    ("data", "encoding", "named"),
    [
        (b'{"threshold": 5}', b"json/plain", "threshold: is unknown"),
        (b'{"a": 1, "b": 2}', b"json/plain", "a: is unknown; b: is unknown"),
        (b"[]", b"json/plain", "input: must be an object"),
        (b'"now"', b"json/plain", "input: must be an object"),
        (b"0", b"json/plain", "input: must be an object"),
        (b"false", b"json/plain", "input: must be an object"),
        (b"{", b"json/plain", "input: must be JSON"),
        (b"\x00\xff", b"binary/plain", "input: must be JSON"),
        (b"[" * 30_000, b"json/plain", "input: must be JSON"),
        (b'"' + b"x" * 70_000 + b'"', b"json/plain", "input: must be at most"),
        (rb'{"\ud800": 1}', b"json/plain", "input: must be a valid string"),
    ],
)
async def test_bad_input_is_refused(shop: Shop, data: bytes, encoding: bytes, named: str) -> None:
    """By name, for good, before anything is asked; never a task that is retried for ever."""
    await shop.set_stock(4)
    with pytest.raises(WorkflowFailureError) as failure:
        await check_raw(shop, data, encoding)
    refused = failure.value.cause
    assert isinstance(refused, ApplicationError)
    assert (refused.type, refused.non_retryable) == ("InvalidInput", True)
    assert named in refused.message
    assert list(shop.world.journal.about()) == []
