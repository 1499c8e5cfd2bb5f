"""The command line: place, cancel, look at and resolve orders, on the Temporal that the environment or a profile names.

Results go to standard output, as JSON with --json; progress and errors go to standard error.
"""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, TextIO

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from temporalio.client import Client
from temporalio.exceptions import TemporalError
from temporalio.service import RPCError

from orders.client import (
    Run,
    StuckRun,
    cancel_order,
    list_runs,
    order_runs,
    resolve,
    stuck_runs,
    submit_order,
    view_run,
)
from orders.errors import InvalidInput, NoAnswer, OrderError
from orders.intake import LARGEST_INPUT, parse_cancel, parse_order, read_json
from orders.models import (
    CancelOutcome,
    CancelReason,
    CancelView,
    ErrorCode,
    Model,
    OrderOutcome,
    OrderView,
    Settlement,
    Stage,
)
from orders.settings import Settings
from orders.temporal import cancel_order_id, connect, workflow_link

PROGRESS_SECONDS: Final = 0.2
WIDE: Final = 160  # columns, where no terminal says how many it has


class Exit(IntEnum):
    """What the exit statuses mean; EXIT_STATUSES says it to people."""

    DONE = 0
    NO = 1
    BAD_INPUT = 2
    FAILED = 3
    NO_ANSWER = 4
    NEEDS_A_PERSON = 5
    INTERRUPTED = 130


EXIT_STATUSES: Final = """Exit status:
  0  done
  1  a business no: not placed, not cancelled, unknown, nothing to resolve
  2  bad input; nothing was started
  3  the order failed for technical reasons, and was undone
  4  no answer: Temporal or a worker is out of reach, or it takes too long
  5  something needs a person: an undo is parked"""

TECHNICAL: Final = frozenset({ErrorCode.FAILED, ErrorCode.AUTHORISATION_EXPIRED})

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Place, cancel, look at and resolve orders.",
    epilog=EXIT_STATUSES,
)

OrderId = Annotated[str, typer.Argument(metavar="ID", help="The order's id.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]


@dataclass(frozen=True)
class Session:
    """What every command works with."""

    client: Client
    settings: Settings
    as_json: bool

    @property
    def out(self) -> Console:
        return _console(sys.stdout)

    def link(self, workflow_id: str, run_id: str | None = None) -> str:
        return workflow_link(self.settings.temporal_ui_url, self.client.namespace, workflow_id, run_id)

    def show(self, headline: str, facts: Mapping[str, str | None]) -> None:
        """A result for people; facts without a value are left out."""
        self.out.print(headline, style="bold")
        grid = Table.grid(padding=(0, 2))
        for name, value in facts.items():
            if value:
                grid.add_row(f"  {name}", value)
        self.out.print(grid, soft_wrap=True)


Work = Callable[[Session], Awaitable[Exit]]


# ---------------------------------------------------------------------------------------------------------- commands


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
        async with _progress(session, identity):
            outcome = await submit_order(session.client, identity, data)
        if as_json:
            _print_json(outcome.model_dump(mode="json") | {"link": session.link(identity)})
        else:
            _show_order(session, outcome)
        return _exit_of_order(outcome)

    with _refusing(as_json=as_json):
        data = _read(file)
        parse_order(identity, read_json(data))
    _run(work, as_json=as_json)


@app.command("cancel-order", epilog=EXIT_STATUSES)
def cancel(
    order_id: OrderId,
    email: Annotated[str | None, typer.Option(help="Where to confirm the cancelling to.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Cancel an order at any moment of its life, and wait for the outcome."""

    async def work(session: Session) -> Exit:
        async with _progress(session, cancel_order_id(order_id)):
            outcome = await cancel_order(session.client, order_id, email)
        if as_json:
            _print_json(outcome.model_dump(mode="json") | {"link": session.link(cancel_order_id(order_id))})
        else:
            _show_cancel(session, order_id, outcome)
        return _exit_of_cancel(outcome)

    with _refusing(as_json=as_json):
        parse_cancel({"orderId": order_id} | ({"customerEmail": email} if email is not None else {}))
    _run(work, as_json=as_json)


@app.command(epilog=EXIT_STATUSES)
def status(order_id: OrderId, *, as_json: AsJson = False) -> None:
    """Show where an order stands."""

    async def work(session: Session) -> Exit:
        runs = await order_runs(session.client, order_id)
        views = [await view_run(session.client, run.workflow_id) for run in runs]
        found = list(zip(runs, views, strict=True))
        if as_json:
            _print_json([_run_json(session, run) | {"view": _json(view)} for run, view in found])
        else:
            for run, view in found:
                _show_run(session, run, view)
        return Exit.NEEDS_A_PERSON if any(view and view.stuck for view in views) else Exit.DONE

    _run(work, as_json=as_json)


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
            _print_json([_run_json(session, run) for run in runs])
        elif runs:
            _print_table(
                session,
                ("run", "stage", "state", "started"),
                (_named(session, run, run.stage or "", run.state, _time(run.started)) for run in runs),
            )
        else:
            session.out.print("There are none.")
        return Exit.DONE

    _run(work, as_json=as_json)


@app.command(epilog=EXIT_STATUSES)
def stuck(*, as_json: AsJson = False) -> None:
    """List the runs that need a person: at which step, since when, and what to do."""

    async def work(session: Session) -> Exit:
        found = await stuck_runs(session.client)
        if as_json:
            _print_json([each.model_dump(mode="json") | {"run": _run_json(session, each.run)} for each in found])
        elif found:
            _print_table(
                session,
                ("run", "what", "since", "what to do"),
                (_named(session, each.run, _what(each), _time(each.since), _advice(each)) for each in found),
            )
        else:
            session.out.print("Nothing needs a person.")
        return Exit.NEEDS_A_PERSON if any(each.parked for each in found) else Exit.DONE

    _run(work, as_json=as_json)


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
            _print_json({"resolved": said, "link": session.link(order_id)})
        else:
            session.show(f"{order_id}: {said}", {"Web UI": session.link(order_id)})
        return Exit.DONE

    _run(work, as_json=as_json)


@app.command(epilog=EXIT_STATUSES)
def demo(*, as_json: AsJson = False) -> None:
    """Play a cast of orders on the local stack, and check stock and money afterwards."""
    from deploy.demo import play  # noqa: PLC0415 (needs what only the local stack installs)

    async def work(session: Session) -> Exit:
        report = await play(session.client, session.settings, session.out if not as_json else _console(sys.stderr))
        if as_json:
            _print_json(_json(report))
        return Exit.DONE if report.passed else Exit.NO

    _run(work, as_json=as_json)


# ---------------------------------------------------------------------------------------------------------- execution


def _run(work: Work, *, as_json: bool) -> NoReturn:
    with _refusing(as_json=as_json):
        raise typer.Exit(asyncio.run(_connected(work, as_json=as_json)))
    raise AssertionError  # for type checkers: the block never ends without raising


async def _connected(work: Work, *, as_json: bool) -> Exit:
    settings = _settings()
    try:
        client = await connect()
    except (RuntimeError, ValueError, OSError) as error:
        raise NoAnswer(f"Temporal is out of reach at TEMPORAL_ADDRESS: {_first_line(error)}") from None
    try:
        return await work(Session(client, settings, as_json))
    except RPCError as error:
        raise NoAnswer(f"Temporal does not answer: {error.status.name.lower()}: {error.message}") from None
    except TemporalError as error:
        raise NoAnswer(f"Temporal: {_first_line(error)}") from None


@contextmanager
def _refusing(*, as_json: bool) -> Iterator[None]:
    """Turn what goes wrong into its message and exit status."""
    try:
        yield
    except OrderError as error:
        problems = error.problems if isinstance(error, InvalidInput) else (str(error),)
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
        if as_json:
            _print_json({"error": str(error), "problems": problems})
        raise typer.Exit(_exit_of_error(error)) from None
    except KeyboardInterrupt:
        sys.stderr.write("No longer waiting; whatever was started goes on.\n")
        raise typer.Exit(Exit.INTERRUPTED) from None


def _exit_of_error(error: OrderError) -> Exit:
    match error:
        case InvalidInput():
            return Exit.BAD_INPUT
        case NoAnswer():
            return Exit.NO_ANSWER
    return Exit.NO


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


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise InvalidInput([f"{'.'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in problems]) from None


def _read(file: str) -> bytes:
    """No more than is ever accepted, so that a huge file costs nothing."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(LARGEST_INPUT + 1)
        with Path(file).open("rb") as opened:
            return opened.read(LARGEST_INPUT + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput([f"{file}: {getattr(error, 'strerror', None) or error}"]) from None


@asynccontextmanager
async def _progress(session: Session, workflow_id: str) -> AsyncIterator[None]:
    """While the block waits, show at which stage the run is."""
    with _console(sys.stderr).status(workflow_id) as shown:

        async def look() -> None:
            while True:
                if (view := await view_run(session.client, workflow_id)) and view.stage:
                    shown.update(f"{workflow_id}: {_words(view.stage)}")
                await asyncio.sleep(PROGRESS_SECONDS)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking


# ---------------------------------------------------------------------------------------------------------- for people


def _show_order(session: Session, outcome: OrderOutcome) -> None:
    code = _words(outcome.error_code) if outcome.error_code else ""
    session.show(
        f"{outcome.order_id} is placed" if outcome.success else f"{outcome.order_id} is not placed: {code}",
        {
            "why": outcome.error,
            "payment": outcome.payment_intent,
            "fulfillment": outcome.fulfillment_id,
            "Web UI": session.link(outcome.order_id),
        },
    )


def _show_cancel(session: Session, order_id: str, outcome: CancelOutcome) -> None:
    session.show(
        f"{order_id} is cancelled" if outcome.cancelled else f"{order_id} is not cancelled",
        {
            "reason": _words(outcome.reason) if outcome.reason else None,
            "money": "refunded" if outcome.refunded else None,
            "Web UI": session.link(cancel_order_id(order_id)),
        },
    )


def _show_run(session: Session, run: Run, view: OrderView | CancelView | None) -> None:
    facts = {"state": run.state, "stage": _words(run.stage) if run.stage else None, "started": _time(run.started)}
    if isinstance(view, OrderView):
        facts |= {
            "stock": "reserved or sold" if view.inventory_reserved else "nothing held",
            "payment": f"{view.payment_intent or 'none'}, {'charged' if view.payment_processed else 'not charged'}",
            "fulfillment": view.fulfillment_status,
        }
    elif view is None:
        facts |= {"details": "no worker answers"}
    facts |= {"parked": ", ".join(view.stuck) if view else None, "needs attention": run.needs_attention}
    session.show(run.workflow_id, facts | {"Web UI": session.link(run.workflow_id, run.run_id)})


def _print_table(session: Session, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(*header, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for row in rows:
        table.add_row(*row)
    session.out.print(table)


def _named(session: Session, run: Run, *cells: str) -> tuple[str, ...]:
    return (f"{run.workflow_id}\n[dim]{session.link(run.workflow_id)}[/dim]", *cells)


def _what(found: StuckRun) -> str:
    return "\n".join(found.parked) or found.run.needs_attention or ""


def _advice(found: StuckRun) -> str:
    if found.parked:
        command = f"starter.py resolve {found.run.order_id} --step …"
        return f"look at what exists, then\n{command}\n--retry, --skip or --resolved, and --reason"
    if found.run.closed:
        return "the message was given up:\ntell its addressee by other means"
    return "it is tried again by itself:\nlook for the cause"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _time(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _console(stream: TextIO) -> Console:
    return Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False)


# --------------------------------------------------------------------------------------------------------- for scripts


def _run_json(session: Session, run: Run) -> dict[str, Any]:
    return {**run.model_dump(mode="json"), "link": session.link(run.workflow_id, run.run_id)}


def _json(model: Model | None) -> dict[str, Any] | None:
    return model.model_dump(mode="json") if model else None


def _print_json(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value, indent=2)}\n")


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
