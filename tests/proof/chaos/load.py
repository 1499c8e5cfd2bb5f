"""The customers: they order, authenticate, ask twice, cancel and are refunded, and repeat what is not answered."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

from client.orders import cancel_order, pay_order, refund_order, submit_order
from client.runs import view_run
from orders.errors import NotPayable, UnknownOrder
from orders.models import CancelOutcome, ErrorCode, OrderOutcome, OrderView, RefundOutcome, Stage
from tests.proof.chaos.cluster import POLL_EVERY, UNREACHABLE, Cluster, until_answered
from tests.proof.chaos.plan import ASKS, Plan, PlannedOrder, PlannedRefund


class Load:
    """All customers, and the answers that each of them got."""

    def __init__(self, cluster: Cluster, begins: Callable[[int], None]) -> None:
        """`begins` receives the number of each order when it begins."""
        self._cluster = cluster
        self._begins = begins
        self.orders: dict[str, list[OrderOutcome]] = defaultdict(list)
        self.cancels: dict[str, list[CancelOutcome]] = defaultdict(list)
        self.refunds: dict[str, list[RefundOutcome]] = defaultdict(list)
        self.spans: dict[str, tuple[float, float]] = {}  # when each order began, and when its last answer came
        self.authenticated = 0
        self.paid_again = 0

    async def run(self, plan: Plan, customers: int) -> None:
        """Place all orders of the plan in their order, so many at a time."""
        queue = iter(enumerate(plan.orders))
        async with asyncio.TaskGroup() as group:
            for _ in range(customers):
                group.create_task(self._shop(queue))

    async def _shop(self, queue: Iterator[tuple[int, PlannedOrder]]) -> None:
        for number, order in queue:
            self._begins(number)
            began = time.monotonic()
            await self._run(order)
            self.spans[order.order_id] = (began, time.monotonic())

    async def _run(self, order: PlannedOrder) -> None:
        waiting = asyncio.create_task(self._authenticate(order))
        answered = asyncio.Event()
        acts: list[Coroutine[Any, Any, None]] = [self._submit(order, answered) for _ in range(order.submits)]
        acts += [self._cancel(order, after) for after in order.cancels]
        acts += [self._refund(order, refund, answered) for refund in order.refunds]
        await asyncio.gather(*acts)
        waiting.cancel()
        if order.ships:
            await self._ship(order)
            if order.shorts and order.regrets:
                await self._cancel(order, after=0)

    async def _submit(self, order: PlannedOrder, answered: asyncio.Event) -> None:
        client = self._cluster.client
        answer = await until_answered(lambda: submit_order(client, order.order_id, order.payload))
        if answer.error_code is ErrorCode.PAYMENT_REQUIRED and order.second_card:
            answer = await self._pay_again(order)
        self.orders[order.order_id].append(answer)
        answered.set()

    async def _pay_again(self, order: PlannedOrder) -> OrderOutcome:
        """Pay with the second card, as often as nobody knows what came of it; who comes too late asks how it ended."""
        client = self._cluster.client
        with suppress(NotPayable, UnknownOrder):
            answer = await until_answered(lambda: pay_order(client, order.order_id, order.second_card))
            self.paid_again += answer.success
            return answer
        return await until_answered(lambda: submit_order(client, order.order_id, order.payload))

    async def _cancel(self, order: PlannedOrder, after: float) -> None:
        await asyncio.sleep(after)
        email = order.payload["customerEmail"]
        self.cancels[order.order_id].append(
            await until_answered(lambda: cancel_order(self._cluster.client, order.order_id, email))
        )

    async def _refund(self, order: PlannedOrder, refund: PlannedRefund, answered: asyncio.Event) -> None:
        await answered.wait()
        await asyncio.sleep(refund.after)
        payload = refund.payload(order)
        self.refunds[order.order_id].append(await until_answered(lambda: refund_order(self._cluster.client, payload)))

    async def _authenticate(self, order: PlannedOrder) -> None:
        """Authenticate the payment, or fail to, when the bank asks."""
        if order.card != ASKS or order.charges == "free" or order.customer == "leaves":
            return
        body = {"outcome": "succeed" if order.customer == "authenticates" else "fail"}
        while True:
            view = await view_run(self._cluster.client, order.order_id)
            if isinstance(view, OrderView) and view.stage is Stage.AWAITING_CUSTOMER and view.payment_intent:
                url = f"/_sandbox/authenticate/{view.payment_intent}"
                answer = await until_answered(lambda: self._cluster.sandbox.post(url, json=body))  # noqa: B023  awaited at once
                self.authenticated += answer.is_success  # unless the payment has ended
                return
            await asyncio.sleep(POLL_EVERY)

    async def _ship(self, order: PlannedOrder) -> None:
        """Let the warehouse ship what it can of the order, if it has it."""
        headers = {"Authorization": f"Bearer {self._cluster.fulfillment_key}"}
        url = f"/fulfillment/orders/{order.order_id}"
        one = [{"productId": order.product, "quantity": 1}]
        left = order.quantity
        with suppress(*UNREACHABLE):
            if order.parcels and order.quantity > 1:
                first = {"lines": one, "tracking": "first"}
                await self._cluster.sandbox.post(f"{url}/ship", headers=headers, json=first)
                left -= 1
            if order.shorts:
                await self._cluster.sandbox.post(f"{url}/short", headers=headers, json={"lines": one})
                left -= 1
            if left and not (order.shorts and order.regrets):
                await self._cluster.sandbox.post(f"{url}/ship", headers=headers)
