"""JSON over HTTP to external services: one kind of client, and its errors as Unavailable or Permanent."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Final, Literal

import httpx
from pydantic import BaseModel, Field, ValidationError

from gateways.calls import watch_call
from gateways.quotes import explain
from orders.errors import Permanent, Unavailable

MAX_ANSWER: Final = 1024 * 1024  # bytes, by default
MAX_RETRY_AFTER: Final = 300  # seconds
NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
PLAIN: Final = "identity"
RETRYABLE_STATUSES: Final = {401, 403, 408, 425, 429}
CLIENT_ERRORS: Final = frozenset({400, 413, 422})  # the service refuses the request, and would refuse it again


LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """The way to external services. The environment has no say in it.

    `ca_file` has the certificates of the trusted CAs, empty: certifi's. `proxy` is used for https to all hosts but
    `inner_hosts` and this machine: it sees neither a key nor an order.
    """

    ca_file: str = ""
    proxy: str = ""
    inner_hosts: Sequence[str] = ()


OPEN_NETWORK: Final = Network()


class _Acceptance(BaseModel):
    """A JSON object in which nothing says that the request was not accepted."""

    ok: Literal[True] = True
    success: Literal[True] = True
    error: Literal[""] | None = None
    id: Annotated[str, Field(min_length=1)] | int = 0


class _Transport(httpx.AsyncHTTPTransport):
    """Reads the whole answer, within limits: a broken service must not use up the worker's memory or time."""

    def __init__(
        self, timeout_seconds: float, max_answer: int, trust: ssl.SSLContext, proxy: httpx.Proxy | None = None
    ) -> None:
        super().__init__(verify=trust, proxy=proxy, trust_env=False)
        self._timeout = timeout_seconds
        self._max_answer = max_answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = PLAIN
        try:
            async with asyncio.timeout(self._timeout):  # httpx's own time-out is for each read, not for the whole
                response = await super().handle_async_request(request)
                body = await _read(response, self._max_answer)
        except TimeoutError:
            raise httpx.ReadTimeout("the answer takes too long") from None
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=httpx.ByteStream(body),
            extensions=response.extensions,
        )


async def _read(response: httpx.Response, max_answer: int) -> bytes:
    body = bytearray()
    async with aclosing(response):
        if response.headers.get("Content-Encoding", PLAIN) != PLAIN:
            raise httpx.DecodingError("the answer is compressed, so its size is not known")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > max_answer:
                raise httpx.ReadError("the answer is too large")
    return bytes(body)


def open_http(
    timeout_seconds: float, max_answer: int = MAX_ANSWER, network: Network = OPEN_NETWORK
) -> httpx.AsyncClient:
    """A client that follows no redirect, keeps no cookie, and reads nothing from the environment.

    Args:
        timeout_seconds: for the request and its whole answer.
        max_answer: in bytes; a larger answer is an error.
        network: the way to the services.
    """
    trust = _trust(network.ca_file)
    direct = _Transport(timeout_seconds, max_answer, trust)
    mounts: dict[str, httpx.AsyncBaseTransport] = {}
    if network.proxy:
        proxy = httpx.Proxy(network.proxy, ssl_context=trust if network.proxy.startswith("https") else None)
        mounts = {f"all://{host}": direct for host in (*LOOPBACK, *network.inner_hosts)}
        mounts["https://"] = _Transport(timeout_seconds, max_answer, trust, proxy)
    return httpx.AsyncClient(
        transport=direct,
        mounts=mounts,
        timeout=None,  # noqa: S113 (the transport has one for the whole answer)
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # it keeps none
        follow_redirects=False,
        trust_env=False,
    )


def _trust(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context(trust_env=False)


def header(headers: Mapping[str, str] | None, name: str) -> str:
    """The header with this name, whatever its case; empty if there is none."""
    return next((value for key, value in (headers or {}).items() if key.lower() == name), "")


def retry_after(headers: Mapping[str, str] | None) -> timedelta | None:
    """How long the service asks us to wait: for some seconds, or until a date of its clock (RFC 9110, 10.2.3)."""
    value = header(headers, "retry-after").strip()
    # As a float: int() refuses a number with thousands of digits.
    seconds = float(value) if NUMBER.fullmatch(value) else _seconds_until(value, header(headers, "date"))
    return bounded(seconds)


def bounded(seconds: float) -> timedelta | None:
    """A wait of at most MAX_RETRY_AFTER; None if there is none."""
    return timedelta(seconds=min(seconds, MAX_RETRY_AFTER)) if seconds > 0 else None


def _seconds_until(date: str, now: str) -> float:
    """From one HTTP date to another, by default this machine's; 0 if the first is no date."""
    if (end := _date(date)) is None:
        return 0
    return (end - (_date(now) or datetime.now(UTC))).total_seconds()


def _date(value: str) -> datetime | None:
    """In any of the three forms that HTTP allows."""
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


async def post_json(
    client: httpx.AsyncClient, service: str, url: str, body: object, headers: Mapping[str, str]
) -> httpx.Response:
    """POST, and return the answer of a working service, which may be a refusal. `service` is named in errors.

    Raises:
        Unavailable: no answer, a server error, a limit or rejected credentials; the request may have taken effect.
    """
    return await _answer(service, client.post(url, json=body, headers=dict(headers)))


async def get_json(client: httpx.AsyncClient, service: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
    """GET, and return the answer of a working service, which may be a refusal. `service` is named in errors.

    Raises:
        Unavailable: no answer, a server error, a limit or rejected credentials.
    """
    return await _answer(service, client.get(url, headers=dict(headers)))


async def reach(client: httpx.AsyncClient, service: str, url: str) -> None:
    """Return if the host of the URL answers, whatever it answers. The path, which may be a secret, is not sent.

    Raises:
        Unavailable: it does not answer, or its certificate is not trusted.
    """
    try:
        await client.get(httpx.URL(url).copy_with(raw_path=b"/", fragment=None, username="", password=""))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{service}: {_problem(error)}", type=f"{service}_unavailable") from None


async def _answer(service: str, request: Awaitable[httpx.Response]) -> httpx.Response:
    try:
        with watch_call(service) as call:
            response = await request
            call.answered(response.status_code)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{service}: {_problem(error)}", type=f"{service}_unavailable") from None
    if response.is_server_error or response.status_code in RETRYABLE_STATUSES:
        raise _unavailable(service, response)
    return response


def _problem(error: Exception) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "its certificate is not trusted: SSL_CERT_FILE must have its CA"
    return type(error).__name__


def raise_for_refusal(service: str, response: httpx.Response, client_errors: AbstractSet[int] = CLIENT_ERRORS) -> None:
    """Return only if the answer is a success.

    Raises:
        Permanent: the service refuses the request, by one of the statuses `client_errors`.
        Unavailable: anything else, e.g. a wrong address, or a 409 because an earlier attempt is still in progress.
    """
    if response.status_code in client_errors:
        raise Permanent(_status_of(service, response), type=f"{service}_refused")
    if not response.is_success:
        raise _unavailable(service, response)


def raise_unless_accepted(service: str, response: httpx.Response) -> None:
    """Return only if a success is one: an empty answer, `ok`, or a JSON object that denies nothing.

    Raises:
        Unavailable: anything else, e.g. the page of a proxy; the request may have taken effect.
    """
    if response.text.strip().lower() in {"", "ok"}:
        return
    try:
        _Acceptance.model_validate_json(response.content)
    except ValidationError:
        raise not_understood(service, response) from None


def not_understood(service: str, response: httpx.Response) -> Unavailable:
    """The error for a success whose answer has another form than the service's."""
    return Unavailable(
        f"{service}: HTTP {response.status_code}, but its answer is no acceptance", type=f"{service}_unavailable"
    )


def _unavailable(service: str, response: httpx.Response) -> Unavailable:
    return Unavailable(
        _status_of(service, response), type=f"{service}_unavailable", retry_after=retry_after(response.headers)
    )


def _status_of(service: str, response: httpx.Response) -> str:
    """The HTTP status, and what the service says about it."""
    return ": ".join(filter(None, (service, f"HTTP {response.status_code}", explain(response))))
