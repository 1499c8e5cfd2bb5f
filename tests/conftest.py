"""Postgres, Temporal and a shop, opened once in each process of a test run."""

import os
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from config.settings import Settings
from deploy.local.postgres import Postgres
from gateways import breaker
from tests.support.servers import copy_database, open_postgres, open_temporal
from tests.support.shop import Shop, open_shop

_exit_status: list[int] = []

for name in Settings.model_fields:  # what the caller's shell sets is for the caller's programs
    os.environ.pop(name.upper(), None)


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


@pytest.fixture(autouse=True)
def _breakers_admit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that failed in one test can be called at once in the next one."""
    monkeypatch.setattr(breaker, "PAUSE", 0)


@pytest.fixture
async def shop(session_shop: Shop) -> Shop:
    """A shop as new: database, sandbox and a running worker."""
    await session_shop.clear()
    return session_shop


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests with the longest time-outs first, so that no process ends long after the others."""
    items.sort(key=lambda item: -_timeout(item))


def _timeout(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return ModuleScheduling(config, log)


class ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Runs the tests that share a fixture of their module in one process: each process would open its own.

    The groups of pytest-xdist 3.8 (`--dist loadgroup`) have no effect with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if _shares_a_fixture(self.config.rootpath / file) else nodeid


@cache
def _shares_a_fixture(file: Path) -> bool:
    places = (file, file.with_name("conftest.py"))
    return any('scope="module"' in place.read_text() for place in places if place.exists())


def pytest_sessionfinish(exitstatus: int) -> None:
    _exit_status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Leave without the interpreter's own exit, which may abort in the SDK's threads (temporalio/sdk-python#300)."""
    if _exit_status:
        os._exit(_exit_status[0])
