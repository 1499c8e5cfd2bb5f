"""The command verify."""

import uuid

import typer

from app.cli.command import Environment, Exit, Result, command, progress
from app.cli.show import show_verdict
from client.reports import verify_orders
from client.runs import view_timeline
from orders.names import VERIFY_ORDERS
from orders.verification import VerifyReport

app = typer.Typer()


@command(app, "verify")
async def verify(environment: Environment) -> Result:
    """Check the orders of the last days, and the stock, against the invariants."""
    session = await environment.connect()
    run = f"{VERIFY_ORDERS}:{uuid.uuid4().hex[:12]}"
    async with progress(session, run, view_timeline):
        report = await verify_orders(session.client, run)
    return session.result(run, report, show_verdict, _status_of(report))


def _status_of(report: VerifyReport) -> Exit:
    if report.count:
        return Exit.NO
    return Exit.NO_ANSWER if report.unverified else Exit.DONE
