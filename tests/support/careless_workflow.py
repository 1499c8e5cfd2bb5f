"""A workflow that makes the mistakes which the sandbox is there to refuse."""

import random
import time
from datetime import datetime
from pathlib import Path

from temporalio import workflow


@workflow.defn
class Careless:
    """Asks what only the machine knows, and would answer otherwise when it is replayed."""

    @workflow.run
    async def run(self, what: str) -> str:
        match what:
            case "date":
                return str(datetime.now())  # noqa: DTZ005 (that is the mistake)
            case "time":
                return str(time.time())
            case "random":
                return str(random.random())  # noqa: S311
        with Path("/etc/hostname").open() as file:  # noqa: ASYNC230
            return file.read()
