"""A worker whose workflows and activities run apart, so that a test decides what a run learns in one workflow task."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack

from temporalio.client import Client
from temporalio.worker import Worker, WorkerConfig

from config.temporal import plugin


async def config_in_place_of(whole: Worker) -> WorkerConfig:
    """The configuration for a worker that runs in place of `whole`, which is there, if idle.

    It has a client of its own, because one client takes no two workers for the same work.
    """
    target = whole.client.service_client.config.target_host
    client = await Client.connect(target, namespace=whole.client.namespace, plugins=[plugin()])
    return whole.config() | {"client": client}


class SplitWorker:
    """Workflows can stand still while activities go on."""

    @asynccontextmanager
    async def running(self, whole: Worker) -> AsyncIterator[None]:
        """Run both parts in place of the worker; see tests.support.shop.open_shop."""
        self._config = await config_in_place_of(whole)
        async with Worker(**self._config | {"workflows": []}):
            self._start()
            yield
            await self._stop()

    @asynccontextmanager
    async def workflows_paused(self, **limits: Unpack[WorkerConfig]) -> AsyncIterator[None]:
        """What happens in this block reaches a run afterwards, in one workflow task, of a worker with such limits."""
        await self._stop()
        yield
        self._start(**limits)

    def _start(self, **limits: Unpack[WorkerConfig]) -> None:
        self._workflows = Worker(**self._config | {"no_remote_activities": True} | limits)
        self._task = asyncio.create_task(self._workflows.run())

    async def _stop(self) -> None:
        await self._workflows.shutdown()
        await self._task
