"""What the database says for people and commands: gateways/report_store.py."""

from gateways.report_store import find_sellable
from tests.support.activity_bench import ActivityBench


async def test_a_canary_order_is_of_what_can_be_paid(bench: ActivityBench) -> None:
    """Not of what costs too little for the provider, nor of an unknown currency, nor of what is too few."""
    for product_id, price, currency, quantity in (
        ("1", 49, "usd", 1000),
        ("2", 2000, "kwd", 1000),
        ("3", 100_000_000, "usd", 1000),
        ("4", 50, "usd", 3),
        ("5", 2000, "usd", 2),
    ):
        await bench.pool.execute(
            "UPDATE products SET price = $2, currency = $3 WHERE id = $1", product_id, price, currency
        )
        await bench.pool.execute("UPDATE inventory SET quantity = $2 WHERE product_id = $1", product_id, quantity)
    assert await find_sellable(bench.database, 3) == ("4", 50, "usd")
    assert await find_sellable(bench.database, 4) is None
