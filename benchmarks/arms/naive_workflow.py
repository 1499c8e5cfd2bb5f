"""process-order as the source document's flow reads: each member an activity, `foreach` an activity for each item."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from benchmarks.arms.naive_activities import Naive

LIMIT: Final = timedelta(seconds=30)


@workflow.defn(name="naive-process-order")
class NaiveProcessOrder:
    @workflow.run
    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Place the order: 6 activities, and 4 for each item."""
        items = order["items"]
        await _do(Naive.validate_order, order)
        available = await asyncio.gather(*(_do(Naive.check_inventory, item) for item in items))  # the flow's `parallel`
        if not all(available):
            return {"success": False, "error": "Order processing failed"}
        for item in items:
            await _do(Naive.reserve_inventory, item)
        try:
            payment_intent = await _do(Naive.process_payment, order)
        except ActivityError:
            for item in items:
                await _do(Naive.release_inventory, item)
            return {"success": False, "error": "Order processing failed"}
        order_id = await _do(Naive.create_order, order, payment_intent)
        for item in items:
            await _do(Naive.create_order_item, order_id, item)
        for item in items:
            await _do(Naive.finalize_inventory, item)
        fulfillment_id = await _do(Naive.create_fulfillment, order_id, order)
        await _do(Naive.send_confirmation, order_id, order)
        await _do(Naive.track_order, order_id, order)
        return {
            "success": True,
            "orderId": order_id,
            "paymentIntent": payment_intent,
            "fulfillmentId": fulfillment_id,
        }


async def _do(member: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 (each member has its own)
    return await workflow.execute_activity_method(member, args=arguments, start_to_close_timeout=LIMIT)
