"""The HTTP client: what a broken or malicious external service can do to the worker."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import httpx
import pytest

from config.settings import SANDBOX_OPENAI_KEY, SANDBOX_STRIPE_KEY
from gateways.http import MAX_ANSWER, MAX_RETRY_AFTER, get_json, open_http, raise_for_refusal, retry_after
from gateways.openai import LanguageModel, openai_client
from gateways.stripe import StripeGateway, stripe_client
from orders.errors import Permanent, Unavailable

if TYPE_CHECKING:
    from gateways.spent_keys import SpentKeys


@asynccontextmanager
async def an_external_service(
    head: str, chunk: bytes = b"", *, endless: bool = False, pause: float = 0
) -> AsyncIterator[tuple[str, list[str]]]:
    """Answers every request with this head and body. Yields its address and the heads of the requests.

    With `endless` the body repeats the chunk for ever, with a `pause` in seconds before each.
    """
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode() + chunk)
        try:
            while endless:
                await writer.drain()
                await asyncio.sleep(pause)
                writer.write(chunk)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def payments_at(http: httpx.AsyncClient, url: str) -> StripeGateway:
    """A gateway that only reads."""
    return StripeGateway(stripe_client(http, SANDBOX_STRIPE_KEY, url), "", cast("SpentKeys", None))


async def test_an_endless_answer_is_an_outage() -> None:
    """The client stops reading long before the memory is full."""
    async with an_external_service("200 OK", b"x" * 65_536, endless=True) as (url, _), open_http(10) as http:
        with pytest.raises(Unavailable, match="ReadError"):
            await get_json(http, "fulfillment", url, {})


async def test_an_endless_answer_to_an_sdk_is_an_outage() -> None:
    """Stripe's and OpenAI's SDKs use the same client."""
    async with an_external_service("200 OK", b"x" * 65_536, endless=True) as (url, _), open_http(10) as http:
        payments = payments_at(http, url)
        with pytest.raises(Unavailable, match="APIConnectionError"):
            await payments.retrieve("pi_1")

        model = LanguageModel(openai_client(http, SANDBOX_OPENAI_KEY, url), model="m", max_tokens=1)
        with pytest.raises(Unavailable, match="APIConnectionError"):
            await model.answer("Say it.", "the text", {})


async def test_a_slow_answer_is_an_outage() -> None:
    """The time-out is for the whole answer, not for each part of it; also for Stripe and the language model."""
    drops = an_external_service("200 OK", b" ", endless=True, pause=0.05)
    async with drops as (url, _), open_http(0.5) as http, asyncio.timeout(20):
        with pytest.raises(Unavailable, match="fulfillment: ReadTimeout"):
            await get_json(http, "fulfillment", url, {})
        with pytest.raises(Unavailable, match="APIConnectionError"):
            await payments_at(http, url).retrieve("pi_1")
        model = LanguageModel(openai_client(http, SANDBOX_OPENAI_KEY, url), model="m", max_tokens=1)
        with pytest.raises(Unavailable, match="APITimeoutError"):
            await model.answer("Say it.", "the text", {})


async def test_a_compressed_answer_is_an_outage() -> None:
    """A kilobyte may become a gigabyte."""
    packed = gzip.compress(b"x" * 1024)
    async with an_external_service("200 OK\r\nContent-Encoding: gzip", packed) as (url, asked), open_http(10) as http:
        with pytest.raises(Unavailable, match="DecodingError"):
            await get_json(http, "fulfillment", url, {"Accept-Encoding": "gzip"})
    assert "accept-encoding: identity" in asked[0].lower()


async def test_the_largest_answer_is_read() -> None:
    """An answer of exactly the maximum is read whole."""
    async with an_external_service("200 OK", b"x" * MAX_ANSWER) as (url, _), open_http(10) as http:
        assert len((await get_json(http, "fulfillment", url, {})).content) == MAX_ANSWER


async def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a service nor the environment chooses which address the worker calls."""
    async with an_external_service("200 OK") as (inside, asked_inside):
        monkeypatch.setenv("HTTP_PROXY", inside)
        async with an_external_service(f"302 Found\r\nLocation: {inside}") as (url, asked), open_http(10) as http:
            assert (await get_json(http, "fulfillment", url, {})).status_code == 302
    assert len(asked) == 1
    assert asked_inside == []


async def test_no_cookie_is_kept() -> None:
    """A cookie is not sent back, not even to the service that set it."""
    head = "200 OK\r\nSet-Cookie: a=b; Path=/\r\nSet-Cookie: c=d"
    async with an_external_service(head) as (url, asked), open_http(10) as http:
        for _ in range(2):
            await get_json(http, "fulfillment", url, {})
    assert len(asked) == 2
    assert "cookie" not in "".join(asked).lower()


async def test_an_invalid_address_is_an_outage() -> None:
    """It ends when an operator corrects the setting."""
    async with open_http(10) as http:
        with pytest.raises(Unavailable, match="InvalidURL"):
            await get_json(http, "fulfillment", "http://127.0.0.1\n", {})
        with pytest.raises(Unavailable, match="APIConnectionError"):
            await payments_at(http, "http://127.0.0.1\n").retrieve("pi_1")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("9" * 5000, MAX_RETRY_AFTER), ("²", None), ("-1", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
    ids=["seconds", "too many", "no decimal", "negative", "a date"],
)
def test_the_delay_that_a_service_asks_for(value: str, seconds: int | None) -> None:
    """A number of seconds, up to a maximum; anything else is ignored."""
    wait = retry_after({"Retry-After": value})
    assert (wait and wait.total_seconds()) == seconds


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_of_the_request_is_final(status: int) -> None:
    """The service would refuse the same request again."""
    with pytest.raises(Permanent, match=f"email: HTTP {status}"):
        raise_for_refusal("email", httpx.Response(status))


@pytest.mark.parametrize("status", [302, 404, 409, 410])
def test_any_other_failure_is_an_outage(status: int) -> None:
    """For example a conflict with an earlier attempt, or a wrong address; Retry-After is kept."""
    with pytest.raises(Unavailable, match=f"email: HTTP {status}") as outage:
        raise_for_refusal("email", httpx.Response(status, headers={"Retry-After": "7"}))
    assert outage.value.next_retry_delay == timedelta(seconds=7)
