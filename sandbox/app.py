"""The sandbox as one ASGI application: its neighbours, each under its own path, and its own side under /_sandbox."""

import secrets
from collections.abc import Callable, Iterator
from typing import Final

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox import fulfillment, inbox, stripe_http
from sandbox.admin import Admin
from sandbox.call import Call, Handler, Routes, S, invalid, plain, unknown
from sandbox.faults import Service
from sandbox.stripe import StripeError
from sandbox.stripe_http import refused
from sandbox.world import World

METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def create_app(world: World) -> Starlette:
    """The application that plays `world`; the world stays with the caller, to be read and changed."""
    return Starlette(
        routes=[
            *_neighbour(world, "stripe", lambda: world.stripe, stripe_http.ROUTES),
            *_neighbour(world, "fulfillment", lambda: world.fulfillment, fulfillment.ROUTES),
            *_neighbour(world, "email", lambda: world.inbox, inbox.EMAIL_ROUTES),
            *_neighbour(world, "analytics", lambda: world.inbox, inbox.ANALYTICS_ROUTES),
            *_neighbour(world, "slack", lambda: world.inbox, inbox.SLACK_ROUTES),
            *Admin(world).routes(),
        ],
        exception_handlers={ValidationError: _refuse, StripeError: _refuse},
    )


def _neighbour(world: World, service: Service, current: Callable[[], S], routes: Routes[S]) -> Iterator[Route]:
    for method, path, handler in routes:
        yield Route(f"/{service}{path}", _endpoint(world, service, current, handler), methods=[method])
    yield Route(f"/{service}/{{path:path}}", _endpoint(world, service, current, plain(unknown)), methods=METHODS)


def _endpoint(world: World, service: Service, current: Callable[[], S], handler: Handler[S]) -> Callable[..., object]:
    async def respond(request: Request) -> Response:
        call = await Call.read(service, request)
        about = world.about(call)
        strike = world.faults.strike(service, f"{call.method} {call.path}", about)
        entry = world.journal.open(call, about, strike.fault)
        answer = strike.before() or strike.after(await handler(current(), call, strike))
        answer.headers["Request-Id"] = f"req_{secrets.token_hex(7)}"
        entry.close(answer)
        return answer

    return respond


async def _refuse(_: Request, problem: Exception) -> Response:
    match problem:
        case StripeError():
            return refused(problem)
        case ValidationError():
            return invalid(problem)
    raise problem
