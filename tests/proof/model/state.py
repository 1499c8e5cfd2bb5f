"""What there is to know about one order at one moment: a frozen tuple, compared by value."""

from enum import StrEnum
from typing import Any, Final, NamedTuple

Who = str  # "placing" is process-order, "cancelling" cancel-order; else it is a refund id, and refund-order

UNITS: Final = 2  # available at first; an order takes one, or both if parts of it are refunded

CLOSED: Final = frozenset({"rejected", "failed", "cancelled"})
PAID: Final = frozenset({"processing", "shipping", "shipped", "cancelling"})
UNDOS: Final = ("cancel_fulfillment", "void_payment", "release_stock")  # newest first; each needs those before it


class Claim(NamedTuple):
    """A row of order_refunds: so many units, at a price of one each, and whether they are back in stock."""

    refund: str
    units: int
    restock: int  # units of them that go back into stock; the others are lost
    status: str = "claimed"  # made, withdrawn
    returned: bool = False
    retried: int = 0  # the attempts up to this one had failed when an operator said to refund once more
    settled: str = ""  # skip; or resolved: it is paid by other means


class Refund(NamedTuple):
    """A refund at Stripe. `of` is a refund id; "" is what was left of the whole, "dashboard" was made there."""

    of: str
    attempt: int
    status: str
    amount: int
    born: str = ""  # its first status: Stripe repeats its answer as it was
    given: bool = False  # the whole refund named its amount

    @property
    def name(self) -> tuple[str, int, bool]:
        return self.of, self.attempt, self.given

    @property
    def stands(self) -> bool:
        return self.status != "failed"


class Row(NamedTuple):
    """What PostgreSQL says: the order row, its reservation, its refunds, an operator's resolutions, and the stock."""

    status: str = "absent"
    owner: str = ""  # whose payload it is: request_hash
    closing: str = ""
    price: int = 0  # the total, in units; 0: free, or no total yet
    intent: int = 0  # payment_intent_id, 0 is NULL
    requested: bool = False  # fulfillment_requested_at
    shipment: bool = False  # fulfillment_id
    parked: str = ""
    parked_by: str = ""
    placed: bool = False
    reservation: str = ""
    available: int = UNITS
    reserved: int = 0
    sold: int = 0
    units: int = 0  # of the reservation
    returned: int = 0  # of its units, those that came back
    written_off: int = 0  # of a released one: units that are lost, and stay sold
    shorted: int = 0  # units that can never leave, as the warehouse has said
    restocks_shorted: bool = False  # they are back in stock: SHORTED_STOCK when they were kept
    refunds: tuple[Refund, ...] = ()  # as last read from Stripe
    claims: tuple[Claim, ...] = ()
    settled: frozenset[str] = frozenset()  # skipped or resolved
    retried: int = 0  # the attempts up to this one had failed when an operator said to refund once more
    tries: tuple[str, ...] = ()  # payment_tries: the cards after the first one, in their order

    def claim(self, refund: str) -> Claim | None:
        return next((each for each in self.claims if each.refund == refund), None)

    def claimed_units(self, *, returned: bool = True) -> int:
        """Units that are refunded; those that are back count, also of a claim that is withdrawn."""
        withdrawn = (each.restock for each in self.claims if each.status == "withdrawn" and each.returned and returned)
        return sum(each.units for each in self.claims if each.status != "withdrawn") + sum(withdrawn)

    @property
    def spent(self) -> int:
        """What is claimed or refunded of the price, as far as PostgreSQL knows."""
        if not self.price:
            return 0
        standing = [each for each in self.refunds if each.stands]
        parts = {each.of: each.amount for each in standing if each.of not in ("", "dashboard")}
        resolved = sum(each.units for each in self.resolved if each.refund not in parts)
        parts |= {each.refund: each.units for each in self.claims if each.status != "withdrawn"}
        others = sum(each.amount for each in standing if each.of in ("", "dashboard"))
        return sum(parts.values()) - resolved + others + max(0, resolved - others)

    def lost(self, *, made: bool = True, shorted: bool = True) -> int:
        """Units of the reservation that are lost: refunded and not restocked, or such as can never leave.

        Those count that a refund has lost which is `made`, also if it failed later; and those that are `shorted`.
        """
        claims = (each for each in self.claims if each.status != "withdrawn" or (each.returned and made))
        refunded = sum(each.units - each.restock for each in claims)
        short = self.shorted if shorted and not self.restocks_shorted else 0
        return min(self.units - self.returned, max(refunded, short))

    @property
    def resolved(self) -> list[Claim]:
        """The parts that operators have paid by other means."""
        return [each for each in self.claims if each.settled == "resolved" and each.status != "withdrawn"]

    def paid_elsewhere(self, refunds: tuple[Refund, ...]) -> int:
        """What operators have paid by other means, of refunds of parts that failed, beside these refunds at Stripe."""
        standing = [each for each in refunds if each.stands]
        parts, in_dashboard = {each.of for each in standing}, sum(e.amount for e in standing if e.of == "dashboard")
        return max(0, sum(each.units for each in self.resolved if each.refund not in parts) - in_dashboard)

    def with_claim(self, claim: Claim) -> "Row":
        others = (each for each in self.claims if each.refund != claim.refund)
        return self._replace(claims=tuple(sorted((*others, claim))))


class World(NamedTuple):
    """What Stripe and the warehouse say."""

    intents: tuple[str, str] = ("", "")  # PaymentIntents 1 and 2: new, action, declined, authorized, taken, canceled
    refunds: tuple[Refund, ...] = ()  # oldest first
    asked: tuple[str, ...] = ()  # the cards after the first one, each as often as its bank was asked
    forgotten: tuple[str, ...] = ()  # the cards whose idempotency keys Stripe has forgotten
    refused: tuple[str, ...] = ()  # the cards, "" is the first, with which Stripe has refused to create a PaymentIntent
    by_hand: bool = False  # an operator has given the money back outside Stripe
    # accepted, shipping (a parcel has left), shipped, called off, forgotten (it has the goods, or had them), refuses
    # (the cancel came first)
    warehouse: str = "unknown"
    shorted: int = 0  # units that can never leave

    def left(self, price: int) -> int:
        """What the shop keeps of the total."""
        return price * self.intents.count("taken") - sum(each.amount for each in self.refunds if each.stands)

    def standing(self, of: str) -> list[Refund]:
        return [each for each in self.refunds if each.of == of and each.stands]


class Attempt(NamedTuple):
    """An attempt of an activity, and what its statements and calls have answered so far."""

    activity: str
    arg: tuple[str, ...] = ()
    seen: tuple[Any, ...] = ()


NOTHING: Final = Attempt("")  # in flight


class Run(NamedTuple):
    """A workflow run: `phase` is off, running, waiting (for an operator), unpaid, closed or terminated."""

    phase: str = "off"  # unpaid: it waits for another card
    attempt: Attempt = NOTHING
    payload: str = ""
    undos: tuple[str, ...] = ()  # registered and not yet done
    parked: frozenset[str] = frozenset()
    stale: bool = False  # an operator has spoken since it last read the row
    if_shipped: str = "resume_capture"  # what to do when the goods have left before they were called off
    answer: str = ""

    @property
    def is_open(self) -> bool:
        return self.phase in ("running", "waiting", "unpaid")


class Left(NamedTuple):
    """How often what seldom happens may still happen: it bounds the state space."""

    late: int = 0  # attempts that are given up, and act later
    kills: int = 0  # runs that are terminated
    expiries: int = 0  # authorizations that expire
    forgotten: int = 0  # idempotency keys that Stripe has forgotten
    refusals: int = 0  # shipments that the warehouse refuses to call off
    bounces: int = 0  # refunds that fail
    cards: int = 0  # that are tried after a refused one: PAYMENT_RETRY_SECONDS
    refused: int = 0  # cards with which Stripe creates no PaymentIntent
    archived: int = 0  # shipments that the warehouse accepted and forgets
    dashboard: int = 0  # units that are refunded in the dashboard
    errors: int = 0  # refunds that are not made, and whose error Stripe saves
    paid: int = 0  # failed refunds of parts that an operator pays by other means


class State(NamedTuple):
    row: Row = Row()
    world: World = World()
    placing: Run = Run()  # process-order
    cancelling: Run = Run()  # cancel-order
    refunding: tuple[Run, ...] = ()  # refund-order, of the refunds 1, 2, …
    late: Attempt | None = None
    left: Left = Left()

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.placing, self.cancelling, *self.refunding)

    def run(self, who: Who) -> Run:
        match who:
            case "placing":
                return self.placing
            case "cancelling":
                return self.cancelling
        return self.refunding[int(who) - 1]

    def with_run(self, who: Who, run: Run) -> "State":
        match who:
            case "placing":
                return self._replace(placing=run)
            case "cancelling":
                return self._replace(cancelling=run)
        number = int(who)
        return self._replace(refunding=(*self.refunding[: number - 1], run, *self.refunding[number:]))


class Configuration(NamedTuple):
    """A configuration: which shop, and what may happen in it."""

    name: str
    left: Left = Left()
    free: bool = False  # discounts make the total zero
    automatic: bool = False  # PAYMENT_CAPTURE
    remembers_cancels: bool = True  # FULFILLMENT_REMEMBERS_CANCELS
    authenticates: bool = False  # 3DS
    ships: bool = False  # the warehouse may ship at any moment
    cancels: bool = True  # the customer may cancel
    operator_cancels: bool = False  # the run itself may be cancelled
    other_payload: bool = False  # the order id may be submitted with another payload
    placed: bool = False  # it begins with a paid order, and process-order is over
    refunds: tuple[int, ...] = ()  # how many units the refunds 1, 2, … refund
    restocks: bool = True  # they come back; SHORTED_STOCK of those that can never leave
    shorts: int = 0  # units that the warehouse can never ship: refund 1 is for them, and 2 if they are told of twice

    @property
    def units(self) -> int:
        """How many the order takes; its price is as many."""
        return UNITS if self.refunds else 1


class Rule(StrEnum):
    """The rules of the protocol. Each can be taken away; then the explorer must find out why it is there."""

    CLAIM_UNDO = "an undo first claims pending -> undoing"
    CLAIM_CAPTURE = "a capture first claims pending -> capturing"
    TOMBSTONE = "the undo of an absent order writes a closed row"
    ID_BEFORE_CONFIRM = "the PaymentIntent's id is written before it is confirmed"
    ID_WHILE_PENDING = "the id is written only while the order is pending"
    SAME_INTENT = "another card is tried on the PaymentIntent of the first one"
    LATE_TRY_LOOKS = "an attempt of an earlier try than the latest one asks no bank"
    FIRST_ID_STAYS = "an id that was written is never replaced"
    UNDO_WHEN_CANCELED = "capturing -> undoing only when the PaymentIntent reads canceled"
    RESUME_UNLESS_PARKED = "undoing -> capturing only when the row is not parked"
    RESUME_UNLESS_SETTLED = "undoing -> capturing only when no operator has settled the shipment"
    PARK_IS_FRESH = "nothing is parked on what was read before the last resolution"
    RESOLUTION_NEEDS_PARK = "a resolution counts only for a row that is parked at its step"
    PARK_BLOCKS = "no attempt moves a parked row"
    REGISTER_FIRST = "all undos are registered before the first step"
    SHIPPED_GOES_FORWARD = "what has shipped is paid for, not undone"
    PARCEL_IS_SHIPPED = "the first parcel ends what can be called off"
    ASK_WHAT_LEFT = "a refused cancel asks how much has left"
    FREE_IS_NOT_PAID = "a free order has no payment"
    FREE_IS_CLAIMED = "the capture of a free order is its claim alone"
    FREE_GOES_FORWARD = "a free order whose goods have left needs no payment to go forward"
    MARK_BEFORE_ASKING = "the row is marked before the warehouse is asked"
    CONTRADICTION_PARKS = "a warehouse that forgot what it accepted is not believed"
    REMEMBER_OR_WAIT = "the warehouse remembers a cancel, or the request is waited out"
    RESERVE_READS_ROW = "reserve first reads its own row"
    RESERVATION_DECIDES = "the reservation's state decides what a release moves"
    REQUEST_HASH = "a row of another payload is left alone"
    SETTLED_STAYS = "what an operator has settled is obeyed by the next driver"
    REAL_STATE = "void or refund is decided by the PaymentIntent's real state"
    KEEP_REFUND = "a refund is recorded before the order closes"
    BOUNCE_PARKS = "a refund that has failed is parked"
    CLAIMS_ADD_UP = "no more is claimed than was sold, less what other refunds have claimed"
    KEY_NAMES_REFUND = "the idempotency key of a refund names its refund id"
    REFUND_BY_METADATA = "a refund is found by what it names, not because it is the latest"
    PART_IS_NOT_WHOLE = "the failed refund of a part is no failed refund of the whole"
    BY_HAND_IS_PAID = "what an operator has paid by other means is not refunded with the rest"
    SETTLED_WITHDRAWS = "no part is refunded of an order whose payment an operator has settled"
    PART_PARKS = "the refund of a part that has failed is parked"
    NEW_KEY = "what is refunded once more has another idempotency key"
    RETURNED_COUNTS = "what came back is not claimed again, also if its claim is withdrawn"
    WITHDRAWN_WHEN_LESS = "a claim of more than is left is withdrawn"
    RETURN_ONCE = "what comes back is put back once"
    RETURN_WHILE_SOLD = "nothing comes back to a reservation that is released"
    RELEASE_THE_REST = "what came back is not released again"
    LOST_STAYS_LOST = "what is refunded and does not come back is not released either"
    MADE_IS_LOST = "what a refund has lost stays lost, also if the refund fails later"
    WITHDRAWN_COMES_BACK = "what was lost because of a claim alone comes back when it is withdrawn"
    SHORTED_IS_LOST = "what can never leave is not released either, whether it is refunded or not"
    CANCEL_ASKS_WHAT_LACKS = "a cancel asks what could never leave"
    SHORTED_IS_NO_REST = "what can never leave does not keep an order from being shipped"
    SHORTED_ADDS_UP = "of what can never leave, only what is new is kept"
    SHORTAGE_NAMES_REFUND = "the refund of a shortage is named after it, not after the event that told of it"
    SHORTAGE_IS_DRIVEN = "a shortage whose refund is not there is refunded"
    FAILED_IS_CLAIMED = "the refund of a part that fails later is claimed again"
    CLAIM_IS_DRIVEN = "a claim whose run is gone is continued"
    CANCEL_WRITES_ROW = "the cancel of an order that has a run but no row writes a closed row"
