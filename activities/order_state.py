"""Claims, parks and resolutions on the order row. A caller that loses a claim gets the row and acts by it."""

from typing import TYPE_CHECKING, Final

from temporalio import activity
from temporalio.client import Client

from gateways.order_store import actor, lock_row, move_row, read_row, write_event, write_event_once
from gateways.postgres import Database
from gateways.run_inputs import find_input
from gateways.temporal import find_run
from orders.models import BEING_UNDONE, WAS_CANCELLED, ErrorCode, Model, OrderRow, Park, Status, UndoClaim
from orders.names import PROCESS_ORDER
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

# Only if the run has seen all resolutions of the order: a late attempt must not park what an operator has resolved.
PARK: Final = """
    UPDATE orders SET parked_step = $2, parked_reason = $3, parked_by = $4
    WHERE id = $1 AND status = ANY($6::text[]) AND parked_step IS NULL
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


IS_KEPT: Final = "SELECT EXISTS (SELECT FROM resolutions WHERE order_id = $1 AND key = $2)"


class ResolutionRecord(Model):
    """A resolution of an order's step, as it is recorded. `key` is its identity: sent twice, it counts once.

    `marks_row` is that of the park which it resolves.
    """

    order_id: str
    key: str
    resolution: Resolution
    marks_row: bool = True


class OrderState:
    """Each claim is one conditional UPDATE, see order_store.MOVE: only one caller wins it.

    Raises, in all activities:
        Unavailable: PostgreSQL.
    """

    def __init__(self, database: Database, client: Client) -> None:
        self._database = database
        self._client = client

    @activity.defn
    async def read_order(self, order_id: str) -> OrderRow | None:
        """The row; None for an order that was never reserved."""
        async with self._database.transaction() as connection:
            return await read_row(connection, order_id)

    @activity.defn
    async def read_run(self, order_id: str) -> str | None:
        """The state of the run of process-order if it is open: `running`, or for example `paused`; None: it is not.

        Raises:
            Unavailable: Temporal.
        """
        run = await find_run(self._client, order_id)
        return run.state if run and run.is_open else None

    @activity.defn
    async def claim_undo(self, claim: UndoClaim) -> OrderRow:
        """The first act of an undo: pending -> undoing. An order without a row gets a closed one, the tombstone.

        A row of another payload is returned unchanged: that order is another client's.
        """
        order = claim.order
        async with self._database.transaction() as connection:
            await _insert_tombstone(connection, claim)
            row = await lock_row(connection, order.order_id)
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
            return await lock_row(connection, order.order_id)

    @activity.defn
    async def claim_cancellation(self, order_id: str) -> OrderRow | None:
        """The first act of a customer's cancel: pending -> undoing, or processing -> cancelling, or no change."""
        async with self._database.transaction() as connection:
            await move_row(
                connection,
                order_id,
                Status.PENDING,
                Status.UNDOING,
                "cancelled by the customer",
                closing=Status.CANCELLED,
                error_code=ErrorCode.CANCELLED,
                error=WAS_CANCELLED,
            )
            await move_row(connection, order_id, Status.PROCESSING, Status.CANCELLING, "cancelled by the customer")
            return await read_row(connection, order_id)

    @activity.defn
    async def claim_unreserved(self, order_id: str) -> OrderRow | None:
        """A customer's cancel of an order without a row: it gets a cancelled one, the tombstone.

        None: no run of process-order has that id, or none with a valid order, so there is nothing to cancel. Else the
        run finds the row when it begins, however late: nothing is charged or sent.

        Raises:
            Unavailable: Temporal or PostgreSQL.
        """
        given = await find_input(self._client, PROCESS_ORDER, order_id)
        order = given.order_of(order_id) if given else None
        async with self._database.transaction() as connection:
            if order:
                claim = UndoClaim(
                    order=order.reservation,
                    closing=Status.CANCELLED,
                    error_code=ErrorCode.CANCELLED,
                    error=WAS_CANCELLED,
                )
                await _insert_tombstone(connection, claim)
            return await read_row(connection, order_id)

    @activity.defn
    async def park_order(self, park: Park) -> OrderRow:
        """Mark the row as parked: nothing moves it until an operator resolves the step.

        The row stays as it is if it has a resolution that the run has not seen: the run must read it first. A park that
        does not mark the row is only recorded as an event.
        """
        text = f"parked at {park.step}: {park.reason}"
        async with self._database.transaction() as connection:
            row = await lock_row(connection, park.order_id)
            if not park.marks_row:
                await write_event_once(connection, park.order_id, text)
            elif await connection.fetchval(
                PARK, park.order_id, park.step, park.reason, park.workflow_id, park.resolution_count, BEING_UNDONE
            ):
                await write_event(connection, park.order_id, text)
            return await lock_row(connection, row.id)

    @activity.defn
    async def record_resolution(self, record: ResolutionRecord) -> OrderRow | None:
        """Keep an operator's resolution and remove the mark. Every run that drives the order later acts by it.

        None if the row is not parked at that step: the resolution comes too late and is not kept.
        """
        async with self._database.transaction() as connection:
            row = await lock_row(connection, record.order_id)
            if not await connection.fetchval(IS_KEPT, record.order_id, record.key):
                if record.marks_row and row.parked_step != record.resolution.step:
                    return None
                await _record(connection, record)
            return await lock_row(connection, record.order_id)


async def _insert_tombstone(connection: "Connection", claim: UndoClaim) -> None:
    """Write a closed row, unless the order has a row."""
    order = claim.order
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


async def _record(connection: "Connection", record: ResolutionRecord) -> None:
    order_id, said = record.order_id, record.resolution
    await connection.execute(KEEP_RESOLUTION, order_id, said.step, said.action, said.reason, said.by, record.key)
    await connection.execute(UNPARK, order_id, said.step)
    await write_event(connection, order_id, f"{said.action} of {said.step} by {said.by}: {said.reason}")
