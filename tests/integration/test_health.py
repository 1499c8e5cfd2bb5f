"""Health: what the probes of a real worker and web process see."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from temporalio.testing import WorkflowEnvironment

from app.health import Health, serve_health
from app.startup_checks import CannotStart
from config.settings import Settings
from deploy.local.postgres import Postgres
from deploy.local.process import Child, Command, free_ports, running
from orders.names import PROCESS_ORDER, TASK_QUEUE
from sandbox.faults import Fault
from sandbox.server import serve
from tests.integration.test_worker import addresses, closed_port
from tests.support.proxy import Line
from tests.support.shop import an_order, eventually

PROGRAMS = ("worker.py", "webhooks.py")
PROBE_SECONDS = 3  # how long a probe waits for its answer

# Runs a program; SIGUSR1 blocks its event loop, which runs in the main thread.
BLOCKABLE = """
import runpy, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(10))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


class Probed:
    """A running program, its probes and its metrics."""

    def __init__(self, child: Child, health: int, metrics: int) -> None:
        self.child = child
        self._health = health
        self._metrics = metrics

    async def health(self, path: str) -> int:
        """The status of an answer; 0: there is none."""
        return await _get(f"http://127.0.0.1:{self._health}{path}")

    async def both(self) -> tuple[int, int]:
        return await self.health("/healthz"), await self.health("/readyz")

    async def metrics(self) -> int:
        return await _get(f"http://127.0.0.1:{self._metrics}/metrics")


async def _get(url: str) -> int:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=PROBE_SECONDS) as http:
            return (await http.get(url)).status_code
    except httpx.TransportError:
        return 0


@asynccontextmanager
async def probed(program: str, folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Probed]:
    """A program that is ready."""
    health, metrics, web = free_ports(3)
    listening = {
        "HEALTH_ADDRESS": f"127.0.0.1:{health}",
        "METRICS_ADDRESS": f"127.0.0.1:{metrics}",
        "WEBHOOKS_PORT": str(web),
    }
    command = Command(
        name=program,
        argv=(sys.executable, "-c", BLOCKABLE, program),
        log=folder / f"{program}.log",
        env={**os.environ, **environment, **listening},
        grace=40,
    )
    async with running(command) as child:
        process = Probed(child, health, metrics)

        async def is_ready() -> bool:
            return await process.health("/readyz") == 200

        await child.ready(is_ready, within=60)
        yield process


@asynccontextmanager
async def both_programs(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[list[Probed]]:
    async with AsyncExitStack() as stack:
        starts = (stack.enter_async_context(probed(program, folder, environment)) for program in PROGRAMS)
        yield await asyncio.gather(*starts)


@pytest.mark.prove
async def test_a_blocked_loop_is_seen(temporal: WorkflowEnvironment, database_url: str, tmp_path: Path) -> None:
    """A probe gets no answer while the loop is blocked for 10 s; metrics come from another thread of the process."""
    async with serve() as sandbox, both_programs(tmp_path, addresses(temporal, database_url, sandbox)) as programs:
        for program in programs:
            assert await program.both() == (200, 200)
            os.kill(program.child.pid, signal.SIGUSR1)
        start = time.monotonic()
        await asyncio.sleep(0.5)
        seen = await asyncio.gather(*(program.health("/healthz") for program in programs))
        metrics = [await program.metrics() for program in programs]
        assert time.monotonic() - start < 9

        assert seen == [0, 0]
        assert metrics == [200, 200]
        for program in programs:
            await eventually(lambda: _is(program, (200, 200)), "the loop runs again")  # noqa: B023


async def _is(program: Probed, expected: tuple[int, int]) -> bool:
    return await program.both() == expected


@pytest.mark.prove
async def test_external_services_that_are_out_change_no_probe(
    temporal: WorkflowEnvironment, postgres: Postgres, database_url: str, tmp_path: Path
) -> None:
    """Stripe, the warehouse, e-mail, Temporal and PostgreSQL are out: a restart would bring none of them back."""
    line = Line(temporal.client.service_client.config.target_host)
    server = await asyncio.start_server(line, "127.0.0.1", 0)
    database = database_url.rpartition("/")[2].partition("?")[0]
    outside = f"http://127.0.0.1:{closed_port()}"
    environment = {
        "TEMPORAL_ADDRESS": f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
        "DATABASE_URL": database_url,
        "STRIPE_API_BASE": outside,
        "FULFILLMENT_API": outside,
        "EMAIL_SERVICE_URL": outside,
    }
    administrator = await asyncpg.connect(postgres.url("postgres"))
    async with both_programs(tmp_path, environment) as programs:
        server.close()
        line.cut()
        await administrator.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        await administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database
        )
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert [await program.both() for program in programs] == [(200, 200), (200, 200)]
            await asyncio.sleep(0.2)
    await administrator.close()


@pytest.mark.prove
async def test_a_process_that_drains_is_alive_and_not_ready(
    temporal: WorkflowEnvironment, database_url: str, tmp_path: Path
) -> None:
    """A restart would cut off the step that it finishes."""
    async with serve() as sandbox:
        environment = addresses(temporal, database_url, sandbox)
        sandbox.world.faults.add(Fault(service="stripe", route="*/confirm", kind="delay", seconds=3, order="drained"))

        async def is_confirming() -> bool:
            return any(entry["path"].endswith("/confirm") for entry in sandbox.world.journal.about("drained"))

        async with probed("worker.py", tmp_path, environment) as worker:
            await temporal.client.start_workflow(PROCESS_ORDER, an_order(), id="drained", task_queue=TASK_QUEUE)
            await eventually(is_confirming, "Stripe is being asked")
            os.kill(worker.child.pid, signal.SIGTERM)
            await eventually(lambda: _is(worker, (200, 503)), "the worker drains")
            assert await worker.child.wait() == 0
        await temporal.client.get_workflow_handle("drained").terminate()


@asynccontextmanager
async def answering() -> AsyncIterator[tuple[Health, int]]:
    (port,) = free_ports(1)
    async with serve_health(Settings(health_address=f"127.0.0.1:{port}")) as health:
        yield health, port


async def test_what_is_answered() -> None:
    """Alive from the beginning, ready while it takes work, and nothing else is served."""
    async with answering() as (health, port):

        async def answers() -> list[int]:
            return [await _get(f"http://127.0.0.1:{port}{path}") for path in ("/healthz", "/readyz", "/")]

        assert await answers() == [200, 503, 404]
        with health.ready():
            assert await answers() == [200, 200, 404]
        assert await answers() == [200, 503, 404]


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", b"\xff" * 100_000, b"GET", b"GET /healthz HTTP/1.1\r\n\r\n"])
async def test_what_is_no_probe_does_no_harm(sent: bytes) -> None:
    """The connection is closed, and the next probe is answered."""
    async with answering() as (_, port):
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.close()
        assert await _get(f"http://127.0.0.1:{port}/healthz") == 200


async def test_an_address_in_use_is_named() -> None:
    """The process does not start without its probes."""
    async with answering() as (_, port):
        settings = Settings(health_address=f"127.0.0.1:{port}")
        with pytest.raises(CannotStart, match=f"HEALTH_ADDRESS: port {port} of 127.0.0.1 cannot be used: Address"):
            async with serve_health(settings):
                pass
