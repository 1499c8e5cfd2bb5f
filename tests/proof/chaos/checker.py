"""Waits until all orders have come to rest, then checks every rule."""

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
from client.resolutions import resolve
from client.runs import ABOUT_ORDERS, stuck_runs
from config.temporal import plugin
from gateways.temporal import find_run
from orders.errors import OrderError
from orders.models import (
    CLOSED,
    GONE,
    PAID,
    SETTLED,
    CancelOutcome,
    CancelReason,
    ErrorCode,
    OrderOutcome,
    RefundOutcome,
    RefundReason,
    Status,
)
from orders.names import RECONCILE_NOW, RECONCILE_ORDERS, TASK_QUEUE, notify_shipment_id, refund_order_id
from orders.parcels import SHORTAGE_REFUND
from orders.reconciliation import ReconcileReport
from orders.verification import Violation
from saga import Resolution
from tests.proof.chaos.cluster import Cluster, until_answered
from tests.proof.chaos.load import Load
from tests.proof.second_opinion import second_opinion

CHECK_STOCK_EVERY: Final = 0.5  # seconds
POLL_EVERY: Final = 1.0  # seconds
MAX_REPLAYED: Final = 1000
RECONCILED_WITHIN: Final = 300  # seconds

NO_RECORDS: Final = ProviderRecords(payments=(), fulfillment=())

UNSETTLED: Final = """
    SELECT (SELECT count(*) FROM orders WHERE status <> ALL($1::text[]))
        + (SELECT count(*) FROM order_refunds WHERE status = 'claimed')
"""
PENDING_REFUNDS: Final = "SELECT id FROM refunds WHERE status = 'pending'"

# Until reconcile-orders asks the warehouse about every order, acts on what it knows of goods, and reports the rest.
AN_HOUR_PASSES: Final = """
    WITH short AS (UPDATE shortages SET at = at - interval '2 hours'),
        gone AS (UPDATE shipments SET shipped_at = shipped_at - interval '2 hours')
    UPDATE orders SET shipment_checked_at = NULL
"""
PARCELS: Final = "SELECT order_id, id FROM shipments WHERE shipped_at IS NOT NULL"
SHORTAGES: Final = "SELECT order_id, number FROM shortages"
REFUNDED: Final = "SELECT count(*) FROM order_refunds WHERE starts_with(refund_id, $1) AND status = 'made'"

# Causes of a failed workflow task that are mistakes of the code. Other causes are a worker that died, or a new event.
CODE_ERRORS: Final = {
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
}

# The statuses in which an order may end whose cancel was refused for that reason.
STATUSES_AFTER: Final = {
    CancelReason.ALREADY_CANCELLED: {Status.CANCELLED},
    CancelReason.ALREADY_SHIPPED: GONE,
    CancelReason.ORDER_REJECTED: {Status.REJECTED},
    CancelReason.ORDER_FAILED: {Status.FAILED},
}
# The order goes on, so another submit or `pay` may get another answer.
UNFINISHED_ANSWERS: Final = {ErrorCode.PAYMENT_REQUIRED, ErrorCode.AUTHENTICATION_REQUIRED, ErrorCode.UNDO_PARKED}
NOTHING_TO_REFUND: Final = {CancelReason.AUTHORIZATION_VOIDED, CancelReason.NOT_CHARGED}


class Checker:
    """`retried` counts the parked steps that it retried, as an operator does when the faults are over.

    `parcels` have left, `shortages` never can, of which so many are refunded.
    """

    def __init__(self, cluster: Cluster, units: Mapping[str, int], counted: Mapping[str, int]) -> None:
        """The stock of each product before the first order: `units` for the rules, `counted` for the second opinion."""
        self._cluster = cluster
        self._units = units
        self._counted = counted
        self._seen: dict[Violation, None] = {}  # each once, however often it is found
        self.stock_checks = 0
        self.retried = 0
        self.parcels = 0
        self.shortages = 0
        self.shortages_refunded = 0
        self.runs = 0
        self.replayed = 0

    async def watch_stock(self) -> None:
        """Check again and again that no unit of stock is lost or invented."""
        while True:
            snapshot = await until_answered(lambda: read_snapshot(self._cluster.pool, []))
            self._seen |= dict.fromkeys(violations(Evidence(snapshot, NO_RECORDS, self._units)))
            self.stock_checks += 1
            await asyncio.sleep(CHECK_STOCK_EVERY)

    async def rest(self) -> None:
        """Wait until every order has come to rest; meanwhile act as the operators, the banks and the Schedule."""
        while not await until_answered(self._is_quiet):
            await until_answered(self._settle_refunds)
            await until_answered(self._retry_what_is_parked)
            await until_answered(self._reconcile)
            await asyncio.sleep(POLL_EVERY)

    async def let_an_hour_pass(self) -> None:
        """Reconcile twice more, and wait for the runs about goods.

        The first time finds what events have not told, the second one notifies of it and refunds it.
        """
        pool, client = self._cluster.pool, self._cluster.client
        for _ in range(2):
            await until_answered(lambda: pool.execute(AN_HOUR_PASSES))
            await self._reconcile()
        parcels, shortages = await pool.fetch(PARCELS), await pool.fetch(SHORTAGES)
        runs = [notify_shipment_id(each["order_id"], each["id"]) for each in parcels]
        runs += [refund_order_id(each["order_id"], f"{SHORTAGE_REFUND}{each['number']}") for each in shortages]
        for run in runs:
            if await find_run(client, run):
                with suppress(WorkflowFailureError):
                    await client.get_workflow_handle(run).result()
        self.parcels, self.shortages = len(parcels), len(shortages)
        self.shortages_refunded = await pool.fetchval(REFUNDED, SHORTAGE_REFUND)

    async def check(self, load: Load) -> tuple[DatabaseSnapshot, list[Violation]]:
        """All violations: of the rules, of the answers that customers got, and of the runs' histories."""
        await self._reconcile()
        found: list[Violation] = []
        if (idle := await self._reconcile()) != ReconcileReport():
            found.append(_violation(RECONCILE_ORDERS, "a second reconciliation does nothing", str(idle)))
        snapshot = await read_snapshot(self._cluster.pool)
        runs = await read_runs(self._cluster.client, [order.id for order in snapshot.orders], snapshot.claimed)
        records = await self._cluster.records()
        found += violations(Evidence(snapshot, records, self._units, runs))
        found += wrong_answers(snapshot, records, load.orders, load.cancels)
        found += wrong_refunds(snapshot, load.refunds)
        found += [
            _violation("the shop", "a second opinion agrees", what)
            for what in await second_opinion(self._cluster.pool, self._cluster.sandbox, self._counted)
        ]
        found += await self._replay()
        return snapshot, [*self._seen, *found]

    async def _is_quiet(self) -> bool:
        unsettled = await self._cluster.pool.fetchval(UNSETTLED, [*SETTLED])
        still = await self._cluster.client.count_workflows(f"{ABOUT_ORDERS} AND ExecutionStatus = 'Running'")
        return not unsettled and not still.count and not await self._cluster.pool.fetch(PENDING_REFUNDS)

    async def _settle_refunds(self) -> None:
        """Let the banks complete the pending refunds."""
        for row in await self._cluster.pool.fetch(PENDING_REFUNDS):
            await self._cluster.sandbox.post(f"/_sandbox/settle/{row['id']}", json={"outcome": "succeed"})

    async def _retry_what_is_parked(self) -> None:
        for stuck in await stuck_runs(self._cluster.client, limit=200):
            for step in stuck.parked:
                resolution = Resolution(step=step, action="retry", reason="the faults are over", by="chaos")
                with suppress(OrderError):  # the order is no longer parked
                    await resolve(self._cluster.client, stuck.run.order_id or "", resolution)
                    self.retried += 1

    async def _reconcile(self) -> ReconcileReport | None:
        """Run a reconciliation; None if it failed or did not end, which is a violation."""
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
            what = f"it failed: {error.cause}" if isinstance(error, WorkflowFailureError) else "it does not end"
            self._seen[_violation(RECONCILE_ORDERS, "reconciliation ends", what)] = None
        return None

    async def _replay(self) -> list[Violation]:
        """Violations by runs that cannot be replayed, or whose code failed a workflow task."""
        found: list[Violation] = []
        replayer = Replayer(workflows=WORKFLOWS, plugins=[plugin()])
        async with replayer.workflow_replay_iterator(self._histories(found)) as replays:
            async for replay in replays:
                self.replayed += 1
                if replay.replay_failure:
                    what = f"its replay fails: {replay.replay_failure}; its events: {_outline(replay.history)}"
                    found.append(_violation(replay.history.workflow_id, "every history can be replayed", what))
        return found

    async def _histories(self, found: list[Violation]) -> AsyncIterator[WorkflowHistory]:
        self.runs = (await self._cluster.client.count_workflows()).count
        runs = self._cluster.client.list_workflows(limit=MAX_REPLAYED)
        async for history in runs.map_histories():
            for event in history.events:
                cause = event.workflow_task_failed_event_attributes.cause
                if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED and cause in CODE_ERRORS:
                    failure = event.workflow_task_failed_event_attributes.failure.message
                    found.append(_violation(history.workflow_id, "the code fails no workflow task", failure))
            yield history


def wrong_answers(
    snapshot: DatabaseSnapshot,
    records: ProviderRecords,
    orders: Mapping[str, list[OrderOutcome]],
    cancels: Mapping[str, list[CancelOutcome]],
) -> Iterator[Violation]:
    """Violations by answers that do not fit the order's end."""
    rows = {order.id: order for order in snapshot.orders}
    refunded = {payment.order for payment in records.payments if payment.refunded}
    for order_id, outcomes in orders.items():
        row = rows.get(order_id)
        for outcome in outcomes:
            if outcome.error_code not in UNFINISHED_ANSWERS and not _order_fits(outcome, row):
                yield _violation(order_id, "an order ends as its customer was answered", _describe(row, outcome))
    for order_id, answers in cancels.items():
        row = rows.get(order_id)
        for answer in answers:
            if not _cancel_fits(answer, row, was_refunded=order_id in refunded):
                yield _violation(order_id, "a cancel ends as its customer was answered", _describe(row, answer))


def wrong_refunds(snapshot: DatabaseSnapshot, refunds: Mapping[str, list[RefundOutcome]]) -> Iterator[Violation]:
    """Violations by refunds that were answered as made and are not, or the other way round."""
    made = {(order.id, each.refund_id) for order in snapshot.orders for each in order.refunds if each.status == "made"}
    withdrawn = {
        order.id: order.status for order in snapshot.orders if any(each.status == "withdrawn" for each in order.refunds)
    }
    for order_id, outcomes in refunds.items():
        for outcome in outcomes:
            is_made = (order_id, outcome.refund_id) in made
            if outcome.reason == RefundReason.REFUND_PARKED or outcome.refunded == is_made:
                continue
            # The refund of a part that fails after its order was cancelled is refunded with the rest of the order.
            if not (outcome.refunded and withdrawn.get(order_id) in CLOSED):
                what = f"it is {'made' if is_made else 'not made'}, the answer was {outcome}"
                yield _violation(order_id, "a refund ends as its customer was answered", what)


def _order_fits(outcome: OrderOutcome, row: OrderEntry | None) -> bool:
    """Success means that the order was paid at some time; a refusal, that it never was."""
    if row is None:
        return not outcome.success
    was_paid = any(after in PAID for _, after in row.moves)
    if outcome.success:
        return was_paid and outcome.payment_intent == row.payment_intent_id
    return not was_paid and row.status in CLOSED


def _cancel_fits(answer: CancelOutcome, row: OrderEntry | None, *, was_refunded: bool) -> bool:
    """An unknown order may be placed later, and a parked undo is retried: both may end in any status."""
    status = row.status if row else None
    statuses = (
        {Status.CANCELLED} if answer.cancelled else STATUSES_AFTER.get(CancelReason(answer.reason or ""), {status})
    )
    says_refunded = answer.refunded or answer.reason == CancelReason.REFUND_PENDING
    says_not = answer.reason in NOTHING_TO_REFUND
    return status in statuses and not (was_refunded and says_not) and not (says_refunded and not was_refunded)


def _describe(row: OrderEntry | None, answer: OrderOutcome | CancelOutcome) -> str:
    return f"the order is {row.status if row else None}, the answer was {answer}"


def _outline(history: WorkflowHistory) -> str:
    return ", ".join(f"{e.event_id} {EventType.Name(e.event_type).removeprefix('EVENT_TYPE_')}" for e in history.events)


def _violation(subject: str, rule: str, what: str) -> Violation:
    return Violation(subject=subject, rule=rule, what=what)
