"""What the database says about orders and stock, as tests ask for it."""

import asyncpg


class Rows:
    """For whatever has a pool."""

    pool: "asyncpg.Pool[asyncpg.Record]"

    async def row(self, order_id: str) -> asyncpg.Record:
        row = await self.pool.fetchrow("SELECT * FROM orders WHERE id = $1", order_id)
        assert row is not None, f"no row for {order_id}"
        return row

    async def status(self, order_id: str) -> str | None:
        status: str | None = await self.pool.fetchval("SELECT status FROM orders WHERE id = $1", order_id)
        return status

    async def stock(self, product_id: str = "1") -> tuple[int, int]:
        """What is available and what is reserved."""
        row = await self.pool.fetchrow("SELECT quantity, reserved FROM inventory WHERE product_id = $1", product_id)
        assert row is not None
        return row["quantity"], row["reserved"]

    async def set_stock(self, quantity: int, product_id: str = "1") -> None:
        await self.pool.execute("UPDATE inventory SET quantity = $2 WHERE product_id = $1", product_id, quantity)

    async def events(self, order_id: str) -> list[str]:
        """The order's states in the order in which it took them."""
        rows = await self.pool.fetch(
            "SELECT to_status FROM order_events WHERE order_id = $1 AND to_status IS NOT NULL ORDER BY id", order_id
        )
        return [row["to_status"] for row in rows]
