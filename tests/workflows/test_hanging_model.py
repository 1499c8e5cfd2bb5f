"""A language model that hangs: orders do not wait for it, and customers do not wait for it twice."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from gateways import breaker
from orders.names import INDEX_PRODUCTS, PRODUCT_RECOMMENDATIONS, model_queue
from orders.recommendations import RecommendationsOutcome, Source
from sandbox.faults import Fault
from tests.support.catalogue import Catalogue
from tests.support.shop import Shop, eventually, open_shop

CUSTOMERS = 120  # more than the activities that one worker executes at a time
CONCURRENCY = 6
PATIENCE = 20  # seconds; less than the model's time-out


@pytest.fixture
async def hanging(database_url: str, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    """Each request to its model hangs for 25 s."""
    async with open_shop(
        database_url,
        temporal,
        recommendation_timeout_seconds=25,
        recommendation_deadline_seconds=600,
        model_concurrency=CONCURRENCY,
    ) as shop:
        catalogue = Catalogue(shop.pool)
        await catalogue.indexed({"lamp": (1, 0), "bulb": (1, 0.1)})
        await catalogue.bought("lamp")
        shop.world.faults.add(Fault(service="openai", kind="delay", seconds=60, times=None))
        yield shop


async def start(shop: Shop) -> WorkflowHandle[Any, RecommendationsOutcome]:
    return await shop.client.start_workflow(
        PRODUCT_RECOMMENDATIONS,
        {"customerId": "cus_1"},
        id=f"recommend-{uuid.uuid4().hex}",
        task_queue=shop.task_queue,
        result_type=RecommendationsOutcome,
    )


def attempts(shop: Shop, name: str) -> int:
    return sum(called == name for _, called in shop.hooks.calls)


@pytest.mark.prove
async def test_orders_do_not_wait_for_it(hanging: Shop) -> None:
    """However many customers wait for recommendations; a worker makes a few requests to the model at a time."""
    await asyncio.gather(*(start(hanging) for _ in range(CUSTOMERS)))

    async def all_wait() -> bool:
        return (
            attempts(hanging, "choose_candidates") >= CUSTOMERS and attempts(hanging, "rank_candidates") >= CONCURRENCY
        )

    await eventually(all_wait, "all customers wait for the model")
    async with asyncio.timeout(PATIENCE):
        assert (await hanging.place()).success

    assert attempts(hanging, "rank_candidates") == CONCURRENCY


@pytest.mark.prove
async def test_customers_do_not_wait_for_it_twice(
    hanging: Shop, temporal: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a few failures in a row the model is left alone, and similarity decides at once."""
    monkeypatch.setattr(breaker, "PAUSE", 60)
    async with open_shop(hanging.database_url, temporal, recommendation_timeout_seconds=0.2) as impatient:
        impatient.world.faults.add(Fault(service="openai", kind="hang_before", times=None))
        first = await (await start(impatient)).result()
        asked = attempts(impatient, "rank_candidates")
        second = await (await start(impatient)).result()

        assert attempts(impatient, "rank_candidates") == asked + 1
        assert len(list(impatient.world.journal.about())) == breaker.MAX_FAILURES
    for outcome in (first, second):
        assert (outcome.source, len(outcome.recommendations)) == (Source.SIMILARITY, 1)
        assert outcome.fallback == (
            "the model did not answer: openai: suspended after 5 failures in a row: APITimeoutError"
        )


async def test_what_asks_the_model_has_a_queue_of_its_own(shop: Shop) -> None:
    """All other activities stay in the queue of their workflows."""
    await Catalogue(shop.pool).bought("2")
    index: WorkflowHandle[Any, Any] = await shop.client.start_workflow(
        INDEX_PRODUCTS, id=f"index-{uuid.uuid4().hex}", task_queue=shop.task_queue
    )
    await index.result()
    handle = await start(shop)
    await handle.result()
    queues = {
        event.activity_task_scheduled_event_attributes.activity_type.name: (
            event.activity_task_scheduled_event_attributes.task_queue.name
        )
        for run in (index, handle)
        async for event in run.fetch_history_events()
        if event.HasField("activity_task_scheduled_event_attributes")
    }

    ours, models = shop.task_queue, model_queue(shop.task_queue)
    assert queues == {
        "plan_index": ours,
        "embed_batch": models,
        "activate_index": ours,
        "choose_candidates": ours,
        "rank_candidates": models,
    }
