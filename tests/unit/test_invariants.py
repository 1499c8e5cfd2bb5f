"""The invariants: a shop with orders of every kind breaks none, and each one finds what breaks it."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx
import pytest
from temporalio.testing import WorkflowEnvironment

from audit.evidence import Evidence, OpenRun, ProviderRecords, ScheduleEntry, read_runs, read_snapshot
from audit.invariants import MAX_ATTEMPTS, RULES, describe, violations
from deploy.local.postgres import Postgres
from orders.models import Stage
from sandbox.faults import Fault
from sandbox.inbox import Email
from sandbox.stripe import PaymentIntent, Refund
from sandbox.stripe_http import Misuse
from sandbox.world import World
from tests.support.invariants import SEEDED
from tests.support.scenarios import REFUSED_ADDRESS, Run, final_error, until_stage, until_stuck
from tests.support.servers import copy_database
from tests.support.shop import CHARGES, FREE, Shop, an_order, eventually, open_shop

NEEDS_3DS: Final = an_order(paymentMethodId="pm_card_authenticationRequired")

UNIT: Final = {"productId": "1", "quantity": 1}

Plant = Callable[["Mixed", pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mixed:
    """A shop with orders of every kind. Tests do not change them."""

    shop: Shop
    orders: tuple[str, ...]

    @property
    def world(self) -> World:
        return self.shop.world

    def intent(self, order_id: str) -> PaymentIntent:
        return next(
            each for each in self.world.stripe.account.intents.values() if each.metadata["order_id"] == order_id
        )

    def refund(self, order_id: str) -> Refund:
        intent = self.intent(order_id)
        return next(each for each in self.world.stripe.account.refunds.values() if each.payment_intent == intent.id)

    async def evidence(self, connection: Any = None) -> Evidence:
        """All evidence, with the database as `connection` sees it."""
        snapshot = await read_snapshot(connection or self.shop.pool)
        records = ProviderRecords.model_validate(self.world.provider_records())
        return Evidence(snapshot, records, SEEDED, await read_runs(self.shop.client, self.orders, snapshot.claimed))

    async def evidence_after(self, statements: str) -> Evidence:
        """All evidence as it would be after the statements, which are rolled back."""
        async with self.shop.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(statements)
            evidence = await self.evidence(connection)
            await transaction.rollback()
        return evidence


@pytest.fixture(scope="module")
async def mixed(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Mixed]:
    async with copy_database(postgres) as url, open_shop(url, temporal) as shop:
        yield Mixed(shop, await orders_of_every_kind(shop))


async def orders_of_every_kind(shop: Shop) -> tuple[str, ...]:
    """Settled and unfinished ones; the id of each says what happened to it."""
    await shop.place(order_id="placed")
    await shop.place(an_order(paymentMethodId="pm_card_chargeDeclined"), "declined")
    await shop.place(an_order(shippingAddress=REFUSED_ADDRESS), "refused")
    await shop.place(an_order(items=[{"productId": "5", "quantity": 2}]), "too-many")
    await shop.place(order_id="returned")
    await shop.cancel("returned")
    await shop.place(an_order(paymentMethodId="pm_card_pendingRefund"), "refund-pending")
    await shop.cancel("refund-pending")
    await shop.place(an_order(charges=CHARGES), "charged")
    await shop.place(FREE, "free")
    await shop.place(FREE | {"shippingAddress": REFUSED_ADDRESS}, "free-refused")
    await shop.place(FREE, "free-returned")
    await shop.cancel("free-returned")
    halfway = await shop.start(NEEDS_3DS, "cancelled-halfway")
    await until_stage(halfway, Stage.AWAITING_CUSTOMER)
    await shop.cancel("cancelled-halfway")
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), "parked")
    await shop.start_cancel("parked")
    await eventually(lambda: parked_step(shop, "parked"), "the order is parked")
    await until_stage(await shop.start(NEEDS_3DS, "authenticating"), Stage.AWAITING_CUSTOMER)
    shop.world.faults.add(Fault(service="email", kind="status", times=None, order="unconfirmed"))
    await shop.start(order_id="unconfirmed")

    async def settled() -> bool:
        return await shop.status("unconfirmed") == "processing"

    await eventually(settled, "the order is paid")
    shop.hooks.fail("void_payment", final_error(), workflow_id="settled-by-hand")
    by_hand = await shop.start(an_order(shippingAddress=REFUSED_ADDRESS), "settled-by-hand")
    await until_stuck(by_hand)
    await shop.start(order_id="goodwill")
    await shop.client.get_workflow_handle("goodwill").result()
    await post(shop, "/refunds", {"payment_intent": await payment_of(shop, "goodwill"), "amount": 100})
    await shop.place(order_id="partly-returned")
    await shop.refund("partly-returned", "r1")
    await shop.place(order_id="all-returned")
    await shop.refund("all-returned", "r1", lines=[UNIT], amount=10)
    await shop.refund("all-returned", "r2", amount=49.98)
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), "refund-parked")
    parked_refund = await shop.start_refund("refund-parked", "r1")
    await eventually(lambda: is_stuck(parked_refund), "the refund is parked")
    resolution = {
        "step": "void_payment",
        "action": "skip",
        "reason": "the customer keeps the authorization",
        "by": "Eve",
    }
    await by_hand.execute_update("resolve", resolution)
    await by_hand.result()
    return tuple(row["id"] for row in await shop.pool.fetch("SELECT id FROM orders"))


async def is_stuck(run: Run) -> bool:
    return bool((await run.query("status"))["parked"])


def found(evidence: Evidence) -> set[tuple[str, str]]:
    return {(violation.subject, violation.rule) for violation in violations(evidence)}


@pytest.mark.prove
async def test_orders_of_every_kind_break_no_rule(mixed: Mixed) -> None:
    """Placed, refused, undone, cancelled, parked, waiting, resolved by an operator, refunded in parts, or by hand."""
    statuses = {order.id: order.status for order in (await mixed.evidence()).snapshot.orders}
    assert len(statuses) == 19
    assert (statuses["parked"], statuses["authenticating"], statuses["settled-by-hand"]) == (
        *("cancelling", "pending"),
        "rejected",
    )
    assert violations(await mixed.evidence()) == []


PARCEL: Final = "INSERT INTO shipments (order_id, id, shipped_at) VALUES ('placed', 'par_1', now());"


def units_in_it(units: int) -> str:
    return f"INSERT INTO shipment_lines VALUES ('placed', 'par_1', '1', {units})"  # noqa: S608


def moved(status: str) -> str:
    """The statements by which the paid order follows its goods."""
    return f"""UPDATE orders SET status = '{status}' WHERE id = 'placed';
        INSERT INTO order_events (order_id, from_status, to_status, actor, why)
        VALUES ('placed', 'processing', '{status}', '', '');"""  # noqa: S608


IN_DATABASE: Final = [
    ("stock_is_conserved", "product 2", "UPDATE inventory SET quantity = quantity + 1 WHERE product_id = '2'"),
    ("stock_is_conserved", "product 2", "UPDATE inventory SET quantity = quantity - 1 WHERE product_id = '2'"),
    ("stock_is_conserved", "product 3", "DELETE FROM inventory WHERE product_id = '3'"),
    ("stock_is_what_orders_say", "product 1", "UPDATE inventory SET reserved = reserved + 1 WHERE product_id = '1'"),
    ("stock_is_what_orders_say", "product 1", "UPDATE inventory SET sold = sold - 1 WHERE product_id = '1'"),
    (
        "settled_orders_hold_nothing",
        "placed",
        """UPDATE reservations SET state = 'held' WHERE order_id = 'placed';
        UPDATE inventory SET reserved = reserved + 2, sold = sold - 2 WHERE product_id = '1'""",
    ),
    (
        "settled_orders_hold_nothing",
        "refused",
        """UPDATE reservations SET state = 'held' WHERE order_id = 'refused';
        UPDATE inventory SET reserved = reserved + 2, quantity = quantity - 2 WHERE product_id = '1'""",
    ),
    (
        "returns_are_counted_once",
        "partly-returned",
        """UPDATE reservations SET returned = 2 WHERE order_id = 'partly-returned';
        UPDATE inventory SET quantity = quantity + 1, sold = sold - 1 WHERE product_id = '1'""",
    ),
    (
        "returns_are_counted_once",
        "returned",
        """UPDATE reservations SET written_off = 1 WHERE order_id = 'returned';
        UPDATE inventory SET quantity = quantity - 1, sold = sold + 1 WHERE product_id = '1'""",
    ),
    (
        "returns_are_counted_once",
        "returned",
        """INSERT INTO shortages (order_id, number, restock) VALUES ('returned', 1, false);
        INSERT INTO shortage_lines VALUES ('returned', 1, '1', 1)""",
    ),
    (
        "returns_are_counted_once",
        "returned",
        """INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, status, refusal, restocked)
        VALUES ('returned', 'r1', '', 1, 'withdrawn', 'order_cancelled', true);
        INSERT INTO order_refund_lines VALUES ('returned', 'r1', '1', 1, 0)""",
    ),
    (
        "returns_are_counted_once",
        "placed",
        """INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, status)
        VALUES ('placed', 'r1', '', 0, 'made');
        INSERT INTO order_refund_lines VALUES ('placed', 'r1', '1', 3, 0)""",
    ),
    (
        "parts_add_up",
        "placed",
        """INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, status)
        VALUES ('placed', 'r1', '', 5999, 'made');
        INSERT INTO resolutions (order_id, step, action, reason, actor, key)
        VALUES ('placed', 'refund:r1', 'resolved', 'by bank transfer', 'Eve', 'r1')""",
    ),
    (
        "parts_are_refunded_once",
        "placed",
        """INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, status)
        VALUES ('placed', 'r1', '', 1, 'made')""",
    ),
    (
        "parts_are_refunded_once",
        "partly-returned",
        "UPDATE order_refunds SET amount = 1 WHERE order_id = 'partly-returned'",
    ),
    (
        "parts_are_refunded_once",
        "partly-returned",
        "UPDATE order_refunds SET status = 'withdrawn', refusal = 'nothing_left' WHERE order_id = 'partly-returned'",
    ),
    (
        "every_refund_is_driven",
        "placed",
        "INSERT INTO order_refunds (order_id, refund_id, request_hash, amount) VALUES ('placed', 'r1', '', 1)",
    ),
    ("totals_add_up", "refused", "UPDATE orders SET total = total + 1 WHERE id = 'refused'"),
    ("totals_add_up", "charged", "UPDATE order_charges SET amount = amount + 1 WHERE type = 'tax'"),
    ("totals_add_up", "charged", "DELETE FROM order_charges WHERE (order_id, position) = ('charged', 3)"),
    ("totals_add_up", "free", "DELETE FROM order_charges WHERE order_id = 'free'"),
    (
        "charged_in_full_or_not_at_all",
        "placed",
        """UPDATE orders SET total = total + 1 WHERE id = 'placed';
        INSERT INTO order_charges VALUES ('placed', 1, 'fee', NULL, 1)""",
    ),
    ("charged_in_full_or_not_at_all", "placed", "UPDATE orders SET currency = 'eur' WHERE id = 'placed'"),
    (
        "paid_orders_are_whole",
        "placed",
        "DELETE FROM notifications WHERE order_id = 'placed' AND kind = 'order_confirmation'",
    ),
    (
        "paid_orders_are_whole",
        "placed",
        "UPDATE notifications SET state = 'dropped' WHERE order_id = 'placed' AND kind = 'order_confirmation'",
    ),
    (
        "what_is_marked_sent_arrived",
        "returned",
        "INSERT INTO notifications (order_id, kind, state) VALUES ('returned', 'order_failed', 'sent')",
    ),
    (
        "no_more_is_shipped_than_ordered",
        "placed",
        moved("shipped") + PARCEL + units_in_it(3),
    ),
    ("the_status_follows_the_goods", "placed", moved("shipped")),
    (
        "the_status_follows_the_goods",
        "placed",
        moved("shipping") + PARCEL,
    ),
    (
        "the_status_follows_the_goods",
        "placed",
        moved("shipped") + PARCEL + units_in_it(1),
    ),
    (
        "the_status_follows_the_goods",
        "placed",
        PARCEL,
    ),
    (
        "every_order_is_driven",
        "lost",
        """INSERT INTO orders (id, customer_id, request_hash, status, currency, capture_mode, terms)
        VALUES ('lost', 'cus_1', '', 'pending', 'usd', 'manual', '{}');
        INSERT INTO order_events (order_id, from_status, to_status, actor, why)
        VALUES ('lost', 'absent', 'pending', 'test', 'none')""",
    ),
    (
        "every_order_is_driven",
        "authenticating",  # process-order runs, but only cancel-order drives a cancelling order
        """UPDATE orders SET status = 'cancelling' WHERE id = 'authenticating';
        INSERT INTO order_events (order_id, from_status, to_status, actor, why) VALUES
            ('authenticating', 'pending', 'capturing', '', ''), ('authenticating', 'capturing', 'processing', '', ''),
            ('authenticating', 'processing', 'cancelling', '', '')""",
    ),
    (
        "no_run_is_stuck",
        "unconfirmed",
        """UPDATE orders SET terms = jsonb_set(terms, '{notificationDeadline}', '-100000') WHERE id = 'unconfirmed'""",
    ),
    (
        "every_change_is_recorded",
        "placed",
        """INSERT INTO order_events (order_id, from_status, to_status, actor, why)
        VALUES ('placed', 'processing', 'shipped', 'test', 'it was not')""",
    ),
    (
        "every_change_is_recorded",
        "placed",
        """INSERT INTO order_events (order_id, from_status, to_status, actor, why)
        VALUES ('placed', 'capturing', 'processing', 'test', 'it was already')""",
    ),
]


@pytest.mark.parametrize(
    ("rule", "subject", "statements"),
    IN_DATABASE,
    ids=[f"{rule}-{subject}" for rule, subject, _ in IN_DATABASE],
)
async def test_a_rule_that_is_broken_in_the_database(mixed: Mixed, rule: str, subject: str, statements: str) -> None:
    """A manual change or a bug: exactly that rule finds it, and names the order or product."""
    assert found(await mixed.evidence_after(statements)) == {(subject, rule)}


def charge_more(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixed.intent("placed"), "amount_received", 6000)


def lose_the_charge(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixed.intent("placed"), "amount_received", 0)


def refund_a_paid_order(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixed.refund("goodwill"), "amount", 5998)


def refund_too_much(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixed.refund("returned"), "amount", 6000)


def fail_a_refund(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixed.refund("returned"), "status", "failed")


def refund_a_part_twice(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    again = replace(mixed.refund("partly-returned"), id="re_again")
    patch.setitem(mixed.world.stripe.account.refunds, again.id, again)


def refund_an_unknown_part(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixed.refund("goodwill"), "metadata", {"refund_id": "r1"})


def fail_a_part(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixed.refund("partly-returned"), "status", "failed")


def authorize_a_closed_order(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixed.intent("refused"), "status", "requires_capture")
    patch.setattr(mixed.intent("refused"), "amount_capturable", 5998)


def wait_for_a_closed_order(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixed.intent("declined"), "status", "requires_action")


def charge_twice(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    again = replace(mixed.intent("placed"), id="pi_again")
    patch.setitem(mixed.world.stripe.account.intents, again.id, again)


def charge_without_an_order(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    other = replace(mixed.intent("placed"), id="pi_other", metadata={"order_id": "ghost"})
    patch.setitem(mixed.world.stripe.account.intents, other.id, other)


def ship(mixed: Mixed, patch: pytest.MonkeyPatch, key: str, of: str, **changes: Any) -> None:
    shipments = mixed.world.fulfillment.shipments
    patch.setitem(shipments, key, shipments[of].model_copy(update=changes))


def ship_a_closed_order(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    ship(mixed, patch, "returned", "returned", status="shipped")


def lose_the_shipment(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    ship(mixed, patch, "placed", "placed", status="cancelled")


def forget_a_shipment(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.delitem(mixed.world.fulfillment.shipments, "returned")


def forget_a_payment(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    patch.delitem(mixed.world.stripe.account.intents, mixed.intent("declined").id)


def charge_for_nothing(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    payment = replace(mixed.intent("placed"), id="pi_free", metadata={"order_id": "free"})
    patch.setitem(mixed.world.stripe.account.intents, payment.id, payment)


def lose_a_free_shipment(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    ship(mixed, patch, "free", "free", status="cancelled")


def ship_a_free_closed_order(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    ship(mixed, patch, "free-returned", "free-returned", status="shipped")


def ship_twice(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    ship(mixed, patch, "again", "placed")


def ship_without_an_order(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    order = mixed.world.fulfillment.shipments["placed"].order.model_copy(update={"order_id": "ghost"})
    ship(mixed, patch, "ghost", "placed", order=order)


def deliver_twice(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    email = next(each for each in mixed.world.inbox.emails if each.data["orderNumber"] == "placed")
    patch.setitem(mixed.world.inbox.messages, "again", email)


def lose_an_email(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    messages = mixed.world.inbox.messages
    emails = {key: each for key, each in messages.items() if isinstance(each, Email)}
    patch.delitem(messages, next(key for key, each in emails.items() if each.data["orderNumber"] == "placed"))


def track_twice(mixed: Mixed, patch: pytest.MonkeyPatch) -> None:
    event = next(each for each in mixed.world.inbox.events if each.properties["orderId"] == "placed")
    patch.setitem(mixed.world.inbox.messages, "again", event)


AT_THE_EXTERNAL_SERVICES: Final[list[tuple[str, str, Plant]]] = [
    ("charged_in_full_or_not_at_all", "placed", charge_more),
    ("refunded_at_most_what_was_charged", "returned", refund_too_much),
    ("only_the_rows_payment_has_money", "placed", charge_twice),
    ("only_the_rows_payment_has_money", "free", charge_for_nothing),
    ("paid_orders_are_whole", "free", lose_a_free_shipment),
    ("closed_orders_are_empty", "free-returned", ship_a_free_closed_order),
    ("paid_orders_are_whole", "placed", lose_the_charge),
    ("paid_orders_are_whole", "goodwill", refund_a_paid_order),
    ("paid_orders_are_whole", "placed", lose_the_shipment),
    ("parts_are_refunded_once", "partly-returned", refund_a_part_twice),
    ("parts_are_refunded_once", "partly-returned", fail_a_part),
    ("parts_are_refunded_once", "goodwill", refund_an_unknown_part),
    ("closed_orders_are_empty", "returned", fail_a_refund),
    ("closed_orders_are_empty", "returned", ship_a_closed_order),
    ("closed_orders_are_known_outside", "returned", forget_a_shipment),
    ("closed_orders_are_known_outside", "declined", forget_a_payment),
    ("closed_orders_take_no_money", "refused", authorize_a_closed_order),
    ("closed_orders_take_no_money", "declined", wait_for_a_closed_order),
    ("nothing_without_an_order", "ghost", charge_without_an_order),
    ("nothing_without_an_order", "ghost", ship_without_an_order),
    ("shipped_at_most_once", "placed", ship_twice),
    ("delivered_at_most_once", "placed", deliver_twice),
    ("delivered_at_most_once", "placed", track_twice),
    ("what_is_marked_sent_arrived", "placed", lose_an_email),
]


@pytest.mark.parametrize(
    ("rule", "subject", "plant"), AT_THE_EXTERNAL_SERVICES, ids=lambda each: getattr(each, "__name__", each)
)
async def test_a_rule_that_is_broken_at_an_external_service(
    mixed: Mixed, monkeypatch: pytest.MonkeyPatch, rule: str, subject: str, plant: Plant
) -> None:
    """At Stripe, the warehouse or a customer's inbox: exactly that rule finds it, and names the order."""
    plant(mixed, monkeypatch)
    assert found(await mixed.evidence()) == {(subject, rule)}


ABOUT_MONEY: Final[dict[str, tuple[Plant, str]]] = {
    "charged": (charge_more, "has 60.00 usd charged, the total is 59.98 usd"),
    "refunded": (refund_too_much, "has 59.98 usd charged, 0.02 usd more refunded"),
    "not its own": (charge_twice, "not its own, has 59.98 usd charged, 0.00 usd authorized"),
    "closed": (fail_a_refund, "has 59.98 usd charged"),
}


@pytest.mark.parametrize(("plant", "told"), ABOUT_MONEY.values(), ids=ABOUT_MONEY)
async def test_an_amount_has_its_currency(
    mixed: Mixed, monkeypatch: pytest.MonkeyPatch, plant: Plant, told: str
) -> None:
    """Operators read what an invariant says in Slack, where nothing else names the currency."""
    plant(mixed, monkeypatch)
    (violation,) = violations(await mixed.evidence())
    assert told in violation.what


EXCUSES: Final = {
    "given up": "UPDATE notifications SET state = 'given_up' WHERE order_id = 'placed'",
    "operators were alerted": """DELETE FROM notifications WHERE order_id = 'placed';
        INSERT INTO reminders (key) VALUES ('unconfirmed:placed')""",
    "its cancel was parked": """UPDATE notifications SET state = 'dropped' WHERE order_id = 'placed';
        UPDATE orders SET status = 'shipped' WHERE id = 'placed';
        INSERT INTO shipments (order_id, id, shipped_at) VALUES ('placed', 'par_1', now());
        INSERT INTO order_events (order_id, from_status, to_status, actor, why) VALUES
            ('placed', 'processing', 'cancelling', '', ''), ('placed', 'cancelling', 'shipped', '', '')""",
}


@pytest.mark.parametrize("statements", EXCUSES.values(), ids=EXCUSES)
async def test_a_missing_confirmation_that_operators_know_of(mixed: Mixed, statements: str) -> None:
    """A missing confirmation breaks no rule if operators know of it."""
    assert found(await mixed.evidence_after(statements)) == set()


async def test_goods_that_left_may_be_refunded_by_hand(mixed: Mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have come back. An undo never refunds them."""
    refund_a_paid_order(mixed, monkeypatch)
    evidence = await mixed.evidence_after((moved("shipped") + PARCEL).replace("'placed'", "'goodwill'"))
    assert found(evidence) == set()
    monkeypatch.setattr(mixed.refund("goodwill"), "metadata", {"attempt": "1"})
    by_undo = ProviderRecords.model_validate(mixed.world.provider_records())
    assert found(evidence._replace(records=by_undo)) == {("goodwill", "paid_orders_are_whole")}


PAID_IN_DASHBOARD: Final = """
    INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, status, at)
    VALUES ('goodwill', 'r1', '', 5998, 'made', now() + interval '{hours} hours');
    INSERT INTO resolutions (order_id, step, action, reason, actor, key)
    VALUES ('goodwill', 'refund:r1', 'resolved', 'in the dashboard', 'Eve', 'r1')
"""


@pytest.mark.parametrize(
    ("hours", "broken"),
    [(-1, set()), (1, {("goodwill", "paid_orders_are_whole")})],
    ids=["before the refund", "after the refund"],
)
async def test_a_part_that_an_operator_paid_in_the_dashboard(
    mixed: Mixed, monkeypatch: pytest.MonkeyPatch, hours: int, broken: set[tuple[str, str]]
) -> None:
    """It may be all of the order. A refund that was made before the part was claimed had another reason."""
    refund_a_paid_order(mixed, monkeypatch)
    assert found(await mixed.evidence_after(PAID_IN_DASHBOARD.format(hours=hours))) == broken


async def test_it_is_not_known_what_arrived(mixed: Mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    """In operation the mark as sent is believed; an empty list of deliveries is a finding."""
    lose_an_email(mixed, monkeypatch)
    evidence = await mixed.evidence()
    unknown = evidence.records.model_copy(update={"deliveries": None})
    assert found(evidence._replace(records=unknown)) == set()
    nothing = evidence.records.model_copy(update={"deliveries": ()})
    assert ("goodwill", "what_is_marked_sent_arrived") in found(evidence._replace(records=nothing))


@pytest.mark.parametrize("has_key", [False, True], ids=["no key", "another request's key"])
async def test_a_misused_idempotency_key(mixed: Mixed, *, has_key: bool) -> None:
    """Also if it had no effect: the next time it may have one."""
    shop_id = await mixed.shop.pool.fetchval("SELECT id FROM shop")
    key = f"{shop_id}:placed:create:1" if has_key else None
    path = f"/payment_intents/{await payment_of(mixed.shop, 'placed')}/capture"
    await post(mixed.shop, path, {}, key=key, accepted=False)
    evidence = await mixed.evidence()
    mixed.world.stripe.misuses.clear()
    assert found(evidence) == {("placed", "keys_are_used_once")}


async def test_a_workflow_task_that_fails_again_and_again(mixed: Mixed) -> None:
    """The run neither continues nor ends, whatever the status of its order."""
    evidence = await mixed.evidence()

    def at_attempt(number: int) -> Evidence:
        return evidence._replace(
            runs=(*(evidence.runs or ()), OpenRun(order_id="placed", workflow_id="w", attempt=number))
        )

    assert found(at_attempt(MAX_ATTEMPTS)) == {("placed", "no_run_is_stuck")}
    assert found(at_attempt(MAX_ATTEMPTS - 1)) == set()


async def test_a_schedule_without_success(mixed: Mixed) -> None:
    """Three intervals may pass: a run takes its time, and one may fail."""
    evidence = await mixed.evidence()

    def after(seconds: float) -> Evidence:
        entry = ScheduleEntry(name="verify-orders", every=60, since_success=seconds, last="timed_out")
        return evidence._replace(schedules=(entry,))

    assert found(after(181)) == {("schedule verify-orders", "every_schedule_succeeds")}
    assert found(after(180)) == set()


async def test_a_young_order_may_be_without_a_run(mixed: Mixed) -> None:
    """A young order may be without a run for a while; later only a parked one may."""
    evidence = (await mixed.evidence())._replace(runs=())
    assert ("authenticating", "every_order_is_driven") in found(evidence)
    assert ("parked", "every_order_is_driven") not in found(evidence)
    assert "every_order_is_driven" not in {rule for _, rule in found(evidence._replace(patience=3600))}


async def test_only_the_orders_that_were_asked_for_are_checked(mixed: Mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings about other orders are left out; an id that was asked for and is no order is a finding."""
    for plant in (charge_without_an_order, ship_twice, deliver_twice, refund_too_much):
        plant(mixed, monkeypatch)
    monkeypatch.setitem(mixed.world.stripe.misuses, "1", Misuse("placed", "/v1/refunds", "without a key"))
    records = ProviderRecords.model_validate(mixed.world.provider_records())
    assert found(Evidence(await read_snapshot(mixed.shop.pool, ["goodwill"]), records)) == set()
    ghost = Evidence(await read_snapshot(mixed.shop.pool, ["ghost"]), records)
    assert found(ghost) == {("ghost", "nothing_without_an_order")}


def test_every_rule_has_a_text_and_is_broken_here() -> None:
    """A new rule needs a text, and a test that breaks it."""
    assert all(rule.__doc__ and describe(rule) for rule in RULES)
    broken = {rule for rule, _, _ in [*IN_DATABASE, *AT_THE_EXTERNAL_SERVICES]} | {
        "keys_are_used_once",
        "every_schedule_succeeds",
    }
    assert {rule.__name__ for rule in RULES} == broken


async def parked_step(shop: Shop, order_id: str) -> Any:
    return (await shop.row(order_id))["parked_step"]


async def payment_of(shop: Shop, order_id: str) -> str:
    return str((await shop.row(order_id))["payment_intent_id"])


async def post(
    shop: Shop, path: str, data: Mapping[str, Any], *, key: str | None = "manual", accepted: bool = True
) -> None:
    """A request to Stripe past this program."""
    headers = {"Authorization": f"Bearer {shop.settings.stripe_secret_key.get_secret_value()}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        answer = await http.post(
            f"{shop.settings.stripe_base}/v1{path}", data=dict(data), headers={"Idempotency-Key": key} if key else {}
        )
    assert answer.is_success == accepted, json.dumps(answer.json())
