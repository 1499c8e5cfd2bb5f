"""The HTTP client: what a broken or malicious external service can do to the worker."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httpx
import pytest
import trustme
from pydantic import SecretStr

from app.clients import http_of
from config.settings import SANDBOX_OPENAI_KEY, SANDBOX_STRIPE_KEY, Settings
from gateways.http import MAX_ANSWER, MAX_RETRY_AFTER, Network, get_json, open_http, raise_for_refusal, retry_after
from gateways.openai import LanguageModel, openai_client
from gateways.stripe import StripeGateway, stripe_client
from orders.errors import Permanent, Unavailable

if TYPE_CHECKING:
    from gateways.spent_keys import SpentKeys


@asynccontextmanager
async def an_external_service(
    head: str, chunk: bytes = b"", *, endless: bool = False, pause: float = 0, tls: ssl.SSLContext | None = None
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

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


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
    [
        ("7", 7),
        ("1.5", 1.5),
        ("9" * 5000, MAX_RETRY_AFTER),
        ("0", None),
        ("²", None),
        ("-1", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:09 GMT", 9),
        ("Wednesday, 21-Oct-26 07:28:09 GMT", 9),
        ("Wed Oct 21 07:28:09 2026", 9),
        ("Thu, 22 Oct 2026 07:28:09 GMT", MAX_RETRY_AFTER),
        ("Wed, 21 Oct 2026 07:27:59 GMT", None),
        ("Wed, 99 Oct 2026 07:28:09 GMT", None),
    ],
)
def test_the_delay_that_a_service_asks_for(value: str, seconds: float | None) -> None:
    """A number of seconds, or a date by the service's clock, up to a maximum; anything else is ignored."""
    wait = retry_after({"Retry-After": value, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"})
    assert (wait and wait.total_seconds()) == seconds


@pytest.mark.parametrize("theirs", [{}, {"Date": "today"}])
def test_a_date_without_a_clock(theirs: dict[str, str]) -> None:
    """This machine's clock is used."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    wait = retry_after({"Retry-After": soon} | theirs)
    assert wait is not None
    assert 55 < wait.total_seconds() <= 60


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


# ------------------------------------------------------------------------------------------------------- inner networks

WAREHOUSE = "warehouse.inner"
KEY = {"Authorization": "Bearer canary"}


@pytest.fixture
def ca(tmp_path: Path) -> trustme.CA:
    """A CA of the shop's own, also as a file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


def certified(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    """The TLS of a server that this CA has certified."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*names).configure_cert(tls)
    return tls


@asynccontextmanager
async def a_proxy(target: str) -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that connects every tunnel to one address. Yields its own address and the heads that it can read."""
    seen: list[str] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        there, onward = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pipe(reader, onward), _pipe(there, writer))

    async with await asyncio.start_server(tunnel, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


async def test_a_ca_of_the_shops_own(ca: trustme.CA, tmp_path: Path) -> None:
    """A service behind it is reached, and any other certificate is refused before a key is sent."""
    network = Network(ca_file=str(tmp_path / "ca.pem"))
    async with an_external_service("200 OK", tls=certified(ca, "127.0.0.1")) as (url, asked):
        async with open_http(10, network=network) as http:
            assert (await get_json(http, "fulfillment", url, KEY)).status_code == 200
        async with open_http(10) as stranger:
            with pytest.raises(Unavailable, match="fulfillment: its certificate is not trusted: SSL_CERT_FILE"):
                await get_json(stranger, "fulfillment", url, KEY)
    assert len(asked) == 1

    elsewhere = an_external_service("200 OK", tls=certified(ca, "other.inner"))
    async with elsewhere as (url, asked), open_http(10, network=network) as http:
        with pytest.raises(Unavailable, match="fulfillment: its certificate is not trusted"):
            await get_json(http, "fulfillment", url, KEY)
    assert asked == []


async def test_a_proxy_sees_where_and_not_what(ca: trustme.CA, tmp_path: Path) -> None:
    """It connects a tunnel; the key goes to the service alone, whose certificate is checked."""
    async with (
        an_external_service("200 OK", tls=certified(ca, WAREHOUSE)) as (url, asked),
        a_proxy(url) as (proxy, seen),
        open_http(10, network=Network(ca_file=str(tmp_path / "ca.pem"), proxy=proxy)) as http,
    ):
        assert (await get_json(http, "fulfillment", f"https://{WAREHOUSE}/orders", KEY)).status_code == 200
        with pytest.raises(Unavailable):
            await get_json(http, "fulfillment", "https://api.stripe.com", KEY)
    assert [head.split("\r\n")[0] for head in seen] == [
        f"CONNECT {WAREHOUSE}:443 HTTP/1.1",
        "CONNECT api.stripe.com:443 HTTP/1.1",
    ]
    assert "canary" not in "".join(seen)
    assert len(asked) == 1
    assert "authorization: bearer canary" in asked[0].lower()


async def test_what_is_near_is_reached_without_the_proxy(ca: trustme.CA, tmp_path: Path) -> None:
    """This machine, the hosts that the settings name, and all that goes by plain http: a proxy could read it."""
    async with (
        an_external_service("200 OK", tls=certified(ca, "localhost", "127.0.0.1")) as (secure, _),
        an_external_service("200 OK") as (plain, _),
        a_proxy(plain) as (proxy, seen),
        open_http(5, network=Network(ca_file=str(tmp_path / "ca.pem"), proxy=proxy, inner_hosts=(WAREHOUSE,))) as http,
    ):
        for url in (secure, secure.replace("127.0.0.1", "localhost"), plain):
            assert (await get_json(http, "fulfillment", url, KEY)).status_code == 200
        for url in (f"https://{WAREHOUSE}", f"http://{WAREHOUSE}", "http://other.invalid"):
            with pytest.raises(Unavailable):
                await get_json(http, "fulfillment", url, KEY)
    assert seen == []


async def test_the_environment_names_no_proxy_and_no_ca(
    monkeypatch: pytest.MonkeyPatch, ca: trustme.CA, tmp_path: Path
) -> None:
    """Only the settings do."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with (
        an_external_service("200 OK", tls=certified(ca, "127.0.0.1")) as (url, asked),
        a_proxy(url) as (proxy, seen),
    ):
        for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy)
        async with open_http(5) as http:
            for each in (url, "https://nowhere.invalid"):
                with pytest.raises(Unavailable):
                    await get_json(http, "fulfillment", each, KEY)
    assert (asked, seen) == ([], [])


async def test_the_settings_say_which_way(ca: trustme.CA, tmp_path: Path) -> None:
    """SSL_CERT_FILE, OUTBOUND_PROXY and INNER_HOSTS reach the client of the programs."""
    settings = Settings(ssl_cert_file=str(tmp_path / "ca.pem"), inner_hosts="mail.inner")
    async with an_external_service("200 OK", tls=certified(ca, WAREHOUSE)) as (url, _), a_proxy(url) as (proxy, seen):
        proxied = settings.model_copy(update={"outbound_proxy": SecretStr(proxy)})
        async with http_of(proxied, 5) as http:
            assert (await get_json(http, "fulfillment", f"https://{WAREHOUSE}", KEY)).status_code == 200
            with pytest.raises(Unavailable):
                await get_json(http, "email", "https://mail.inner", KEY)
    assert len(seen) == 1
