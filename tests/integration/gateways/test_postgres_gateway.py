"""The errors of PostgreSQL: each is retried, and none quotes a value."""

import asyncio

import pytest
from pydantic import SecretStr

from app.startup_checks import open_database
from config.settings import Settings
from gateways.postgres import LIMIT_LOCKS, Database, open_pool
from orders.errors import Unavailable
from tests.support.activity_bench import ActivityBench, order_of

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"


async def test_a_connection_that_is_cut_is_an_outage(bench: ActivityBench) -> None:
    """Nothing of the transaction is kept; the next attempt has a new connection."""

    async def cut_off() -> None:
        async with bench.database.transaction() as connection:
            await connection.execute("UPDATE inventory SET quantity = 0")
            await kill(bench)
            await connection.execute("SELECT 1")

    with pytest.raises(Unavailable) as outage:
        await cut_off()
    assert outage.value.type == "database_unavailable"
    assert (await bench.reserve(order_of())).status == "pending"


async def test_idle_connections_that_were_cut_lose_no_order(bench: ActivityBench) -> None:
    """After a restart of PostgreSQL at most one attempt fails."""
    await bench.reserve(order_of())
    await kill(bench)
    try:
        row = await bench.reserve(order_of())
    except Unavailable:
        row = await bench.reserve(order_of())

    assert row.status == "pending"
    assert await bench.stock() == (98, 2)


async def test_a_database_that_cannot_be_reached_is_an_outage(database_url: str) -> None:
    """Also while an attempt waits for a connection of the pool."""
    pool = await open_pool(database_url, 1)
    try:
        await pool.close()
        with pytest.raises(Unavailable):
            async with Database(pool).transaction():
                pass
    finally:
        pool.terminate()


@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [
        ("SELECT pg_sleep(9)", Unavailable, "database: QueryCanceledError"),
        (
            "INSERT INTO inventory VALUES ('1', 'secret', 1)",
            Unavailable,
            "database: UniqueViolationError inventory_pkey",
        ),
        (
            "UPDATE inventory SET quantity = -1234567",
            Unavailable,
            "database: CheckViolationError inventory_quantity_check",
        ),
        ("SELECT * FROM no_such_table", Unavailable, "database: UndefinedTableError"),
        ("SELECT 'secret'::integer", Unavailable, "database: InvalidTextRepresentationError"),
    ],
)
async def test_errors_name_what_is_broken_and_quote_nothing(
    bench: ActivityBench, statement: str, error: type[Unavailable], message: str
) -> None:
    """PostgreSQL's message quotes values, ours names only the constraint."""

    async def execute() -> None:
        async with bench.database.transaction() as connection:
            await connection.execute("SET LOCAL statement_timeout = 50")
            await connection.execute(statement)

    with pytest.raises(error) as raised:
        await execute()
    assert raised.value.message == message


async def test_a_deadlock_is_retried(bench: ActivityBench) -> None:
    """Of two transactions that lock in opposite order one fails, and can be retried."""
    both = asyncio.Barrier(2)

    async def lock(first: str, second: str) -> None:
        async with bench.database.transaction() as connection:
            await connection.execute("SET LOCAL deadlock_timeout = 10")
            await connection.execute("SELECT 1 FROM inventory WHERE product_id = $1 FOR UPDATE", first)
            await both.wait()
            await connection.execute("SELECT 1 FROM inventory WHERE product_id = $1 FOR UPDATE", second)

    ends = await asyncio.gather(lock("1", "2"), lock("2", "1"), return_exceptions=True)
    assert [str(end) for end in ends if end] == ["database_unavailable: database: DeadlockDetectedError"]


async def test_a_transaction_that_waits_for_a_lock_soon_gives_its_connection_back(bench: ActivityBench) -> None:
    """The lock is another session's; the attempt is repeated later."""
    async with bench.pool.acquire() as other, other.transaction():
        await other.execute("SELECT 1 FROM inventory WHERE product_id = '1' FOR UPDATE")
        with pytest.raises(Unavailable, match="database_locked"):
            await lock_product(bench)
        with pytest.raises(Unavailable, match="stock_busy"):
            await bench.reserve(order_of())

    assert (await bench.reserve(order_of())).status == "pending"


async def lock_product(bench: ActivityBench) -> None:
    async with bench.database.transaction() as connection:
        await connection.execute(LIMIT_LOCKS)
        await connection.execute("SELECT 1 FROM inventory WHERE product_id = '1' FOR UPDATE")


@pytest.mark.parametrize("kept", [True, False])
async def test_a_pgbouncer_that_tracks_no_statements_needs_none(database_url: str, kept: bool) -> None:  # noqa: FBT001 (a case)
    """The setting says whether a connection keeps prepared statements."""
    settings = Settings(database_url=SecretStr(database_url), database_prepared_statements=kept, database_pool_size=1)
    async with open_database(settings) as database, database.transaction() as connection:
        await connection.fetch("SELECT quantity FROM inventory WHERE product_id = $1", "1")
        assert bool(await connection.fetchval("SELECT count(*) FROM pg_prepared_statements")) is kept


async def test_a_migration_beneath_a_prepared_statement_is_an_outage(database_url: str) -> None:
    """The attempt that meets it is repeated, and the next one succeeds: the driver has forgotten its statements."""
    async with await open_pool(database_url, 1) as pool:
        database = Database(pool)

        async def read() -> object:
            async with database.transaction() as connection:
                return await connection.fetchval("SELECT error FROM orders WHERE id = $1", "o1")

        before = await read()
        await pool.execute("ALTER TABLE orders ALTER error TYPE varchar(9000)")
        with pytest.raises(Unavailable, match="database_unavailable"):
            await read()
        assert await read() == before


async def kill(bench: ActivityBench) -> None:
    """Terminate every connection to the database except this one."""
    async with bench.pool.acquire() as connection:
        await connection.fetch(KILL, connection.get_server_pid())
