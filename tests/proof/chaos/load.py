"""The customers: they order, wait at the bank's page, ask twice, cancel; and they ask again until they are answered."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

from client.orders import cancel_order, submit_order
from client.runs import view_run
from orders.models import CancelOutcome, OrderOutcome, OrderView, Stage
from tests.proof.chaos.cluster import LOOK_AGAIN, OUT_OF_REACH, Cluster, persist
from tests.proof.chaos.plan import ASKS, Errand, Plan


class Load:
    """All customers, and what each of them was told."""

    def __init__(self, cluster: Cluster, begins: Callable[[int], None]) -> None:
        """`begins` gets the number of each order as it begins."""
        self._cluster = cluster
        self._begins = begins
        self.orders: dict[str, list[OrderOutcome]] = defaultdict(list)
        self.cancels: dict[str, list[CancelOutcome]] = defaultdict(list)
        self.spans: dict[str, tuple[float, float]] = {}  # from an order's beginning to its last answer
        self.authenticated = 0

    async def go(self, plan: Plan, customers: int) -> None:
        """Run all errands, in their order, so many at a time."""
        queue = iter(enumerate(plan.errands))
        async with asyncio.TaskGroup() as load:
            for _ in range(customers):
                load.create_task(self._shop(queue))

    async def _shop(self, queue: Iterator[tuple[int, Errand]]) -> None:
        for number, errand in queue:
            self._begins(number)
            began = time.monotonic()
            await self._run(errand)
            self.spans[errand.order_id] = (began, time.monotonic())

    async def _run(self, errand: Errand) -> None:
        waiting = asyncio.create_task(self._meet_the_bank(errand))
        acts: list[Coroutine[Any, Any, None]] = [self._submit(errand) for _ in range(errand.submits)]
        acts += [self._cancel(errand, after) for after in errand.cancels]
        await asyncio.gather(*acts)
        waiting.cancel()
        if errand.ships:
            await self._ship(errand)

    async def _submit(self, errand: Errand) -> None:
        client = self._cluster.client
        answer = await persist(lambda: submit_order(client, errand.order_id, errand.payload))
        self.orders[errand.order_id].append(answer)

    async def _cancel(self, errand: Errand, after: float) -> None:
        await asyncio.sleep(after)
        email = errand.payload["customerEmail"]
        self.cancels[errand.order_id].append(
            await persist(lambda: cancel_order(self._cluster.client, errand.order_id, email))
        )

    async def _meet_the_bank(self, errand: Errand) -> None:
        """Authenticate the payment, or fail to, once the customer is asked."""
        if errand.card != ASKS or errand.customer == "leaves":
            return
        body = {"outcome": "succeed" if errand.customer == "authenticates" else "fail"}
        while True:
            view = await view_run(self._cluster.client, errand.order_id)
            if isinstance(view, OrderView) and view.stage is Stage.AWAITING_CUSTOMER and view.payment_intent:
                url = f"/_sandbox/authenticate/{view.payment_intent}"
                answer = await persist(lambda: self._cluster.sandbox.post(url, json=body))  # noqa: B023  awaited at once
                self.authenticated += answer.is_success  # unless the payment is off by now
                return
            await asyncio.sleep(LOOK_AGAIN)

    async def _ship(self, errand: Errand) -> None:
        """The warehouse sends it off, if it has it."""
        headers = {"Authorization": f"Bearer {self._cluster.fulfillment_key}"}
        with suppress(*OUT_OF_REACH):
            await self._cluster.sandbox.post(f"/fulfillment/orders/{errand.order_id}/ship", headers=headers)
