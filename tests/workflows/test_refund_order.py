"""refund-order refunds a part of an order once for each refund id, whatever happens to the order meanwhile."""

import asyncio
from typing import Any, Final

import pytest
from temporalio.client import WorkflowHandle

from orders.models import RefundOutcome
from orders.names import NEEDS_ATTENTION, REFUND_ORDER
from sandbox.faults import Fault
from tests.support.activity_hooks import Moment
from tests.support.invariants import assert_invariants
from tests.support.manual_actions import refund_by_hand
from tests.support.sample import one_in
from tests.support.scenarios import is_running, marks, resolve, shown_outcome
from tests.support.shop import CHARGES, FREE, Payload, Shop, an_order, eventually

O = "o1"  # noqa: E741 (the one order of each test)

UNIT: Final = {"productId": "1", "quantity": 1}
BACK: Final = UNIT | {"restock": True}

REFUSED_ADDRESS: Final = an_order()["shippingAddress"] | {"street": "1 Refuse Street"}

ACTIVITIES: Final = ("claim_refund", "make_refund", "return_stock", "send_email")
MOMENTS: Final[list[tuple[str, Moment]]] = [(each, moment) for each in ACTIVITIES for moment in ("before", "after")]


# ------------------------------------------------------------------------------------------------------- what it makes


async def test_a_unit_that_comes_back(shop: Shop) -> None:
    """Its price is refunded, it is in stock again, and the customer is told; the order stays as it was."""
    await shop.place(order_id=O)

    outcome = await shop.refund(O, "r1", lines=[BACK], reason="too small")
    assert outcome == RefundOutcome(
        refunded=True, refund_id="r1", refund_amount=29.99, currency="usd", status="succeeded", restocked=1
    )
    assert await shop.status(O) == "processing"
    assert await shop.stock() == (99, 0)
    assert money(shop) == (5998, 2999)
    assert told(shop) == [("r1", 29.99, [{"productId": "1", "quantity": 1}])]
    await assert_invariants(shop, O)


@pytest.mark.parametrize(
    ("asked", "amount", "restocked"),
    [
        ({"lines": [UNIT]}, 29.99, 0),
        ({"lines": [UNIT, BACK]}, 59.98, 1),
        ({"lines": [BACK], "charges": [{"type": "shipping", "amount": 12.5}]}, 42.49, 1),
        ({"charges": [{"type": "tax", "amount": 5}, {"type": "tax", "amount": 0.12}]}, 5.12, 0),
        ({"lines": [BACK], "amount": 20.5}, 20.5, 1),
        ({"lines": [BACK], "amount": 0}, 0.0, 1),
        ({"amount": 3}, 3.0, 0),
    ],
)
async def test_what_is_refunded(shop: Shop, asked: Payload, amount: float, restocked: int) -> None:
    """Units, charges, or an amount of the caller's, which may keep a fee or be a discount granted later."""
    await shop.place(an_order(charges=CHARGES), O)

    outcome = await shop.refund(O, "r1", **asked)
    assert (outcome.refunded, outcome.refund_amount, outcome.restocked) == (True, amount, restocked)
    assert outcome.status == ("succeeded" if amount else None)
    assert money(shop) == (6984, round(amount * 100))
    assert await shop.stock() == (98 + restocked, 0)
    await assert_invariants(shop, O)


async def test_a_free_order_only_gets_its_goods_back(shop: Shop) -> None:
    """Nobody has paid, so nothing is refunded, and Stripe is not asked."""
    await shop.place(FREE, O)

    outcome = await shop.refund(O, "r1", lines=[BACK])
    assert (outcome.refunded, outcome.refund_amount, outcome.restocked) == (True, 0.0, 1)
    assert (await shop.refund(O, "r2", amount=1)).reason == "nothing_left"
    assert not shop.world.provider_records()["payments"]
    await assert_invariants(shop, O)


@pytest.mark.parametrize("status", ["shipped", "delivered"])
async def test_a_return_after_shipping(shop: Shop, status: str) -> None:
    """Goods that came back are refunded and restocked at any time; the order stays what it is."""
    await shop.place(order_id=O)
    await shop.pool.execute("UPDATE orders SET status = 'shipped' WHERE id = $1", O)
    await shop.pool.execute("UPDATE orders SET status = $2 WHERE id = $1", O, status)

    assert (await shop.refund(O, "r1")).refunded
    assert await shop.status(O) == status
    assert await shop.stock() == (99, 0)


async def test_a_pending_refund_is_made(shop: Shop) -> None:
    """The bank takes days; the answer says so."""
    await shop.place(an_order(paymentMethodId="pm_card_pendingRefund"), O)

    outcome = await shop.refund(O, "r1")
    assert (outcome.refunded, outcome.status) == (True, "pending")
    assert await shop.stock() == (99, 0)
    await assert_invariants(shop, O)


async def test_without_an_address_nobody_is_written_to(shop: Shop) -> None:
    """The address in the input is optional."""
    await shop.place(order_id=O)

    assert (await shop.refund(O, "r1", lines=[UNIT], customerEmail=None)).refunded
    assert told(shop) == []


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("asked", "reason", "error"),
    [
        ({"lines": [UNIT | {"productId": "2"}]}, "not_ordered", "no product 2"),
        ({"lines": [UNIT | {"quantity": 3}]}, "more_than_ordered", "3 wanted, 2 left"),
        ({"charges": [{"type": "fee", "amount": 2.25}]}, "more_than_charged", "2.25 usd wanted, 2.24 usd left"),
        ({"amount": 69.85}, "more_than_left", "69.85 usd wanted, 69.84 usd left"),
        ({"amount": 1.001}, "invalid_request", "usd has 2 decimals"),
        ({"lines": [UNIT], "amount": 1_000_000}, "invalid_request", "amount: must be at most"),
    ],
)
async def test_more_than_there_is(shop: Shop, asked: Payload, reason: str, error: str) -> None:
    """It is refused by name before anything is claimed, and nothing is refunded, restocked or kept."""
    await shop.place(an_order(charges=CHARGES), O)

    outcome = await shop.refund(O, "r1", **asked)
    assert (outcome.refunded, outcome.reason) == (False, reason)
    assert error in (outcome.error or "")
    assert await claims(shop) == {}
    assert money(shop) == (6984, 0)
    assert (await shop.refund(O, "r1")).refunded  # the refused request has not used up its id
    await assert_invariants(shop, O)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({"lines": [UNIT | {"quantity": 2}], "amount": 1}, {"lines": [UNIT]}, "more_than_ordered"),
        (
            {"charges": [{"type": "tax", "amount": 5}]},
            {"charges": [{"type": "tax", "amount": 0.13}]},
            "more_than_charged",
        ),
        ({"amount": 69}, {"amount": 0.85}, "more_than_left"),
        ({"amount": 69.84}, {"amount": 0.01}, "nothing_left"),
    ],
)
async def test_what_is_refunded_cannot_be_refunded_again(
    shop: Shop, first: Payload, second: Payload, reason: str
) -> None:
    """Units, charges and money count for all refunds of the order together."""
    await shop.place(an_order(charges=CHARGES), O)

    assert (await shop.refund(O, "r1", **first)).refunded
    assert (await shop.refund(O, "r2", **second)).reason == reason


async def test_an_unknown_order(shop: Shop) -> None:
    """Nothing is written for it: it may still be placed."""
    outcome = await shop.refund(O, "r1")
    assert (outcome.refunded, outcome.reason) == (False, "unknown_order")
    assert (await shop.place(order_id=O)).success


async def test_an_order_that_is_not_paid_yet(shop: Shop) -> None:
    """Later the same refund may be asked for again."""
    held = shop.hooks.hold("authorize_payment", "after", O)
    order = await shop.start(order_id=O)
    await held.reached.wait()

    assert (await shop.refund(O, "r1")).reason == "not_paid"
    held.let_go()
    await order.result()
    assert (await shop.refund(O, "r1")).refunded


async def test_an_order_that_was_rejected(shop: Shop) -> None:
    """It never kept any money."""
    await shop.place(an_order(shippingAddress=REFUSED_ADDRESS), O)

    assert (await shop.refund(O, "r1")).reason == "order_rejected"


async def test_an_order_that_was_cancelled(shop: Shop) -> None:
    """Its money is back already."""
    await shop.place(order_id=O)
    await shop.cancel(O)

    assert (await shop.refund(O, "r1")).reason == "order_cancelled"
    await assert_invariants(shop, O)


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        (None, "input"),
        ({}, "refundId"),
        ({"orderId": O, "refundId": "a:b", "amount": 1}, "refundId"),
        ({"orderId": "a:b", "refundId": "r1", "amount": 1}, "orderId"),
        ({"orderId": O, "refundId": "r1"}, "amount"),
        ({"orderId": O, "refundId": "r1", "amount": 0}, "amount"),
        ({"orderId": O, "refundId": "r1", "amount": -1}, "amount"),
        ({"orderId": O, "refundId": "r1", "amount": "1"}, "amount"),
        ({"orderId": O, "refundId": "r1", "lines": [{"productId": "1", "quantity": 0}]}, "lines[0].quantity"),
        ({"orderId": O, "refundId": "r1", "lines": [UNIT | {"restock": 1}]}, "lines[0].restock"),
        ({"orderId": O, "refundId": "r1", "charges": [{"type": "discount", "amount": 1}]}, "charges[0].type"),
        ({"orderId": O, "refundId": "r1", "charges": [{"type": "tax", "amount": 0}]}, "charges[0].amount"),
        ({"orderId": O, "refundId": "r1", "amount": 1, "reason": "<b>"}, "reason"),
        ({"orderId": O, "refundId": "r1", "amount": 1, "reason": "4242 4242 4242 4242"}, "card number"),
        ({"orderId": O, "refundId": "r1", "amount": 1, "customerEmail": "nobody"}, "customerEmail"),
        ({"orderId": O, "refundId": "r1", "amount": 1, "more": 1}, "more"),
    ],
)
async def test_invalid_input_is_a_completed_run(shop: Shop, payload: Any, names: str) -> None:
    """The error names the field."""
    handle = await shop.client.start_workflow(
        REFUND_ORDER, payload, id="anything", task_queue=shop.task_queue, result_type=RefundOutcome
    )
    outcome = await handle.result()
    assert (outcome.refunded, outcome.reason) == (False, "invalid_request")
    assert names in (outcome.error or "")
    assert await shown_outcome(handle) == "not refunded: invalid_request"


# --------------------------------------------------------------------------------------------------------------- once


@pytest.mark.prove
async def test_the_same_refund_again(shop: Shop) -> None:
    """Whenever it is asked for, and in whatever words, it has the same answer and no further effect."""
    await shop.place(order_id=O)
    first = await shop.refund(O, "r1", lines=[BACK])

    assert await shop.refund(O, "r1", lines=[BACK], amount=29.99, reason="asked twice") == first
    assert await shop.refund(O, "r1", workflow_id="of-support", lines=[BACK]) == first
    assert money(shop) == (5998, 2999)
    assert len(told(shop)) == 1
    assert await shop.stock() == (99, 0)
    await assert_invariants(shop, O)


@pytest.mark.prove
@pytest.mark.parametrize("other", [{"lines": [UNIT]}, {"lines": [BACK], "amount": 29.98}, {"amount": 29.99}])
async def test_another_refund_under_the_same_id(shop: Shop, other: Payload) -> None:
    """It is refused: the caller has mistaken the id."""
    await shop.place(order_id=O)
    await shop.refund(O, "r1", lines=[BACK])

    assert (await shop.refund(O, "r1", **other)).reason == "refund_id_conflict"
    assert money(shop) == (5998, 2999)


@pytest.mark.prove
async def test_ten_at_once_under_one_id(shop: Shop) -> None:
    """Under one workflow id or under many, there is one refund, one unit back and one e-mail."""
    await shop.place(order_id=O)
    runs = [await shop.start_refund(O, "r1", f"support-{n}" if n % 2 else None) for n in range(10)]

    outcomes = await asyncio.gather(*(each.result() for each in runs))
    assert {(each.refunded, each.refund_amount) for each in outcomes} == {(True, 29.99)}
    assert money(shop) == (5998, 2999)
    assert len(told(shop)) == 1
    assert await shop.stock() == (99, 0)
    await assert_invariants(shop, O)


async def test_ten_refunds_at_once(shop: Shop) -> None:
    """The row lets them claim one after the other: never more units than were sold, or money than was paid."""
    await shop.place(order_id=O)
    runs = [await shop.start_refund(O, f"r{n}") for n in range(10)]

    outcomes = await asyncio.gather(*(each.result() for each in runs))
    assert sorted(each.reason or "" for each in outcomes) == ["", "", *["more_than_ordered"] * 8]
    assert money(shop) == (5998, 5998)
    assert await shop.stock() == (100, 0)


# ------------------------------------------------------------------------------------------- with a cancel, or by hand


@pytest.mark.prove
@pytest.mark.parametrize(("at", "moment"), one_in(3, MOMENTS))
async def test_a_cancel_at_each_moment_of_a_refund(shop: Shop, at: str, moment: Moment) -> None:
    """Whoever is first: all of the money goes back once, and each unit once."""
    await shop.place(order_id=O)
    held = shop.hooks.hold(at, moment, f"{REFUND_ORDER}:{O}:r1")
    refund = await shop.start_refund(O, "r1")
    await held.reached.wait()
    cancelled = await shop.cancel(O)
    held.let_go()
    outcome = await refund.result()

    assert cancelled.cancelled
    came_first = (at, moment) not in {("claim_refund", "before"), ("claim_refund", "after"), ("make_refund", "before")}
    assert outcome.refunded is came_first
    if not came_first:
        assert outcome.reason == ("order_cancelled" if (at, moment) == ("claim_refund", "before") else "nothing_left")
    assert money(shop) == (5998, 5998)
    assert await shop.stock() == (100, 0)
    assert len(told(shop)) == came_first
    await assert_invariants(shop, O)


@pytest.mark.prove
@pytest.mark.parametrize(
    ("at", "moment"),
    one_in(
        3,
        [
            (each, moment)
            for each in ("claim_cancellation", "cancel_fulfillment", "void_payment", "release_stock")
            for moment in ("before", "after")
        ],
    ),
)
async def test_a_refund_at_each_moment_of_a_cancel(shop: Shop, at: str, moment: Moment) -> None:
    """Before the cancel claims the order the refund is made, and the cancel refunds the rest; later it is refused."""
    await shop.place(order_id=O)
    held = shop.hooks.hold(at, moment, f"cancel-order:{O}")
    cancel = await shop.start_cancel(O)
    await held.reached.wait()
    outcome = await shop.refund(O, "r1")
    held.let_go()

    assert (await cancel.result()).cancelled
    came_first = (at, moment) == ("claim_cancellation", "before")
    assert (outcome.refunded, outcome.reason) == (came_first, None if came_first else "order_cancelled")
    assert money(shop) == (5998, 5998)
    assert await shop.stock() == (100, 0)
    await assert_invariants(shop, O)


@pytest.mark.prove
async def test_a_cancel_after_refunds_returns_the_rest(shop: Shop) -> None:
    """Refunded units are left out, also those that never come back; the e-mail names what the cancel returns."""
    await shop.place(order_id=O)
    await shop.refund(O, "r1", lines=[BACK])
    await shop.refund(O, "r2", lines=[UNIT], amount=10)

    outcome = await shop.cancel(O)
    assert (outcome.cancelled, outcome.refunded) == (True, True)
    assert money(shop) == (5998, 5998)
    assert await shop.stock() == (99, 0)
    amounts = [each.data["refundAmount"] for each in shop.world.inbox.emails if each.template == "order_cancelled"]
    assert amounts == [19.99]
    await assert_invariants(shop, O)


async def test_a_cancel_after_everything_was_refunded(shop: Shop) -> None:
    """There is nothing left to refund; the shipment is stopped, and the stock comes back."""
    await shop.place(order_id=O)
    await shop.refund(O, "r1", amount=59.98)

    outcome = await shop.cancel(O)
    assert (outcome.cancelled, outcome.refunded) == (True, True)
    assert money(shop) == (5998, 5998)
    assert await shop.stock() == (100, 0)
    await assert_invariants(shop, O)


@pytest.mark.prove
@pytest.mark.parametrize("amount", [None, 4000])
async def test_a_refund_by_hand_that_was_faster(shop: Shop, amount: int | None) -> None:
    """The claim is withdrawn: nothing is restocked, the customer is not told, and another refund may have the units."""
    await shop.place(order_id=O)
    held = shop.hooks.hold("make_refund", "before")
    refund = await shop.start_refund(O, "r1")
    await held.reached.wait()
    await refund_by_hand(shop, (await shop.row(O))["payment_intent_id"], amount)
    held.let_go()

    outcome = await refund.result()
    assert (outcome.refunded, outcome.reason) == (False, "more_than_left" if amount else "nothing_left")
    assert await claims(shop) == {"r1": "withdrawn"}
    assert await shop.stock() == (98, 0)
    assert told(shop) == []
    assert await shop.refund(O, "r1") == outcome
    if amount:
        assert (await shop.refund(O, "r2", lines=[BACK], amount=19.98)).refunded


# ------------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("kind", ["reset_before", "reset_after", "status"])
async def test_a_lost_answer_refunds_once(shop: Shop, kind: Any) -> None:
    """The next attempt finds the refund by its refund id, or makes it."""
    await shop.place(order_id=O)
    shop.world.faults.add(Fault(service="stripe", route="POST /v1/refunds", kind=kind, status=503, times=2))

    assert (await shop.refund(O, "r1")).refunded
    assert money(shop) == (5998, 2999)
    await assert_invariants(shop, O)


async def test_a_failed_refund_parks_until_an_operator_tries_again(shop: Shop) -> None:
    """Nothing is restocked meanwhile; each retry is one more attempt at Stripe."""
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), O)
    refund = await shop.start_refund(O, "r1")
    await is_stuck(refund)

    assert (await marks(refund))[1] == "refund:r1"
    assert await shop.stock() == (98, 0)
    assert (await shop.row(O))["parked_step"] is None
    await resolve(refund, "refund:r1", "retry")
    await eventually(lambda: attempts(shop, 2), "a second refund was tried")
    await is_stuck(refund)
    assert await is_running(refund)
    alerts = [each.text for each in shop.world.inbox.alerts if "refund:r1" in each.text]
    assert len(alerts) == 2
    assert "29.99 usd" in alerts[0]
    assert "resolve o1 --step refund:r1 --retry" in alerts[0]


async def test_a_failed_refund_that_an_operator_pays_by_other_means(shop: Shop) -> None:
    """It counts as made: the goods come back, the customer is told, and a cancel refunds the rest only."""
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), O)
    refund = await shop.start_refund(O, "r1")
    await is_stuck(refund)
    await resolve(refund, "refund:r1", "resolved")

    outcome = await refund.result()
    assert (outcome.refunded, outcome.status, outcome.reason) == (True, None, "settled_by_hand")
    assert await claims(shop) == {"r1": "made"}
    assert await shop.stock() == (99, 0)
    assert (await refund.describe()).typed_search_attributes.get(NEEDS_ATTENTION) is None
    assert (await shop.refund(O, "r2", amount=30)).reason == "more_than_left"


async def test_a_cancel_after_an_operator_paid_everything(shop: Shop) -> None:
    """Nothing is refunded, and the answer says by whom it was settled."""
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), O)
    refund = await shop.start_refund(O, "r1", amount=59.98)
    await is_stuck(refund)
    await resolve(refund, "refund:r1", "resolved")
    assert (await refund.result()).refunded

    outcome = await shop.cancel(O)
    assert (outcome.cancelled, outcome.refunded, outcome.reason) == (True, False, "settled_by_hand")
    await assert_invariants(shop, O)


async def test_a_failed_refund_that_an_operator_skips(shop: Shop) -> None:
    """It is withdrawn, and counts for nothing."""
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), O)
    refund = await shop.start_refund(O, "r1")
    await is_stuck(refund)
    await resolve(refund, "refund:r1", "skip")

    outcome = await refund.result()
    assert (outcome.refunded, outcome.reason) == (False, "settled_by_hand")
    assert await claims(shop) == {"r1": "withdrawn"}
    assert await shop.stock() == (98, 0)
    assert told(shop) == []


@pytest.mark.prove
async def test_a_parked_refund_holds_up_no_cancel(shop: Shop) -> None:
    """Only the run of the refund waits for the operator; the cancel puts everything back, and parks by itself."""
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), O)
    refund = await shop.start_refund(O, "r1")
    await is_stuck(refund)
    cancel = await shop.start_cancel(O)
    await is_stuck(cancel)
    await resolve(cancel, "void_payment", "resolved")
    assert (await cancel.result()).cancelled
    await resolve(refund, "refund:r1", "skip")

    assert (await refund.result()).reason == "settled_by_hand"
    assert await shop.stock() == (100, 0)


@pytest.mark.parametrize(("at", "moment"), one_in(3, MOMENTS))
@pytest.mark.parametrize("ending", ["terminate", "cancel"])
async def test_the_run_is_ended_at_each_moment_and_started_again(
    shop: Shop, ending: str, at: str, moment: Moment
) -> None:
    """Canceled it finishes all the same; terminated, the next run goes on from the claim."""
    await shop.place(order_id=O)
    held = shop.hooks.hold(at, moment, f"{REFUND_ORDER}:{O}:r1")
    first = await shop.start_refund(O, "r1")
    await held.reached.wait()
    await (first.terminate() if ending == "terminate" else first.cancel())
    held.let_go()

    outcome = await shop.refund(O, "r1")
    assert (outcome.refunded, outcome.restocked) == (True, 1)
    if ending == "cancel":
        assert await first.result() == outcome
    assert money(shop) == (5998, 2999)
    assert await shop.stock() == (99, 0)
    assert len(told(shop)) == 1
    await assert_invariants(shop, O)


# ------------------------------------------------------------------------------------------------------------- helpers


def money(shop: Shop) -> tuple[int, int]:
    """What was captured of the order, and what is refunded, or will be."""
    records = shop.world.provider_records()["orders"].get(O, {"captured": 0, "refunded": 0, "refund_pending": 0})
    return records["captured"], records["refunded"] + records["refund_pending"]


def told(shop: Shop) -> list[tuple[Any, ...]]:
    """What customers were written about refunds."""
    mails = [each.data for each in shop.world.inbox.emails if each.template == "order_refunded"]
    return [(each["refundId"], each["refundAmount"], each["lines"]) for each in mails]


async def claims(shop: Shop) -> dict[str, str]:
    return {each["refund_id"]: each["status"] for each in await shop.pool.fetch("SELECT * FROM order_refunds")}


async def attempts(shop: Shop, count: int) -> bool:
    return len(await shop.pool.fetch("SELECT FROM refunds WHERE order_id = $1", O)) == count


async def is_stuck(handle: WorkflowHandle[Any, Any]) -> None:
    async def stuck() -> bool:
        return bool((await handle.query("status", result_type=dict))["parked"])

    await eventually(stuck, "the refund is parked")
