"""Plays a script: every attempt is one of the real activities, on the real Postgres and the sandbox."""

import asyncio
from collections import Counter
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from temporalio.exceptions import ApplicationError

from app.web.bodies import Refused
from app.web.events import Effect, FulfillmentEvents, WarehouseEvent, is_kept
from audit.evidence import Evidence, ProviderRecords, read_snapshot
from audit.invariants import violations
from orders.errors import Unavailable
from orders.models import KEPT, SETTLED, Order, Refund, RefundLine, Status
from orders.reconciliation import StrayShipments
from tests.proof.properties.goods import Goods, RunsToStart
from tests.proof.properties.runs import Cancelling, Placing, Refunding, Run, Telling
from tests.proof.properties.steps import ATTEMPTS, Script, Step
from tests.proof.second_opinion import part_findings
from tests.support.activity_bench import ActivityBench, ObservedDatabase, fulfillment, order_of, payment, undo

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.webhooks import Webhook

STOCK: Final = "1"
PRICE: Final = 29.99
SHELVE: Final = "UPDATE inventory SET quantity = $2 WHERE product_id = $1"
A_WHILE: Final = 3600  # seconds that an order may be under way: a script takes a fraction of one
UNDISTURBED: Final = Step("done", order=0, cancels=False, seam=1)
MAX_REFUNDS: Final = 3  # of one order, each of one unit: it has one to three
MAX_ATTEMPTS: Final = 40  # until an order must have come to rest, once nothing disturbs it
LIMIT: Final = 100  # of what reconcile-orders looks at

# Until reconcile-orders asks the warehouse again, and reports a shortage that is not refunded.
AN_HOUR_PASSES: Final = """
    WITH aged AS (UPDATE shortages SET at = at - interval '2 hours' WHERE order_id = ANY($1))
    UPDATE orders SET shipment_checked_at = NULL WHERE id = ANY($1)
"""
CHECKED: Final = (
    "UPDATE orders SET shipment_checked_at = now() WHERE shipment_checked_at IS NULL"  # those of other scripts
)


@dataclass
class Seam:
    """Where one attempt falls asleep: before its transaction or request number `left`, counted down."""

    left: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    woken: asyncio.Event = field(default_factory=asyncio.Event)


_seam: ContextVar[Seam | None] = ContextVar("seam", default=None)


async def pass_seam(_: object = None) -> None:
    """Every transaction and every request of an attempt comes by here."""
    if seam := _seam.get():
        seam.left -= 1
        if seam.left == 0:
            seam.reached.set()
            await seam.woken.wait()


class SeamedDatabase(ObservedDatabase):
    async def stand(self) -> None:
        await pass_seam()


@dataclass
class Sleeper:
    attempt: "asyncio.Task[Any]"
    seam: Seam


@dataclass
class Part:
    """One order with its runs and goods. Those of a `prompt` one leave as soon as they may."""

    order: Order
    goods: Goods
    prompt: bool
    placing: Placing | None = field(default_factory=Placing)
    cancelling: Cancelling | None = None
    refunding: list[Refunding] = field(default_factory=list)
    telling: list[Telling] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """Those that are under way."""
        everything = (self.placing, *self.telling, *self.refunding, self.cancelling)
        return [run for run in everything if run and run.next]

    @property
    def returns(self) -> int:
        """How often a unit has come back."""
        return sum(not run.is_of_shortage for run in self.refunding)


class Player:
    """Where one script is played. `tally` counts the steps that acted, and the activities that they had executed."""

    def __init__(
        self,
        bench: ActivityBench,
        receiver: FulfillmentEvents,
        starts: RunsToStart,
        script: Script,
        tally: Counter[str],
    ) -> None:
        """`starts` are the runs that are to be started by what the `receiver` and the bench do."""
        number = tally["begun"]
        self._bench = bench
        self._receiver = receiver
        self._starts = starts
        self._script = script
        self._tally = tally
        self._disturbed = False
        self._sleepers: list[Sleeper] = []
        self._turns = count()
        self._parts = [
            Part(
                order_of(
                    f"s{number}-{n}",
                    items=[{"productId": STOCK, "quantity": wants}],
                    charges=_charges(costs, wants),
                    paymentMethodId=card,
                ),
                Goods(bench.world, f"s{number}-{n}"),
                prompt,
            )
            for n, (wants, costs, card, prompt) in enumerate(
                zip(script.wants, script.costs, script.cards, script.prompt, strict=True)
            )
        ]

    async def play(self) -> None:
        """Every step, then whatever it takes until both orders rest; the books are judged all along."""
        self._bench.world.reset()
        self._bench.world.fulfillment.hides_parcels = self._script.hides
        self._starts.clear()
        await self._bench.pool.execute(CHECKED)
        await self._bench.pool.execute(SHELVE, STOCK, self._script.units)
        self._units = (await read_snapshot(self._bench.pool, [])).units
        try:
            for number, part in enumerate(self._parts):
                await self._begin(part, number)
            self._disturbed = True
            for step in self._script.steps:
                if await self._take(step):
                    await self._judge(step.what)
            self._disturbed = False
            await self._come_to_rest()
        finally:
            for sleeper in self._sleepers:
                sleeper.attempt.cancel()
        self._tally["scripts"] += 1

    def _count(self, what: str) -> None:
        self._tally[what] += self._disturbed

    async def _begin(self, part: Part, number: int) -> None:
        script = self._script
        for _ in range(script.begun[number]):
            await self._advance(part, UNDISTURBED)
        if script.returns[number] and await self._refund(part):
            for _ in range(script.returns[number] - 1):
                await self._advance(part, UNDISTURBED)
        await self._begin_goods(part, script.shortages[number], told=script.told[number])
        if script.regretted[number]:
            await self._cancel(part)
        for _ in range(script.regretted[number] - 1):
            await self._advance(part, UNDISTURBED._replace(cancels=True))

    async def _begin_goods(self, part: Part, shortage: int, *, told: bool) -> None:
        if shortage and await self._bench.status(part.order.id) in KEPT:
            await self._fall_short(part)
        for sent in part.goods.events if told or shortage > 1 else ():
            await self._deliver(sent)
            self._start_runs()
        for run in part.refunding:
            for _ in range(shortage - 2 if run.is_of_shortage else 0):
                if run.next:
                    await self._attempt(part, run)

    async def _take(self, step: Step) -> bool:
        """Whether anything of ours was executed."""
        part = self._parts[step.order]
        if step.what in ATTEMPTS:
            return await self._advance(part, step)
        match step.what:
            case "wake":
                return bool(self._sleepers) and await self._wake(step.seam % len(self._sleepers))
            case "told" | "told_asleep" | "start_lost":
                return await self._told(part, step)
            case "reconcile":
                return await self._reconcile(step)
        if await getattr(self, f"_{step.what}")(part):
            self._count(step.what)
        return False

    # ------------------------------------------------------------------------------------------------------ attempts

    async def _advance(self, part: Part, step: Step) -> bool:
        if not (runs := part.runs):
            return False
        is_first = part.placing in runs  # process-order is rather disturbed than what follows it
        run = runs[-1] if step.cancels else runs[0 if is_first else next(self._turns) % len(runs)]
        if isinstance(run, Cancelling):
            run.may_drive = part.placing is None or part.placing.next is None
        match step.what:
            case "given_up":
                acted = run.give_up()
            case "lost":
                acted = await self._attempt(part, run, heard=False)
            case "cut_off":
                acted = await self._cut_off(part, run)
            case "asleep":
                acted = not await self._attempt(part, run, Seam(step.seam))
            case "abandoned":
                slept = not await self._attempt(part, run, Seam(step.seam))
                acted = run.give_up() and slept
            case _:
                acted = await self._attempt(part, run)
        if acted:
            self._count(step.what)
        if part.prompt:
            await self._ship(part)
        return True

    async def _cut_off(self, part: Part, run: Run) -> bool:
        """Whether there was an answer to lose."""
        services = ("stripe", "fulfillment", "email")
        for service in services:
            self._bench.fault(service, "reset_after", "POST *", order=part.order.id)
        await self._attempt(part, run)
        unspent = len(self._bench.world.faults.pending())
        self._bench.world.faults.clear()
        return unspent < len(services)

    async def _attempt(self, part: Part, run: Run, seam: Seam | None = None, *, heard: bool = True) -> bool:
        """One attempt of what comes next, False: it fell asleep. Unless an answer is `heard` it comes again."""
        activity = run.next or ""
        attempt = asyncio.create_task(self._do(activity, _argument(run, part.order), seam))
        if seam and await self._falls_asleep(attempt, seam):
            return False
        with suppress(ApplicationError):
            answer = await attempt
            self._count(activity)
            if isinstance(run, Refunding) and run.is_of_shortage:
                self._count(f"{activity} of a shortage")
            if heard:
                run.answered(answer)
        return True

    async def _falls_asleep(self, attempt: "asyncio.Task[Any]", seam: Seam) -> bool:
        """Wait until the attempt is over, or has reached the seam."""
        reached = asyncio.create_task(seam.reached.wait())
        await asyncio.wait({attempt, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if attempt.done():
            return False
        self._sleepers.append(Sleeper(attempt, seam))
        return True

    async def _do(self, activity: str, argument: Any, seam: Seam | None = None) -> Any:
        _seam.set(seam)
        bench = self._bench.another_worker() if seam else self._bench
        return await bench.do(bench.activities[activity], argument)

    async def _wake(self, number: int) -> bool:
        sleeper = self._sleepers.pop(number)
        sleeper.seam.woken.set()
        with suppress(ApplicationError):
            await sleeper.attempt
        self._start_runs()
        self._count("wake")
        return True

    # ------------------------------------------------------------------------------------------------- from outside

    async def _terminate(self, part: Part) -> bool:
        acted = part.placing is not None and part.placing.next is not None
        part.placing = None
        return acted

    async def _start(self, part: Part) -> bool:
        acted = part.placing is None or part.placing.next is None
        if acted:
            part.placing = Placing()
        return acted

    async def _cancel(self, part: Part) -> bool:
        acted = part.cancelling is None or part.cancelling.next is None
        if acted:
            part.cancelling = Cancelling()
        return acted

    async def _refund(self, part: Part) -> bool:
        status = await self._bench.status(part.order.id)
        acted = part.returns < MAX_REFUNDS and status in KEPT
        if acted:
            lines = (RefundLine(product_id=STOCK, quantity=1, restock=1),)
            part.refunding.append(Refunding(Refund(order_id=part.order.id, refund_id=f"r{part.returns}", lines=lines)))
        return acted

    async def _authenticate(self, part: Part) -> bool:
        account = self._bench.world.stripe.account
        waiting = [
            entry["id"]
            for entry in account.records()
            if entry["order"] == part.order.id and entry["status"] == "requires_action"
        ]
        for payment_id in waiting:
            account.authenticate(payment_id, succeeds=True)
        return bool(waiting)

    # ------------------------------------------------------------------------------------------------- the warehouse

    async def _ship(self, part: Part) -> bool:
        return _if_any(part, part.goods.ship_part)

    async def _ship_rest(self, part: Part) -> bool:
        return _if_any(part, part.goods.ship_rest)

    async def _fall_short(self, part: Part) -> bool:
        return _if_any(part, part.goods.fall_short)

    async def _told(self, part: Part, step: Step) -> bool:
        """An event arrives, whichever it is; the delivery of the latest one may fall asleep."""
        if not (sent := part.goods.events):
            return False
        if step.what != "told_asleep":
            await self._deliver(sent[step.seam % len(sent)])
            self._start_runs(lost=step.what == "start_lost")
            return True
        seam = Seam(step.seam)
        attempt = asyncio.create_task(self._deliver(sent[-1], seam))
        if await self._falls_asleep(attempt, seam):
            self._count(step.what)
        else:
            await attempt
            self._start_runs()
        return True

    async def _deliver(self, webhook: "Webhook", seam: Seam | None = None) -> None:
        """As the endpoint does with an authentic event."""
        _seam.set(seam)
        event = WarehouseEvent.model_validate_json(webhook.content)
        try:
            known = await is_kept(self._bench.database, self._receiver.source, event)
            effect = Effect.DUPLICATE if known else await self._receiver.apply(event, event.about or "")
        except Unavailable:
            self._count("told_early")
        except Refused:
            # Once all has left as a whole, a late event is of more than is left.
            if not self._script.hides:
                raise
        else:
            self._count("told_twice" if effect is Effect.DUPLICATE else "told")

    async def _reconcile(self, step: Step) -> bool:
        """An hour has passed. The attempt that asks the warehouse may fall asleep."""
        seam = Seam(step.seam) if step.cancels else None
        await self._hour_passes()
        attempt = asyncio.create_task(self._do("check_shipments", "", seam))
        if seam and await self._falls_asleep(attempt, seam):
            return True
        with suppress(ApplicationError):
            await attempt
            self._count("check_shipments")
        for activity in ("notify_parcels", "refund_shortages"):
            if await self._do(activity, LIMIT):
                self._count(activity)
        self._start_runs()
        self._count(step.what)
        return True

    def _start_runs(self, *, lost: bool = False) -> None:
        """Start the runs that are to be started, unless they are under way. If they are `lost`, Temporal was out."""
        if lost:
            self._tally["start_lost"] += self._starts.clear() and self._disturbed
        for part in self._parts:
            under_way = {run.refund.refund_id for run in part.refunding if run.next}
            refunds = [each for each in self._starts.refunds if each.order_id == part.order.id]
            part.refunding += [Refunding(each) for each in refunds if each.refund_id not in under_way]
            told_of = {run.notice.shipment_id for run in part.telling if run.next}
            notices = [each for each in self._starts.notices if each.order_id == part.order.id]
            part.telling += [Telling(each) for each in notices if each.shipment_id not in told_of]
        self._starts.clear()

    async def _hour_passes(self) -> None:
        await self._bench.pool.execute(AN_HOUR_PASSES, [part.order.id for part in self._parts])

    # -------------------------------------------------------------------------------------------------------- the end

    async def _come_to_rest(self) -> None:
        while self._sleepers:
            await self._wake(-1)
            await self._judge("woken at the end")
        for part in self._parts:
            status = await self._drive(part)
            assert status in SETTLED, f"{part.order.id} does not come to rest: {status}"
            await self._judge("at rest")
        await self._reconcile_at_last()

    async def _drive(self, part: Part) -> Status:
        """As reconciliation does: process-order, then what cancel-order and refund-order have begun."""
        refunding = [Refunding(each.refund) for each in part.refunding]
        telling = [Telling(each.notice) for each in part.telling]
        for run in (Placing(), Cancelling() if part.cancelling else None, *refunding, *telling):
            for _ in range(MAX_ATTEMPTS):
                if run is None or run.next is None:
                    break
                if isinstance(run, Cancelling):
                    run.may_drive = True
                await self._attempt(part, run)
                if run.next == "read_payment":
                    run.give_up()
        return Status(await self._bench.status(part.order.id) or "")

    async def _reconcile_at_last(self) -> None:
        """What the events have not told is found, what was not started is; then nothing is left to do or to report."""
        await self._sweep()
        self._start_runs()
        for part in self._parts:
            await self._drive(part)
        await self._judge("an hour later")
        assert await self._sweep() == [], "a second reconciliation finds something to do"
        for problem in await self._do("find_parcel_problems", LIMIT):
            await self._do("mark_alerted", problem.key)
        assert await part_findings(self._bench.pool, [part.order.id for part in self._parts]) == []

    async def _sweep(self) -> list[str]:
        """What reconcile-orders does for the orders of this script an hour later, as text."""
        await self._hour_passes()
        checked = await self._do("check_shipments", "")
        assert isinstance(checked, StrayShipments)
        done = [*checked.followed, *await self._do("notify_parcels", LIMIT), *await self._do("refund_shortages", LIMIT)]
        return [each for each in done if any(f"order {part.order.id}:" in each for part in self._parts)]

    async def _judge(self, after: str) -> None:
        snapshot = await read_snapshot(self._bench.pool, [part.order.id for part in self._parts])
        books = ProviderRecords.model_validate(self._bench.world.provider_records())
        twice = [order for order, count in Counter(payment.order for payment in books.payments).items() if count > 1]
        assert twice == [], f"after {after}: more than one payment was made"
        found = violations(Evidence(snapshot, books, self._units, patience=A_WHILE))
        assert found == [], f"after {after}: {found}"


def _if_any(part: Part, act: "Callable[[], None]") -> bool:
    """Act on goods that are still there."""
    if not part.goods.rest:
        return False
    act()
    return True


def _argument(run: Run, order: Order) -> Any:
    activity = run.next or ""
    match run:
        case Refunding():
            return run.refund if activity == run.first else run.refund.key
        case Telling():
            return run.notice if activity == run.first else run.notification
    made: dict[str, Callable[[Order], Any]] = {
        "reserve_stock": lambda order: order.reservation,
        "authorize_payment": payment,
        "request_fulfillment": fulfillment,
        "claim_undo": undo,
    }
    return made[activity](order) if activity in made else order.id


def _charges(costs: str, wants: int) -> list[dict[str, Any]]:
    shipping = {"type": "shipping", "amount": 5}
    discount = {"type": "discount", "amount": -round(wants * PRICE + 5, 2)}
    return {"the price": [], "with charges": [shipping], "nothing": [shipping, discount]}[costs]
