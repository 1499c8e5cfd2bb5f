"""The members of the source document's process-order, one activity each, as a first reading writes them.

One statement or one request each, without idempotency keys: a repeated attempt charges, ships and counts again. That is
what the product adds; here it would only cost the naive saga time.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx
from temporalio import activity

from app.clients import http_of
from config.settings import Settings
from gateways.postgres import open_pool

if TYPE_CHECKING:
    import asyncpg

Item = dict[str, Any]
Order = dict[str, Any]

# The tables of the document.
CREATE_TABLES: Final = """
    CREATE SCHEMA IF NOT EXISTS naive;
    CREATE TABLE IF NOT EXISTS naive.inventory (
        product_id text PRIMARY KEY, quantity bigint NOT NULL, reserved bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 70);
    CREATE TABLE IF NOT EXISTS naive.orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id text, total numeric, status text,
        payment_intent_id text, created_at timestamptz
    );
    CREATE TABLE IF NOT EXISTS naive.order_items (order_id bigint, product_id text, quantity integer, price numeric);
    INSERT INTO naive.inventory (product_id, quantity) SELECT product_id, quantity FROM public.inventory
    ON CONFLICT DO NOTHING;
"""

CHECK: Final = "SELECT quantity FROM naive.inventory WHERE product_id = $1 AND quantity >= $2"
RESERVE: Final = """
    UPDATE naive.inventory SET quantity = quantity - $1, reserved = reserved + $1 WHERE product_id = $2
"""
RELEASE: Final = """
    UPDATE naive.inventory SET quantity = quantity + $1, reserved = reserved - $1 WHERE product_id = $2
"""
FINALIZE: Final = "UPDATE naive.inventory SET reserved = reserved - $1 WHERE product_id = $2"
CREATE_ORDER: Final = """
    INSERT INTO naive.orders (customer_id, total, status, payment_intent_id, created_at)
    VALUES ($1, $2, 'processing', $3, CURRENT_TIMESTAMP) RETURNING id
"""
CREATE_ITEM: Final = "INSERT INTO naive.order_items (order_id, product_id, quantity, price) VALUES ($1, $2, $3, $4)"


class Naive:
    def __init__(self, settings: Settings, pool: "asyncpg.Pool[asyncpg.Record]", http: httpx.AsyncClient) -> None:
        self._settings = settings
        self._pool = pool
        self._http = http

    @activity.defn
    async def validate_order(self, order: Order) -> Order:
        if not (order["items"] and order["customerId"] and order["shippingAddress"]):
            raise ValueError("the order is incomplete")
        return order

    @activity.defn
    async def check_inventory(self, item: Item) -> bool:
        return await self._pool.fetchval(CHECK, item["productId"], item["quantity"]) is not None

    @activity.defn
    async def reserve_inventory(self, item: Item) -> None:
        await self._pool.execute(RESERVE, item["quantity"], item["productId"])

    @activity.defn
    async def process_payment(self, order: Order) -> str:
        form = {
            "amount": str(round(100 * total(order))),
            "currency": "usd",
            "customer": order["customerId"],
            "payment_method": order["paymentMethodId"],
            "confirm": "true",
        }
        headers = {"Authorization": f"Bearer {self._settings.stripe_secret_key.get_secret_value()}"}
        url = f"{self._settings.stripe_base}/v1/payment_intents"
        response = (await self._http.post(url, data=form, headers=headers)).raise_for_status()
        return str(response.json()["id"])

    @activity.defn
    async def release_inventory(self, item: Item) -> None:
        await self._pool.execute(RELEASE, item["quantity"], item["productId"])

    @activity.defn
    async def create_order(self, order: Order, payment_intent: str) -> str:
        return str(await self._pool.fetchval(CREATE_ORDER, order["customerId"], total(order), payment_intent))

    @activity.defn
    async def create_order_item(self, order_id: str, item: Item) -> None:
        await self._pool.execute(CREATE_ITEM, int(order_id), item["productId"], item["quantity"], item["price"])

    @activity.defn
    async def finalize_inventory(self, item: Item) -> None:
        await self._pool.execute(FINALIZE, item["quantity"], item["productId"])

    @activity.defn
    async def create_fulfillment(self, order_id: str, order: Order) -> str:
        items = [{"productId": each["productId"], "quantity": each["quantity"]} for each in order["items"]]
        body = {
            "orderId": f"naive-{order_id}",
            "items": items,
            "shippingAddress": order["shippingAddress"],
            "priority": "standard",
        }
        headers = {"Authorization": f"Bearer {self._settings.fulfillment_key.get_secret_value()}"}
        response = await self._http.post(f"{self._settings.fulfillment_api}/orders", json=body, headers=headers)
        return str(response.raise_for_status().json()["id"])

    @activity.defn
    async def send_confirmation(self, order_id: str, order: Order) -> None:
        data = {"orderNumber": f"naive-{order_id}", "items": order["items"], "total": total(order)}
        body = {"to": order["customerEmail"], "template": "order_confirmation", "data": data}
        (await self._http.post(f"{self._settings.email_service_url}/send", json=body)).raise_for_status()

    @activity.defn
    async def track_order(self, order_id: str, order: Order) -> None:
        properties = {"orderId": f"naive-{order_id}", "total": total(order), "items": len(order["items"])}
        body = {"event": "order_placed", "userId": order["customerId"], "properties": properties}
        (await self._http.post(f"{self._settings.analytics_url}/events", json=body)).raise_for_status()


def total(order: Order) -> float:
    return float(sum(each["price"] * each["quantity"] for each in order["items"]))


@asynccontextmanager
async def open_naive(settings: Settings) -> AsyncIterator[Naive]:
    """The activities, with as many connections as the product has."""
    pool = await open_pool(settings.database_url.get_secret_value(), settings.database_pool_size)
    async with pool, http_of(settings, settings.http_timeout_seconds) as http:
        await pool.execute(CREATE_TABLES)
        yield Naive(settings, pool, http)
