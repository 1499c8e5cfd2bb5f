"""Stock moves once for an order, however often a step is retried, and never falls below zero."""

import json
from typing import Any

import asyncpg
import pytest
from temporalio.testing import ActivityEnvironment

from activities.inventory import Inventory
from activities.order_state import OrderState
from gateways.order_store import move_row
from gateways.postgres import LOCKED
from orders.errors import Permanent, Unavailable
from orders.models import Line, Park, Status
from orders.money import DECIMALS, MIN_AMOUNT
from sandbox import stripe_params
from tests.support.activity_bench import ActivityBench, order_of
from tests.support.shop import CHARGES

ONE, TWO, GLOBES = ({"productId": id_, "quantity": 2} for id_ in ("1", "2", "5"))


async def test_reserve_twice_holds_once(bench: ActivityBench) -> None:
    """The second attempt gets the row of the first."""
    order = order_of()
    first = await bench.reserve(order)

    assert first == await bench.reserve(order)
    assert (first.status, first.total) == ("pending", 5998)
    assert await bench.stock() == (98, 2)
    assert await bench.events(order.id) == ["pending"]


async def test_a_price_change_between_two_attempts_does_not_matter(bench: ActivityBench) -> None:
    """The first attempt recorded the price, and no later attempt checks it again."""
    order = order_of()
    first = await bench.reserve(order)
    await bench.pool.execute("UPDATE products SET price = 3999 WHERE id = '1'")

    assert await bench.reserve(order) == first


async def test_a_cart_of_fifty_costs_as_many_statements_as_a_cart_of_one(bench: ActivityBench) -> None:
    """Reserve, finalize and release each take a fixed number of statements."""
    await bench.pool.execute("INSERT INTO products SELECT 'p' || n, 'P', '', 100, 'usd' FROM generate_series(1, 50) n")
    await bench.pool.execute("INSERT INTO inventory SELECT 'p' || n, 'P', 9, 0, 0 FROM generate_series(1, 50) n")
    counts = []
    for n, size in enumerate((1, 1, 50)):  # a connection's first time also looks types up
        order = order_of(
            f"o{n}",
            items=[{"productId": f"p{i + 1}", "quantity": 1} for i in range(size)],
            charges=CHARGES[: size // 10],
        )
        bench.database.statements.clear()
        await bench.reserve(order)
        reserved = len(bench.database.statements)
        await bench.authorize(order)
        await bench.capture(order)
        bench.database.statements.clear()
        await bench.finalize(order)
        await bench.do(OrderState.claim_cancellation, order.id)
        await bench.do(Inventory.release_stock, order.id)
        counts.append((reserved, len(bench.database.statements)))

    assert counts[1] == counts[2]
    assert await bench.stock("p50") == (9, 0)


@pytest.mark.parametrize(
    ("changes", "code", "texts"),
    [
        ({"items": [GLOBES, {"productId": "2", "quantity": 41}]}, "out_of_stock", ["5: 2 wanted, 1", "2: 41 wanted"]),
        ({"items": [{**ONE, "price": 19.99}]}, "price_changed", ["product 1 costs 29.99 usd"]),
        ({"items": [{**ONE, "price": 39.99}]}, "price_changed", ["product 1 costs 29.99 usd"]),
        ({"items": [ONE, {"productId": "99", "quantity": 1}]}, "unknown_product", ["product 99 is not sold"]),
        ({"items": [ONE], "currency": "eur"}, "unknown_product", ["product 1 is not sold in eur"]),
        ({"items": [{"productId": "1", "quantity": 9999}]}, "out_of_stock", ["9999 wanted, 100 available"]),
    ],
    ids=["short", "price below", "price above", "unknown", "currency", "far too many"],
)
async def test_a_rejection_names_every_problem_and_holds_nothing(
    bench: ActivityBench, changes: dict[str, Any], code: str, texts: list[str]
) -> None:
    """The rejection is recorded, and does not change when stock comes back."""
    order = order_of(**changes)
    row = await bench.reserve(order)
    await bench.pool.execute("UPDATE inventory SET quantity = quantity + 10000")

    assert (row.status, row.error_code) == ("rejected", code)
    assert all(text in (row.error or "") for text in texts), row.error
    assert await bench.reserve(order) == row
    assert await bench.stock() == (10100, 0)
    assert not await bench.pool.fetchval("SELECT count(*) FROM reservations")


async def test_a_total_is_the_cart_and_its_charges(bench: ActivityBench) -> None:
    """The charges are kept in their order, and a second attempt adds none."""
    order = order_of(charges=CHARGES)
    row = await bench.reserve(order)

    assert await bench.reserve(order) == row
    assert row.total == 5998 + 986
    kept = await bench.pool.fetch("SELECT type, name, amount FROM order_charges ORDER BY position")
    assert [tuple(each) for each in kept] == [(each.type, each.name, each.amount) for each in order.charges]


DISCOUNT = {"type": "discount", "amount": -59.98}
SHIPPING = {"type": "shipping", "amount": 10}


@pytest.mark.parametrize(
    ("charges", "method", "code", "text"),
    [
        ([DISCOUNT], None, None, ""),
        ([DISCOUNT], "pm_123", None, ""),
        ([DISCOUNT, SHIPPING | {"amount": 0.5}], "pm_123", None, ""),
        ([DISCOUNT | {"amount": -69.98}, SHIPPING], None, None, ""),
        ([DISCOUNT | {"amount": -59.99}], "pm_123", "discount_too_large", "the discounts are 0.01 usd more"),
        ([DISCOUNT | {"amount": -69.99}, SHIPPING], None, "discount_too_large", "0.01 usd more"),
        ([DISCOUNT | {"amount": -59.97}], "pm_123", "amount_too_small", "0.01 usd; the least that can be paid is 0.50"),
        ([DISCOUNT | {"amount": -59.49}], "pm_123", "amount_too_small", "the total is 0.49 usd"),
        ([DISCOUNT | {"amount": -10}], None, "payment_method_required", "the total is 49.98 usd"),
        ([SHIPPING | {"amount": 999_999}], "pm_123", "order_too_large", "999999.99 usd"),
    ],
)
async def test_which_totals_can_be_paid(
    bench: ActivityBench, charges: list[dict[str, Any]], method: str | None, code: str | None, text: str
) -> None:
    """Discounts count against products and charges. What cannot be paid is refused by name, and holds nothing."""
    row = await bench.reserve(order_of(charges=charges, paymentMethodId=method))

    assert row.error_code == code
    assert text in (row.error or "")
    assert await bench.stock() == ((98, 2) if code is None else (100, 0))
    assert bool(await bench.pool.fetchval("SELECT count(*) FROM order_charges")) == (code is None)


def test_the_least_amounts_are_stripes() -> None:
    """The sandbox has the same table from the same page, for itself."""
    assert MIN_AMOUNT == stripe_params.MIN_AMOUNT
    assert MIN_AMOUNT.keys() == DECIMALS.keys()


async def test_an_order_beyond_stripes_largest_amount_is_refused(bench: ActivityBench) -> None:
    """One payment cannot be that large."""
    await bench.pool.execute("UPDATE products SET price = 60000000 WHERE id IN ('1', '2')")
    order = order_of(items=[{"productId": "1", "quantity": 1}, {"productId": "2", "quantity": 1}])

    assert (await bench.reserve(order)).error_code == "order_too_large"
    assert await bench.stock() == (100, 0)


async def test_reserve_after_its_undo_holds_nothing(bench: ActivityBench) -> None:
    """A late first attempt finds the tombstone and returns it."""
    order = order_of()
    await bench.claim_undo(order)
    row = await bench.reserve(order)

    assert row.status == "failed"
    assert await bench.stock() == (100, 0)
    assert await bench.events(order.id) == ["failed"]


async def test_another_payload_gets_the_row_of_the_first(bench: ActivityBench) -> None:
    """The caller sees by the hash that the order is another one."""
    first = await bench.reserve(order_of())
    other = order_of(items=[ONE, TWO])

    assert (await bench.reserve(other)).request_hash == first.request_hash != other.request_hash
    assert await bench.stock("2") == (40, 0)


async def test_finalize_twice_sells_once(bench: ActivityBench) -> None:
    """The reserved units leave the stock once, and none comes back."""
    order = order_of()
    await bench.bring(order, "finalize")
    row = await bench.finalize(order)

    assert (row.status, row.placed) == ("processing", True)
    assert await bench.stock() == (98, 0)
    assert await bench.events(order.id) == ["pending", "capturing", "processing"]


@pytest.mark.parametrize("before", ["reserve", "claim_undo"])
async def test_finalize_without_a_capture_sells_nothing(bench: ActivityBench, before: str) -> None:
    """Only a row with the status capturing is finalized."""
    order = order_of()
    await bench.reserve(order)
    if before == "claim_undo":
        await bench.claim_undo(order)
    held, status = await bench.stock(), await bench.status(order.id)

    assert (await bench.finalize(order)).status == status
    assert await bench.stock() == held


@pytest.mark.parametrize(
    ("last", "claim", "stock", "end"),
    [
        ("reserve", None, (98, 2), "pending"),
        ("reserve", "undo", (100, 0), "failed"),
        ("finalize", None, (98, 0), "processing"),
        ("finalize", "cancellation", (100, 0), "cancelled"),
        (None, "undo", (100, 0), "failed"),
    ],
    ids=["held, not claimed", "held", "sold, not claimed", "sold", "never reserved"],
)
async def test_release_twice_by_what_the_reservation_is(
    bench: ActivityBench, last: str | None, claim: str | None, stock: tuple[int, int], end: str
) -> None:
    """Held and sold units come back once; without a claim nothing moves."""
    order = order_of()
    if last:
        await bench.bring(order, last)
    if claim == "undo":
        await bench.claim_undo(order)
    if claim == "cancellation":
        await bench.do(OrderState.claim_cancellation, order.id)

    for _ in range(2):
        assert (await bench.do(Inventory.release_stock, order.id)).status == end
        assert await bench.stock() == stock


@pytest.mark.parametrize("last", ["reserve", "finalize"])
async def test_stock_comes_back_whatever_its_count_is(bench: ActivityBench, last: str) -> None:
    """A count above 32 bits keeps no order from being finalized, and none whose money is back from closing."""
    order, many = order_of(), 2**31 - 1
    await bench.bring(order, "reserve")
    await bench.pool.execute("UPDATE inventory SET quantity = $1, reserved = $1, sold = $1", many)
    await bench.bring(order, last)
    if last == "reserve":
        await bench.claim_undo(order)
    else:
        await bench.do(OrderState.claim_cancellation, order.id)

    end = "failed" if last == "reserve" else "cancelled"
    assert (await bench.do(Inventory.release_stock, order.id)).status == end
    assert (await bench.stock())[0] == many + 2


async def test_a_parked_row_keeps_its_stock(bench: ActivityBench) -> None:
    """A late attempt cannot close an order that waits for an operator."""
    order = order_of()
    await bench.reserve(order)
    await bench.claim_undo(order)
    await bench.do(OrderState.park_order, Park(order_id=order.id, step="void_payment", reason="stuck", workflow_id="w"))

    assert (await bench.do(Inventory.release_stock, order.id)).status == "undoing"
    assert await bench.stock() == (98, 2)


@pytest.mark.parametrize("activity", [Inventory.finalize_order, Inventory.release_stock])
async def test_an_unknown_order_is_a_final_error(bench: ActivityBench, activity: Any) -> None:
    """Another attempt would not find it either."""
    with pytest.raises(Permanent, match="o1 does not exist"):
        await bench.do(activity, "o1")


@pytest.mark.parametrize(
    ("last", "before", "after"),
    [
        ("authorize", Status.PENDING, Status.PROCESSING),
        ("reserve", Status.PENDING, Status.CANCELLED),
        ("capture", Status.CAPTURING, Status.CANCELLED),
        ("finalize", Status.PROCESSING, Status.UNDOING),
        ("finalize", Status.PROCESSING, Status.PENDING),
    ],
)
async def test_a_transition_that_is_not_listed_cannot_be_made(
    bench: ActivityBench, last: str, before: Status, after: Status
) -> None:
    """The transaction fails if order_transitions does not list the transition."""
    order = order_of()
    await bench.bring(order, last)

    async def move() -> None:
        async with bench.pool.acquire() as connection, connection.transaction():
            await move_row(connection, order.id, before, after, "because", closing=Status.FAILED)

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await ActivityEnvironment().run(move)
    assert await bench.status(order.id) == before


async def test_the_terms_of_an_order_are_those_of_its_first_reservation(bench: ActivityBench) -> None:
    """A retry with other settings does not change them."""
    order = order_of()
    await bench.reserve(order)
    await bench.pool.execute(
        "UPDATE orders SET terms = $1", json.dumps({"captureMode": "automatic", "authenticationDeadline": 7})
    )
    row = await bench.reserve(order)

    assert (row.terms.capture_mode, row.terms.authentication_deadline) == ("automatic", 7)


async def test_nothing_of_the_cart_is_quoted_when_postgres_refuses(bench: ActivityBench) -> None:
    """The error names the constraint, not the values."""
    request = order_of(charges=[SHIPPING | {"amount": 200}]).reservation
    request = request.model_copy(update={"lines": (Line(product_id="1", quantity=-5),)})
    with pytest.raises(Unavailable) as refusal:
        await bench.do(Inventory.reserve_stock, request)

    assert refusal.value.type == "database_refused"
    assert "-5" not in str(refusal.value)


async def test_a_wrong_count_of_what_was_sold_keeps_no_stock(bench: ActivityBench) -> None:
    """The count is for statistics only, so the stock comes back."""
    order = order_of()
    await bench.bring(order, "finalize")
    assert await bench.pool.fetchval("SELECT sold FROM inventory WHERE product_id = '1'") == 2
    await bench.pool.execute("UPDATE inventory SET sold = 0")
    await bench.do(OrderState.claim_cancellation, order.id)
    assert (await bench.do(Inventory.release_stock, order.id)).status == "cancelled"
    assert await bench.stock() == (100, 0)


async def test_leftovers_of_a_locked_product_hold_up_no_others(bench: ActivityBench) -> None:
    """The attempt fails, and the stock of the other closed orders is back all the same."""
    for number in ("1", "2"):
        await bench.reserve(order_of(f"o{number}", items=[{"productId": number, "quantity": 1}]))
    await bench.pool.execute("UPDATE orders SET status = 'failed'")
    async with bench.pool.acquire() as other, other.transaction():
        await other.execute("SELECT 1 FROM inventory WHERE product_id = '1' FOR UPDATE")
        with pytest.raises(Unavailable) as locked:
            await bench.do(Inventory.release_leftovers, 10)
    assert locked.value.type == LOCKED
    assert await bench.stock("2") == (40, 0)
    assert await bench.do(Inventory.release_leftovers, 10) == ["o1"]
