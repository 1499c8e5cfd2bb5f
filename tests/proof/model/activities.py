"""The activities, statement by statement: each `yield` is one transaction or one call that takes effect at once.

They read like the code in activities/. A `yield` hands out a Do, a named change of the State with all its possible
outcomes, and is answered with one of them; what is returned is the activity's answer.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, NamedTuple

from tests.proof.model.state import CLOSED, PAID, Attempt, Claim, Configuration, Refund, Row, Rule, State

RETRY: Final = "RETRY"  # Unavailable: Temporal tries again
PERMANENT: Final = "PERMANENT"  # a final error: the undo parks

FORWARD: Final = ("pending", "succeeded", "failed")  # what the recorded status of a refund may become
REFUNDABLE: Final = ("processing", "shipping", "shipped")  # statuses in which a part of an order can be refunded

Outcome = tuple[State, Any]
Script = Generator["Do", Any, Any]


class Do(NamedTuple):
    name: str
    effect: Callable[[State], Iterable[Outcome]]


class Activities:
    """`without` are the rules that are taken away."""

    def __init__(self, configuration: Configuration, without: frozenset[Rule]) -> None:
        self._configuration = configuration
        self._without = without
        self._charge = "taken" if configuration.automatic else "authorized"
        self._units = configuration.units

    def _has(self, rule: Rule) -> bool:
        return rule not in self._without

    # ------------------------------------------------------------------------------------------------ Inventory

    def reserve_stock(self, payload: str) -> Script:
        def insert_order(s: State) -> Iterable[Outcome]:
            row = s.row
            if row.status == "absent":
                price = 0 if self._configuration.free else self._units
                held = row._replace(status="pending", owner=payload, price=price, reservation="held", units=self._units)
                yield s._replace(row=self._hold(held)), ("pending", payload)
                rejected = row._replace(status="rejected", owner=payload, closing="rejected")
                yield s._replace(row=rejected), ("rejected", payload)
            elif row.status == "pending" and not self._has(Rule.RESERVE_READS_ROW):
                yield s._replace(row=self._hold(row)), self._seen(row, payload)
            else:
                yield s, self._seen(row, payload)

        return (yield Do("insert the order or read it", insert_order))

    def _hold(self, row: Row) -> Row:
        return _stock(row, available=-self._units, reserved=self._units)

    def finalize_order(self) -> Script:
        def sell(s: State) -> Iterable[Outcome]:
            row = s.row
            if row.status == "capturing" or (row.status == "pending" and not self._has(Rule.CLAIM_CAPTURE)):
                row = self._moved(row, row.status, "processing")
                row = _stock(row._replace(placed=True, reservation="sold"), reserved=-self._units, sold=self._units)
            yield s._replace(row=row), row.status

        return (yield Do("sell the stock", sell))

    def release_stock(self) -> Script:
        def release(s: State) -> Iterable[Outcome]:
            before = s.row
            undoing = before.status == "undoing" or (before.status == "pending" and not self._has(Rule.CLAIM_UNDO))
            closed = before.closing if undoing else {"cancelling": "cancelled"}.get(before.status)
            row = self._moved(before, before.status, closed) if closed else before
            if row.status != before.status:
                row = self._released(row)
            yield s._replace(row=row), (row.status, row.parked)

        return (yield Do("release and close", release))

    def _released(self, row: Row) -> Row:
        state = row.reservation if self._has(Rule.RESERVATION_DECIDES) else "held"
        kept = self._units - (row.returned if self._has(Rule.RELEASE_THE_REST) else 0)
        lost = _lost(row, self._without)
        back = {"held": {"reserved": -kept, "sold": lost}, "sold": {"sold": lost - kept}}.get(state, {})
        row = row._replace(reservation="released", written_off=lost)
        return _stock(row, available=kept - lost, **back) if back else row

    # ------------------------------------------------------------------------------------------------- Payments

    def authorize_payment(self, card: str = "") -> Script:  # noqa: PLR0911 (one for each end)
        status, intent = yield Do("read the row", lambda s: [(s, (s.row.status, s.row.intent))])
        is_latest = True
        if self._configuration.left.cards:
            status, intent, is_latest = yield self._begin_try(card)
        if status != "pending":
            return "closed"
        if (card and intent) or not is_latest:
            look = Do("look at the payment", lambda s: [(s, s.world.intents[s.row.intent - 1])])
            stands = (yield look) if intent else "new"
            if not is_latest or stands not in ("new", "declined", "action"):
                return "declined" if stands == "new" else stands
        if card and not self._has(Rule.SAME_INTENT):
            another = yield Do("create", self._create_another)
            return (yield self._confirm_with(card, another))
        created = intent or (yield self._create_intent(card))
        if not created:
            return "declined"
        if not self._has(Rule.ID_BEFORE_CONFIRM):
            answer = yield self._confirm(created)
            yield self._keep_intent(created)
            return answer
        kept = yield self._keep_intent(created)
        if not kept:
            return "closed"
        return (yield self._confirm_with(card, kept) if card else self._confirm(kept))

    def _begin_try(self, card: str) -> Do:
        def begin(s: State) -> Iterable[Outcome]:
            row = s.row
            if card and card not in row.tries and row.status == "pending":
                row = row._replace(tries=(*row.tries, card))
            is_latest = row.tries[-1:] == ((card,) if card else ()) or not self._has(Rule.LATE_TRY_LOOKS)
            yield s._replace(row=row), (row.status, row.intent, is_latest)

        return Do("begin the try", begin)

    def _create_intent(self, card: str) -> Do:
        """One idempotency key: it answers with what was created under it last, until Stripe forgets it.

        0: Stripe has refused the card. Then that of the next card is another key.
        """

        def create(s: State) -> Iterable[Outcome]:
            first, second = s.world.intents
            if card in s.world.refused:
                yield s, 0
            elif not first:
                yield s._replace(world=s.world._replace(intents=("new", ""))), 1
                if s.left.refused:
                    left = s.left._replace(refused=s.left.refused - 1)
                    yield s._replace(world=s.world._replace(refused=(*s.world.refused, card)), left=left), 0
            elif second:
                yield s, 2
            else:
                yield s, 1
                if s.left.forgotten:
                    left = s.left._replace(forgotten=s.left.forgotten - 1)
                    yield s._replace(world=s.world._replace(intents=(first, "new")), left=left), 2

        return Do("create", create)

    def _create_another(self, s: State) -> Iterable[Outcome]:
        yield s._replace(world=s.world._replace(intents=(s.world.intents[0], "new"))), 2

    def _keep_intent(self, created: int) -> Do:
        def keep(s: State) -> Iterable[Outcome]:
            row = s.row
            open_ = row.status == "pending" or not self._has(Rule.ID_WHILE_PENDING)
            if open_ and (row.intent in (0, created) or not self._has(Rule.FIRST_ID_STAYS)):
                row = row._replace(intent=created)
            yield s._replace(row=row), row.intent if open_ else 0

        return Do(f"keep the id of PaymentIntent {created}", keep)

    def _confirm(self, intent: int) -> Do:
        def confirm(s: State) -> Iterable[Outcome]:
            match stands := s.world.intents[intent - 1]:
                case "new":
                    for asked in (self._charge, "declined", *(["action"] if self._configuration.authenticates else [])):
                        yield _intent(s, intent, asked), asked
                case "canceled":
                    yield s, stands
                    yield s, self._charge  # the saved answer of an earlier confirm
                case _:
                    yield s, stands

        return Do(f"confirm PaymentIntent {intent}", confirm)

    def _confirm_with(self, card: str, intent: int) -> Do:
        """Stripe repeats its answer to a card; after it has forgotten the key, it asks the bank again."""

        def confirm(s: State) -> Iterable[Outcome]:
            stands = s.world.intents[intent - 1]
            if stands not in ("new", "declined", "action"):
                yield s, stands
                return
            if card in s.world.asked and card not in s.world.forgotten:
                yield s, stands
            else:
                asked = s._replace(world=s.world._replace(asked=(*s.world.asked, card)))
                for answer in (self._charge, "declined", *(["action"] if self._configuration.authenticates else [])):
                    yield _intent(asked, intent, answer), answer

        return Do(f"confirm with another card, PaymentIntent {intent}", confirm)

    def read_payment(self, *_why: str) -> Script:
        return (yield Do("retrieve", lambda s: [(s, s.world.intents[s.row.intent - 1])]))

    def capture_payment(self) -> Script:
        status, intent = yield self._claim_capture()
        if status not in ("capturing", "pending"):
            return status in PAID
        if self._configuration.automatic or (self._configuration.free and self._has(Rule.FREE_IS_CLAIMED)):
            return True
        state = yield self._capture(intent)
        if state == "taken":
            return True
        if state not in ("canceled", "timed out"):
            return RETRY
        yield self._move("capturing", "undoing", closing="failed")
        return False

    def _claim_capture(self) -> Do:
        def claim(s: State) -> Iterable[Outcome]:
            row = self._moved(s.row, "pending", "capturing") if self._has(Rule.CLAIM_CAPTURE) else s.row
            yield s._replace(row=row), (row.status, row.intent)

        return Do("claim pending -> capturing", claim)

    def _capture(self, intent: int) -> Do:
        def capture(s: State) -> Iterable[Outcome]:
            stands = s.world.intents[intent - 1] if intent else ""
            captured = _intent(s, intent, "taken") if stands == "authorized" else s
            yield captured, captured.world.intents[intent - 1]
            if not self._has(Rule.UNDO_WHEN_CANCELED):
                yield captured, "timed out"

        return Do(f"capture PaymentIntent {intent}", capture)

    def resume_capture(self) -> Script:
        if self._configuration.free and self._has(Rule.FREE_GOES_FORWARD):
            return (yield Do("move undoing -> capturing", self._resume))
        state = yield Do("retrieve", lambda s: [(s, s.world.intents[s.row.intent - 1] if s.row.intent else "")])
        if state not in ("authorized", "taken"):
            return PERMANENT
        if state == "taken" and (yield Do("list the refunds", lambda s: [(s, _standing(s.world.refunds))])):
            return PERMANENT
        return (yield Do("move undoing -> capturing", self._resume))

    def _resume(self, s: State) -> Iterable[Outcome]:
        row = s.row
        is_known = self._has(Rule.RESUME_UNLESS_SETTLED) and self._said(row, "cancel_fulfillment")
        if not is_known and self._said(row, "void_payment"):
            yield s, PERMANENT
            return
        if not is_known:
            parked, though_parked = row.parked, not self._has(Rule.RESUME_UNLESS_PARKED)
            row = self._moved(row._replace(parked="") if though_parked else row, "undoing", "capturing")
            row = row._replace(parked=parked)
        yield s._replace(row=row), row.status

    def void_payment(self) -> Script:
        intent, said = yield Do("read the row", lambda s: [(s, (s.row.intent, self._said(s.row, "void_payment")))])
        if said or not intent:
            return "done"
        state = yield self._void(intent)
        if state != "taken" or not self._has(Rule.REAL_STATE):
            return "done"
        refunds = yield self._list_refunds()
        by_hand = yield self._read_paid_elsewhere(refunds)
        by_hand = by_hand if self._has(Rule.BY_HAND_IS_PAID) else 0
        if (due := self._units - _standing(refunds) - by_hand) > 0:
            attempt = yield self._take_attempt("", refunds)
            if attempt is None:
                if self._has(Rule.KEEP_REFUND):
                    yield self._keep_refunds(refunds)
                return PERMANENT
            refunds = yield self._refund("", attempt, refunds, due if by_hand else 0)
            if refunds == RETRY:
                return RETRY
        if self._has(Rule.KEEP_REFUND):
            yield self._keep_refunds(refunds)
        counting = [each for each in refunds if not each.of or each.stands]
        is_parked = counting and not counting[-1].stands and self._has(Rule.BOUNCE_PARKS)
        return PERMANENT if is_parked else "done"

    def _list_refunds(self) -> Do:
        return Do("list the refunds", lambda s: [(s, s.world.refunds)])

    def _read_paid_elsewhere(self, refunds: tuple[Refund, ...]) -> Do:
        return Do("read what is paid elsewhere", lambda s: [(s, s.row.paid_elsewhere(refunds))])

    def _take_attempt(self, of: str, refunds: tuple[Refund, ...]) -> Do:
        """The number of the next refund of this part, or of the rest; None: one failed, and no operator allows more."""
        mine = refunds if not of and not self._has(Rule.PART_IS_NOT_WHOLE) else _of(of, refunds)
        failed = max((each.attempt for each in mine if not each.stands), default=0)
        parks = self._has(Rule.PART_PARKS if of else Rule.BOUNCE_PARKS)

        def take(s: State) -> Iterable[Outcome]:
            claim = s.row.claim(of)
            is_retried = failed <= (claim.retried if claim else s.row.retried)
            last = max((each.attempt for each in _of(of, refunds)), default=0) if self._has(Rule.NEW_KEY) else 0
            yield s, last + 1 if is_retried or not parks else None

        return Do(f"take the next attempt after {failed}", take)

    def _void(self, intent: int) -> Do:
        def void(s: State) -> Iterable[Outcome]:
            voided = s if s.world.intents[intent - 1] in ("taken", "canceled") else _intent(s, intent, "canceled")
            yield voided, voided.world.intents[intent - 1]

        return Do(f"void PaymentIntent {intent}", void)

    def _refund(self, of: str, attempt: int, known: tuple[Refund, ...], amount: int = 0) -> Do:
        """Its answer are the known refunds, and the new one. Without an amount all that is left is refunded."""
        made = Refund(of, attempt, "", amount, given=bool(amount) and not of)

        def refund(s: State) -> Iterable[Outcome]:
            world, left = s.world, s.world.left(s.row.price)
            under_key = [each for each in world.refunds if each.name == made.name]
            taken = [each for each in world.refunds if of and each.of and each.attempt == attempt]
            if under_key:
                yield s, _with(known, under_key[0]._replace(status=under_key[0].born))
            elif taken and not self._has(Rule.KEY_NAMES_REFUND):
                yield s, PERMANENT  # the key of another refund
            elif left >= (amount or 1):
                yield from self._refunded(s, made._replace(amount=amount or left), known)
            else:  # it may be there with another amount
                found = [each for each in world.refunds if (each.of, each.attempt) == (of, attempt)]
                yield s, _with(known, found[-1]) if found else RETRY

        return Do(f"refund {of or 'what is left'}, attempt {attempt}", refund)

    def _refunded(self, s: State, refund: Refund, known: tuple[Refund, ...]) -> Iterable[Outcome]:
        for status in ("succeeded", "pending", *(["failed"] if s.left.bounces else [])):
            made = refund._replace(status=status, born=status)
            world = s.world._replace(refunds=(*s.world.refunds, made))
            left = s.left._replace(bounces=s.left.bounces - (status == "failed"))
            yield s._replace(world=world, left=left), _with(known, made)
        if s.left.errors:
            left = s.left._replace(errors=s.left.errors - 1)
            newest = s.world.refunds if not self._has(Rule.REFUND_BY_METADATA) and s.world.refunds else RETRY
            yield s._replace(left=left), newest

    def _keep_refunds(self, refunds: tuple[Refund, ...]) -> Do:
        def keep(s: State) -> Iterable[Outcome]:
            yield s._replace(row=kept(s, refunds, self._without)), None

        return Do(f"keep the refunds: {_text(refunds)}", keep)

    # ------------------------------------------------------------------------------------------ parts of an order

    def claim_refund(self, refund: str) -> Script:
        units = self._configuration.refunds[int(refund) - 1]

        def claim(s: State) -> Iterable[Outcome]:
            row = s.row
            fits = self._fits(row, units) or not self._has(Rule.CLAIMS_ADD_UP)
            if not row.claim(refund) and row.status in REFUNDABLE and fits:
                row = row.with_claim(Claim(refund, units, units if self._configuration.restocks else 0))
            found = row.claim(refund)
            yield s._replace(row=row), found.status if found else "refused"

        return (yield Do("claim the refund or read it", claim))

    def _fits(self, row: Row, units: int) -> bool:
        """Whether so many units, and their prices, are left to refund."""
        claimed = row.claimed_units(returned=self._has(Rule.RETURNED_COUNTS))
        return claimed + units <= self._units and row.spent + units <= (row.price or self._units)

    def make_refund(self, refund: str) -> Script:  # noqa: PLR0911 (one for each end)
        """Refund a part. A refund that is pending is made. The claim is withdrawn if less than it is left."""
        claim, is_settled = yield Do(
            "read the claim", lambda s: [(s, (s.row.claim(refund), "void_payment" in s.row.settled))]
        )
        if claim.status != "claimed":
            return claim.status
        if self._configuration.free:
            return (yield self._withdraw(refund)) if claim.settled == "skip" else "claimed"
        refunds = yield self._list_refunds()
        if not _standing(_of(refund, refunds)):
            if claim.settled == "skip":
                return (yield self._withdraw(refund))
            is_kept = not is_settled or not self._has(Rule.SETTLED_WITHDRAWS)
            left = (self._units - _standing(refunds) if is_kept else 0) - (yield self._read_paid_elsewhere(refunds))
            if left < (0 if claim.settled else claim.units) and self._has(Rule.WITHDRAWN_WHEN_LESS):
                yield self._keep_refunds(refunds)
                return (yield self._withdraw(refund))
            if claim.settled:
                yield self._keep_refunds(refunds)
                return "claimed"
            attempt = yield self._take_attempt(refund, refunds)
            if attempt is None:
                yield self._keep_refunds(refunds)
                return PERMANENT
            refunds = yield self._refund(refund, attempt, refunds, claim.units)
            if refunds in (RETRY, PERMANENT):
                return refunds
        yield self._keep_refunds(refunds)
        return "claimed" if _standing(_of(refund, refunds)) or not self._has(Rule.PART_PARKS) else PERMANENT

    def _withdraw(self, refund: str) -> Do:
        def withdraw(s: State) -> Iterable[Outcome]:
            claim = s.row.claim(refund)
            assert claim
            if claim.status == "claimed":
                claim = claim._replace(status="withdrawn")
            yield s._replace(row=_recounted(s.row.with_claim(claim), self._without)), claim.status

        return Do("withdraw the claim", withdraw)

    def return_stock(self, refund: str) -> Script:
        def put_back(s: State) -> Iterable[Outcome]:
            row, claim = s.row, s.row.claim(refund)
            if claim and (claim.status == "claimed" or not self._has(Rule.RETURN_ONCE)):
                is_sold = row.reservation == "sold" or not self._has(Rule.RETURN_WHILE_SOLD)
                if is_sold and not (claim.returned and self._has(Rule.RETURN_ONCE)):
                    back = min(claim.restock, row.units - row.returned)
                    row = _stock(row._replace(returned=row.returned + back), back, sold=-back)
                row = row.with_claim(claim._replace(status="made", returned=True))
            yield s._replace(row=row), "done"

        return (yield Do("put back what comes back", put_back))

    # ------------------------------------------------------------------------------------------------ Warehouse

    def request_fulfillment(self) -> Script:
        if not self._has(Rule.MARK_BEFORE_ASKING):
            status = yield Do("read the row", lambda s: [(s, s.row.status)])
            answer = (yield Do("ask to ship", self._ask_to_ship)) if status == "pending" else "closed"
            yield Do("mark the row", self._mark)
            return answer
        status = yield Do("mark the row", self._mark)
        answer = (yield Do("ask to ship", self._ask_to_ship)) if status == "pending" else "closed"
        if answer == "accepted":
            yield Do("keep the shipment's id", lambda s: [(s._replace(row=s.row._replace(shipment=True)), None)])
        return answer

    def _mark(self, s: State) -> Iterable[Outcome]:
        row = s.row._replace(requested=True) if s.row.status == "pending" else s.row
        yield s._replace(row=row), row.status

    def _ask_to_ship(self, s: State) -> Iterable[Outcome]:
        match s.world.warehouse:
            case "unknown":
                yield s._replace(world=s.world._replace(warehouse="accepted")), "accepted"
                yield s, "refused"
            case "refuses":
                yield s, "closed"
            case _:  # also after it was called off: the saved answer
                yield s, "accepted"

    def cancel_fulfillment(self) -> Script:
        said, requested = yield Do(
            "read the row", lambda s: [(s, (self._said(s.row, "cancel_fulfillment"), s.row.requested))]
        )
        if said or not requested:
            return "done"
        answer = yield Do("ask to call it off", self._call_off)
        if answer != "called off":
            return answer
        if self._configuration.shorts and self._has(Rule.CANCEL_ASKS_WHAT_LACKS):
            yield from self._keep_shortage()
        return "done"

    def _keep_shortage(self) -> Script:
        """What a shipment that is called off could never send, before the stock is released."""
        shorted = yield Do("ask what is short", lambda s: [(s, s.world.shorted)])

        def keep(s: State) -> Iterable[Outcome]:
            row = s.row
            if row.status in ("undoing", "cancelling"):
                row = self._shorted(row, shorted)
            yield s._replace(row=row), None

        if shorted:
            yield Do("keep what is short", keep)

    def _shorted(self, row: Row, shorted: int) -> Row:
        return row._replace(shorted=shorted, restocks_shorted=bool(shorted) and self._configuration.restocks)

    def _call_off(self, s: State) -> Iterable[Outcome]:
        called_off = s._replace(world=s.world._replace(warehouse="called off"))
        match s.world.warehouse:
            case "unknown" if self._configuration.remembers_cancels and self._has(Rule.REMEMBER_OR_WAIT):
                yield s._replace(world=s.world._replace(warehouse="refuses")), "done"
            case "unknown":
                yield s, RETRY if is_on_its_way(s) and self._has(Rule.REMEMBER_OR_WAIT) else "done"
            case "accepted" | "called off":
                yield called_off, "called off"
                if s.left.refusals:
                    yield s._replace(left=s.left._replace(refusals=s.left.refusals - 1)), PERMANENT
            case "forgotten":
                contradicts = s.row.shipment and self._has(Rule.CONTRADICTION_PARKS)
                yield s, PERMANENT if contradicts else "done"
            case "shipping" if not self._has(Rule.PARCEL_IS_SHIPPED):
                yield s, "done"
            case "shipping" | "shipped":
                yield s, "shipped" if self._has(Rule.SHIPPED_GOES_FORWARD) else "done"
            case _:
                yield s, "done"

    # ------------------------------------------------------------------------------------------------ OrderState

    def read_order(self) -> Script:
        return (yield Do("read the row", lambda s: [(s, s.row.status)]))

    def read_run(self, *_why: str) -> Script:
        return (yield Do("look whether process-order runs", lambda s: [(s, s.placing.is_open)]))

    def claim_undo(self, payload: str, closing: str) -> Script:
        def claim(s: State) -> Iterable[Outcome]:
            row = s.row
            if row.status == "absent" and self._has(Rule.TOMBSTONE):
                row = row._replace(status=closing, owner=payload, closing=closing)
            if self._seen(row, payload)[1] == payload:
                row = self._claimed(row, closing)
            undoing = row.status == "pending" and not self._has(Rule.CLAIM_UNDO)
            yield s._replace(row=row), ("undoing" if undoing else row.status, self._seen(row, payload)[1], row.parked)

        return (yield Do(f"claim pending -> undoing, to be {closing}", claim))

    def claim_cancellation(self) -> Script:
        def claim(s: State) -> Iterable[Outcome]:
            row = self._moved(self._claimed(s.row, "cancelled"), "processing", "cancelling")
            yield s._replace(row=row), (row.status, row.parked, row.parked_by)

        return (yield Do("claim pending -> undoing or processing -> cancelling", claim))

    def claim_unreserved(self) -> Script:
        payload = yield Do("read what process-order was started with", lambda s: [(s, s.placing.payload)])

        def insert(s: State) -> Iterable[Outcome]:
            row = s.row
            if payload and row.status == "absent" and self._has(Rule.CANCEL_WRITES_ROW):
                row = row._replace(status="cancelled", owner=payload, closing="cancelled")
            yield s._replace(row=row), row.status

        return (yield Do("insert a cancelled row, or read it", insert))

    def _claimed(self, row: Row, closing: str) -> Row:
        if self._has(Rule.CLAIM_UNDO):
            return self._moved(row, "pending", "undoing", closing=closing)
        return row._replace(closing=closing) if row.status == "pending" else row

    def mark_shipped(self) -> Script:
        left, shorted = "shipped", 0
        if self._has(Rule.ASK_WHAT_LEFT):
            left, shorted = yield Do("ask what has left", lambda s: [(s, (s.world.warehouse, s.world.shorted))])
        has_left = left in ("shipping", "shipped")

        def follow(s: State) -> Iterable[Outcome]:
            row = self._moved(s.row, "cancelling", left if has_left else "shipping")
            if row != s.row and has_left:
                row = self._shorted(row, shorted)
            yield s._replace(row=row), row.status

        return (yield Do("move what has left", follow))

    def park_order(self, step: str, run: str, seen: str) -> Script:
        def park(s: State) -> Iterable[Outcome]:
            row = s.row
            waits = row.status in ("undoing", "cancelling")
            if waits and not row.parked and (seen == "fresh" or not self._has(Rule.PARK_IS_FRESH)):
                row = row._replace(parked=step, parked_by=run)
            yield s._replace(row=row), "parked" if waits and row.parked else row.status

        return (yield Do(f"park at {step}", park))

    # ------------------------------------------------------------------------------------------------ statements

    def _move(self, before: str, after: str, closing: str = "") -> Do:
        def move(s: State) -> Iterable[Outcome]:
            row = self._moved(s.row, before, after, closing)
            yield s._replace(row=row), row.status

        return Do(f"move {before} -> {after}", move)

    def _moved(self, row: Row, before: str, after: str, closing: str = "") -> Row:
        """The one conditional UPDATE: order_store.MOVE."""
        if row.status != before or (row.parked and self._has(Rule.PARK_BLOCKS)):
            return row
        return row._replace(status=after, closing=closing or row.closing)

    def _seen(self, row: Row, payload: str) -> tuple[str, str]:
        return row.status, row.owner if self._has(Rule.REQUEST_HASH) else payload

    def _said(self, row: Row, step: str) -> bool:
        return step in row.settled and self._has(Rule.SETTLED_STAYS)


def is_on_its_way(s: State) -> bool:
    """A request to ship may still reach the warehouse: its attempt has marked the row, and has not been answered."""
    attempts = (s.late, s.placing.attempt)
    return any(each == Attempt("request_fulfillment", (), ("pending",)) for each in attempts)


def _stock(row: Row, available: int = 0, reserved: int = 0, sold: int = 0) -> Row:
    return row._replace(available=row.available + available, reserved=row.reserved + reserved, sold=row.sold + sold)


def _intent(s: State, number: int, state: str) -> State:
    first, second = s.world.intents
    return s._replace(world=s.world._replace(intents=(state, second) if number == 1 else (first, state)))


def kept(s: State, refunds: tuple[Refund, ...], without: frozenset[Rule] = frozenset()) -> Row:
    """The row once these refunds are kept: a status only goes forward, and every claim is as its refunds are."""
    row, known = s.row, {each.name: each for each in s.row.refunds}
    for each in refunds:
        known[each.name] = max(each, known.get(each.name, each), key=lambda refund: FORWARD.index(refund.status))
    ordered = tuple(known[each.name] for each in s.world.refunds if each.name in known)
    claims = tuple(_followed(each, ordered, row.status, without) for each in row.claims)
    followed = row._replace(refunds=ordered, claims=claims)
    return _recounted(followed, without) if claims != row.claims else followed


def _followed(claim: Claim, refunds: tuple[Refund, ...], status: str, without: frozenset[Rule]) -> Claim:
    """Open again; or withdrawn if what it leaves is refunded with the whole order."""
    mine = _of(claim.refund, refunds)
    if _standing(mine):
        return claim._replace(status="claimed") if claim.status == "withdrawn" else claim
    if not mine or claim.settled == "resolved" or Rule.FAILED_IS_CLAIMED in without:
        return claim
    if status in CLOSED:
        return claim._replace(status="withdrawn")
    return claim._replace(status="claimed") if claim.status == "made" else claim


def _lost(row: Row, without: frozenset[Rule]) -> int:
    if Rule.LOST_STAYS_LOST in without:
        return 0
    return row.lost(made=Rule.MADE_IS_LOST not in without, shorted=Rule.SHORTED_IS_LOST not in without)


def _recounted(row: Row, without: frozenset[Rule]) -> Row:
    """The row once the units that a released reservation has lost are counted again, after a claim has changed."""
    if row.reservation != "released" or Rule.WITHDRAWN_COMES_BACK in without:
        return row
    lost = _lost(row, without)
    back = row.written_off - lost
    return _stock(row._replace(written_off=lost), available=back, sold=-back)


def _with(refunds: tuple[Refund, ...], made: Refund) -> tuple[Refund, ...]:
    """The newest comes last."""
    return (*(each for each in refunds if each.name != made.name), made)


def _of(refund: str, refunds: Iterable[Refund]) -> list[Refund]:
    """Those that name this refund; "": those of the undo of the whole order."""
    return [each for each in refunds if each.of == refund]


def _standing(refunds: Iterable[Refund]) -> int:
    return sum(each.amount for each in refunds if each.stands)


def _text(refunds: tuple[Refund, ...]) -> str:
    return ", ".join(f"{each.of or 'of the rest'} {each.status}" for each in refunds)
