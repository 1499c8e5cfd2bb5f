"""Child processes that end with their supervisor, and the error of the local stack."""

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
    """The local stack cannot run. The message says why and what to do; it is shown without a traceback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A program to run as a child. `uid` None: as the user of the supervisor. `grace`: seconds for an orderly stop.

    With a `log` the child has a session of its own: Ctrl-C does not reach it, so that the supervisor decides the order
    of stopping. Without one it inherits the terminal.
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
    """A running command."""

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
        """Wait for the end and return the exit status; negative: the signal that killed it."""
        return await self._process.wait()

    async def ready(self, answers: Callable[[], Awaitable[bool]], *, within: float = 30) -> None:
        """Poll until it answers.

        Raises:
            StackError: the child ended, or `within` seconds have passed.
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
        """Ask the child to stop, kill it after its grace, and wait for its end."""
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
        """Return an error that says how the child ended."""
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
    """Run a command until the block or this process ends.

    Call it from a thread that lives as long as the child should: Linux sends the death signal when that thread ends.
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
    """Run a command to its end. Raises StackError with the end of its log unless it exits with 0."""
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
    """Return the path of a program, from this Python's environment first. Raises StackError."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found = shutil.which(name, path=path)
    if found is None:
        raise StackError(f"The program `{name}` is missing. Run `make install`.")
    return found


def require_free_port(port: int, wanted_by: str) -> None:
    """Raise StackError if another process listens on the port: it would answer instead of our child."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            problem = f"{wanted_by} needs port {port} of {HOST}: {error.strerror}."
            raise StackError(f"{problem} Stop the program that uses it; `ss -ltnp` names it.") from None


def free_ports(count: int) -> list[int]:
    """Choose ports that are free at this moment, for tests.

    They are below the ephemeral range, so that the system gives none of them to another process before it is used. And
    each process draws from a part of its own: a port is also free while its program is being started again.
    """
    choice = SystemRandom()
    first = 20_000 + os.getpid() % 12 * 1_000
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = choice.randrange(first, first + 1_000)
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
