"""The worker process: settings, clients, activities, worker. The only place where everything is put together."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import asyncpg
import httpx
import structlog
from openai import AsyncOpenAI
from pydantic import ValidationError
from stripe import StripeClient
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Interceptor, Worker

from activities.fulfillment import Fulfillment
from activities.inventory import Inventory
from activities.notifications import Notifications
from activities.order_recovery import OrderRecovery
from activities.order_state import OrderState
from activities.payments import Payments
from activities.product_index import ProductIndex
from activities.recommendations import Recommendations
from activities.reconciliation import Reconciliation
from activities.stock_alerts import StockAlerts
from activities.verification import Verification
from app.crash_points import CrashPoints, WatchedDatabase, crash_point, watch_http
from config.logs import configure_logs
from config.settings import LOOPBACK, Settings
from config.temporal import connect
from gateways.http import open_http
from gateways.openai import MAX_ANSWER, LanguageModel, openai_client
from gateways.postgres import REFUSED, Database, open_pool
from gateways.stripe import StripeGateway, stripe_client
from gateways.warehouse import Warehouse
from orders.errors import Unavailable
from orders.models import Terms
from orders.names import SEARCH_ATTRIBUTES, TASK_QUEUE
from orders.recommendations import IndexTarget
from saga import ATTEMPT_TIMEOUT
from workflows.cancel_order import CancelOrder
from workflows.check_inventory import CheckInventory
from workflows.index_products import IndexProducts
from workflows.process_order import ProcessOrder
from workflows.product_recommendations import ProductRecommendations
from workflows.reconcile_orders import ReconcileOrders
from workflows.verify_orders import VerifyOrders

if TYPE_CHECKING:
    from gateways.postgres import Pool

WORKFLOWS: Final[Sequence[type]] = (
    ProcessOrder,
    CancelOrder,
    CheckInventory,
    ReconcileOrders,
    VerifyOrders,
    ProductRecommendations,
    IndexProducts,
)

# Longer than the longest attempt of an activity, so that a worker that is told to stop finishes what it has begun.
DRAIN: Final = ATTEMPT_TIMEOUT + timedelta(seconds=5)

MIGRATIONS: Final = Path(__file__).parent / "migrations"

log = structlog.get_logger()


class CannotStart(Exception):
    """Something that the worker needs is missing; the message says what and where."""


def activities_of(  # noqa: PLR0913, PLR0917 (one client for each external service)
    settings: Settings,
    client: Client,
    database: Database,
    http: httpx.AsyncClient,
    stripe: StripeClient,
    openai: AsyncOpenAI | None,
) -> list[Callable[..., Any]]:
    """Every activity, its class given the clients that it needs."""
    inventory = Inventory(database, terms_of(settings))
    shop = OrderState(database, client)
    gateway = StripeGateway(stripe)
    payments = Payments(database, gateway)
    after = timedelta(seconds=settings.reconcile_after_seconds)
    order_recovery = OrderRecovery(database, client, after)
    reconciliation = Reconciliation(database, gateway, after, timedelta(seconds=settings.reconcile_window_seconds))
    warehouse = warehouse_of(settings, http)
    fulfillment = Fulfillment(database, warehouse, remembers_cancels=settings.fulfillment_remembers_cancels)
    verification = Verification(
        database,
        client,
        gateway,
        warehouse,
        timedelta(seconds=settings.verify_window_seconds),
        # Whatever lost its run, reconcile-orders has had two chances by then.
        timedelta(seconds=settings.reconcile_after_seconds + 2 * settings.reconcile_every_seconds),
    )
    notifications = Notifications(
        database, http, settings.email_service_url, settings.analytics_url, settings.slack_webhook
    )
    stock_alerts = StockAlerts(
        database, http, settings.slack_webhook, timedelta(seconds=settings.low_stock_realert_seconds)
    )
    model = LanguageModel(openai, model=settings.recommendation_model, max_tokens=settings.recommendation_max_tokens)
    recommendations = Recommendations(database, model, settings.recommendation_deadline_seconds)
    index = IndexTarget(model=settings.embedding_model, dimensions=settings.embedding_dimensions)
    product_index = ProductIndex(database, model, index)
    return [
        inventory.reserve_stock,
        inventory.finalize_order,
        inventory.release_stock,
        inventory.release_leftovers,
        shop.read_order,
        shop.observe_order,
        shop.claim_undo,
        shop.claim_cancellation,
        shop.mark_shipped,
        shop.park_order,
        shop.record_resolution,
        payments.authorize_payment,
        payments.read_payment,
        payments.capture_payment,
        payments.resume_capture,
        payments.void_payment,
        fulfillment.request_fulfillment,
        fulfillment.cancel_fulfillment,
        notifications.send_email,
        notifications.track_order,
        notifications.give_up_notification,
        notifications.post_alert,
        order_recovery.find_orders_without_run,
        order_recovery.restart_order,
        reconciliation.check_charges,
        reconciliation.find_orphans,
        reconciliation.void_orphan,
        reconciliation.find_refunds,
        reconciliation.follow_refunds,
        reconciliation.find_stuck_refunds,
        reconciliation.note_event,
        reconciliation.unreported_problems,
        reconciliation.mark_alerted,
        verification.find_verifiable,
        verification.check_orders,
        verification.check_stock,
        stock_alerts.find_shortages,
        stock_alerts.post_shortages,
        recommendations.choose_candidates,
        recommendations.rank_candidates,
        product_index.plan_index,
        product_index.embed_batch,
        product_index.activate_index,
    ]


def warehouse_of(settings: Settings, http: httpx.AsyncClient) -> Warehouse:
    return Warehouse(http, settings.fulfillment_api, settings.fulfillment_key.get_secret_value())


def terms_of(settings: Settings) -> Terms:
    """What a new order is promised; it is written on its row."""
    return Terms(
        capture_mode=settings.payment_capture,
        authentication_deadline=settings.authentication_deadline_seconds,
        authentication_poll=settings.authentication_poll_seconds,
        fulfillment_deadline=settings.fulfillment_deadline_seconds,
        notification_deadline=settings.notification_deadline_seconds,
    )


@asynccontextmanager
async def open_worker(
    settings: Settings, client: Client, *, task_queue: str = TASK_QUEUE, interceptors: Sequence[Interceptor] = ()
) -> AsyncIterator[Worker]:
    """A worker with all its clients open; not yet running.

    Raises:
        CannotStart: PostgreSQL cannot be used, a migration or search attribute is missing, or CRASH_AT names nothing
            or is set where Temporal is elsewhere.
    """
    if settings.crash_at:
        check_temporal_is_here(client)
    await check_search_attributes(client)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(await open_database(settings))
        database = WatchedDatabase(pool) if settings.crash_at else Database(pool)
        await check_migrations(database)
        http = await stack.enter_async_context(open_http(settings.http_timeout_seconds))
        stripe = stripe_client(http, settings.stripe_secret_key.get_secret_value(), settings.stripe_base)
        openai = openai_client(
            await stack.enter_async_context(open_http(settings.recommendation_timeout_seconds, MAX_ANSWER)),
            settings.openai_api_key.get_secret_value(),
            settings.openai_base,
        )
        activities = activities_of(settings, client, database, http, stripe, openai)
        if settings.crash_at:
            watch_http(http)
            interceptors = [*interceptors, crash_points(settings.crash_at, activities)]
        yield Worker(
            client,
            task_queue=task_queue,
            workflows=WORKFLOWS,
            activities=activities,
            interceptors=interceptors,
            graceful_shutdown_timeout=DRAIN,
        )


def check_temporal_is_here(client: Client) -> None:
    """A worker that kills itself must not take tasks of other machines. Raises CannotStart."""
    if urlsplit(f"//{client.service_client.config.target_host}").hostname not in LOOPBACK:
        raise CannotStart("CRASH_AT kills workers: Temporal must be on this machine, TEMPORAL_ADDRESS is not")


def crash_points(crash_at: str, activities: Sequence[Callable[..., Any]]) -> CrashPoints:
    """What kills this process at the point that CRASH_AT names. Raises CannotStart."""
    try:
        return CrashPoints(crash_point(crash_at, {method.__name__ for method in activities}))
    except ValueError as error:
        raise CannotStart(str(error)) from None


async def check_migrations(database: Database) -> None:
    """Refuse a database whose schema is not the one this code was written for.

    Raises:
        CannotStart: naming the migrations that are missing.
    """
    wanted = {path.name.split("_")[0] for path in MIGRATIONS.glob("*.sql")}
    try:
        async with database.transaction() as connection:
            applied = {row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")}
    except Unavailable as error:
        if error.type != REFUSED:
            raise CannotStart(f"PostgreSQL at DATABASE_URL cannot be used: {error.message}") from error
        applied = set()
    if missing := sorted(wanted - applied):
        raise CannotStart(f"PostgreSQL lacks the migrations {', '.join(missing)}: run `make migrate`")


async def check_search_attributes(client: Client) -> None:
    """An unregistered search attribute would fail every workflow task for ever.

    Raises:
        CannotStart: naming those that are missing, or why Temporal does not say.
    """
    request = ListSearchAttributesRequest(namespace=client.namespace)
    try:
        answer = await client.operator_service.list_search_attributes(request, retry=True)
    except RPCError as error:
        raise CannotStart(f"Temporal does not list its search attributes: {error}") from error
    if missing := sorted(SEARCH_ATTRIBUTES.keys() - answer.custom_attributes.keys()):
        raise CannotStart(
            f"Temporal lacks the search attributes {', '.join(missing)}: create each with "
            "`temporal operator search-attribute create --type Keyword --name …`"
        )


async def open_database(settings: Settings) -> "Pool":
    """The pool that the settings name. Raises CannotStart."""
    try:
        return await open_pool(settings.database_url.get_secret_value(), settings.database_pool_size)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise CannotStart(f"PostgreSQL at DATABASE_URL cannot be used: {type(error).__name__}") from error


async def connect_temporal() -> Client:
    """A client, or what a person can do about it. Raises CannotStart."""
    try:
        return await connect()
    except RuntimeError as error:
        raise CannotStart(f"Temporal at TEMPORAL_ADDRESS cannot be reached: {error}") from error


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then finish what has begun."""
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    client = await connect_temporal()
    async with open_worker(settings, client) as worker, worker:
        log.info("worker ready", task_queue=TASK_QUEUE, namespace=client.namespace)
        if settings.worker_ready_file:
            Path(settings.worker_ready_file).touch()  # noqa: ASYNC240 (once, at start)
        await stop.wait()
        log.info("worker draining", seconds=DRAIN.total_seconds())
    log.info("worker stopped")


def launch(program: str, run: Callable[[Settings], Coroutine[Any, Any, None]]) -> int:
    """Exit status 0 after a drain, 1 with one line on why the program cannot start."""
    try:
        settings = Settings()
        configure_logs(settings.log_format, settings.log_level)
        asyncio.run(run(settings))
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = ".".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"{program}: {name} {problem['msg']}\n".replace(" Value error,", ""))
        return 1
    except CannotStart as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    status = launch("worker.py", run)
    sys.stderr.flush()
    os._exit(status)  # the interpreter's own exit may abort in the SDK's threads (temporalio/sdk-python#300)
