"""The real thing, once per test run: Postgres, Temporal and the sandbox; a database, a queue and a worker per test."""

import os
from collections.abc import AsyncIterator

import pytest
from temporalio.testing import WorkflowEnvironment

from deploy.local.postgres import Postgres
from tests.support.servers import copy_database, open_postgres, open_temporal
from tests.support.shop import Shop, open_shop

# Fixtures that live as long as a module.
SHARED = {"module_shop", "module_web", "reconciling_shop", "shops", "large"}

_exit_status: list[int] = []


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[Postgres]:
    async with open_postgres() as server:
        yield server


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with open_temporal() as env:
        yield env


@pytest.fixture
async def database_url(postgres: Postgres) -> AsyncIterator[str]:
    async with copy_database(postgres) as url:
        yield url


@pytest.fixture
async def shop(database_url: str, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    """A shop that is open: database, sandbox and a running worker."""
    async with open_shop(database_url, temporal) as opened:
        yield opened


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a module that share a shop in one process: each process would open one of its own."""
    for item in items:
        if isinstance(item, pytest.Function) and SHARED & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


def pytest_sessionfinish(exitstatus: int) -> None:
    _exit_status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Leave without the interpreter's own exit, which may abort in the SDK's threads (temporalio/sdk-python#300)."""
    if _exit_status:
        os._exit(_exit_status[0])
