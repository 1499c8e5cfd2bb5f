"""A whole worker in a process of its own that may be killed, forked from one that has imported everything already."""

import asyncio
import json
import multiprocessing
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from temporalio.client import Client
from temporalio.plugin import SimplePlugin
from temporalio.worker import WorkerConfig

from app.wiring import open_worker
from config.logs import configure_logs
from config.settings import Settings
from config.temporal import plugin

IDENTITY: Final = "crashing"

# One server for all workers of this test process; it forks before anybody in it has a thread.
_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload([__name__])


class ShortLived(SimplePlugin):
    """Keeps no run in memory, so that none waits for this worker after its death; starts without hashing all code."""

    def __init__(self) -> None:
        super().__init__("short-lived")

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        config |= {"max_cached_workflows": 0, "build_id": IDENTITY}
        return super().configure_worker(config)


@asynccontextmanager
async def a_crashing_worker(
    client: Client, settings: Settings, task_queue: str, log: Path
) -> AsyncIterator[BaseProcess]:
    """A worker process that serves the queue; gone at the end of the block."""
    address = client.service_client.config.target_host
    crashing = _fork.Process(target=_live, args=(address, client.namespace, settings, task_queue, log))
    crashing.start()
    try:
        yield crashing
    finally:
        crashing.kill()
        await asyncio.to_thread(crashing.join)


def points_of(log: Path) -> list[str]:
    """The crash points that the crashing has passed, oldest first."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["point"] for line in lines if line["event"] == "crash point"]


def _live(address: str, namespace: str, settings: Settings, task_queue: str, log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
    configure_logs("json", "INFO")
    asyncio.run(_work(address, namespace, settings, task_queue))


async def _work(address: str, namespace: str, settings: Settings, task_queue: str) -> None:
    if tests := parent_process():  # that were killed themselves
        asyncio.get_running_loop().add_reader(tests.sentinel, os._exit, 1)
    client = await Client.connect(address, namespace=namespace, plugins=[plugin(), ShortLived()], identity=IDENTITY)
    async with open_worker(settings, client, task_queue=task_queue) as worker:
        await worker.run()
