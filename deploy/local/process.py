"""Child processes that live no longer than their supervisor, and the one error it raises."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
TAIL_LINES = 12


class StackError(Exception):
    """The local stack cannot run. Its message, all that a person sees, says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A program to run as a child. `uid` is the user it runs as, None its supervisor's; `grace` is in seconds.

    With a `log` the child is in a session of its own, out of reach of the terminal's Ctrl-C, so that the supervisor
    decides the order of stopping; without one it inherits the terminal.
    """

    name: str
    argv: tuple[str, ...]
    log: Path | None
    env: Mapping[str, str] | None = None
    cwd: Path = ROOT
    uid: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    grace: float = 10


class Child:
    """A running command, ours by its process id."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        self._command = command
        self._process = process

    @property
    def name(self) -> str:
        return self._command.name

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end and return the exit status; that of a signal is negative."""
        return await self._process.wait()

    async def ready(self, answers: Callable[[], Awaitable[bool]], *, within: float = 30) -> None:
        """Poll until it answers and is still this very process.

        Raises:
            StackError: it ended, or `within` seconds have passed.
        """
        try:
            async with asyncio.timeout(within):
                while not await answers():
                    self._require_alive()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise StackError(f"{self.name} was not ready within {within:g} seconds.{self._tail()}") from None
        self._require_alive()

    async def stop(self) -> None:
        """Ask it to stop, kill it after its grace, and be back only when it is gone."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(self._command.stop_signal)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), self._command.grace)
        finally:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    def ended(self) -> StackError:
        """The error that tells of its end."""
        status = self._process.returncode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return StackError(f"{self.name} {how}.{self._tail()}")

    def _require_alive(self) -> None:
        if self._process.returncode is not None:
            raise self.ended()

    def _tail(self) -> str:
        log = self._command.log
        if log is None or not (lines := log.read_text(errors="replace").splitlines()[-TAIL_LINES:]):
            return ""
        return "\n  ".join([f" The last lines of {log}:", *lines])


@asynccontextmanager
async def running(command: Command) -> AsyncIterator[Child]:
    """Run a command until the block ends, or this process does.

    Enter it from a thread that lives as long as the child should: on Linux the death signal follows the thread.
    """
    uid = "-" if command.uid is None else str(command.uid)
    program = str(ROOT / "deploy" / "local" / "die_with_parent.py")
    launcher = (sys.executable, "-IS", program, str(os.getpid()), str(command.death_signal))
    with _output(command.log) as output:
        process = await asyncio.create_subprocess_exec(
            *launcher,
            uid,
            shutil.which(command.argv[0]) or command.argv[0],
            *command.argv[1:],
            stdin=None if command.log is None else asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=command.env,
            cwd=command.cwd,
            start_new_session=command.log is not None,
        )
    child = Child(command, process)
    try:
        yield child
    finally:
        await child.stop()


async def run(command: Command) -> None:
    """Run a command to its end. Raises StackError with its last words unless it exits with 0."""
    async with running(command) as child:
        if await child.wait() != 0:
            raise child.ended()


async def first_to_end(*children: Child) -> Child:
    """Wait until one of them has ended, and return it."""
    waits = {asyncio.ensure_future(child.wait()): child for child in children}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return waits[done.pop()]


def binary(name: str) -> str:
    """Find a program, in this Python's environment first. Raises StackError."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found = shutil.which(name, path=path)
    if found is None:
        raise StackError(f"The program `{name}` is missing. Run `make install`.")
    return found


def require_free_port(port: int, wanted_by: str) -> None:
    """Raise StackError if somebody listens on the port: whoever answers there would not be ours."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StackError(f"{wanted_by} needs port {port} of {HOST}: {error.strerror}.") from None


def free_ports(count: int) -> list[int]:
    """Choose ports that nobody uses at this moment, for tests.

    They are below those that systems hand out to whoever asks for any port, so that none is gone before it is used.
    """
    choice = SystemRandom()
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = choice.randrange(20_000, 32_000)
            with suppress(OSError):
                held.enter_context(socket.create_server((HOST, port)))
                ports.append(port)
    return ports


@contextmanager
def _output(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        yield file
