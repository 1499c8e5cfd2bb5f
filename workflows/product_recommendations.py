"""product-recommendations: recommend products to a customer, with or without the language model."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.recommendations import Recommendations
    from orders.names import PRODUCT_RECOMMENDATIONS, model_queue
    from orders.parsing import parse_customer
    from orders.recommendations import (
        KEY_REFUSED,
        MODEL_SUSPENDED,
        WANTED,
        Choice,
        Ranking,
        Recommendation,
        RecommendationsOutcome,
        Source,
        reason_for,
    )
    from saga import FAST_RETRY, raise_if_cancelled, run_activity, within
    from workflows.inputs import parsed
    from workflows.timeline import Timeline

CHOOSE: Final = within(timedelta(minutes=5))
MAX_REQUESTS: Final = 2  # to the model, for a usable answer

# No customer waits until an operator replaces a refused key, or until a model that is out may be asked again.
MODEL_RETRY: Final = replace(FAST_RETRY, non_retryable_error_types=[KEY_REFUSED, MODEL_SUSPENDED])


@workflow.defn(name=PRODUCT_RECOMMENDATIONS)
class ProductRecommendations:
    """The recommendations for one customer. Without the model they have another order and other reasons."""

    def __init__(self) -> None:
        self._timeline = Timeline()

    @workflow.run
    async def run(self, raw: RawValue = None) -> RecommendationsOutcome:  # type: ignore[assignment]
        """Recommend products to the customer that the input names; see orders.parsing.CustomerRequest.

        Raises:
            ApplicationError: InvalidInput, naming every field that is wrong.
        """
        customer_id = parsed(parse_customer, raw).customer_id
        choice = await run_activity(Recommendations.choose_candidates, customer_id, CHOOSE, "choose candidates")
        outcome = await self._recommend(choice)
        why = f", because {outcome.fallback}" if outcome.fallback else ""
        self._timeline.note(f"{len(outcome.recommendations)} products, ordered by {outcome.source}{why}")
        return outcome

    async def _recommend(self, choice: Choice) -> RecommendationsOutcome:
        if choice.source is Source.POPULAR:
            return RecommendationsOutcome(recommendations=_by_similarity(choice), source=Source.POPULAR)
        ranking = await self._rank(choice)
        if ranking.problem:
            return RecommendationsOutcome(
                recommendations=_by_similarity(choice), source=Source.SIMILARITY, fallback=ranking.problem
            )
        return RecommendationsOutcome(recommendations=ranking.recommendations, source=Source.MODEL)

    async def _rank(self, choice: Choice) -> Ranking:
        """The model's ranking; `problem` says why there is none."""
        if choice.deadline is None:
            return Ranking(problem="there is no key for the model")
        end = workflow.now() + timedelta(seconds=choice.deadline)
        queue = model_queue(workflow.info().task_queue)
        problem = None
        for _ in range(MAX_REQUESTS):
            if (left := end - workflow.now()) <= timedelta():
                break
            try:
                ranking = await run_activity(
                    Recommendations.rank_candidates,
                    choice,
                    within(left, MODEL_RETRY) | {"task_queue": queue},
                    "ask the model",
                )
            except ActivityError as error:
                raise_if_cancelled(error)
                return Ranking(problem=f"the model did not answer: {_innermost_reason(error)}")
            if ranking.problem is None:
                return ranking
            problem = ranking.problem
            self._timeline.note(f"the answer of the model was not usable: {problem}")
        return Ranking(problem=f"the answer of the model was not usable: {problem}")


def _by_similarity(choice: Choice) -> list[Recommendation]:
    return [
        Recommendation(product_id=candidate.product_id, name=candidate.name, reason=reason_for(candidate))
        for candidate in choice.candidates[:WANTED]
    ]


def _innermost_reason(error: BaseException) -> str:
    """The innermost cause: for an activity that ran out of time, the error of its last attempt, if there is one."""
    while error.__cause__:
        error = error.__cause__
    return error.message if isinstance(error, ApplicationError) else "out of time"
