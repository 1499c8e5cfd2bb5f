"""client/releases.py on the real server: a version gets the orders step by step, and gives them back."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from app.wiring import open_worker
from client import releases
from client.releases import Plan, Released, canary_order, release, roll_back, view_deployment
from config.temporal import plugin
from gateways import worker_versions
from gateways.worker_versions import ask_to_replay, find_open, has_worked_on, polled_queues, set_current, set_ramp
from orders.errors import InvalidInput, NoAnswer, NotFound
from tests.proof.releases.bad_build import diverge
from tests.support.catalogue import Catalogue
from tests.support.shop import Shop, an_order, eventually, new_order_id, open_shop
from workflows.process_order import ProcessOrder

CANARY = canary_order("1", 2999, "usd")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "LOOK_EVERY", 0.05)


@pytest.fixture
async def shop(database_url: str, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    """Its worker is version 1 of a deployment; nothing is current. A customer may have one unfinished order."""
    async with open_shop(
        database_url,
        temporal,
        temporal_deployment_name=f"deployment-{uuid.uuid4().hex[:8]}",
        temporal_worker_build_id="1",
        customer_max_held_orders=1,
    ) as opened:
        yield opened


@asynccontextmanager
async def another_version(shop: Shop, build_id: str, client: Client | None = None) -> AsyncIterator[None]:
    settings = shop.settings.model_copy(update={"temporal_worker_build_id": build_id})
    async with (
        open_worker(settings, client or shop.client, task_queue=shop.task_queue, interceptors=[shop.hooks]) as worker,
        worker,
    ):
        yield


async def is_listed(shop: Shop, workflow_id: str) -> bool:
    """Whether Temporal lists the run among those that version 2 has worked on."""
    query = has_worked_on(shop.settings.temporal_deployment_name, "2")
    return workflow_id in {each.workflow_id for each in await find_open(shop.client, shop.task_queue, query)}


def plan(shop: Shop, build_id: str) -> Plan:
    name = shop.settings.temporal_deployment_name
    return Plan(name, build_id, CANARY, (50,), timedelta(seconds=0.1), shop.task_queue)


@pytest.mark.prove
async def test_a_version_gets_the_orders_and_gives_them_back(shop: Shop) -> None:
    """First to workers with versions, then to the next one, and back; the canaries hold no stock and no money."""
    told: list[str] = []
    name, stock = shop.settings.temporal_deployment_name, await shop.stock()
    first = await release(shop.client, plan(shop, "1"), told.append)
    assert first == Released(deployment=name, state="released", current="1")
    assert "1 gets 50 % of the orders" in " ".join(told)
    assert (await shop.stock(), shop.world.provider_records()["payments"]) == (stock, [])
    assert (await shop.place()).success

    async with another_version(shop, "2"):
        assert (await release(shop.client, plan(shop, "2"), told.append)).current == "2"
        assert (await shop.place()).success
        back = await roll_back(shop.client, name, None, told.append, task_queue=shop.task_queue)
        assert (back.state, back.current, back.failing, back.unanswered) == ("rolled_back", "1", (), ())
        with pytest.raises(NotFound, match="no version"):  # a second rollback does not go forward again
            await roll_back(shop.client, name, None, told.append, task_queue=shop.task_queue)
    assert (await shop.place()).success
    view = await view_deployment(shop.client, name, task_queue=shop.task_queue)
    assert (view.current, view.ramping, [each.build_id for each in view.versions]) == ("1", None, ["2", "1"])


@pytest.mark.prove
async def test_a_canary_that_ends_otherwise_stops_the_release(shop: Shop) -> None:
    """It should fail at its payment: here it does not come so far. No other order has met that version."""
    await shop.set_stock(0)
    longest = "long/" + "1" * 123
    async with another_version(shop, longest):
        stopped = await release(shop.client, plan(shop, longest), lambda _: None)
    assert (stopped.state, stopped.current) == ("rolled_back", "")
    assert "should be refused by the payment provider, and ended with out_of_stock" in stopped.reason
    assert (await view_deployment(shop.client, shop.settings.temporal_deployment_name)).ramping is None


@pytest.mark.prove
async def test_a_broken_invariant_takes_the_orders_back(shop: Shop) -> None:
    """What was broken before does not count; what breaks while the new version has orders does."""
    name = shop.settings.temporal_deployment_name
    await shop.pool.execute("UPDATE inventory SET reserved = reserved + 1 WHERE product_id = '2'")
    breaking: list[asyncio.Task[str]] = []

    def tell(text: str) -> None:
        if "gets 50 %" in text:
            statement = "UPDATE inventory SET reserved = reserved + 1 WHERE product_id = '3'"
            breaking.append(asyncio.create_task(shop.pool.execute(statement)))

    back = await release(shop.client, plan(shop, "1"), tell)
    assert (back.state, back.current, len(breaking)) == ("rolled_back", "", 1)
    assert back.reason.startswith("an invariant is broken: product 3")
    assert (await view_deployment(shop.client, name)).ramping is None


@pytest.mark.prove
async def test_what_cannot_be_released_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that nobody is; one that may break more than is listed; one beside which another is being ramped."""
    with monkeypatch.context() as soon:
        soon.setattr(releases, "POLLS_WITHIN", 0.1)
        with pytest.raises(NotFound, match="TEMPORAL_WORKER_BUILD_ID=9"):
            await release(shop.client, plan(shop, "9"), lambda _: None)
    name = shop.settings.temporal_deployment_name
    await Catalogue(shop.pool).sell(*(f"P{number}" for number in range(101)))
    await shop.pool.execute("UPDATE inventory SET reserved = 1 WHERE starts_with(product_id, 'P')")
    async with another_version(shop, "2"):
        with pytest.raises(NoAnswer, match="101 invariants are broken, and verify-orders lists only 100"):
            await release(shop.client, plan(shop, "2"), lambda _: None)
        await set_ramp(shop.client, name, "2", 5)
        with pytest.raises(NoAnswer, match="2 is being ramped"):
            await release(shop.client, plan(shop, "1"), lambda _: None)
        with pytest.raises(InvalidInput, match="2 is being ramped"):  # to go back further, end the ramp first
            await roll_back(shop.client, name, "1", lambda _: None, task_queue=shop.task_queue)
        assert (await view_deployment(shop.client, name)).ramping == "2"


@pytest.mark.prove
async def test_what_somebody_else_made_current_stays(shop: Shop) -> None:
    """Another version is made current while the canaries go badly: the rollback must not take its orders away."""
    name = shop.settings.temporal_deployment_name
    async with another_version(shop, "2"):

        async def make_another_current() -> None:
            await set_current(shop.client, name, "1")
            await shop.set_stock(0)

        shop.hooks.when("reserve_stock", make_another_current)
        with pytest.raises(NoAnswer, match="somebody else"):
            await release(shop.client, plan(shop, "2"), lambda _: None)
    assert (await view_deployment(shop.client, name)).current == "1"


@pytest.mark.prove
async def test_a_run_that_is_at_work_during_a_rollback_starts_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task has failed at the earlier version before anybody asks, and from then on Temporal refuses queries."""
    name, order_id = shop.settings.temporal_deployment_name, new_order_id()
    monkeypatch.setattr(ProcessOrder, "_reserve", ProcessOrder._reserve)  # noqa: SLF001 (as it was, afterwards)
    diverge()
    held = shop.hooks.hold("request_fulfillment", workflow_id=order_id)
    route_back = releases._route_back  # noqa: SLF001 (the moment between the two)

    async def is_stalled() -> bool:
        (run,) = [each for each in await find_open(shop.client, shop.task_queue) if each.workflow_id == order_id]
        return (await ask_to_replay(shop.client, [run]))[0].state == "stalled"

    async def route_back_and_wait(*arguments: Any) -> None:
        await route_back(*arguments)
        held.let_go()
        await eventually(is_stalled, "the run's task fails")

    monkeypatch.setattr(releases, "_route_back", route_back_and_wait)
    await eventually(lambda: polled_queues(shop.client, name, "1"), "version 1 polls")
    await set_current(shop.client, name, "1")
    # Only without the sandbox a workflow is the class that `diverge` has changed.
    target = shop.client.service_client.config.target_host
    client = await Client.connect(target, namespace=shop.client.namespace, plugins=[plugin(sandbox=False)])
    async with another_version(shop, "2", client):
        await eventually(lambda: polled_queues(shop.client, name, "2"), "version 2 polls")
        await set_current(shop.client, name, "2")
        run = await shop.start(order_id=order_id)
        await held.reached.wait()
        await eventually(lambda: is_listed(shop, run.id), "version 2 works on the order")
        back = await roll_back(shop.client, name, "1", lambda _: None, task_queue=shop.task_queue)
    assert (back.current, back.failing, back.unanswered, back.started_again) == ("1", (), (), (order_id,))
    assert (await shop.client.get_workflow_handle(order_id).result())["success"]


@pytest.mark.prove
async def test_a_run_that_no_worker_answers_for_is_reported(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rollback nobody knows whether the earlier version can replay it."""
    name = shop.settings.temporal_deployment_name
    async with another_version(shop, "2"):
        await eventually(lambda: polled_queues(shop.client, name, "1"), "version 1 polls")
        await eventually(lambda: polled_queues(shop.client, name, "2"), "version 2 polls")
        await set_current(shop.client, name, "2")
        run = await shop.start(an_order(paymentMethodId="pm_card_authenticationRequired"))
        await eventually(lambda: is_listed(shop, run.id), "version 2 works on the order")
        monkeypatch.setattr(releases, "SETTLES_WITHIN", 0.5)
        with monkeypatch.context() as overloaded:
            overloaded.setattr(worker_versions, "QUERY_TIMEOUT", timedelta(microseconds=1))
            back = await roll_back(shop.client, name, "1", lambda _: None, task_queue=shop.task_queue)
    assert (back.current, back.failing, back.unanswered) == ("1", (), (run.id,))
