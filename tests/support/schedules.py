"""Schedules belong to a whole server: a test that makes some leaves none behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from temporalio.client import Client
from temporalio.service import RPCError

from client.schedules import SCHEDULES


@asynccontextmanager
async def passing_schedules(client: Client) -> AsyncIterator[None]:
    """There are none before the block, and none after it."""
    await _forget(client)
    yield
    await _forget(client)


async def _forget(client: Client) -> None:
    for scheduled in SCHEDULES:
        with suppress(RPCError):
            await client.get_schedule_handle(scheduled.workflow).delete()
