"""index-products: embed new and changed products, and make them searchable."""

from contextlib import suppress
from datetime import timedelta
from typing import Final

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from activities.product_index import ProductIndex
    from orders.names import INDEX_PRODUCTS, model_queue
    from orders.parsing import parse_nothing
    from orders.recommendations import IndexBatch, IndexProgress
    from saga import STEADY_RETRY, run_activity, within
    from workflows.inputs import parsed
    from workflows.timeline import Timeline

# How long an outage may last. A run that fails loses nothing: the next run goes on from what is stored.
OUTAGE: Final = within(timedelta(hours=1), STEADY_RETRY)

ROUNDS: Final = 3  # for products that are added during the run; the next run embeds later ones


@workflow.defn(name=INDEX_PRODUCTS)
class IndexProducts:
    """One pass over the catalogue. The active index answers queries meanwhile, also while another model's is made."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._progress: IndexProgress | None = None

    @workflow.run
    async def run(self, raw: RawValue = None) -> IndexProgress:  # type: ignore[assignment]
        """Bring the index up to date; the input is `{}`, null or nothing.

        Raises:
            ApplicationError: InvalidInput, naming every field that is not expected.
            ActivityError: the model was out of reach for an hour, refused, or answered with bad vectors.
        """
        progress = _continued(raw)
        if progress is None:
            progress = await run_activity(ProductIndex.plan_index, None, OUTAGE, "plan the index")
        for _ in range(ROUNDS):
            progress = await self._embed(progress)
            active = await run_activity(ProductIndex.activate_index, progress.target, OUTAGE, "activate the index")
            progress = self._enter(progress, after="", finished=active)
            if active:
                break
        return progress

    @workflow.query(description="How far the run is")
    def status(self) -> IndexProgress | None:
        return self._progress

    async def _embed(self, progress: IndexProgress) -> IndexProgress:
        """Embed batch after batch, to the end of the catalogue."""
        after: str | None = progress.after
        options = OUTAGE | {"task_queue": model_queue(workflow.info().task_queue)}
        while after is not None:
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(progress)
            batch = IndexBatch(target=progress.target, after=after)
            done = await run_activity(ProductIndex.embed_batch, batch, options, f"products after {after or 'none'}")
            after = done.last
            progress = self._enter(progress, embedded=progress.embedded + done.embedded, after=after or progress.after)
        return progress

    def _enter(self, progress: IndexProgress, **changes: object) -> IndexProgress:
        self._progress = progress = progress.model_copy(update=changes)
        target = progress.target
        state = "searched" if progress.finished else "not searched yet"
        self._timeline.note(
            f"{progress.embedded} embedded, of {progress.products} products: {target.model}, {target.dimensions} "
            f"dimensions, {state}"
        )
        return progress


def _continued(raw: RawValue | None) -> IndexProgress | None:
    """The progress of the run that continued as this one, if there is one."""
    if raw is not None and workflow.info().continued_run_id:
        with suppress(ValidationError):  # it was not this workflow that continued, but a client's cron or retry
            return IndexProgress.model_validate_json(raw.payload.data)
    parsed(parse_nothing, raw)
    return None
