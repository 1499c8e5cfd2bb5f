"""What a PostgreSQL server has flushed and written, from its own counters."""

from typing import Final, NamedTuple

import asyncpg

IO_COUNTS_WAL: Final = 180_000  # the server version from which pg_stat_io counts the flushes of the log

FSYNCS_18: Final = "SELECT coalesce(sum(fsyncs), 0)::bigint FROM pg_stat_io WHERE object = 'wal'"
FSYNCS_15: Final = "SELECT wal_sync FROM pg_stat_wal"
WAL: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"


class Counters(NamedTuple):
    """Of the whole server. A connection reports its flushes up to a second late; the bytes are exact."""

    fsyncs: int
    wal_bytes: int


async def read_counters(connection: asyncpg.Connection) -> Counters:
    version = connection.get_server_version()
    number = version.major * 10_000
    fsyncs = await connection.fetchval(FSYNCS_18 if number >= IO_COUNTS_WAL else FSYNCS_15)
    return Counters(fsyncs, await connection.fetchval(WAL))
