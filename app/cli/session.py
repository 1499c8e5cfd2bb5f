"""How a command is run: what it works with, what is shown meanwhile, and what becomes of what goes wrong."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final, NoReturn, TextIO

import typer
from pydantic import ValidationError
from rich.console import Console
from temporalio.client import Client
from temporalio.exceptions import TemporalError
from temporalio.service import RPCError

from config.settings import Settings
from config.temporal import connect, schedule_link, workflow_link
from orders.errors import InvalidInput, NoAnswer, OrderError, RunFailed, Unavailable

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
  1  a business no: not placed, not cancelled, unknown, nothing to resolve, already running; a broken invariant
  2  bad input; nothing was started
  3  it failed for technical reasons; an order was undone
  4  no answer: Temporal, a worker or PostgreSQL is out of reach, or it takes too long; not all verified
  5  something needs a person: an undo is parked, or an alert could not be posted"""

AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]


@dataclass(frozen=True)
class Session:
    """What a command works with."""

    client: Client
    settings: Settings

    @property
    def out(self) -> Console:
        return console(sys.stdout)

    def link(self, workflow_id: str, run_id: str | None = None) -> str:
        return workflow_link(self.settings.temporal_ui_url, self.client.namespace, workflow_id, run_id)

    def schedule_link(self, name: str) -> str:
        return schedule_link(self.settings.temporal_ui_url, self.client.namespace, name)


Work = Callable[[Session], Awaitable[Exit]]
Look = Callable[[Client, str], Awaitable[str | None]]


def run_connected(work: Work, *, as_json: bool) -> NoReturn:
    """Do the work on the Temporal that the environment names, and exit with its status."""
    run_alone(lambda settings: _connected(work, settings), as_json=as_json)


def run_alone(work: Callable[[Settings], Awaitable[Exit]], *, as_json: bool) -> NoReturn:
    """Do work that needs no Temporal, and exit with its status."""

    async def with_settings() -> Exit:
        return await work(_settings())

    with refusing(as_json=as_json):
        raise typer.Exit(asyncio.run(with_settings()))
    raise AssertionError  # for type checkers: the block never ends without raising


@contextmanager
def refusing(*, as_json: bool) -> Iterator[None]:
    """Turn what goes wrong into its message and exit status."""
    try:
        yield
    except OrderError as error:
        problems = error.problems if isinstance(error, InvalidInput) else (str(error),)
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
        if as_json:
            print_json({"error": str(error), "problems": problems})
        raise typer.Exit(_exit_of_error(error)) from None
    except KeyboardInterrupt:
        sys.stderr.write("No longer waiting; whatever was started goes on.\n")
        raise typer.Exit(Exit.INTERRUPTED) from None


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


@asynccontextmanager
async def progress(session: Session, workflow_id: str, look: Look) -> AsyncIterator[None]:
    """While the block waits, show what a look at the run says."""
    with console(sys.stderr).status(workflow_id) as shown:

        async def show() -> None:
            if said := await look(session.client, workflow_id):
                shown.update(f"{workflow_id}: {said}")

        async with repeating(show):
            yield


def console(stream: TextIO) -> Console:
    return Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False)


def print_json(value: object) -> None:
    """A result for scripts."""
    sys.stdout.write(f"{json.dumps(value, indent=2)}\n")


async def _connected(work: Work, settings: Settings) -> Exit:
    try:
        client = await connect()
    except (RuntimeError, ValueError, OSError) as error:
        raise NoAnswer(f"Temporal is out of reach at TEMPORAL_ADDRESS: {_first_line(error)}") from None
    try:
        return await work(Session(client, settings))
    except RPCError as error:
        raise NoAnswer(f"Temporal does not answer: {error.status.name.lower()}: {error.message}") from None
    except TemporalError as error:
        raise NoAnswer(f"Temporal: {_first_line(error)}") from None


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise InvalidInput([f"{'.'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in problems]) from None


def _exit_of_error(error: OrderError) -> Exit:
    match error:
        case InvalidInput():
            return Exit.BAD_INPUT
        case NoAnswer() | Unavailable():
            return Exit.NO_ANSWER
        case RunFailed():
            return Exit.FAILED
    return Exit.NO


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
