"""A run that is paused, or whose status nobody here knows, is open: it is named, and everything else goes on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionResponse,
    ListWorkflowExecutionsResponse,
    PauseWorkflowExecutionRequest,
    UnpauseWorkflowExecutionRequest,
)
from temporalio.testing import WorkflowEnvironment

from client.orders import cancel_order, submit_order
from client.runs import list_runs, order_runs, order_status, stuck_runs
from deploy.local.postgres import Postgres
from gateways.temporal import find_run, is_open
from orders.errors import NoAnswer
from orders.names import NEEDS_ATTENTION, RECONCILE_ORDERS, VERIFY_ORDERS, cancel_order_id
from orders.reconciliation import ReconcileReport
from orders.verification import VerifyReport, Violation
from tests.support.invariants import assert_invariants
from tests.support.servers import copy_database
from tests.support.shop import Shop, an_order, eventually, new_order_id, open_shop


@pytest.fixture(scope="module")
async def own_shop(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    async with copy_database(postgres) as url, open_shop(url, temporal, reconcile_after_seconds=0) as opened:
        yield opened


@pytest.fixture
async def shop(own_shop: Shop) -> Shop:
    await own_shop.clear()
    return own_shop


@pytest.fixture
async def paused(shop: Shop) -> str:
    """An order whose run was paused while it reserved; another one is placed."""
    order_id = new_order_id()
    held = shop.hooks.hold("reserve_stock", "after")
    await shop.start(order_id=order_id)
    await held.reached.wait()
    request = PauseWorkflowExecutionRequest(namespace=shop.client.namespace, workflow_id=order_id, identity="ops")
    await shop.client.workflow_service.pause_workflow_execution(request)
    held.let_go()
    await shop.place(order_id=f"{order_id}-fine")
    return order_id


async def let_go_on(shop: Shop, order_id: str) -> None:
    request = UnpauseWorkflowExecutionRequest(namespace=shop.client.namespace, workflow_id=order_id, identity="ops")
    await shop.client.workflow_service.unpause_workflow_execution(request)


@pytest.mark.prove
async def test_lists_name_it(shop: Shop, paused: str) -> None:
    """Its state stands in the list, among all other runs; what asks for its stage learns why nothing answers."""
    assert [run.state for run in await order_runs(shop.client, paused)] == ["paused"]
    with pytest.raises(NoAnswer, match="process-order is paused"):
        await order_status(shop.client, paused)

    async def is_listed() -> bool:
        states = {run.workflow_id: run.state for run in await list_runs(shop.client)}
        return states.get(paused) == "paused" and states.get(f"{paused}-fine") == "completed"

    await eventually(is_listed, "both runs are listed")
    assert paused not in {each.run.workflow_id for each in await stuck_runs(shop.client)}


async def test_a_submit_says_that_it_is_paused(shop: Shop, paused: str) -> None:
    """Nothing is lost: the order goes on with its run, and the same submit then joins it."""
    with pytest.raises(NoAnswer, match="paused"):
        await submit_order(shop.client, paused, an_order(), task_queue=shop.task_queue)
    await let_go_on(shop, paused)

    assert (await submit_order(shop.client, paused, an_order(), task_queue=shop.task_queue)).success


async def test_sweeps_go_on(shop: Shop, paused: str) -> None:
    """reconcile-orders leaves the order to its run; verify-orders checks everything, and reports the run."""
    assert await run_sweep(shop, RECONCILE_ORDERS, ReconcileReport) == ReconcileReport()
    report = await run_sweep(shop, VERIFY_ORDERS, VerifyReport)

    assert report.checked == 2
    assert report.violations == (Violation(subject=paused, rule="no_run_is_stuck", what=f"{paused} is paused"),)
    assert await shop.status(paused) == "pending"


@pytest.mark.prove
async def test_a_cancel_waits_for_it_and_says_so(shop: Shop, paused: str) -> None:
    """The caller gets an answer, operators get an alert, and the cancel ends once the run goes on."""
    outcome = await cancel_order(shop.client, paused, task_queue=shop.task_queue)
    assert (outcome.cancelled, outcome.reason) == (False, "undo_parked")
    run = shop.client.get_workflow_handle(cancel_order_id(paused))
    assert (await run.describe()).typed_search_attributes.get(NEEDS_ATTENTION) == "process-order is held up"
    assert any("it is paused: let it go on" in alert.text for alert in shop.world.inbox.alerts)
    await let_go_on(shop, paused)

    assert (await asyncio.wait_for(run.result(), 60))["cancelled"]
    assert await shop.status(paused) == "cancelled"
    assert (await run.describe()).typed_search_attributes.get(NEEDS_ATTENTION) is None
    await assert_invariants(shop, paused)


async def test_a_status_that_nobody_knows(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run counts as open, and is listed with the number of its status."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    service = shop.client.workflow_service
    describe, list_ = service.describe_workflow_execution, service.list_workflow_executions

    async def describe_oddly(*arguments: Any, **options: Any) -> DescribeWorkflowExecutionResponse:
        answer = await describe(*arguments, **options)
        answer.workflow_execution_info.status = 42  # type: ignore[assignment]
        return answer

    async def list_oddly(*arguments: Any, **options: Any) -> ListWorkflowExecutionsResponse:
        answer = await list_(*arguments, **options)
        for run in answer.executions:
            run.status = 42  # type: ignore[assignment]
        return answer

    monkeypatch.setattr(service, "describe_workflow_execution", describe_oddly)
    monkeypatch.setattr(service, "list_workflow_executions", list_oddly)
    found = await find_run(shop.client, order_id)

    assert found
    assert (found.state, await is_open(shop.client, order_id)) == ("status 42", True)
    assert {run.state for run in await list_runs(shop.client)} <= {"status 42"}


async def run_sweep(shop: Shop, workflow: str, kind: type[Any]) -> Any:
    run = await shop.client.start_workflow(
        workflow, id=f"{workflow}:{new_order_id()}", task_queue=shop.task_queue, result_type=kind
    )
    return await asyncio.wait_for(run.result(), 60)
