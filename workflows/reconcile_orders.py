"""reconcile-orders: repair what sagas alone cannot. A second run right after it finds nothing to do.

It restarts orders whose run is gone, compares orders and payments in both directions, follows refunds, and alerts
operators, once a day, about what only they can decide.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, RetryState

with workflow.unsafe.imports_passed_through():
    from activities.inventory import Inventory
    from activities.order_recovery import OrderRecovery
    from activities.parcels import Parcels
    from activities.payments import Payments
    from activities.reconciliation import Reconciliation
    from activities.shipments import Shipments
    from orders.commands import command_line, resolve_command
    from orders.models import KEPT, Attention
    from orders.names import PAYMENT_WARNING, RECONCILE_ORDERS
    from orders.parsing import parse_nothing
    from orders.reconciliation import (
        OrderEvent,
        OrdersWithoutRun,
        OrderWithoutRun,
        Page,
        Problem,
        ReconcileReport,
        StrayPayment,
        StrayPayments,
        StrayShipment,
    )
    from saga import raise_if_cancelled, reason, run_activity
    from workflows.alerts import BRIEFLY, alert_operators
    from workflows.inputs import parsed
    from workflows.timeline import Timeline

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")

MAX_EVENTS: Final = 40_000  # in the history of one run, which Temporal ends at 51,200
MAX_OUTAGES: Final = 3  # in a row; then the next run does the rest
MAX_ORDERS: Final = 100
MAX_LISTED: Final = 500  # texts of one kind in the report, which must fit into one payload
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


@workflow.defn(name=RECONCILE_ORDERS)
class ReconcileOrders:
    """One pass over the orders, payments and refunds that are not settled."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._restarted: list[str] = []
        self._payments: list[str] = []
        self._shipments: list[str] = []
        self._refunds: list[str] = []
        self._stock: list[str] = []
        self._not_done: list[str] = []
        self._problems: dict[str, Problem] = {}
        self._outages = 0

    @workflow.run
    async def run(self, raw: RawValue = None) -> ReconcileReport:  # type: ignore[assignment]
        """Repair what can be repaired, and alert operators about the rest.

        Raises:
            ApplicationError: `InvalidInput`, naming every field: it takes no input.
        """
        parsed(parse_nothing, raw)
        await self._restart_orders(OrderRecovery.find_orders_without_run, "unfinished orders without a run")
        # Those whose run ended between the order's last step and its confirmation.
        await self._restart_orders(OrderRecovery.find_unconfirmed_orders, "paid orders without a confirmation")
        await self._follow_refunds()
        await self._restart_refunds()
        await self._find_stuck_refunds()
        await self._find_payment_warnings()
        await self._compare(Reconciliation.check_payments, "orders with their payments")
        await self._compare(Reconciliation.find_orphans, "recent payments with their orders")
        await self._check_shipments()
        await self._check_parcels()
        await self._release_stock()
        alerts = await alert_operators(list(self._problems.values()), self._timeline)
        if alerts.failure:
            self._not_done.append(alerts.failure)
        return ReconcileReport(
            restarted=_listed(self._restarted),
            payments=_listed(self._payments),
            shipments=_listed(self._shipments),
            refunds=_listed(self._refunds),
            stock=_listed(self._stock),
            alerted=_listed(alerts.sent),
            not_done=_listed(self._not_done),
        )

    # ------------------------------------------------------------------------------------------------------ the steps

    async def _restart_orders(self, find: Callable[[Any, Page], Awaitable[OrdersWithoutRun]], what: str) -> None:
        self._outages = 0
        page: Page | None = Page(at=BEGINNING)
        while page:
            found = await self._try(find, page, what)
            for order in found.orders if found else ():
                if self._must_stop(what):
                    return
                await self._restart(order)
            page = found.next if found else None

    async def _restart(self, order: OrderWithoutRun) -> None:
        if order.parked:  # an operator decides
            self._report_parked(order.order_id, order.parked, order.parked_by)
            return
        what = f"order {order.order_id}, {order.status} without a run"
        restart = await self._try(OrderRecovery.restart_order, order, what)
        if restart is None or restart.moved:
            return
        if restart.started:
            self._note(self._restarted, f"{what}: {restart.started} started again")
        elif order.status in KEPT:
            self._cannot_confirm(order.order_id)
        else:
            await self._go_forward(order.order_id, what)

    def _report_parked(self, order_id: str, parked: str, run: str | None) -> None:
        """A run that is open takes the resolution. If none is, a cancel takes over the park, and then takes it."""
        step = parked.partition(":")[0]
        attention = Attention(what=step, reason=parked, parked=True, actions=("retry",))
        command = resolve_command(order_id, attention) if run else command_line("cancel-order", order_id)
        self._problem(f"parked:{order_id}", order_id, f"order {order_id} is parked at {parked}", run, command)

    async def _go_forward(self, order_id: str, what: str) -> None:
        """The order may be paid, and its input is gone with its run: finish it here, without its e-mail."""
        captured = await self._try(Payments.capture_payment, order_id, what)
        row = await self._try(Inventory.finalize_order, order_id, what) if captured else None
        if row:
            self._note(self._restarted, f"{what}: captured and finalized")
            self._cannot_confirm(order_id)

    def _cannot_confirm(self, order_id: str) -> None:
        lost = "is paid, but its run and its customer's address are gone, so nobody confirmed it"
        self._problem(f"unconfirmed:{order_id}", order_id, f"order {order_id} {lost}")

    async def _follow_refunds(self) -> None:
        self._outages = 0
        for order_id in await self._try(Reconciliation.find_refunds, MAX_ORDERS, "refunds that may yet change") or ():
            if self._must_stop("refunds that may yet change"):
                return
            changed = await self._try(Reconciliation.follow_refunds, order_id, f"refunds of order {order_id}")
            for text in changed or ():
                self._note(self._refunds, text)

    async def _restart_refunds(self) -> None:
        """Of claims whose run is gone, or whose refund has failed since."""
        self._outages = 0
        what = "refunds of parts without a run"
        page: Page | None = Page(at=BEGINNING)
        while page:
            found = await self._try(OrderRecovery.find_refunds_without_run, page, what)
            for key in found.refunds if found else ():
                if self._must_stop(what):
                    return
                refund = f"refund {key.refund_id} of order {key.order_id}, claimed without a run"
                restart = await self._try(OrderRecovery.restart_refund, key, refund)
                if restart and restart.started:
                    self._note(self._restarted, f"{refund}: {restart.started} started again")
            page = found.next if found else None

    async def _find_stuck_refunds(self) -> None:
        stuck = await self._try(Reconciliation.find_stuck_refunds, MAX_ORDERS, "refunds that do not arrive")
        for problem in stuck or ():
            self._problem(problem.key, problem.order_id, problem.text)

    async def _find_payment_warnings(self) -> None:
        what = "disputes, early fraud warnings and reviews"
        for warned in await self._try(Reconciliation.find_payment_warnings, MAX_ORDERS, what) or ():
            if not warned.is_reported:
                self._problem(warned.key, warned.order_id, warned.text)
            if warned.is_open:
                self._timeline.mark(PAYMENT_WARNING, warned.text)

    async def _compare(self, activity: Callable[[Any, str], Awaitable[StrayPayments]], what: str) -> None:
        self._outages = 0
        after: str | None = ""
        while after is not None and not self._must_stop(f"compare {what}"):
            page = await self._try(activity, after, f"compare {what}")
            for stray in page.found if page else ():
                if self._must_stop(f"compare {what}"):
                    return
                await self._mend(stray)
            after = page.after if page else None

    async def _mend(self, stray: StrayPayment) -> None:
        if stray.remedy == "alert":
            self._problem(stray.key, stray.order_id, stray.description)
            return
        if stray.remedy == "void_payment":
            undone = await self._try(Payments.void_payment, stray.order_id, stray.description)
        else:
            undone = await self._try(Reconciliation.void_orphan, stray, stray.description)
        if undone:
            self._note(self._payments, f"{stray.description}: {undone.note}")
        if undone and stray.remedy == "void_payment":
            event = OrderEvent(order_id=stray.order_id, why=f"{stray.description}: {undone.note}")
            await self._try(Reconciliation.note_event, event, "record the event")

    async def _check_shipments(self) -> None:
        self._outages = 0
        what = "compare orders with their shipments"
        after: str | None = ""
        while after is not None and not self._must_stop(what):
            page = await self._try(Shipments.check_shipments, after, what)
            for text in page.followed if page else ():
                self._note(self._shipments, text)
            for stray in page.found if page else ():
                if self._must_stop(what):
                    return
                await self._cancel(stray)
            after = page.after if page else None

    async def _check_parcels(self) -> None:
        for text in await self._try(Parcels.notify_parcels, MAX_ORDERS, "parcels without a notification") or ():
            self._note(self._shipments, text)
        for text in await self._try(Parcels.refund_shortages, MAX_ORDERS, "what can never leave, to refund it") or ():
            self._note(self._refunds, text)
        what = "parcels that contradict their orders"
        for problem in await self._try(Parcels.find_parcel_problems, MAX_ORDERS, what) or ():
            self._problem(problem.key, problem.order_id, problem.text)

    async def _cancel(self, stray: StrayShipment) -> None:
        if stray.shipment_id is None:
            self._problem(stray.key, stray.order_id, stray.description)
        elif cancelled := await self._try(Shipments.cancel_stray_shipment, stray, stray.description):
            self._note(self._shipments, cancelled.note)

    async def _release_stock(self) -> None:
        for order_id in await self._try(Inventory.release_leftovers, MAX_ORDERS, "stock of closed orders") or ():
            self._note(self._stock, f"order {order_id}: the stock that it still held is back")

    # ----------------------------------------------------------------------------------------------------- the report

    def _problem(self, key: str, order_id: str, text: str, run: str | None = None, command: str | None = None) -> None:
        self._timeline.note(text)
        self._problems[key] = Problem(key=key, order_id=order_id, text=text, run=run, command=command)

    def _note(self, done: list[str], text: str) -> None:
        self._timeline.note(text)
        done.append(text)

    async def _try(
        self, activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, summary: str
    ) -> ResultT | None:
        """The result; None if it is not possible now: the run goes on, and alerts operators."""
        try:
            result = await run_activity(activity, arg, BRIEFLY, summary)
        except ActivityError as error:
            raise_if_cancelled(error)
            self._outages = 0 if error.retry_state is RetryState.NON_RETRYABLE_FAILURE else self._outages + 1
            text = f"{summary}: {reason(error)}"
            self._not_done.append(text)
            self._problem(f"failed:{error.activity_type}:{summary}", "", text)
            return None
        self._outages = 0
        return result

    def _must_stop(self, what: str) -> bool:
        """Whether to leave the rest to the next run, because an outage or a long history holds up what comes after."""
        if self._outages == MAX_OUTAGES:
            self._not_done.append(f"{what}: not the rest, {MAX_OUTAGES} times in a row it was not possible")
            return True
        if workflow.info().get_current_history_length() > MAX_EVENTS:
            self._not_done.append(f"{what}: not the rest, which is more than one run can do")
            return True
        return False


def _listed(texts: Sequence[str]) -> tuple[str, ...]:
    """As many of the texts as the report has room for, and how many more there are."""
    more = len(texts) - MAX_LISTED
    return (*texts[:MAX_LISTED], *([f"and {more} more"] if more > 0 else []))
