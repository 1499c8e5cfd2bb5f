"""The configurations that are explored, each small enough for seconds, and where each rule shows its teeth."""

from typing import Final, NamedTuple

from tests.proof.model.state import Left, Rule, Shop

SHOPS: Final = {
    shop.name: shop
    for shop in (
        Shop("3DS, the run itself is cancelled", Left(expiries=1), authenticates=True, operator_cancels=True),
        Shop("automatic capture, 3DS, refunds fail", Left(bounces=1), automatic=True, authenticates=True),
        Shop("another payload", Left(kills=1, late=1), other_payload=True, cancels=False),
        Shop("a late attempt", Left(late=1)),
        Shop("a late attempt, automatic capture", Left(late=1), automatic=True, cancels=False),
        Shop("a late attempt, refunds fail", Left(late=1, bounces=1), automatic=True, cancels=False),
        Shop("a late attempt, shipping, expiry", Left(late=1, expiries=1), ships=True, cancels=False),
        Shop("a late attempt, calling off is refused", Left(late=1, refusals=1), cancels=False),
        Shop("a late attempt, a forgetful warehouse", Left(late=1), remembers_cancels=False, ships=True, cancels=False),
        Shop("two PaymentIntents", Left(late=1, forgotten=1, kills=1), authenticates=True, cancels=False),
        Shop("terminated, a late attempt", Left(late=1, kills=1), cancels=False),
        Shop("terminated, shipping, expiry", Left(kills=1, expiries=1), ships=True),
        Shop("terminated, shipping, automatic capture", Left(kills=1), ships=True, automatic=True),
        Shop("terminated, shipping, calling off is refused", Left(kills=1, refusals=1), ships=True),
        Shop("terminated, refunds fail", Left(kills=1, bounces=1), automatic=True, cancels=False),
        Shop("shipping, calling off is refused, refunds fail", Left(bounces=1, refusals=1), ships=True),
    )
}


class Tooth(NamedTuple):
    """Without a rule this shop breaks this invariant."""

    shop: str
    invariant: str


TEETH: Final = {
    Rule.CLAIM_UNDO: Tooth("a late attempt, automatic capture", "closed_orders_are_empty"),
    Rule.CLAIM_CAPTURE: Tooth("3DS, the run itself is cancelled", "process_order_finishes"),
    Rule.TOMBSTONE: Tooth("another payload", "process_order_finishes"),
    Rule.ID_BEFORE_CONFIRM: Tooth("3DS, the run itself is cancelled", "only_a_written_intent_is_confirmed"),
    Rule.ID_WHILE_PENDING: Tooth("another payload", "closed_orders_are_empty"),
    Rule.FIRST_ID_STAYS: Tooth("two PaymentIntents", "only_a_written_intent_is_confirmed"),
    Rule.UNDO_WHEN_CANCELED: Tooth("a late attempt, shipping, expiry", "process_order_finishes"),
    Rule.RESUME_UNLESS_PARKED: Tooth("a late attempt, shipping, expiry", "constraints_hold"),
    Rule.RESUME_UNLESS_SETTLED: Tooth("terminated, shipping, calling off is refused", "paid_orders_are_whole"),
    Rule.PARK_IS_FRESH: Tooth("a late attempt, refunds fail", "settled_is_settled"),
    Rule.WORD_NEEDS_PARK: Tooth("terminated, shipping, calling off is refused", "paid_orders_are_whole"),
    Rule.PARK_BLOCKS: Tooth("a late attempt, shipping, expiry", "constraints_hold"),
    Rule.REGISTER_FIRST: Tooth("3DS, the run itself is cancelled", "closed_orders_are_empty"),
    Rule.SHIPPED_GOES_FORWARD: Tooth("a late attempt, shipping, expiry", "closed_orders_are_empty"),
    Rule.MARK_BEFORE_ASKING: Tooth("3DS, the run itself is cancelled", "closed_orders_are_empty"),
    Rule.REMEMBER_OR_WAIT: Tooth("a late attempt, a forgetful warehouse", "closed_orders_are_empty"),
    Rule.RESERVE_READS_ROW: Tooth("3DS, the run itself is cancelled", "stock_is_conserved"),
    Rule.RESERVATION_DECIDES: Tooth("3DS, the run itself is cancelled", "stock_is_conserved"),
    Rule.REQUEST_HASH: Tooth("another payload", "another_payload_changes_nothing"),
    Rule.SETTLED_STAYS: Tooth("a late attempt, shipping, expiry", "settled_is_settled"),
    Rule.REAL_STATE: Tooth("3DS, the run itself is cancelled", "closed_orders_are_empty"),
    Rule.KEEP_REFUND: Tooth("3DS, the run itself is cancelled", "refunds_are_known"),
    Rule.BOUNCE_PARKS: Tooth("automatic capture, 3DS, refunds fail", "no_refund_fails_in_silence"),
    Rule.RUN_BEFORE_ROW: Tooth("3DS, the run itself is cancelled", "cancel_order_finishes"),
}
