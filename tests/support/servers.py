"""The servers that tests and tools share: a Postgres with a template database, and Temporal with a clock per run."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from config.temporal import plugin
from deploy.local.postgres import Postgres, migrate, temporary_postgres
from deploy.local.process import binary
from deploy.local.temporal import DYNAMIC_CONFIG
from orders.names import CUSTOMER_ID, NEEDS_ATTENTION, ORDER_STAGE
from tests.support.shop import Shop, open_shop

TEMPLATE = "template_orders"
SEED = Path(__file__).parents[2] / "deploy" / "local" / "seed.sql"


@asynccontextmanager
async def open_postgres() -> AsyncIterator[Postgres]:
    """A server whose database `template_orders` is migrated and seeded."""
    async with temporary_postgres() as server:
        await _execute(server.url(), f"CREATE DATABASE {TEMPLATE}")
        await migrate(server.url(TEMPLATE), logs=server.logs)
        await _execute(server.url(TEMPLATE), SEED.read_text())
        yield server


@asynccontextmanager
async def copy_database(server: Postgres) -> AsyncIterator[str]:
    """A database of one's own, migrated and seeded: its address."""
    name = f"test_{os.urandom(6).hex()}"
    await _execute(server.url(), f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield server.url(name)
    await _execute(server.url(), f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def open_temporal() -> AsyncIterator[WorkflowEnvironment]:
    """The real development server; the clock of a run goes ahead only when it is told to."""
    arguments = ["frontend.WorkflowTimeSkippingEnabled=true", *DYNAMIC_CONFIG]
    env = await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(enabled=False),
        plugins=[plugin()],
        identity="tests",
        search_attributes=[ORDER_STAGE, CUSTOMER_ID, NEEDS_ATTENTION],
        dev_server_existing_path=binary("temporal"),
        dev_server_extra_args=[f"--dynamic-config-value={value}" for value in arguments],
        dev_server_log_level="error",
    )
    async with env:
        yield env


@asynccontextmanager
async def open_everything(**settings: Any) -> AsyncIterator[Shop]:
    """A shop with servers of its own, for the tools."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(open_postgres())
        database = await stack.enter_async_context(copy_database(server))
        env = await stack.enter_async_context(open_temporal())
        yield await stack.enter_async_context(open_shop(database, env, **settings))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
