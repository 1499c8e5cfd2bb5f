"""Everything that can happen next to one order: its runs, a late attempt, an operator, and the world outside.

`Protocol.steps` is all of it. `_answered_placing`, `_answered_cancelling` and `_answered_refunding` are
workflows/process_order.py, cancel_order.py and refund_order.py: which activity follows which answer. Left out are
e-mails, and signals: what a signal makes a run do, to give up its step and undo, every run may do here at any moment.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tests.proof.model.activities import PERMANENT, REFUNDABLE, RETRY, Activities, Do, kept
from tests.proof.model.state import (
    CLOSED,
    NOTHING,
    PAID,
    UNDOS,
    UNITS,
    Attempt,
    Configuration,
    Refund,
    Row,
    Rule,
    Run,
    State,
    Who,
    World,
)

SAGAS: Final = {"placing": "process-order", "cancelling": "cancel-order"}

FORWARD: Final = ("reserve_stock", "authorize_payment", "read_payment", "request_fulfillment")
READING: Final = ("", "read_payment", "read_order", "read_run")  # a late one changes nothing
REFUND: Final = "refund"  # the step at which refund-order parks
SHORTAGE: Final = "1"  # the refund of what can never leave, if the warehouse shorts

# What the order becomes if so much has left.
NEXT: Final = {
    "processing": ("shipping", "shipped"),
    "shipping": ("shipped",),
}


class Act(NamedTuple):
    """A statement or call of the attempt of a run, or of the "late" one. Its answer may be lost."""

    by: str
    attempt: Attempt
    lost: bool = False


class Step(NamedTuple):
    """One transition; `payload` is that of the process-order run whose statement it was.

    `act` and `resolution`, an action and a step, are what drives the real activities by the same path.
    """

    name: str
    after: State
    payload: str = ""
    act: Act | None = None
    resolution: tuple[str, str] | None = None


class Protocol:
    """`without` are the rules that are taken away."""

    def __init__(self, configuration: Configuration, without: frozenset[Rule] = frozenset()) -> None:
        self.configuration = configuration
        self._without = without
        self._activities = Activities(configuration, without)
        self._next: dict[Attempt, Do | tuple[Any]] = {}
        self._refunds = tuple(f"{number}" for number, _ in enumerate(configuration.refunds, start=1))

    @property
    def start(self) -> State:
        configuration = self.configuration
        refunding = (Run(),) * len(configuration.refunds)
        start = State(refunding=refunding, left=configuration.left)
        return _paid(start, configuration) if configuration.placed else start

    def steps(self, s: State) -> Iterator[Step]:
        for who in (*SAGAS, *self._refunds):
            yield from self._starts(s, who)
            if s.run(who).phase == "running":
                yield from self._works(s, who)
                yield from self._is_given_up(s, who)
            if s.run(who).phase == "unpaid":
                yield from self._is_unpaid(s)
            if s.run(who).is_open:
                yield from self._is_terminated(s, who)
                yield from self._resolutions(s, who)
        yield from self._late(s)
        yield from self._world(s)

    # ------------------------------------------------------------------------------------------- runs and attempts

    def _starts(self, s: State, who: Who) -> Iterator[Step]:
        run = s.run(who)
        if run.is_open:
            return
        if who == "cancelling":
            left_behind = s.row.status == "cancelling" and not s.row.parked
            if self.configuration.cancels and (run.phase != "closed" or left_behind):
                started = Run("running", Attempt("claim_cancellation"), undos=UNDOS)
                yield Step("cancel-order starts", s.with_run(who, started))
            return
        if who != "placing":
            if self._refund_starts(s, who, run):
                yield Step(f"{_name(who)} starts", s.with_run(who, Run("running", Attempt("claim_refund", (who,)))))
            return
        for payload in ("ours", "another") if self.configuration.other_payload else ("ours",):
            left_behind = s.row.status in ("pending", "undoing", "capturing") and s.row.owner == payload
            if run.phase != "closed" or left_behind or payload != run.payload:
                undos = UNDOS if Rule.REGISTER_FIRST not in self._without else ()
                started = Run("running", Attempt("reserve_stock", (payload,)), payload, undos)
                yield Step(f"process-order starts, {payload} payload", s.with_run(who, started))

    def _refund_starts(self, s: State, who: Who, run: Run) -> bool:
        """Somebody asks for it, or the warehouse can never ship; or reconciliation finds it left behind."""
        shorts = self.configuration.shorts
        if shorts and who != SHORTAGE and Rule.SHORTAGE_NAMES_REFUND not in self._without:
            return False
        if run.phase == "off":
            return not shorts or bool(s.row.shorted)
        if is_claim_left_behind(s, who):
            return Rule.CLAIM_IS_DRIVEN not in self._without
        return who == SHORTAGE and is_shortage_left_behind(s) and Rule.SHORTAGE_IS_DRIVEN not in self._without

    def _works(self, s: State, who: Who) -> Iterator[Step]:
        """The attempt in flight gets one statement further; its answer may be lost, and then it is made again."""
        run = s.run(who)
        again = run._replace(attempt=run.attempt._replace(seen=()))
        for name, after, attempt in self._acts(s, run.attempt):
            name = f"{_name(who)}: {name}"  # noqa: PLW2901 (who did it)
            match self.advance(attempt):
                case Do():
                    goes_on = after.with_run(who, run._replace(attempt=attempt))
                    yield Step(name, goes_on, run.payload, Act(who, attempt))
                case (answer,) if answer != RETRY:
                    yield Step(name, self._answered(after, who, run, answer), run.payload, Act(who, attempt))
            lost = Act(who, attempt, lost=True)
            yield Step(f"{name}, but its answer is lost", after.with_run(who, again), run.payload, lost)

    def _is_given_up(self, s: State, who: Who) -> Iterator[Step]:
        """An attempt runs out of time, or a step out of attempts, or the run is cancelled: its attempt may live on."""
        run = s.run(who)
        activity = run.attempt.activity
        again = s.with_run(who, run._replace(attempt=run.attempt._replace(seen=())))
        undo = [("failed", self._claims_undo(s, run, "failed"))] if activity in FORWARD and who == "placing" else []
        if undo and self.configuration.operator_cancels:
            undo.append(("cancelled", self._claims_undo(s, run, "cancelled")))
        yield from _lives_on(f"{activity} of {_name(who)} times out", run.attempt, again)
        for closing, undoing in undo:
            name = f"process-order gives {activity} up, to be {closing}"
            yield Step(name, undoing)
            yield from _lives_on(name, run.attempt, undoing)

    def _is_unpaid(self, s: State) -> Iterator[Step]:
        """The order waits for another card: one is tried, the payment is read again, or the wait is over."""
        run = s.placing
        if s.left.cards:
            paying = s._replace(left=s.left._replace(cards=s.left.cards - 1))
            yield Step(
                "the customer pays with another card", self._then(paying, run, "authorize_payment", f"{s.left.cards}")
            )
        for why in ("a signal", "the deadline") if s.row.intent else ():
            yield Step(f"the order waits for another card: {why}", self._then(s, run, "read_payment", why))
        if not s.row.intent:
            yield Step("the order waits for a card, until the deadline", self._claims_undo(s, run, "rejected"))
        for closing in ("failed", *(["cancelled"] if self.configuration.operator_cancels else [])):
            yield Step(f"process-order gives the wait up, to be {closing}", self._claims_undo(s, run, closing))

    def _is_terminated(self, s: State, who: Who) -> Iterator[Step]:
        if s.left.kills:
            run = s.run(who)
            name = (
                f"{_name(who)} is terminated {f'in {run.attempt.activity}' if run.attempt.activity else 'as it waits'}"
            )
            killed = s.with_run(who, Run("terminated", payload=run.payload))
            killed = killed._replace(left=s.left._replace(kills=s.left.kills - 1))
            yield Step(name, killed)
            yield from _lives_on(name, run.attempt, killed)

    def _late(self, s: State) -> Iterator[Step]:
        if s.late is None:
            return
        yield Step(f"the late {s.late.activity} dies", s._replace(late=None))
        payload = s.late.arg[0] if s.late.activity in ("reserve_stock", "claim_undo") else ""
        for name, after, attempt in self._acts(s, s.late):
            goes_on = isinstance(self.advance(attempt), Do)
            after = after._replace(late=attempt if goes_on else None)  # noqa: PLW2901 (it goes on, or is over)
            yield Step(f"late {name}", after, payload, Act("late", attempt))

    def _acts(self, s: State, attempt: Attempt) -> Iterator[tuple[str, State, Attempt]]:
        do = self.advance(attempt)
        assert isinstance(do, Do), attempt
        for after, seen in do.effect(s):
            text = f"{attempt.activity}, {do.name}: {_text(seen)}"
            yield text, after, attempt._replace(seen=(*attempt.seen, seen))

    def advance(self, attempt: Attempt) -> Do | tuple[Any]:
        """What the attempt does next, or its answer in a tuple: the activity is run again on what it has seen."""
        if attempt not in self._next:
            script = getattr(self._activities, attempt.activity)(*attempt.arg)
            try:
                do = next(script)
                for seen in attempt.seen:
                    do = script.send(seen)
                self._next[attempt] = do
            except StopIteration as returned:
                self._next[attempt] = (returned.value,)
        return self._next[attempt]

    # ------------------------------------------------------------------------------------------------ the workflows

    def _answered(self, s: State, who: Who, run: Run, answer: Any) -> State:
        activity = run.attempt.activity
        if activity in (*UNDOS, "resume_capture", "mark_shipped", "park_order"):
            return self._answered_undo(s, who, run, answer)
        if who == "placing":
            return self._answered_placing(s, run, activity, answer)
        if who == "cancelling":
            return self._answered_cancelling(s, run, answer)
        return self._answered_refunding(s, who, run, answer)

    def _answered_placing(self, s: State, run: Run, activity: str, answer: Any) -> State:  # noqa: C901, PLR0911, PLR0912 (a table)
        match activity, answer:
            case ("reserve_stock", (_, owner)) if owner != run.payload:
                return s.with_run("placing", _closed(run))  # order_id_conflict
            case ("reserve_stock", ("pending", _)):
                run = self._registers(run, "release_stock")
                free = self.configuration.free and Rule.FREE_IS_NOT_PAID not in self._without
                return self._then(s, run, "request_fulfillment" if free else "authorize_payment")
            case ("reserve_stock", ("capturing", _)):
                return self._then(s, run, "capture_payment")
            case ("reserve_stock", ("undoing", _)):
                return self._claims_undo(s, run, "failed")
            case ("reserve_stock", _):
                return self._then(s, run, "read_order")
            case ("authorize_payment" | "read_payment", "authorized" | "taken"):
                return self._then(s, self._registers(run, "void_payment"), "request_fulfillment")
            case ("authorize_payment", "action") if not run.attempt.arg:
                return self._then(s, self._registers(run, "void_payment"), "read_payment")
            case ("authorize_payment" | "read_payment", "declined" | "action") if self._waits_for_card(run):
                return s.with_run("placing", run._replace(phase="unpaid", attempt=NOTHING))
            case ("authorize_payment" | "read_payment", "declined" | "action"):
                return self._claims_undo(s, run, "rejected")
            case ("authorize_payment" | "read_payment", _):
                return self._claims_undo(s, run, "failed")
            case ("request_fulfillment", "accepted"):
                return self._then(s, self._registers(run, "cancel_fulfillment"), "capture_payment")
            case ("request_fulfillment", "refused"):
                return self._claims_undo(s, run, "rejected")
            case ("request_fulfillment", _) | ("capture_payment", False):
                return self._claims_undo(s, run, "failed")
            case ("capture_payment", True):
                return self._then(s, run, "finalize_order")
            case ("claim_undo", (status, owner, parked)):
                if owner != run.payload:
                    return s.with_run("placing", _closed(run))
                if status != "undoing":
                    return self._then(s, run, "read_order")
                return self._undoes(s, "placing", run._replace(stale=False), parked)
            case ("read_order", "pending" | "undoing"):
                return self._claims_undo(s, run, "failed")
            case ("read_order", "capturing"):
                return self._then(s, run, "capture_payment")
        return s.with_run("placing", _closed(run))

    def _answered_cancelling(self, s: State, run: Run, answer: Any) -> State:  # noqa: C901, PLR0911 (a table)
        if run.attempt.activity == "claim_cancellation":
            run = run._replace(stale=False)
        match run.attempt.activity, run.attempt.arg, answer:
            case "claim_cancellation", _, ("absent", _, _):
                return self._then(s, run, "claim_unreserved")
            case "claim_unreserved", _, "absent":
                return s.with_run("cancelling", _closed(run, "unknown"))
            case "claim_cancellation", _, (status, parked, "placing"):
                return self._then(s, run, "read_run", "is it parked?", status, parked)
            case "claim_cancellation", _, (status, parked, _):
                return self._drives(s, run, status, parked)
            case "read_run", ("is it parked?", _, _), True:
                return s.with_run("cancelling", _closed(run, "parked"))
            case "read_run", ("is it parked?", status, parked), False:
                return self._drives(s, run, status, parked)
            case "read_run", ("does it run?", "undoing", parked), False:
                run = run._replace(undos=UNDOS, if_shipped="resume_capture")
                return self._undoes(s, "cancelling", run, parked)
            case "read_run", ("does it run?", "capturing", _), False:
                return self._then(s, run, "capture_payment")
            case "capture_payment", _, True:
                return self._then(s, run, "finalize_order")
        return self._then(s, run, "claim_cancellation")  # look again

    def _answered_refunding(self, s: State, who: Who, run: Run, answer: Any) -> State:
        match run.attempt.activity, answer:
            case "claim_refund", "claimed":
                return self._then(s, run, "make_refund", who, who=who)
            case "make_refund", "claimed":
                return self._then(s, run, "return_stock", who, who=who)
            case "make_refund", answer if answer == PERMANENT:
                return s.with_run(who, run._replace(phase="waiting", attempt=NOTHING, parked=frozenset({REFUND})))
        return s.with_run(who, _closed(run, answer))

    def _drives(self, s: State, run: Run, status: str, parked: str) -> State:
        if status == "cancelling":
            run = run._replace(undos=UNDOS, if_shipped="mark_shipped")
            return self._undoes(s, "cancelling", run, parked)
        if status in ("undoing", "capturing"):
            return self._then(s, run, "read_run", "does it run?", status, parked)
        return s.with_run("cancelling", _closed(run))

    # ----------------------------------------------------------------------------------------------------- the saga

    def _claims_undo(self, s: State, run: Run, closing: str) -> State:
        registered = run.undos if Rule.REGISTER_FIRST in self._without else UNDOS
        return self._then(s, run._replace(undos=registered), "claim_undo", run.payload, closing)

    def _undoes(self, s: State, who: Who, run: Run, parked: str) -> State:
        """The undo begins; a park that it finds it takes over."""
        run = run._replace(parked=frozenset())
        return self._parks(s, who, run, parked) if parked else self._undoes_next(s, who, run)

    def _undoes_next(self, s: State, who: Who, run: Run) -> State:
        if not run.undos:
            return self._settles(s, who, run)
        if run.undos[0] in run.parked:
            return s.with_run(who, run._replace(phase="waiting", attempt=NOTHING))
        return s.with_run(who, run._replace(phase="running", attempt=Attempt(run.undos[0])))

    def _answered_undo(self, s: State, who: Who, run: Run, answer: Any) -> State:  # noqa: PLR0911 (a table)
        match run.attempt.activity, answer:
            case "cancel_fulfillment" | "void_payment", "done":
                return self._undoes_next(s, who, run._replace(undos=run.undos[1:]))
            case "cancel_fulfillment", "shipped":
                return s.with_run(who, run._replace(attempt=Attempt(run.if_shipped)))
            case "cancel_fulfillment" | "resume_capture", answer if answer == PERMANENT:
                return self._parks(s, who, run, "cancel_fulfillment")
            case "void_payment", answer if answer == PERMANENT:
                return self._parks(s, who, run, "void_payment")
            case "release_stock", (status, parked) if parked and status not in CLOSED:
                return self._parks(s, who, run, "release_stock")
            case "park_order", "parked":
                run = run._replace(parked=run.parked | {run.attempt.arg[0]})
                return self._undoes_next(s, who, run)
        return self._settles(s, who, run)  # the undo stops: the row decides what is next

    def _parks(self, s: State, who: Who, run: Run, step: str) -> State:
        return self._then(s, run, "park_order", step, who, "stale" if run.stale else "fresh", who=who)

    def _settles(self, s: State, who: Who, run: Run) -> State:
        return self._then(s, run, "read_order" if who == "placing" else "claim_cancellation", who=who)

    def _waits_for_card(self, run: Run) -> bool:
        return bool(self.configuration.left.cards) and run.attempt.arg != ("the deadline",)

    def _registers(self, run: Run, undo: str) -> Run:
        return run if undo in run.undos else run._replace(undos=(undo, *run.undos))

    def _then(self, s: State, run: Run, activity: str, *arg: str, who: Who | None = None) -> State:
        who = who or ("placing" if run.payload else "cancelling")
        return s.with_run(who, run._replace(phase="running", attempt=Attempt(activity, arg)))

    def _resolutions(self, s: State, who: Who) -> Iterator[Step]:
        """An operator resolves a parked step: record_resolution, and then the run continues, or reads the row again."""
        run = s.run(who)
        if who not in SAGAS:
            yield from self._refund_resolutions(s, who)
            return
        for step in run.parked:
            refunding = any(each.attempt.activity == "make_refund" and each.attempt.seen for each in s.refunding)
            # An operator does not pay what is being refunded at that moment.
            is_mine = step != "release_stock" and not (step == "void_payment" and refunding)
            for action in ("retry", "skip", "resolved") if is_mine else ("retry",):
                name = f"record_resolution: an operator says {action} of {step} to {_name(who)}"
                if s.row.parked == step or Rule.RESOLUTION_NEEDS_PARK in self._without:
                    undos = tuple(each for each in run.undos if action == "retry" or each != step)
                    after = _settled(s, who, step, action)
                    heard = after.run(who)._replace(parked=run.parked - {step}, undos=undos)
                else:
                    name += ", too late"
                    after, heard = s, run._replace(parked=frozenset(), undos=())
                waiting = run.phase == "waiting"
                after = self._undoes_next(after, who, heard) if waiting else after.with_run(who, heard)
                yield Step(name, after, resolution=(action, step))

    def _refund_resolutions(self, s: State, who: Who) -> Iterator[Step]:
        """The park of refund-order is in the run alone, so a resolution is recorded, whatever the claim is by now."""
        run, claim = s.run(who), s.row.claim(who)
        # A cancel refunds all that is left, also what somebody is paying by other means at the same time.
        can_pay = s.left.paid and s.row.status in REFUNDABLE
        for action in ("retry", "skip", *(["resolved"] if can_pay else [])) if run.parked else ():
            assert claim
            name = f"record_resolution: an operator says {action} of {REFUND} to {_name(who)}"
            said = {"retried": last_attempt(s.row, who)} if action == "retry" else {"settled": action}
            left = s.left._replace(paid=s.left.paid - (action == "resolved"))
            after = s._replace(row=s.row.with_claim(claim._replace(**said)), left=left)
            after = self._then(after, run._replace(parked=frozenset()), "make_refund", who, who=who)
            yield Step(name, after, resolution=(action, f"{REFUND}:{who}"))

    # ---------------------------------------------------------------------------------------------------- the world

    def _world(self, s: State) -> Iterator[Step]:
        world = s.world
        for number, intent in enumerate(world.intents):
            for name, becomes in self._intent_moves(s, intent):
                intents = (becomes, world.intents[1]) if number == 0 else (world.intents[0], becomes)
                left = s.left._replace(expiries=s.left.expiries - (becomes == "canceled"))
                yield Step(name, s._replace(world=world._replace(intents=intents), left=left))
        if s.left.archived and s.row.shipment and world.warehouse in ("accepted", "shipping", "shipped"):
            left = s.left._replace(archived=s.left.archived - 1)
            yield Step("the warehouse forgets", s._replace(world=world._replace(warehouse="forgotten"), left=left))
        yield from self._goods_move(s)
        if (row := self._reported(s)) != s.row:
            yield Step("the warehouse reports what has left", s._replace(row=row))
        if s.left.forgotten and s.placing.phase == "unpaid" and not (s.late and s.late.seen):
            # An order waits for another card for less than a day, so the key of the latest one is known.
            cards = tuple(card for card in world.asked if card != s.row.tries[-1])
            left = s.left._replace(forgotten=s.left.forgotten - 1)
            yield Step("Stripe forgets its keys", s._replace(world=world._replace(forgotten=cards), left=left))
        yield from self._refunds_change(s)

    def _goods_move(self, s: State) -> Iterator[Step]:
        """Parcels leave; or the warehouse sees that some units never can."""
        world, shorts = s.world, self.configuration.shorts
        there = world.warehouse in ("accepted", "shipping")
        if self.configuration.ships and there and world.shorted < self.configuration.units:
            if world.warehouse == "accepted" and not world.shorted:
                yield Step("the warehouse ships a parcel", s._replace(world=world._replace(warehouse="shipping")))
            yield Step("the warehouse ships", s._replace(world=world._replace(warehouse="shipped")))
        if shorts and there and not world.shorted and (world.warehouse == "accepted" or shorts < UNITS):
            rest = "shipped" if world.warehouse == "shipping" else world.warehouse
            short = s._replace(world=world._replace(warehouse=rest, shorted=shorts))
            yield Step(f"the warehouse can never ship {shorts}", short)

    def _reported(self, s: State) -> Row:
        """The row once the warehouse has been asked: parcel_store.follow_shipment."""
        row, world = s.row, s.world
        if row.status not in REFUNDABLE or world.warehouse not in ("accepted", "shipping", "shipped"):
            return row
        adds_up = Rule.SHORTED_ADDS_UP not in self._without or not row.shorted
        row = row._replace(
            shorted=world.shorted if adds_up else UNITS,
            restocks_shorted=bool(world.shorted) and self.configuration.restocks,
        )
        is_part = world.shorted and Rule.SHORTED_IS_NO_REST in self._without
        left = "shipping" if is_part and world.warehouse == "shipped" else world.warehouse
        return row._replace(status=left) if left in NEXT.get(row.status, ()) else row

    def _intent_moves(self, s: State, intent: str) -> Iterator[tuple[str, str]]:
        if intent == "action":
            yield "the customer authenticates", "taken" if self.configuration.automatic else "authorized"
            yield "the customer fails to authenticate", "declined"
        if intent == "authorized" and s.left.expiries:
            yield "the authorization expires", "canceled"

    def _refunds_change(self, s: State) -> Iterator[Step]:
        """Stripe settles a pending refund, somebody refunds in the dashboard, reconciliation follows and corrects."""
        world = s.world
        for index, refund in enumerate(world.refunds):
            if refund.status == "pending":
                for becomes in ("succeeded", *(["failed"] if s.left.bounces else [])):
                    left = s.left._replace(bounces=s.left.bounces - (becomes == "failed"))
                    after = s._replace(world=_with_refund(world, index, refund._replace(status=becomes)), left=left)
                    yield Step(f"the pending refund has {becomes}", after)
        if (
            s.left.dashboard
            and s.row.status in PAID
            and world.left(s.row.price) > s.row.paid_elsewhere(s.world.refunds)
        ):
            left = s.left._replace(dashboard=s.left.dashboard - 1)
            made = world._replace(refunds=(*world.refunds, Refund("dashboard", 0, "succeeded", 1)))
            yield Step("one unit is refunded in the dashboard", s._replace(world=made, left=left))
        if is_refund_unread(s):
            row = kept(s, world.refunds, self._without)
            yield Step("reconciliation reads the refunds", s._replace(row=row))
        if is_charged_in_vain(s) and s.late is None:
            yield Step("reconciliation voids the payment", s._replace(late=Attempt("void_payment")))


def is_refund_unread(s: State) -> bool:
    """Whether reconciliation, which reads all refunds of an order of which it knows one, has something to change."""
    settled = s.row.status in (*CLOSED, *PAID)
    return settled and bool(s.row.refunds) and kept(s, s.world.refunds) != s.row


def is_charged_in_vain(s: State) -> bool:
    """Whether reconciliation returns what is left of the charge of a closed order: no refund of it has failed."""
    failed = max((each.attempt for each in s.world.refunds if not each.of and not each.stands), default=0)
    is_due = s.row.status in CLOSED and "void_payment" not in s.row.settled and s.row.retried >= failed
    return is_due and s.world.left(s.row.price) > s.row.paid_elsewhere(s.world.refunds)


def is_claim_left_behind(s: State, refund: str) -> bool:
    """Whether reconciliation starts refund-order again, if it does not run."""
    claim = s.row.claim(refund)
    return claim is not None and claim.status == "claimed"


def is_shortage_left_behind(s: State) -> bool:
    """Whether reconciliation starts the refund of a shortage: it was never claimed, and would not be refused."""
    row = s.row
    if not row.shorted or row.claim(SHORTAGE) or row.status not in REFUNDABLE:
        return False
    return row.claimed_units() + row.shorted <= row.units and row.spent + row.shorted <= (row.price or row.units)


def is_unreported(s: State) -> bool:
    """Whether reconciliation, which asks about every order that has not all left, hears something new."""
    if s.row.status not in ("processing", "shipping") or s.world.warehouse not in ("accepted", "shipping", "shipped"):
        return False
    return s.world.warehouse in NEXT[s.row.status] or s.row.shorted < s.world.shorted


def last_attempt(row: Row, of: str) -> int:
    """Of the refunds of this part, or of the rest, that are known."""
    return max((each.attempt for each in row.refunds if each.of == of), default=0)


def is_at_rest(s: State) -> bool:
    """No run is at work, and reconciliation finds nothing to do; an operator may still resolve a park."""
    busy = {"running", "unpaid"} & {run.phase for run in s.runs} or s.late is not None
    unfinished = s.row.status in ("pending", "undoing", "capturing") and not s.placing.is_open
    left_behind = s.row.status == "cancelling" and not s.cancelling.is_open
    claims = any(is_claim_left_behind(s, each.refund) and not s.run(each.refund).is_open for each in s.row.claims)
    goods = is_shortage_left_behind(s) or is_unreported(s)
    to_correct = claims or goods or is_refund_unread(s) or is_charged_in_vain(s)
    return not busy and not to_correct and (bool(s.row.parked) or not (unfinished or left_behind))


def is_over(s: State) -> bool:
    """At rest for good: nothing waits for an operator."""
    waiting = any(run.phase == "waiting" for run in s.runs)
    return is_at_rest(s) and not waiting and not s.row.parked and s.row.status in {"absent", *CLOSED, *PAID}


def _paid(s: State, configuration: Configuration) -> State:
    """The order after an undisturbed run of process-order."""
    row = Row(
        status="processing",
        owner="ours",
        price=0 if configuration.free else UNITS,
        intent=0 if configuration.free else 1,
        requested=True,
        shipment=True,
        placed=True,
        reservation="sold",
        units=UNITS,
        available=0,
        sold=UNITS,
    )
    world = World(intents=("" if configuration.free else "taken", ""), warehouse="accepted")
    return s._replace(row=row, world=world, placing=Run("closed", payload="ours"))


def _with_refund(world: World, index: int, refund: Refund) -> World:
    return world._replace(refunds=(*world.refunds[:index], refund, *world.refunds[index + 1 :]))


def _lives_on(name: str, attempt: Attempt, s: State) -> Iterator[Step]:
    """The attempt continues after its run has given it up: it is late."""
    if s.left.late and s.late is None and attempt.activity not in READING:
        left = s.left._replace(late=s.left.late - 1)
        yield Step(f"{name}; its attempt lives on", s._replace(late=attempt, left=left))


def _settled(s: State, heard_by: Who, step: str, action: str) -> State:
    """Record the resolution. `resolved` means that the operator has refunded what was not refunded."""
    row, world = s.row, s.world
    if row.parked == step:
        row = row._replace(parked="", parked_by="")
    if action != "retry":
        row = row._replace(settled=row.settled | {step})
    elif step == "void_payment":
        row = row._replace(retried=last_attempt(row, ""))
    by_hand = world.by_hand or ((action, step) == ("resolved", "void_payment") and world.left(row.price) > 0)
    return s._replace(
        row=row,
        world=world._replace(by_hand=by_hand),
        placing=_aged(s.placing, heard=heard_by == "placing"),
        cancelling=_aged(s.cancelling, heard=heard_by == "cancelling"),
        late=s.late and _aged_attempt(s.late),
    )


def _aged(run: Run, *, heard: bool) -> Run:
    """After a resolution, what another run has read of the row is stale."""
    stale = run.stale or (run.is_open and not heard)
    return run._replace(stale=stale, attempt=_aged_attempt(run.attempt))


def _aged_attempt(attempt: Attempt) -> Attempt:
    park = attempt.activity == "park_order"
    return attempt._replace(arg=(*attempt.arg[:2], "stale")) if park else attempt


def _name(who: Who) -> str:
    return SAGAS.get(who) or f"refund-order {who}"


def _closed(run: Run, answer: str = "") -> Run:
    return Run("closed", payload=run.payload, answer=answer)


def _text(seen: Any) -> str:
    return " ".join(_text(each) for each in seen) if isinstance(seen, tuple) else str(seen)
