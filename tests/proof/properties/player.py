"""Plays a script: each attempt runs a real activity on a real Postgres and the sandbox."""

import asyncio
from collections import Counter
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from temporalio.exceptions import ApplicationError

from audit.evidence import Evidence, ProviderRecords, read_snapshot
from audit.invariants import SETTLED, violations
from orders.models import Order, Status
from tests.proof.properties.runs import Cancelling, Placing, Run
from tests.proof.properties.steps import ATTEMPTS, Script, Step
from tests.support.activity_bench import Bench, Watched, fulfillment, order_of, payment, undo

if TYPE_CHECKING:
    from collections.abc import Callable

PRODUCT: Final = "1"
SET_STOCK: Final = "UPDATE inventory SET quantity = $2 WHERE product_id = $1"
PATIENCE: Final = 3600  # seconds that an order may be under way; a script takes less than one
UNDISTURBED: Final = Step("done", order=0, cancels=False, pause=1)
MAX_ATTEMPTS: Final = 40  # until an order must have come to rest, once nothing disturbs it


@dataclass
class Pause:
    """Where an attempt is suspended: before its transaction or request number `left`, counted down."""

    left: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    resumed: asyncio.Event = field(default_factory=asyncio.Event)


_pause: ContextVar[Pause | None] = ContextVar("pause", default=None)


async def pass_pause(_: object = None) -> None:
    """Suspend the attempt if it is to pause here; called before each transaction and each request."""
    if pause := _pause.get():
        pause.left -= 1
        if pause.left == 0:
            pause.reached.set()
            await pause.resumed.wait()


class PausingDatabase(Watched):
    async def stand(self) -> None:
        await pass_pause()


@dataclass
class Suspended:
    attempt: "asyncio.Task[Any]"
    pause: Pause


@dataclass
class PlayedOrder:
    """One order and its runs."""

    order: Order
    ships: bool
    placing: Placing | None = field(default_factory=Placing)
    cancelling: Cancelling | None = None


class Player:
    """Plays one script. `tally` counts the steps that had an effect, and the activities that they executed."""

    def __init__(self, bench: Bench, script: Script, number: int, tally: Counter[str]) -> None:
        self._bench = bench
        self._script = script
        self._tally = tally
        self._disturbed = False
        self._suspended: list[Suspended] = []
        self._orders = [
            PlayedOrder(
                order_of(f"s{number}-{n}", items=[{"productId": PRODUCT, "quantity": wants}], paymentMethodId=card),
                ships,
            )
            for n, (wants, card, ships) in enumerate(zip(script.wants, script.cards, script.ships, strict=True))
        ]

    async def play(self) -> None:
        """Take every step, then bring both orders to rest; check the rules after each."""
        self._bench.world.reset()
        await self._bench.pool.execute(SET_STOCK, PRODUCT, self._script.units)
        self._units = (await read_snapshot(self._bench.pool, [])).units
        try:
            for played, begun, cancelled in zip(self._orders, self._script.begun, self._script.cancelled, strict=True):
                await self._begin(played, begun, cancelled)
            self._disturbed = True
            for step in self._script.steps:
                if await self._take(step):
                    await self._check(step.what)
            self._disturbed = False
            await self._come_to_rest()
        finally:
            for each in self._suspended:
                each.attempt.cancel()
        self._tally["scripts"] += 1

    def _count(self, what: str) -> None:
        self._tally[what] += self._disturbed

    async def _begin(self, played: PlayedOrder, begun: int, cancelled: int) -> None:
        for _ in range(begun):
            await self._next_attempt(played, UNDISTURBED)
        if cancelled:
            self._cancel(played)
        for _ in range(cancelled - 1):
            await self._next_attempt(played, UNDISTURBED._replace(cancels=True))

    async def _take(self, step: Step) -> bool:
        """Take a step; true if an activity was executed."""
        played = self._orders[step.order]
        if step.what in ATTEMPTS:
            return await self._next_attempt(played, step)
        if step.what == "resume":
            return bool(self._suspended) and await self._resume(step.pause % len(self._suspended))
        if getattr(self, f"_{step.what}")(played):
            self._count(step.what)
        return False

    # ------------------------------------------------------------------------------------------------------ attempts

    async def _next_attempt(self, played: PlayedOrder, step: Step) -> bool:
        runs = [run for run in (played.placing, played.cancelling) if run and run.next]
        if not runs:
            return False
        run = runs[-1] if step.cancels else runs[0]
        if isinstance(run, Cancelling):
            run.may_drive = played.placing is None or played.placing.next is None
        match step.what:
            case "given_up":
                acted = run.give_up()
            case "lost":
                acted = await self._attempt(played, run, heard=False)
            case "cut_off":
                acted = await self._cut_off(played, run)
            case "suspended":
                acted = not await self._attempt(played, run, Pause(step.pause))
            case "abandoned":
                suspended = not await self._attempt(played, run, Pause(step.pause))
                acted = run.give_up() and suspended
            case _:
                acted = await self._attempt(played, run)
        if acted:
            self._count(step.what)
        if played.ships:
            self._ship(played)
        return True

    async def _cut_off(self, played: PlayedOrder, run: Run) -> bool:
        """Lose the answers of the external services; false if there was none."""
        services = ("stripe", "fulfillment")
        for service in services:
            self._bench.fault(service, "reset_after", "POST *", order=played.order.id)
        await self._attempt(played, run)
        unspent = len(self._bench.world.faults.pending())
        self._bench.world.faults.clear()
        return unspent < len(services)

    async def _attempt(self, played: PlayedOrder, run: Run, pause: Pause | None = None, *, heard: bool = True) -> bool:
        """Attempt the next activity; false if it was suspended. The run goes on only if the answer is `heard`."""
        activity = run.next or ""
        attempt = asyncio.create_task(self._do(activity, played.order, pause))
        if pause:
            reached = asyncio.create_task(pause.reached.wait())
            await asyncio.wait({attempt, reached}, return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            if not attempt.done():
                self._suspended.append(Suspended(attempt, pause))
                return False
        with suppress(ApplicationError):
            answer = await attempt
            self._count(activity)
            if heard:
                run.answered(answer)
        return True

    async def _do(self, activity: str, order: Order, pause: Pause | None = None) -> Any:
        _pause.set(pause)
        run = self._bench.activities[activity]
        return await self._bench.do(run, _argument(activity, order))

    async def _resume(self, number: int) -> bool:
        late = self._suspended.pop(number)
        late.pause.resumed.set()
        with suppress(ApplicationError):
            await late.attempt
        self._count("resume")
        return True

    # ------------------------------------------------------------------------------------------------- from outside

    def _terminate(self, played: PlayedOrder) -> bool:
        acted = played.placing is not None and played.placing.next is not None
        played.placing = None
        return acted

    def _start(self, played: PlayedOrder) -> bool:
        acted = played.placing is None or played.placing.next is None
        if acted:
            played.placing = Placing()
        return acted

    def _cancel(self, played: PlayedOrder) -> bool:
        acted = played.cancelling is None or played.cancelling.next is None
        if acted:
            played.cancelling = Cancelling()
        return acted

    def _ship(self, played: PlayedOrder) -> bool:
        shipments = self._bench.world.fulfillment.shipments
        shipment = shipments.get(played.order.id)
        acted = shipment is not None and shipment.status == "accepted"
        if shipment and acted:
            shipments[played.order.id] = shipment.model_copy(update={"status": "shipped"})
        return acted

    def _authenticate(self, played: PlayedOrder) -> bool:
        account = self._bench.world.stripe.account
        waiting = [
            entry["id"]
            for entry in account.books()
            if entry["order"] == played.order.id and entry["status"] == "requires_action"
        ]
        for payment_id in waiting:
            account.authenticate(payment_id, succeeds=True)
        return bool(waiting)

    # -------------------------------------------------------------------------------------------------------- the end

    async def _come_to_rest(self) -> None:
        while self._suspended:
            await self._resume(-1)
            await self._check("the last late attempt")
        for played in self._orders:
            status = await self._drive(played)
            assert status in SETTLED, f"{played.order.id} does not come to rest: {status}"
            await self._check("at rest")

    async def _drive(self, played: PlayedOrder) -> Status:
        """Drive the order as reconciliation does: process-order, then cancel-order if the customer has cancelled."""
        for run in (Placing(), Cancelling() if played.cancelling else None):
            for _ in range(MAX_ATTEMPTS):
                if run is None or run.next is None:
                    break
                if isinstance(run, Cancelling):
                    run.may_drive = True
                await self._attempt(played, run)
                if run.next == "read_payment":
                    run.give_up()
        return Status(await self._bench.status(played.order.id) or "")

    async def _check(self, after: str) -> None:
        snapshot = await read_snapshot(self._bench.pool, [played.order.id for played in self._orders])
        records = ProviderRecords.model_validate(self._bench.world.books())
        twice = [order for order, count in Counter(payment.order for payment in records.payments).items() if count > 1]
        assert twice == [], f"after {after}: more than one payment was made"
        found = violations(Evidence(snapshot, records, self._units, patience=PATIENCE))
        assert found == [], f"after {after}: {found}"


def _argument(activity: str, order: Order) -> Any:
    made: dict[str, Callable[[Order], Any]] = {
        "reserve_stock": lambda order: order.reservation,
        "authorize_payment": payment,
        "request_fulfillment": fulfillment,
        "claim_undo": undo,
    }
    return made[activity](order) if activity in made else order.id
