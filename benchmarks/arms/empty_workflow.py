"""A workflow that does nothing."""

from temporalio import workflow


@workflow.defn(name="empty")
class Empty:
    @workflow.run
    async def run(self) -> None:
        """Return at once."""
