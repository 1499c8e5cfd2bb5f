"""What `stuck` says to do about a run that is marked."""

from datetime import UTC, datetime

import pytest

from app.cli.show import advice_about
from client.runs import Run, StuckRun
from orders.names import PAYMENT_WARNING, RECONCILE_ORDERS


@pytest.mark.parametrize(
    ("mark", "advice"), [(PAYMENT_WARNING, "Stripe dashboard"), (RECONCILE_ORDERS, "mend SLACK_WEBHOOK")]
)
def test_a_marked_sweep(mark: str, advice: str) -> None:
    """A dispute is answered at Stripe; an alert that could not be sent is Slack's matter."""
    now = datetime.now(UTC)
    run = Run(
        order_id=None,
        workflow=RECONCILE_ORDERS,
        workflow_id="reconcile-orders:now",
        run_id="r",
        state="completed",
        stage=None,
        needs_attention=mark,
        started=now,
        closed=now,
    )
    assert advice in advice_about(StuckRun(run=run, since=now, parked=()))
