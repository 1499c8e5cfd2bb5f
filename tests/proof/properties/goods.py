"""The warehouse of a script, the events that it sends, and the runs that come of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest

from activities import parcels
from app.web import events
from orders.models import OrderRow, Refund
from orders.parcels import ParcelNotice, Shortage
from orders.parsing import parse_refund, read_json
from sandbox.fulfillment import Item, Lack
from sandbox.webhooks import StatusChanges, Webhook

if TYPE_CHECKING:
    from sandbox.world import World

ADDRESS: Final = "customer@example.com"


class RunsToStart:
    """What takes the place of Temporal: it keeps the runs that are to be started until the player starts them."""

    def __init__(self) -> None:
        self.refunds: list[Refund] = []
        self.notices: list[ParcelNotice] = []

    def clear(self) -> bool:
        """Forget them. Whether there were any."""
        had_any = bool(self.refunds or self.notices)
        self.refunds.clear()
        self.notices.clear()
        return had_any

    async def start_shortage_refund(
        self, _client: Any, _queue: str, _row: OrderRow, shortage: Shortage, *, amount: Decimal | None
    ) -> None:
        request = shortage.refund(ADDRESS, amount).as_request()
        self.refunds.append(parse_refund(read_json(json.dumps(request))))

    async def start_notify_shipment(self, _client: Any, _queue: str, notice: ParcelNotice) -> None:
        self.notices.append(notice.model_copy(update={"customer_email": ADDRESS}))


@contextmanager
def runs_to_start() -> Iterator[RunsToStart]:
    """Until the block ends, what events and reconcile-orders start is kept there."""
    runs = RunsToStart()

    async def nothing(*_: Any) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        for module in (events, parcels):
            patch.setattr(module, "start_shortage_refund", runs.start_shortage_refund)
            patch.setattr(module, "start_notify_shipment", runs.start_notify_shipment)
        patch.setattr(events, "start_reconcile_orders", nothing)  # operators are alerted
        patch.setattr(parcels, "find_customer_email", nothing)  # the notice has the address
        yield runs


class Goods:
    """Those of one order at the warehouse, and the events that it has sent of them, each of which may come any time."""

    def __init__(self, world: "World", order_id: str) -> None:
        self._world = world
        self._order_id = order_id
        self._changes = StatusChanges()
        self.events: list[Webhook] = []

    @property
    def rest(self) -> tuple[Item, ...]:
        """What has not left, and can."""
        shipment = self._world.fulfillment.shipments.get(self._order_id)
        return shipment.rest if shipment and shipment.status in ("accepted", "shipping") else ()

    def ship_part(self) -> None:
        """One unit leaves."""
        self._world.fulfillment.send_part(self._order_id)
        self._note()

    def ship_rest(self) -> None:
        """All that is left leaves; as a whole, if nothing has left before."""
        self._world.fulfillment.send(self._order_id, None)
        self._note()

    def fall_short(self) -> None:
        """One unit can never leave."""
        one = self.rest[0].model_copy(update={"quantity": 1})
        self._world.fulfillment.lack(self._order_id, Lack(lines=(one,)))
        self._note()

    def _note(self) -> None:
        self.events += self._changes.of([self._world.fulfillment.shipments[self._order_id]])
