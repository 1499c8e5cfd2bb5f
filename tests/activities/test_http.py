"""The client for the neighbours: what a neighbour gone mad, or taken over, can do to the worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from activities.http import LARGEST_ANSWER, get_json, open_http
from orders.errors import Unavailable


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
