"""What must hold of the model: in every state, at rest, and across every transition.

Each is a function whose docstring is the rule; it returns what is wrong, or "".
"""

from collections.abc import Callable
from typing import Final

from tests.proof.model.activities import REFUNDABLE
from tests.proof.model.protocol import Step
from tests.proof.model.state import CLOSED, PAID, UNITS, Attempt, Refund, State

RESERVED: Final = {
    "absent": "",
    **dict.fromkeys(("pending", "capturing", "undoing"), "held"),
    **dict.fromkeys(PAID, "sold"),
}


SENT: Final = (
    "accepted",
    "shipping",
    "shipped",
    "forgotten",
)  # of the warehouse: the goods are on their way, or may be


def stock_is_conserved(s: State) -> str:
    """No unit is lost or made up; a reservation is held, sold and released once, as the order's status says."""
    row = s.row
    counted = (row.available, row.reserved, row.sold)
    kept = row.units - row.returned
    held, sold = (UNITS - kept, kept, 0), (UNITS - kept, 0, kept)
    released = (UNITS - row.written_off, 0, row.written_off)
    expected = {"held": held, "sold": sold}.get(row.reservation, released)
    if counted != expected:
        return f"{row.reservation or 'no'} reservation, but stock is {counted}"
    due = RESERVED.get(row.status, row.reservation if row.reservation in ("", "released") else "released")
    return "" if row.reservation == due else f"{row.status}, but the reservation is {row.reservation or 'missing'}"


def charged_once(s: State) -> str:
    """An order is charged its total once, or nothing, and given back once."""
    if s.world.intents.count("taken") > 1:
        return "two PaymentIntents are captured"
    left = s.world.left(s.row.price)
    if left < s.row.paid_elsewhere(s.world.refunds) or (
        s.world.by_hand and left == s.row.paid_elsewhere(s.world.refunds)
    ):
        return "given back twice"
    return ""


def only_a_written_intent_is_confirmed(s: State) -> str:
    """A PaymentIntent whose id the order row does not hold is never confirmed."""
    for number, state in enumerate(s.world.intents, start=1):
        if state not in ("", "new") and number != s.row.intent:
            return f"PaymentIntent {number} is {state}, the row holds {s.row.intent or 'none'}"
    return ""


def each_card_is_asked_once(s: State) -> str:
    """No bank is asked a second time about a card that the customer has given up."""
    twice = sorted({card for card in s.world.asked if s.world.asked.count(card) > 1})
    return f"card {twice[0]} is tried again" if twice else ""


def closed_orders_are_empty(s: State) -> str:
    """A closed order has no charge, no authorization, no shipment, save what an operator has settled."""
    if s.row.status not in CLOSED:
        return ""
    if "void_payment" not in s.row.settled:
        if s.world.left(s.row.price) > s.row.paid_elsewhere(s.world.refunds) and all(
            each.stands for each in s.world.refunds
        ):
            return f"{s.row.status}, but the customer is charged"
        if held := {"authorized", "action"} & {*s.world.intents}:
            return f"{s.row.status}, but its payment is {held.pop()}"
    if "cancel_fulfillment" not in s.row.settled and s.world.warehouse in SENT:
        return f"{s.row.status}, but the warehouse has {s.world.warehouse} it"
    return ""


def paid_orders_are_whole(s: State) -> str:
    """A paid order is charged in full but for the refunds of its parts, and the warehouse has it."""
    if s.row.status not in ("processing", "shipping", "shipped"):
        return ""
    if s.world.intents.count("taken") != bool(s.row.price) or s.world.standing(""):
        return f"{s.row.status}, but {s.world.left(s.row.price) or 'nothing'} is charged of {s.row.price}"
    if s.world.warehouse not in SENT and "cancel_fulfillment" not in s.row.settled:
        return f"{s.row.status}, but the warehouse has {s.world.warehouse} it"
    return ""


def the_row_follows_the_goods(s: State) -> str:
    """A row says that goods have left, or that all have, only once it is so."""
    left = {"shipping": ("shipping", "shipped"), "shipped": ("shipped",)}.get(s.row.status)
    if left and s.world.warehouse not in (*left, "forgotten"):
        return f"{s.row.status}, but the warehouse has {s.world.warehouse} it"
    if s.row.shorted > s.world.shorted:
        return f"{s.row.shorted} can never leave, but the warehouse says {s.world.shorted}"
    return ""


def constraints_hold(s: State) -> str:
    """The CHECKs of the table orders: one that fires would keep a transaction from ever going through."""
    row = s.row
    if row.parked and row.status not in ("undoing", "cancelling"):
        return f"parked while {row.status}"
    if row.status in ("capturing", *PAID) and row.price and not row.intent:
        return f"{row.status} without a PaymentIntent"
    if row.intent and not row.price:
        return "a PaymentIntent for nothing"
    return "undoing, but to what end?" if row.status == "undoing" and not row.closing else ""


def settled_is_settled(s: State) -> str:
    """A step that an operator has skipped or resolved is never parked again."""
    return f"{s.row.parked} is parked again" if s.row.parked in s.row.settled else ""


def process_order_finishes(s: State) -> str:
    """The run closes only when its order is paid or closed: what is left to undo is never left in silence."""
    mine = s.placing.phase == "closed" and s.placing.payload == s.row.owner
    finished = s.row.status in (*PAID, *CLOSED)
    return f"process-order has closed, but the order is {s.row.status}" if mine and not finished else ""


def shipped_is_paid(s: State) -> str:
    """At rest, a shipped order is paid, parked, or resolved by an operator."""
    settled = "cancel_fulfillment" in s.row.settled or "void_payment" in s.row.settled
    called = s.row.parked or settled or "waiting" in (s.placing.phase, s.cancelling.phase)
    unpaid = s.row.status not in ("absent", *REFUNDABLE) and s.world.left(s.row.price) != s.row.price
    return "shipped, but not paid" if s.world.warehouse in ("shipping", "shipped") and unpaid and not called else ""


def refunds_are_known(s: State) -> str:
    """At rest every refund of a closed order is recorded with its status; a failed refund needs an operator."""
    if s.row.status not in CLOSED or "void_payment" in s.row.settled:
        return ""
    if s.world.refunds != s.row.refunds and any(each.of != "dashboard" for each in s.world.refunds):
        return f"Stripe says {s.world.refunds}, the database says {s.row.refunds}"
    return ""


def the_lost_stay_lost(s: State) -> str:
    """No unit of a closed order is for sale that does not exist, and none is written off that does.

    Those do not exist that a refund has lost which stands, or which was made; and those that can never leave.
    """
    if s.row.reservation == "released" and s.row.written_off != (lost := s.row.lost()):
        return f"{lost} are lost, but {s.row.written_off} are written off"
    return ""


def what_is_short_is_known(s: State) -> str:
    """What could never leave of a shipment that was called off is known, unless an operator has settled it."""
    is_over = s.row.status in CLOSED and "cancel_fulfillment" not in s.row.settled
    if is_over and s.world.warehouse == "called off" and s.row.shorted != s.world.shorted:
        return f"{s.world.shorted} can never leave, but the row says {s.row.shorted}"
    return ""


def shortages_are_refunded_once(s: State) -> str:
    """No more is refunded because it can never leave than can never leave."""
    refunded = sum(each.units for each in s.row.claims if each.status != "withdrawn") if s.world.shorted else 0
    if refunded > s.world.shorted:
        return f"{refunded} refunded, but {s.world.shorted} can never leave"
    return ""


def claims_add_up(s: State) -> str:
    """No more is refunded in parts than was sold, and nothing comes back that was not."""
    claimed = sum(each.units for each in s.row.claims if each.status != "withdrawn")
    if claimed > s.row.units or s.row.returned > s.row.units:
        return f"{claimed} refunded and {s.row.returned} returned of {s.row.units}"
    return ""


def parts_are_refunded_once(s: State) -> str:
    """The claim of a part has one refund that stands, of its amount; none if it is withdrawn or settled by hand."""
    for claim in s.row.claims:
        amounts = [each.amount for each in s.world.standing(claim.refund)]
        if amounts not in ([], [claim.units]):
            return f"the refund {claim.refund} of {claim.units} has refunded {amounts}"
        if amounts and claim.settled:
            return f"the refund {claim.refund} is settled by hand, and refunded"
    return ""


def parts_are_refunded(s: State) -> str:
    """At rest the refund of a part stands if it is made, and only then; what comes back is back in stock."""
    for claim in s.row.claims:
        is_due = claim.status == "made" and not claim.settled and s.row.price
        if bool(s.world.standing(claim.refund)) != bool(is_due):
            return f"the refund {claim.refund} is {claim.status}, but Stripe has refunded {s.world.refunds}"
    back = sum(each.restock for each in s.row.claims if each.returned)
    if s.row.reservation == "sold" and s.row.returned != back:
        return f"{s.row.returned} are back in stock instead of {back}"
    return ""


def another_payload_changes_nothing(before: State, step: Step) -> str:
    """Whoever uses an order's id with another payload changes neither the order nor anything outside."""
    owner = before.row.owner
    if owner and step.payload not in ("", owner) and (before.row, before.world) != (step.after.row, step.after.world):
        return "another payload has changed the order"
    return ""


def parks_have_a_reason(before: State, step: Step) -> str:
    """A refund is parked only if one of its own has failed; that of a part has nothing to do with that of the whole."""
    for run, after in zip(before.runs, step.after.runs, strict=True):
        activity, is_parked = run.attempt.activity, after.phase == "waiting" or after.attempt.activity == "park_order"
        if is_parked and activity in ("void_payment", "make_refund") and run.attempt != after.attempt:
            of = "".join(run.attempt.arg)
            if not any(each.of == of and not each.stands for each in step.after.world.refunds):
                return f"{activity} {of} is parked, but no refund of it has failed"
    return ""


def refund_order_finishes(before: State, step: Step) -> str:
    """The run closes only when its claim is withdrawn or refused, or made and what comes back is back."""
    for run, after, claim in (
        (each, then, step.after.row.claim(f"{number}"))
        for number, (each, then) in enumerate(zip(before.refunding, step.after.refunding, strict=True), start=1)
    ):
        if run.phase != "closed" == after.phase and claim and not (claim.returned or claim.status == "withdrawn"):
            return f"refund-order answers {after.answer}, but its claim is {claim.status}"
    return ""


def no_refund_fails_in_silence(before: State, step: Step) -> str:
    """No undo and no refund of a part goes on after a refund of its own that has failed, as it last saw it."""
    for run, after in zip(before.runs, step.after.runs, strict=True):
        goes_on = run.attempt.activity, after.attempt.activity
        if goes_on in (("void_payment", "release_stock"), ("make_refund", "return_stock")):
            of = "".join(run.attempt.arg)
            claim = step.after.row.claim(of)
            latest = next(reversed(_refunds_seen(run.attempt)), None)
            if latest and latest.of == of and not latest.stands and not (claim and claim.settled):
                return f"{goes_on[0]} {of} is done, but the refund has failed"
    return ""


def _refunds_seen(attempt: Attempt) -> tuple[Refund, ...]:
    """The refunds as the attempt last read or made them."""
    lists = (each for each in reversed(attempt.seen) if isinstance(each, tuple))
    return next((each for each in lists if each and all(isinstance(refund, Refund) for refund in each)), ())


def nothing_to_pay_is_paid(before: State, step: Step) -> str:
    """No order is parked for want of a payment when nothing is to be paid."""
    runs = ((before.placing, step.after.placing), (before.cancelling, step.after.cancelling))
    for run, after in runs:
        is_parked = run.attempt.activity == "resume_capture" and after.attempt.activity == "park_order"
        if is_parked and not before.row.price and "void_payment" not in before.row.settled:
            return "it has shipped and is free, and an operator must decide"
    return ""


def cancel_order_finishes(before: State, step: Step) -> str:
    """The run closes only when the order is closed, shipped, parked, or absent and never started."""
    run, row = step.after.cancelling, step.after.row
    if run.phase != "closed" or before.cancelling.phase == "closed" or run.answer == "parked":
        return ""
    if run.answer == "unknown" and any(before.cancelling.attempt.seen):
        return "cancel-order answers unknown, but process-order was started, and may yet begin"
    ends = {"absent"} if run.answer == "unknown" else {"shipping", "shipped", *CLOSED}
    return (
        "" if row.status in ends else f"cancel-order answers {run.answer or 'the end'}, but the order is {row.status}"
    )


ALWAYS: Final[tuple[Callable[[State], str], ...]] = (
    stock_is_conserved,
    charged_once,
    only_a_written_intent_is_confirmed,
    each_card_is_asked_once,
    closed_orders_are_empty,
    paid_orders_are_whole,
    the_row_follows_the_goods,
    constraints_hold,
    settled_is_settled,
    process_order_finishes,
    claims_add_up,
    parts_are_refunded_once,
    shortages_are_refunded_once,
    the_lost_stay_lost,
    what_is_short_is_known,
)
AT_REST: Final[tuple[Callable[[State], str], ...]] = (
    shipped_is_paid,
    refunds_are_known,
    parts_are_refunded,
)
ACROSS: Final[tuple[Callable[[State, Step], str], ...]] = (
    another_payload_changes_nothing,
    no_refund_fails_in_silence,
    nothing_to_pay_is_paid,
    cancel_order_finishes,
    parks_have_a_reason,
    refund_order_finishes,
)
