"""Scripted request faults: what goes wrong with a request, which requests it affects, and how often."""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from itertools import count
from typing import Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

DeliveryKind = Literal["delay", "duplicate", "reorder", "drop"]
Kind = Literal["status", "reset_before", "reset_after", "hang_before", "hang_after", "saved"] | DeliveryKind

WEBHOOKS: Final = "webhooks"  # what the sandbox delivers, as faults name it

_BODY: Final = {"error": {"type": "api_error", "code": "scripted", "message": "This failure was asked for."}}
_numbers = count(1)


class Fault(BaseModel):
    """One scripted fault. If several match a request, the oldest one hits it.

    `before` and `after`: whether the fault comes before or after the effect of the request. A `hang` ends when the
    caller disconnects. Stripe saves the answer of `saved` under the idempotency key. Faults of service `webhooks`
    affect what the sandbox delivers: late, twice, never, or after the next one; their `route` is the event type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(default_factory=lambda: f"fault_{next(_numbers)}")
    service: str
    route: str = Field(default="*", description="Method and path, e.g. `POST /v1/payment_intents/*/capture`.")
    kind: Kind
    status: int = Field(default=503, ge=200, le=599)
    headers: dict[str, str] = {}
    body: JsonValue = Field(default=None, description="Text is answered as HTML, anything else as JSON.")
    seconds: float = Field(default=1, ge=0, description="Length of a delay, in seconds.")
    times: int | None = Field(default=1, ge=1, description="How many requests it hits; null: all until cleared.")
    order: str | None = Field(default=None, description="Hits only requests about orders whose id contains this.")
    after_effect: bool = Field(default=False, description="For status and delay: fail after the effect.")
    effect: bool = Field(default=True, description="For saved: whether the effect happens.")

    @model_validator(mode="after")
    def _suits_the_service(self) -> Self:
        if self.kind == "saved" and self.service != "stripe":
            raise ValueError("saved is for service stripe only: no other service saves answers under a key")
        if self.kind != "delay" and (self.service == WEBHOOKS) != (self.kind in get_args(DeliveryKind)):
            raise ValueError(f"service {self.service} cannot have a fault of kind {self.kind}")
        return self

    def matches(self, service: str, request: str, text: str) -> bool:
        return self.service == service and fnmatchcase(request, self.route) and (self.order or "") in text

    def answer(self, status: int) -> Response:
        if isinstance(self.body, str):
            return HTMLResponse(self.body, status, self.headers)
        return JSONResponse(_BODY if self.body is None else self.body, status, self.headers)


class UnknownServiceError(Exception):
    """A fault names a service that the sandbox does not have; the message names those that it has."""


class NoAnswer(Response):
    """The caller gets no answer: the connection is cut, or stays open until the caller disconnects."""

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self._cut = cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  nothing is sent
        if self._cut:
            scope["state"]["transport"].abort()
        while (await receive())["type"] != "http.disconnect":
            pass


class FaultHit:
    """The fault, if any, that hits one request `before` the service, `after` it, or `inside`, where it holds a key."""

    def __init__(self, fault: Fault | None, released: asyncio.Event) -> None:
        self.fault = fault
        self._released = released

    def before(self) -> Response | None:
        match self.fault:
            case Fault(kind="reset_before" | "hang_before" as kind):
                return NoAnswer(cut=kind == "reset_before")
            case Fault(kind="status", after_effect=False) as fault:
                return fault.answer(fault.status)
        return None

    async def inside(self, effect: Callable[[], Response]) -> Response:
        match self.fault:
            case Fault(kind="delay", after_effect=False) as fault:
                await self.pause(fault.seconds)
                return effect()
            case Fault(kind="delay") as fault:
                answer = effect()
                await self.pause(fault.seconds)
                return answer
            case Fault(kind="saved") as fault:
                if fault.effect:
                    effect()
                return fault.answer(fault.status)
        return effect()

    def after(self, answer: Response) -> Response:
        match self.fault:
            case Fault(kind="reset_after" | "hang_after" as kind):
                return NoAnswer(cut=kind == "reset_after")
            case Fault(kind="status") as fault:
                return fault.answer(fault.status)
        return answer

    async def pause(self, seconds: float) -> None:
        """Wait for this time, or until the script is cleared."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._released.wait()

    async def wait_for(self, event: asyncio.Event) -> None:
        """Wait for the event, or until the script is cleared."""
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self._released)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class Faults:
    """The script: all pending faults, in the order in which they were added."""

    def __init__(self, services: Collection[str]) -> None:
        self.services = services
        self._pending: dict[str, Fault] = {}
        self._released = asyncio.Event()

    def add(self, fault: Fault) -> Fault:
        """Add a fault to the script. Raises UnknownServiceError."""
        if fault.service not in self.services:
            raise UnknownServiceError(f"There is no service {fault.service}. Services: {', '.join(self.services)}.")
        self._pending[fault.id] = fault
        return fault

    def pending(self) -> list[Fault]:
        """Return the faults that may still hit; `times` is what is left."""
        return [*self._pending.values()]

    def remove(self, fault_id: str) -> None:
        """Forget one fault. What it delays already stays delayed. Raises KeyError."""
        del self._pending[fault_id]

    def clear(self) -> None:
        """Forget the script, and release every request that it delays."""
        self._pending.clear()
        self._released.set()
        self._released = asyncio.Event()

    def hit(self, service: str, request: str, text: str) -> FaultHit:
        """Use up one hit for a request: `request` is its method and path, `text` may contain an order id."""
        fault = next((each for each in self._pending.values() if each.matches(service, request, text)), None)
        if fault and fault.times is not None:
            self._spend(fault, fault.times - 1)
        return FaultHit(fault, self._released)

    def _spend(self, fault: Fault, left: int) -> None:
        if left:
            self._pending[fault.id] = fault.model_copy(update={"times": left})
        else:
            del self._pending[fault.id]
