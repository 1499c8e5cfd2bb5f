"""refund_order, as a program uses it."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

import client.waiting
from client.orders import read_refund, refund_order
from client.resolutions import resolve
from client.runs import order_runs
from gateways.run_starts import start_refund
from gateways.temporal import find_run
from orders.errors import InvalidInput
from orders.models import RefundOutcome
from orders.names import refund_order_id
from saga import Resolution
from sandbox.faults import Fault
from tests.support.invariants import assert_invariants
from tests.support.scenarios import final_error
from tests.support.shop import Shop, eventually, new_order_id

UNIT = {"productId": "1", "quantity": 1}


async def refund(shop: Shop, order_id: str, **asked: Any) -> RefundOutcome:
    payload = {"orderId": order_id, "refundId": "r1"} | (asked or {"lines": [UNIT]})
    return await refund_order(shop.client, payload, task_queue=shop.task_queue)


async def test_a_refund_and_the_same_again(shop: Shop) -> None:
    """Amounts may be exact decimals, and the answer is the same however often it is asked for."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)

    first = await refund(shop, order_id, amount=Decimal("10.10"))
    assert (first.refunded, first.refund_amount) == (True, 10.1)
    assert await refund(shop, order_id, amount=Decimal("10.10")) == first
    await assert_invariants(shop, order_id)


async def test_two_callers_use_one_refund_id_for_two_refunds(shop: Shop) -> None:
    """The second one joins the open run, and is told that its refund is another one."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    held = shop.hooks.hold("make_refund")
    first = asyncio.create_task(refund(shop, order_id))
    await held.reached.wait()
    second = asyncio.create_task(refund(shop, order_id, amount=1))
    held.let_go()

    assert (await first).refunded
    assert (await second).reason == "refund_id_conflict"
    assert shop.world.provider_records()["orders"][order_id]["refunded"] == 2999


async def test_a_parked_refund_is_answered_and_resolved(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller does not wait for an operator, whose resolution finds the run by the name of the step."""
    monkeypatch.setattr(client.waiting, "FIRST_DOUBT", 0.2)
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    shop.hooks.fail("make_refund", final_error())

    assert (await refund(shop, order_id)).reason == "refund_parked"
    said = await resolve(shop.client, order_id, Resolution(step="refund:r1", action="retry", reason="looked at it"))
    assert said.workflow_id == refund_order_id(order_id, "r1")
    assert (await refund(shop, order_id)).refunded


async def test_the_answer_comes_before_the_mail(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the e-mail service is out, the caller gets the outcome and the run retries the e-mail."""
    monkeypatch.setattr(client.waiting, "FIRST_DOUBT", 0.2)
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    shop.world.faults.add(Fault(service="email", kind="status", times=None))

    assert (await refund(shop, order_id, lines=[UNIT], customerEmail="customer@example.com")).refunded
    run = await find_run(shop.client, refund_order_id(order_id, "r1"))
    assert run
    assert run.is_open


async def test_runs_of_refunds_belong_to_their_order(shop: Shop) -> None:
    """And to no order whose id only begins like it."""
    order_id = new_order_id()
    for each in (order_id, f"{order_id}-2"):
        await shop.place(order_id=each)
        await refund(shop, each)

    async def listed() -> list[str]:
        return [run.workflow_id for run in await order_runs(shop.client, order_id) if "refund" in run.workflow_id]

    assert await eventually(listed, "the run is listed") == [refund_order_id(order_id, "r1")]
    assert {run.order_id for run in await order_runs(shop.client, order_id)} == {order_id}


async def test_a_program_starts_one_without_waiting(shop: Shop) -> None:
    """As the web process does; a second start joins the first."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    asked = read_refund({"orderId": order_id, "refundId": "r1", "lines": [UNIT]})
    first = await start_refund(shop.client, asked, task_queue=shop.task_queue)
    await start_refund(shop.client, asked, task_queue=shop.task_queue)

    assert RefundOutcome.model_validate(await first.result()).refunded


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("{", "input: must be JSON"),
        ({"orderId": "o1"}, "refundId: is required"),
        ({"amount": -1}, "amount"),
        ({"orderId": "o1", "refundId": "shorted-1", "amount": 1}, "refundId: must not begin with shorted-"),
    ],
)
def test_bad_input_starts_nothing(data: Any, problem: str) -> None:
    """Every problem is named."""
    with pytest.raises(InvalidInput, match=problem):
        read_refund(data)
