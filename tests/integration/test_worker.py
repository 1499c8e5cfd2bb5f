"""The worker as a process: it reports what is missing, and finishes the attempts under way."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from app.startup_checks import CannotStart, check_search_attributes
from app.wiring import WORKFLOWS, open_worker
from config.settings import sandbox_addresses
from config.temporal import plugin
from deploy.local.postgres import Postgres
from deploy.local.process import Child, Command, binary, free_ports, running
from gateways.postgres import ACQUIRE_SECONDS, LOCK_SECONDS
from orders.models import OrderOutcome
from orders.names import PROCESS_ORDER, PRODUCT_RECOMMENDATIONS, TASK_QUEUE
from orders.recommendations import RecommendationsOutcome, Source
from sandbox.faults import Fault
from sandbox.server import Running, serve
from sandbox.world import World
from tests.support.catalogue import Catalogue
from tests.support.proxy import Line
from tests.support.sample import one_in
from tests.support.shop import an_order, eventually, settings_for

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def a_worker(log: Path, **environment: str) -> AsyncIterator[Child]:
    command = Command(
        name="The worker", argv=(sys.executable, "worker.py"), log=log, env={**os.environ, **environment}, grace=40
    )
    async with running(command) as child:
        yield child


def closed_port() -> int:
    return free_ports(1)[0]


def addresses(temporal: WorkflowEnvironment, database_url: str, sandbox: Running) -> dict[str, str]:
    return {
        "TEMPORAL_ADDRESS": temporal.client.service_client.config.target_host,
        "DATABASE_URL": database_url,
        **sandbox_addresses(sandbox.url),
    }


def confirmations(sandbox: Running) -> int:
    return sum(entry["path"].endswith("/confirm") for entry in sandbox.world.journal.about("drained"))


@pytest.mark.prove
@pytest.mark.parametrize(
    ("environment", "message"),
    one_in(
        3,
        [
            ({"STRIPE_SECRET_KEY": "sk_live_canary"}, "ALLOW_LIVE_STRIPE"),
            (
                {"STRIPE_SECRET_KEY": "rk_live_canary", "ALLOW_LIVE_STRIPE": "true", "STRIPE_API_BASE": "http://x"},
                "leak",
            ),
            ({"PAYMENT_CAPTURE": "never"}, "PAYMENT_CAPTURE"),
            ({"TEMPORAL_ADDRESS": "127.0.0.1:{closed}"}, "TEMPORAL_ADDRESS"),
            ({"DATABASE_URL": "postgresql://orders:canary@127.0.0.1:{closed}/orders"}, "DATABASE_URL"),
            ({"METRICS_ADDRESS": "127.0.0.1:{taken}"}, "METRICS_ADDRESS: 127.0.0.1:{taken} cannot be used: Address "),
            ({"DATABASE_URL": "{empty}"}, "make migrate"),
        ],
    ),
    ids=["live key", "live key elsewhere", "bad setting", "no Temporal", "no Postgres", "metrics", "no migrations"],
)
async def test_refuses_to_start(
    environment: dict[str, str], message: str, temporal: WorkflowEnvironment, postgres: Postgres, tmp_path: Path
) -> None:
    """One line names what is wrong, without secrets; the exit status is 1."""
    log, address = tmp_path / "worker.log", temporal.client.service_client.config.target_host
    places = {"closed": closed_port(), "empty": postgres.url("postgres"), "taken": address.rpartition(":")[2]}
    base = {"TEMPORAL_ADDRESS": address}
    given = {name: value.format(**places) for name, value in environment.items()}

    async with a_worker(log, **(base | given)) as worker:
        assert await worker.wait() == 1

    said = log.read_text().strip()
    assert message.format(**places) in said
    assert "canary" not in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


async def test_refuses_a_server_without_the_search_attributes() -> None:
    """Without them every workflow task would fail for ever."""
    async with await WorkflowEnvironment.start_local(
        plugins=[plugin()], dev_server_existing_path=binary("temporal"), dev_server_log_level="error"
    ) as bare:
        with pytest.raises(CannotStart, match="CustomerId, NeedsAttention, OrderOutcome, OrderStage"):
            await check_search_attributes(bare.client)


async def test_a_worker_takes_no_more_attempts_than_its_connections_serve(
    temporal: WorkflowEnvironment, database_url: str
) -> None:
    """Each may wait for two locks, and the last one still gets a connection in time."""
    settings = settings_for(database_url, Running("http://127.0.0.1:1", World()), database_pool_size=3)
    async with open_worker(settings, temporal.client, task_queue="not-run") as worker:
        slots = worker.config()["max_concurrent_activities"]

    assert slots is not None
    assert slots / 3 * 2 * LOCK_SECONDS <= ACQUIRE_SECONDS


async def test_a_line_to_temporal_that_breaks_is_no_reason_not_to_start(temporal: WorkflowEnvironment) -> None:
    """The request is sent again over another connection."""
    line = Line(temporal.client.service_client.config.target_host)
    async with await asyncio.start_server(line, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = await Client.connect(f"127.0.0.1:{port}", plugins=[plugin()])
        line.frail = True

        await check_search_attributes(client)
        line.cut()

    assert line.broken == 1


@pytest.mark.prove
async def test_a_worker_told_to_stop_does_not_wait_for_the_model(
    temporal: WorkflowEnvironment, database_url: str, tmp_path: Path
) -> None:
    """Its requests to the model end with it, and the next worker repeats them at once."""
    async with serve() as sandbox, asyncpg.create_pool(database_url, min_size=1) as pool:
        catalogue = Catalogue(pool)
        await catalogue.indexed({"lamp": (1, 0), "bulb": (1, 0.1)})
        await catalogue.bought("lamp")
        sandbox.world.faults.add(Fault(service="openai", kind="delay", seconds=60))
        environment = addresses(temporal, database_url, sandbox)

        async def is_asking() -> bool:
            return any(entry["service"] == "openai" for entry in sandbox.world.journal.about())

        async with a_worker(tmp_path / "first.log", **environment) as first:
            handle = await temporal.client.start_workflow(
                PRODUCT_RECOMMENDATIONS,
                {"customerId": "cus_1"},
                id="asked-again",
                task_queue=TASK_QUEUE,
                result_type=RecommendationsOutcome,
            )
            await eventually(is_asking, "the model is being asked")
            os.kill(first.pid, 15)
            assert await asyncio.wait_for(first.wait(), 10) == 0
        async with a_worker(tmp_path / "second.log", **environment):
            outcome = await asyncio.wait_for(handle.result(), 20)

    assert outcome.source is Source.MODEL


@pytest.mark.prove
async def test_a_worker_told_to_stop_finishes_its_step(
    temporal: WorkflowEnvironment, database_url: str, tmp_path: Path
) -> None:
    """SIGTERM drains: the confirmation under way is answered once, and the next worker goes on at once."""
    async with serve() as sandbox:
        environment = addresses(temporal, database_url, sandbox)
        slow = Fault(service="stripe", route="*/confirm", kind="delay", seconds=1.5, order="drained")
        sandbox.world.faults.add(slow)

        async def is_confirming() -> bool:
            return confirmations(sandbox) > 0

        async with a_worker(tmp_path / "first.log", **environment) as first:
            handle = await temporal.client.start_workflow(
                PROCESS_ORDER, an_order(), id="drained", task_queue=TASK_QUEUE, result_type=OrderOutcome
            )
            await eventually(is_confirming, "Stripe is being asked")
            os.kill(first.pid, 15)
            assert await first.wait() == 0
        async with a_worker(tmp_path / "second.log", **environment):
            outcome = await asyncio.wait_for(handle.result(), 25)

        assert outcome.success
        assert confirmations(sandbox) == 1
        said = [json.loads(line) for line in (tmp_path / "first.log").read_text().splitlines()]
        assert said[-1]["event"] == "worker stopped"


@pytest.mark.prove
async def test_a_worker_told_to_stop_leaves_no_reservation_behind(
    temporal: WorkflowEnvironment, database_url: str, tmp_path: Path
) -> None:
    """Those that wait for a locked product together end with their attempts, and the next worker reserves them."""
    async with serve() as sandbox, asyncpg.create_pool(database_url, min_size=1, max_size=2) as pool:
        environment = addresses(temporal, database_url, sandbox)
        async with (
            pool.acquire() as other,
            other.transaction(),
            a_worker(tmp_path / "first.log", **environment) as first,
        ):
            await other.execute("SELECT 1 FROM inventory WHERE product_id = '1' FOR UPDATE")
            runs = [
                await temporal.client.start_workflow(
                    PROCESS_ORDER, an_order(), id=f"left-{n}", task_queue=TASK_QUEUE, result_type=OrderOutcome
                )
                for n in range(6)
            ]

            async def is_tried() -> bool:
                described = [(await run.describe()).raw_description for run in runs]
                return all(each.pending_activities and each.pending_activities[0].attempt for each in described)

            await eventually(is_tried, "all of them are being reserved")
            os.kill(first.pid, 15)
            assert await first.wait() == 0
        async with a_worker(tmp_path / "second.log", **environment):
            outcomes = await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 60)

        said = [json.loads(line) for line in (tmp_path / "first.log").read_text().splitlines()]
        reserved = await pool.fetchval("SELECT sum(quantity) FROM reservations WHERE state = 'sold'")
    assert all(outcome.success for outcome in outcomes)
    assert reserved == 12
    assert said[-1]["event"] == "worker stopped"
    assert not [line for line in said if "destroyed" in str(line) or "never retrieved" in str(line)]


@pytest.mark.prove
async def test_a_worker_without_the_sandbox(temporal: WorkflowEnvironment, database_url: str, tmp_path: Path) -> None:
    """It places orders, on the faster loop, and what it leaves behind is replayed in the sandbox."""
    log = tmp_path / "worker.log"
    async with serve() as sandbox:
        environment = addresses(temporal, database_url, sandbox) | {"WORKFLOW_SANDBOX": "false"}
        async with a_worker(log, **environment):
            handle = await temporal.client.start_workflow(
                PROCESS_ORDER, an_order(), id="unsandboxed", task_queue=TASK_QUEUE, result_type=OrderOutcome
            )
            outcome = await asyncio.wait_for(handle.result(), 25)

    assert outcome.success
    ready = json.loads(log.read_text().splitlines()[0])
    assert (ready["event"], ready["workflow_sandbox"], ready["event_loop"]) == ("worker ready", False, "uvloop")
    await Replayer(workflows=WORKFLOWS, plugins=[plugin()]).replay_workflow(await handle.fetch_history())
