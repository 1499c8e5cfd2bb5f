"""What a happy order may cost, whatever its size."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

import asyncpg
import pytest
from temporalio import activity
from temporalio.testing import WorkflowEnvironment

from gateways.postgres import Database
from tests.support.shop import Shop, open_shop
from tests.tools.shape import measure

if TYPE_CHECKING:
    from gateways.postgres import Connection


@pytest.mark.parametrize("items", [1, 50])
async def test_a_happy_order_stays_small(shop: Shop, items: int) -> None:
    """The answer waits for 5 stages, the notifications are a sixth: the same for one item and for fifty.

    There are 47 events if the two notifications end in the same workflow task.
    """
    shape = await measure(shop, items)

    assert (shape.stages_to_answer, shape.stages, shape.activities, shape.upserts) == (5, 6, 7, 1)
    assert shape.events in {47, 50}


async def test_local_first_it_is_one_workflow_task_and_its_notifications(
    database_url: str, temporal: WorkflowEnvironment
) -> None:
    """The answer waits for no activity; two tasks more if the notifications do not end together."""
    async with open_shop(database_url, temporal, step_execution="local-first") as shop:
        shape = await measure(shop, 50)

    assert (shape.stages_to_answer, shape.stages, shape.activities) == (0, 1, 2)
    assert (shape.workflow_tasks, shape.events) in {(2, 24), (3, 27)}


# A transaction that has locked or written something has an id. Its commit waits for the disk, unless it says not to.
WAITS_FOR_DISK = """
    SELECT pg_current_xact_id_if_assigned() IS NOT NULL AND current_setting('synchronous_commit') <> 'off'
"""


class CountingDatabase(Database):
    """Counts the commits that wait for the disk, by activity, and the statements, without BEGIN and COMMIT."""

    waited: ClassVar[Counter[str]] = Counter()
    statements: ClassVar[Counter[str]] = Counter()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Connection"]:
        async with super().transaction() as connection:
            asked: list[object] = []
            with connection.query_logger(asked.append):
                yield connection
            waits = await connection.fetchval(WAITS_FOR_DISK)  # the logger is called by now
            if activity.in_activity():
                self.statements[activity.info().activity_type] += len(asked)
                self.waited.update([activity.info().activity_type] if waits else [])


async def test_a_happy_order_waits_six_times_for_the_disk(
    database_url: str, temporal: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each thing that must be known before the next may happen; reads and records of deliveries wait not.

    The number of statements is that of one product, too.
    """
    monkeypatch.setattr("app.wiring.Database", CountingDatabase)
    CountingDatabase.waited.clear()
    CountingDatabase.statements.clear()
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        name = await pool.fetchval("SELECT current_database()")
        await pool.execute(f"ALTER DATABASE {name} SET synchronous_commit = on")  # the tests' server has it off
    async with open_shop(database_url, temporal) as shop:
        await measure(shop, 3)

    assert CountingDatabase.waited == {
        "reserve_stock": 1,
        "authorize_payment": 1,
        "request_fulfillment": 2,
        "capture_payment": 1,
        "finalize_order": 1,
    }
    assert CountingDatabase.statements == {
        "reserve_stock": 8,
        "authorize_payment": 3,
        "request_fulfillment": 4,
        "capture_payment": 2,
        "finalize_order": 7,
        "send_email": 6,
        "track_order": 6,
    }
