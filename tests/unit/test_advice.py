"""What `stuck` and `status` say to do about a run that is marked."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.cli.advice import advice_about
from app.cli.standing import standing_run, standing_runs
from client.runs import Run, StuckRun
from orders.models import Attention, Status
from orders.names import CHECK_INVENTORY, PAYMENT_WARNING, PROCESS_ORDER, RECONCILE_ORDERS, VERIFY_ORDERS
from orders.order_report import ListedOrder, ParkedStep

ROOT = Path(__file__).parents[2]
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
        (CHECK_INVENTORY, "post_low_stock", "mend SLACK_WEBHOOK", ".venv/bin/python starter.py check-inventory"),
    ],
)
def test_a_marked_sweep(workflow: str, mark: str, advice: str, command: str | None) -> None:
    """A dispute is answered at Stripe; an alert that could not be sent is Slack's matter."""
    found = advice_about(a_run(workflow), Attention(what=mark, reason=""))
    assert advice in found.text
    assert found.command == command


@pytest.mark.parametrize(
    ("workflow", "mark", "parked", "waits"),
    [
        (RECONCILE_ORDERS, PAYMENT_WARNING, False, False),
        (RECONCILE_ORDERS, RECONCILE_ORDERS, False, True),
        (VERIFY_ORDERS, VERIFY_ORDERS, False, True),
        (PROCESS_ORDER, "void_payment", True, True),
        (PROCESS_ORDER, "notification:order_confirmation", False, False),
    ],
    ids=["a dispute", "an alert that was not sent", "a broken invariant", "a parked undo", "a message given up"],
)
def test_what_waits_for_an_operator(workflow: str, mark: str, *, parked: bool, waits: bool) -> None:
    """By this the exit status of `stuck` is 5: who pages by it is not paged until a bank decides about a dispute."""
    attention = Attention(what=mark, reason="", parked=parked)
    run = StuckRun(run=a_run(workflow), since=NOW, parked=(), attention=(attention,))
    (need,) = standing_runs([run], {}, [])
    assert need.waits_for_operator is waits


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
    ("actions", "flags"),
    [
        (("retry", "skip", "resolved"), "--retry --reason 'its cause is corrected'"),
        (("retry",), "--retry --reason 'its cause is corrected'"),
    ],
)
def test_an_open_run_is_told_what_it_takes(actions: tuple[str, ...], flags: str) -> None:
    """The command names the order and the step, in one line."""
    attention = Attention.model_validate({"what": "void_payment", "reason": "", "parked": True, "actions": actions})
    found = advice_about(a_run(closed=False), attention)
    assert found.command == f".venv/bin/python starter.py resolve o1 --step void_payment {flags}"


@pytest.mark.parametrize("actions", [("retry", "skip", "resolved"), ("retry",)])
def test_nothing_to_paste_leaves_a_step_undone_that_is_retried(actions: tuple[str, ...]) -> None:
    """The worker goes on with it: a refund that an operator calls settled would never be made."""
    attention = Attention.model_validate({"what": "void_payment", "reason": "", "actions": actions})
    found = advice_about(a_run(closed=False), attention)
    assert "correct the cause" in found.text
    assert found.command is None


def test_the_command_for_a_paused_run_is_quoted() -> None:
    """Any client may start a run under any id."""
    attention = Attention(what="process-order is held up", reason="")
    run = a_run(closed=False).model_copy(update={"order_id": "a; rm -rf x"})
    found = advice_about(run, attention)
    assert found.command == "temporal workflow unpause --workflow-id 'a; rm -rf x'"


def test_a_parked_order_is_parked_where_no_worker_answers() -> None:
    """The row tells so, and the run is open: it takes the resolution once a worker is back."""
    (need,) = standing_run(a_run(closed=False), None, an_order(Status.UNDOING, PARK)).needs
    assert need.attention.parked
    assert "resolve o1 --step void_payment --retry" in str(need.advice.command)


def test_a_step_that_the_row_does_not_tell_of_outlives_its_run() -> None:
    """An independent undo of a run that was terminated is settled by nobody else."""
    run = a_run().model_copy(update={"state": "terminated", "needs_attention": "close_review"})
    (need,) = standing_run(run, None, an_order(Status.REJECTED)).needs
    assert "look at that service" in need.advice.text
    assert not standing_run(run.model_copy(update={"state": "failed"}), None, an_order(Status.REJECTED)).needs
    assert not standing_run(
        run.model_copy(update={"needs_attention": "void_payment"}), None, an_order(Status.REJECTED)
    ).needs


@pytest.mark.parametrize(
    ("prefix", "said"), [("/a/.venv", ".venv/bin/python starter.py"), ("/srv/venv", "python starter.py")]
)
def test_a_command_begins_as_the_program_was_started(prefix: str, said: str) -> None:
    """On a laptop with the project's own Python, in the image with the one that is on its path."""
    code = f"import sys; sys.prefix = {prefix!r}; from orders.commands import command_line; print(command_line('list'))"
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)  # noqa: S603 (our own code)
    assert shown == f"{said} list\n"
