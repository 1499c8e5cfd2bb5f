"""The client for the neighbours: what a neighbour gone mad, or taken over, can do to the worker."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from activities.http import LARGEST_ANSWER, get_json, open_http
from activities.language_model import LanguageModel, openai_client
from activities.stripe_gateway import StripeGateway, stripe_client
from orders.errors import Unavailable
from orders.settings import SANDBOX_OPENAI_KEY, SANDBOX_STRIPE_KEY


@asynccontextmanager
async def a_neighbour(head: str, chunk: bytes = b"", *, endless: bool = False) -> AsyncIterator[tuple[str, list[str]]]:
    """Answers every request with that head and body: its address, and the lines it was asked with."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode() + chunk)
        try:
            while endless:
                await writer.drain()
                writer.write(chunk)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_an_endless_answer_is_an_outage() -> None:
    """It is given up long before it fills the memory."""
    async with a_neighbour("200 OK", b"x" * 65_536, endless=True) as (url, _), open_http(10) as http:
        with pytest.raises(Unavailable, match="ReadError"):
            await get_json(http, "fulfillment", url, {})


async def test_so_it_is_for_those_who_speak_through_an_sdk() -> None:
    """Stripe and the language model are neighbours like the others."""
    async with a_neighbour("200 OK", b"x" * 65_536, endless=True) as (url, _), open_http(10) as http:
        payments = StripeGateway(stripe_client(http, SANDBOX_STRIPE_KEY, url))
        with pytest.raises(Unavailable, match="APIConnectionError"):
            await payments.retrieve("pi_1")

        model = LanguageModel(openai_client(http, SANDBOX_OPENAI_KEY, url), model="m", max_tokens=1, timeout_seconds=10)
        with pytest.raises(Unavailable, match="APIConnectionError"):
            await model.answer("Say it.", "the text", {})


async def test_an_answer_that_is_packed_is_an_outage() -> None:
    """A kilobyte of it may become a gigabyte."""
    packed = gzip.compress(b"x" * 1024)
    async with a_neighbour("200 OK\r\nContent-Encoding: gzip", packed) as (url, asked), open_http(10) as http:
        with pytest.raises(Unavailable, match="DecodingError"):
            await get_json(http, "fulfillment", url, {"Accept-Encoding": "gzip"})
    assert "accept-encoding: identity" in asked[0].lower()


async def test_the_largest_answer_is_read() -> None:
    """What is allowed is not cut."""
    async with a_neighbour("200 OK", b"x" * LARGEST_ANSWER) as (url, _), open_http(10) as http:
        assert len((await get_json(http, "fulfillment", url, {})).content) == LARGEST_ANSWER


async def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour does not choose whom the worker speaks to; nor does the environment."""
    async with a_neighbour("200 OK") as (inside, asked_inside):
        monkeypatch.setenv("HTTP_PROXY", inside)
        async with a_neighbour(f"302 Found\r\nLocation: {inside}") as (url, asked), open_http(10) as http:
            assert (await get_json(http, "fulfillment", url, {})).status_code == 302
    assert len(asked) == 1
    assert asked_inside == []
