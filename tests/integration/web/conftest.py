"""A shop with its web process, for a whole module."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from temporalio.testing import WorkflowEnvironment

from app.web.server import serve
from app.web.wiring import open_webhooks
from deploy.local.postgres import Postgres
from sandbox.webhooks import Target
from tests.support.servers import copy_database
from tests.support.shop import open_shop
from tests.support.web import Web


@asynccontextmanager
async def open_web(postgres: Postgres, temporal: WorkflowEnvironment, **settings: Any) -> AsyncIterator[Web]:
    """A run that waits for its customer polls after an hour: within a test only a webhook wakes it."""
    patient: dict[str, Any] = {"http_timeout_seconds": 5, "authentication_poll_seconds": 3600}
    async with (
        copy_database(postgres) as database,
        open_shop(database, temporal, **patient, **settings) as shop,
        open_webhooks(shop.settings, shop.client, task_queue=shop.task_queue) as app,
        serve(app, "127.0.0.1", 0) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
    ):
        yield Web(shop, url, http)


@pytest.fixture(scope="module")
async def module_web(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Web]:
    async with open_web(postgres, temporal) as opened:
        yield opened


@pytest.fixture
async def web(module_web: Web) -> AsyncIterator[Web]:
    """The web process of an empty shop; the sandbox delivers no events to it."""
    await module_web.shop.clear()
    module_web.shop.world.webhook_sender.attempts.clear()
    yield module_web
    module_web.shop.world.send_webhooks_to(None)
    await module_web.shop.world.webhook_sender.idle()


@pytest.fixture
def subscribed(web: Web) -> Web:
    """The same, and the sandbox delivers every event to it, as Stripe and the warehouse do."""
    web.shop.world.send_webhooks_to(Target(url=web.url))
    return web
