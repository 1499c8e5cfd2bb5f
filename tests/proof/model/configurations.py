"""The configurations to explore, each small enough for seconds, and the one that detects that a rule is missing."""

from typing import Final, NamedTuple

from tests.proof.model.explorer import LIVENESS
from tests.proof.model.state import Configuration, Left, Rule

CONFIGURATIONS: Final = {
    each.name: each
    for each in (
        Configuration("3DS, the run itself is cancelled", Left(expiries=1), authenticates=True, operator_cancels=True),
        Configuration("automatic capture, 3DS, refunds fail", Left(bounces=1), automatic=True, authenticates=True),
        Configuration("another payload", Left(kills=1, late=1), other_payload=True, cancels=False),
        Configuration("a late attempt", Left(late=1)),
        Configuration("a late attempt, automatic capture", Left(late=1), automatic=True, cancels=False),
        Configuration("a late attempt, refunds fail", Left(late=1, bounces=1), automatic=True, cancels=False),
        Configuration("a late attempt, shipping, expiry", Left(late=1, expiries=1), ships=True, cancels=False),
        Configuration("a late attempt, calling off is refused", Left(late=1, refusals=1), cancels=False),
        Configuration(
            "a late attempt, a warehouse that forgets cancels",
            Left(late=1),
            remembers_cancels=False,
            ships=True,
            cancels=False,
        ),
        Configuration("two PaymentIntents", Left(late=1, forgotten=1, kills=1), authenticates=True, cancels=False),
        Configuration("another card", Left(cards=2), authenticates=True, operator_cancels=True),
        Configuration("another card, terminated", Left(cards=2, kills=1), automatic=True, cancels=False),
        Configuration("another card, a late attempt", Left(cards=2, late=1, forgotten=1), cancels=False),
        Configuration("another card, the first ones are refused", Left(cards=2, refused=2, late=1), cancels=False),
        Configuration("terminated, a late attempt", Left(late=1, kills=1), cancels=False),
        Configuration("terminated, shipping, expiry", Left(kills=1, expiries=1), ships=True),
        Configuration("terminated, shipping, automatic capture", Left(kills=1), ships=True, automatic=True),
        Configuration("terminated, shipping, calling off is refused", Left(kills=1, refusals=1), ships=True),
        Configuration("terminated, the warehouse forgets", Left(kills=1, archived=1), ships=True),
        Configuration("terminated, refunds fail", Left(kills=1, bounces=1), automatic=True, cancels=False),
        Configuration("free, the run itself is cancelled", Left(late=1), free=True, operator_cancels=True),
        Configuration("free, automatic capture, terminated", Left(kills=1), free=True, automatic=True),
        Configuration(
            "free, terminated, shipping, calling off is refused", Left(kills=1, refusals=1), free=True, ships=True
        ),
        Configuration("shipping, calling off is refused, refunds fail", Left(bounces=1, refusals=1), ships=True),
        Configuration("a part is refunded, from the beginning", refunds=(1,)),
        Configuration("two parts are refunded", placed=True, ships=True, refunds=(1, 2)),
        Configuration("a part is refunded, which fails", Left(bounces=1, paid=1), placed=True, refunds=(2,)),
        Configuration("a part is refunded, which fails after the rest", Left(bounces=1), placed=True, refunds=(1,)),
        Configuration(
            "two parts are refunded, which fails", Left(bounces=1, paid=1), placed=True, cancels=False, refunds=(1, 2)
        ),
        Configuration(
            "a part is refunded, which fails, a late attempt",
            Left(late=1, bounces=1),
            placed=True,
            cancels=False,
            refunds=(1,),
        ),
        Configuration("a part is refunded, terminated", Left(kills=1, errors=1), placed=True, refunds=(1,)),
        Configuration(
            "a part is refunded, also in the dashboard",
            Left(late=1, dashboard=1, errors=1),
            placed=True,
            cancels=False,
            refunds=(2,),
        ),
        Configuration("a part of a free order comes back", Left(kills=1), free=True, placed=True, refunds=(1,)),
        Configuration(
            "a part is refunded, which does not come back", Left(kills=1), placed=True, refunds=(1,), restocks=False
        ),
        Configuration(
            "a part is refunded, which fails and does not come back",
            Left(bounces=1),
            placed=True,
            refunds=(1,),
            restocks=False,
        ),
        Configuration(
            "a unit can never leave, terminated",
            Left(kills=1),
            placed=True,
            ships=True,
            refunds=(1, 1),
            restocks=False,
            shorts=1,
        ),
        Configuration("a unit can never leave, from the beginning", ships=True, refunds=(1,), shorts=1),
        Configuration(
            "nothing can ever leave, calling off is refused",
            Left(refusals=1),
            placed=True,
            ships=True,
            refunds=(2,),
            restocks=False,
            shorts=2,
        ),
    )
}


class Detection(NamedTuple):
    """Without the rule this configuration breaks this invariant."""

    configuration: str
    invariant: str


DETECTIONS: Final = {
    Rule.CLAIM_UNDO: Detection("a late attempt, automatic capture", "closed_orders_are_empty"),
    Rule.CLAIM_CAPTURE: Detection("3DS, the run itself is cancelled", "process_order_finishes"),
    Rule.TOMBSTONE: Detection("another payload", "process_order_finishes"),
    Rule.ID_BEFORE_CONFIRM: Detection("3DS, the run itself is cancelled", "only_a_written_intent_is_confirmed"),
    Rule.ID_WHILE_PENDING: Detection("another payload", "closed_orders_are_empty"),
    Rule.SAME_INTENT: Detection("another card", "only_a_written_intent_is_confirmed"),
    Rule.LATE_TRY_LOOKS: Detection("another card, a late attempt", "each_card_is_asked_once"),
    Rule.FIRST_ID_STAYS: Detection("two PaymentIntents", "only_a_written_intent_is_confirmed"),
    Rule.UNDO_WHEN_CANCELED: Detection("a late attempt, shipping, expiry", "process_order_finishes"),
    Rule.RESUME_UNLESS_PARKED: Detection("a late attempt, shipping, expiry", "constraints_hold"),
    Rule.RESUME_UNLESS_SETTLED: Detection("terminated, shipping, calling off is refused", "paid_orders_are_whole"),
    Rule.PARK_IS_FRESH: Detection("a late attempt, refunds fail", "settled_is_settled"),
    Rule.RESOLUTION_NEEDS_PARK: Detection("terminated, shipping, calling off is refused", "paid_orders_are_whole"),
    Rule.PARK_BLOCKS: Detection("a late attempt, shipping, expiry", "constraints_hold"),
    Rule.REGISTER_FIRST: Detection("3DS, the run itself is cancelled", "closed_orders_are_empty"),
    Rule.SHIPPED_GOES_FORWARD: Detection("a late attempt, shipping, expiry", "closed_orders_are_empty"),
    Rule.PARCEL_IS_SHIPPED: Detection("terminated, shipping, expiry", "closed_orders_are_empty"),
    Rule.ASK_WHAT_LEFT: Detection("terminated, shipping, expiry", "the_row_follows_the_goods"),
    Rule.FREE_IS_NOT_PAID: Detection("free, the run itself is cancelled", "constraints_hold"),
    Rule.FREE_IS_CLAIMED: Detection("free, the run itself is cancelled", LIVENESS),
    Rule.FREE_GOES_FORWARD: Detection("free, terminated, shipping, calling off is refused", "nothing_to_pay_is_paid"),
    Rule.MARK_BEFORE_ASKING: Detection("3DS, the run itself is cancelled", "closed_orders_are_empty"),
    Rule.CONTRADICTION_PARKS: Detection("terminated, the warehouse forgets", "closed_orders_are_empty"),
    Rule.REMEMBER_OR_WAIT: Detection("a late attempt, a warehouse that forgets cancels", "closed_orders_are_empty"),
    Rule.RESERVE_READS_ROW: Detection("3DS, the run itself is cancelled", "stock_is_conserved"),
    Rule.RESERVATION_DECIDES: Detection("3DS, the run itself is cancelled", "stock_is_conserved"),
    Rule.REQUEST_HASH: Detection("another payload", "another_payload_changes_nothing"),
    Rule.SETTLED_STAYS: Detection("a late attempt, shipping, expiry", "settled_is_settled"),
    Rule.REAL_STATE: Detection("3DS, the run itself is cancelled", "closed_orders_are_empty"),
    Rule.KEEP_REFUND: Detection("3DS, the run itself is cancelled", "refunds_are_known"),
    Rule.BOUNCE_PARKS: Detection("automatic capture, 3DS, refunds fail", "no_refund_fails_in_silence"),
    Rule.CLAIMS_ADD_UP: Detection("two parts are refunded, which fails", "claims_add_up"),
    Rule.KEY_NAMES_REFUND: Detection("two parts are refunded, which fails", "parks_have_a_reason"),
    Rule.REFUND_BY_METADATA: Detection("a part is refunded, terminated", "closed_orders_are_empty"),
    Rule.PART_IS_NOT_WHOLE: Detection("a part is refunded, which fails", "parks_have_a_reason"),
    Rule.BY_HAND_IS_PAID: Detection("a part is refunded, which fails", "charged_once"),
    Rule.SETTLED_WITHDRAWS: Detection("a part is refunded, which fails", "charged_once"),
    Rule.PART_PARKS: Detection("two parts are refunded, which fails", "no_refund_fails_in_silence"),
    Rule.NEW_KEY: Detection("a part is refunded, which fails after the rest", LIVENESS),
    Rule.RETURNED_COUNTS: Detection("two parts are refunded, which fails", "parts_are_refunded"),
    Rule.WITHDRAWN_WHEN_LESS: Detection("a part is refunded, also in the dashboard", LIVENESS),
    Rule.RETURN_ONCE: Detection("a part of a free order comes back", "parts_are_refunded"),
    Rule.RETURN_WHILE_SOLD: Detection("a part of a free order comes back", "stock_is_conserved"),
    Rule.RELEASE_THE_REST: Detection("a part of a free order comes back", "stock_is_conserved"),
    Rule.LOST_STAYS_LOST: Detection("a part is refunded, which does not come back", "the_lost_stay_lost"),
    Rule.MADE_IS_LOST: Detection("a part is refunded, which fails and does not come back", "the_lost_stay_lost"),
    Rule.WITHDRAWN_COMES_BACK: Detection(
        "a part is refunded, which fails and does not come back", "the_lost_stay_lost"
    ),
    Rule.SHORTED_IS_LOST: Detection("a unit can never leave, terminated", "the_lost_stay_lost"),
    Rule.CANCEL_ASKS_WHAT_LACKS: Detection("a unit can never leave, from the beginning", "what_is_short_is_known"),
    Rule.SHORTED_IS_NO_REST: Detection("a unit can never leave, terminated", LIVENESS),
    Rule.SHORTED_ADDS_UP: Detection("a unit can never leave, terminated", "the_row_follows_the_goods"),
    Rule.SHORTAGE_NAMES_REFUND: Detection("a unit can never leave, terminated", "shortages_are_refunded_once"),
    Rule.SHORTAGE_IS_DRIVEN: Detection("a unit can never leave, terminated", LIVENESS),
    Rule.FAILED_IS_CLAIMED: Detection("two parts are refunded, which fails", LIVENESS),
    Rule.CLAIM_IS_DRIVEN: Detection("a part of a free order comes back", LIVENESS),
    Rule.CANCEL_WRITES_ROW: Detection("3DS, the run itself is cancelled", "cancel_order_finishes"),
}
