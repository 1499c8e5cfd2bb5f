"""What hands do past us: in Stripe's dashboard, in other programs with its key, and in the database."""

import uuid
from typing import Any

import httpx

from gateways.http import open_http
from gateways.warehouse import Warehouse
from tests.support.activity_bench import fulfillment, order_of
from tests.support.shop import Shop


async def pay(shop: Shop, order_id: str | None, capture: str = "automatic", shop_id: str | None = "ours") -> str:
    """A payment for an order by one shop_id or another; without a shop_id somebody makes it in the dashboard."""
    if shop_id == "ours":
        shop_id = str(await shop.pool.fetchval("SELECT id FROM shop"))
    data = {
        "amount": 5998,
        "currency": "usd",
        "customer": "cus_123",
        "payment_method": "pm_card_visa",
        "capture_method": capture,
        "confirm": "true",
    }
    metadata = {"order_id": order_id, "shop_id": shop_id}
    data |= {f"metadata[{name}]": value for name, value in metadata.items() if value}
    return str((await _stripe(shop, "/payment_intents", data))["id"])


async def refund_by_hand(shop: Shop, payment: str, amount: int | None = None) -> None:
    """Refund so much of a payment, in minor units; None: all that is left."""
    await _stripe(shop, "/refunds", {"payment_intent": payment} | ({"amount": amount} if amount else {}))


async def hold_again(shop: Shop, order_id: str) -> None:
    """Let a closed order, of two of product 1, hold its stock as if it had never been put back."""
    await shop.pool.execute("UPDATE reservations SET state = 'held' WHERE order_id = $1", order_id)
    await shop.pool.execute("UPDATE inventory SET reserved = 2, quantity = quantity - 2 WHERE product_id = '1'")


async def authorize_again(shop: Shop, order_id: str) -> str:
    """Give a closed order its price, and a payment that is authorized; its id."""
    payment = await pay(shop, None, capture="manual")
    await shop.pool.execute("INSERT INTO order_items VALUES ($1, '1', 2, 2999) ON CONFLICT DO NOTHING", order_id)
    await shop.pool.execute("UPDATE orders SET total = 5998, payment_intent_id = $2 WHERE id = $1", order_id, payment)
    return payment


async def _stripe(shop: Shop, path: str, data: dict[str, Any]) -> dict[str, Any]:
    key = shop.settings.stripe_secret_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": uuid.uuid4().hex}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        answer = await http.post(f"{shop.settings.stripe_base}/v1{path}", data=data)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body


async def send_late(shop: Shop, order_id: str) -> None:
    """A request to ship the order arrives, long after its attempt was given up."""
    key = shop.settings.fulfillment_key.get_secret_value()
    async with open_http(3) as http:
        warehouse = Warehouse(http, shop.settings.fulfillment_api, key, "shop")
        await warehouse.ship(fulfillment(order_of(order_id)), [{"productId": "1", "quantity": 2}])
