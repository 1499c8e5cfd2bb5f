"""README.md: its first ten minutes and its program work word for word."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import pytest

from deploy.local.postgres import temporary_folder
from deploy.local.process import ROOT
from deploy.local.stack import Ports, Stack
from tests.support.curl import curl
from tests.support.shop import eventually

README: Final = (ROOT / "README.md").read_text()
SHELL: Final = next(block for block in re.findall(r"```\n(.*?)```", README, re.DOTALL) if "alias shop" in block)
PROGRAM: Final = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]

# The exit status of each line, in the order of the page; the others end with 0.
STATUSES: Final = {"chargeDeclined": 1, "shop cancel-order": 5, "shop stuck": 5}


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    with temporary_folder() as folder:
        stack = Stack(folder, Ports.free(), fast=True)
        async with stack.running(), stack.programs(stack.environment(os.environ)):
            yield stack


class Terminal:
    """Runs the lines of the page on a stack whose ports are not the usual ones."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._environment: Mapping[str, str] = stack.environment(os.environ)

    async def run(self, line: str) -> tuple[int, str]:
        """The exit status of a line, and what it printed."""
        if line.startswith("curl "):
            return await self._curl(line)
        script = f'shopt -s expand_aliases; alias shop="{sys.executable} starter.py"\n{line}'
        return await self.execute("bash", "-c", script)

    async def execute(self, *argv: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=ROOT,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        return process.returncode or 0, out.decode()

    async def _curl(self, line: str) -> tuple[int, str]:
        async with httpx.AsyncClient(base_url=self._stack.sandbox.url, trust_env=False) as http:
            answer = await curl(http, line)
        return int(answer.is_error), answer.text


@pytest.mark.prove
@pytest.mark.skipif(shutil.which("bash") is None, reason="the page is for a shell")
@pytest.mark.timeout(240)
async def test_the_first_ten_minutes(stack: Stack) -> None:
    """Each line ends as the page says: placed, declined, authenticated, parked, explained, resolved."""
    terminal = Terminal(stack)
    waiting: list[asyncio.Task[tuple[int, str]]] = []
    said = {}
    for line in (line for line in SHELL.splitlines() if line and not line.startswith(("#", "alias"))):
        if "threeDSecure" in line:  # it waits for the next line
            waiting.append(asyncio.create_task(terminal.run(line)))
            continue
        if "authenticate" in line:
            await eventually(partial(_succeeds, terminal, line), line)
            status, text = await waiting.pop()
        else:
            status, text = await terminal.run(line)
        expected = next((code for words, code in STATUSES.items() if words in line), 0)
        assert status == expected, f"{line}\n{text}"
        said[line.partition(" ")[2]] = text
    assert not waiting
    told = "\n".join(said.values())
    assert "resolve first --step void_payment --retry" in told
    assert "first is cancelled" in said["status first"]


@pytest.mark.prove
async def test_the_program(stack: Stack, tmp_path: Path) -> None:
    """It places its order, and ends with status 0."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    path = f"import sys; sys.path.insert(0, {str(ROOT)!r}); exec(open({str(program)!r}).read())"
    status, text = await Terminal(stack).execute(sys.executable, "-c", path)
    assert (status, text.split()[0]) == (0, "True")


async def _succeeds(terminal: Terminal, line: str) -> bool:
    status, _ = await terminal.run(line)
    return status == 0
