"""Thousands of sequences of the activities, in every order that retries, zombies, restarts and cancels can cause.

SEQUENCES=5000 SEED=42 .venv/bin/pytest tests/properties        more of them, and others
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from hypothesis import HealthCheck, given, seed, settings
from temporalio.client import Client

from activities.http import open_http
from activities.stripe_gateway import stripe_client
from deploy.postgres import Postgres
from sandbox.server import serve
from tests.bench import Bench, Clients, open_bench
from tests.properties.stage import SeamedDatabase, Stage, pass_seam
from tests.properties.steps import Script, scripts
from tests.servers import copy_database
from tests.shop import settings_for

SEQUENCES: Final = int(os.environ.get("SEQUENCES", "500"))  # of each part
SEED: Final = int(os.environ.get("SEED", "1"))

# What every part must have seen again and again: a search that never gets there proves nothing.
HAPPENED: Final = ("asleep", "woken", "finalise_order", "void_payment", "release_stock", "shipped", "authenticated")


@asynccontextmanager
async def a_bench(postgres: Postgres, capture: str) -> AsyncIterator[Bench]:
    """A bench on which any attempt can be made to fall asleep."""
    async with copy_database(postgres) as url, serve() as sandbox:
        chosen = settings_for(url, sandbox, payment_capture=capture)
        key = chosen.stripe_secret_key.get_secret_value()
        async with open_http(5) as http:
            http.event_hooks = {"request": [pass_seam]}
            stripe = stripe_client(http, key, chosen.stripe_base)
            clients = Clients(await Client.connect("127.0.0.1:1", lazy=True), http, stripe, openai=None)
            async with open_bench(chosen, sandbox, clients, SeamedDatabase) as bench:
                yield bench


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", [1, 2, 3, 4])
async def test_whatever_happens_the_books_are_right(postgres: Postgres, part: int) -> None:
    """After every step, and once both orders have come to rest, no rule is broken."""
    tally: Counter[str] = Counter()
    loop = asyncio.get_running_loop()

    async with a_bench(postgres, "automatic" if part == 4 else "manual") as bench:

        @seed(SEED * 10 + part)
        @settings(max_examples=SEQUENCES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(scripts)
        def play(script: Script) -> None:
            tally["begun"] += 1
            stage = Stage(bench, script, tally["begun"], tally)
            asyncio.run_coroutine_threadsafe(stage.play(), loop).result(60)

        await asyncio.to_thread(play)
    assert tally["scripts"] >= SEQUENCES
    assert {what: tally[what] for what in HAPPENED if tally[what] < SEQUENCES // 25} == {}
