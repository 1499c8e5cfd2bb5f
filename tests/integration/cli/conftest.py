"""A shop on the queue that the command line uses, and the command line itself."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs
from temporalio.testing import WorkflowEnvironment
from typer.testing import CliRunner

from app.cli.main import app
from deploy.local.process import ROOT
from orders.names import TASK_QUEUE
from tests.support.shop import Shop, open_shop


@dataclass(frozen=True)
class Said:
    """The exit status of a command, and its output."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Starter = Callable[..., Awaitable[Said]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The worker runs in this process too: keep its log out of the command's output."""
    with capture_logs():
        yield


@pytest.fixture
async def shop(database_url: str, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    """An open shop on the queue `orders`."""
    async with open_shop(database_url, temporal, TASK_QUEUE) as opened:
        yield opened


@pytest.fixture
def environment(temporal: WorkflowEnvironment) -> dict[str, str]:
    """The environment variables that connect the command line to the tests' Temporal, on a wide terminal."""
    address = temporal.client.service_client.config.target_host
    return {"TEMPORAL_ADDRESS": address, "TEMPORAL_CONFIG_FILE": os.devnull, "COLUMNS": "160"}


@pytest.fixture
def starter(environment: dict[str, str]) -> Starter:
    """Run the command line in this process; keywords are environment variables."""

    async def run(*arguments: str, stdin: str | bytes = b"", **changes: str) -> Said:
        result = await asyncio.to_thread(
            CliRunner().invoke, app, arguments, input=stdin, env={**environment, **changes}, catch_exceptions=False
        )
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def program(environment: dict[str, str]) -> Starter:
    """Run the command line as a process of its own."""

    async def run(*arguments: str, stdin: str | bytes = b"", **changes: str) -> Said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "starter.py"), *arguments),
            env={"PATH": os.environ["PATH"], **environment, **changes},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await process.communicate(stdin.encode() if isinstance(stdin, str) else stdin)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Said(process.returncode or 0, out.decode(), err.decode())

    return run
