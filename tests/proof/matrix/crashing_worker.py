"""A worker in its own process that may be killed, forked from a process that has imported everything already."""

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

from config.logs import configure_logs
from config.settings import Settings
from config.temporal import plugin
from worker import open_worker

IDENTITY: Final = "crashing-worker"

# One fork server for all workers of this test process; it forks before it has threads.
_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload([__name__])


class ShortLived(SimplePlugin):
    """Keeps no run in memory, so that no run waits for a dead worker; starts without hashing all code."""

    def __init__(self) -> None:
        super().__init__("short-lived")

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        config |= {"max_cached_workflows": 0, "build_id": IDENTITY}
        return super().configure_worker(config)


@asynccontextmanager
async def crashing_worker(client: Client, settings: Settings, task_queue: str, log: Path) -> AsyncIterator[BaseProcess]:
    """A worker process that serves the queue until the end of the block."""
    address = client.service_client.config.target_host
    worker = _fork.Process(target=_run, args=(address, client.namespace, settings, task_queue, log))
    worker.start()
    try:
        yield worker
    finally:
        worker.kill()
        await asyncio.to_thread(worker.join)


def points_of(log: Path) -> list[str]:
    """The crash points that a worker has passed, oldest first."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["point"] for line in lines if line["event"] == "crash point"]


def _run(address: str, namespace: str, settings: Settings, task_queue: str, log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
    configure_logs("json", "INFO")
    asyncio.run(_work(address, namespace, settings, task_queue))


async def _work(address: str, namespace: str, settings: Settings, task_queue: str) -> None:
    if tests := parent_process():  # end with the test process
        asyncio.get_running_loop().add_reader(tests.sentinel, os._exit, 1)
    client = await Client.connect(address, namespace=namespace, plugins=[plugin(), ShortLived()], identity=IDENTITY)
    async with open_worker(settings, client, task_queue=task_queue) as worker:
        await worker.run()
