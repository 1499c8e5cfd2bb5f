"""A sandbox that is reset before every test, and Stripe: the sandbox's, or the real one with STRIPE_CONTRACT_KEY."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import httpx
import pytest
import stripe

from config.settings import SANDBOX_STRIPE_KEY
from gateways.http import open_http
from gateways.stripe import stripe_client
from sandbox.server import Running, serve

CONTRACT_KEY: Final = os.environ.get("STRIPE_CONTRACT_KEY", "")
if CONTRACT_KEY and not CONTRACT_KEY.startswith(("sk_test_", "rk_test_")):
    raise pytest.UsageError("STRIPE_CONTRACT_KEY must be a test key: these tests charge cards")
stripe.enable_telemetry = False


@pytest.fixture(scope="session")
async def shared_sandbox() -> AsyncIterator[Running]:
    async with serve() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(shared_sandbox: Running) -> None:
    shared_sandbox.world.reset()


@pytest.fixture
def sandbox(shared_sandbox: Running) -> Running:
    """The sandbox, for tests that the real Stripe cannot run."""
    if CONTRACT_KEY:
        pytest.skip("needs the sandbox")
    return shared_sandbox


@pytest.fixture
async def http(sandbox: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sandbox.url, verify=False, trust_env=False) as client:  # noqa: S501  no TLS
        yield client


@pytest.fixture(scope="session")
async def client(shared_sandbox: Running) -> AsyncIterator[stripe.StripeClient]:
    """The real SDK, connected to the sandbox or to the real Stripe."""
    api = stripe.DEFAULT_API_BASE if CONTRACT_KEY else f"{shared_sandbox.url}/stripe"
    async with open_http(30) as http:
        yield stripe_client(http, CONTRACT_KEY or SANDBOX_STRIPE_KEY, api)


@pytest.fixture
async def customer(client: stripe.StripeClient) -> str:
    """A customer of the account; the sandbox accepts any id."""
    return (await client.v1.customers.create_async()).id if CONTRACT_KEY else "cus_123"


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """A function that waits for a condition, with a deadline."""

    async def poll(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)

    return poll
