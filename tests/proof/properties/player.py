"""Plays a script: every attempt is one of the real activities, on the real Postgres and the sandbox."""

import asyncio
from collections import Counter
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from temporalio.exceptions import ApplicationError

from audit.evidence import Evidence, ProviderRecords, read_snapshot
from audit.invariants import violations
from orders.models import KEPT, SETTLED, Order, Refund, RefundKey, RefundLine, Status
from sandbox.fulfillment import Departure
from tests.proof.properties.runs import Cancelling, Placing, Refunding, Run
from tests.proof.properties.steps import ATTEMPTS, Script, Step
from tests.support.activity_bench import ActivityBench, ObservedDatabase, fulfillment, order_of, payment, undo

if TYPE_CHECKING:
    from collections.abc import Callable

STOCK: Final = "1"
PRICE: Final = 29.99
SHELVE: Final = "UPDATE inventory SET quantity = $2 WHERE product_id = $1"
A_WHILE: Final = 3600  # seconds that an order may be under way: a script takes a fraction of one
UNDISTURBED: Final = Step("done", order=0, cancels=False, seam=1)
MAX_REFUNDS: Final = 3  # of one order, each of one unit: it has one or two
MAX_ATTEMPTS: Final = 40  # until an order must have come to rest, once nothing disturbs it


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
    """One order and its runs. The goods of a `prompt` one leave as soon as they may."""

    order: Order
    prompt: bool
    placing: Placing | None = field(default_factory=Placing)
    cancelling: Cancelling | None = None
    refunding: list[Refunding] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """Those that are under way."""
        return [run for run in (self.placing, *self.refunding, self.cancelling) if run and run.next]


class Player:
    """Where one script is played. `tally` counts the steps that acted, and the activities that they had executed."""

    def __init__(self, bench: ActivityBench, script: Script, number: int, tally: Counter[str]) -> None:
        self._bench = bench
        self._script = script
        self._tally = tally
        self._disturbed = False
        self._sleepers: list[Sleeper] = []
        self._parts = [
            Part(
                order_of(
                    f"s{number}-{n}",
                    items=[{"productId": STOCK, "quantity": wants}],
                    charges=_charges(costs, wants),
                    paymentMethodId=card,
                ),
                prompt,
            )
            for n, (wants, costs, card, prompt) in enumerate(
                zip(script.wants, script.costs, script.cards, script.prompt, strict=True)
            )
        ]

    async def play(self) -> None:
        """Every step, then whatever it takes until both orders rest; the books are judged all along."""
        self._bench.world.reset()
        await self._bench.pool.execute(SHELVE, STOCK, self._script.units)
        self._units = (await read_snapshot(self._bench.pool, [])).units
        try:
            script = self._script
            for part, begun, returns, regretted in zip(
                self._parts, script.begun, script.returns, script.regretted, strict=True
            ):
                await self._begin(part, begun, returns, regretted)
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

    async def _begin(self, part: Part, begun: int, returns: int, regretted: int) -> None:
        for _ in range(begun):
            await self._advance(part, UNDISTURBED)
        if returns and await self._refund(part):
            for _ in range(returns - 1):
                await self._advance(part, UNDISTURBED)
        if regretted:
            await self._cancel(part)
        for _ in range(regretted - 1):
            await self._advance(part, UNDISTURBED._replace(cancels=True))

    async def _take(self, step: Step) -> bool:
        """Whether anything of ours was executed."""
        part = self._parts[step.order]
        if step.what in ATTEMPTS:
            return await self._advance(part, step)
        if step.what == "wake":
            return bool(self._sleepers) and await self._wake(step.seam % len(self._sleepers))
        if await getattr(self, f"_{step.what}")(part):
            self._count(step.what)
        return False

    # ------------------------------------------------------------------------------------------------------ attempts

    async def _advance(self, part: Part, step: Step) -> bool:
        if not (runs := part.runs):
            return False
        run = runs[-1] if step.cancels else runs[0]
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
        services = ("stripe", "fulfillment")
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
        if seam:
            reached = asyncio.create_task(seam.reached.wait())
            await asyncio.wait({attempt, reached}, return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            if not attempt.done():
                self._sleepers.append(Sleeper(attempt, seam))
                return False
        with suppress(ApplicationError):
            answer = await attempt
            self._count(activity)
            if heard:
                run.answered(answer)
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
        acted = len(part.refunding) < MAX_REFUNDS and status in KEPT
        if acted:
            part.refunding.append(Refunding(f"r{len(part.refunding)}"))
        return acted

    async def _ship(self, part: Part) -> bool:
        shipments = self._bench.world.fulfillment.shipments
        shipment = shipments.get(part.order.id)
        acted = shipment is not None and shipment.status in ("accepted", "shipping")
        if shipment and acted:
            shipments[part.order.id] = shipment.sends(
                Departure(lines=(shipment.rest[0].model_copy(update={"quantity": 1}),))
            )
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

    # -------------------------------------------------------------------------------------------------------- the end

    async def _come_to_rest(self) -> None:
        while self._sleepers:
            await self._wake(-1)
            await self._judge("woken at the end")
        for part in self._parts:
            status = await self._drive(part)
            assert status in SETTLED, f"{part.order.id} does not come to rest: {status}"
            await self._judge("at rest")

    async def _drive(self, part: Part) -> Status:
        """As reconciliation does: process-order, then what cancel-order and refund-order have begun."""
        refunding = [Refunding(each.refund_id) for each in part.refunding]
        for run in (Placing(), Cancelling() if part.cancelling else None, *refunding):
            for _ in range(MAX_ATTEMPTS):
                if run is None or run.next is None:
                    break
                if isinstance(run, Cancelling):
                    run.may_drive = True
                await self._attempt(part, run)
                if run.next == "read_payment":
                    run.give_up()
        return Status(await self._bench.status(part.order.id) or "")

    async def _judge(self, after: str) -> None:
        snapshot = await read_snapshot(self._bench.pool, [part.order.id for part in self._parts])
        books = ProviderRecords.model_validate(self._bench.world.provider_records())
        twice = [order for order, count in Counter(payment.order for payment in books.payments).items() if count > 1]
        assert twice == [], f"after {after}: more than one payment was made"
        found = violations(Evidence(snapshot, books, self._units, patience=A_WHILE))
        assert found == [], f"after {after}: {found}"


def _argument(run: Run, order: Order) -> Any:
    activity = run.next or ""
    if isinstance(run, Refunding):
        key = RefundKey(order_id=order.id, refund_id=run.refund_id)
        lines = (RefundLine(product_id=STOCK, quantity=1, restock=1),)
        return Refund(**key.model_dump(), lines=lines) if activity == run.first else key
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
