"""client/schedules.py: the Schedules, as the real server keeps them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DescribeScheduleRequest,
    DescribeScheduleResponse,
)
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.testing import WorkflowEnvironment

from client import schedules
from client.reports import index_products
from client.schedules import (
    SCHEDULES,
    Change,
    ScheduleView,
    apply_schedules,
    list_schedules,
    pause_schedule,
    resume_schedule,
    trigger_schedule,
)
from config.settings import Settings
from orders.errors import InvalidInput, NoAnswer, NotFound
from orders.names import CHECK_INVENTORY, INDEX_PRODUCTS, INDEX_RUN, SCHEDULED
from tests.support.schedules import passing_schedules
from tests.support.shop import Shop, eventually

NAMES = [scheduled.workflow for scheduled in SCHEDULES]
CREATED, UNCHANGED = (dict.fromkeys(NAMES, change) for change in (Change.CREATED, Change.UNCHANGED))


@pytest.fixture(autouse=True)
async def client(temporal: WorkflowEnvironment) -> AsyncIterator[Client]:
    async with passing_schedules(temporal.client):
        yield temporal.client


async def apply(client: Client, task_queue: str = "nobody", **settings: Any) -> dict[str, Change]:
    """The change of each Schedule."""
    applied = await apply_schedules(client, Settings(**settings), task_queue=task_queue)
    return {each.name: each.change for each in applied}


async def kept(client: Client, name: str = CHECK_INVENTORY) -> Schedule:
    """The Schedule as the server has it."""
    return (await client.get_schedule_handle(name).describe()).schedule


async def seen(client: Client, name: str = CHECK_INVENTORY) -> ScheduleView:
    return next(each for each in await list_schedules(client) if each.name == name)


async def test_applying_makes_them(client: Client) -> None:
    """Each has the id of its workflow's type and starts it, without input, on the queue; never two at a time."""
    assert await apply(client, check_inventory_every_seconds=900) == CREATED

    made = await kept(client)
    assert isinstance(made.action, ScheduleActionStartWorkflow)
    assert (made.action.workflow, made.action.id) == (CHECK_INVENTORY, CHECK_INVENTORY)
    assert (made.action.task_queue, list(made.action.args)) == ("nobody", [])
    assert made.spec == ScheduleSpec(
        intervals=[ScheduleIntervalSpec(every=timedelta(minutes=15))], jitter=timedelta(seconds=90)
    )
    assert made.policy == SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(minutes=15))
    assert not made.state.paused
    assert made.state.note == "reports low stock"


@pytest.mark.parametrize(
    ("every", "jitter", "catch_up"),
    [(60, timedelta(seconds=6), timedelta(minutes=10)), (604_800, timedelta(minutes=5), timedelta(days=7))],
)
async def test_jitter_and_catch_up_have_bounds(
    client: Client, every: int, jitter: timedelta, catch_up: timedelta
) -> None:
    """A short interval survives a short outage; a long one is not shifted by hours."""
    await apply(client, index_products_every_seconds=every)

    made = await kept(client, INDEX_PRODUCTS)
    assert (made.spec.jitter, made.policy.catchup_window) == (jitter, catch_up)


async def test_applying_again_changes_nothing(client: Client) -> None:
    """An operator's pause and its note make no difference."""
    odd: dict[str, Any] = {"check_inventory_every_seconds": 61, "index_products_every_seconds": 86_399}
    await apply(client, **odd)
    assert await apply(client, **odd) == UNCHANGED

    await pause_schedule(client, INDEX_PRODUCTS, "the catalogue is being moved")
    assert await apply(client, **odd) == UNCHANGED


async def test_changed_settings_change_what_they_are_about(client: Client) -> None:
    """The other Schedules stay as they are, and the server has the new interval."""
    await apply(client, check_inventory_every_seconds=900)
    assert await apply(client, check_inventory_every_seconds=1200) == UNCHANGED | {CHECK_INVENTORY: Change.CHANGED}

    assert [each.every for each in (await kept(client)).spec.intervals] == [timedelta(minutes=20)]
    assert (await seen(client)).every == 1200


async def test_what_somebody_changed_is_set_right(client: Client) -> None:
    """A policy that was changed by hand is the declared one again."""

    def let_them_overlap(found: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = found.description.schedule
        return ScheduleUpdate(replace(schedule, policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.ALLOW_ALL)))

    await apply(client)
    await client.get_schedule_handle(INDEX_PRODUCTS).update(let_them_overlap)

    assert await apply(client) == UNCHANGED | {INDEX_PRODUCTS: Change.CHANGED}
    assert (await kept(client, INDEX_PRODUCTS)).policy.overlap is ScheduleOverlapPolicy.SKIP


async def test_a_pause_outlives_a_change(client: Client) -> None:
    """The settings decide the interval; only operators pause and resume."""
    await apply(client, check_inventory_every_seconds=900)
    await pause_schedule(client, CHECK_INVENTORY, "stocktaking")

    assert await apply(client, check_inventory_every_seconds=1200) == UNCHANGED | {CHECK_INVENTORY: Change.CHANGED}
    found = await seen(client)
    assert (found.paused, found.note, found.every) == (True, "stocktaking", 1200)


async def test_applying_at_the_same_time_is_harmless(client: Client) -> None:
    """Of several calls at the same time, one creates each Schedule."""
    changes = await asyncio.gather(*(apply(client) for _ in range(5)))
    assert sorted(change[CHECK_INVENTORY] for change in changes) == [Change.CREATED] + [Change.UNCHANGED] * 4


async def test_a_pause_and_its_end(client: Client) -> None:
    """Both keep their reason."""
    await apply(client)
    await pause_schedule(client, CHECK_INVENTORY, "stocktaking")
    found = await seen(client)
    assert (found.paused, found.note) == (True, "stocktaking")

    await resume_schedule(client, CHECK_INVENTORY, "the stock is counted")
    found = await seen(client)
    assert (found.paused, found.note) == (False, "the stock is counted")
    assert found.next


@pytest.mark.parametrize("paused", [False, True])
async def test_a_triggered_run_completes(shop: Shop, client: Client, *, paused: bool) -> None:
    """It starts at once, also while paused, and is listed with its state."""
    await apply(client, shop.task_queue)
    if paused:
        await pause_schedule(client, CHECK_INVENTORY, "stocktaking")
    triggered = await trigger_schedule(client, CHECK_INVENTORY)
    assert triggered.started
    assert triggered.workflow_id.startswith(f"{CHECK_INVENTORY}-")
    await client.get_workflow_handle(triggered.workflow_id).result()
    assert [(run.workflow_id, run.state) for run in (await seen(client)).runs] == [(triggered.workflow_id, "completed")]


async def test_a_forgotten_run_is_shown_as_such(client: Client) -> None:
    """After its retention a run is listed as forgotten."""
    await apply(client)
    triggered = await trigger_schedule(client, CHECK_INVENTORY)
    assert [run.state for run in (await seen(client)).runs] == ["running"]
    run = WorkflowExecution(workflow_id=triggered.workflow_id)
    await client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(namespace=client.namespace, workflow_execution=run)
    )

    async def is_forgotten() -> bool:
        return [run.state for run in (await seen(client)).runs] == ["forgotten"]

    await eventually(is_forgotten, "the run is forgotten")


async def test_a_schedule_that_cannot_be_read_stops_no_other_one(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has an overlap policy that the SDK does not know; the others are listed and applied."""
    await apply(client)
    describe = client.workflow_service.describe_schedule

    async def describe_oddly(request: DescribeScheduleRequest, **options: Any) -> DescribeScheduleResponse:
        answer = await describe(request, **options)
        if request.schedule_id == CHECK_INVENTORY:
            answer.schedule.policies.overlap_policy = 99  # type: ignore[assignment]
        return answer

    monkeypatch.setattr(client.workflow_service, "describe_schedule", describe_oddly)

    assert [view.name for view in await list_schedules(client) if view.every is None] == [CHECK_INVENTORY]
    assert "99 is not a valid" in (await seen(client)).note
    assert await apply(client) == UNCHANGED | {CHECK_INVENTORY: Change.UNREADABLE}
    with pytest.raises(NoAnswer, match="cannot be read"):
        await trigger_schedule(client, CHECK_INVENTORY)


async def test_a_run_that_hangs_is_ended(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker takes it. The Schedule then starts another one."""
    monkeypatch.setattr(schedules, "SCHEDULED", dict.fromkeys(NAMES, timedelta(seconds=1)))
    await apply(client)
    hanging = await trigger_schedule(client, CHECK_INVENTORY)

    async def is_ended() -> bool:
        return [run.state for run in (await seen(client)).runs] == ["timed_out"]

    await eventually(is_ended, "the run is ended")
    again = await trigger_schedule(client, CHECK_INVENTORY)
    assert again.started
    assert again.workflow_id != hanging.workflow_id


@pytest.mark.prove
async def test_every_run_that_a_program_starts_has_an_end(client: Client) -> None:
    """Also by hand: a run that hangs is not joined for ever."""
    await apply(client)
    actions = [(await kept(client, name)).action for name in NAMES]
    limits = {each.id: each.execution_timeout for each in actions if isinstance(each, ScheduleActionStartWorkflow)}
    assert limits == dict(SCHEDULED)

    with pytest.raises(NoAnswer, match="no worker"):
        await index_products(client, task_queue="nobody")
    run = client.get_workflow_handle(INDEX_RUN)
    config = (await run.describe()).raw_description.execution_config
    await run.terminate()
    assert config.workflow_execution_timeout.ToTimedelta() == SCHEDULED[INDEX_PRODUCTS]


@pytest.mark.prove
async def test_a_trigger_is_skipped_while_a_run_is_under_way(shop: Shop, client: Client) -> None:
    """The answer says so, and names the run that is under way."""
    held = shop.hooks.hold("find_low_stock")
    await apply(client, shop.task_queue)
    first = await trigger_schedule(client, CHECK_INVENTORY)
    await held.reached.wait()

    second = await trigger_schedule(client, CHECK_INVENTORY)
    assert (second.started, second.workflow_id) == (False, first.workflow_id)
    held.let_go()
    await client.get_workflow_handle(first.workflow_id).result()
    assert len((await seen(client)).runs) == 1


@pytest.mark.prove
async def test_the_last_runs_are_shown(shop: Shop, client: Client) -> None:
    """Three runs, the newest first."""
    await apply(client, shop.task_queue)
    started = []
    for _ in range(4):
        triggered = await trigger_schedule(client, CHECK_INVENTORY)
        assert triggered.started
        await client.get_workflow_handle(triggered.workflow_id).result()
        started.append(triggered.workflow_id)

    runs = (await seen(client)).runs
    assert [run.workflow_id for run in runs] == started[:0:-1]
    assert [run.started for run in runs] == sorted((run.started for run in runs), reverse=True)


async def test_a_trigger_that_shows_no_effect_is_no_success(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client reports no run that it has not seen."""
    monkeypatch.setattr(schedules, "SEEN_WITHIN", 0.0)
    await apply(client)
    with pytest.raises(NoAnswer, match=f"{CHECK_INVENTORY} was triggered, and Temporal has not started it yet"):
        await trigger_schedule(client, CHECK_INVENTORY)


async def test_what_was_never_applied_is_said(client: Client) -> None:
    """It is listed as not applied, and errors say what to do."""
    assert [(each.name, each.applied) for each in await list_schedules(client)] == [(name, False) for name in NAMES]
    for ask in (
        pause_schedule(client, INDEX_PRODUCTS, "so"),
        resume_schedule(client, INDEX_PRODUCTS, "so"),
        trigger_schedule(client, INDEX_PRODUCTS),
    ):
        with pytest.raises(
            NotFound, match=r"index-products is not a Schedule yet: create it with `starter\.py schedules apply`"
        ):
            await ask


async def test_bad_words_are_refused(client: Client) -> None:
    """For an unknown name the error lists the names; a reason has a maximum length."""
    with pytest.raises(InvalidInput, match=f"name: must be one of {', '.join(NAMES)}"):
        await trigger_schedule(client, "process-order")
    for reason in ("", "x" * 501):
        with pytest.raises(InvalidInput, match="reason: must have 1 to 500 characters"):
            await pause_schedule(client, CHECK_INVENTORY, reason)


async def test_what_temporal_answers_instead_is_no_answer(client: Client) -> None:
    """A namespace that does not exist is an outage, not a missing Schedule."""
    nowhere = Client(client.service_client, namespace="nowhere")
    with pytest.raises(NoAnswer, match="Temporal does not answer"):
        await list_schedules(nowhere)
    with pytest.raises(NoAnswer, match="Temporal does not answer"):
        await apply_schedules(nowhere, Settings())
