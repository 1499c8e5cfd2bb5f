"""The web process: Stripe and the warehouse tell here what has happened. Nothing that they send is believed.

POST /webhooks/stripe and /webhooks/fulfillment take signed events, GET /healthz says whether PostgreSQL answers. Orders
come to their end without it too, only later: process-order polls, and reconcile-orders looks after refunds.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final

import structlog
import uvicorn
from pydantic import SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from temporalio.client import Client

from app.web.events import Effect, Event, FulfillmentEvents, Receiver, StripeEvents, is_kept
from app.web.signatures import BadSignature, verify
from config.settings import SANDBOX_FULFILLMENT_WEBHOOK_SECRET, SANDBOX_STRIPE_WEBHOOK_SECRET, Settings
from gateways.http import open_http
from gateways.postgres import Database
from gateways.stripe import StripeGateway, stripe_client
from orders.errors import Permanent, Unavailable
from orders.names import TASK_QUEUE
from worker import CannotStart, check_migrations, connect_temporal, launch, open_database, warehouse_of

MAX_BODY: Final = 256 * 1024  # bytes
BODY_SECONDS: Final = 10  # for a sender to send it
RETRY_SECONDS: Final = 30  # when a sender may come again, unless somebody has named a time
MAX_CONNECTIONS: Final = 2000  # silent ones too, which a proxy in front keeps away
DRAIN_SECONDS: Final = 30  # for the deliveries under way when the process is told to stop

log = structlog.get_logger()


class Refused(Exception):
    """A delivery that is not taken: the HTTP status, and why, for the log alone."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Endpoint:
    """Where one source delivers: authenticates, applies an event once, and logs one line for each delivery."""

    def __init__(
        self, receiver: Receiver, database: Database, *, header: str, secrets: SecretStr, tolerance: int
    ) -> None:
        """`secrets` are separated by commas, all of them accepted; `tolerance` is in seconds."""
        self._receiver = receiver
        self._database = database
        self._header = header
        self._secrets = [each for part in secrets.get_secret_value().split(",") if (each := part.strip())]
        self._tolerance = tolerance

    async def receive(self, request: Request) -> Response:
        """200: it need not come again. 503: it must. 4xx: it is not what the source sends."""
        told = log.bind(source=self._receiver.source)
        try:
            event = await self._authentic(request)
            told = told.bind(event_id=event.id, type=event.type)
            effect = await self._apply(event)
        except Refused as refused:
            told.warning("webhook", outcome=str(refused))
            return JSONResponse({"error": "refused"}, refused.status)
        except (Unavailable, Permanent) as error:
            told.warning("webhook", outcome="not now", why=error.message)
            wait = error.next_retry_delay.seconds if error.next_retry_delay else RETRY_SECONDS
            return JSONResponse({"error": "not now"}, 503, {"Retry-After": str(wait)})
        told.info("webhook", outcome=effect)
        return JSONResponse({"outcome": effect})

    async def _authentic(self, request: Request) -> Event:
        """The event, of which nothing was looked at before its signature."""
        body = await _read(request)
        signature = request.headers.get(self._header, "")
        try:
            verify(signature, body, self._secrets, tolerance=self._tolerance, now=time.time())
            return Event.model_validate_json(body)
        except BadSignature as refusal:
            raise Refused(400, str(refusal)) from None
        except ValidationError:
            raise Refused(400, "not an event") from None

    async def _apply(self, event: Event) -> Effect:
        if event.type not in self._receiver.types:
            return Effect.UNKNOWN_TYPE
        if event.about is None:
            raise Refused(400, "about nothing")
        if await is_kept(self._database, self._receiver.source, event):
            return Effect.DUPLICATE
        return await self._receiver.apply(event, event.about)


async def _read(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise Refused(413, "too large")
    except TimeoutError:
        raise Refused(408, "too slow") from None
    except ClientDisconnect:
        raise Refused(400, "cut off") from None
    return bytes(body)


@asynccontextmanager
async def open_webhooks(
    settings: Settings, client: Client, *, task_queue: str = TASK_QUEUE
) -> AsyncIterator[Starlette]:
    """The application with all its clients open; not yet served.

    Raises:
        CannotStart: PostgreSQL cannot be used, a migration is missing, or real money is guarded by a known secret.
    """
    _require_secrets_of_ones_own(settings)
    async with AsyncExitStack() as stack:
        database = Database(await stack.enter_async_context(await open_database(settings)))
        await check_migrations(database)
        http = await stack.enter_async_context(open_http(settings.http_timeout_seconds))
        stripe = stripe_client(http, settings.stripe_secret_key.get_secret_value(), settings.stripe_base)
        yield application(
            database,
            Endpoint(
                StripeEvents(database, StripeGateway(stripe), client, task_queue),
                database,
                header="Stripe-Signature",
                secrets=settings.stripe_webhook_secret,
                tolerance=settings.webhook_tolerance_seconds,
            ),
            Endpoint(
                FulfillmentEvents(database, warehouse_of(settings, http)),
                database,
                header="Fulfillment-Signature",
                secrets=settings.fulfillment_webhook_secret,
                tolerance=settings.webhook_tolerance_seconds,
            ),
        )


def application(database: Database, stripe: Endpoint, fulfillment: Endpoint) -> Starlette:
    async def health(_: Request) -> Response:
        try:
            async with database.transaction() as connection:
                await connection.execute("SELECT 1")
        except Unavailable:
            return JSONResponse({"status": "database unavailable"}, 503)
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/webhooks/stripe", stripe.receive, methods=["POST"]),
            Route("/webhooks/fulfillment", fulfillment.receive, methods=["POST"]),
            Route("/healthz", health),
        ]
    )


def _require_secrets_of_ones_own(settings: Settings) -> None:
    """The sandbox's secrets are known to everybody who has read this project."""
    given = {
        "STRIPE_WEBHOOK_SECRET": (settings.stripe_webhook_secret, SANDBOX_STRIPE_WEBHOOK_SECRET),
        "FULFILLMENT_WEBHOOK_SECRET": (settings.fulfillment_webhook_secret, SANDBOX_FULFILLMENT_WEBHOOK_SECRET),
    }
    for name, (secret, known) in given.items():
        if settings.is_live and known in secret.get_secret_value():
            raise CannotStart(f"{name} is the sandbox's, but STRIPE_SECRET_KEY is a live key")


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to whoever runs the loop."""
        yield


@asynccontextmanager
async def serve(app: Starlette, host: str, port: int) -> AsyncIterator[str]:
    """Serve until the block is left, and then finish what is under way; yields the address. Port 0: a free one.

    Raises:
        CannotStart: it cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise CannotStart(f"WEBHOOKS_PORT {port} of {host} cannot be used: {error.strerror}") from None
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what has begun."""
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    client = await connect_temporal()
    async with (
        open_webhooks(settings, client) as app,
        serve(app, settings.webhooks_host, settings.webhooks_port) as url,
    ):
        log.info("webhooks ready", url=url)
        await stop.wait()
    log.info("webhooks stopped")


if __name__ == "__main__":
    status = launch("webhooks.py", run)
    sys.stderr.flush()
    os._exit(status)  # the interpreter's own exit may abort in the SDK's threads (temporalio/sdk-python#300)
