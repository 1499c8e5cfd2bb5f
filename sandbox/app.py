"""The sandbox as one ASGI application: each external service under its own path, the controls under /_sandbox."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox import fulfillment, inbox, openai, stripe_http
from sandbox.actions import Actions
from sandbox.admin import Admin
from sandbox.call import Call, Handler, Routes, S, invalid, plain, unknown
from sandbox.faults import Service
from sandbox.page import STATIC, Page
from sandbox.stripe import StripeError
from sandbox.stripe_http import refused
from sandbox.world import World

METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def create_app(world: World, workflows: str = "") -> Starlette:
    """Return an application that serves `world`; the caller may read and change the world meanwhile.

    `workflows` is the address of the workflows in Temporal's Web UI, for the links of the page.
    """
    page = Page(world, workflows)
    routes = [
        *_external_service(world, "stripe", lambda: world.stripe, stripe_http.ROUTES),
        *_external_service(world, "fulfillment", lambda: world.fulfillment, fulfillment.ROUTES),
        *_external_service(world, "email", lambda: world.inbox, inbox.EMAIL_ROUTES),
        *_external_service(world, "analytics", lambda: world.inbox, inbox.ANALYTICS_ROUTES),
        *_external_service(world, "slack", lambda: world.inbox, inbox.SLACK_ROUTES),
        *_external_service(world, "openai", lambda: world.openai, openai.ROUTES),
        *Admin(world).routes(),
        *page.routes(),
        *Actions(world, page).routes(),
    ]
    return Starlette(
        routes=[*(Route(each.path, _saving(world, each.endpoint), methods=each.methods) for each in routes), STATIC],
        exception_handlers={ValidationError: _refuse, StripeError: _refuse},
    )


def _external_service(world: World, service: Service, current: Callable[[], S], routes: Routes[S]) -> Iterator[Route]:
    for method, path, handler in routes:
        yield Route(f"/{service}{path}", _endpoint(world, service, current, handler), methods=[method])
    yield Route(f"/{service}/{{path:path}}", _endpoint(world, service, current, plain(unknown)), methods=METHODS)


def _endpoint(world: World, service: Service, current: Callable[[], S], handler: Handler[S]) -> Callable[..., object]:
    async def respond(request: Request) -> Response:
        call = await Call.read(service, request)
        about = world.about(call)
        hit = world.fault_for(service, f"{call.method} {call.path}", about)
        journal = world.journal
        request_id = journal.open(call, about, hit.fault)
        answer = hit.before() or hit.after(await handler(current(), call, hit))
        # Stripe and OpenAI name this header differently.
        answer.headers["Request-Id"] = answer.headers["X-Request-Id"] = request_id
        journal.close(request_id, answer)
        return answer

    return respond


def _saving(world: World, respond: Callable[[Request], Awaitable[Response]]) -> Callable[..., object]:
    async def respond_saved(request: Request) -> Response:
        answer = await respond(request)
        world.save()
        return answer

    return respond_saved


async def _refuse(_: Request, problem: Exception) -> Response:
    match problem:
        case StripeError():
            return refused(problem)
        case ValidationError():
            return invalid(problem)
    raise problem
