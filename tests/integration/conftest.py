"""A bench as new for every test: the database emptied and seeded, the sandbox reset; opening both takes longer."""

from collections.abc import AsyncIterator

import pytest

from deploy.local.postgres import Postgres
from sandbox.server import serve
from tests.support.activity_bench import ActivityBench, open_activity_bench, open_clients
from tests.support.servers import copy_database, reset_database
from tests.support.shop import settings_for


@pytest.fixture(scope="session")
async def session_bench(postgres: Postgres) -> AsyncIterator[ActivityBench]:
    async with copy_database(postgres) as url, serve() as sandbox:
        settings = settings_for(url, sandbox)
        async with open_clients(settings) as clients, open_activity_bench(settings, sandbox, clients) as opened:
            yield opened


@pytest.fixture
async def bench(session_bench: ActivityBench) -> ActivityBench:
    session_bench.world.reset()
    session_bench.database.gate = None
    await reset_database(session_bench.pool)
    return session_bench
