"""Child processes end when they should, and a failed one is reported in one message."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from deploy.local.process import Command, StackError, binary, first_to_end, run, running

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def python(code: str, log: Path, grace: float = 10) -> Command:
    return Command(name="The child", argv=(sys.executable, "-c", code), log=log, grace=grace)


async def test_a_child_ends_with_its_block(tmp_path: Path) -> None:
    """The end of the block stops the child and waits for its end."""
    async with running(python("import time; time.sleep(600)", tmp_path / "log")) as child:
        os.kill(child.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    assert await child.wait() < 0


async def test_a_child_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    """A child that does not stop within its grace is killed."""
    log = tmp_path / "log"

    async def up() -> bool:
        return b"up" in await asyncio.to_thread(log.read_bytes)

    async with running(python(STUBBORN, log, grace=0.1)) as child:
        await child.ready(up)
    assert await child.wait() == -signal.SIGKILL


async def test_a_failed_start_shows_the_last_lines_of_the_log(tmp_path: Path) -> None:
    """The error names a child that ends before it is ready, its exit status and the end of its log."""

    async def never() -> bool:
        return False

    async with running(python("import sys; sys.exit('no disk')", tmp_path / "log")) as child:
        with pytest.raises(StackError, match=rf"The child ended with exit status 1\..*{tmp_path / 'log'}:\n  no disk"):
            await child.ready(never)


async def test_a_child_that_never_answers_is_an_error(tmp_path: Path) -> None:
    """The wait for readiness has a limit, and an answer of another process does not count after our child ended."""

    async def never() -> bool:
        return False

    async def another_process() -> bool:
        await child.wait()
        return True

    async with running(python("import time; time.sleep(600)", tmp_path / "log")) as child:
        with pytest.raises(StackError, match=r"The child was not ready within 0\.1 seconds"):
            await child.ready(never, within=0.1)
    async with running(python("", tmp_path / "log")) as child:
        with pytest.raises(StackError, match="The child ended with exit status 0"):
            await child.ready(another_process)


async def test_the_first_to_end_is_named(tmp_path: Path) -> None:
    """The error names the child that ended and the signal that killed it."""
    sleeper = "import time; time.sleep(600)"
    async with running(python(sleeper, tmp_path / "a")) as one, running(python(sleeper, tmp_path / "b")) as other:
        os.kill(other.pid, signal.SIGKILL)
        assert await first_to_end(one, other) is other
        assert str(other.ended()).startswith("The child was killed by SIGKILL.")


async def test_a_missing_program_is_a_message(tmp_path: Path) -> None:
    """The error for a missing program says what to run; for one that cannot run it gives the reason."""
    with pytest.raises(StackError, match=r"`no-such-program` is missing\. Run `make install`"):
        binary("no-such-program")
    with pytest.raises(StackError, match=f"cannot run {tmp_path}: Permission denied"):
        await run(Command(name="A folder", argv=(str(tmp_path),), log=tmp_path / "log"))
