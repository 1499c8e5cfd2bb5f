"""The commands about orders: process-order, cancel-order, status, list, stuck, resolve."""

import sys
import uuid
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from temporalio.client import Client

from app.cli.command import Environment, Exit, Result, command, progress
from app.cli.layout import show
from app.cli.show import (
    humanize,
    json_of,
    run_json,
    show_cancel,
    show_order,
    show_runs,
    show_status,
    show_stuck,
)
from app.startup_checks import CannotStart, open_database
from client.orders import cancel_order, read_order, read_resolution, resolve, submit
from client.runs import StuckRun, list_runs, order_runs, stuck_runs, view_run
from config.settings import read_settings
from gateways.warning_store import read_warnings
from orders.errors import InvalidInput, Unavailable
from orders.models import CancelOutcome, CancelReason, ErrorCode, OrderOutcome, Stage
from orders.names import SWEEPS, cancel_order_id
from orders.parsing import MAX_INPUT, parse_cancel

TECHNICAL: Final = frozenset({ErrorCode.FAILED, ErrorCode.AUTHORIZATION_EXPIRED})

OrderId = Annotated[str, typer.Argument(metavar="ID", help="The order's id.", show_default=False)]

app = typer.Typer()


@command(app, "process-order")
async def process_order(
    environment: Environment,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The order as JSON; - reads standard input.")],
    order_id: Annotated[
        str | None, typer.Option(help="The order's id, to submit the order again later. Default: a new one.")
    ] = None,
) -> Result:
    """Place an order and wait for its outcome. The same order submitted again is still one order."""
    submission = read_order(order_id or f"order-{uuid.uuid4().hex[:12]}", _read(file))
    session = await environment.connect()
    async with progress(session, submission.order.id, _stage):
        outcome = await submit(session.client, submission)
    return session.result(submission.order.id, outcome, show_order, _status_of_order(outcome))


@command(app, "cancel-order")
async def cancel(
    environment: Environment,
    order_id: OrderId,
    email: Annotated[str | None, typer.Option(help="The address that gets the confirmation.")] = None,
) -> Result:
    """Cancel an order at any moment of its life, and wait for the outcome."""
    parse_cancel({"orderId": order_id, "customerEmail": email})  # refused before anything is connected
    session = await environment.connect()
    async with progress(session, cancel_order_id(order_id), _stage):
        outcome = await cancel_order(session.client, order_id, email)
    return session.result(
        cancel_order_id(order_id),
        outcome,
        lambda out, found, link: show_cancel(out, order_id, found, link),
        _status_of_cancel(outcome),
    )


@command(app, "status")
async def status(environment: Environment, order_id: OrderId) -> Result:
    """Show where an order stands."""
    session = await environment.connect()
    found = [
        (run, await view_run(session.client, run.workflow_id)) for run in await order_runs(session.client, order_id)
    ]
    is_parked = any(view and view.stuck and not run.closed for run, view in found)
    warnings = await _warnings(order_id)
    return Result(
        [run_json(session, run) | {"view": json_of(view), "warnings": warnings} for run, view in found],
        lambda out: show_status(out, session, found, warnings),
        Exit.NEEDS_OPERATOR if is_parked else Exit.DONE,
    )


@command(app, "list")
async def list_(
    environment: Environment,
    stage: Annotated[Stage | None, typer.Option(help="Only runs at this stage.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 20,
) -> Result:
    """List the newest runs."""
    session = await environment.connect()
    runs = await list_runs(session.client, stage=stage, limit=limit)
    return Result([run_json(session, run) for run in runs], lambda out: show_runs(out, session, runs))


@command(app, "stuck")
async def stuck(environment: Environment) -> Result:
    """List the runs that are marked for an operator: at which step, since when, and what to do."""
    session = await environment.connect()
    found = await stuck_runs(session.client)
    return Result(
        [each.model_dump(mode="json") | {"run": run_json(session, each.run)} for each in found],
        lambda out: show_stuck(out, session, found),
        Exit.NEEDS_OPERATOR if any(map(_waits_for_operator, found)) else Exit.DONE,
    )


@command(app, "resolve")
async def resolve_step(  # noqa: PLR0913 (one argument for each option)
    environment: Environment,
    order_id: OrderId,
    *,
    step: Annotated[str, typer.Option(help="The parked step, as `stuck` shows it.")],
    retry: Annotated[bool, typer.Option("--retry", help="Try the step again; its cause is mended.")] = False,
    skip: Annotated[bool, typer.Option("--skip", help="Leave the step undone.")] = False,
    resolved: Annotated[bool, typer.Option("--resolved", help="The step was settled by hand.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for later readers.")],
    by: Annotated[str, typer.Option(envvar="USER", help="Who decides.")] = "operator",
) -> Result:
    """Decide what becomes of a parked step: --retry, --skip or --resolved."""
    flags: dict[Literal["retry", "skip", "resolved"], bool] = {"retry": retry, "skip": skip, "resolved": resolved}
    actions = [action for action, given in flags.items() if given]
    if len(actions) != 1:
        raise typer.BadParameter("give one of --retry, --skip and --resolved")
    resolution = read_resolution(step, actions[0], reason, by)
    session = await environment.connect()
    answer = await resolve(session.client, order_id, resolution)
    link = session.link(order_id)
    return Result({"resolved": answer, "link": link}, lambda out: show(out, f"{order_id}: {answer}", {"Web UI": link}))


async def _stage(client: Client, workflow_id: str) -> str | None:
    view = await view_run(client, workflow_id)
    return humanize(view.stage) if view and view.stage else None


def _waits_for_operator(found: StuckRun) -> bool:
    """Whether the run cannot go on by itself: an undo is parked, or what a sweep found could not be alerted."""
    return bool(found.parked) or found.run.workflow in SWEEPS


def _read(file: str) -> bytes:
    """No more than is ever accepted, so that a huge file costs nothing."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(MAX_INPUT + 1)
        with Path(file).open("rb") as opened:
            return opened.read(MAX_INPUT + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput([f"{file}: {getattr(error, 'strerror', None) or error}"]) from None


async def _warnings(order_id: str) -> list[str]:
    """Disputes, early fraud warnings and reviews of the order's payment, or why they are not known."""
    try:
        async with open_database(read_settings()) as database:
            found = await read_warnings(database, order_id)
    except (CannotStart, InvalidInput, Unavailable) as error:
        return [f"not known: {error}"]
    return [f"{each['kind']} {each['id']} {each['status']} ({each['reason']}), {each['at']:%Y-%m-%d}" for each in found]


def _status_of_order(outcome: OrderOutcome) -> Exit:
    if outcome.success:
        return Exit.DONE
    if outcome.error_code is ErrorCode.UNDO_PARKED:
        return Exit.NEEDS_OPERATOR
    return Exit.FAILED if outcome.error_code in TECHNICAL else Exit.NO


def _status_of_cancel(outcome: CancelOutcome) -> Exit:
    if outcome.reason == CancelReason.UNDO_PARKED:
        return Exit.NEEDS_OPERATOR
    return Exit.DONE if outcome.cancelled else Exit.NO
