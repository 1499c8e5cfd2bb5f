"""The worker of one arm: `python -m benchmarks.worker ARM …`, until SIGTERM."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.process import launch
from benchmarks.arms.arm import Arm, Post
from benchmarks.arms.registry import ARMS
from config.settings import Settings


@asynccontextmanager
async def program(settings: Settings, arm: Arm, post: Post) -> AsyncIterator[None]:
    """Work, and say so by the file that WORKER_READY_FILE names."""
    async with arm.worker(settings, post):
        Path(settings.worker_ready_file).touch()  # noqa: ASYNC240 (once)
        yield


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description=__doc__)
    parser.add_argument("arm", choices=[arm.name for arm in ARMS])
    parser.add_argument("--task-queue", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--engine-url", default="")
    given = parser.parse_args()
    chosen = next(arm for arm in ARMS if arm.name == given.arm)
    post = Post(given.task_queue, given.port, given.engine_url)
    launch(f"benchmarks.worker {given.arm}", lambda settings: program(settings, chosen, post))
