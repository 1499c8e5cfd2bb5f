"""One sandbox, new for every test, and Stripe: the sandbox's, or with STRIPE_CONTRACT_KEY the real one in test mode."""

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
async def playground() -> AsyncIterator[Running]:
    async with serve() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(playground: Running) -> None:
    playground.world.reset()


@pytest.fixture
def sandbox(playground: Running) -> Running:
    """For what cannot be asked of the real Stripe."""
    if CONTRACT_KEY:
        pytest.skip("needs the sandbox")
    return playground


@pytest.fixture
async def http(sandbox: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sandbox.url, verify=False, trust_env=False) as client:  # noqa: S501  no TLS
        yield client


@pytest.fixture(scope="session")
async def client(playground: Running) -> AsyncIterator[stripe.StripeClient]:
    """The real SDK, against the one Stripe or the other."""
    api = stripe.DEFAULT_API_BASE if CONTRACT_KEY else f"{playground.url}/stripe"
    async with open_http(30) as http:
        yield stripe_client(http, CONTRACT_KEY or SANDBOX_STRIPE_KEY, api)


@pytest.fixture
async def customer(client: stripe.StripeClient) -> str:
    """A customer of the account; the sandbox takes any id."""
    return (await client.v1.customers.create_async()).id if CONTRACT_KEY else "cus_123"


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait for a condition, with a deadline."""

    async def poll(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)

    return poll
