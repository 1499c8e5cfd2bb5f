"""One shop for a whole module of small cases: opening one for each would take most of their time."""

from collections.abc import AsyncIterator

import pytest
from temporalio.testing import WorkflowEnvironment

from deploy.local.postgres import Postgres
from tests.support.servers import copy_database
from tests.support.shop import Shop, open_shop


@pytest.fixture(scope="module")
async def module_shop(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    async with copy_database(postgres) as url, open_shop(url, temporal) as opened:
        yield opened


@pytest.fixture
async def cleared_shop(module_shop: Shop) -> Shop:
    """The module's shop, as good as new."""
    await module_shop.clear()
    return module_shop
