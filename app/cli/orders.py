"""The commands about orders: process-order, pay, cancel-order, refund, status, list, stuck, resolve."""

import sys
import uuid
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final

import typer
from temporalio.client import Client

from app.cli.command import Environment, Exit, Result, command, progress
from app.cli.layout import count_of, show
from app.cli.show import (
    TECHNICAL,
    humanize,
    json_of,
    run_json,
    show_cancel,
    show_order,
    show_orders,
    show_refund,
    show_retry,
    show_runs,
    show_status,
    show_stuck,
)
from app.cli.standing import StandingRun, from_database, needs_of, standing_run, standing_runs
from app.startup_checks import CannotStart
from client.orders import (
    cancel_order,
    pay_order,
    read_order,
    read_refund,
    refund_order,
    submit,
)
from client.resolutions import follow_retry, read_resolution, resolve
from client.runs import count_unlisted, list_runs, order_runs, stuck_runs, view_run
from gateways.report_store import find_parked, list_orders, read_report
from orders.commands import command_line, resolve_command
from orders.errors import InvalidInput, UnknownOrder
from orders.models import (
    CancelOutcome,
    CancelReason,
    ErrorCode,
    OrderOutcome,
    RefundOutcome,
    RefundReason,
    ResolutionAction,
    Stage,
    Status,
)
from orders.names import NEEDS_ATTENTION, cancel_order_id, refund_order_id
from orders.order_report import ListedOrder, OrderReport
from orders.parsing import MAX_INPUT, parse_cancel, parse_customer, parse_pay

FOLLOWED_FOR: Final = timedelta(minutes=1)
MAX_STUCK: Final = 50  # marked runs that `stuck` lists: so many open ones, and so many closed ones
MAX_PARKED: Final = 50  # orders that `stuck` lists of those that are parked without a run
AFTER_RETRY: Final = {
    "done": Exit.DONE,
    "parked": Exit.NEEDS_OPERATOR,
    "under_way": Exit.NO_ANSWER,
    "ended": Exit.NEEDS_OPERATOR,
}

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
    async with progress(session, submission.order.id, _stage, submission.order.id):
        outcome = await submit(session.client, submission)
    return session.result(submission.order.id, outcome, show_order, _status_of_order(outcome))


@command(app, "pay")
async def pay(
    environment: Environment,
    order_id: OrderId,
    *,
    payment_method: Annotated[str, typer.Option(help="An id of Stripe, such as pm_123.", show_default=False)],
) -> Result:
    """Pay an order whose payment was refused with another payment method, and wait for the answer."""
    parse_pay({"paymentMethodId": payment_method})  # refused before anything is connected
    session = await environment.connect()
    async with progress(session, order_id, _stage, order_id):
        outcome = await pay_order(session.client, order_id, payment_method)
    return session.result(order_id, outcome, show_order, _status_of_order(outcome))


@command(app, "cancel-order")
async def cancel(
    environment: Environment,
    order_id: OrderId,
    email: Annotated[str | None, typer.Option(help="The address that gets the confirmation.")] = None,
) -> Result:
    """Cancel an order at any moment of its life, and wait for the outcome."""
    parse_cancel({"orderId": order_id, "customerEmail": email})  # refused before anything is connected
    session = await environment.connect()
    async with progress(session, cancel_order_id(order_id), _stage, order_id):
        outcome = await cancel_order(session.client, order_id, email)
    return session.result(
        cancel_order_id(order_id),
        outcome,
        lambda out, found, link: show_cancel(out, order_id, found, link),
        _status_of_cancel(outcome),
    )


@command(app, "refund")
async def refund(  # noqa: PLR0913 (one argument for each option)
    environment: Environment,
    order_id: OrderId,
    *,
    refund_id: Annotated[
        str | None, typer.Option(help="The refund's id, to ask for it again later. Default: a new one.")
    ] = None,
    line: Annotated[
        list[str], typer.Option(metavar="PRODUCT:UNITS", help="Units that do not come back into stock; repeatable.")
    ] = [],  # noqa: B006 (typer needs it)
    restock: Annotated[
        list[str], typer.Option(metavar="PRODUCT:UNITS", help="Units that go back into stock; repeatable.")
    ] = [],  # noqa: B006 (typer needs it)
    charge: Annotated[list[str], typer.Option(metavar="TYPE:AMOUNT", help="Of shipping, tax or fee; repeatable.")] = [],  # noqa: B006 (typer needs it)
    amount: Annotated[
        str | None, typer.Option(help="What is refunded. Default: the prices of the units, and the charges.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for later readers.")] = None,
    email: Annotated[str | None, typer.Option(help="The address that gets the confirmation.")] = None,
) -> Result:
    """Refund a part of a paid order, and wait for the outcome. The same refund id again is still one refund."""
    refund_id = refund_id or f"refund-{uuid.uuid4().hex[:12]}"
    asked = {
        "orderId": order_id,
        "refundId": refund_id,
        "lines": [
            *(_units("--line", each) | {"restock": False} for each in line),
            *(_units("--restock", each) | {"restock": True} for each in restock),
        ],
        "charges": [
            {"type": type_, "amount": _number("--charge", number)}
            for type_, _, number in (each.rpartition(":") for each in charge)
        ],
        "amount": None if amount is None else _number("--amount", amount),
        "reason": reason,
        "customerEmail": email,
    }
    read_refund(asked)  # refused before anything is connected
    session = await environment.connect()
    run = refund_order_id(order_id, refund_id)
    async with progress(session, run, _stage, order_id):
        outcome = await refund_order(session.client, asked)
    return session.result(
        run, outcome, lambda out, found, link: show_refund(out, order_id, found, link), _status_of_refund(outcome)
    )


@command(app, "status")
async def status(environment: Environment, order_id: OrderId) -> Result:
    """Show where an order stands: what its row says, what it waits for, and its runs."""
    session = await environment.connect()
    order, missing = None, ""
    try:
        order = await from_database(environment.settings, lambda database: read_report(database, order_id))
    except CannotStart as error:
        missing = str(error)
    runs = await _runs_of(session.client, order_id, order, missing)
    needs = needs_of(order, runs)
    is_parked = (order is not None and order.parked is not None) or any(each.attention.parked for each in needs)
    return Result(
        {
            "order": order.as_json() if order else None,
            "orderNotKnown": missing or None,
            "attention": [each.json for each in needs],
            "runs": [run_json(session, each.run) | {"view": json_of(each.view)} for each in runs],
        },
        lambda out: show_status(out, session, order, missing, needs, runs),
        Exit.NEEDS_OPERATOR if is_parked else Exit.DONE,
    )


@command(app, "list")
async def list_(  # noqa: PLR0913 (one argument for each option)
    environment: Environment,
    *,
    status: Annotated[Status | None, typer.Option(help="Only orders of this status.")] = None,
    runs: Annotated[bool, typer.Option("--runs", help="List runs, as Temporal has them.")] = False,
    stage: Annotated[Stage | None, typer.Option(help="With --runs: only runs at this stage.")] = None,
    customer: Annotated[str | None, typer.Option(help="Only those of this customer.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 20,
) -> Result:
    """List the newest orders, as PostgreSQL has them; or the newest runs."""
    if runs and status:
        raise typer.BadParameter("--status is for orders; of runs give the --stage")
    if stage and not runs:
        raise typer.BadParameter("--stage is for --runs; of orders give the --status")
    if customer is not None:
        parse_customer({"customerId": customer})
    if runs:
        session = await environment.connect()
        found = await list_runs(session.client, stage=stage, customer=customer, limit=limit)
        return Result([run_json(session, run) for run in found], lambda out: show_runs(out, session, found))
    try:
        orders = await from_database(
            environment.settings,
            lambda database: list_orders(database, status=status, customer=customer, limit=limit),
        )
    except CannotStart as error:
        raise CannotStart(f"{error}. `{command_line('list', '--runs')}` lists the runs that Temporal has") from error
    return Result([each.as_json() for each in orders], lambda out: show_orders(out, orders))


@command(app, "stuck")
async def stuck(environment: Environment) -> Result:
    """List what needs an operator: at which step and why, since when, over which amount, and what to do."""
    session = await environment.connect()
    found = await stuck_runs(session.client, limit=MAX_STUCK)
    if unlisted := await count_unlisted(session.client, found, MAX_STUCK):
        text = f"{count_of(unlisted, 'more run')} {'is' if unlisted == 1 else 'are'} marked, and not listed"
        sys.stderr.write(f"{text}: {NEEDS_ATTENTION.name} IS NOT NULL lists all in the Web UI.\n")
    ids = [each.run.order_id for each in found if each.run.order_id]
    named: dict[str, ListedOrder] = {}
    parked: list[ListedOrder] = []
    missing = ""
    try:
        named, parked, more = await from_database(
            environment.settings, lambda database: find_parked(database, ids, MAX_PARKED)
        )
        if more:
            oldest = f"those without a run are listed if they are among the {MAX_PARKED} oldest"
            sys.stderr.write(f"More than {MAX_PARKED} orders are parked; {oldest}.\n")
    except CannotStart as error:
        missing = str(error)
    needs = standing_runs(found, named, parked)
    return Result(
        [
            each.json | {"orderId": each.order_id, "run": run_json(session, each.run) if each.run else None}
            for each in needs
        ],
        lambda out: show_stuck(out, session, needs, missing),
        Exit.NEEDS_OPERATOR if any(each.waits_for_operator for each in needs) else Exit.DONE,
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
    flags: dict[ResolutionAction, bool] = {"retry": retry, "skip": skip, "resolved": resolved}
    actions = [action for action, given in flags.items() if given]
    if len(actions) != 1:
        raise typer.BadParameter("give one of --retry, --skip and --resolved")
    resolution = read_resolution(step, actions[0], reason, by)
    session = await environment.connect()
    run, answer = await resolve(session.client, order_id, resolution)
    link = session.link(run)
    if resolution.action != "retry":
        return Result(
            {"resolved": answer, "run": run, "link": link},
            lambda out: show(out, f"{order_id}: {answer}", {"Web UI": link}),
        )
    async with progress(session, run, _stage, order_id):
        end = await follow_retry(session.client, run, step, FOLLOWED_FOR)
    command = resolve_command(order_id, end.attention) if end.attention else None
    return Result(
        {"resolved": answer, "run": run, "link": link, "step": json_of(end), "command": command},
        lambda out: show_retry(out, f"{order_id}: {step}", end, command, link),
        AFTER_RETRY[end.state],
    )


async def _runs_of(client: Client, order_id: str, order: OrderReport | None, missing: str) -> list[StandingRun]:
    """The runs of the order. Those of an old one may be gone: its row is enough. Raises UnknownOrder."""
    try:
        found = await order_runs(client, order_id)
    except UnknownOrder as error:
        if order is None:
            raise UnknownOrder(f"{error}. {missing}" if missing else str(error)) from None
        return []
    return [standing_run(run, await view_run(client, run.workflow_id, run.run_id), order) for run in found]


async def _stage(client: Client, workflow_id: str) -> str | None:
    view = await view_run(client, workflow_id)
    return humanize(view.stage) if view and view.stage else None


def _read(file: str) -> bytes:
    """No more than is ever accepted, so that a huge file costs nothing."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(MAX_INPUT + 1)
        with Path(file).open("rb") as opened:
            return opened.read(MAX_INPUT + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput([f"{file}: {getattr(error, 'strerror', None) or error}"]) from None


def _status_of_order(outcome: OrderOutcome) -> Exit:
    if outcome.success:
        return Exit.DONE
    if outcome.error_code is ErrorCode.UNDO_PARKED:
        return Exit.NEEDS_OPERATOR
    return Exit.FAILED if outcome.error_code in TECHNICAL else Exit.NO


def _units(option: str, text: str) -> dict[str, object]:
    product, colon, units = text.rpartition(":")
    if not colon or not units.isdecimal():
        raise InvalidInput([f"{option}: must be PRODUCT:UNITS, such as sku-1:2, not {text}"])
    return {"productId": product, "quantity": int(units)}


def _number(option: str, text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise InvalidInput([f"{option}: must be a number, such as 4.99, not {text}"]) from None


def _status_of_refund(outcome: RefundOutcome) -> Exit:
    if outcome.reason is RefundReason.REFUND_PARKED:
        return Exit.NEEDS_OPERATOR
    return Exit.DONE if outcome.refunded else Exit.NO


def _status_of_cancel(outcome: CancelOutcome) -> Exit:
    if outcome.reason == CancelReason.UNDO_PARKED:
        return Exit.NEEDS_OPERATOR
    return Exit.DONE if outcome.cancelled else Exit.NO
