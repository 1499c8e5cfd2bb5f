"""Where the web process is put together: settings, clients, endpoints, server. It loads no workflow.

Orders come to their end without this process too, only later: process-order polls the payment, and reconcile-orders
follows refunds.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from starlette.applications import Starlette
from temporalio.client import Client

from app.clients import http_of, stripe_of, warehouse_of
from app.health import serve_health
from app.startup_checks import SETTINGS_CHECKS, open_database, require
from app.web.endpoints import Endpoint, application
from app.web.events import FulfillmentEvents, StripeEvents
from app.web.gauges import gauges
from app.web.server import serve
from config.settings import Settings
from config.temporal import connect
from gateways.order_store import read_shop_id
from gateways.spent_keys import SpentKeys
from gateways.stripe import StripeGateway
from orders.names import TASK_QUEUE

log = structlog.get_logger()


@asynccontextmanager
async def web_program(settings: Settings) -> AsyncIterator[None]:
    """The web process: it serves while the block lasts, then finishes the requests under way.

    Raises:
        CannotStart: see serve_health, open_webhooks and serve.
        InvalidInput, NoAnswer: see connect.
    """
    async with (
        serve_health(settings) as health,
        open_webhooks(settings, await connect(metrics_address=settings.metrics_address)) as app,
        serve(app, settings.webhooks_host, settings.webhooks_port) as url,
    ):
        log.info("webhooks ready", url=url)
        with health.ready():
            yield
    log.info("webhooks stopped")


@asynccontextmanager
async def open_webhooks(
    settings: Settings, client: Client, *, task_queue: str = TASK_QUEUE
) -> AsyncIterator[Starlette]:
    """The application with all its clients open; not yet served.

    Raises:
        CannotStart: PostgreSQL cannot be used, a migration is missing, or a live Stripe key meets a public secret.
    """
    await require(SETTINGS_CHECKS, settings)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        http = await stack.enter_async_context(http_of(settings, settings.http_timeout_seconds))
        shop_id = await read_shop_id(database)
        if settings.metrics_address:
            await stack.enter_async_context(gauges(database, client))
        gateway = StripeGateway(stripe_of(settings, http), shop_id, SpentKeys(database))
        yield application(
            Endpoint(
                StripeEvents(database, gateway, client, task_queue),
                database,
                header="Stripe-Signature",
                secrets=settings.stripe_webhook_secret_list,
                tolerance=settings.webhook_tolerance_seconds,
            ),
            Endpoint(
                FulfillmentEvents(
                    database,
                    warehouse_of(settings, http, shop_id),
                    client,
                    task_queue,
                    emails=settings.shipped_email,
                    restock=settings.restocks_shortages,
                ),
                database,
                header="Fulfillment-Signature",
                secrets=settings.fulfillment_webhook_secret_list,
                tolerance=settings.webhook_tolerance_seconds,
            ),
        )
