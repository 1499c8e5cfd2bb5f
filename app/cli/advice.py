"""What an operator can do about a run that is marked, or about an order that is parked."""

import shlex
from typing import Final, NamedTuple

from client.runs import Run
from orders.commands import command_line, resolve_command
from orders.models import UNFINISHED, Attention
from orders.names import (
    CHECK_INVENTORY,
    PAYMENT_WARNING,
    PROCESS_ORDER,
    RECONCILE_ORDERS,
    REFUND_STEP,
    VERIFY_ORDERS,
)
from orders.order_report import ListedOrder


class Advice(NamedTuple):
    """What to do, and the command that does it, ready to paste; None: there is no one command."""

    text: str
    command: str | None = None


OF_SWEEPS: Final = {
    CHECK_INVENTORY: Advice(
        "mend SLACK_WEBHOOK, then check again: the alert about low stock was not posted",
        command_line("check-inventory"),
    ),
    RECONCILE_ORDERS: Advice("mend SLACK_WEBHOOK, and read the run's page: its alerts were not posted"),
    VERIFY_ORDERS: Advice("an invariant is broken: see which, and look at the orders", command_line("verify")),
}
LOOK_FIRST: Final = {
    "void_payment": "look at the payment in the Stripe dashboard",
    REFUND_STEP: "look at the payment in the Stripe dashboard",
    "cancel_fulfillment": "ask the warehouse where the goods are",
}
WARNED: Final = Advice("answer it in the Stripe dashboard; a cancel of the order stops goods that have not left")
RESTART: Final = Advice(
    "its run is gone: reconcile-orders restarts the order", command_line("schedules", "trigger", RECONCILE_ORDERS)
)


def advice_about(run: Run | None, attention: Attention, order: ListedOrder | None = None) -> Advice:
    """What to do about one thing that needs an operator.

    `run` is the run that is marked, None if the order's row is parked and no run is known. `order` is its row, None if
    that is not known.
    """
    if attention.what == PAYMENT_WARNING:
        return WARNED
    if run and (advice := OF_SWEEPS.get(run.workflow)):
        return advice
    order_id = order.id if order else (run.order_id if run else None) or ""
    return _resolve(order_id, attention) if attention.actions else _correct(order_id, run, attention, order)


def _correct(order_id: str, run: Run | None, attention: Attention, order: ListedOrder | None) -> Advice:
    """What to do where no run takes a resolution."""
    if attention.what.startswith("notification:"):
        return Advice("it was given up: reach its addressee by other means")
    if attention.what.startswith(PROCESS_ORDER):
        unpause = shlex.join(("temporal", "workflow", "unpause", "--workflow-id", order_id))
        return Advice("let that run go on; if it cannot, terminate it: the cancel then does its work", unpause)
    if run is None or run.closed:
        return _without_run(order_id, attention, order)
    return Advice("the worker retries it by itself: correct the cause")


def _resolve(order_id: str, attention: Attention) -> Advice:
    if not attention.parked:
        return Advice("the worker retries it: correct the cause. What cannot be corrected, docs/operating.md settles")
    command = resolve_command(order_id, attention)
    if attention.actions == ("retry",):
        return Advice("correct the cause, then retry it", command)
    look = LOOK_FIRST.get(attention.what.partition(":")[0], "look at what was not undone")
    return Advice(f"{look}, then resolve it: --retry, --resolved or --skip", command)


def _without_run(order_id: str, attention: Attention, order: ListedOrder | None) -> Advice:
    if order is None:
        text = "its run is gone: once PostgreSQL can be reached, see what became of the order"
        return Advice(text, command_line("status", order_id))
    if order.parked:
        return Advice("its run is gone: a cancel takes over; then resolve it", command_line("cancel-order", order_id))
    if order.status in UNFINISHED:
        return RESTART
    return Advice(f"its run ended before {attention.what} was settled: look at that service, and settle it there")
