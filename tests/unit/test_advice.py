"""What `stuck` and `status` say to do about a run that is marked."""

from datetime import UTC, datetime

import pytest

from app.cli.advice import advice_about
from client.runs import Run
from orders.models import Attention, Status
from orders.names import CHECK_INVENTORY, PAYMENT_WARNING, PROCESS_ORDER, RECONCILE_ORDERS
from orders.order_report import ListedOrder, ParkedStep

NOW = datetime.now(UTC)
PARK = ParkedStep(step="void_payment", reason="no", run="o1", since=NOW)


def a_run(workflow: str = PROCESS_ORDER, *, closed: bool = True) -> Run:
    return Run(
        order_id="o1" if workflow == PROCESS_ORDER else None,
        workflow=workflow,
        workflow_id="o1" if workflow == PROCESS_ORDER else f"{workflow}:now",
        run_id="r",
        state="terminated" if closed else "running",
        stage=None,
        outcome=None,
        needs_attention="void_payment",
        started=NOW,
        closed=NOW if closed else None,
    )


def an_order(status: Status, parked: ParkedStep | None = None) -> ListedOrder:
    return ListedOrder(id="o1", status=status, total=5998, currency="usd", created_at=NOW, parked=parked)


@pytest.mark.parametrize(
    ("workflow", "mark", "advice", "command"),
    [
        (RECONCILE_ORDERS, PAYMENT_WARNING, "Stripe dashboard", None),
        (RECONCILE_ORDERS, RECONCILE_ORDERS, "mend SLACK_WEBHOOK", None),
        (CHECK_INVENTORY, "post_shortages", "mend SLACK_WEBHOOK", ".venv/bin/python starter.py check-inventory"),
    ],
)
def test_a_marked_sweep(workflow: str, mark: str, advice: str, command: str | None) -> None:
    """A dispute is answered at Stripe; an alert that could not be sent is Slack's matter."""
    found = advice_about(a_run(workflow), Attention(what=mark, reason=""))
    assert advice in found.text
    assert found.command == command


@pytest.mark.parametrize(
    ("order", "advice", "command"),
    [
        (None, "see what became of the order", "status o1"),
        (an_order(Status.UNDOING, PARK), "a cancel takes over", "cancel-order o1"),
        (an_order(Status.CAPTURING), "reconcile-orders restarts the order", "schedules trigger reconcile-orders"),
    ],
    ids=["unknown", "parked", "unfinished"],
)
def test_a_run_that_is_gone(order: ListedOrder | None, advice: str, command: str) -> None:
    """The row decides: reconcile-orders restarts an order only if it is not parked."""
    found = advice_about(a_run(), Attention(what="void_payment", reason=""), order)
    assert advice in found.text
    assert found.command == f".venv/bin/python starter.py {command}"


@pytest.mark.parametrize(
    ("parked", "actions", "flags"),
    [
        (True, ("retry", "skip", "resolved"), "--retry --reason 'its cause is corrected'"),
        (True, ("retry",), "--retry --reason 'its cause is corrected'"),
        (False, ("retry", "skip", "resolved"), "--resolved --reason 'settled by hand'"),
    ],
)
def test_an_open_run_is_told_what_it_takes(*, parked: bool, actions: tuple[str, ...], flags: str) -> None:
    """The command names the order and the step, in one line."""
    attention = Attention.model_validate({"what": "void_payment", "reason": "", "parked": parked, "actions": actions})
    found = advice_about(a_run(closed=False), attention)
    assert found.command == f".venv/bin/python starter.py resolve o1 --step void_payment {flags}"
