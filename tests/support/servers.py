"""The servers that tests and tools share: a Postgres with a template database, and Temporal with a clock per run."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from app.migrate import migrate
from config.temporal import plugin
from deploy.local.postgres import Postgres, temporary_postgres
from deploy.local.process import binary
from deploy.local.temporal import DYNAMIC_CONFIG
from orders.names import CUSTOMER_ID, NEEDS_ATTENTION, ORDER_OUTCOME, ORDER_STAGE

TEMPLATE: Final = "template_orders"
SEED: Final = (Path(__file__).parents[2] / "deploy" / "local" / "seed.sql").read_text()

# The migrations fill the others. Orders come first, as in every transaction of the product: an attempt that a test has
# left open ends before its rows are deleted, and cannot deadlock with it.
EMPTY: Final = """
    SELECT string_agg(format('DELETE FROM %I;', tablename), ' ' ORDER BY tablename <> 'orders', tablename)
    FROM pg_tables
    WHERE schemaname = 'public' AND tablename NOT IN ('schema_migrations', 'order_transitions', 'shop')
"""


@asynccontextmanager
async def open_postgres() -> AsyncIterator[Postgres]:
    """A server whose database `template_orders` is migrated and seeded."""
    async with temporary_postgres() as server:
        await _execute(server.url(), f"CREATE DATABASE {TEMPLATE}")
        await migrate(server.url(TEMPLATE))
        await _execute(server.url(TEMPLATE), SEED)
        yield server


@asynccontextmanager
async def copy_database(server: Postgres) -> AsyncIterator[str]:
    """The address of a new database, migrated and seeded."""
    name = f"test_{os.urandom(6).hex()}"
    await _execute(server.url(), f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    yield server.url(name)
    await _execute(server.url(), f"DROP DATABASE {name} WITH (FORCE)")


async def reset_database(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Make a database as new. TRUNCATE would wait for readers too, and deadlock with those that wait for it."""
    empty = await pool.fetchval(EMPTY)
    without_triggers = "SET LOCAL session_replication_role = replica"
    await pool.execute(f"BEGIN; {without_triggers}; {empty} SET LOCAL session_replication_role = origin; {SEED} COMMIT")


@asynccontextmanager
async def open_temporal() -> AsyncIterator[WorkflowEnvironment]:
    """The real development server. The clock of a run moves forward only when a test advances it."""
    arguments = ["frontend.WorkflowTimeSkippingEnabled=true", "frontend.WorkflowPauseEnabled=true", *DYNAMIC_CONFIG]
    env = await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(enabled=False),
        plugins=[plugin()],
        identity="tests",
        search_attributes=[ORDER_STAGE, CUSTOMER_ID, NEEDS_ATTENTION, ORDER_OUTCOME],
        dev_server_existing_path=binary("temporal"),
        dev_server_extra_args=[f"--dynamic-config-value={value}" for value in arguments],
        dev_server_log_level="error",
    )
    async with env:
        yield env


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
