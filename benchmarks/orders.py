"""The orders that every arm places: the same customer, address and card, and products drawn from a thousand."""

from collections.abc import Iterator
from random import Random
from typing import Any, Final

import asyncpg

PRODUCTS: Final = 1000
STOCK: Final = 1_000_000_000  # of each product: no order is ever refused
PRICE: Final = 2999  # minor units

CREATE_PRODUCTS: Final = """
    WITH made AS (
        INSERT INTO products (id, name, price, currency)
        SELECT 'bench-' || n, 'Product ' || n, $2, 'usd' FROM generate_series(0, $1 - 1) AS n
        ON CONFLICT DO NOTHING RETURNING id, name
    )
    INSERT INTO inventory (product_id, product_name, quantity) SELECT id, name, $3 FROM made
"""


async def create_products(url: str) -> None:
    """Create the products, and the stock of each, where they are absent."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(CREATE_PRODUCTS, PRODUCTS, PRICE, STOCK)
    finally:
        await connection.close()


def payloads(items: int, seed: int) -> Iterator[dict[str, Any]]:
    """Endless orders of so many different products. The same seed draws the same products."""
    random = Random(seed)  # noqa: S311 (to repeat, not to hide)
    while True:
        products = random.sample(range(PRODUCTS), items)
        yield {
            "customerId": "cus_123",
            "customerEmail": "customer@example.com",
            "items": [{"productId": f"bench-{number}", "quantity": 1, "price": PRICE / 100} for number in products],
            "paymentMethodId": "pm_123",
            "shippingAddress": {"street": "123 Main St", "city": "San Francisco", "state": "CA", "zip": "94102"},
        }
