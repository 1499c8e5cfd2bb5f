"""Waits until everything has come to rest, and then says what is wrong."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Final

from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import WorkflowFailureError, WorkflowHistory
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Replayer

from app.wiring import WORKFLOWS
from audit.evidence import DatabaseSnapshot, Evidence, OrderEntry, ProviderRecords, read_runs, read_snapshot
from audit.invariants import violations
from client.orders import resolve
from client.runs import ABOUT_ORDERS, stuck_runs
from config.temporal import plugin
from orders.errors import OrderError
from orders.models import (
    CLOSED,
    PAID,
    SETTLED,
    CancelOutcome,
    CancelReason,
    ErrorCode,
    OrderOutcome,
    Status,
)
from orders.names import RECONCILE_NOW, RECONCILE_ORDERS, TASK_QUEUE
from orders.reconciliation import ReconcileReport
from orders.verification import Violation
from saga import Resolution
from tests.proof.chaos.cluster import Cluster, persist
from tests.proof.chaos.load import Load

WATCH_EVERY: Final = 0.5  # seconds between two looks at the stock
LOOK_AGAIN: Final = 1.0  # seconds between two looks at what is still open
MAX_REPLAYED: Final = 1000
RECONCILED_WITHIN: Final = 300  # seconds

NOBODY_ASKED: Final = ProviderRecords(payments=(), fulfillment=())

UNSETTLED: Final = "SELECT count(*) FROM orders WHERE status <> ALL($1::text[])"
PENDING_REFUNDS: Final = "SELECT id FROM refunds WHERE status = 'pending'"

# Of a workflow task: mistakes of the code. All others are a worker that died, or news that came meanwhile.
MISTAKES: Final = {
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
}


# What a cancel that came to nothing was answered, and how such an order ends.
ENDS: Final = {
    CancelReason.ALREADY_CANCELLED: {Status.CANCELLED},
    CancelReason.ALREADY_SHIPPED: {Status.SHIPPED, Status.DELIVERED},
    CancelReason.ORDER_REJECTED: {Status.REJECTED},
    CancelReason.ORDER_FAILED: {Status.FAILED},
}
NOTHING_TO_REFUND: Final = {CancelReason.AUTHORIZATION_VOIDED, CancelReason.NOT_CHARGED}


class Judge:
    """`retried` counts the parked steps that were tried again, as an operator would once the faults are over."""

    def __init__(self, cluster: Cluster, units: Mapping[str, int]) -> None:
        """`units` are those of each product before the first order."""
        self._cluster = cluster
        self._units = units
        self._seen: dict[Violation, None] = {}  # each once, however long it lasts
        self.stock_checks = 0
        self.retried = 0
        self.runs = 0
        self.replayed = 0

    async def watch_stock(self) -> None:
        """While all goes on no unit is lost or made up, at any moment."""
        while True:
            snapshot = await persist(lambda: read_snapshot(self._cluster.pool, []))
            self._seen |= dict.fromkeys(violations(Evidence(snapshot, NOBODY_ASKED, self._units)))
            self.stock_checks += 1
            await asyncio.sleep(WATCH_EVERY)

    async def rest(self) -> None:
        """Wait until every order has come to rest; meanwhile do what operators, banks and the Schedule do."""
        while not await persist(self._is_quiet):
            await persist(self._settle_refunds)
            await persist(self._retry_what_is_parked)
            await persist(self._reconcile)
            await asyncio.sleep(LOOK_AGAIN)

    async def verdict(self, load: Load) -> tuple[DatabaseSnapshot, list[Violation]]:
        """Everything that is wrong, by all rules, by what customers were told, and by the runs' histories."""
        await self._reconcile()
        found: list[Violation] = []
        if (idle := await self._reconcile()) != ReconcileReport():
            found.append(_broken(RECONCILE_ORDERS, "a second reconciliation does nothing", str(idle)))
        snapshot = await read_snapshot(self._cluster.pool)
        runs = await read_runs(self._cluster.client, [order.id for order in snapshot.orders])
        books = await self._cluster.books()
        found += violations(Evidence(snapshot, books, self._units, runs))
        found += broken_words(snapshot, books, load.orders, load.cancels)
        found += await self._replay()
        return snapshot, [*self._seen, *found]

    async def _is_quiet(self) -> bool:
        unsettled = await self._cluster.pool.fetchval(UNSETTLED, [*SETTLED])
        still = await self._cluster.client.count_workflows(f"{ABOUT_ORDERS} AND ExecutionStatus = 'Running'")
        return not unsettled and not still.count and not await self._cluster.pool.fetch(PENDING_REFUNDS)

    async def _settle_refunds(self) -> None:
        """The banks get round to what they have been asked for."""
        for row in await self._cluster.pool.fetch(PENDING_REFUNDS):
            await self._cluster.sandbox.post(f"/_sandbox/settle/{row['id']}", json={"outcome": "succeed"})

    async def _retry_what_is_parked(self) -> None:
        for stuck in await stuck_runs(self._cluster.client, limit=200):
            for step in stuck.parked:
                resolution = Resolution(step=step, action="retry", reason="the faults are over", by="chaos")
                with suppress(OrderError):  # it has gone on meanwhile
                    await resolve(self._cluster.client, stuck.run.order_id or "", resolution)
                    self.retried += 1

    async def _reconcile(self) -> ReconcileReport | None:
        """Its report; None if it failed or hangs, which is a violation."""
        try:
            async with asyncio.timeout(RECONCILED_WITHIN):
                report: ReconcileReport = await self._cluster.client.execute_workflow(
                    RECONCILE_ORDERS,
                    id=RECONCILE_NOW,
                    task_queue=TASK_QUEUE,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    result_type=ReconcileReport,
                )
                return report
        except (WorkflowFailureError, TimeoutError) as error:
            what = f"it failed: {error.cause}" if isinstance(error, WorkflowFailureError) else "it hangs"
            self._seen[_broken(RECONCILE_ORDERS, "reconciliation comes to an end", what)] = None
        return None

    async def _replay(self) -> list[Violation]:
        """Runs whose history today's code would not repeat, or in which it made a mistake."""
        found: list[Violation] = []
        replayer = Replayer(workflows=WORKFLOWS, plugins=[plugin()])
        async with replayer.workflow_replay_iterator(self._histories(found)) as replays:
            async for replay in replays:
                self.replayed += 1
                if replay.replay_failure:
                    what = f"its replay fails: {replay.replay_failure}; it is: {_outline(replay.history)}"
                    found.append(_broken(replay.history.workflow_id, "every history can be replayed", what))
        return found

    async def _histories(self, found: list[Violation]) -> AsyncIterator[WorkflowHistory]:
        self.runs = (await self._cluster.client.count_workflows()).count
        runs = self._cluster.client.list_workflows(limit=MAX_REPLAYED)
        async for history in runs.map_histories():
            for event in history.events:
                cause = event.workflow_task_failed_event_attributes.cause
                if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED and cause in MISTAKES:
                    failure = event.workflow_task_failed_event_attributes.failure.message
                    found.append(_broken(history.workflow_id, "no workflow task fails by the code", failure))
            yield history


def broken_words(
    snapshot: DatabaseSnapshot,
    books: ProviderRecords,
    orders: Mapping[str, list[OrderOutcome]],
    cancels: Mapping[str, list[CancelOutcome]],
) -> Iterator[Violation]:
    """Where what a customer was told is not what the order came to."""
    rows = {order.id: order for order in snapshot.orders}
    refunded = {payment.order for payment in books.payments if payment.refunded}
    for order_id, outcomes in orders.items():
        row = rows.get(order_id)
        for outcome in outcomes:
            if outcome.error_code is not ErrorCode.UNDO_PARKED and not _agrees(outcome, row):
                yield _broken(order_id, "an order comes to what was answered", _both(row, outcome))
    for order_id, answers in cancels.items():
        row = rows.get(order_id)
        for answer in answers:
            if not _keeps(answer, row, was_refunded=order_id in refunded):
                yield _broken(order_id, "a cancel comes to what was answered", _both(row, answer))


def _agrees(outcome: OrderOutcome, row: OrderEntry | None) -> bool:
    """A yes was a paid order, whatever became of it later; a no never was one."""
    if row is None:
        return not outcome.success
    was_paid = any(after in PAID for _, after in row.moves)
    if outcome.success:
        return was_paid and outcome.payment_intent == row.payment_intent_id
    return not was_paid and row.status in CLOSED


def _keeps(answer: CancelOutcome, row: OrderEntry | None, *, was_refunded: bool) -> bool:
    """An unknown order may have been placed since, and parked undos are tried again: they may end in any way."""
    status = row.status if row else None
    ends = {Status.CANCELLED} if answer.cancelled else ENDS.get(CancelReason(answer.reason or ""), {status})
    says_refunded = answer.refunded or answer.reason == CancelReason.REFUND_PENDING
    says_not = answer.reason in NOTHING_TO_REFUND
    return status in ends and not (was_refunded and says_not) and not (says_refunded and not was_refunded)


def _both(row: OrderEntry | None, answer: OrderOutcome | CancelOutcome) -> str:
    return f"it is {row.status if row else None}, answered: {answer}"


def _outline(history: WorkflowHistory) -> str:
    return ", ".join(f"{e.event_id} {EventType.Name(e.event_type).removeprefix('EVENT_TYPE_')}" for e in history.events)


def _broken(subject: str, rule: str, what: str) -> Violation:
    return Violation(subject=subject, rule=rule, what=what)
