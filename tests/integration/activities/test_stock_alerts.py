"""Each shortage is told once, in words that Slack accepts and that no product name can bend."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest

from activities.stock_alerts import StockAlerts
from gateways.slack import MAX_NAME, compose, plain
from orders.errors import Permanent, Unavailable
from orders.stock import Posted, StockReport
from tests.support.activity_bench import Bench, Gate

MOST = 100

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
async def shelf(bench: Bench) -> Bench:
    """A bench where nothing is low."""
    await bench.pool.execute("UPDATE inventory SET quantity = 100")
    return bench


@pytest.fixture
async def globe(bench: Bench) -> Bench:
    """A bench where product 5 is low: one globe, reorder level 10."""
    return bench


async def add(bench: Bench, *names: str, quantity: int = 3) -> None:
    ids = [f"low-{number:04}" for number in range(len(names))]
    await bench.pool.execute(ADD_PRODUCTS, ids, names, quantity)


async def find(bench: Bench, most: int = 5_000) -> StockReport:
    return await bench.do(StockAlerts.find_shortages, most)


async def post(bench: Bench, most: int = MOST) -> Posted | None:
    return await bench.do(StockAlerts.post_shortages, most)


async def post_all(bench: Bench) -> int:
    """How many products were told of until there was nothing left to tell."""
    total = 0
    while posted := await post(bench):
        total += posted.products
    return total


def messages(bench: Bench) -> list[dict[str, Any]]:
    """What Slack took, oldest first; each within its limits."""
    taken = [entry["body"] for entry in bench.calls("slack") if entry["status"] == 200]
    for body in taken:
        assert body["text"].startswith("⚠️ Low Stock Alert")
        assert 1 <= len(body["blocks"]) <= 50
        assert all(block["type"] == "section" and block["text"]["type"] == "mrkdwn" for block in body["blocks"])
        assert all(0 < len(block["text"]["text"].encode("utf-16-le")) // 2 <= 3000 for block in body["blocks"])
        assert sum(len(block["text"]["text"].encode("utf-16-le")) // 2 for block in body["blocks"]) <= 9000
        assert body["blocks"][0]["text"]["text"].startswith("*Low Stock Items*\n")
    return taken


def told(bench: Bench) -> list[str]:
    """The names in all messages, as they are written there."""
    texts = (block["text"]["text"] for body in messages(bench) for block in body["blocks"])
    return [name for text in texts for name, _, _ in LINE.findall(text)]


async def sent(bench: Bench) -> int:
    marked: int = await bench.pool.fetchval("SELECT count(*) FROM stock_alerts WHERE sent_at IS NOT NULL")
    return marked


async def leases(bench: Bench) -> int:
    live: int = await bench.pool.fetchval("SELECT count(*) FROM stock_alerts WHERE lease IS NOT NULL")
    return live


async def later(bench: Bench, time: timedelta) -> None:
    """Let time pass for what was told and leased."""
    await bench.pool.execute(
        "UPDATE stock_alerts SET sent_at = sent_at - $1::interval, leased_until = leased_until - $1::interval", time
    )


# ---------------------------------------------------------------------------------------------------- what is said


async def test_nothing_is_low(shelf: Bench) -> None:
    """An empty list, and no message."""
    assert await find(shelf) == StockReport(low_stock_items=[])
    assert await post(shelf) is None
    assert shelf.calls("slack") == []


async def test_one_product_is_low(globe: Bench) -> None:
    """Listed with what the catalogue knows of it, and told in one message."""
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


async def test_exactly_at_the_level_is_low(shelf: Bench) -> None:
    """Ten left with a level of ten are low, eleven are not."""
    await shelf.pool.execute("UPDATE inventory SET quantity = 10 WHERE product_id = '1'")
    await shelf.pool.execute("UPDATE inventory SET quantity = 11 WHERE product_id = '2'")
    assert [item.product_id for item in (await find(shelf)).low_stock_items] == ["1"]


NASTY = "&<>" * 60


@pytest.mark.parametrize(
    ("name", "most_messages"),
    [("Lamp", 5), ("L" * 300, 12), (NASTY, 60), ("😀" * 300, 20), ("`*_~" * 80, 12)],
    ids=["short", "long", "escaped", "astral", "markup"],
)
async def test_five_hundred_products_are_each_named_once(shelf: Bench, name: str, most_messages: int) -> None:
    """Over messages that keep Slack's limits, however long the names become."""
    names = [f"{number:03} {name}" for number in range(500)]
    await add(shelf, *names)

    assert len((await find(shelf)).low_stock_items) == 500
    assert await post_all(shelf) == 500
    assert sorted(each[:3] for each in told(shelf)) == [each[:3] for each in names]
    assert len(messages(shelf)) <= most_messages
    assert await sent(shelf) == 500
    assert await leases(shelf) == 0


async def test_the_scarcest_come_first(shelf: Bench) -> None:
    """In the list and in the messages."""
    await shelf.pool.execute("UPDATE inventory SET quantity = 10 - product_id::integer")
    assert [item.product_id for item in (await find(shelf)).low_stock_items] == ["5", "4", "3", "2", "1"]
    await post(shelf, most=2)
    assert told(shelf) == ["Last-of-its-kind globe", "Ceramic pen cup"]


async def test_the_list_has_an_end(shelf: Bench) -> None:
    """What does not fit, by number or by size, is counted."""
    await add(shelf, "Lamp", "Lamp", "x" * 2_000_000)
    report = await find(shelf, most=2)
    assert (len(report.low_stock_items), report.unlisted) == (2, 1)
    report = await find(shelf)
    assert (len(report.low_stock_items), report.unlisted) == (2, 1)


async def test_a_currency_that_is_not_known_here(globe: Bench) -> None:
    """Leaves the price out, not the product."""
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
    ],
)
async def test_a_name_is_data(shelf: Bench, name: str, shown: str) -> None:
    """No markup, no mention and no line break of a name gets through; it is cut before it is escaped."""
    assert plain(name) == shown
    await add(shelf, name)
    await post(shelf)
    [message] = messages(shelf)
    assert message["blocks"][0]["text"]["text"] == f"*Low Stock Items*\n• {shown}: 3 units (reorder level 10)"
    assert message["blocks"][0]["text"]["verbatim"], "or Slack would make a mention of @here"


async def test_a_name_of_which_nothing_is_left(shelf: Bench) -> None:
    """Gives way to the id: the product must be told by something."""
    await add(shelf, " \t\n")
    await post(shelf)
    assert told(shelf) == ["low-0000"]


def test_at_least_one_line_is_named() -> None:
    """Or the rest would never be told: the longest line fits."""
    line = f"• {plain('&' * 500)}: {2**31} units (reorder level {2**31})"
    _, named = compose("text", "title", [line] * 100)
    assert named > 5


# ------------------------------------------------------------------------------------------------------- how often


async def test_a_shortage_is_told_once(globe: Bench) -> None:
    """However often somebody looks, and whatever moves as long as it lasts."""
    assert await post_all(globe) == 1
    await globe.pool.execute("UPDATE inventory SET quantity = 0 WHERE product_id = '5'")
    assert await post_all(globe) == 0
    await globe.pool.execute("UPDATE inventory SET quantity = 10 WHERE product_id = '5'")
    assert await post_all(globe) == 0
    assert len((await find(globe)).low_stock_items) == 1


@pytest.mark.parametrize("above", ["quantity = 11", "reorder_level = 0"])
async def test_the_next_shortage_is_another_one(globe: Bench, above: str) -> None:
    """Also where it was above its level only between two looks, and whichever of the two was moved."""
    assert await post_all(globe) == 1
    await globe.pool.execute(f"UPDATE inventory SET {above} WHERE product_id = '5'")  # noqa: S608
    await globe.pool.execute("UPDATE inventory SET quantity = 1, reorder_level = 10 WHERE product_id = '5'")
    assert await post_all(globe) == 1
    assert await post_all(globe) == 0


async def test_a_shortage_that_goes_on_is_told_again_in_time(globe: Bench) -> None:
    """After the re-alert interval of a day, and not a minute before."""
    assert await post_all(globe) == 1
    await later(globe, timedelta(hours=23, minutes=59))
    assert await post_all(globe) == 0
    await later(globe, timedelta(minutes=1))
    assert await post_all(globe) == 1
    assert await post_all(globe) == 0


async def test_twenty_at_once_tell_each_product_once(shelf: Bench) -> None:
    """Those who find everything leased look again, until it is told."""
    await add(shelf, *(f"Lamp {number}" for number in range(250)))

    async def one() -> int:
        total = 0
        while posted := await post_or_wait(shelf):
            total += posted.products
        return total

    async with asyncio.timeout(30):
        assert sum(await asyncio.gather(*(one() for _ in range(20)))) == 250
    assert len(told(shelf)) == len(set(told(shelf))) == 250


async def test_two_tell_different_products(shelf: Bench) -> None:
    """Whoever comes second does not wait where there is something else to tell."""
    await add(shelf, "Lamp", "Chair", "Table")
    first = await shelf.stop_at(Gate(2), StockAlerts.post_shortages, 2)
    assert await post(shelf, most=2) == Posted(products=1)
    go_on(shelf)
    assert await first == Posted(products=2)
    assert sorted(told(shelf)) == ["Chair", "Lamp", "Table"]


async def test_what_was_told_while_somebody_looked(globe: Bench) -> None:
    """The row counts as it is now, not as it was when the statement began to read."""
    async with globe.pool.acquire() as connection, connection.transaction():
        await connection.execute("INSERT INTO stock_alerts VALUES ('5', 0, now())")
        attempt = asyncio.create_task(post(globe))
        await until_blocked(globe)
    assert await attempt is None
    assert globe.calls("slack") == []


async def test_what_another_is_telling_is_waited_for(globe: Bench) -> None:
    """Nobody says that all is told while the one who tells it may yet fail."""
    alerts = await globe.stop_at(Gate(2), StockAlerts.post_shortages, MOST)
    with pytest.raises(Unavailable) as busy:
        await post(globe)
    assert busy.value.type == "shortages_leased"
    assert busy.value.next_retry_delay
    go_on(globe)
    assert await alerts == Posted(products=1)
    assert await post(globe) is None
    assert len(messages(globe)) == 1


# --------------------------------------------------------------------------------------------------- what may fail


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Permanent), (404, Permanent), (410, Permanent), (403, Unavailable), (429, Unavailable), (503, Unavailable)],
)
async def test_a_post_that_failed_is_not_marked_as_sent(globe: Bench, status: int, error: type[Exception]) -> None:
    """The next attempt is free to tell it at once, and the error does not name the webhook."""
    globe.fault("slack", "status", status=status)
    with pytest.raises(error) as raised:
        await post(globe)
    assert "127.0.0.1" not in str(raised.value) + repr(raised.value)
    assert (await sent(globe), await leases(globe)) == (0, 0)

    assert await post(globe) == Posted(products=1)
    assert len(messages(globe)) == 1


async def test_a_failed_post_of_the_next_shortage_forgets_the_last(globe: Bench) -> None:
    """That the one before was told says nothing of this one."""
    await post(globe)
    await globe.pool.execute("UPDATE inventory SET quantity = 50 WHERE product_id = '5'")
    await globe.pool.execute("UPDATE inventory SET quantity = 2 WHERE product_id = '5'")
    globe.fault("slack", "status")
    with pytest.raises(Unavailable):
        await post(globe)
    assert await post(globe) == Posted(products=1)


async def test_the_wait_that_slack_asks_for_is_kept(globe: Bench) -> None:
    """429 with Retry-After."""
    globe.fault("slack", "status", status=429, headers={"Retry-After": "17"})
    with pytest.raises(Unavailable) as limit:
        await post(globe)
    assert limit.value.next_retry_delay is not None
    assert limit.value.next_retry_delay.total_seconds() == 17


@pytest.mark.parametrize("kind", ["reset_before", "hang_before"])
async def test_slack_does_not_answer(globe: Bench, kind: str) -> None:
    """It never got the message: the next attempt tells it, once."""
    globe.fault("slack", kind)
    with pytest.raises(Unavailable):
        await post(globe)
    assert await post_all(globe) == 1
    assert len(globe.world.inbox.alerts) == 1


async def test_slacks_answer_is_lost(globe: Bench) -> None:
    """It has the message and we do not know: it is told again, for Slack knows no idempotency key."""
    globe.fault("slack", "reset_after")
    with pytest.raises(Unavailable):
        await post(globe)
    assert await post_all(globe) == 1
    assert len(globe.world.inbox.alerts) == 2


async def test_a_product_that_recovered_meanwhile_is_not_told(shelf: Bench) -> None:
    """An outage later the message says what is the case then."""
    await add(shelf, "Lamp", "Chair")
    shelf.fault("slack", "status")
    with pytest.raises(Unavailable):
        await post(shelf)
    await shelf.pool.execute("UPDATE inventory SET quantity = 50 WHERE product_id = 'low-0000'")
    await shelf.pool.execute("UPDATE inventory SET quantity = 1 WHERE product_id = 'low-0001'")
    assert await post_all(shelf) == 1
    assert "Chair: 1 units" in messages(shelf)[0]["blocks"][0]["text"]["text"]


async def test_the_lease_of_a_dead_attempt_lapses(globe: Bench) -> None:
    """A worker died before it posted: after a minute somebody else tells it."""
    globe.fault("slack", "hang_before")
    attempt = asyncio.create_task(post(globe))
    await until_asked(globe)
    attempt.cancel()
    await asyncio.wait([attempt])

    await later(globe, timedelta(seconds=59))
    with pytest.raises(Unavailable, match="another run"):
        await post(globe)
    await later(globe, timedelta(seconds=1))
    assert await post(globe) == Posted(products=1)


async def test_a_worker_that_dies_between_post_and_mark(globe: Bench) -> None:
    """The message is told again when the lease has lapsed, and then marked: the one repeat that is left."""
    attempt = await globe.stop_at(Gate(2), StockAlerts.post_shortages, MOST)
    attempt.cancel()
    await asyncio.wait([attempt])
    globe.database.gate = None
    assert (len(messages(globe)), await sent(globe)) == (1, 0)

    await later(globe, timedelta(seconds=60))
    assert await post_all(globe) == 1
    assert (len(messages(globe)), await sent(globe)) == (2, 1)


async def test_an_attempt_that_outlives_its_lease_marks_nothing(globe: Bench) -> None:
    """Another one has the lease by then, and its word counts."""
    late = await globe.stop_at(Gate(2), StockAlerts.post_shortages, MOST)
    await later(globe, timedelta(seconds=60))
    globe.fault("slack", "status")
    with pytest.raises(Unavailable):
        await post(globe)
    go_on(globe)
    await late
    assert await sent(globe) == 0
    assert await post_all(globe) == 1


async def test_telling_locks_no_shelf(globe: Bench) -> None:
    """An order that holds the product's row does not hold up the alert."""
    async with globe.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM inventory FOR UPDATE")
        async with asyncio.timeout(4):
            assert await post(globe) == Posted(products=1)


async def test_leases_and_marks_never_deadlock(shelf: Bench) -> None:
    """Both lock in product order, whichever rows they have in common."""
    await add(shelf, *(f"Lamp {number}" for number in range(300)))
    await shelf.pool.execute("UPDATE inventory SET quantity = hashtext(product_id) & 7 WHERE product_id LIKE 'low-%'")

    async def keep_posting(most: int) -> None:
        for _ in range(20):
            await post_or_wait(shelf, most)

    posters = [asyncio.create_task(keep_posting(most)) for most in (7, 40, 100, 7, 40, 100)]
    while not all(poster.done() for poster in posters):
        await shelf.pool.execute("UPDATE inventory SET shortage = shortage + 1")
    await asyncio.gather(*posters)


async def post_or_wait(bench: Bench, most: int = MOST) -> Posted | None:
    """One attempt, and another one as long as somebody else holds what is left."""
    while True:
        try:
            return await post(bench, most)
        except Unavailable as busy:
            if busy.type != "shortages_leased":
                raise
        await asyncio.sleep(0.01)


async def until_blocked(bench: Bench) -> None:
    """Until a statement waits for a lock that another transaction holds."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(4):
        while not await bench.pool.fetchval(blocked):
            await asyncio.sleep(0.01)


async def until_asked(bench: Bench) -> None:
    async with asyncio.timeout(10):
        while not bench.calls("slack"):
            await asyncio.sleep(0.01)


def go_on(bench: Bench) -> None:
    """Let go of the attempt at the gate."""
    gate = bench.database.gate
    assert gate is not None
    gate.opened.set()
