"""Each low product is in one message, whose form Slack accepts and no product name can change."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest

from activities.stock_alerts import StockAlerts
from gateways.slack import MAX_NAME, compose, plain
from orders.errors import Permanent, Unavailable
from orders.stock import Posted, StockReport
from tests.support.activity_bench import ActivityBench, Gate
from tests.support.shop import PATIENCE

LIMIT = 100

LINE = re.compile(r"^• (.+): (\d+) units \(reorder level (\d+)\)$", re.MULTILINE)

ADD_PRODUCTS = """
    WITH added AS (
        INSERT INTO products (id, name, price, currency)
        SELECT id, name, 1999, 'usd' FROM unnest($1::text[], $2::text[]) AS given (id, name)
    )
    INSERT INTO inventory (product_id, product_name, quantity, reorder_level)
    SELECT id, name, $3, 10 FROM unnest($1::text[], $2::text[]) AS given (id, name)
"""


@pytest.fixture
async def stocked(bench: ActivityBench) -> ActivityBench:
    """A bench where no product is low."""
    await bench.pool.execute("UPDATE inventory SET quantity = 100")
    return bench


@pytest.fixture
async def globe(bench: ActivityBench) -> ActivityBench:
    """A bench where product 5 is low: one globe, reorder level 10."""
    return bench


async def add(bench: ActivityBench, *names: str, quantity: int = 3) -> None:
    ids = [f"low-{number:04}" for number in range(len(names))]
    await bench.pool.execute(ADD_PRODUCTS, ids, names, quantity)


async def find(bench: ActivityBench, limit: int = 5_000) -> StockReport:
    return await bench.do(StockAlerts.find_low_stock, limit)


async def post(bench: ActivityBench, limit: int = LIMIT) -> Posted | None:
    return await bench.do(StockAlerts.post_low_stock, limit)


async def post_all(bench: ActivityBench) -> int:
    """The number of products in all messages, until no unsent product is left."""
    total = 0
    while posted := await post(bench):
        total += posted.products
    return total


def messages(bench: ActivityBench) -> list[dict[str, Any]]:
    """The messages that Slack accepted, oldest first; each within its limits."""
    accepted = [entry["body"] for entry in bench.calls("slack") if entry["status"] == 200]
    for body in accepted:
        assert body["text"].startswith("⚠️ Low Stock Alert")
        assert 1 <= len(body["blocks"]) <= 50
        assert all(block["type"] == "section" and block["text"]["type"] == "mrkdwn" for block in body["blocks"])
        assert all(0 < len(block["text"]["text"].encode("utf-16-le")) // 2 <= 3000 for block in body["blocks"])
        assert sum(len(block["text"]["text"].encode("utf-16-le")) // 2 for block in body["blocks"]) <= 9000
        assert body["blocks"][0]["text"]["text"].startswith("*Low Stock Items*\n")
    return accepted


def named(bench: ActivityBench) -> list[str]:
    """The product names in all messages."""
    texts = (block["text"]["text"] for body in messages(bench) for block in body["blocks"])
    return [name for text in texts for name, _, _ in LINE.findall(text)]


async def sent(bench: ActivityBench) -> int:
    marked: int = await bench.pool.fetchval("SELECT count(*) FROM stock_alerts WHERE sent_at IS NOT NULL")
    return marked


async def leases(bench: ActivityBench) -> int:
    live: int = await bench.pool.fetchval("SELECT count(*) FROM stock_alerts WHERE lease IS NOT NULL")
    return live


async def later(bench: ActivityBench, time: timedelta) -> None:
    """Let time pass for what was sent and leased."""
    await bench.pool.execute(
        "UPDATE stock_alerts SET sent_at = sent_at - $1::interval, leased_until = leased_until - $1::interval", time
    )


# ---------------------------------------------------------------------------------------------------- the messages


async def test_nothing_is_low(stocked: ActivityBench) -> None:
    """An empty list, and no message."""
    assert await find(stocked) == StockReport(low_stock_items=[])
    assert await post(stocked) is None
    assert stocked.calls("slack") == []


async def test_one_product_is_low(globe: ActivityBench) -> None:
    """It is listed with its data from the catalogue, and named in one message."""
    report = await find(globe)
    assert report.model_dump(mode="json") == {
        "lowStockItems": [
            {
                "product_id": "5",
                "product_name": "Last-of-its-kind globe",
                "quantity": 1,
                "reorder_level": 10,
                "price": 450.0,
                "currency": "usd",
            }
        ],
        "unlisted": 0,
        "alerted": 0,
        "undelivered": None,
    }
    assert await post(globe) == Posted(products=1)
    [message] = messages(globe)
    assert message == {
        "text": "⚠️ Low Stock Alert",
        "blocks": [
            {
                "type": "section",
                "text": {
                    "type": "mrkdwn",
                    "text": "*Low Stock Items*\n• Last-of-its-kind globe: 1 units (reorder level 10)",
                    "verbatim": True,
                },
            }
        ],
    }


async def test_exactly_at_the_level_is_low(stocked: ActivityBench) -> None:
    """Ten left with a level of ten are low, eleven are not."""
    await stocked.pool.execute("UPDATE inventory SET quantity = 10 WHERE product_id = '1'")
    await stocked.pool.execute("UPDATE inventory SET quantity = 11 WHERE product_id = '2'")
    assert [item.product_id for item in (await find(stocked)).low_stock_items] == ["1"]


NASTY = "&<>" * 60


@pytest.mark.parametrize(
    ("name", "max_messages"),
    [("Lamp", 5), ("L" * 300, 12), (NASTY, 60), ("😀" * 300, 20), ("`*_~" * 80, 12)],
    ids=["short", "long", "escaped", "astral", "markup"],
)
async def test_five_hundred_products_are_each_named_once(stocked: ActivityBench, name: str, max_messages: int) -> None:
    """The messages keep Slack's limits, however long the names become."""
    names = [f"{number:03} {name}" for number in range(500)]
    await add(stocked, *names)

    assert len((await find(stocked)).low_stock_items) == 500
    assert await post_all(stocked) == 500
    assert sorted(each[:3] for each in named(stocked)) == [each[:3] for each in names]
    assert len(messages(stocked)) <= max_messages
    assert await sent(stocked) == 500
    assert await leases(stocked) == 0


async def test_the_scarcest_come_first(stocked: ActivityBench) -> None:
    """Both in the list and in the messages."""
    await stocked.pool.execute("UPDATE inventory SET quantity = 10 - product_id::integer")
    assert [item.product_id for item in (await find(stocked)).low_stock_items] == ["5", "4", "3", "2", "1"]
    await post(stocked, limit=2)
    assert named(stocked) == ["Last-of-its-kind globe", "Ceramic pen cup"]


async def test_the_list_has_a_limit(stocked: ActivityBench) -> None:
    """Products beyond the limit of number or size are only counted."""
    await add(stocked, "Lamp", "Lamp", "x" * 2_000_000)
    report = await find(stocked, limit=2)
    assert (len(report.low_stock_items), report.unlisted) == (2, 1)
    report = await find(stocked)
    assert (len(report.low_stock_items), report.unlisted) == (2, 1)


async def test_an_unknown_currency(globe: ActivityBench) -> None:
    """The product is listed without its price."""
    await globe.pool.execute("UPDATE products SET currency = 'kwd' WHERE id = '5'")
    [item] = (await find(globe)).low_stock_items
    assert (item.price, item.currency) == (None, "kwd")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Fish & <b>Chips</b>", "Fish &amp; &lt;b&gt;Chips&lt;/b&gt;"),
        ("<!channel> <@U024BE7LH>", "&lt;!channel&gt; &lt;@U024BE7LH&gt;"),
        ("&lt;!here&gt;", "&amp;lt;!here&amp;gt;"),
        ("```code", "'''code"),
        ("a\r\n• Lamp: 0 units\tb", "a • Lamp: 0 units b"),
        ("a\u2028b\u0085c\x1b\x07d", "a b c d"),
        ("right \u202eot left", "right ot left"),
        ("  Lamp  ", "Lamp"),
        ("x" * 200, "x" * MAX_NAME),
        ("x" * (MAX_NAME - 1) + "&&", "x" * (MAX_NAME - 1) + "&amp;"),
        ("Gläser für Öl 油 😀", "Gläser für Öl 油 😀"),
        ("נר\u200f 3 \U0001face", "נר\u200f 3 \U0001face"),
    ],
)
async def test_a_name_is_data(stocked: ActivityBench, name: str, shown: str) -> None:
    """A name cannot contain markup, a mention or a line break; it is cut before it is escaped."""
    assert plain(name) == shown
    await add(stocked, name)
    await post(stocked)
    [message] = messages(stocked)
    assert message["blocks"][0]["text"]["text"] == f"*Low Stock Items*\n• {shown}: 3 units (reorder level 10)"
    assert message["blocks"][0]["text"]["verbatim"], "otherwise Slack turns @here into a mention"


async def test_a_name_without_printable_characters(stocked: ActivityBench) -> None:
    """The message shows the product id instead."""
    await add(stocked, " \t\n")
    await post(stocked)
    assert named(stocked) == ["low-0000"]


def test_at_least_one_line_fits() -> None:
    """Even the longest line fits, so that every message makes progress."""
    line = f"• {plain('&' * 500)}: {2**31} units (reorder level {2**31})"
    _, named = compose("text", "title", [line] * 100)
    assert named > 5


# ------------------------------------------------------------------------------------------------------- how often


async def test_a_low_product_is_sent_once(globe: ActivityBench) -> None:
    """However often the stock is checked, and however its stock changes while it is low."""
    assert await post_all(globe) == 1
    await globe.pool.execute("UPDATE inventory SET quantity = 0 WHERE product_id = '5'")
    assert await post_all(globe) == 0
    await globe.pool.execute("UPDATE inventory SET quantity = 10 WHERE product_id = '5'")
    assert await post_all(globe) == 0
    assert len((await find(globe)).low_stock_items) == 1


@pytest.mark.parametrize("above", ["quantity = 11", "reorder_level = 0"])
async def test_a_product_that_recovered_is_sent_again(globe: ActivityBench, above: str) -> None:
    """Also if the product was above its level only between two checks; quantity or level may have changed."""
    assert await post_all(globe) == 1
    await globe.pool.execute(f"UPDATE inventory SET {above} WHERE product_id = '5'")  # noqa: S608
    await globe.pool.execute("UPDATE inventory SET quantity = 1, reorder_level = 10 WHERE product_id = '5'")
    assert await post_all(globe) == 1
    assert await post_all(globe) == 0


async def test_a_product_that_stays_low_is_sent_again(globe: ActivityBench) -> None:
    """It is sent again after the re-alert interval of a day, and not a minute before."""
    assert await post_all(globe) == 1
    await later(globe, timedelta(hours=23, minutes=59))
    assert await post_all(globe) == 0
    await later(globe, timedelta(minutes=1))
    assert await post_all(globe) == 1
    assert await post_all(globe) == 0


async def test_twenty_at_once_name_each_product_once(stocked: ActivityBench) -> None:
    """An attempt that finds everything leased is retried until everything is sent."""
    await add(stocked, *(f"Lamp {number}" for number in range(250)))

    async def one() -> int:
        total = 0
        while posted := await post_or_wait(stocked):
            total += posted.products
        return total

    async with asyncio.timeout(30):
        assert sum(await asyncio.gather(*(one() for _ in range(20)))) == 250
    assert len(named(stocked)) == len(set(named(stocked))) == 250


async def test_two_at_once_name_different_products(stocked: ActivityBench) -> None:
    """The second attempt takes the products that the first one has not leased."""
    await add(stocked, "Lamp", "Chair", "Table")
    first = await stocked.stop_at(Gate(2), StockAlerts.post_low_stock, 2)
    assert await post(stocked, limit=2) == Posted(products=1)
    go_on(stocked)
    assert await first == Posted(products=2)
    assert sorted(named(stocked)) == ["Chair", "Lamp", "Table"]


async def test_what_was_sent_during_the_statement(globe: ActivityBench) -> None:
    """The statement checks the row again after it has waited for its lock."""
    async with globe.pool.acquire() as connection, connection.transaction():
        await connection.execute("INSERT INTO stock_alerts VALUES ('5', 0, now())")
        attempt = asyncio.create_task(post(globe))
        await until_blocked(globe)
    assert await attempt is None
    assert globe.calls("slack") == []


async def test_what_another_has_leased_is_waited_for(globe: ActivityBench) -> None:
    """An attempt fails while another one has leased the rest, because that one may still fail."""
    leased = await globe.stop_at(Gate(2), StockAlerts.post_low_stock, LIMIT)
    with pytest.raises(Unavailable) as busy:
        await post(globe)
    assert busy.value.type == "low_stock_leased"
    assert busy.value.next_retry_delay
    go_on(globe)
    assert await leased == Posted(products=1)
    assert await post(globe) is None
    assert len(messages(globe)) == 1


# -------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Permanent), (404, Permanent), (410, Permanent), (403, Unavailable), (429, Unavailable), (503, Unavailable)],
)
async def test_a_post_that_failed_is_not_marked_as_sent(
    globe: ActivityBench, status: int, error: type[Exception]
) -> None:
    """The next attempt can send it at once, and the error does not contain the webhook's address."""
    globe.fault("slack", "status", status=status)
    with pytest.raises(error) as raised:
        await post(globe)
    assert "127.0.0.1" not in str(raised.value) + repr(raised.value)
    assert (await sent(globe), await leases(globe)) == (0, 0)

    assert await post(globe) == Posted(products=1)
    assert len(messages(globe)) == 1


@pytest.mark.parametrize("body", ["<html><h1>Sign in</h1></html>", {"ok": False, "error": "channel_not_found"}])
async def test_a_success_that_is_none_is_not_marked_as_sent(globe: ActivityBench, body: Any) -> None:
    """Slack answers `ok` to what it accepts; the next attempt can send the message at once."""
    globe.fault("slack", "status", status=200, body=body)
    with pytest.raises(Unavailable, match="no acceptance"):
        await post(globe)
    assert (await sent(globe), await leases(globe)) == (0, 0)

    assert await post(globe) == Posted(products=1)


async def test_a_failed_post_after_a_recovery_forgets_the_last(globe: ActivityBench) -> None:
    """The message before the recovery does not count for the one after it."""
    await post(globe)
    await globe.pool.execute("UPDATE inventory SET quantity = 50 WHERE product_id = '5'")
    await globe.pool.execute("UPDATE inventory SET quantity = 2 WHERE product_id = '5'")
    globe.fault("slack", "status")
    with pytest.raises(Unavailable):
        await post(globe)
    assert await post(globe) == Posted(products=1)


async def test_the_delay_that_slack_asks_for_is_kept(globe: ActivityBench) -> None:
    """A 429 with Retry-After."""
    globe.fault("slack", "status", status=429, headers={"Retry-After": "17"})
    with pytest.raises(Unavailable) as limit:
        await post(globe)
    assert limit.value.next_retry_delay is not None
    assert limit.value.next_retry_delay.total_seconds() == 17


@pytest.mark.prove
@pytest.mark.parametrize("kind", ["reset_before", "hang_before"])
async def test_slack_does_not_answer(globe: ActivityBench, kind: str) -> None:
    """It did not get the message: the next attempt sends it, once."""
    globe.fault("slack", kind)
    with pytest.raises(Unavailable):
        await post(globe)
    assert await post_all(globe) == 1
    assert len(globe.world.inbox.alerts) == 1


async def test_slacks_answer_is_lost(globe: ActivityBench) -> None:
    """It has the message, but we do not know that: the message is sent again, because Slack has no idempotency key."""
    globe.fault("slack", "reset_after")
    with pytest.raises(Unavailable):
        await post(globe)
    assert await post_all(globe) == 1
    assert len(globe.world.inbox.alerts) == 2


async def test_a_product_that_recovered_meanwhile_is_not_named(stocked: ActivityBench) -> None:
    """After an outage the message says what is true then."""
    await add(stocked, "Lamp", "Chair")
    stocked.fault("slack", "status")
    with pytest.raises(Unavailable):
        await post(stocked)
    await stocked.pool.execute("UPDATE inventory SET quantity = 50 WHERE product_id = 'low-0000'")
    await stocked.pool.execute("UPDATE inventory SET quantity = 1 WHERE product_id = 'low-0001'")
    assert await post_all(stocked) == 1
    assert "Chair: 1 units" in messages(stocked)[0]["blocks"][0]["text"]["text"]


async def test_the_lease_of_a_dead_attempt_ends(globe: ActivityBench) -> None:
    """A worker died before it posted: after a minute another attempt posts."""
    globe.fault("slack", "hang_before")
    attempt = asyncio.create_task(post(globe))
    await until_asked(globe)
    attempt.cancel()
    await asyncio.wait([attempt])

    await later(globe, timedelta(seconds=50))
    with pytest.raises(Unavailable, match="another run"):
        await post(globe)
    await later(globe, timedelta(seconds=10))
    assert await post(globe) == Posted(products=1)


async def test_a_worker_that_dies_between_post_and_mark(globe: ActivityBench) -> None:
    """The message is sent again when the lease has ended: this repeat cannot be avoided."""
    attempt = await globe.stop_at(Gate(2), StockAlerts.post_low_stock, LIMIT)
    attempt.cancel()
    await asyncio.wait([attempt])
    globe.database.gate = None
    assert (len(messages(globe)), await sent(globe)) == (1, 0)

    await later(globe, timedelta(seconds=60))
    assert await post_all(globe) == 1
    assert (len(messages(globe)), await sent(globe)) == (2, 1)


async def test_an_attempt_that_outlives_its_lease_marks_nothing(globe: ActivityBench) -> None:
    """Another attempt has the lease by then, and only its result counts."""
    late = await globe.stop_at(Gate(2), StockAlerts.post_low_stock, LIMIT)
    await later(globe, timedelta(seconds=60))
    globe.fault("slack", "status")
    with pytest.raises(Unavailable):
        await post(globe)
    go_on(globe)
    await late
    assert await sent(globe) == 0
    assert await post_all(globe) == 1


async def test_posting_locks_no_stock(globe: ActivityBench) -> None:
    """An order that locks the product's stock does not delay the alert."""
    async with globe.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM inventory FOR UPDATE")
        async with asyncio.timeout(PATIENCE):
            assert await post(globe) == Posted(products=1)


async def test_leases_and_marks_never_deadlock(stocked: ActivityBench) -> None:
    """Both lock rows in product order, whichever rows they share."""
    await add(stocked, *(f"Lamp {number}" for number in range(300)))
    await stocked.pool.execute("UPDATE inventory SET quantity = hashtext(product_id) & 7 WHERE product_id LIKE 'low-%'")

    async def keep_posting(limit: int) -> None:
        for _ in range(20):
            await post_or_wait(stocked, limit)

    posters = [asyncio.create_task(keep_posting(limit)) for limit in (7, 40, 100, 7, 40, 100)]
    while not all(poster.done() for poster in posters):
        await stocked.pool.execute("UPDATE inventory SET recoveries = recoveries + 1")
    await asyncio.gather(*posters)


async def post_or_wait(bench: ActivityBench, limit: int = LIMIT) -> Posted | None:
    """One attempt, repeated as long as another one has leased the rest."""
    while True:
        try:
            return await post(bench, limit)
        except Unavailable as busy:
            if busy.type != "low_stock_leased":
                raise
        await asyncio.sleep(0.01)


async def until_blocked(bench: ActivityBench) -> None:
    """Wait until a statement waits for a lock of another transaction."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(PATIENCE):
        while not await bench.pool.fetchval(blocked):
            await asyncio.sleep(0.01)


async def until_asked(bench: ActivityBench) -> None:
    async with asyncio.timeout(PATIENCE):
        while not bench.calls("slack"):
            await asyncio.sleep(0.01)


def go_on(bench: ActivityBench) -> None:
    """Let the attempt at the gate go on."""
    gate = bench.database.gate
    assert gate is not None
    gate.opened.set()
