"""starter.py doctor: every area is asked, each problem says what to do, nothing is changed, no secret is shown."""

import base64
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker, WorkerDeploymentConfig

from app.codec.endpoints import application
from app.doctor.payloads import check_codec_server, check_newest_order
from app.doctor.postgres import check_connections
from app.doctor.services import Services
from app.doctor.temporal import check_version
from app.startup_checks import CannotAsk, CannotStart
from app.web.server import serve
from config.payload_keys import Key
from config.sealing import Seal
from config.settings import Settings, sandbox_addresses
from config.temporal import plugin
from gateways.http import open_http
from gateways.postgres import Database, open_pool
from gateways.postgres_facts import describe
from gateways.worker_versions import set_current
from orders.errors import Unreadable
from orders.names import PROCESS_ORDER, RECONCILE_ORDERS
from sandbox.faults import Fault
from tests.integration.cli.conftest import Said, Starter
from tests.integration.cli.test_starter import NOBODY
from tests.support.schedules import passing_schedules
from tests.support.shop import Shop, an_order, eventually
from workflows.check_inventory import CheckInventory

pytestmark = pytest.mark.usefixtures("no_schedules")

AREAS = ["settings", "PostgreSQL", "Temporal", "Stripe", "services"]


@pytest.fixture
async def no_schedules(temporal: WorkflowEnvironment) -> AsyncIterator[None]:
    """None before the test, and none after it."""
    async with passing_schedules(temporal.client):
        yield


def found(said: Said, state: str) -> dict[str, str]:
    """The findings of this state, by area and check."""
    return {f"{each['area']}: {each['check']}": each["text"] for each in said.json if each["state"] == state}


def addresses(shop: Shop, **changes: str) -> dict[str, str]:
    durable = f"{shop.database_url}?options=-c%20synchronous_commit%3Don"  # the tests' own servers are not
    return {"DATABASE_URL": durable, **sandbox_addresses(shop.sandbox.url), **changes}


async def test_a_shop_that_is_well(shop: Shop, starter: Starter) -> None:
    """Exit status 0, and every line says what was found; nothing was written, posted or paid for."""
    environment = addresses(shop)
    await starter("schedules", "apply", **environment)
    said = await starter("doctor", "--json", **environment)

    assert found(said, "problem") == {}
    assert said.status == 0
    assert sorted({each["area"] for each in said.json}) == sorted(AREAS)
    skipped = found(said, "skipped")
    assert skipped.keys() - {"Temporal: newest order"} == {
        *("settings: Stripe's signing secret", "Stripe: writing", "Stripe: clock", "services: codec server")
    }
    ok = found(said, "ok")
    assert ok["PostgreSQL: migrations"] == "all 2 applied"
    assert ok["PostgreSQL: prepared statements"] == "kept from one transaction to the next"
    assert ok["Temporal: search attributes"] == "CustomerId, NeedsAttention, OrderOutcome, OrderStage"
    assert ok["Temporal: Schedules"] == "4 applied, none paused"
    # Temporal remembers the workers of other tests for some minutes.
    assert re.match(r"[1-9]\d* on orders \(workflows\)", ok["Temporal: workers"])
    assert (shop.world.inbox.alerts, shop.world.stripe.account.intents) == ([], {})
    assert [entry["path"] for entry in shop.world.journal.about() if entry["method"] == "POST"] == []

    shown = await starter("doctor", **environment)
    assert shown.out.splitlines()[-1] == f"0 problems, {len(skipped)} of {len(said.json)} checks skipped"


async def test_what_services_answer(shop: Shop, starter: Starter) -> None:
    """A restricted key without a right, a clock that is late, a warehouse that refuses, a message that is sent."""
    late = format_datetime(datetime.now(UTC) - timedelta(minutes=3), usegmt=True)
    page: Any = {"object": "list", "url": "/v1/payment_intents", "data": [], "has_more": False}
    for fault in (
        Fault(service="stripe", route="*/reviews", kind="status", status=403, times=None),
        Fault(
            service="stripe",
            route="*/payment_intents",
            kind="status",
            status=200,
            headers={"date": late},
            body=page,
            times=None,
        ),
        Fault(service="fulfillment", kind="status", status=401, times=None),
    ):
        shop.world.faults.add(fault)
    said = await starter("doctor", "--send", "--json", **addresses(shop, STRIPE_SECRET_KEY="rk_test_canary"))

    assert said.status == 1
    problems = found(said, "problem")
    assert problems["Stripe: Reviews"] == "STRIPE_SECRET_KEY may not read Reviews: give it that right in the dashboard"
    assert problems["Stripe: clock"].startswith("its clock is 1")
    assert problems["services: warehouse"].endswith("check FULFILLMENT_API, FULFILLMENT_KEY, and the network between")
    assert "Stripe: Disputes" in found(said, "ok")
    assert found(said, "ok")["services: language model"].endswith("embeds a word in 1536 dimensions")
    assert len(shop.world.inbox.alerts) == 1
    assert "canary" not in said.out + said.err


@pytest.mark.prove
async def test_what_temporal_lacks(shop: Shop, starter: Starter) -> None:
    """Schedules that are not there, paused, or of other settings; each with its command."""
    environment = addresses(shop)

    async def schedules(**changes: str) -> str:
        return found(await starter("doctor", "--json", **(environment | changes)), "problem")["Temporal: Schedules"]

    assert (await schedules()).endswith("schedules apply`")
    await starter("schedules", "apply", **environment)
    await starter("schedules", "pause", RECONCILE_ORDERS, "--reason", "a test", **environment)
    assert (await schedules()).endswith(f"schedules resume {RECONCILE_ORDERS}`")
    await starter("schedules", "resume", RECONCILE_ORDERS, **environment)
    assert "not as often as the settings say" in await schedules(RECONCILE_EVERY_SECONDS="600")


async def test_nothing_answers(starter: Starter) -> None:
    """One problem for each area, and no check after it; the password of the address is not shown."""
    nowhere = sandbox_addresses(f"http://{NOBODY}")
    database = f"postgresql://orders:canary@{NOBODY}/orders"
    said = await starter("doctor", "--json", **nowhere, DATABASE_URL=database, TEMPORAL_ADDRESS=NOBODY)

    assert said.status == 1
    problems = found(said, "problem")
    assert {name for name in problems if "services" not in name} == {
        "PostgreSQL: connection",
        "Temporal: connection",
        "Stripe: connection",
    }
    assert (
        problems["services: e-mail"]
        == "EMAIL_SERVICE_URL: ConnectError: check EMAIL_SERVICE_URL, and the network between"
    )
    assert set(found(said, "skipped").values()) >= {"see `connection`"}
    assert "canary" not in said.out + said.err


async def test_wrong_settings(starter: Starter) -> None:
    """Each is named, and nothing else is asked."""
    said = await starter("doctor", "--json", PAYMENT_CAPTURE="never", DATABASE_POOL_SIZE="0", TEMPORAL_ADDRESS=NOBODY)
    assert said.status == 1
    assert [each["text"].partition(":")[0] for each in said.json[:2]] == ["DATABASE_POOL_SIZE", "PAYMENT_CAPTURE"]
    assert [each["text"] for each in said.json[2:]] == ["correct the settings first"] * 4


LOGINS = """
    DROP ROLE IF EXISTS half; CREATE ROLE half LOGIN PASSWORD 'canary' IN ROLE orders_readonly;
    ALTER ROLE half SET synchronous_commit = off;
"""


async def test_what_a_login_lacks(database_url: str, starter: Starter) -> None:
    """A right that orders_app has, durability, an extension, a migration; a queue that nobody polls."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(LOGINS)
    await connection.execute(
        "DROP EXTENSION vector CASCADE; DELETE FROM schema_migrations WHERE version > '20261101000000'"
    )
    await connection.close()
    login = database_url.replace("orders:orders", "half:canary")
    said = await starter("doctor", "--json", DATABASE_URL=login, DATABASE_POOL_SIZE="200")

    problems = found(said, "problem")
    assert problems["PostgreSQL: rights"].endswith("run GRANT orders_app TO half as an administrator")
    assert problems["PostgreSQL: migrations"] == "PostgreSQL lacks the migrations 20261101000100: run `make migrate`"
    assert problems["PostgreSQL: durability"].startswith("synchronous_commit is off")
    assert "CREATE EXTENSION vector" in problems["PostgreSQL: pgvector"]
    assert problems["PostgreSQL: connections"].endswith("or close connections of others")
    assert found(said, "ok")["PostgreSQL: least privilege"] == "the login cannot rewrite what has happened"


async def test_connections_of_all_logins_count(database_url: str) -> None:
    """Also for one that may not see them; a server that has no room left for a pool is a problem."""
    owner = await asyncpg.connect(database_url)
    await owner.execute(LOGINS)
    login = database_url.replace("orders:orders", "half:canary")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(owner.close)
        others = await stack.enter_async_context(asyncpg.create_pool(database_url, min_size=3, max_size=3))
        database = Database(await stack.enter_async_context(await open_pool(login, 1)))
        server = await describe(database)
        assert server.used >= others.get_size() + 2, "the owner's and its own too"
        assert "are in use" in await check_connections(database, needed=1)
        with pytest.raises(CannotStart, match="close connections of others"):
            await check_connections(database, needed=server.room - 1)


@pytest.mark.prove
async def test_workers_whose_version_is_not_released(temporal: WorkflowEnvironment) -> None:
    """They poll, and get no order: doctor names the release that is missing, and is content after it."""
    name = f"doctor-{uuid.uuid4().hex[:8]}"
    version = WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=name, build_id="b1"),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE,
    )

    async def said() -> str:
        try:
            return await check_version(temporal.client, deployment=name, task_queue=name)
        except CannotStart as problem:
            return str(problem)

    async def knows(what: str) -> bool:
        return what in await said()

    assert f"no worker has polled as a version of TEMPORAL_DEPLOYMENT_NAME, {name}" in await said()
    async with Worker(temporal.client, task_queue=name, workflows=[CheckInventory], deployment_config=version):
        await eventually(partial(knows, "release to b1`"), "the version is not released")
        assert (await said()).startswith("orders go to workers without a version, and none of them polls")
        await set_current(temporal.client, name, "b1")
        await eventually(partial(knows, "orders go to b1, 1 of which poll"), "it is released")


OURS, OTHERS, NEW = Key("k1", bytes(range(32))), Key("k1", bytes(range(1, 33))), Key("k2", bytes(range(32, 64)))


async def test_an_order_that_our_keys_do_not_open(temporal: WorkflowEnvironment) -> None:
    """The key is missing, is another one of the same id, or there are no keys at all: each is told apart."""
    queue = f"doctor-{uuid.uuid4().hex[:8]}"  # nobody works at it
    address = temporal.client.service_client.config.target_host

    async def said(*keys: Key) -> str:
        client = await Client.connect(address, plugins=[plugin(keys=keys)])
        try:
            return await check_newest_order(client, queue)
        except (CannotAsk, CannotStart, Unreadable) as problem:
            return str(problem)

    async def is_listed() -> bool:
        return await said(OURS) == "the newest order is encrypted, and can be read"

    assert await said(OURS) == "no order is there yet"
    client = await Client.connect(address, plugins=[plugin(keys=[OURS])])
    order = await client.start_workflow(PROCESS_ORDER, an_order(), id=queue, task_queue=queue)
    await eventually(is_listed, "Temporal lists the order")
    assert await said(NEW, OURS) == await said(OURS)
    assert "the key 'k1', which PAYLOAD_KEYS lacks" in await said(NEW)
    assert (await said(OTHERS)).endswith("of its id here: give all programs the same keys")
    assert "PAYLOAD_KEYS is empty" in await said()
    await order.terminate()


async def test_a_codec_server_that_has_not_our_keys() -> None:
    """It is asked with our token, to decrypt what each of our keys encrypts."""
    token, other = "a-token-of-the-codec-server-012345", "another-token-of-the-codec-server-0"

    async def said(url: str, *keys: Key, tokens: str = token) -> str:
        texts = [f"{key.id}:{base64.b64encode(key.secret).decode()}" for key in keys]
        given: dict[str, Any] = {"payload_keys": ",".join(texts), "codec_tokens": tokens}
        settings = Settings(**given, codec_address=url.removeprefix("http://"))
        async with open_http(5) as http:
            try:
                return await check_codec_server(Services(settings, http))
            except (CannotAsk, CannotStart) as problem:
                return str(problem)

    async with serve(application(Seal([NEW, OURS]), [token], []), "127.0.0.1", 0) as url:
        assert await said(url, OURS, NEW) == "takes the token, and decrypts the payloads of k1, k2"
        assert await said(url, OURS, NEW._replace(id="k3"), OTHERS._replace(id="k4")) == (
            "it does not decrypt the payloads of k3, k4: give it the same PAYLOAD_KEYS"
        )
        refused = await said(url, OURS, tokens=other)
        assert "HTTP 401" in refused
        assert refused.endswith("check CODEC_ADDRESS, CODEC_TOKENS, and the network between")
        assert "CODEC_TOKENS is empty" in await said(url, OURS, tokens="")
        assert "PAYLOAD_KEYS is empty" in await said(url)
    assert (await said(f"http://{NOBODY}", OURS)).startswith("codec_server: ConnectError: check CODEC_ADDRESS")
