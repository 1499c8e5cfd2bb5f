"""The command forget."""

import json
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import typer
from rich.console import Console
from temporalio.client import Client

from app.cli.command import Environment, Exit, Result, command
from app.cli.layout import count_of, show, table
from app.startup_checks import PRIVACY_CHECKS, open_database
from client.runs import of_refunds, of_the_customer
from gateways.erasure_store import OwnOrder, find_orders_of, forget_orders
from gateways.temporal import FoundRun, delete_run, find_run, find_runs
from orders.names import cancel_order_id, notify_shipment_id
from orders.parsing import check_operator_texts, parse_customer

A_REASON: Final = "the customer asks for it"
MAX_RUNS: Final = 100_000

app = typer.Typer()


class Left(NamedTuple):
    """An order that is not forgotten yet, and why."""

    order_id: str
    why: str


@command(app, "forget")
async def forget(
    environment: Environment,
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="The customer's id.", show_default=False)],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased, and change nothing.")] = False,
    by: Annotated[str, typer.Option(envvar="USER", help="Who erases.")] = "operator",
) -> Result:
    """Erase what is personal of a customer's orders that are over. DATABASE_URL: role orders_privacy.

    Their histories are deleted from Temporal; in PostgreSQL money, stock, states and times stay. Orders that are not
    over are left, and named: run it again when they are. docs/privacy.md says what else such a request needs.
    """
    parse_customer({"customerId": customer})
    check_operator_texts(A_REASON, by)
    session = await environment.connect()
    async with open_database(environment.settings, checks=PRIVACY_CHECKS) as database:
        found = await _find(session.client, customer, await find_orders_of(database, customer))
        erased = 0
        if not dry_run:
            # Histories first: whatever ends this command, the rows still say what is left to do.
            for run in found.histories:
                await delete_run(session.client, run.workflow_id, run.run_id)
            erased = await forget_orders(database, customer, found.over, by)
    return Result(
        {
            "orders": found.over,
            "erased": erased,
            "histories": [{"workflowId": run.workflow_id, "runId": run.run_id} for run in found.histories],
            "left": [{"orderId": each.order_id, "why": each.why} for each in found.left],
        },
        lambda out: _show(out, found, dry_run=dry_run),
        Exit.NO if found.left else Exit.DONE,
    )


class Found(NamedTuple):
    """What there is of a customer: orders that are over, the runs of theirs that are closed, and what is not over."""

    over: Sequence[str]
    histories: Sequence[FoundRun]
    left: Sequence[Left]


async def _find(client: Client, customer: str, orders: Sequence[OwnOrder]) -> Found:
    over, left = [], []
    histories: dict[str, FoundRun] = {}
    for order in orders:
        runs = await _runs_of(client, order.id)
        is_open = next((f"its run {run.workflow_id} is {run.state}" for run in runs if run.is_open), None)
        if why := order.why_left or is_open:
            left.append(Left(order.id, why))
        else:
            over.append(order.id)
            histories |= {run.run_id: run for run in runs}
    known = {order.id for order in orders}
    async for run in find_runs(client, of_the_customer(client, customer), MAX_RUNS):
        if run.workflow_id not in known and run.is_open:
            left.append(Left(run.workflow_id, f"its run is {run.state}"))
        elif run.workflow_id not in known:  # refused before it had a row
            histories[run.run_id] = run
    return Found(over, [*histories.values()], left)


async def _runs_of(client: Client, order_id: str) -> list[FoundRun]:
    """All runs about an order. Lists lag behind, so the latest ones are asked for."""
    ids = (order_id, cancel_order_id(order_id))
    latest = [run for each in ids if (run := await find_run(client, each))]
    parcels = json.dumps(notify_shipment_id(order_id, ""))
    of_order = f"WorkflowId IN ({', '.join(map(json.dumps, ids))})"
    query = f"{of_order} OR {of_refunds(order_id)} OR WorkflowId STARTS_WITH {parcels}"
    listed = {run.run_id: run async for run in find_runs(client, query, MAX_RUNS)}
    return [*(listed | {run.run_id: run for run in latest}).values()]


def _show(out: Console, found: Found, *, dry_run: bool) -> None:
    if found.left:
        table(out, ("order", "is left because"), found.left)
    facts = {
        "histories deleted": str(len(found.histories)),
        "applied": "no: leave out --dry-run to erase them" if dry_run else "yes",
        "left": f"{count_of(len(found.left), 'order')}: run this again when they are over" if found.left else None,
    }
    show(out, f"{count_of(len(found.over), 'order')} forgotten", facts)
