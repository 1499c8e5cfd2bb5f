"""Plays a script: every attempt is one of the real activities, on the real Postgres and the sandbox."""

import asyncio
from collections import Counter
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from temporalio.exceptions import ApplicationError

from activities.evidence import Books, Evidence, read_ledger
from activities.invariants import SETTLED, violations
from orders.models import Order, Status
from tests.bench import Bench, Watched, fulfillment, order_of, payment, undo
from tests.properties.runs import Cancelling, Placing, Run
from tests.properties.steps import ATTEMPTS, Script, Step

if TYPE_CHECKING:
    from collections.abc import Callable

STOCK: Final = "1"
SHELVE: Final = "UPDATE inventory SET quantity = $2 WHERE product_id = $1"
A_WHILE: Final = 3600  # seconds that an order may be under way: a script takes a fraction of one
UNDISTURBED: Final = Step("done", order=0, cancels=False, seam=1)
MOST_ATTEMPTS: Final = 40  # until an order must have come to rest, once nothing disturbs it


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


class SeamedDatabase(Watched):
    async def stand(self) -> None:
        await pass_seam()


@dataclass
class Sleeper:
    attempt: "asyncio.Task[Any]"
    seam: Seam


@dataclass
class Part:
    """One order and its runs."""

    order: Order
    placing: Placing | None = field(default_factory=Placing)
    cancelling: Cancelling | None = None


class Stage:
    """Where one script is played. `tally` counts what happened, over all scripts."""

    def __init__(self, bench: Bench, script: Script, number: int, tally: Counter[str]) -> None:
        self._bench = bench
        self._script = script
        self._tally = tally
        self._sleepers: list[Sleeper] = []
        self._parts = [
            Part(order_of(f"s{number}-{n}", items=[{"productId": STOCK, "quantity": wants}], paymentMethodId=card))
            for n, (wants, card) in enumerate(zip(script.wants, script.cards, strict=True))
        ]

    async def play(self) -> None:
        """Every step, then whatever it takes until both orders rest; the books are judged all along."""
        self._bench.world.reset()
        await self._bench.pool.execute(SHELVE, STOCK, self._script.units)
        self._units = (await read_ledger(self._bench.pool, [])).units
        try:
            for part, attempts in zip(self._parts, self._script.begun, strict=True):
                for _ in range(attempts):
                    await self._advance(part, UNDISTURBED)
            for step in self._script.steps:
                if await self._take(step):
                    await self._judge(step.what)
            await self._come_to_rest()
        finally:
            for sleeper in self._sleepers:
                sleeper.attempt.cancel()
        self._tally["scripts"] += 1

    async def _take(self, step: Step) -> bool:
        """Whether anything of ours was executed."""
        part = self._parts[step.order]
        if step.what in ATTEMPTS:
            return await self._advance(part, step)
        if step.what == "wake":
            return bool(self._sleepers) and await self._wake(step.seam % len(self._sleepers))
        getattr(self, f"_{step.what}")(part)
        return False

    # ------------------------------------------------------------------------------------------------------ attempts

    async def _advance(self, part: Part, step: Step) -> bool:
        run = part.cancelling if step.cancels and part.cancelling and part.cancelling.next else part.placing
        if run is None or run.next is None:
            return False
        if isinstance(run, Cancelling):
            run.may_drive = part.placing is None or part.placing.next is None
        match step.what:
            case "given_up":
                run.give_up()
            case "lost":
                for service in ("stripe", "fulfillment"):
                    self._bench.fault(service, "reset_after", "POST *", order=part.order.id)
                await self._attempt(part, run)
                self._bench.world.faults.clear()
            case "asleep" | "abandoned":
                await self._attempt(part, run, Seam(step.seam))
                if step.what == "abandoned":
                    run.give_up()
            case _:
                await self._attempt(part, run)
        return True

    async def _attempt(self, part: Part, run: Run, seam: Seam | None = None) -> None:
        """One attempt of what comes next; without an answer it comes again."""
        activity = run.next or ""
        attempt = asyncio.create_task(self._do(activity, part.order, seam))
        if seam:
            reached = asyncio.create_task(seam.reached.wait())
            await asyncio.wait({attempt, reached}, return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            if not attempt.done():
                self._sleepers.append(Sleeper(attempt, seam))
                self._tally["asleep"] += 1
                return
        with suppress(ApplicationError):
            run.answered(await attempt)
            self._tally[activity] += 1

    async def _do(self, activity: str, order: Order, seam: Seam | None = None) -> Any:
        _seam.set(seam)
        run = self._bench.activities[activity]
        return await self._bench.do(run, _argument(activity, order))

    async def _wake(self, number: int) -> bool:
        sleeper = self._sleepers.pop(number)
        sleeper.seam.woken.set()
        with suppress(ApplicationError):
            await sleeper.attempt
        self._tally["woken"] += 1
        return True

    # ------------------------------------------------------------------------------------------------- from outside

    def _terminate(self, part: Part) -> None:
        part.placing = None

    def _start(self, part: Part) -> None:
        part.placing = part.placing or Placing()

    def _cancel(self, part: Part) -> None:
        if part.cancelling is None or part.cancelling.next is None:
            part.cancelling = Cancelling()

    def _ship(self, part: Part) -> None:
        shipments = self._bench.world.fulfillment.shipments
        shipment = shipments.get(part.order.id)
        if shipment and shipment.status == "accepted":
            shipments[part.order.id] = shipment.model_copy(update={"status": "shipped"})
            self._tally["shipped"] += 1

    def _authenticate(self, part: Part) -> None:
        account = self._bench.world.stripe.account
        for entry in account.books():
            if entry["order"] == part.order.id and entry["status"] == "requires_action":
                account.authenticate(entry["id"], succeeds=True)
                self._tally["authenticated"] += 1

    # -------------------------------------------------------------------------------------------------------- the end

    async def _come_to_rest(self) -> None:
        while self._sleepers:
            await self._wake(-1)
            await self._judge("woken at the end")
        for part in self._parts:
            status = await self._drive(part)
            assert status in SETTLED, f"{part.order.id} does not come to rest: {status}"
            self._tally[status] += 1
            await self._judge("at rest")

    async def _drive(self, part: Part) -> Status:
        """As reconciliation does: process-order, and then cancel-order if it has begun something."""
        for run in (Placing(), Cancelling() if part.cancelling else None):
            for _ in range(MOST_ATTEMPTS):
                if run is None or run.next is None:
                    break
                if isinstance(run, Cancelling):
                    run.may_drive = True
                await self._attempt(part, run)
                if run.next == "read_payment":
                    run.give_up()
        return Status(await self._bench.status(part.order.id) or "")

    async def _judge(self, after: str) -> None:
        ledger = await read_ledger(self._bench.pool, [part.order.id for part in self._parts])
        books = Books.model_validate(self._bench.world.books())
        twice = [order for order, count in Counter(payment.order for payment in books.payments).items() if count > 1]
        assert twice == [], f"after {after}: more than one payment was made"
        found = violations(Evidence(ledger, books, self._units, patience=A_WHILE))
        assert found == [], f"after {after}: {found}"


def _argument(activity: str, order: Order) -> Any:
    made: dict[str, Callable[[Order], Any]] = {
        "reserve_stock": lambda order: order.reservation,
        "authorise_payment": payment,
        "request_fulfillment": fulfillment,
        "claim_undo": undo,
    }
    return made[activity](order) if activity in made else order.id
