"""The command line: orders, stock, recommendations, schedules, on the Temporal that the environment or a profile names.

Results go to standard output, as JSON with --json; progress and errors go to standard error.
"""

import os
import sys
import uuid
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.progress import Progress
from temporalio.client import Client

from app.cli import schedules
from app.cli.restock import restock
from app.cli.session import (
    EXIT_STATUSES,
    AsJson,
    Exit,
    Session,
    console,
    print_json,
    progress,
    refusing,
    repeating,
    run_alone,
    run_connected,
)
from app.cli.show import (
    humanize,
    json_of,
    run_json,
    show,
    show_cancel,
    show_index,
    show_order,
    show_recommendations,
    show_run,
    show_runs,
    show_stock,
    show_stuck,
    show_verdict,
)
from client.orders import (
    StuckRun,
    cancel_order,
    check_inventory,
    index_products,
    list_runs,
    order_runs,
    recommend_products,
    resolve,
    stuck_runs,
    submit_order,
    verify_orders,
    view_index,
    view_run,
    view_timeline,
)
from config.settings import Settings
from orders.errors import InvalidInput
from orders.models import CancelOutcome, CancelReason, ErrorCode, OrderOutcome, Settlement, Stage
from orders.names import (
    CHECK_INVENTORY,
    INDEX_PRODUCTS,
    INDEX_RUN,
    PRODUCT_RECOMMENDATIONS,
    SWEEPS,
    VERIFY_ORDERS,
    cancel_order_id,
)
from orders.parsing import MAX_INPUT, parse_cancel, parse_customer, parse_order, parse_restock, read_json

TECHNICAL: Final = frozenset({ErrorCode.FAILED, ErrorCode.AUTHORIZATION_EXPIRED})

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Place, cancel, look at and resolve orders; tell of low stock; recommend products.",
    epilog=EXIT_STATUSES,
)
app.add_typer(schedules.app, name="schedules")

OrderId = Annotated[str, typer.Argument(metavar="ID", help="The order's id.", show_default=False)]

# ------------------------------------------------------------------------------------------------------------- orders


@app.command("process-order", epilog=EXIT_STATUSES)
def process_order(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The order as JSON; - reads it from standard input.")],
    order_id: Annotated[
        str | None, typer.Option(help="The order's id, so that it can be submitted again. Default: a new one.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Place an order and wait for its outcome. The same order submitted again is still one order."""
    identity = order_id or f"order-{uuid.uuid4().hex[:12]}"

    async def work(session: Session) -> Exit:
        async with progress(session, identity, _stage):
            outcome = await submit_order(session.client, identity, data)
        if as_json:
            print_json(outcome.model_dump(mode="json") | {"link": session.link(identity)})
        else:
            show_order(session, outcome)
        return _exit_of_order(outcome)

    with refusing(as_json=as_json):
        data = _read(file)
        parse_order(identity, read_json(data))
    run_connected(work, as_json=as_json)


@app.command("cancel-order", epilog=EXIT_STATUSES)
def cancel(
    order_id: OrderId,
    email: Annotated[str | None, typer.Option(help="Where to confirm the cancelling to.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Cancel an order at any moment of its life, and wait for the outcome."""

    async def work(session: Session) -> Exit:
        async with progress(session, cancel_order_id(order_id), _stage):
            outcome = await cancel_order(session.client, order_id, email)
        if as_json:
            print_json(outcome.model_dump(mode="json") | {"link": session.link(cancel_order_id(order_id))})
        else:
            show_cancel(session, order_id, outcome)
        return _exit_of_cancel(outcome)

    with refusing(as_json=as_json):
        parse_cancel({"orderId": order_id} | ({"customerEmail": email} if email is not None else {}))
    run_connected(work, as_json=as_json)


@app.command(epilog=EXIT_STATUSES)
def status(order_id: OrderId, *, as_json: AsJson = False) -> None:
    """Show where an order stands."""

    async def work(session: Session) -> Exit:
        runs = await order_runs(session.client, order_id)
        views = [await view_run(session.client, run.workflow_id) for run in runs]
        waiting = [view for run, view in zip(runs, views, strict=True) if view and view.stuck and not run.closed]
        found = list(zip(runs, views, strict=True))
        if as_json:
            print_json([run_json(session, run) | {"view": json_of(view)} for run, view in found])
        else:
            for run, view in found:
                show_run(session, run, view)
        return Exit.NEEDS_A_PERSON if waiting else Exit.DONE

    run_connected(work, as_json=as_json)


@app.command("list", epilog=EXIT_STATUSES)
def list_(
    stage: Annotated[Stage | None, typer.Option(help="Only runs at this stage.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 20,
    *,
    as_json: AsJson = False,
) -> None:
    """List the newest runs."""

    async def work(session: Session) -> Exit:
        runs = await list_runs(session.client, stage=stage, limit=limit)
        if as_json:
            print_json([run_json(session, run) for run in runs])
        elif runs:
            show_runs(session, runs)
        else:
            session.out.print("There are none.")
        return Exit.DONE

    run_connected(work, as_json=as_json)


@app.command(epilog=EXIT_STATUSES)
def stuck(*, as_json: AsJson = False) -> None:
    """List the runs that need a person: at which step, since when, and what to do."""

    async def work(session: Session) -> Exit:
        found = await stuck_runs(session.client)
        if as_json:
            print_json([each.model_dump(mode="json") | {"run": run_json(session, each.run)} for each in found])
        elif found:
            show_stuck(session, found)
        else:
            session.out.print("Nothing needs a person.")
        return Exit.NEEDS_A_PERSON if any(_waits_for_a_person(each) for each in found) else Exit.DONE

    run_connected(work, as_json=as_json)


@app.command("resolve", epilog=EXIT_STATUSES)
def resolve_step(  # noqa: PLR0913 (one argument for each option)
    order_id: OrderId,
    *,
    step: Annotated[str, typer.Option(help="The parked step, as `stuck` shows it.")],
    retry: Annotated[bool, typer.Option("--retry", help="Try it again, e.g. after the cause is gone.")] = False,
    skip: Annotated[bool, typer.Option("--skip", help="Leave it undone.")] = False,
    resolved: Annotated[bool, typer.Option("--resolved", help="It was settled by hand.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for those who look later.")],
    by: Annotated[str, typer.Option(envvar="USER", help="Who says so.")] = "operator",
    as_json: AsJson = False,
) -> None:
    """Say what becomes of a parked step: --retry, --skip or --resolved."""
    flags: dict[Literal["retry", "skip", "resolved"], bool] = {"retry": retry, "skip": skip, "resolved": resolved}
    actions = [action for action, given in flags.items() if given]
    if len(actions) != 1:
        raise typer.BadParameter("say one of --retry, --skip and --resolved")

    async def work(session: Session) -> Exit:
        settlement = Settlement(order_id=order_id, step=step, action=actions[0], reason=reason, by=by)
        said = await resolve(session.client, settlement)
        if as_json:
            print_json({"resolved": said, "link": session.link(order_id)})
        else:
            show(session.out, f"{order_id}: {said}", {"Web UI": session.link(order_id)})
        return Exit.DONE

    run_connected(work, as_json=as_json)


# -------------------------------------------------------------------------------------------- stock, recommendations


@app.command("check-inventory", epilog=EXIT_STATUSES)
def check(*, as_json: AsJson = False) -> None:
    """Look for low stock, and have it told to those who reorder, once of each shortage."""
    identity = _new_id(CHECK_INVENTORY)

    async def work(session: Session) -> Exit:
        async with progress(session, identity, view_timeline):
            report = await check_inventory(session.client, identity)
        if as_json:
            print_json(report.model_dump(mode="json") | {"link": session.link(identity)})
        else:
            show_stock(session, identity, report)
        return Exit.NEEDS_A_PERSON if report.undelivered else Exit.DONE

    run_connected(work, as_json=as_json)


@app.command(epilog=EXIT_STATUSES)
def recommend(
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="The customer's id.", show_default=False)],
    *,
    as_json: AsJson = False,
) -> None:
    """Recommend products to a customer."""
    identity = _new_id(PRODUCT_RECOMMENDATIONS)

    async def work(session: Session) -> Exit:
        async with progress(session, identity, view_timeline):
            outcome = await recommend_products(session.client, identity, customer)
        if as_json:
            print_json(outcome.model_dump(mode="json") | {"link": session.link(identity)})
        else:
            show_recommendations(session, identity, customer, outcome)
        return Exit.DONE

    with refusing(as_json=as_json):
        parse_customer({"customerId": customer})
    run_connected(work, as_json=as_json)


@app.command("index-products", epilog=EXIT_STATUSES)
def index(*, as_json: AsJson = False) -> None:
    """Make new and changed products known to the recommendations; joins the run that is under way, if any."""

    async def work(session: Session) -> Exit:
        with Progress(console=console(sys.stderr), transient=True) as bar:
            task = bar.add_task(INDEX_PRODUCTS, total=None)

            async def show_progress() -> None:
                seen = await view_index(session.client)
                if seen and not seen.finished:  # else it is the run before ours
                    bar.update(task, completed=seen.embedded, total=seen.products)

            async with repeating(show_progress):
                end = await index_products(session.client)
        if as_json:
            print_json(end.model_dump(mode="json") | {"link": session.link(INDEX_RUN)})
        else:
            show_index(session, INDEX_RUN, end)
        return Exit.DONE

    run_connected(work, as_json=as_json)


@app.command("restock", epilog=EXIT_STATUSES)
def restock_product(
    product: Annotated[str, typer.Argument(metavar="PRODUCT", help="The product's id.", show_default=False)],
    quantity: Annotated[int, typer.Argument(metavar="QUANTITY", help="How many units.", show_default=False)],
    *,
    as_json: AsJson = False,
) -> None:
    """Put units on a product's shelf, for trying things out: straight in PostgreSQL (DATABASE_URL)."""

    async def work(settings: Settings) -> Exit:
        shelf = await restock(settings, request)
        if as_json:
            print_json(json_of(shelf))
        else:
            facts = {"units": str(shelf.quantity), "reorder level": str(shelf.reorder_level)}
            show(console(sys.stdout), f"{shelf.product_id} ({shelf.product_name}) is restocked", facts)
        return Exit.DONE

    with refusing(as_json=as_json):
        request = parse_restock({"productId": product, "quantity": quantity})
    run_alone(work, as_json=as_json)


# ---------------------------------------------------------------------------------------------------------- invariants


@app.command(epilog=EXIT_STATUSES)
def verify(*, as_json: AsJson = False) -> None:
    """Judge the orders of the last days, and the stock, by the rules that must hold whatever happens."""
    identity = _new_id(VERIFY_ORDERS)

    async def work(session: Session) -> Exit:
        async with progress(session, identity, view_timeline):
            report = await verify_orders(session.client, identity)
        if as_json:
            print_json(report.model_dump(mode="json") | {"link": session.link(identity)})
        else:
            show_verdict(session, identity, report)
        if report.count:
            return Exit.NO
        return Exit.NO_ANSWER if report.unverified else Exit.DONE

    run_connected(work, as_json=as_json)


# --------------------------------------------------------------------------------------------------------------- demo


@app.command(epilog=EXIT_STATUSES)
def demo(*, as_json: AsJson = False) -> None:
    """Play a cast of orders on the local stack, and check stock and money afterwards."""
    from deploy.local.demo import play  # noqa: PLC0415 (needs what only the local stack installs)

    async def work(session: Session) -> Exit:
        report = await play(session.client, session.settings, session.out if not as_json else console(sys.stderr))
        if as_json:
            print_json(json_of(report))
        return Exit.DONE if report.passed else Exit.NO

    run_connected(work, as_json=as_json)


# ------------------------------------------------------------------------------------------------------------ details


def _new_id(workflow: str) -> str:
    return f"{workflow}:{uuid.uuid4().hex[:12]}"


async def _stage(client: Client, workflow_id: str) -> str | None:
    view = await view_run(client, workflow_id)
    return humanize(view.stage) if view and view.stage else None


def _waits_for_a_person(found: StuckRun) -> bool:
    """Nothing will come of it by itself: an undo is parked, or nobody hears of what was found."""
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


def _exit_of_order(outcome: OrderOutcome) -> Exit:
    if outcome.success:
        return Exit.DONE
    if outcome.error_code is ErrorCode.UNDO_PARKED:
        return Exit.NEEDS_A_PERSON
    return Exit.FAILED if outcome.error_code in TECHNICAL else Exit.NO


def _exit_of_cancel(outcome: CancelOutcome) -> Exit:
    if outcome.reason == CancelReason.UNDO_PARKED:
        return Exit.NEEDS_A_PERSON
    return Exit.DONE if outcome.cancelled else Exit.NO


def main() -> int:
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else Exit.NO
    return Exit.DONE


if __name__ == "__main__":
    exit_status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_status)  # the interpreter's own exit may abort in the SDK's threads (temporalio/sdk-python#300)
