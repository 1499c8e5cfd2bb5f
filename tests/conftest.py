"""The real thing, once per test run: Postgres, Temporal and the sandbox; a database, a queue and a worker per test."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from deploy.postgres import Postgres, migrate, temporary_postgres
from deploy.process import binary
from deploy.temporal import DYNAMIC_CONFIG
from orders.temporal import CUSTOMER_ID, NEEDS_ATTENTION, ORDER_STAGE, plugin
from tests.shop import Shop, open_shop

TEMPLATE = "template_orders"
SEED = Path(__file__).parent.parent / "deploy" / "seed.sql"

_exit_status: list[int] = []


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[Postgres]:
    """A server whose database `template_orders` is migrated and seeded; every test gets a copy."""
    async with temporary_postgres() as server:
        connection = await asyncpg.connect(server.url())
        await connection.execute(f"CREATE DATABASE {TEMPLATE}")
        await connection.close()
        await migrate(server.url(TEMPLATE), logs=server.logs)
        connection = await asyncpg.connect(server.url(TEMPLATE))
        await connection.execute(SEED.read_text())
        await connection.close()
        yield server


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    """The real development server, with a clock per workflow that runs ahead only when a test says so."""
    arguments = ["frontend.WorkflowTimeSkippingEnabled=true", *DYNAMIC_CONFIG]
    env = await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(enabled=False),
        plugins=[plugin()],
        search_attributes=[ORDER_STAGE, CUSTOMER_ID, NEEDS_ATTENTION],
        dev_server_existing_path=binary("temporal"),
        dev_server_extra_args=[f"--dynamic-config-value={value}" for value in arguments],
        dev_server_log_level="error",
    )
    async with env:
        yield env


@pytest.fixture
async def database_url(postgres: Postgres) -> AsyncIterator[str]:
    """A database of the test's own, migrated and seeded."""
    connection = await asyncpg.connect(postgres.url())
    name = f"test_{os.urandom(6).hex()}"
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield postgres.url(name)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
async def shop(database_url: str, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    """A shop that is open: database, sandbox and a running worker."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(open_shop(database_url, temporal))


def pytest_sessionfinish(exitstatus: int) -> None:
    _exit_status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Leave without the interpreter's own exit, which may abort in the SDK's threads (temporalio/sdk-python#300)."""
    if _exit_status:
        os._exit(_exit_status[0])
