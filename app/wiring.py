"""The one place where the worker is put together: settings, clients, activities, worker."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import structlog
from openai import AsyncOpenAI
from stripe import StripeClient
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import Interceptor, Worker, WorkerDeploymentConfig

from activities.fulfillment import Fulfillment
from activities.inventory import Inventory
from activities.notifications import Notifications
from activities.order_recovery import OrderRecovery
from activities.order_state import OrderState
from activities.parcels import Parcels
from activities.payments import Payments
from activities.product_index import ProductIndex
from activities.recommendations import Recommendations
from activities.reconciliation import Reconciliation
from activities.refunds import Refunds
from activities.shipments import Shipments
from activities.stock_alerts import StockAlerts
from activities.verification import Verification
from app.clients import http_of, stripe_of, warehouse_of
from app.crash_points import CrashPoints, WatchedDatabase, crash_point, watch_http
from app.health import serve_health
from app.startup_checks import TEMPORAL_CHECKS, CannotStart, check_temporal_is_here, open_database, require
from config.links import workflow_link
from config.payload_keys import customer_tags
from config.settings import Settings
from config.temporal import connect
from gateways.openai import MAX_ANSWER, LanguageModel, openai_client
from gateways.order_store import read_shop_id
from gateways.postgres import ATTEMPTS_PER_CONNECTION, Database
from gateways.spent_keys import SpentKeys
from gateways.stripe import StripeGateway
from orders.holds import HoldLimits
from orders.models import Terms
from orders.names import TASK_QUEUE, model_queue
from orders.recommendations import IndexTarget
from saga import ATTEMPT_TIMEOUT, activates_patches
from workflows.cancel_order import CancelOrder
from workflows.check_inventory import CheckInventory
from workflows.index_products import IndexProducts
from workflows.notify_shipment import NotifyShipment
from workflows.process_order import ProcessOrder
from workflows.product_recommendations import ProductRecommendations
from workflows.reconcile_orders import ReconcileOrders
from workflows.refund_order import RefundOrder
from workflows.verify_orders import VerifyOrders

WORKFLOWS: Final[Sequence[type]] = (
    ProcessOrder,
    CancelOrder,
    RefundOrder,
    NotifyShipment,
    CheckInventory,
    ReconcileOrders,
    VerifyOrders,
    ProductRecommendations,
    IndexProducts,
)

# What asks a language model waits for one of a few slots of its own, so that nothing of an order waits behind it.
MODEL_ACTIVITIES: Final = {Recommendations.rank_candidates.__name__, ProductIndex.embed_batch.__name__}

# Longer than any attempt of an activity, so that a worker that is stopped finishes the attempts under way.
DRAIN: Final = ATTEMPT_TIMEOUT + timedelta(seconds=5)

log = structlog.get_logger()


@asynccontextmanager
async def worker_program(settings: Settings) -> AsyncIterator[None]:
    """The worker process: it works while the block lasts, then finishes the attempts under way.

    Raises:
        CannotStart: see serve_health and open_worker.
        InvalidInput, NoAnswer: see connect.
    """
    async with serve_health(settings) as health:
        client = await connect(sandbox=settings.workflow_sandbox, metrics_address=settings.metrics_address)
        async with open_worker(settings, client) as worker, worker:
            log.info(
                "worker ready",
                task_queue=TASK_QUEUE,
                namespace=client.namespace,
                build_id=settings.temporal_worker_build_id or None,
                workflow_sandbox=settings.workflow_sandbox,
                event_loop=type(asyncio.get_running_loop()).__module__,
            )
            if settings.worker_ready_file:
                _touch(settings.worker_ready_file)
            with health.ready():
                yield
            log.info("worker draining", seconds=DRAIN.total_seconds())
    log.info("worker stopped")


def _touch(path: str) -> None:
    try:
        Path(path).touch()
    except OSError as error:
        raise CannotStart(f"WORKER_READY_FILE: {path} cannot be made: {error.strerror}") from None


@asynccontextmanager
async def open_worker(
    settings: Settings, client: Client, *, task_queue: str = TASK_QUEUE, interceptors: Sequence[Interceptor] = ()
) -> AsyncIterator[Worker]:
    """A worker with all its clients open; not yet running.

    A second worker of this program, which asks the language model, runs as long as the block lasts. It ends without
    waiting for an answer: another worker asks again.

    Raises:
        CannotStart: PostgreSQL cannot be used, a migration or search attribute is missing, or CRASH_AT names no point
            or is set where Temporal is on another machine.
    """
    if settings.crash_at:
        check_temporal_is_here(client)
    await require(TEMPORAL_CHECKS, client)
    async with AsyncExitStack() as stack:
        kind = WatchedDatabase if settings.crash_at else Database
        database = await stack.enter_async_context(open_database(settings, kind))
        http = await stack.enter_async_context(http_of(settings, settings.http_timeout_seconds))
        stripe = stripe_of(settings, http)
        openai = openai_client(
            await stack.enter_async_context(http_of(settings, settings.recommendation_timeout_seconds, MAX_ANSWER)),
            settings.openai_api_key.get_secret_value(),
            settings.openai_base,
        )
        shop_id = await read_shop_id(database)
        activities = activities_of(settings, client, database, shop_id, http, stripe, openai)
        if settings.crash_at:
            watch_http(http)
            interceptors = [*interceptors, _crash_points(settings.crash_at, activities)]
        await stack.enter_async_context(
            Worker(
                client,
                task_queue=model_queue(task_queue),
                activities=[each for each in activities if each.__name__ in MODEL_ACTIVITIES],
                interceptors=interceptors,
                max_concurrent_activities=settings.model_concurrency,
                deployment_config=version_of(settings),
            )
        )
        is_local_first = settings.step_execution == "local-first"
        attempts = settings.database_pool_size * ATTEMPTS_PER_CONNECTION
        # Runs that began local-first at another worker are few.
        local = attempts // 2 if is_local_first else settings.database_pool_size
        # It has the model's activities too, for runs whose tasks an earlier version has put into this queue.
        yield Worker(
            client,
            task_queue=task_queue,
            workflows=WORKFLOWS,
            activities=activities,
            interceptors=interceptors,
            max_concurrent_activities=attempts - local,
            max_concurrent_local_activities=local,
            patch_activation_callback=activates_patches(offered=is_local_first),
            graceful_shutdown_timeout=DRAIN,
            deployment_config=version_of(settings),
        )


def version_of(settings: Settings) -> WorkerDeploymentConfig | None:
    """The version that the workers of this process are; None: they are unversioned.

    A run moves to the version that is current with its next workflow task. A run of a pinned workflow would stay with
    its build while it waits for an operator, without limit, and hang when the workers of that build are gone.
    """
    if not settings.temporal_deployment_name:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(settings.temporal_deployment_name, settings.temporal_worker_build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE,
    )


def activities_of(  # noqa: PLR0913, PLR0917 (one client for each external service)
    settings: Settings,
    client: Client,
    database: Database,
    shop_id: str,
    http: httpx.AsyncClient,
    stripe: StripeClient,
    openai: AsyncOpenAI | None,
) -> list[Callable[..., Any]]:
    """Every activity of every class, each class with the clients that it needs."""
    gateway = StripeGateway(stripe, shop_id, SpentKeys(database))
    model = LanguageModel(openai, model=settings.recommendation_model, max_tokens=settings.recommendation_max_tokens)
    warehouse = warehouse_of(settings, http, shop_id)
    reconcile_after = timedelta(seconds=settings.reconcile_after_seconds)
    classes = (
        Inventory(
            database,
            terms_of(settings),
            hold_limits=HoldLimits(settings.customer_max_held_orders, settings.customer_max_held_units),
            must_be_sealed=settings.payloads_must_be_sealed,
            customer_tag=lambda customer: customer_tags(client, customer)[0],
        ),
        OrderState(database, client),
        Payments(database, gateway),
        Refunds(database, gateway),
        Fulfillment(
            database,
            warehouse,
            remembers_cancels=settings.fulfillment_remembers_cancels,
            restock=settings.restocks_shortages,
        ),
        Notifications(
            database,
            http,
            shop_id,
            settings.email_service_url,
            settings.analytics_url,
            settings.slack_webhook,
            partial(workflow_link, settings.temporal_ui_url, client.namespace),
        ),
        OrderRecovery(database, client, reconcile_after),
        Reconciliation(database, gateway, reconcile_after, timedelta(seconds=settings.reconcile_window_seconds)),
        Shipments(database, warehouse, reconcile_after, restock=settings.restocks_shortages),
        Parcels(database, client, reconcile_after, emails=settings.shipped_email),
        Verification(
            database,
            client,
            gateway,
            warehouse,
            timedelta(seconds=settings.verify_window_seconds),
            # An order without a run is no violation until reconcile-orders has had two chances to restart it.
            reconcile_after + 2 * timedelta(seconds=settings.reconcile_every_seconds),
        ),
        StockAlerts(database, http, settings.slack_webhook, timedelta(seconds=settings.low_stock_realert_seconds)),
        Recommendations(database, model, settings.recommendation_deadline_seconds),
        ProductIndex(
            database, model, IndexTarget(model=settings.embedding_model, dimensions=settings.embedding_dimensions)
        ),
    )
    return [activity for instance in classes for activity in _activities_in(instance)]


def _activities_in(instance: object) -> Iterator[Callable[..., Any]]:
    """The methods that @activity.defn marks; the SDK has no call for it (temporalio/sdk-python#758)."""
    for _, method in inspect.getmembers(instance, inspect.ismethod):
        if hasattr(method, "__temporal_activity_definition"):
            yield method


def terms_of(settings: Settings) -> Terms:
    """What a new order is promised; its row keeps it."""
    return Terms(
        capture_mode=settings.payment_capture,
        authentication_deadline=settings.authentication_deadline_seconds,
        authentication_poll=settings.authentication_poll_seconds,
        payment_retry=settings.payment_retry_seconds,
        fulfillment_deadline=settings.fulfillment_deadline_seconds,
        notification_deadline=settings.notification_deadline_seconds,
    )


def _crash_points(crash_at: str, activities: Sequence[Callable[..., Any]]) -> CrashPoints:
    """The interceptor that kills this process at the point that CRASH_AT names. Raises CannotStart."""
    try:
        return CrashPoints(crash_point(crash_at, {method.__name__ for method in activities}))
    except ValueError as error:
        raise CannotStart(str(error)) from None
