"""The tries of a payment: each `pay` is one, with a number of its own that its idempotency keys carry.

The order's own payment method is try 1. Whoever has not the latest number comes late, and only looks.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateways.postgres import Connection

FIRST_TRY: Final = 1

BEGIN_TRY: Final = """
    INSERT INTO payment_tries (order_id, number, key)
    SELECT $1, coalesce(max(number), 1) + 1, $2 FROM payment_tries WHERE order_id = $1
    ON CONFLICT (order_id, key) DO NOTHING
"""

READ_TRY: Final = "SELECT number FROM payment_tries WHERE order_id = $1 AND key = $2"

READ_LATEST: Final = "SELECT coalesce(max(number), 1) FROM payment_tries WHERE order_id = $1"


async def begin_try(connection: "Connection", order_id: str, key: str | None) -> int | None:
    """The number of the try, which may have begun before; None: a later one has begun. The order row must be locked.

    `key` is the identity of the `pay` that asks for it; None: it is the order's own payment method.
    """
    number = FIRST_TRY
    if key is not None:
        await connection.execute(BEGIN_TRY, order_id, key)
        number = await connection.fetchval(READ_TRY, order_id, key)
    return number if number == await connection.fetchval(READ_LATEST, order_id) else None
