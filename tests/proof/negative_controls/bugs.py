"""Bugs seeded on purpose: each is a likely mistake, and names the tests that must catch it."""

from pathlib import Path
from typing import Final, NamedTuple

PAYMENTS: Final = "tests/integration/activities/test_payments.py"
BY_HAND: Final = "tests/integration/activities/test_refunds_by_hand.py"
FULFILLMENT: Final = "tests/integration/activities/test_fulfillment.py"
INVENTORY: Final = "tests/integration/activities/test_inventory.py"
BATCHES: Final = "tests/integration/activities/test_reservation_batches.py"
DOUBTS: Final = "tests/integration/activities/test_one_attempt_of_many.py"
BEHAVIOR: Final = "tests/proof/model/test_behavior.py::test_the_code_goes_the_paths_of_one_configuration"
RESTARTS: Final = "tests/workflows/test_restarts.py"
SAGA: Final = "saga/tests/test_undo.py"
ASSERTION: Final = r"^(assert |AssertionError|Failed: DID NOT RAISE)"


class Patch(NamedTuple):
    """`before` is in the file exactly once."""

    file: str
    before: str
    after: str

    def apply(self, text: str) -> str:
        """The file's text with the mistake in it. Raises ValueError."""
        if (count := text.count(self.before)) != 1:
            raise ValueError(f"{self.file} has {count} times, not once: {self.before}")
        return text.replace(self.before, self.after)

    def misfit(self, root: Path) -> str:
        """Why the patch cannot be applied to the project; empty if it can."""
        file = root / self.file
        if not file.exists():
            return f"{self.file} does not exist"
        try:
            self.apply(file.read_text())
        except ValueError as misfit:
            return str(misfit)
        return ""


class Bug(NamedTuple):
    """`caught_by` are tests, all of which must fail, and with a message in which the pattern `because` is found."""

    name: str
    description: str
    patches: tuple[Patch, ...]
    caught_by: tuple[str, ...]
    because: str = ASSERTION


BUGS: Final = (
    Bug(
        "random_idempotency_key",
        "every attempt has an idempotency key of its own",
        (Patch("gateways/stripe.py", '{call}:{number}")', "{call}:{number}:{__import__('uuid').uuid4()}\")"),),
        (f"{PAYMENTS}::test_a_payment_whose_answer_is_lost_is_not_made_twice",),
    ),
    Bug(
        "random_fulfillment_key",
        "every attempt asks the warehouse under an idempotency key of its own",
        (Patch("gateways/warehouse.py", 'f"{request.order_id}:fulfill"', "str(__import__('uuid').uuid4())"),),
        ("tests/integration/activities/test_fulfillment.py::test_a_lost_answer_makes_no_second_shipment",),
    ),
    Bug(
        "confirmed_before_kept",
        "the payment is confirmed before its id is on the order row",
        (
            Patch(
                "activities/payments.py",
                "        kept = await self._keep_intent(row.id, created)\n",
                "        await self._gateway.confirm(row.id, created)\n"
                "        kept = await self._keep_intent(row.id, created)\n",
            ),
        ),
        (f"{PAYMENTS}::test_the_id_is_on_the_row_before_the_confirm",),
    ),
    Bug(
        "first_id_overwritten",
        "a late attempt puts its own PaymentIntent on the row",
        (
            Patch(
                "activities/payments.py",
                "AND status = 'pending' AND (payment_intent_id IS NULL OR payment_intent_id = $2)",
                "AND status = 'pending'",
            ),
        ),
        (f"{PAYMENTS}::test_a_second_payment_intent_is_never_confirmed",),
    ),
    Bug(
        "undo_registered_late",
        "the payment's undo is registered after its step",
        (
            Patch(
                "saga/saga.py",
                "        self._finished = False\n        names",
                "        self._finished = False\n        self._late: set[str] = set()\n        names",
            ),
            Patch(
                "saga/saga.py",
                "        return await self.run(step.do, arg, within(limit), summary)",
                "        result = await self.run(step.do, arg, within(limit), summary)\n"
                "        self._late.add(step.name)\n"
                "        return result",
            ),
            Patch(
                "saga/saga.py",
                "        await self._settle(step.name, partial(self.run_undo, step))",
                "        if step.name == 'void_payment' and step.name not in self._late:\n"
                "            self._settled.add(step.name)\n"
                "            return\n"
                "        await self._settle(step.name, partial(self.run_undo, step))",
            ),
        ),
        ("tests/workflows/test_failures.py::test_an_operators_cancel_while_a_step_is_in_flight",),
    ),
    Bug(
        "unshielded_undo",
        "a cancel that arrives while an undo is parked closes the run over it",
        (Patch("saga/saga.py", "await shielded(self.undo(cause))", "await self.undo(cause)"),),
        (f"{SAGA}::test_a_cancel_while_parked_leaves_it_parked",),
        because="workflow execution already completed",
    ),
    Bug(
        "no_tombstone",
        "an undo without a row leaves none: a late reservation finds nothing to obey",
        (
            Patch(
                "activities/order_state.py",
                "            await _insert_tombstone(connection, claim)\n            row =",
                "            row =",
            ),
        ),
        ("tests/integration/activities/test_order_state.py::test_an_order_without_a_row_gets_a_tombstone",),
        because="order_absent",
    ),
    Bug(
        "no_release_on_decline",
        "a business refusal undoes nothing",
        (
            Patch(
                "saga/saga.py",
                "if self._finished or not (cause is None or calls_for_undo(cause)):",
                "if self._finished or isinstance(cause, Rejected) or not (cause is None or calls_for_undo(cause)):",
            ),
        ),
        (f"{SAGA}::test_a_refusal_undoes_and_completes",),
    ),
    Bug(
        "double_email",
        "an e-mail whose answer was lost is sent again under another key",
        (
            Patch(
                "activities/notifications.py",
                '{notification.order_id}:{notification.name}"',
                "{__import__('uuid').uuid4()}\"",
            ),
        ),
        ("tests/integration/activities/test_notifications.py::test_a_lost_answer_delivers_no_second_email",),
    ),
    Bug(
        "notified_before_finalized",
        "the notifications start while the order still reads `capturing`: each needs a second attempt",
        (
            Patch(
                "workflows/process_order.py",
                "        return await self._timeline.retry_until_done(Inventory.finalize_order,",
                "        self._notify_of_placing(order, row.terms)\n"
                "        return await self._timeline.retry_until_done(Inventory.finalize_order,",
            ),
        ),
        ("tests/workflows/test_notification_delivery.py::test_nothing_is_notified_before_the_order_is_finalized",),
    ),
    Bug(
        "email_marked_before_posted",
        "an e-mail is marked as sent before it is posted: one that is not taken is never sent again",
        (
            Patch(
                "activities/notifications.py",
                "        response = await post_json(self._http, service, url",
                '        await self._keep(notification, "sent", "")\n'
                "        response = await post_json(self._http, service, url",
            ),
        ),
        ("tests/integration/activities/test_notifications.py::test_an_email_that_was_not_accepted_is_sent_again",),
        because="what_is_marked_sent_arrived",
    ),
    Bug(
        "lost_update",
        "a state is written over whatever the row has become meanwhile",
        (Patch("gateways/order_store.py", "WHERE id = $1 AND status = $2 AND parked_step IS NULL", "WHERE id = $1"),),
        (
            f"{PAYMENTS}::test_an_undone_order_is_not_captured",
            "tests/integration/activities/test_order_state.py::test_a_parked_row_does_not_move",
        ),
        because=f"{ASSERTION}|CheckViolationError orders_",
    ),
    Bug(
        "refund_by_amount",
        "the amount of the charge is refunded, instead of what is left of it",
        (
            Patch(
                "gateways/stripe.py",
                'if amount is not None:\n            params["amount"] = amount',
                'params["amount"] = (await self.retrieve(intent_id)).amount_received',
            ),
        ),
        (f"{PAYMENTS}::test_a_manual_refund_counts",),
        because="stripe_refused: stripe: InvalidRequestError amount",
    ),
    Bug(
        "capture_without_claim",
        "money is taken without claiming the row first",
        (
            Patch(
                "activities/payments.py",
                'row = await self._move(order_id, Status.PENDING, Status.CAPTURING, "claimed for capture")\n'
                "        if row.status is not Status.CAPTURING:",
                "row = await self._read(order_id)\n        if row.status in PAID:",
            ),
        ),
        (f"{PAYMENTS}::test_an_undone_order_is_not_captured",),
    ),
    Bug(
        "release_not_branching",
        "stock that was sold is released as if it were held",
        (
            Patch(
                "activities/inventory.py",
                "i.reserved - CASE open.state WHEN 'held' THEN open.quantity ELSE 0 END",
                "i.reserved - open.quantity",
            ),
        ),
        (f"{INVENTORY}::test_release_twice_by_what_the_reservation_is",),
        because="CheckViolationError inventory_reserved_check",
    ),
    Bug(
        "oversell",
        "what is held for an order stays available",
        (
            Patch(
                "activities/inventory.py",
                "SET quantity = i.quantity - l.quantity, reserved = i.reserved + l.quantity",
                "SET reserved = i.reserved + l.quantity",
            ),
        ),
        ("tests/workflows/test_contention.py::test_two_hundred_reservations_of_ten_units_hold_exactly_ten",),
    ),
    Bug(
        "batch_takes_nothing",
        "an order does not see what the orders before it in its batch take",
        (Patch("activities/inventory.py", "quantity=product.quantity - line.quantity", "quantity=product.quantity"),),
        (f"{BATCHES}::test_a_batch_runs_out_of_stock_in_the_order_of_arrival",),
    ),
    Bug(
        "poison_spoils_the_batch",
        "an order that PostgreSQL refuses fails all orders of its batch",
        (
            Patch(
                "gateways/group_commit.py",
                "            if len(requests) == 1:\n                return [error]\n",
                "            return [error] * len(requests)\n",
            ),
        ),
        (f"{BATCHES}::test_an_order_that_postgres_refuses_fails_alone",),
    ),
    Bug(
        "forged_event",
        "a webhook's signature is not compared",
        (Patch("app/web/signatures.py", 'raise BadSignature("forged")', "pass"),),
        (
            "tests/unit/test_signatures.py",
            "tests/integration/web/test_web_process.py::test_what_is_not_signed_is_refused",
        ),
    ),
    Bug(
        "revived_without_a_look",
        "reconciliation starts a run for an order that has moved on since it was listed",
        (
            Patch(
                "activities/order_recovery.py",
                "if row.status is not found.status or row.parked_step or await self._is_driven(found):",
                "if row.parked_step:",
            ),
        ),
        ("tests/workflows/test_reconcile_orders.py::test_an_order_that_has_moved_on_is_left_alone",),
    ),
    Bug(
        "park_not_taken_over",
        "a run that finds the row parked undoes what an operator is about to resolve",
        (
            Patch(
                "saga/saga.py",
                "        await workflow.wait_condition(lambda: step not in self.parked)\n",
                "",
            ),
        ),
        ("tests/workflows/test_restarts.py::test_a_park_that_is_taken_over_waits_before_anything_is_undone_again",),
    ),
    Bug(
        "contradiction_believed",
        "a warehouse that forgot what it accepted is believed: the order is refunded while its goods are gone",
        (Patch("activities/fulfillment.py", "        if row.fulfillment_id:\n", "        if False:\n"),),
        (f"{FULFILLMENT}::test_a_warehouse_that_forgot_the_shipment_is_not_believed",),
    ),
    Bug(
        "last_key",
        "an error that Stripe has saved is repeated for ever: no new key is used",
        (Patch("gateways/stripe.py", "number = await self._spent_keys.spend(call, number)", "number = 1"),),
        (f"{PAYMENTS}::test_a_day_of_saved_errors_costs_one_key_in_each_attempt",),
    ),
    Bug(
        "part_counts_as_paid",
        "a part that somebody captured in the dashboard counts as the price",
        (Patch("activities/payments.py", "if intent.amount_received == row.total:", "if intent.amount_received:"),),
        (f"{PAYMENTS}::test_a_part_that_is_captured_by_hand_is_not_the_price",),
    ),
    Bug(
        "cancel_without_a_row",
        "the cancel of an order that has not begun leaves no trace: it is charged and shipped all the same",
        (Patch("activities/order_state.py", "            if order:\n", "            if False:\n"),),
        ("tests/workflows/test_cancel_order.py::test_before_the_order_begins",),
    ),
    Bug(
        "worked_on_ahead",
        "a worker works on from what it played ahead of the history to answer a query",
        (Patch("config/replay_guard.py", "            if self._stale:\n", "            if False:\n"),),
        ("tests/workflows/test_queries.py::test_a_query_leaves_every_history_repeatable",),
        because="Nondeterminism error",
    ),
    Bug(
        "unknown_order_believed_at_once",
        "a warehouse that forgets cancels is believed while the request to ship may still arrive",
        (Patch("activities/fulfillment.py", "timedelta(seconds=90)", "timedelta(seconds=1)"),),
        (f"{DOUBTS}::test_an_unknown_order_is_not_believed_within_a_minute",),
    ),
    Bug(
        "any_refund_is_ours",
        "after a refund that failed, any earlier refund is taken for it",
        (
            Patch(
                "gateways/stripe.py",
                "(each for each in found if (part_of(each), attempt_of(each)) == name)",
                "(each for each in found if part_of(each) == name[0])",
            ),
        ),
        (f"{DOUBTS}::test_an_earlier_refund_is_not_taken_for_ours",),
    ),
    Bug(
        "lost_units_are_for_sale",
        "the undo of an order puts back what was refunded and never came back",
        (
            Patch(
                "gateways/lost_stock.py",
                "AND (f.status <> 'withdrawn' OR f.restocked)",
                "AND f.status = 'withdrawn'",
            ),
        ),
        ("tests/integration/activities/test_refunds.py::test_an_undo_after_units_were_lost",),
    ),
    Bug(
        "missing_units_are_for_sale",
        "a cancel does not ask what the warehouse is short of",
        (Patch("activities/fulfillment.py", "        await self._keep_shortage(order_id)\n", ""),),
        ("tests/integration/activities/test_lost_parcels.py::test_a_cancel_asks_what_the_warehouse_is_short_of",),
    ),
    Bug(
        "lost_for_nothing",
        "units of a refund that is withdrawn after the cancel stay written off",
        (
            Patch(
                "gateways/order_refunds.py",
                'withdrawn: {refusal}")\n        await recount_lost(connection, key.order_id)\n',
                'withdrawn: {refusal}")\n',
            ),
        ),
        ("tests/integration/activities/test_refunds.py::test_units_of_a_refund_that_is_withdrawn_after_an_undo",),
    ),
    Bug(
        "shortage_told_twice",
        "what the warehouse can never ship is refunded each time it says so",
        (
            Patch(
                "gateways/parcel_store.py",
                "units - goods.shorted.get(product, 0) for product, units in listed.items()",
                "units for product, units in listed.items()",
            ),
        ),
        ("tests/integration/web/test_parcels.py::test_a_shortage_is_refunded_once",),
    ),
    Bug(
        "retry_of_any_step",
        "an operator's retry of another step allows one more refund",
        (
            Patch(
                "gateways/refund_store.py",
                "WHERE s.order_id = $1 AND s.step = $2 AND s.action = 'retry'",
                "WHERE s.order_id = $1 AND $2 <> '' AND s.action = 'retry'",
            ),
        ),
        (f"{DOUBTS}::test_a_retry_of_another_step_allows_no_refund",),
    ),
    Bug(
        "refund_requires_action_fails",
        "a refund that waits for the customer counts as failed",
        (
            Patch(
                "orders/refunds.py",
                'STANDING: Final = UNDER_WAY | {"succeeded"}',
                'STANDING: Final = frozenset({"pending", "succeeded"})',
            ),
        ),
        (f"{DOUBTS}::test_a_refund_that_waits_for_the_customer_stands",),
        because="refund_unknown",
    ),
    Bug(
        "captured_amount_ignored",
        "reconciliation takes any captured amount for the price of the order",
        (Patch("activities/reconciliation.py", "if intent.amount_received == row.total and is_kept:", "if is_kept:"),),
        (f"{DOUBTS}::test_a_part_of_the_price_is_reported",),
    ),
    Bug(
        "higher_price_accepted",
        "a client's price above the catalogue's is accepted",
        (
            Patch(
                "activities/inventory.py",
                "if line.unit_price not in (None, product.price)",
                "if (line.unit_price or product.price) < product.price",
            ),
        ),
        (f"{INVENTORY}::test_a_rejection_names_every_problem_and_holds_nothing",),
    ),
    Bug(
        "id_kept_in_any_status",
        "the id of a PaymentIntent is written on an order that is no longer pending",
        (
            Patch(
                "activities/payments.py",
                "AND status = 'pending' AND (payment_intent_id IS NULL OR payment_intent_id = $2)",
                "AND (payment_intent_id IS NULL OR payment_intent_id = $2)",
            ),
        ),
        (BEHAVIOR,),
    ),
    Bug(
        "void_never_refunds",
        "the undo of a payment that was captured refunds nothing",
        (
            Patch(
                "activities/payments.py",
                "            return await self._refund(order_id, intent)\n",
                "            pass\n",
            ),
        ),
        (BEHAVIOR,),
    ),
    Bug(
        "charges_not_charged",
        "the charges of an order are left out of its total",
        (
            Patch(
                "activities/inventory.py",
                "return lines + sum(charge.amount for charge in request.charges)",
                "return lines",
            ),
        ),
        (f"{INVENTORY}::test_a_total_is_the_cart_and_its_charges", f"{INVENTORY}::test_which_totals_can_be_paid"),
    ),
    Bug(
        "free_order_captured",
        "a free order has something to capture: it waits for a payment that nobody makes",
        (Patch("activities/payments.py", ' == "automatic" or row.is_free:', ' == "automatic":'),),
        (f"{PAYMENTS}::test_a_free_order_asks_stripe_nothing",),
        because="payment_absent",
    ),
    Bug(
        "local_failure_is_final",
        "a step that fails inside the workflow task is not made again as a regular activity",
        (
            Patch(
                "saga/execution.py",
                "    if error is None:\n        return await attempt\n",
                "    if error is None or error:\n        return await attempt\n",
            ),
        ),
        ("saga/tests/test_local_first.py::test_a_failed_attempt_is_made_again_as_a_regular_activity",),
        because="no hotel|WorkflowFailureError",
    ),
    Bug(
        "claims_ignore_refunds",
        "the claim of a refund ignores the units that other refunds have claimed",
        (
            Patch(
                "gateways/order_refunds.py",
                "SELECT i.product_id, i.price, i.quantity - (",
                "SELECT i.product_id, i.price, i.quantity - 0 * (",
            ),
        ),
        ("tests/workflows/test_reconcile_refunds.py::test_a_refund_that_failed_later_is_settled",),
    ),
    Bug(
        "returned_twice",
        "the goods of a refund that is made once more come back once more",
        (Patch("activities/inventory.py", "if claim.restock and not claim.restocked:", "if claim.restock:"),),
        ("tests/workflows/test_reconcile_refunds.py::test_a_refund_that_fails_days_later_is_made_again",),
    ),
    Bug(
        "refund_key_without_id",
        "two refunds of parts share an idempotency key",
        (Patch("gateways/stripe.py", ":refund-part:{key.refund_id}:{attempt}", ":refund-part:{attempt}"),),
        ("tests/integration/activities/test_refunds.py::test_what_stripe_gets",),
    ),
    Bug(
        "cancel_counts_failed_part",
        "a cancel takes the failed refund of a part for its own",
        (
            Patch(
                "gateways/refund_store.py",
                "if part_of(refund) == of and not is_by_hand(refund)]",
                "if of is None or part_of(refund) == of]",
            ),
        ),
        ("tests/integration/activities/test_refunds.py::test_a_failed_part_is_no_failure_of_the_rest",),
    ),
    Bug(
        "cancel_counts_refund_by_hand",
        "a cancel takes a failed refund in the dashboard for its own",
        (
            Patch(
                "gateways/refund_store.py",
                "part_of(refund) == of and not is_by_hand(refund)]",
                "part_of(refund) == of]",
            ),
        ),
        (f"{BY_HAND}::test_a_failed_goodwill_is_no_failure_of_a_cancel",),
        because="refund_failed",
    ),
    Bug(
        "refund_by_hand_in_silence",
        "a failed refund in the dashboard is reported of orphan payments only",
        (Patch("gateways/refund_store.py", "OR (r.by_hand AND (o.status", "OR (false AND (o.status"),),
        (
            f"{BY_HAND}::test_how_an_operator_paid_a_part_fails_later",
            f"{BY_HAND}::test_how_an_operator_paid_a_part_of_a_closed_order_fails_later",
            f"{BY_HAND}::test_a_goodwill_of_a_kept_order_fails_later",
        ),
    ),
    Bug(
        "checked_though_changed",
        "an order whose refund failed during the check is marked as correct",
        (Patch("activities/order_checks.py", " AND o.xmin::text = c.version", ""),),
        (f"{BY_HAND}::test_a_refund_that_fails_while_its_order_is_marked",),
    ),
    Bug(
        "failed_part_in_silence",
        "a refund of a part that fails days later is recorded, and its claim stays made",
        (Patch("gateways/refund_store.py", "    await follow_claims(connection, row.id)\n", ""),),
        ("tests/workflows/test_reconcile_refunds.py::test_a_refund_that_fails_days_later_is_made_again",),
    ),
    Bug(
        "claim_left_behind",
        "a claim whose run is gone is never made",
        (Patch("workflows/reconcile_orders.py", "        await self._restart_refunds()\n", ""),),
        ("tests/workflows/test_reconcile_refunds.py::test_a_refund_that_is_parked_is_left_to_its_run",),
    ),
    Bug(
        "late_try_asks_the_bank",
        "an attempt of an earlier `pay` asks the bank once more",
        (
            Patch(
                "gateways/payment_tries.py",
                "return number if number == await connection.fetchval(READ_LATEST, order_id) else None",
                "return number",
            ),
        ),
        ("tests/proof/matrix/test_another_card.py::test_a_late_attempt",),
    ),
)
