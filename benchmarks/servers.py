"""The servers of a run: PostgreSQL, Temporal and the sandbox, started here or given by address."""

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx
from temporalio.client import Client

from app.migrate import migrate
from benchmarks.arms.arm import Arm
from benchmarks.orders import create_products
from benchmarks.temporal_server import PostgresTemporal, find_postgres
from config.temporal import connect
from deploy.local.data import DATA_DIR, locked
from deploy.local.postgres import Postgres
from deploy.local.process import Child, Command, free_ports, running
from deploy.local.stack import Ports, Sandbox
from deploy.local.temporal import TemporalServer

Engine = Literal["dev", "postgres"]
GIVEN: Final = ("DATABASE_URL", "TEMPORAL_ADDRESS")


@dataclass(frozen=True)
class Servers:
    """Where they are.

    Attributes:
        folder: for data and logs.
        engine: what Temporal is: `dev`, `postgres`, or `given`.
        database: the PostgreSQL of the shop.
        engine_database: that of the engine: of Temporal, if it has one, and of other engines.
        sandbox: the URL of the external services.
        environment: what a worker needs to reach all of them.
        processes: process ids by name; a server that was given has none.
        seed: decides the order of the cells, and which products are ordered.
    """

    folder: Path
    engine: str
    client: Client
    database: str
    engine_database: str
    sandbox: str
    environment: Mapping[str, str]
    processes: Mapping[str, tuple[int, ...]]
    seed: int


@asynccontextmanager
async def open_servers(engine: Engine, pids: Mapping[str, int]) -> AsyncIterator[Servers]:
    """Start what DATABASE_URL and TEMPORAL_ADDRESS do not name, with durable commits.

    The data is deleted at the end, or left with the logs after an error. `pids` are process ids of given servers on
    this machine, by name, so that their CPU time is known.

    Raises:
        StackError: a server does not start.
    """
    folder = DATA_DIR / f"bench-{os.getpid()}"
    with locked(folder):
        async with AsyncExitStack() as stack:
            yield await _start(stack, folder, engine, {name: (pid,) for name, pid in pids.items()})
    shutil.rmtree(folder, ignore_errors=True)


async def _start(stack: AsyncExitStack, folder: Path, engine: Engine, processes: dict[str, tuple[int, ...]]) -> Servers:
    given = {name: os.environ[name] for name in GIVEN if name in os.environ}
    ports, logs = Ports.free(), folder / "logs"

    async def postgres(name: str, port: int, programs: Path | None = None) -> Postgres:
        server = Postgres(folder / name, port, logs=logs / name, programs=programs)
        processes[f"{name} postgres"] = ((await stack.enter_async_context(server.running())).pid,)
        return server

    database = given.get("DATABASE_URL") or (await postgres("shop", ports.postgres)).url()
    await migrate(database)
    await create_products(database)
    is_postgres = engine == "postgres" and "TEMPORAL_ADDRESS" not in given
    engine_postgres = await postgres("engine", free_ports(1)[0], find_postgres() if is_postgres else None)
    temporal = _temporal(engine, folder, ports, engine_postgres)
    if "TEMPORAL_ADDRESS" not in given:
        processes["temporal"] = ((await stack.enter_async_context(temporal.running())).pid,)
        # The clients of this process and of its workers.
        os.environ.update({"TEMPORAL_ADDRESS": temporal.address, "TEMPORAL_CONFIG_FILE": os.devnull})
    sandbox = Sandbox(ports.sandbox, ports.webhooks, logs=logs, state=folder / "sandbox.db", workflows="")
    processes["sandbox"] = ((await stack.enter_async_context(sandbox.running())).pid,)
    async with httpx.AsyncClient(base_url=sandbox.url) as http:
        (await http.delete("/_sandbox/webhooks")).raise_for_status()  # nothing listens to them
    return Servers(
        folder=folder,
        engine="given" if "TEMPORAL_ADDRESS" in given else engine,
        client=await connect(),
        database=database,
        engine_database=engine_postgres.url(),
        sandbox=sandbox.url,
        environment={**os.environ, **sandbox.settings, "DATABASE_URL": database, "LOG_LEVEL": "WARNING"},
        processes=processes,
        seed=secrets.randbelow(1 << 24),
    )


def _temporal(engine: Engine, folder: Path, ports: Ports, postgres: Postgres) -> TemporalServer | PostgresTemporal:
    if engine == "postgres":
        return PostgresTemporal(postgres, folder / "temporal", ports.temporal)
    return TemporalServer(folder / "temporal.db", ports.temporal, ports.ui, logs=folder / "logs")


@asynccontextmanager
async def open_worker(servers: Servers, arm: Arm, name: str, options: Mapping[str, str]) -> AsyncIterator[Child]:
    """A worker process of an arm, until the block ends. `options` are those of benchmarks.worker.

    Raises:
        StackError: it does not start.
    """
    ready = servers.folder / f"{name}.ready"
    command = Command(
        name=f"The worker {name}",
        argv=(
            sys.executable,
            "-m",
            "benchmarks.worker",
            arm.name,
            *(f"--{key}={each}" for key, each in options.items()),
        ),
        log=servers.folder / "logs" / f"worker-{name}.log",
        env={**servers.environment, **arm.settings, "WORKER_READY_FILE": str(ready)},
        grace=60,
    )
    async with running(command) as child:
        await child.ready(lambda: asyncio.to_thread(ready.exists), within=90)
        yield child
