"""JSON over HTTP to the external services: one client, errors in our words."""

import asyncio
from collections.abc import Awaitable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx

from orders.errors import Permanent, Unavailable

MAX_ANSWER: Final = 1024 * 1024  # bytes, where nobody says otherwise
MAX_RETRY_AFTER: Final = 300  # seconds
PLAIN: Final = "identity"
RETRYABLE_STATUSES: Final = {401, 403, 408, 425, 429}
CLIENT_ERRORS: Final = frozenset({400, 413, 422})  # to the request itself: the same one would be refused again


class _Transport(httpx.AsyncHTTPTransport):
    """Reads the whole answer itself: a broken external service must not take the memory or the time of the worker."""

    def __init__(self, timeout_seconds: float, largest_answer: int) -> None:
        super().__init__(trust_env=False)
        self._timeout = timeout_seconds
        self._largest = largest_answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = PLAIN
        try:
            async with asyncio.timeout(self._timeout):  # httpx's own is for each read, however many there are
                response = await super().handle_async_request(request)
                body = await _read(response, self._largest)
        except TimeoutError:
            raise httpx.ReadTimeout("the answer takes too long") from None
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=httpx.ByteStream(body),
            extensions=response.extensions,
        )


async def _read(response: httpx.Response, largest: int) -> bytes:
    body = bytearray()
    async with aclosing(response):
        if response.headers.get("Content-Encoding", PLAIN) != PLAIN:
            raise httpx.DecodingError("the answer is packed, and could be of any size")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > largest:
                raise httpx.ReadError("the answer is too large")
    return bytes(body)


def open_http(timeout_seconds: float, largest_answer: int = MAX_ANSWER) -> httpx.AsyncClient:
    """A client that follows no redirect, keeps no cookie, takes no proxy from the environment, reads no endless answer.

    Args:
        timeout_seconds: for a whole answer, from the moment that somebody asks.
        largest_answer: in bytes.
    """
    return httpx.AsyncClient(
        transport=_Transport(timeout_seconds, largest_answer),
        timeout=None,  # noqa: S113 (the transport has one for all of it)
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # from nobody, to nobody
        follow_redirects=False,
        trust_env=False,
    )


def header(headers: Mapping[str, str] | None, name: str) -> str:
    """A header by its name in any case; empty if it is absent."""
    return next((value for key, value in (headers or {}).items() if key.lower() == name), "")


def retry_after(headers: Mapping[str, str] | None) -> timedelta | None:
    """How long an external service asked us to wait, within reason."""
    value = header(headers, "retry-after")
    # As a float: int refuses numbers of thousands of digits.
    return timedelta(seconds=min(float(value), MAX_RETRY_AFTER)) if value.isdecimal() else None


async def post_json(
    client: httpx.AsyncClient, service: str, url: str, body: object, headers: Mapping[str, str]
) -> httpx.Response:
    """POST, and return what a working external service said, be it yes or no. Rejected credentials count as an outage.

    Raises:
        Unavailable: no answer, a server error or a limit; whether it took effect is not known.
    """
    return await _answer(service, client.post(url, json=body, headers=dict(headers)))


async def get_json(client: httpx.AsyncClient, service: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
    """GET, and return what a working external service said, as `post_json` does.

    Raises:
        Unavailable: no answer, a server error or a limit.
    """
    return await _answer(service, client.get(url, headers=dict(headers)))


async def _answer(service: str, request: Awaitable[httpx.Response]) -> httpx.Response:
    try:
        response = await request
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{service}: {type(error).__name__}", type=f"{service}_unavailable") from None
    if response.is_server_error or response.status_code in RETRYABLE_STATUSES:
        raise _no_answer(service, response)
    return response


def accept(service: str, response: httpx.Response, client_errors: AbstractSet[int] = CLIENT_ERRORS) -> None:
    """Take the answer for a yes.

    Raises:
        Permanent: it is a no, by one of the statuses `client_errors`.
        Unavailable: it is neither, e.g. a wrong address, or a 409 while an earlier attempt is still being worked on.
    """
    if response.status_code in client_errors:
        raise Permanent(f"{service}: HTTP {response.status_code}", type=f"{service}_refused")
    if not response.is_success:
        raise _no_answer(service, response)


def _no_answer(service: str, response: httpx.Response) -> Unavailable:
    return Unavailable(
        f"{service}: HTTP {response.status_code}",
        type=f"{service}_unavailable",
        retry_after=retry_after(response.headers),
    )
