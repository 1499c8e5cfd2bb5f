"""What the codec server serves: POST /encode and /decode, for whoever has a token, and its health.

The Web UI calls it from the browser, so it takes requests of pages from exact origins only. The token stands in the
header Authorization, as the `temporal` command sends it, or first in the path: a Web UI without a login sends no
header. Nothing of a body is read before the token is checked.
"""

import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads

from app.web.bodies import Refused, read_body
from config.sealing import Seal
from orders.errors import Unreadable
from orders.parsing import SEALED_WITH, UNOPENED

MAX_BODY: Final = 8 * 2**20  # bytes: Temporal takes payloads of 2 MiB, and JSON has them in base64
HEADERS: Final = ("authorization", "content-type", "x-namespace")
PREFLIGHT_SECONDS: Final = 600

log = structlog.get_logger()

Transform = Callable[[Sequence[Payload]], Awaitable[list[Payload]]]


class Codec:
    """Answers those who have a token."""

    def __init__(self, tokens: Sequence[str], origins: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._origins = origins

    def endpoint(self, transform: Transform) -> Callable[[Request], Awaitable[Response]]:
        """200: the payloads, transformed. 4xx: refused; `message` says why."""

        async def answer(request: Request) -> Response:
            entry = log.bind(operation=transform.__name__)
            try:
                self._admit(request)
                payloads = await transform(await _payloads_in(request))
            except Refused as refused:
                entry.warning("codec", outcome=str(refused))
                asks = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}  # noqa: PLR2004 (Unauthorized)
                return JSONResponse({"message": str(refused)}, refused.status, asks)
            entry.info("codec", outcome="answered", payloads=len(payloads))
            return Response(MessageToJson(Payloads(payloads=payloads)), media_type="application/json")

        return answer

    def _admit(self, request: Request) -> None:
        """Let only who has a token pass, and no page of a foreign origin, whoever reads it."""
        origin = request.headers.get("origin")
        if origin is not None and origin not in self._origins:
            raise Refused(403, "pages of this origin are refused: CODEC_ORIGINS does not name it")
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        given = request.path_params.get("token") or (credentials.strip() if scheme.lower() == "bearer" else "")
        if not any(hmac.compare_digest(given.encode(), token) for token in self._tokens):
            raise Refused(401, "a token of CODEC_TOKENS is needed: Authorization: Bearer TOKEN, or first in the path")


async def _payloads_in(request: Request) -> Sequence[Payload]:
    try:
        body = await read_body(request, MAX_BODY)
        return Parse(body.decode(), Payloads(), ignore_unknown_fields=True).payloads
    except (ParseError, ValueError, RecursionError):
        raise Refused(400, "the body must be Payloads of Temporal, as JSON") from None


def application(seal: Seal, tokens: Sequence[str], origins: Sequence[str]) -> Starlette:
    """The codec server for these keys. `tokens` are all valid, `origins` are those of the Web UIs."""

    async def decode(payloads: Sequence[Payload]) -> list[Payload]:
        return [await opened(each) for each in payloads]

    async def opened(payload: Payload) -> Payload:
        """As it is, if it cannot be decrypted: the others of its page still can."""
        try:
            [plain] = await seal.decode([payload])
        except Unreadable as error:
            log.warning("codec cannot decrypt a payload", why=str(error))
            return payload
        if plain.metadata.get("encoding") == UNOPENED:
            return payload
        plain.metadata.pop(SEALED_WITH, None)  # it is for workflows
        return plain

    async def encode(payloads: Sequence[Payload]) -> list[Payload]:
        return await seal.encode(payloads)

    async def healthy(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    codec = Codec(tokens, origins)
    routes = [
        Route(f"{prefix}/{operation.__name__}", codec.endpoint(operation), methods=["POST"])
        for prefix in ("", "/{token}")
        for operation in (encode, decode)
    ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["POST"],
        allow_headers=HEADERS,
        max_age=PREFLIGHT_SECONDS,
    )
    return Starlette(routes=[*routes, Route("/healthz", healthy)], middleware=[cors])
