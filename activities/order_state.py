"""The order row as arbiter: claims, marks and resolutions. Whoever loses a claim gets the row, and obeys it."""

from typing import TYPE_CHECKING, Final

from temporalio import activity
from temporalio.client import Client

from gateways.order_store import actor, existing_row, move_row, read_row, write_event, write_event_once
from gateways.postgres import Database
from gateways.temporal import is_open
from orders.models import ErrorCode, Model, Observation, OrderRow, Park, Status, UndoClaim
from saga import Resolution

if TYPE_CHECKING:
    from gateways.postgres import Connection

INSERT_TOMBSTONE: Final = """
    WITH tombstone AS (
        INSERT INTO orders (id, customer_id, request_hash, status, currency, capture_mode, terms, closing,
                            error_code, error, cancelled_at)
        VALUES ($1, $2, $3, $5, $4, 'manual', '{}', $5, $6, $7, CASE WHEN $5 = 'cancelled' THEN now() END)
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    )
    INSERT INTO order_events (order_id, from_status, to_status, actor, why)
    SELECT id, 'absent', $5, $8, 'undone before it was reserved' FROM tombstone
"""

# Not on what was seen before an operator's last word: an attempt that was given up may come after it.
PARK: Final = """
    UPDATE orders SET parked_step = $2, parked_reason = $3, parked_by = $4
    WHERE id = $1 AND status IN ('undoing', 'cancelling') AND parked_step IS NULL
      AND (SELECT count(*) FROM resolutions WHERE order_id = $1) = $5
    RETURNING id
"""

UNPARK: Final = """
    UPDATE orders SET parked_step = NULL, parked_reason = NULL, parked_by = NULL WHERE id = $1 AND parked_step = $2
"""

KEEP_RESOLUTION: Final = """
    INSERT INTO resolutions (order_id, step, action, reason, actor, key) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (order_id, key) DO NOTHING
"""

IS_RECORDED: Final = "SELECT EXISTS (SELECT FROM resolutions WHERE order_id = $1 AND key = $2)"


class ResolutionRecord(Model):
    """A resolution of an order's step, as it is recorded. `key` is its identity: sent twice, it counts once.

    `marks_row` is that of the park which it resolves.
    """

    order_id: str
    key: str
    resolution: Resolution
    marks_row: bool = True


class OrderState:
    """Claims are won by one conditional UPDATE each; see order_store.MOVE."""

    def __init__(self, database: Database, client: Client) -> None:
        self._database = database
        self._client = client

    @activity.defn
    async def read_order(self, order_id: str) -> OrderRow | None:
        """The row as it stands; None for an order that was never reserved."""
        async with self._database.transaction() as connection:
            return await read_row(connection, order_id)

    @activity.defn
    async def observe_order(self, order_id: str) -> Observation:
        """Whether process-order runs, and then the row. In this order: a row absent after the run closed stays absent.

        Raises:
            Unavailable: Temporal or PostgreSQL.
        """
        run_open = await is_open(self._client, order_id)
        return Observation(run_open=run_open, row=await self.read_order(order_id))

    @activity.defn
    async def claim_undo(self, claim: UndoClaim) -> OrderRow:
        """The first act of any undo: pending -> undoing. An order without a row gets a closed one, the tombstone.

        A row of another payload is returned untouched: its order is not ours to undo.

        Raises:
            Unavailable: PostgreSQL.
        """
        order = claim.order
        async with self._database.transaction() as connection:
            await connection.execute(
                INSERT_TOMBSTONE,
                order.order_id,
                order.customer_id,
                order.request_hash,
                order.currency,
                claim.closing,
                claim.error_code,
                claim.error,
                actor(),
            )
            row = await existing_row(connection, order.order_id)
            if row.request_hash != order.request_hash:
                return row
            await move_row(
                connection,
                order.order_id,
                Status.PENDING,
                Status.UNDOING,
                claim.error_code,
                closing=claim.closing,
                error_code=claim.error_code,
                error=claim.error,
            )
            return await existing_row(connection, order.order_id)

    @activity.defn
    async def claim_cancellation(self, order_id: str) -> OrderRow | None:
        """A customer's cancel: pending -> undoing, or processing -> cancelling; any other state stays what it is.

        Raises:
            Unavailable: PostgreSQL.
        """
        async with self._database.transaction() as connection:
            await move_row(
                connection,
                order_id,
                Status.PENDING,
                Status.UNDOING,
                "cancelled by the customer",
                closing=Status.CANCELLED,
                error_code=ErrorCode.CANCELLED,
                error="the order was cancelled",
            )
            await move_row(connection, order_id, Status.PROCESSING, Status.CANCELLING, "cancelled by the customer")
            return await read_row(connection, order_id)

    @activity.defn
    async def mark_shipped(self, order_id: str) -> OrderRow:
        """The warehouse refused the cancel because the goods are gone: cancelling -> shipped."""
        async with self._database.transaction() as connection:
            await move_row(connection, order_id, Status.CANCELLING, Status.SHIPPED, "already shipped")
            return await existing_row(connection, order_id)

    @activity.defn
    async def park_order(self, park: Park) -> OrderRow:
        """Mark the row: its undo waits for an operator, and nothing else moves the row until then.

        The row is not marked if an operator has resolved something since the run last looked: the run must look again.
        A park that does not mark the row is only recorded as an event.
        """
        text = f"parked at {park.step}: {park.reason}"
        async with self._database.transaction() as connection:
            row = await existing_row(connection, park.order_id)
            if not park.marks_row:
                await write_event_once(connection, park.order_id, text)
            elif await connection.fetchval(
                PARK, park.order_id, park.step, park.reason, park.workflow_id, park.resolution_count
            ):
                await write_event(connection, park.order_id, text)
            return await existing_row(connection, row.id)

    @activity.defn
    async def record_resolution(self, record: ResolutionRecord) -> OrderRow | None:
        """Remove the mark and keep the resolution: every later run of the order obeys it.

        None if the row is not parked at that step any more: the resolution comes too late, and has no effect.
        """
        async with self._database.transaction() as connection:
            row = await existing_row(connection, record.order_id)
            if not await connection.fetchval(IS_RECORDED, record.order_id, record.key):
                if record.marks_row and row.parked_step != record.resolution.step:
                    return None
                await _record(connection, record)
            return await existing_row(connection, record.order_id)


async def _record(connection: "Connection", record: ResolutionRecord) -> None:
    order_id, said = record.order_id, record.resolution
    await connection.execute(KEEP_RESOLUTION, order_id, said.step, said.action, said.reason, said.by, record.key)
    await connection.execute(UNPARK, order_id, said.step)
    await write_event(connection, order_id, f"{said.action} of {said.step} by {said.by}: {said.reason}")
