"""One request to a simulated external service, and what the answers of all services have in common."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote_plus

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.faults import FaultHit

REPLAYED: Final = "Idempotent-Replayed"
_NESTED: Final = re.compile(r"(\w+)\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Call:
    """A complete request. `path` is relative to the service, without the prefix under which the sandbox mounts it."""

    service: str
    method: str
    path: str
    ids: Mapping[str, str]
    headers: Headers
    query: str
    content: bytes

    @classmethod
    async def read(cls, service: str, request: Request) -> "Call":
        return cls(
            service=service,
            method=request.method,
            path=request.scope["path"].removeprefix(f"/{service}"),
            ids=request.path_params,
            headers=request.headers,
            query=request.url.query,
            content=await request.body(),
        )

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")

    @property
    def bearer(self) -> str:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    @property
    def body(self) -> Any:  # noqa: ANN401  what a client sends has no type
        """JSON and forms parsed to objects, anything else as text."""
        text = self.content.decode(errors="replace")
        if self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return parse_form(text)
        try:
            # Not json.loads: it accepts lone surrogates and NaN, which no answer can contain.
            return from_json(text, allow_inf_nan=False) if text else None
        except ValueError:
            return text

    @property
    def text(self) -> str:
        """All parts of the request that may contain an order id."""
        content = unquote_plus(self.content.decode(errors="replace"))
        return "\n".join((self.path, self.query, self.key or "", content))


def parse_form(text: str) -> dict[str, Any]:
    """Decode a form as Stripe's API does: `metadata[order_id]=1` is a mapping inside a mapping."""
    form: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        nested = _NESTED.fullmatch(name)
        if nested and isinstance(form.setdefault(nested[1], {}), dict):
            form[nested[1]][nested[2]] = value
        else:
            form[name] = value
    return form


class Body(BaseModel):
    """A JSON body: required fields must be present, unknown fields are ignored."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True
    )


class Refused(Exception):
    """A service refuses the request. Stripe has an error format of its own: see StripeError."""

    def __init__(self, status: int, code: str | None, message: str, **more: object) -> None:
        super().__init__(message)
        self.answer = JSONResponse({"error": {"code": code, "message": message, **more}}, status)


S = TypeVar("S")
Handler = Callable[[S, Call, FaultHit], Awaitable[Response]]
Routes = tuple[tuple[str, str, Handler[S]], ...]


def plain(act: Callable[[S, Call], Response]) -> Handler[S]:
    """Return a handler whose effect is one synchronous function."""

    def effect(service: S, call: Call) -> Response:
        try:
            return act(service, call)
        except Refused as refusal:
            return refusal.answer
        except ValidationError as problem:
            return invalid(problem)

    async def handle(service: S, call: Call, hit: FaultHit) -> Response:
        return await hit.inside(lambda: effect(service, call))

    return handle


def invalid(problem: ValidationError) -> Response:
    """Answer 422 and name every field that is missing or wrong."""
    fields = {".".join(map(str, each["loc"])): each["msg"] for each in problem.errors()}
    return Refused(422, "invalid_request", "The request is not valid.", fields=fields).answer


def unknown(_: object, call: Call) -> Response:
    raise Refused(404, "route_unknown", f"There is no {call.method} {call.path}.")
