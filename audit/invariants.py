"""The invariants: what must hold of stock, money, shipments, messages and runs, whatever happened.

Each rule is a function: its docstring is the rule, its results are the violations. Most rules are about settled orders;
of an unfinished order they check only what holds at any moment. Tests use all `RULES` on the records of the sandbox,
verify-orders uses those `IN_OPERATION` on the records of the real external services.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, NamedTuple

from audit.evidence import Evidence, LineEntry, OpenRun, OrderEntry, PartialRefund, PaymentEntry
from orders.models import CLOSED, GONE, KEPT, SETTLED, UNSHIPPED, NotificationKind, Status
from orders.money import show
from orders.names import CANCEL_ORDER, REFUND_ORDER, RUNNING, refund_order_id
from orders.refunds import ByHand, paid_elsewhere
from orders.verification import Violation

NO_MORE_MONEY: Final = {"canceled", "succeeded"}  # statuses of a PaymentIntent that can take no more money

ALL_GONE: Final = GONE - UNSHIPPED

MAX_INTERVALS: Final = 3  # of a Schedule, without a success
MAX_ATTEMPTS: Final = 5  # of a workflow task: a worker may die once or twice, but not each time
MAX_AFTERWARDS: Final = 2 * 3600  # seconds until a run ends, after the last notification is sent or given up


class Finding(NamedTuple):
    """`subject` is an order id, `product <id>` or `schedule <name>`."""

    subject: str
    what: str


Rule = Callable[[Evidence], Iterable[Finding]]


def violations(evidence: Evidence) -> list[Violation]:
    """All violations. A rule whose evidence is not known finds none."""
    return [
        Violation(subject=found.subject, rule=rule.__name__, what=found.what)
        for rule in RULES
        for found in rule(evidence)
    ]


def describe(rule: Rule) -> str:
    """The text of the rule, for reports."""
    return rule.__doc__ or rule.__name__


# -------------------------------------------------------------------------------------------------------------- stock


def stock_is_conserved(evidence: Evidence) -> Iterator[Finding]:
    """No unit is lost or added: the sum of available, reserved and sold units does not change."""
    units = evidence.snapshot.units
    for product_id, before in evidence.units.items():
        if units.get(product_id) != before:
            yield Finding(f"product {product_id}", f"{before} units became {units.get(product_id, 'no row at all')}")


def stock_is_what_orders_say(evidence: Evidence) -> Iterator[Finding]:
    """A product's reserved and sold units are those that orders hold and keep, and no number is below zero."""
    for stock in evidence.snapshot.stock:
        if stock.reserved != stock.held or stock.sold != stock.kept or min(stock.quantity, stock.held, stock.kept) < 0:
            what = (
                f"{stock.quantity} available, {stock.reserved} reserved while orders hold {stock.held}, "
                f"{stock.sold} sold while orders keep {stock.kept}"
            )
            yield Finding(f"product {stock.product_id}", what)


def settled_orders_hold_nothing(evidence: Evidence) -> Iterator[Finding]:
    """The stock of a paid order is sold, the stock of a closed order is released."""
    due = dict.fromkeys(KEPT, "sold") | dict.fromkeys(CLOSED, "released")
    expected = {order.id: due[order.status] for order in evidence.snapshot.orders if order.status in due}
    for each in evidence.snapshot.reservations:
        if each.state != expected.get(each.order_id, each.state):
            yield Finding(each.order_id, f"{each.quantity} of product {each.product_id} are {each.state}")


def returns_are_counted_once(evidence: Evidence) -> Iterator[Finding]:
    """The units that came back or are lost are those that refunds and shortages say; no more are refunded than sold."""
    for each in evidence.snapshot.reservations:
        if each.refunded > each.quantity:
            what = f"{each.refunded} of product {each.product_id} are refunded, {each.quantity} were ordered"
            yield Finding(each.order_id, what)
        if each.state == "sold" and each.returned != each.restocked:
            what = f"{each.returned} of product {each.product_id} came back, its refunds restocked {each.restocked}"
            yield Finding(each.order_id, what)
        lost = min(each.lost, each.quantity - each.returned)
        if each.state == "released" and each.written_off != lost:
            what = f"{each.written_off} of product {each.product_id} are written off, {lost} are lost"
            yield Finding(each.order_id, what)


# -------------------------------------------------------------------------------------------------------------- money


def totals_add_up(evidence: Evidence) -> Iterator[Finding]:
    """The total of an order is the sum of its items and its charges."""
    for order in evidence.snapshot.orders:
        if order.total != order.price:
            total, price = show(order.total, order.currency), show(order.price, order.currency)
            yield Finding(order.id, f"its total is {total}, its items and charges are {price}")


def charged_in_full_or_not_at_all(evidence: Evidence) -> Iterator[Finding]:
    """An order is charged its total once, or nothing."""
    for order, payment in evidence.payments():
        charged, total = show(payment.captured, payment.currency), show(order.total, order.currency)
        if payment.net and payment.captured and charged != total:
            yield Finding(order.id, f"{payment.id} has {charged} charged, the total is {total}")


def refunded_at_most_what_was_charged(evidence: Evidence) -> Iterator[Finding]:
    """No payment is refunded more than was charged."""
    for payment in evidence.records.payments:
        if payment.order and evidence.snapshot.concerns(payment.order) and payment.net < 0:
            charged, more = show(payment.captured, payment.currency), show(-payment.net, payment.currency)
            yield Finding(payment.order, f"{payment.id} has {charged} charged, {more} more refunded")


def only_the_rows_payment_has_money(evidence: Evidence) -> Iterator[Finding]:
    """Only the payment whose id is on the order row has charged or authorized money."""
    rows = {order.id: order.payment_intent_id for order in evidence.snapshot.orders}
    for payment in evidence.records.payments:
        if payment.order in rows and payment.id != rows[payment.order] and payment.has_money:
            charged, authorized = show(payment.net, payment.currency), show(payment.authorized, payment.currency)
            yield Finding(payment.order, f"{payment.id}, not its own, has {charged} charged, {authorized} authorized")


def paid_orders_are_whole(evidence: Evidence) -> Iterator[Finding]:
    """A paid order is charged, but for what it may have back; it is shipped; it is confirmed, or operators know."""
    charged = {order.id for order, payment in evidence.payments() if payment.net + _given_back(order, payment)}
    shipped = {shipment.order_id for shipment in evidence.shipments()}
    for order in evidence.snapshot.orders:
        if order.status not in KEPT:
            continue
        if order.total and order.id not in charged:
            yield Finding(order.id, f"{order.status}, but nothing is charged")
        if order.id not in shipped:
            yield Finding(order.id, f"{order.status}, but the warehouse has no shipment")
        is_over = evidence.runs is not None and not any(_drives(run, order) for run in evidence.runs_of(order))
        if is_over and not _is_confirmed(order):
            yield Finding(order.id, f"{order.status}, but its confirmation is not recorded")


def parts_are_refunded_once(evidence: Evidence) -> Iterator[Finding]:
    """The refund of a part is at the payment provider once if it is made, with its amount, and else not at all."""
    # Of one that an operator has resolved it may be there: its answer was lost.
    for order, payment in evidence.payments():
        claims = {each.refund_id: each for each in order.refunds}
        for refund_id in claims.keys() | {each.refund_id for each in payment.refunds if each.refund_id}:
            claim, found = claims.get(refund_id), [each.amount for each in payment.standing(refund_id)]
            if found not in _due(claim):
                amounts = " and ".join(show(amount, payment.currency) for amount in found) or "nothing"
                status = claim.status if claim else "unknown"
                yield Finding(order.id, f"its refund {refund_id} is {status}, {payment.id} has {amounts} of it")


def parts_add_up(evidence: Evidence) -> Iterator[Finding]:
    """The refunds of the parts of an order are not more than its total."""
    for order in evidence.snapshot.orders:
        refunded = sum(each.amount for each in order.refunds if each.status != "withdrawn")
        if refunded > order.total:
            parts, total = show(refunded, order.currency), show(order.total, order.currency)
            yield Finding(order.id, f"its parts are refunded with {parts}, the total is {total}")


def closed_orders_are_empty(evidence: Evidence) -> Iterator[Finding]:
    """A closed order has no charge and no shipment, except where an operator resolved the step, or paid it back."""
    for order, payment in evidence.payments():
        is_due = order.status in CLOSED and "void_payment" not in order.settled
        if is_due and payment.net > _paid_elsewhere(order, payment):
            charged = show(payment.net, payment.currency)
            yield Finding(order.id, f"{order.status}, but {payment.id} has {charged} charged")
    shipped = {shipment.order_id for shipment in evidence.shipments()}
    for order in evidence.snapshot.orders:
        if order.status in CLOSED and "cancel_fulfillment" not in order.settled and order.id in shipped:
            yield Finding(order.id, f"{order.status}, but the warehouse ships it")


def closed_orders_are_known_outside(evidence: Evidence) -> Iterator[Finding]:
    """The payment and the shipment of a closed order are known outside, except where an operator resolved the step."""
    payments = {payment.id for payment in evidence.records.payments}
    shipments = {shipment.order_id for shipment in evidence.records.fulfillment}
    for order in evidence.snapshot.orders:
        if order.status not in CLOSED:
            continue
        if order.payment_intent_id and order.payment_intent_id not in payments and "void_payment" not in order.settled:
            yield Finding(order.id, f"{order.status}, but nobody knows its payment {order.payment_intent_id}")
        if order.fulfillment_id and order.id not in shipments and "cancel_fulfillment" not in order.settled:
            yield Finding(order.id, f"{order.status}, but nobody knows its shipment {order.fulfillment_id}")


def closed_orders_take_no_money(evidence: Evidence) -> Iterator[Finding]:
    """A closed order has no authorization, except where an operator resolved the step."""
    for order, payment in evidence.payments():
        if order.status in CLOSED and "void_payment" not in order.settled and payment.status not in NO_MORE_MONEY:
            yield Finding(order.id, f"{order.status}, but {payment.id} is {payment.status}")


def nothing_without_an_order(evidence: Evidence) -> Iterator[Finding]:
    """Nothing is charged and nothing is shipped for an order that does not exist."""
    known = {order.id for order in evidence.snapshot.orders}
    for payment in evidence.records.payments:
        lost = payment.order and payment.order not in known and evidence.snapshot.concerns(payment.order)
        if lost and payment.has_money:
            yield Finding(payment.order or "", f"no order, but {payment.id} is {payment.status}")
    for shipment in evidence.shipments():
        if shipment.order_id not in known:
            yield Finding(shipment.order_id, f"no order, but its shipment is {shipment.status}")


def keys_are_used_once(evidence: Evidence) -> Iterator[Finding]:
    """Every request that moves money has an idempotency key of its own."""
    for misuse in evidence.records.key_misuses:
        if evidence.snapshot.concerns(misuse.order):
            yield Finding(misuse.order or "unknown", f"POST {misuse.path}: {misuse.what}")


# ------------------------------------------------------------------------------------------ shipments and messages


def no_more_is_shipped_than_ordered(evidence: Evidence) -> Iterator[Finding]:
    """Of no product has more left, or can never leave, than was ordered: every unit leaves at most once."""
    for line in evidence.snapshot.lines:
        if line.listed + line.shorted > line.ordered:
            units = f"{line.listed} of product {line.product_id} left, {line.shorted} never can"
            yield Finding(line.order_id, f"{units}, {line.ordered} were ordered")


def the_status_follows_the_goods(evidence: Evidence) -> Iterator[Finding]:
    """Of a shipped order all has left that ever can, of one that is shipping a part, of any other one nothing."""
    lines: defaultdict[str, list[LineEntry]] = defaultdict(list)
    for line in evidence.snapshot.lines:
        lines[line.order_id].append(line)
    for order in evidence.snapshot.orders:
        of_order = lines[order.id]
        if order.status in ALL_GONE and not all(line.has_left for line in of_order):
            yield Finding(order.id, f"{order.status}, but not every line has left")
        elif order.status is Status.SHIPPING and all(line.has_left for line in of_order):
            yield Finding(order.id, f"{order.status}, but every line has left")
        elif order.status not in GONE and any(line.listed or line.rest_has_left for line in of_order):
            yield Finding(order.id, f"{order.status}, but a part has left")


def shipped_at_most_once(evidence: Evidence) -> Iterator[Finding]:
    """No order is shipped twice."""
    for order_id, count in Counter(shipment.order_id for shipment in evidence.shipments()).items():
        if count > 1:
            yield Finding(order_id, f"{count} shipments")


def delivered_at_most_once(evidence: Evidence) -> Iterator[Finding]:
    """No message about an order arrives twice."""
    for delivery, count in Counter((each.order_id, each.kind) for each in evidence.records.deliveries or ()).items():
        order_id, kind = delivery
        if count > 1 and evidence.snapshot.concerns(order_id):
            yield Finding(order_id, f"{kind} arrived {count} times")


def what_is_marked_sent_arrived(evidence: Evidence) -> Iterator[Finding]:
    """A message that is marked as sent has arrived."""
    if evidence.records.deliveries is None:
        return
    arrived = {(each.order_id, each.kind) for each in evidence.records.deliveries}
    for order in evidence.snapshot.orders:
        for kind, state in order.notifications:
            if state == "sent" and (order.id, kind) not in arrived:
                yield Finding(order.id, f"{kind} is marked as sent and did not arrive")


# --------------------------------------------------------------------------------------------------------------- runs


def every_order_is_driven(evidence: Evidence) -> Iterator[Finding]:
    """A run drives every unfinished order, unless it is parked and waits for an operator."""
    for order in evidence.snapshot.orders:
        if order.status in SETTLED or order.parked or order.age < evidence.patience:
            continue
        if not any(_drives(run, order) for run in evidence.runs_of(order)):
            yield Finding(order.id, f"{order.status}, and no run drives it")


def every_refund_is_driven(evidence: Evidence) -> Iterator[Finding]:
    """A run drives every refund of a part of an order that is claimed and not made."""
    if evidence.runs is None:
        return
    driven = {run.workflow_id for run in evidence.runs}
    for order in evidence.snapshot.orders:
        for claim in order.refunds:
            is_due = claim.status == "claimed" and claim.age >= evidence.patience
            if is_due and refund_order_id(order.id, claim.refund_id) not in driven:
                yield Finding(order.id, f"its refund {claim.refund_id} is claimed, and no run makes it")


def no_run_is_stuck(evidence: Evidence) -> Iterator[Finding]:
    """No run is paused, fails again and again, or stays open long after its order is settled."""
    orders = {order.id: order for order in evidence.snapshot.orders}
    for run in evidence.runs or ():
        order = orders.get(run.order_id)
        if run.state != RUNNING:
            yield Finding(run.order_id, f"{run.workflow_id} is {run.state}")
        elif run.attempt >= MAX_ATTEMPTS:
            yield Finding(run.order_id, f"the workflow task of {run.workflow_id} is at attempt {run.attempt}")
        elif order and _drives(run, order) and _should_be_over(order):
            hours = order.unchanged / 3600
            yield Finding(run.order_id, f"{run.workflow_id} is open, {hours:.0f} h after the order was {order.status}")


def every_schedule_succeeds(evidence: Evidence) -> Iterator[Finding]:
    """Every Schedule that is not paused has had a run that succeeded within three of its intervals."""
    for schedule in evidence.schedules:
        if schedule.since_success > MAX_INTERVALS * schedule.every:
            hours = schedule.since_success / 3600
            yield Finding(f"schedule {schedule.name}", f"no success for {hours:.1f} h; its last run: {schedule.last}")


def every_change_is_recorded(evidence: Evidence) -> Iterator[Finding]:
    """The events of an order lead from its beginning to its status, without a gap."""
    for order in evidence.snapshot.orders:
        at = "absent"
        for before, after in order.moves:
            if before != at:
                yield Finding(order.id, f"it was {at}, but the next event begins at {before}")
            at = after
        if at != order.status:
            yield Finding(order.id, f"it is {order.status}, but its events end at {at}")


def _is_confirmed(order: OrderEntry) -> bool:
    """Whether the customer has a confirmation, or operators know why not.

    A confirmation is dropped only while a cancel is parked, which operators know of.
    """
    known = {"sent", "given_up", "alerted"}
    if any(Status.CANCELLING in move for move in order.moves):
        known.add("dropped")
    return any(kind == NotificationKind.CONFIRMATION and state in known for kind, state in order.notifications)


def _should_be_over(order: OrderEntry) -> bool:
    return order.status in SETTLED and order.unchanged > order.notification_deadline + MAX_AFTERWARDS


def _drives(run: OpenRun, order: OrderEntry) -> bool:
    """Whether the run drives the order. Only cancel-order drives one that is `cancelling`; refund-order drives none."""
    if run.workflow_id.startswith(REFUND_ORDER):
        return False
    return order.status is not Status.CANCELLING or run.workflow_id.startswith(CANCEL_ORDER)


def _due(claim: PartialRefund | None) -> list[list[int]]:
    """The amounts of the refunds of a part that may stand."""
    if claim is None or claim.status == "withdrawn" or not claim.amount:
        return [[]]
    may_be_absent = claim.status == "claimed" or claim.settled == "resolved"
    return [[claim.amount], []] if may_be_absent else [[claim.amount]]


def _paid_elsewhere(order: OrderEntry, payment: PaymentEntry) -> int:
    """What operators paid back of the parts of the order by other means than this payment, in minor units."""
    return paid_elsewhere(_resolved(order, payment), _in_dashboard(payment))


def _given_back(order: OrderEntry, payment: PaymentEntry) -> int:
    """What a kept order may have back of its payment, in minor units.

    Its parts, also those that an operator paid by hand; of goods that have left all that was refunded by hand, for they
    may have come back.
    """
    parts = sum(refund.amount for claim in order.refunds for refund in payment.standing(claim.refund_id))
    if order.status in GONE:
        return parts + sum(each.amount for each in _in_dashboard(payment))
    return parts + sum(each.amount for each in _resolved(order, payment)) - _paid_elsewhere(order, payment)


def _resolved(order: OrderEntry, payment: PaymentEntry) -> list[ByHand]:
    """The parts that operators have paid by hand: no refund of them stands at the provider."""
    return [
        ByHand(each.amount, each.at)
        for each in order.refunds
        if each.settled == "resolved" and each.status != "withdrawn" and not payment.standing(each.refund_id)
    ]


def _in_dashboard(payment: PaymentEntry) -> list[ByHand]:
    return [ByHand(each.amount, each.created) for each in payment.refunds if each.by_hand and each.stands]


# The rules that need only what the payment provider, the warehouse and Temporal can say of one order.
IN_OPERATION: Final[tuple[Rule, ...]] = (
    stock_is_what_orders_say,
    settled_orders_hold_nothing,
    returns_are_counted_once,
    totals_add_up,
    charged_in_full_or_not_at_all,
    refunded_at_most_what_was_charged,
    paid_orders_are_whole,
    parts_are_refunded_once,
    parts_add_up,
    closed_orders_are_empty,
    closed_orders_take_no_money,
    closed_orders_are_known_outside,
    no_more_is_shipped_than_ordered,
    the_status_follows_the_goods,
    every_order_is_driven,
    every_refund_is_driven,
    no_run_is_stuck,
    every_schedule_succeeds,
    every_change_is_recorded,
)

RULES_ABOUT: Final[Mapping[str, tuple[Rule, ...]]] = {
    "stock": (stock_is_conserved, stock_is_what_orders_say, settled_orders_hold_nothing, returns_are_counted_once),
    "money": (
        totals_add_up,
        charged_in_full_or_not_at_all,
        refunded_at_most_what_was_charged,
        only_the_rows_payment_has_money,
        paid_orders_are_whole,
        parts_are_refunded_once,
        parts_add_up,
        closed_orders_are_empty,
        closed_orders_are_known_outside,
        closed_orders_take_no_money,
        nothing_without_an_order,
        keys_are_used_once,
    ),
    "shipments and messages": (
        no_more_is_shipped_than_ordered,
        the_status_follows_the_goods,
        shipped_at_most_once,
        delivered_at_most_once,
        what_is_marked_sent_arrived,
    ),
    "runs": (
        every_order_is_driven,
        every_refund_is_driven,
        no_run_is_stuck,
        every_schedule_succeeds,
        every_change_is_recorded,
    ),
}

RULES: Final[tuple[Rule, ...]] = tuple(chain.from_iterable(RULES_ABOUT.values()))
