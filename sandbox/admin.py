"""The controls of the sandbox, under /_sandbox: script faults, act as customer, bank or time, read the records."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.faults import Fault
from sandbox.openai_model import BadAnswer
from sandbox.stripe import Stripe
from sandbox.webhooks import Target
from sandbox.world import World


class Command(BaseModel):
    """The body of a request to the controls. An unknown field is refused: it may be a typing error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(Command):
    """The result of an event that the customer, a bank or time decides."""

    outcome: Literal["succeed", "fail"]

    @property
    def succeeds(self) -> bool:
        return self.outcome == "succeed"


class Warned(Command):
    kind: Literal["dispute", "fraud_warning", "review"]


class Switches(Command):
    fulfillment_forgets_cancels: bool


class BadCompletions(Command):
    kind: BadAnswer
    times: int = Field(default=1, ge=1)


class Admin:
    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> list[Route]:
        return [
            Route("/_sandbox/health", self.health),
            Route("/_sandbox/journal", self.journal),
            Route("/_sandbox/records", self.records),
            Route("/_sandbox/faults", self.faults),
            Route("/_sandbox/faults", self.add_fault, methods=["POST"]),
            Route("/_sandbox/faults", self.clear_faults, methods=["DELETE"]),
            Route("/_sandbox/completions", self.spoil_completions, methods=["POST"]),
            Route("/_sandbox/webhooks", self.webhooks),
            Route("/_sandbox/webhooks", self.send_webhooks, methods=["POST"]),
            Route("/_sandbox/webhooks", self.send_no_webhooks, methods=["DELETE"]),
            Route("/_sandbox/shipments/{order_id}", self.forget_shipments, methods=["DELETE"]),
            Route("/_sandbox/webhooks/idle", self.webhooks_idle),
            Route("/_sandbox/reset", self.reset, methods=["POST"]),
            Route("/_sandbox/settings", self.switch, methods=["POST"]),
            Route("/_sandbox/forget-keys", self.forget_keys, methods=["POST"]),
            Route("/_sandbox/authenticate/{id}", self.authenticate, methods=["POST"]),
            Route("/_sandbox/expire/{id}", self.expire, methods=["POST"]),
            Route("/_sandbox/settle/{id}", self.settle, methods=["POST"]),
            Route("/_sandbox/warn/{id}", self.warn, methods=["POST"]),
            Route("/_sandbox/end-warning/{id}", self.end_warning, methods=["POST"]),
        ]

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def journal(self, request: Request) -> Response:
        """Return all entries; with ?order=, only those that name the order."""
        return JSONResponse(list(self._world.journal.about(request.query_params.get("order", ""))))

    async def records(self, _: Request) -> Response:
        return JSONResponse(self._world.provider_records())

    async def faults(self, _: Request) -> Response:
        return JSONResponse([fault.model_dump() for fault in self._world.faults.pending()])

    async def add_fault(self, request: Request) -> Response:
        fault = self._world.faults.add(Fault.model_validate_json(await request.body()))
        return JSONResponse(fault.model_dump(), 201)

    async def clear_faults(self, _: Request) -> Response:
        self._world.faults.clear()
        return Response(status_code=204)

    async def webhooks(self, _: Request) -> Response:
        """Return the webhooks that are not delivered yet, and the latest delivery attempts."""
        sender = self._world.webhook_sender
        pending = [{"id": each.id, "type": each.type} for each in sender.pending.values()]
        return JSONResponse({"pending": pending, "attempts": [attempt._asdict() for attempt in sender.attempts]})

    async def send_webhooks(self, request: Request) -> Response:
        """Send a webhook to the shop at this address for every change from now on."""
        target = Target.model_validate_json(await request.body())
        self._world.send_webhooks_to(target)
        return JSONResponse({"url": target.url}, 201)

    async def send_no_webhooks(self, _: Request) -> Response:
        self._world.send_webhooks_to(None)
        return Response(status_code=204)

    async def webhooks_idle(self, _: Request) -> Response:
        """Answer when no webhook is left to deliver."""
        await self._world.webhook_sender.idle()
        return Response(status_code=204)

    async def spoil_completions(self, request: Request) -> Response:
        """Make the next answers of the language model bad ones."""
        bad = BadCompletions.model_validate_json(await request.body())
        self._world.openai.script(bad.kind, bad.times)
        return JSONResponse(bad.model_dump(), 201)

    async def reset(self, _: Request) -> Response:
        self._world.reset()
        return Response(status_code=204)

    async def switch(self, request: Request) -> Response:
        switches = Switches.model_validate_json(await request.body())
        self._world.fulfillment.forgets_cancels = switches.fulfillment_forgets_cancels
        return JSONResponse(switches.model_dump())

    async def forget_shipments(self, request: Request) -> Response:
        """Forget what the warehouse has of an order, as one does that archives, or that moved to another system."""
        self._world.fulfillment.forget(request.path_params["order_id"])
        return Response(status_code=204)

    async def forget_keys(self, _: Request) -> Response:
        """Forget all idempotency keys, as Stripe may after 24 hours."""
        self._world.stripe.keys.clear()
        return Response(status_code=204)

    async def authenticate(self, request: Request) -> Response:
        """Let the customer pass or fail 3DS."""
        outcome = Outcome.model_validate_json(await request.body())
        return JSONResponse(self._account.authenticate(request.path_params["id"], succeeds=outcome.succeeds))

    async def expire(self, request: Request) -> Response:
        """Let an authorization lapse."""
        return JSONResponse(self._account.expire(request.path_params["id"]))

    async def settle(self, request: Request) -> Response:
        """Let a refund end."""
        outcome = Outcome.model_validate_json(await request.body())
        return JSONResponse(self._account.settle(request.path_params["id"], succeeds=outcome.succeeds))

    async def warn(self, request: Request) -> Response:
        """Let a bank dispute or suspect a payment, or let Stripe ask for a review."""
        warned = Warned.model_validate_json(await request.body())
        return JSONResponse(self._account.warn(warned.kind, request.path_params["id"]), 201)

    async def end_warning(self, request: Request) -> Response:
        """Let a dispute, an early fraud warning or a review end."""
        outcome = Outcome.model_validate_json(await request.body())
        return JSONResponse(self._account.end_warning(request.path_params["id"], succeeds=outcome.succeeds))

    @property
    def _account(self) -> Stripe:
        return self._world.stripe.account
