"""How a program runs: settings, then logs, then work until SIGTERM or SIGINT, then its exit status."""

import asyncio
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NoReturn

import uvloop

from app.startup_checks import CannotStart
from config.logs import configure_logs
from config.settings import Settings, read_settings
from config.streams import open_streams
from config.temporal import leave
from orders.errors import InvalidInput, NoAnswer

Program = Callable[[Settings], AbstractAsyncContextManager[None]]


def launch(name: str, program: Program) -> NoReturn:
    """Work until a signal comes, and finish what is under way. Exit status 1, with the problems, if it cannot start.

    After any other error it is 1 too, and the traceback is shown.
    """
    open_streams()
    try:
        settings = read_settings()
        configure_logs(settings.log_format, settings.log_level)
        # Without the sandbox speed comes first. Tests run on the loop that everybody else uses.
        with asyncio.Runner(loop_factory=None if settings.workflow_sandbox else uvloop.new_event_loop) as runner:
            runner.run(_until_signal(program(settings)))
    except (InvalidInput, CannotStart, NoAnswer) as error:
        for problem in error.problems if isinstance(error, InvalidInput) else (str(error),):
            sys.stderr.write(f"{name}: {problem}\n")
        leave(1)
    except Exception:  # noqa: BLE001 (the interpreter does the same)
        traceback.print_exc()
        leave(1)
    leave(0)


async def _until_signal(work: AbstractAsyncContextManager[None]) -> None:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with work:
        await stop.wait()
