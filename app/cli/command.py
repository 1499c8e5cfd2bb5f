"""How every command runs: what it works with, what it returns, and what its exit status says.

    @command(app, "check-inventory")
    async def check(environment: Environment) -> Result:
        session = await environment.connect()
        ...
        return Result(...)

A command refuses bad input before it connects. Its result goes to standard output, as JSON with --json; progress and
errors go to standard error.
"""

import asyncio
import inspect
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Annotated, Any, Concatenate, Final, NamedTuple, NoReturn, ParamSpec, TextIO, TypeVar

import typer
from rich.console import Console
from temporalio.client import Client
from temporalio.exceptions import TemporalError

from app.startup_checks import CannotStart
from config.links import schedule_link, workflow_link
from config.settings import Settings, read_settings
from config.streams import NOT_WRITTEN
from config.temporal import INTERRUPTED, connect
from gateways.temporal import reaching_temporal
from orders.commands import command_line
from orders.errors import InvalidInput, OrderError, RunFailed, Unreadable
from orders.models import Model

PROGRESS_SECONDS: Final = 0.2
WIDE: Final = 160  # columns, where no terminal says how many it has
SPINNER: Final = "line"  # of ASCII

P = ParamSpec("P")
ModelT = TypeVar("ModelT", bound=Model)


class Exit(IntEnum):
    """The exit statuses; MEANINGS says what each means."""

    DONE = 0
    NO = 1
    BAD_INPUT = 2
    FAILED = 3
    NO_ANSWER = 4
    NEEDS_OPERATOR = 5
    NOT_WRITTEN = NOT_WRITTEN
    INTERRUPTED = INTERRUPTED


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.DONE: "done",
    Exit.NO: (
        "a business refusal: not placed, not cancelled, unknown, not parked, already running; or a broken invariant; "
        "or a problem that doctor found; or an order that cannot be forgotten yet"
    ),
    Exit.BAD_INPUT: "bad input or a wrong setting; nothing was started",
    Exit.FAILED: "a technical failure: an order was undone, or a release was rolled back",
    Exit.NO_ANSWER: (
        "no answer: Temporal, a worker or PostgreSQL is out of reach, or it takes too long; or not everything was "
        "verified"
    ),
    Exit.NEEDS_OPERATOR: (
        "an operator is needed: an undo is parked or its run was ended, an invariant is broken,"
        " an alert could not be posted, or a run did not go on after rollback"
    ),
    Exit.NOT_WRITTEN: "done, but the result could not be written to standard output; it is on standard error",
    Exit.INTERRUPTED: "Ctrl-C: the command no longer waits; what it started goes on",
}
EXIT_CODES: Final = "`starter.py exit-codes` lists the exit statuses."


class Result(NamedTuple):
    """What a command found: `json` for scripts, `show` for people, and the exit status."""

    json: object
    show: Callable[[Console], None]
    status: Exit = Exit.DONE


@dataclass(frozen=True)
class Session:
    """A command's connection to Temporal."""

    client: Client
    settings: Settings

    def link(self, workflow_id: str, run_id: str | None = None) -> str:
        return workflow_link(self.settings.temporal_ui_url, self.client.namespace, workflow_id, run_id)

    def schedule_link(self, name: str) -> str:
        return schedule_link(self.settings.temporal_ui_url, self.client.namespace, name)

    def result(
        self, workflow_id: str, found: ModelT, show: Callable[[Console, ModelT, str], None], status: Exit = Exit.DONE
    ) -> Result:
        """What the workflow answered, with the link to it."""
        link = self.link(workflow_id)
        return Result(found.model_dump(mode="json") | {"link": link}, lambda out: show(out, found, link), status)


@dataclass
class Environment:
    """What a command is given: the settings, and where it may print while it works."""

    out: Console

    @cached_property
    def settings(self) -> Settings:
        """Read by the commands that need them. Raises InvalidInput."""
        return read_settings()

    async def connect(self) -> Session:
        """Connect to the Temporal that the environment or a profile names. Raises InvalidInput and NoAnswer."""
        return Session(settings=self.settings, client=await connect())


Command = Callable[Concatenate[Environment, P], Coroutine[Any, Any, Result]]

AS_JSON: Final = inspect.Parameter(
    "as_json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--json", help="Print the result as JSON.")],
)


def command(app: typer.Typer, name: str) -> Callable[[Command[P]], Command[P]]:
    """Make a function a command of `app`. Its parameters after the first become arguments; `--json` is added."""

    def register(work: Command[P]) -> Command[P]:
        def run(*, as_json: bool, **arguments: Any) -> NoReturn:  # noqa: ANN401 (typer checks them)
            with reporting_errors(as_json=as_json):
                given = {name: _without_line_end(value) for name, value in arguments.items()}
                result: Result = asyncio.run(_work(work, given, as_json=as_json))
                if as_json:
                    print_json(result.json)
                else:
                    result.show(console(sys.stdout))
            raise typer.Exit(result.status)

        parameters = [*list(inspect.signature(work).parameters.values())[1:], AS_JSON]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name, help=work.__doc__, epilog=EXIT_CODES)(run)
        return work

    return register


async def _work(work: Callable[..., Awaitable[Result]], arguments: dict[str, Any], *, as_json: bool) -> Result:
    environment = Environment(console(sys.stderr if as_json else sys.stdout))
    with reaching_temporal():
        return await work(environment, **arguments)


def _without_line_end(value: object) -> object:
    """An argument that a script took from a file with Windows line ends still ends in one."""
    return value.rstrip("\r\n") if isinstance(value, str) else value


@contextmanager
def reporting_errors(*, as_json: bool) -> Iterator[None]:
    """Turn an error into its message and exit status."""
    try:
        yield
    except (OrderError, TemporalError, CannotStart) as error:
        problems = error.problems if isinstance(error, InvalidInput) else (str(error),)
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
        if as_json:
            print_json({"error": str(error), "problems": problems})
        raise typer.Exit(_status_of(error)) from None
    except KeyboardInterrupt:
        sys.stderr.write("No longer waiting; what was started goes on.\n")
        raise typer.Exit(Exit.INTERRUPTED) from None


def _status_of(error: Exception) -> Exit:
    match error:
        case InvalidInput():
            return Exit.BAD_INPUT
        case RunFailed():
            return Exit.FAILED
        case NoLongerWaiting():
            return Exit.INTERRUPTED
        case TemporalError() | CannotStart() | Unreadable():
            return Exit.NO_ANSWER
    return Exit.NO


class NoLongerWaiting(OrderError):
    """Ctrl-C while a run is under way."""


@asynccontextmanager
async def waiting(session: Session, workflow_id: str, order_id: str | None = None) -> AsyncIterator[None]:
    """Say how to look at a run again, before the block waits for it and after Ctrl-C.

    Raises:
        NoLongerWaiting: Ctrl-C; the run goes on.
    """
    again = f"To look at it again: {command_line('status', order_id) if order_id else session.link(workflow_id)}"
    sys.stderr.write(f"Waiting for {workflow_id}. {again}\n")
    try:
        yield
    except asyncio.CancelledError:  # asyncio does this on Ctrl-C
        raise NoLongerWaiting(f"No longer waiting for {workflow_id}; what was started goes on. {again}") from None


@asynccontextmanager
async def progress(
    session: Session,
    workflow_id: str,
    look: Callable[[Client, str], Awaitable[str | None]],
    order_id: str | None = None,
) -> AsyncIterator[None]:
    """While the block waits for a run, show what a look at it answers; see also `waiting`."""
    async with waiting(session, workflow_id, order_id):
        with console(sys.stderr).status(workflow_id, spinner=SPINNER) as shown:

            async def show() -> None:
                if text := await look(session.client, workflow_id):
                    shown.update(f"{workflow_id}: {text}")

            async with repeating(show):
                yield


@asynccontextmanager
async def repeating(look: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """While the block waits, look again and again."""

    async def look_on() -> None:
        while True:
            await look()
            await asyncio.sleep(PROGRESS_SECONDS)

    looking = asyncio.create_task(look_on())
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


def console(stream: TextIO) -> Console:
    """As wide as the terminal, or as COLUMNS says."""
    has_width = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(file=stream, width=None if has_width else WIDE, highlight=False)


def print_json(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value, indent=2)}\n")
