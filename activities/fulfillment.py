"""The warehouse: ask it to ship, or to call it off."""

from datetime import timedelta
from typing import Final
from urllib.parse import quote

import httpx
from temporalio import activity

from gateways.http import CLIENT_ERRORS, get_json, post_json
from gateways.order_store import existing_row, read_items, read_resolution
from gateways.postgres import Database
from orders.errors import Permanent, Unavailable
from orders.models import FulfillmentAnswer, FulfillmentRequest, Status, UndoResult

# Written before the warehouse is asked, and only while the order is pending: an undo that does not find the mark knows
# that no attempt has asked, and that none ever will.
MARK_REQUESTED: Final = """
    UPDATE orders SET fulfillment_requested_at = now()
    WHERE id = $1 AND status = 'pending'
"""

SINCE_REQUESTED: Final = "SELECT now() - fulfillment_requested_at FROM orders WHERE id = $1"

KEEP_FULFILLMENT: Final = "UPDATE orders SET fulfillment_id = $2 WHERE id = $1 AND fulfillment_id IS NULL"

# A request that is answered by nobody in this time will not arrive: an attempt's time-out and a grace.
STILL_ON_ITS_WAY: Final = timedelta(seconds=90)


class Fulfillment:
    """One shipment per order, by the idempotency key that the warehouse honors.

    Raises, in all activities:
        Unavailable: the warehouse or PostgreSQL; what was asked for may have happened.
    """

    def __init__(
        self, database: Database, http: httpx.AsyncClient, base: str, key: str, *, remembers_cancels: bool
    ) -> None:
        """Without `remembers_cancels` "unknown" is believed only when no request can be on its way any more."""
        self._remembers_cancels = remembers_cancels
        self._database = database
        self._http = http
        self._base = base.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"}

    @activity.defn
    async def request_fulfillment(self, request: FulfillmentRequest) -> FulfillmentAnswer:
        """Ask the warehouse to ship the order; it may refuse, e.g. the address."""
        body = await self._mark_requested(request)
        if body is None:
            return FulfillmentAnswer(state="order_closed")
        response = await self._post("/orders", body, f"{request.order_id}:fulfill")
        if response.is_success:
            fulfillment_id = str(response.json()["id"])
            async with self._database.transaction() as connection:
                await connection.execute(KEEP_FULFILLMENT, request.order_id, fulfillment_id)
            return FulfillmentAnswer(state="accepted", fulfillment_id=fulfillment_id)
        if _code(response) == "order_cancelled":
            return FulfillmentAnswer(state="order_closed")
        if response.status_code not in CLIENT_ERRORS:
            raise Unavailable(f"fulfillment: HTTP {response.status_code}", type="fulfillment_unavailable")
        return FulfillmentAnswer(state="refused", error=f"the warehouse refused the order ({_code(response)})")

    @activity.defn
    async def cancel_fulfillment(self, order_id: str) -> UndoResult:
        """Call the shipment off. An order that the warehouse never heard of is called off for good all the same.

        Raises:
            Permanent: the warehouse refuses; a person must decide.
        """
        async with self._database.transaction() as connection:
            since: timedelta | None = await connection.fetchval(SINCE_REQUESTED, order_id)
            said = await read_resolution(connection, order_id, "cancel_fulfillment")
        if said or since is None:
            return UndoResult(note=said or "the warehouse was never asked")
        response = await self._post(f"/orders/{quote(order_id, safe='')}/cancel", {}, f"{order_id}:cancel")
        if response.is_success:
            return UndoResult(note="the warehouse called the shipment off")
        match _code(response):
            case "order_unknown" if not self._remembers_cancels and since < STILL_ON_ITS_WAY:
                wait = STILL_ON_ITS_WAY - since
                raise Unavailable(
                    "fulfillment: the request may be on its way", type="request_on_its_way", retry_after=wait
                )
            case "order_unknown":
                return UndoResult(note="the warehouse never heard of the order")
            case "already_shipped":
                return UndoResult(note="the warehouse has shipped already", shipped=True)
            case code if response.status_code in CLIENT_ERRORS:
                raise Permanent(f"the warehouse refused to call the shipment off ({code})", type="cancel_refused")
            case code:
                raise Unavailable(f"fulfillment: cancel answered {code}", type="fulfillment_unavailable")

    async def read_shipment(self, order_id: str) -> str:
        """Where the shipment of an order stands, in the warehouse's word; `order_unknown` if there is none.

        Raises:
            Unavailable: the warehouse.
        """
        url = f"{self._base}/orders/{quote(order_id, safe='')}"
        response = await get_json(self._http, "fulfillment", url, self._headers)
        if response.is_success:
            return str(response.json()["status"])
        if (code := _code(response)) != "order_unknown":
            raise Unavailable(f"fulfillment: {code}", type="fulfillment_unavailable")
        return code

    async def _mark_requested(self, request: FulfillmentRequest) -> dict[str, object] | None:
        """What to send, once the row says that it may be sent; None if the order is no longer pending."""
        async with self._database.transaction() as connection:
            await connection.execute(MARK_REQUESTED, request.order_id)
            row = await existing_row(connection, request.order_id)
            items = await read_items(connection, row)
        if row.status is not Status.PENDING:
            return None
        return {
            "orderId": request.order_id,
            "items": items,
            "shippingAddress": request.shipping_address.model_dump(by_alias=True),
            "priority": request.priority,
        }

    async def _post(self, path: str, body: object, key: str) -> httpx.Response:
        headers = self._headers | {"Idempotency-Key": key}
        return await post_json(self._http, "fulfillment", f"{self._base}{path}", body, headers)


def _code(response: httpx.Response) -> str:
    """The warehouse's error code; only a short word of it is believed."""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return f"http_{response.status_code}"
    return code if isinstance(code, str) and code.isidentifier() and len(code) <= 40 else f"http_{response.status_code}"  # noqa: PLR2004
