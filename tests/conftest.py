"""Postgres, Temporal and a shop, opened once in each process of a test run."""

import os
from collections.abc import AsyncIterator

import pytest
from temporalio.testing import WorkflowEnvironment

from deploy.local.postgres import Postgres
from tests.support.servers import copy_database, open_postgres, open_temporal
from tests.support.shop import Shop, open_shop

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


@pytest.fixture(scope="session")
async def session_shop(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    async with copy_database(postgres) as url, open_shop(url, temporal) as opened:
        yield opened


@pytest.fixture
async def shop(session_shop: Shop) -> Shop:
    """A shop as new: database, sandbox and a running worker."""
    await session_shop.clear()
    return session_shop


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long tests first, and tests that share a module's fixture in one process: each process would open its own."""
    items.sort(key=lambda item: -_timeout(item))
    for item in items:
        if isinstance(item, pytest.Function) and _shares_a_fixture(item):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def _timeout(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0


def _shares_a_fixture(item: pytest.Function) -> bool:
    definitions = item._fixtureinfo.name2fixturedefs.values()  # noqa: SLF001  (pytest tells it nowhere else)
    return any(each[-1].scope == "module" for each in definitions)


def pytest_sessionfinish(exitstatus: int) -> None:
    _exit_status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Leave without the interpreter's own exit, which may abort in the SDK's threads (temporalio/sdk-python#300)."""
    if _exit_status:
        os._exit(_exit_status[0])
