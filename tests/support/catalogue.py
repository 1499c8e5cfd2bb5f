"""A catalogue with embeddings and customers with a past, put into the database as tests want them."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncpg

ACTIVE: Final = ("a-model", 2)  # model and dimensions

ADD_PRODUCTS: Final = """
    WITH made AS (
        INSERT INTO products (id, name, price, currency, description)
        SELECT id, 'The ' || id, 1000, 'usd', 'All about ' || id FROM unnest($1::text[]) AS id RETURNING id, name
    )
    INSERT INTO inventory (product_id, product_name, quantity) SELECT id, name, $2 FROM made
"""

ADD_VECTORS: Final = """
    INSERT INTO product_embeddings (product_id, model, dimensions, content_hash, embedding)
    SELECT id, $1, $2, '', vector::vector FROM unnest($3::text[], $4::text[]) AS v (id, vector)
"""

ACTIVATE: Final = """
    INSERT INTO embedding_index (model, dimensions) VALUES ($1, $2)
    ON CONFLICT (the_only) DO UPDATE SET model = excluded.model, dimensions = excluded.dimensions
"""

ADD_ORDER: Final = """
    WITH made AS (
        INSERT INTO orders (id, customer_id, request_hash, status, closing, total, currency, capture_mode, terms,
            payment_intent_id, created_at, cancelled_at)
        VALUES ($1, $2, '', $3, 'failed', 1000, 'usd', 'manual', '{}', 'pi_' || $1, now() - $4::interval,
            CASE WHEN $3 = 'cancelled' THEN now() END)
        RETURNING id
    )
    INSERT INTO order_items (order_id, product_id, quantity, price)
    SELECT made.id, product_id, 1, 1000 FROM made, unnest($5::text[]) AS product_id
"""


class Catalogue:
    """For whatever has a pool."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool
        self._orders = 0

    async def sell(self, *product_ids: str, quantity: int = 5) -> None:
        """Put products into the catalogue, with their stock."""
        await self._pool.execute(ADD_PRODUCTS, product_ids, quantity)

    async def place(self, vectors: Mapping[str, Sequence[float]], target: tuple[str, int] = ACTIVE) -> None:
        """Give products their embeddings."""
        padded = [json.dumps([*vector, *[0] * (1536 - len(vector))]) for vector in vectors.values()]
        await self._pool.execute(ADD_VECTORS, *target, list(vectors), padded)

    async def activate(self, target: tuple[str, int] = ACTIVE) -> None:
        """Let these embeddings be the ones that are searched."""
        await self._pool.execute(ACTIVATE, *target)

    async def indexed(self, vectors: Mapping[str, Sequence[float]]) -> None:
        """Products for sale, with these embeddings in the active index."""
        await self.sell(*vectors)
        await self.place(vectors)
        await self.activate()

    async def bought(
        self, *product_ids: str, by: str = "cus_1", status: str = "processing", days_ago: float = 0
    ) -> None:
        """An order of these products."""
        self._orders += 1
        order_id = f"past-{by}-{self._orders}"
        await self._pool.execute(ADD_ORDER, order_id, by, status, timedelta(days=days_ago), product_ids)

    async def stock(self, quantity: int, *product_ids: str) -> None:
        await self._pool.execute(
            "UPDATE inventory SET quantity = $1 WHERE product_id = ANY($2::text[])", quantity, product_ids
        )

    async def vectors(self) -> dict[tuple[str, str], list[float]]:
        """What is stored, by product and model."""
        rows = await self._pool.fetch("SELECT product_id, model, embedding::text AS vector FROM product_embeddings")
        return {(row["product_id"], row["model"]): json.loads(row["vector"]) for row in rows}

    async def active(self) -> tuple[Any, ...] | None:
        """The model and the dimensions that are searched."""
        row = await self._pool.fetchrow("SELECT model, dimensions FROM embedding_index")
        return tuple(row) if row else None
