"""index-products: what is new or changed is embedded, nothing is lost by whatever happens, and searches never stop."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio import workflow
from temporalio.client import WorkflowContinuedAsNewError, WorkflowFailureError, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from activities import product_index
from orders.errors import Unavailable
from orders.names import INDEX_PRODUCTS, PRODUCT_RECOMMENDATIONS
from orders.recommendations import IndexProgress, IndexTarget, RecommendationsOutcome, Source
from sandbox.faults import Fault
from tests.support.catalogue import Catalogue
from tests.support.shop import PATIENCE, Shop, eventually, open_shop

SMALL = IndexTarget(model="text-embedding-3-small", dimensions=1536)


async def start(shop: Shop, payload: Any = None) -> WorkflowHandle[Any, IndexProgress]:
    return await shop.client.start_workflow(
        INDEX_PRODUCTS,
        payload,
        id=f"index-{uuid.uuid4().hex}",
        task_queue=shop.task_queue,
        result_type=IndexProgress,
    )


async def index(shop: Shop) -> IndexProgress:
    return await (await start(shop)).result()


async def recommend(shop: Shop) -> RecommendationsOutcome:
    handle: WorkflowHandle[Any, RecommendationsOutcome] = await shop.client.start_workflow(
        PRODUCT_RECOMMENDATIONS,
        {"customerId": "cus_1"},
        id=f"recommend-{uuid.uuid4().hex}",
        task_queue=shop.task_queue,
        result_type=RecommendationsOutcome,
    )
    return await handle.result()


def texts(shop: Shop) -> list[int]:
    """How many texts each request to the model had."""
    return [
        len(entry["body"]["input"])
        for entry in shop.world.journal.about()
        if entry["service"] == "openai" and entry["path"].endswith("/embeddings")
    ]


async def fails(handle: WorkflowHandle[Any, Any]) -> str:
    """The messages of a failed run's error and of all its causes."""
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    said, error = [], failed.value.__cause__
    while error:
        said.append(str(error))
        error = error.__cause__
    return " / ".join(said)


@pytest.mark.prove
async def test_a_run_that_a_clients_cron_starts_again(shop: Shop) -> None:
    """It has the input of the first run, and no progress to continue from."""
    run = await shop.client.start_workflow(
        INDEX_PRODUCTS, {}, id="index-cron", task_queue=shop.task_queue, cron_schedule="@every 1s"
    )
    for _ in range(2):
        with pytest.raises(WorkflowContinuedAsNewError) as end:  # a cron's run ends so
            await asyncio.wait_for(run.result(follow_runs=False), PATIENCE)
        run = shop.client.get_workflow_handle("index-cron", run_id=end.value.new_execution_run_id)


async def is_asked(shop: Shop) -> None:
    async def some() -> bool:
        return len(texts(shop)) > 0

    await eventually(some, "the model is asked")


async def test_the_catalogue_is_embedded_once(shop: Shop) -> None:
    """The second run calls no service; the status query shows the progress of each."""
    handle = await start(shop, {})
    progress = await handle.result()

    assert progress == IndexProgress(target=SMALL, embedded=5, products=5, finished=True)
    assert await handle.query("status", result_type=IndexProgress) == progress
    assert await Catalogue(shop.pool).active() == (SMALL.model, SMALL.dimensions)
    assert (await index(shop)).embedded == 0
    assert texts(shop) == [5]


@pytest.mark.parametrize("payload", [{"model": "another"}, "all of it", 5])
async def test_it_takes_no_input(shop: Shop, payload: Any) -> None:
    """What was meant by it would be lost in silence."""
    assert "InvalidInput: " in await fails(await start(shop, payload))


async def test_an_answer_that_is_lost(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt finds the batch done, and asks for the next one."""
    monkeypatch.setattr(product_index, "BATCH", 2)
    shop.hooks.fail("embed_batch", Unavailable("lost", type="lost"), "after")

    assert (await index(shop)).finished
    assert texts(shop) == [2, 2, 1]


async def test_a_run_that_ends_between_batches(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batches are kept, and the next run goes on after them."""
    monkeypatch.setattr(product_index, "BATCH", 2)
    held = shop.hooks.hold("embed_batch", "after")
    handle = await start(shop)
    await held.reached.wait()
    await handle.terminate()
    held.let_go()

    progress = await index(shop)
    assert (progress.embedded, progress.finished) == (3, True)
    assert texts(shop) == [2, 2, 1]


@pytest.mark.prove
async def test_a_long_run_is_continued(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another run, from where it was, with its numbers; its history stays short."""
    monkeypatch.setattr(product_index, "BATCH", 1)
    monkeypatch.setattr(
        workflow.Info, "is_continue_as_new_suggested", lambda info: info.get_current_history_length() > 16
    )
    handle = await start(shop)
    progress = await handle.result()

    assert progress == IndexProgress(target=SMALL, embedded=5, products=5, finished=True)
    assert texts(shop) == [1] * 5
    first = shop.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    assert (await first.describe()).status != (await handle.describe()).status


async def test_products_that_appear_behind_the_run(shop: Shop) -> None:
    """It goes round once more for them, before the index is used."""
    held = shop.hooks.hold("activate_index")
    handle = await start(shop)
    await held.reached.wait()
    await Catalogue(shop.pool).sell("0-late")
    held.let_go()

    progress = await handle.result()
    assert (progress.embedded, progress.finished) == (6, True)
    assert texts(shop) == [5, 1]


async def test_another_model_takes_over_without_a_gap(shop: Shop, temporal: WorkflowEnvironment) -> None:
    """Customers are answered from the old index until the new one is complete, and from that one ever after."""
    catalogue = Catalogue(shop.pool)
    await index(shop)
    await catalogue.bought("2")
    async with open_shop(shop.database_url, temporal, embedding_model="text-embedding-3-large") as next_shop:
        held = next_shop.hooks.hold("activate_index")
        handle = await start(next_shop)
        await held.reached.wait()
        assert len(await catalogue.vectors()) == 10
        assert await catalogue.active() == (SMALL.model, SMALL.dimensions)
        assert (await recommend(shop)).source is Source.MODEL
        held.let_go()
        assert (await handle.result()).finished

    assert await catalogue.active() == ("text-embedding-3-large", 1536)
    assert {model for _, model in await catalogue.vectors()} == {"text-embedding-3-large"}
    assert (await recommend(shop)).source is Source.MODEL


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 429, "headers": {"Retry-After": "60"}},
        {"kind": "status", "status": 503, "times": 5},
        {"kind": "status", "status": 401, "times": 5},
    ],
    ids=["a limit", "an outage", "a wrong key that is mended"],
)
async def test_an_outage_delays_the_run(shop: Shop, fault: dict[str, Any]) -> None:
    """It goes on when the model is back."""
    shop.world.faults.add(Fault.model_validate({"service": "openai"} | fault))
    handle = await start(shop)
    await is_asked(shop)
    await shop.advance(handle, timedelta(minutes=20))

    assert (await handle.result()).finished


@pytest.mark.prove
async def test_a_key_that_stays_wrong_fails_the_run(shop: Shop) -> None:
    """After an hour, saying so; what was embedded before is kept, and the next run goes on."""
    await index(shop)
    await Catalogue(shop.pool).sell("new")
    shop.world.faults.add(Fault(service="openai", kind="status", status=401, times=None))
    handle = await start(shop)
    await is_asked(shop)
    await shop.advance(handle, timedelta(minutes=61))
    assert "openai: HTTP 401" in await fails(handle)

    shop.world.faults.clear()
    assert (await index(shop)).embedded == 1


async def test_without_a_key(database_url: str, temporal: WorkflowEnvironment) -> None:
    """The run fails at once, and its error says what is missing."""
    async with open_shop(database_url, temporal, openai_api_key=SecretStr("")) as shop:
        assert "OPENAI_API_KEY is empty" in await fails(await start(shop))


async def test_bad_vectors_fail_the_run(shop: Shop) -> None:
    """At once, with nothing kept of them; the index in use stays."""
    body: Any = {"data": [{"index": index, "embedding": [float(index), *[0.0] * 1535]} for index in range(5)]}
    shop.world.faults.add(Fault(service="openai", kind="status", status=200, body=body))

    assert "the embeddings cannot be used" in await fails(await start(shop))
    assert await Catalogue(shop.pool).vectors() == {}
    assert await Catalogue(shop.pool).active() is None


async def test_two_runs_at_the_same_time(shop: Shop) -> None:
    """The second one is wasted, and does no harm."""
    handles = [await start(shop) for _ in range(2)]

    assert all([(await handle.result()).finished for handle in handles])
    assert len(await Catalogue(shop.pool).vectors()) == 5
