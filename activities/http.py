"""JSON over HTTP to the neighbours: one client, errors in our words."""

from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import timedelta
from typing import Final

import httpx

from orders.errors import Permanent, Unavailable

LARGEST_ANSWER: Final = 1024 * 1024  # bytes, where nobody says otherwise
LONGEST_RETRY_AFTER: Final = 300  # seconds
PLAIN: Final = "identity"
NOT_AN_ANSWER: Final = {401, 403, 408, 425, 429}


class _Capped(httpx.AsyncByteStream):
    """A body that is cut off where it grows too large: a neighbour gone mad must not take the worker's memory."""

    def __init__(self, body: httpx.AsyncByteStream, largest: int) -> None:
        self._body = body
        self._largest = largest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._body:
            size += len(chunk)
            if size > self._largest:
                raise httpx.ReadError("the answer is too large")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


class _Transport(httpx.AsyncHTTPTransport):
    def __init__(self, largest_answer: int) -> None:
        super().__init__(trust_env=False)
        self._largest = largest_answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = PLAIN
        response = await super().handle_async_request(request)
        if response.headers.get("Content-Encoding", PLAIN) != PLAIN:
            await response.aclose()
            raise httpx.DecodingError("the answer is packed, and could be of any size")
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Capped(response.stream, self._largest)
        return response


def open_http(timeout_seconds: float, largest_answer: int = LARGEST_ANSWER) -> httpx.AsyncClient:
    """A client that follows no redirect, takes no proxy from the environment, and reads no endless answer.

    `largest_answer` is in bytes.
    """
    return httpx.AsyncClient(
        transport=_Transport(largest_answer), timeout=timeout_seconds, follow_redirects=False, trust_env=False
    )


def header(headers: Mapping[str, str] | None, name: str) -> str:
    """A header by its name in any case; empty if it is absent."""
    return next((value for key, value in (headers or {}).items() if key.lower() == name), "")


def retry_after(headers: Mapping[str, str] | None) -> timedelta | None:
    """How long a neighbour asked us to wait, within reason."""
    value = header(headers, "retry-after")
    return timedelta(seconds=min(int(value), LONGEST_RETRY_AFTER)) if value.isdigit() else None


async def post_json(
    client: httpx.AsyncClient, service: str, url: str, body: object, headers: Mapping[str, str]
) -> httpx.Response:
    """POST, and return what a working neighbour said, be it yes or no. Rejected credentials count as an outage.

    Raises:
        Unavailable: no answer, a server error or a limit; whether it took effect is not known.
    """
    return await _answer(service, client.post(url, json=body, headers=dict(headers)))


async def get_json(client: httpx.AsyncClient, service: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
    """GET, and return what a working neighbour said, as `post_json` does.

    Raises:
        Unavailable: no answer, a server error or a limit.
    """
    return await _answer(service, client.get(url, headers=dict(headers)))


async def _answer(service: str, request: Awaitable[httpx.Response]) -> httpx.Response:
    try:
        response = await request
    except httpx.HTTPError as error:
        raise Unavailable(f"{service}: {type(error).__name__}", type=f"{service}_unavailable") from None
    if response.is_server_error or response.status_code in NOT_AN_ANSWER:
        raise Unavailable(
            f"{service}: HTTP {response.status_code}",
            type=f"{service}_unavailable",
            retry_after=retry_after(response.headers),
        )
    return response


def accept(service: str, response: httpx.Response) -> None:
    """Take the answer for a yes.

    Raises:
        Permanent: it is a no.
    """
    if not response.is_success:
        raise Permanent(f"{service}: HTTP {response.status_code}", type=f"{service}_refused")
