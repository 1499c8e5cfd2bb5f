"""What the web process serves: an endpoint for each source of events, and its health.

POST /webhooks/stripe and /webhooks/fulfillment take signed events, GET /healthz says that the process
answers. An endpoint checks size, time and signature before it reads anything of an event, and logs one line for each
delivery.
"""

import time
from collections.abc import Sequence
from typing import Final

import structlog
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.web.bodies import Refused, read_body
from app.web.events import Effect, Envelope, Event, Receiver, is_kept
from app.web.signatures import BadSignature, verify
from gateways.postgres import Database
from orders.errors import Permanent, Unavailable
from orders.metrics import WEBHOOKS
from orders.parsing import problems_of

MAX_BODY: Final = 256 * 1024  # bytes
RETRY_SECONDS: Final = 30  # until a sender may try again, unless the cause names a time

OTHER_TYPE: Final = "other"  # in metrics: whoever sends an event may invent types

log = structlog.get_logger()


class Endpoint:
    """Takes the deliveries of one source: it authenticates each, and applies its event once."""

    def __init__(
        self, receiver: Receiver, database: Database, *, header: str, secrets: Sequence[str], tolerance: int
    ) -> None:
        """Each of the `secrets` is accepted; `tolerance` is in seconds."""
        self._receiver = receiver
        self._database = database
        self._header = header
        self._secrets = secrets
        self._tolerance = tolerance

    async def receive(self, request: Request) -> Response:
        """200: taken. 503: the source must deliver it again. 4xx: the source does not send such a thing."""
        source, kind = self._receiver.source, OTHER_TYPE
        entry = log.bind(source=source)
        try:
            event = await self._authentic(request)
            kind = event.type if event.type in self._receiver.types else OTHER_TYPE
            entry = entry.bind(event_id=event.id, type=event.type)
            effect = await self._apply(event)
        except Refused as refused:
            WEBHOOKS.add(source=source, type=kind, result="refused")
            entry.warning("webhook", outcome=str(refused))
            return JSONResponse({"error": "refused", "why": str(refused)}, refused.status)
        except (Unavailable, Permanent) as error:
            WEBHOOKS.add(source=source, type=kind, result="not now")
            entry.warning("webhook", outcome="not now", why=error.message)
            wait = error.next_retry_delay.seconds if error.next_retry_delay else RETRY_SECONDS
            return JSONResponse({"error": "not now"}, 503, {"Retry-After": str(wait)})
        WEBHOOKS.add(source=source, type=kind, result=effect)
        entry.info("webhook", outcome=effect)
        return JSONResponse({"outcome": effect})

    async def _authentic(self, request: Request) -> Envelope:
        """The event, which is not parsed before its signature is checked. Of an unknown type only the type is read."""
        body = await read_body(request, MAX_BODY)
        signature = request.headers.get(self._header, "")
        try:
            verify(signature, body, self._secrets, tolerance=self._tolerance, now=time.time())
            envelope = Envelope.model_validate_json(body)
            is_known = envelope.type in self._receiver.types
            return self._receiver.event.model_validate_json(body) if is_known else envelope
        except BadSignature as refusal:
            raise Refused(400, str(refusal)) from None
        except ValidationError as error:
            raise Refused(400, f"not an event: {', '.join(problems_of(error))}") from None

    async def _apply(self, event: Envelope) -> Effect:
        if not isinstance(event, Event):
            return Effect.UNKNOWN_TYPE
        if event.about is None:
            raise Refused(400, "about nothing")
        if await is_kept(self._database, self._receiver.source, event):
            return Effect.DUPLICATE
        return await self._receiver.apply(event, event.about)


async def _healthy(_: Request) -> Response:
    """PostgreSQL is not asked: a restart of this process would not bring it back."""
    return JSONResponse({"status": "ok"})


def application(stripe: Endpoint, fulfillment: Endpoint) -> Starlette:
    return Starlette(
        routes=[
            Route("/webhooks/stripe", stripe.receive, methods=["POST"]),
            Route("/webhooks/fulfillment", fulfillment.receive, methods=["POST"]),
            Route("/healthz", _healthy),
        ]
    )
