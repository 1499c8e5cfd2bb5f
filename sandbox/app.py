"""The sandbox as one ASGI application: each external service under its own path, the controls under /_sandbox."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.actions import Actions
from sandbox.admin import Admin
from sandbox.call import Call, Handler, Refused, invalid, plain, unknown
from sandbox.faults import UnknownServiceError
from sandbox.page import STATIC, Page
from sandbox.stripe import StripeError
from sandbox.stripe_http import refused
from sandbox.world import SERVICES, World

METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def create_app(world: World, workflows: str = "") -> Starlette:
    """Return an application that serves `world`; the caller may read and change the world meanwhile.

    `workflows` is the address of the workflows in Temporal's Web UI, for the links of the page.
    """
    page = Page(world, workflows)
    routes = [
        *(route for service in SERVICES for route in _external_service(world, service)),
        *Admin(world).routes(),
        *page.routes(),
        *Actions(world, page).routes(),
    ]
    return Starlette(
        routes=[*(Route(each.path, _saving(world, each.endpoint), methods=each.methods) for each in routes), STATIC],
        exception_handlers=dict.fromkeys((ValidationError, StripeError, UnknownServiceError), _refuse),
    )


def _external_service(world: World, service: str) -> Iterator[Route]:
    state, routes = SERVICES[service]
    for method, path, handler in routes:
        yield Route(f"/{service}{path}", _endpoint(world, service, state, handler), methods=[method])
    yield Route(f"/{service}/{{path:path}}", _endpoint(world, service, state, plain(unknown)), methods=METHODS)


def _endpoint(world: World, service: str, state: str, handler: Handler[Any]) -> Callable[..., object]:
    async def respond(request: Request) -> Response:
        call = await Call.read(service, request)
        about = world.about(call)
        hit = world.fault_for(service, f"{call.method} {call.path}", about)
        journal = world.journal
        request_id = journal.open(call, about, hit.fault)
        answer = hit.before() or hit.after(await handler(getattr(world, state), call, hit))
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
        case UnknownServiceError():
            return Refused(422, "service_unknown", str(problem)).answer
    raise problem
