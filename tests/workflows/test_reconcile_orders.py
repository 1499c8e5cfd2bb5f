"""Nothing lost: orders whose run is gone, payments that no order answers for, refunds that fail late."""

import re
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities import order_recovery
from activities.order_recovery import OrderRecovery
from deploy.local.postgres import Postgres
from gateways.postgres import Database
from orders.commands import PROGRAM
from orders.models import Status
from orders.names import NEEDS_ATTENTION, RECONCILE_ORDERS, cancel_order_id
from orders.reconciliation import OrderWithoutRun, ReconcileReport
from sandbox.faults import Fault
from tests.support.activity_hooks import Moment
from tests.support.invariants import assert_invariants, check_stock
from tests.support.manual_actions import authorize_again, hold_again, pay, refund_by_hand, send_late
from tests.support.sample import one_in
from tests.support.scenarios import REFUSED_ADDRESS, until_attempts
from tests.support.servers import copy_database
from tests.support.shop import Payload, Shop, an_order, eventually, new_order_id, open_shop

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
NOTHING = ReconcileReport()

REFUSED = an_order(shippingAddress=REFUSED_ADDRESS)
NEEDS_3DS = an_order(paymentMethodId="pm_card_authenticationRequired")

FORWARD = ("reserve_stock", "authorize_payment", "request_fulfillment", "capture_payment", "finalize_order")
BACKWARD = ("claim_undo", "cancel_fulfillment", "void_payment", "release_stock")
CANCELLING = ("claim_cancellation", "cancel_fulfillment", "void_payment", "release_stock")

UNCONFIRMED: tuple[str, Moment] = ("send_email", "before")

# Nothing is lost when the order is not there yet, or its cancel is not claimed, or it is confirmed.
NOT_LOST: dict[Moment, set[str]] = {
    "before": {"reserve_stock", "claim_cancellation"},
    "after": {"finalize_order", "send_email"},
}


def moments(*names: str) -> list[Any]:
    """Before and after each activity; `make prove` has those that come before its effect."""
    before = [pytest.param(name, "before", marks=pytest.mark.prove) for name in names if name not in NOT_LOST["before"]]
    return [*before, *((name, "after") for name in names if name not in NOT_LOST["after"])]


@pytest.fixture(scope="module")
async def reconciling_shop(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    async with copy_database(postgres) as url, open_shop(url, temporal, reconcile_after_seconds=0) as opened:
        yield opened


@pytest.fixture
async def shop(reconciling_shop: Shop) -> Shop:
    """A shop in which nothing is too young to be looked at."""
    await reconciling_shop.clear()
    return reconciling_shop


# ------------------------------------------------------------------------------------------- orders whose run is gone


@pytest.mark.parametrize(("at", "moment"), moments(*FORWARD, "send_email"))
async def test_an_order_terminated_on_its_way_is_finished(shop: Shop, at: str, moment: Moment) -> None:
    """process-order is started again with what it was asked for, and the attempt left behind changes nothing."""
    order_id = new_order_id()
    held = shop.hooks.hold(at, moment, order_id)
    await terminate_at(shop, held, order_id)
    report = await reconcile(shop)
    await until_attempts(shop, at, 2)
    held.let_go()
    await result_of(shop, order_id)

    assert len(report.restarted) == 1
    assert await shop.status(order_id) == "processing"
    assert [email.template for email in shop.world.inbox.emails] == ["order_confirmation"]
    await assert_invariants(shop, order_id)
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
@pytest.mark.parametrize(("at", "moment"), moments(*BACKWARD))
async def test_an_order_terminated_in_its_undo_is_undone(shop: Shop, at: str, moment: Moment) -> None:
    """The undo is finished by another run of process-order, for the same reason."""
    order_id = new_order_id()
    held = shop.hooks.hold(at, moment, order_id)
    await terminate_at(shop, held, order_id, REFUSED)
    await reconcile(shop)
    if (at, moment) != ("release_stock", "after"):  # then the order is closed
        await until_attempts(shop, at, 2)
    held.let_go()
    await result_of(shop, order_id)

    assert await shop.status(order_id) == "rejected"
    await assert_invariants(shop, order_id)
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
@pytest.mark.parametrize(("at", "moment"), moments(*CANCELLING))
async def test_a_cancel_terminated_on_its_way_is_finished(shop: Shop, at: str, moment: Moment) -> None:
    """cancel-order is started again with its first input: the customer is written to all the same."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    held = shop.hooks.hold(at, moment, cancel_order_id(order_id))
    run = await shop.start_cancel(order_id)
    await held.reached.wait()
    await run.terminate()
    report = await reconcile(shop)
    finished_already = (at, moment) == ("release_stock", "after")
    if not finished_already:
        await until_attempts(shop, at, 2)
    held.let_go()

    assert len(report.restarted) == (not finished_already)
    await result_of(shop, cancel_order_id(order_id))
    assert await shop.status(order_id) == "cancelled"
    emails_to_customer = [email.template for email in shop.world.inbox.emails]
    assert emails_to_customer == ["order_confirmation", *([] if finished_already else ["order_cancelled"])]
    await assert_invariants(shop, order_id)
    assert await reconcile(shop) == NOTHING


async def test_a_cancel_is_finished_though_process_order_still_runs(shop: Shop) -> None:
    """That run waits for its notifications; it does not finish what cancel-order has begun with a paid order."""
    order_id = new_order_id()
    notification = shop.hooks.hold("track_order", "before", order_id)
    order = await shop.start(order_id=order_id)
    await eventually(lambda: is_placed(shop, order_id), "the order is placed")
    held = shop.hooks.hold("void_payment", "before", cancel_order_id(order_id))
    run = await shop.start_cancel(order_id)
    await held.reached.wait()
    await run.terminate()
    report = await reconcile(shop)
    held.let_go()
    await result_of(shop, cancel_order_id(order_id))

    assert len(report.restarted) == 1
    assert await shop.status(order_id) == "cancelled"
    notification.let_go()
    assert (await order.result()).success
    await assert_invariants(shop, order_id)


async def test_terminated_while_the_customer_authenticates(shop: Shop) -> None:
    """The second run waits for the same PaymentIntent."""
    order_id = new_order_id()
    run = await shop.start(NEEDS_3DS, order_id)
    await eventually(lambda: payment_of(shop, order_id), "the payment is known")
    await run.terminate()
    await reconcile(shop)
    assert await why(shop, order_id) == "no run drives it: process-order is started again"
    payment = await payment_of(shop, order_id)
    await eventually(lambda: status_of(shop, payment, "requires_action"), "the customer is asked")
    shop.world.stripe.account.authenticate(payment, succeeds=True)
    await shop.client.get_workflow_handle(order_id).signal("payment-updated")
    await result_of(shop, order_id)

    assert await shop.status(order_id) == "processing"
    await assert_invariants(shop, order_id)


@pytest.mark.prove
@pytest.mark.parametrize("at", ["authorize_payment", "request_fulfillment"])
async def test_an_order_whose_request_is_gone_is_cancelled(shop: Shop, at: str) -> None:
    """Past its retention Temporal does not know what to ship, or where: the order is undone."""
    order_id = new_order_id()
    held = shop.hooks.hold(at, "after", order_id)
    await shop.start(order_id=order_id)
    await held.reached.wait()
    await delete(shop, order_id)
    report = await reconcile(shop)
    held.let_go()
    await result_of(shop, cancel_order_id(order_id))

    assert ["cancel-order" in words for words in report.restarted] == [True]
    assert await shop.status(order_id) == "cancelled"
    await assert_invariants(shop, order_id)
    assert await reconcile(shop) == NOTHING


@pytest.mark.parametrize(("at", "moment"), [("capture_payment", "after"), ("finalize_order", "before"), UNCONFIRMED])
async def test_a_paid_order_whose_request_is_gone_goes_forward(shop: Shop, at: str, moment: Moment) -> None:
    """It is captured and its stock sold; one alert says that the customer's address is lost."""
    order_id = new_order_id()
    held = shop.hooks.hold(at, moment, order_id)
    await shop.start(order_id=order_id)
    await held.reached.wait()
    if (at, moment) == UNCONFIRMED:
        await eventually(lambda: is_placed(shop, order_id), "the order is placed")
    await delete(shop, order_id)
    report = await reconcile(shop)
    await shop.hooks.reset()  # the attempt that is held dies

    assert ["captured and finalized" in words for words in report.restarted] == [True] * ((at, moment) != UNCONFIRMED)
    assert [order_id in words for words in report.alerted] == [True]
    assert await shop.status(order_id) == "processing"
    await assert_invariants(shop, order_id)
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
async def test_orders_whose_confirmation_is_under_way_hide_no_lost_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the e-mail service is out, more orders than one page has may wait for it, each driven by its run."""
    monkeypatch.setattr(order_recovery, "PAGE", 1)
    lost = new_order_id()
    waiting = [shop.hooks.hold("send_email", workflow_id=f"waits-{number}") for number in range(2)]
    for number, held in enumerate(waiting):
        await shop.start(order_id=f"waits-{number}")
        await held.reached.wait()
    held = shop.hooks.hold("send_email", workflow_id=lost)
    run = await shop.start(order_id=lost)
    await held.reached.wait()
    await eventually(lambda: is_placed(shop, lost), "the order is placed")
    await run.terminate()
    report = await reconcile(shop)
    for each in (*waiting, held):
        each.let_go()

    assert [lost in words for words in report.restarted] == [True]
    await result_of(shop, lost)


async def test_the_request_of_the_row_is_used_not_that_of_a_later_run(shop: Shop) -> None:
    """A run that was refused for its other payload is not what the order was."""
    order_id = new_order_id()
    held = shop.hooks.hold("authorize_payment", "after", order_id)
    await terminate_at(shop, held, order_id)
    other = an_order(items=[{"productId": "2", "quantity": 1}])
    assert (await shop.place(other, order_id)).error_code == "order_id_conflict"
    await reconcile(shop)
    held.let_go()
    await result_of(shop, order_id)

    assert await shop.stock("1") == (98, 0)
    assert await shop.stock("2") == (40, 0)
    await assert_invariants(shop, order_id)


@pytest.mark.parametrize("found", [Status.CAPTURING, Status.PENDING, Status.UNDOING])
async def test_an_order_that_has_moved_on_is_left_alone(shop: Shop, found: Status) -> None:
    """Two sweeps may find the same order; what the first has finished the second must not cancel."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    stranded = OrderRecovery(Database(shop.pool), shop.client, timedelta())
    restart = await ActivityEnvironment().run(stranded.restart_order, OrderWithoutRun(order_id=order_id, status=found))

    assert restart.moved
    with pytest.raises(RPCError):
        await shop.client.get_workflow_handle(cancel_order_id(order_id)).describe()


async def test_an_order_that_is_driven_is_left_alone(shop: Shop) -> None:
    """An open run finishes it by itself."""
    order_id = new_order_id()
    held = shop.hooks.hold("authorize_payment", "after", order_id)
    run = await shop.start(order_id=order_id)
    await held.reached.wait()

    assert await reconcile(shop) == NOTHING
    held.let_go()
    assert (await run.result()).success


async def test_an_order_that_is_too_young_is_left_alone(shop: Shop) -> None:
    """The run that wrote it a moment ago may still go on."""
    order_id = new_order_id()
    held = shop.hooks.hold("authorize_payment", "after", order_id)
    await terminate_at(shop, held, order_id)
    await shop.pool.execute("UPDATE orders SET created_at = now() + interval '1 hour' WHERE id = $1", order_id)
    assert await reconcile(shop) == NOTHING
    held.let_go()


async def test_a_parked_order_is_left_alone_and_told_once_a_day(shop: Shop) -> None:
    """An operator decides about it, and gets one alert a day."""
    order_id = new_order_id()
    shop.hooks.fail("void_payment", ApplicationError("no", type="no", non_retryable=True), times=None)
    run = await shop.start(REFUSED, order_id)
    await eventually(lambda: parked_step(shop, order_id), "the order is parked")
    await run.terminate()
    first, second = await reconcile(shop), await reconcile(shop)
    await shop.pool.execute("UPDATE reminders SET at = at - interval '25 hours'")
    third = await reconcile(shop)

    assert first.alerted == third.alerted == (f"order {order_id} is parked at void_payment: no",)
    assert (first.restarted, second) == ((), NOTHING)
    alerts = [alert.text.splitlines()[1:] for alert in shop.world.inbox.alerts if first.alerted[0] in alert.text]
    assert [command for command, _ in alerts] == [f"`{PROGRAM} cancel-order {order_id}`"] * 2
    assert await shop.status(order_id) == "undoing"


async def test_the_alert_about_a_parked_order_names_its_run(shop: Shop) -> None:
    """As long as the run is open it takes the resolution: its page, and the command."""
    order_id = new_order_id()
    shop.hooks.fail("void_payment", ApplicationError("no", type="no", non_retryable=True))
    await shop.start(REFUSED, order_id)
    await eventually(lambda: parked_step(shop, order_id), "the order is parked")
    (text,) = (await reconcile(shop)).alerted

    (command, page) = next(each.text.splitlines()[1:] for each in shop.world.inbox.alerts if text in each.text)
    assert command == f"`{PROGRAM} resolve {order_id} --step void_payment --retry --reason 'its cause is corrected'`"
    assert page.endswith(f"/workflows/{order_id}")


# ------------------------------------------------------------------- shipments that contradict their orders


@pytest.mark.prove
async def test_a_shipment_of_an_undone_order_is_cancelled(shop: Shop) -> None:
    """Its request slept, and arrived after the undo."""
    order_id = new_order_id()
    shop.world.fulfillment.forgets_cancels = True
    assert (await shop.place(REFUSED, order_id)).error_code == "fulfillment_refused"
    await send_late(shop, order_id)
    report = await reconcile(shop)

    assert [f"order {order_id} is rejected" in words for words in report.shipments] == [True]
    assert [each["status"] for each in shop.world.provider_records()["fulfillment"]] == ["cancelled"]
    await assert_invariants(shop, order_id)
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
async def test_goods_that_left_are_told_of(shop: Shop) -> None:
    """The warehouse's event is lost, and the order is shipped all the same."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await shop.ship(order_id)
    report = await reconcile(shop)

    parcel = (await shop.row(order_id))["fulfillment_id"]
    assert report.shipments == (
        f"order {order_id}: the warehouse says shipped",
        f"order {order_id}: notify-shipment is started for the parcel {parcel}",
    )
    assert await shop.status(order_id) == "shipped"
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
async def test_a_shipment_that_the_warehouse_forgot_is_an_operators_matter(shop: Shop) -> None:
    """The order is paid, so its customer waits for goods that nobody sends: one alert a day."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    shop.world.fulfillment.forget(order_id)
    report = await reconcile(shop)

    assert [f"order {order_id} is paid, but its shipment" in words for words in report.alerted] == [True]
    assert (await reconcile(shop)).alerted == ()


# ----------------------------------------------------------------------------------- payments that no order answers for


async def test_an_authorization_for_no_order_is_voided(shop: Shop) -> None:
    """Its order is lost: nothing will ever capture it."""
    payment = await pay(shop, "order-lost", capture="manual")
    report = await reconcile(shop)

    assert [payment in words for words in report.payments] == [True]
    assert shop.world.stripe.account.intent(payment).status == "canceled"
    assert await reconcile(shop) == NOTHING


async def test_a_charge_for_no_order_is_a_persons_matter(shop: Shop) -> None:
    """Only an operator can know whether the order or the payment is wrong; one alert is sent."""
    payment = await pay(shop, "order-lost")
    report = await reconcile(shop)

    assert [payment in words for words in report.alerted] == [True]
    assert shop.world.stripe.account.records()[0]["captured"] == 5998
    assert not shop.world.stripe.account.refunds
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
@pytest.mark.parametrize("ending", ["placed", "rejected", "cancelled"])
async def test_a_second_charge_of_an_order_is_refunded(shop: Shop, ending: str) -> None:
    """The order answers for the payment on its row alone, if at all."""
    order_id = new_order_id()
    await shop.place(REFUSED if ending == "rejected" else None, order_id)
    if ending == "cancelled":
        await shop.cancel(order_id)
    payment = await pay(shop, order_id)
    report = await reconcile(shop)

    assert [payment in words for words in report.payments] == [True]
    await assert_invariants(shop, order_id)
    assert await reconcile(shop) == NOTHING


async def test_a_second_charge_is_refunded_though_the_dashboard_failed(shop: Shop) -> None:
    """Its own refund was never tried."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    payment = await pay(shop, order_id)
    await refund_by_hand(shop, payment, 1000)
    [by_hand] = shop.world.stripe.account.refunds.values()
    by_hand.fail()

    assert [payment in words for words in (await reconcile(shop)).payments] == [True]
    assert [(each.amount, each.status) for each in shop.world.stripe.account.refunds.values()] == [
        (1000, "failed"),
        (5998, "succeeded"),
    ]
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
@pytest.mark.parametrize("capture", ["manual", "automatic"])
async def test_a_payment_made_by_hand_for_an_order_is_told(shop: Shop, capture: str) -> None:
    """Only the person who made it knows its purpose."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    payment = await pay(shop, order_id, capture=capture, shop_id=None)
    report = await reconcile(shop)

    assert [f"{payment} of order {order_id} was made by hand" in words for words in report.alerted] == [True]
    assert shop.world.stripe.account.intent(payment).status in ("requires_capture", "succeeded")
    assert not shop.world.stripe.account.refunds
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
@pytest.mark.parametrize("capture", ["manual", "automatic"])
@pytest.mark.parametrize("shop_id", [None, "another-shop"])
async def test_a_payment_of_others_is_left_alone(shop: Shop, capture: str, shop_id: str | None) -> None:
    """The account may serve other programs, and other shops of ours with the same order ids."""
    order_id = new_order_id()
    if shop_id:
        await shop.place(order_id=order_id)
    payments = [
        await pay(shop, order_id, capture=capture, shop_id=shop_id),
        await pay(shop, "order-lost", capture=capture, shop_id=shop_id),
        await pay(shop, None, capture=capture),
    ]
    assert await reconcile(shop) == NOTHING
    for payment in payments:
        assert shop.world.stripe.account.intent(payment).status in ("requires_capture", "succeeded")
    assert not shop.world.stripe.account.refunds


@pytest.mark.prove
async def test_more_payments_than_one_page(shop: Shop) -> None:
    """All recent payments are looked at, not only the newest page of them."""
    payments = [await pay(shop, f"order-lost-{number}", capture="manual") for number in range(103)]
    report = await reconcile(shop)
    assert len(report.payments) == len(payments)
    assert {shop.world.stripe.account.intent(payment).status for payment in payments} == {"canceled"}


async def test_an_authorization_of_a_closed_order_is_voided(shop: Shop) -> None:
    """By its stored id, however old it is."""
    order_id = new_order_id()
    await shop.place(an_order(items=[{"productId": "5", "quantity": 2}]), order_id)
    payment = await authorize_again(shop, order_id)
    report = await reconcile(shop)

    assert [payment in words for words in report.payments] == [True]
    assert shop.world.stripe.account.intent(payment).status == "canceled"
    assert await why(shop, order_id) == report.payments[0]
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
async def test_a_paid_order_whose_charge_was_given_back_is_told(shop: Shop) -> None:
    """Refunded in full by hand although its goods are shipped: an alert a day until it is repaired."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    payment = await payment_of(shop, order_id)
    await refund_by_hand(shop, payment)
    report = await reconcile(shop)

    assert [payment in words and "0.00 usd charged" in words.lower() for words in report.alerted] == [True]
    assert await shop.status(order_id) == "processing"
    assert await reconcile(shop) == NOTHING
    await shop.pool.execute("UPDATE reminders SET at = at - interval '25 hours'")
    assert (await reconcile(shop)).alerted == report.alerted


@pytest.mark.prove
async def test_an_order_that_is_cancelled_while_its_payment_is_compared(shop: Shop) -> None:
    """The refund that was seen belongs to an order that is not paid any more: no alert asks to charge again."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await refund_by_hand(shop, await payment_of(shop, order_id))
    shop.world.faults.add(Fault(service="stripe", route="GET /v1/refunds*", kind="delay", seconds=3600))
    run = await start(shop)
    await eventually(lambda: is_asked_for_refunds(shop), "Stripe is asked what was refunded")
    assert (await shop.cancel(order_id)).cancelled
    shop.world.faults.clear()

    assert ReconcileReport.model_validate(await run.result()) == NOTHING
    assert await reconcile(shop) == NOTHING


async def test_a_partial_refund_by_hand_is_the_shops_own_affair(shop: Shop) -> None:
    """A goodwill refund leaves the order as it is, and sends no alert."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await refund_by_hand(shop, await payment_of(shop, order_id), amount=100)
    assert await reconcile(shop) == NOTHING


async def test_a_payment_that_stripe_does_not_know_is_told(shop: Shop) -> None:
    """The row names a payment of another account, or none."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await shop.pool.execute("UPDATE orders SET payment_intent_id = 'pi_unknown' WHERE id = $1", order_id)
    report = await reconcile(shop)
    assert [f"pi_unknown of order {order_id} is not known to Stripe" in words for words in report.alerted] == [True]


# ------------------------------------------------------------------------------------------------------------- refunds


@pytest.mark.prove
async def test_a_refund_that_fails_days_later_is_told(shop: Shop) -> None:
    """It had succeeded, and the order was closed; a refund by hand then settles it."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await shop.cancel(order_id)
    [refund] = shop.world.stripe.account.refunds.values()
    assert await reconcile(shop) == NOTHING
    shop.world.stripe.account.settle(refund.id, succeeds=False)
    await shop.pool.execute("UPDATE refunds SET checked_at = now() - interval '2 days'")
    report = await reconcile(shop)

    assert list(report.refunds) == [f"order {order_id}: refund {refund.id} failed"]
    assert [order_id in words and "refund failed" in words for words in report.alerted] == [True]
    assert len(shop.world.stripe.account.refunds) == 1, "a failed refund is not tried again by itself"
    assert not (await reconcile(shop)).alerted
    await refund_by_hand(shop, refund.payment_intent)
    assert not (await reconcile(shop)).not_done
    await assert_invariants(shop, order_id)
    assert await reconcile(shop) == NOTHING


async def test_a_pending_refund_is_followed_to_its_end(shop: Shop) -> None:
    """The order was closed with it."""
    order_id = new_order_id()
    await shop.place(an_order(paymentMethodId="pm_card_pendingRefund"), order_id)
    assert (await shop.cancel(order_id)).reason == "refund_pending"
    [refund] = shop.world.stripe.account.refunds.values()
    assert await reconcile(shop) == NOTHING
    shop.world.stripe.account.settle(refund.id, succeeds=True)

    assert list((await reconcile(shop)).refunds) == [f"order {order_id}: refund {refund.id} succeeded"]
    assert await shop.pool.fetchval("SELECT status FROM refunds") == "succeeded"
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
async def test_a_refund_of_a_second_charge_is_followed_too(shop: Shop) -> None:
    """It fails after its payment left the window; alerts go out until it is refunded otherwise. The order stands."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    payment = await pay(shop, order_id)
    await reconcile(shop)
    [refund] = shop.world.stripe.account.refunds.values()
    shop.world.stripe.account.settle(refund.id, succeeds=False)
    await shop.pool.execute("UPDATE refunds SET checked_at = now() - interval '2 days'")
    shop.world.stripe.account.intent(payment).created -= 2 * 86_400
    report = await reconcile(shop)

    assert list(report.refunds) == [f"order {order_id}: refund {refund.id} failed"]
    assert list(report.alerted) == [f"the refund {refund.id} of order {order_id} over 59.98 usd failed"]
    assert await reconcile(shop) == NOTHING
    await refund_by_hand(shop, payment)
    await shop.pool.execute("UPDATE refunds SET checked_at = now() - interval '2 days'; DELETE FROM reminders")
    assert not (await reconcile(shop)).alerted
    assert await shop.status(order_id) == "processing"
    await assert_invariants(shop, order_id)


@pytest.mark.prove
async def test_a_refund_that_does_not_arrive_is_told(shop: Shop) -> None:
    """A refund that is pending for more than a week gets an alert a day until it is settled."""
    order_id = new_order_id()
    await shop.place(an_order(paymentMethodId="pm_card_pendingRefund"), order_id)
    await shop.cancel(order_id)
    [refund] = shop.world.stripe.account.refunds.values()
    assert await reconcile(shop) == NOTHING
    await shop.pool.execute("UPDATE refunds SET at = now() - interval '8 days'")

    assert [refund.id in words and "still pending" in words for words in (await reconcile(shop)).alerted] == [True]
    assert await reconcile(shop) == NOTHING
    shop.world.stripe.account.settle(refund.id, succeeds=True)
    await shop.pool.execute("UPDATE reminders SET at = at - interval '25 hours'")
    assert not (await reconcile(shop)).alerted


@pytest.mark.prove
async def test_a_refund_in_the_dashboard_settles_one_that_failed(shop: Shop) -> None:
    """It is found without any webhook, and kept."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await shop.cancel(order_id)
    [refund] = shop.world.stripe.account.refunds.values()
    shop.world.stripe.account.settle(refund.id, succeeds=False)
    await shop.pool.execute("UPDATE refunds SET checked_at = now() - interval '2 days'")
    await reconcile(shop)
    await refund_by_hand(shop, refund.payment_intent)
    await shop.pool.execute("UPDATE refunds SET checked_at = now() - interval '2 days'")
    await reconcile(shop)

    kept = await shop.pool.fetch("SELECT status FROM refunds ORDER BY status")
    assert [row["status"] for row in kept] == ["failed", "succeeded"]
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
async def test_a_failed_refund_that_was_made_good_otherwise_is_told_no_more(shop: Shop) -> None:
    """By the exact statement in docs/operating.md."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await shop.cancel(order_id)
    [refund] = shop.world.stripe.account.refunds.values()
    shop.world.stripe.account.settle(refund.id, succeeds=False)
    await shop.pool.execute("UPDATE refunds SET checked_at = now() - interval '2 days'")
    assert (await reconcile(shop)).alerted
    await say_in_sql(shop, "'void_payment'", order_id)
    await shop.pool.execute("DELETE FROM reminders")

    assert await reconcile(shop) == NOTHING
    await assert_invariants(shop, order_id)


@pytest.mark.prove
async def test_what_is_said_of_a_second_charge_is_not_said_of_the_order(shop: Shop) -> None:
    """Its own payment is refunded all the same when it is cancelled, whichever statement was run."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await pay(shop, order_id)
    await reconcile(shop)
    [refund] = shop.world.stripe.account.refunds.values()
    shop.world.stripe.account.settle(refund.id, succeeds=False)
    await shop.pool.execute("UPDATE refunds SET checked_at = now() - interval '2 days'")
    shop.world.stripe.account.intent(refund.payment_intent).created -= 2 * 86_400
    assert (await reconcile(shop)).alerted
    await say_in_sql(shop, "'void_payment'", order_id)
    await say_in_sql(shop, "'refund:REFUND'", order_id, refund.id)
    await shop.pool.execute("DELETE FROM reminders")
    assert await reconcile(shop) == NOTHING

    assert (await shop.cancel(order_id)).refunded
    own = await payment_of(shop, order_id)
    assert [each.amount for each in shop.world.stripe.account.refunds.values() if each.payment_intent == own] == [5998]


@pytest.mark.prove
async def test_a_small_refund_does_not_make_up_for_one_that_failed(shop: Shop) -> None:
    """Neither one before it nor one after it; all of it does."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    payment = await pay(shop, order_id)
    await refund_by_hand(shop, payment, 1000)
    await reconcile(shop)
    [refund] = [each for each in shop.world.stripe.account.refunds.values() if each.amount == 4998]
    shop.world.stripe.account.settle(refund.id, succeeds=False)
    shop.world.stripe.account.intent(payment).created -= 2 * 86_400
    for by_hand, alerts in ((0, 1), (100, 1), (4898, 0)):
        if by_hand:
            await refund_by_hand(shop, payment, by_hand)
        await shop.pool.execute("UPDATE refunds SET checked_at = now() - interval '2 days'; DELETE FROM reminders")
        alerted = (await reconcile(shop)).alerted
        assert [refund.id in words for words in alerted] == [True] * alerts


@pytest.mark.prove
async def test_a_refund_that_was_made_and_not_kept_is_kept(shop: Shop) -> None:
    """The run that made the refund ended before it had recorded it."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    payment = await pay(shop, order_id)
    await reconcile(shop)
    await shop.pool.execute("DELETE FROM refunds")
    await reconcile(shop)

    assert await shop.pool.fetchval("SELECT payment_intent_id FROM refunds") == payment
    assert len(shop.world.stripe.account.refunds) == 1
    assert await reconcile(shop) == NOTHING


# --------------------------------------------------------------------------------------------------------------- stock


@pytest.mark.prove
async def test_stock_that_a_closed_order_holds_is_released(shop: Shop) -> None:
    """Only a change by hand in the database leaves any."""
    order_id = new_order_id()
    await shop.place(REFUSED, order_id)
    await hold_again(shop, order_id)
    report = await reconcile(shop)

    assert list(report.stock) == [f"order {order_id}: the stock that it still held is back"]
    assert await shop.stock() == (100, 0)
    await check_stock(shop)
    assert await reconcile(shop) == NOTHING


# --------------------------------------------------------------------------------------------------- when it goes wrong


@pytest.mark.prove
async def test_an_outage_of_stripe_leaves_the_rest_done(shop: Shop) -> None:
    """What cannot be done now is named, and done by the next run."""
    payment = await pay(shop, "order-lost", capture="manual")
    order_id = new_order_id()
    await shop.place(REFUSED, order_id)
    await hold_again(shop, order_id)
    shop.world.faults.add(Fault(service="stripe", kind="status", times=None))
    run = await start(shop)
    await until_attempts(shop, "check_payments", 1)
    await shop.advance(run, timedelta(minutes=20))
    report = ReconcileReport.model_validate(await run.result())

    assert report.stock
    assert report.not_done
    assert all("stripe" in words for words in report.not_done)
    shop.world.faults.clear()
    assert [payment in words for words in (await reconcile(shop)).payments] == [True]


@pytest.mark.prove
async def test_what_is_impossible_again_and_again_does_not_hold_up_the_rest(shop: Shop) -> None:
    """After three payments that cannot be voided the others are for the next run; stock is released all the same."""
    payments = [await pay(shop, f"order-lost-{number}", capture="manual") for number in range(5)]
    order_id = new_order_id()
    await shop.place(REFUSED, order_id)
    await hold_again(shop, order_id)
    shop.world.faults.add(Fault(service="stripe", route="POST */cancel", kind="status", times=None))
    run = await start(shop)
    await until_attempts(shop, "void_orphan", 1)
    await shop.advance(run, timedelta(minutes=20))
    report = ReconcileReport.model_validate(await run.result())

    tried = [words for words in report.not_done if any(payment in words for payment in payments)]
    assert (len(tried), len(report.not_done)) == (3, 4)
    assert "not the rest" in report.not_done[-1]
    assert report.stock


@pytest.mark.prove
async def test_an_outage_of_slack_is_named(shop: Shop) -> None:
    """No alert was sent, so the report says so, the run is marked, and the next run sends it."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await pay(shop, order_id, shop_id=None)
    shop.world.faults.add(Fault(service="slack", kind="status", times=None))
    run = await start(shop)
    await until_attempts(shop, "post_alert", 1)
    await shop.advance(run, timedelta(minutes=20))
    report = ReconcileReport.model_validate(await run.result())

    assert not report.alerted
    assert ["no alert could be sent: " in words and "slack" in words for words in report.not_done] == [True]
    assert (await run.describe()).typed_search_attributes[NEEDS_ATTENTION] == RECONCILE_ORDERS
    shop.world.faults.clear()
    assert [order_id in words for words in (await reconcile(shop)).alerted] == [True]


@pytest.mark.parametrize("payload", [{"orderId": "o1"}, "text", 5])
async def test_it_takes_no_input(shop: Shop, payload: Any) -> None:
    """An input that names one order is refused: the workflow takes none."""
    with pytest.raises(WorkflowFailureError) as failed:
        await (await start(shop, payload)).result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "InvalidInput"


# ------------------------------------------------------------------------------------------------------------- helpers


async def say_in_sql(shop: Shop, step: str, order_id: str, refund: str = "") -> None:
    """The exact statement for that step in docs/operating.md."""
    statements = re.findall(r"INSERT INTO resolutions[^;]+;", OPERATING.read_text())
    [statement] = [each for each in statements if step in each]
    await shop.pool.execute(statement.replace("'ORDER'", f"'{order_id}'").replace("REFUND", refund))


async def start(shop: Shop, *payload: Any) -> WorkflowHandle[Any, Any]:
    return await shop.client.start_workflow(
        RECONCILE_ORDERS, args=payload, id=f"reconcile-{uuid.uuid4().hex[:8]}", task_queue=shop.task_queue
    )


@pytest.mark.prove
@pytest.mark.parametrize("status", one_in(2, [503, 400]))
async def test_a_payment_that_cannot_be_read_stops_no_other_one(shop: Shop, status: int) -> None:
    """Operators are alerted of it, and the next order is compared with its payment."""
    for order_id in ("odd", "unpaid"):
        await shop.place(order_id=order_id)
    odd, unpaid = [(await shop.row(order_id))["payment_intent_id"] for order_id in ("odd", "unpaid")]
    shop.world.stripe.account.intents[unpaid].amount_received = 0
    shop.world.faults.add(Fault(service="stripe", route=f"GET */{odd}", kind="status", status=status, times=None))
    report = await reconcile(shop)

    [unread, wrong] = sorted(report.alerted)
    assert "of order odd could not be read: stripe: " in unread + wrong
    assert "of order unpaid over" in unread + wrong
    assert report.not_done == ()


async def reconcile(shop: Shop) -> ReconcileReport:
    return ReconcileReport.model_validate(await (await start(shop)).result())


async def terminate_at(shop: Shop, held: Any, order_id: str, payload: Payload | None = None) -> None:
    run = await shop.start(payload, order_id)
    await held.reached.wait()
    await run.terminate()


async def delete(shop: Shop, workflow_id: str) -> None:
    """End the run and its history: what is left of an order whose run is past its retention."""
    execution = WorkflowExecution(workflow_id=workflow_id)
    request = DeleteWorkflowExecutionRequest(namespace=shop.client.namespace, workflow_execution=execution)
    await shop.client.workflow_service.delete_workflow_execution(request)

    async def is_gone() -> bool:
        try:
            await shop.client.get_workflow_handle(workflow_id).describe()
        except RPCError:
            return True
        return False

    await eventually(is_gone, "the run is deleted")


async def result_of(shop: Shop, workflow_id: str) -> Any:
    """The end of the run that has this id now, unless that was terminated."""
    run = shop.client.get_workflow_handle(workflow_id)
    if (await run.describe()).status is not WorkflowExecutionStatus.TERMINATED:
        return await run.result()
    return None


async def payment_of(shop: Shop, order_id: str) -> str:
    payment: str = await shop.pool.fetchval("SELECT payment_intent_id FROM orders WHERE id = $1", order_id)
    return payment


async def status_of(shop: Shop, payment: str, status: str) -> bool:
    return shop.world.stripe.account.intent(payment).status == status


async def is_placed(shop: Shop, order_id: str) -> bool:
    return await shop.status(order_id) == "processing"


async def parked_step(shop: Shop, order_id: str) -> str | None:
    step: str | None = await shop.pool.fetchval("SELECT parked_step FROM orders WHERE id = $1", order_id)
    return step


async def why(shop: Shop, order_id: str) -> str:
    """The latest that was written down of an order."""
    said: str = await shop.pool.fetchval(
        "SELECT why FROM order_events WHERE order_id = $1 ORDER BY id DESC LIMIT 1", order_id
    )
    return said


async def is_asked_for_refunds(shop: Shop) -> bool:
    return any("/v1/refunds" in call["path"] and call["status"] is None for call in shop.world.journal.about())
