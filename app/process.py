"""How a program runs: settings, then logs, then work until SIGTERM or SIGINT, then its exit status."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NoReturn

from app.startup_checks import CannotStart
from config.logs import configure_logs
from config.settings import Settings, read_settings
from config.streams import open_streams
from config.temporal import run
from orders.errors import InvalidInput, NoAnswer

Program = Callable[[Settings], AbstractAsyncContextManager[None]]


def launch(name: str, program: Program) -> NoReturn:
    """Work until a signal comes, and finish what is under way. Exit status 1, with the problems, if it cannot start."""
    open_streams()
    run(_work(name, program))


async def _work(name: str, program: Program) -> int:
    try:
        settings = read_settings()
        configure_logs(settings.log_format, settings.log_level)
        await _until_signal(program(settings))
    except (InvalidInput, CannotStart, NoAnswer) as error:
        for problem in error.problems if isinstance(error, InvalidInput) else (str(error),):
            sys.stderr.write(f"{name}: {problem}\n")
        return 1
    return 0


async def _until_signal(work: AbstractAsyncContextManager[None]) -> None:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with work:
        await stop.wait()
