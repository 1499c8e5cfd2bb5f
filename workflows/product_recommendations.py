"""product-recommendations: a few products that a customer may like, with or without the language model."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.recommendations import Recommendations
    from orders.names import PRODUCT_RECOMMENDATIONS
    from orders.parsing import parse_customer
    from orders.recommendations import (
        KEY_REFUSED,
        WANTED,
        Candidate,
        Choice,
        Ranking,
        Recommendation,
        RecommendationsOutcome,
        Source,
        shorten,
    )
    from workflows.inputs import parsed
    from workflows.steps import FAST_RETRY, raise_if_cancelled, step, within
    from workflows.timeline import Timeline

CHOOSE: Final = within(timedelta(minutes=5))
ASKS: Final = 2  # of the model, for an answer that can be used

# A refused key heals when somebody mends it, which no customer waits for.
IMPATIENT: Final = replace(FAST_RETRY, non_retryable_error_types=[KEY_REFUSED])


@workflow.defn(name=PRODUCT_RECOMMENDATIONS)
class ProductRecommendations:
    """One customer's recommendations. An outage of the model changes their order and reasons, and nothing else."""

    def __init__(self) -> None:
        self._timeline = Timeline()

    @workflow.run
    async def run(self, raw: RawValue = None) -> RecommendationsOutcome:  # type: ignore[assignment]
        """Recommend products to the customer that the input names; see orders.parsing.CustomerRequest.

        Raises:
            ApplicationError: InvalidInput, naming every field that is wrong.
        """
        customer_id = parsed(parse_customer, raw).customer_id
        choice = await step(Recommendations.choose_candidates, customer_id, CHOOSE, "what may they like?")
        outcome = await self._recommend(choice)
        why = f", for {outcome.fallback}" if outcome.fallback else ""
        self._timeline.tell(f"{len(outcome.recommendations)} products, in the order of: {outcome.source}{why}")
        return outcome

    async def _recommend(self, choice: Choice) -> RecommendationsOutcome:
        if choice.source is Source.POPULAR:
            return RecommendationsOutcome(recommendations=_as_they_come(choice), source=Source.POPULAR)
        ranking = await self._rank(choice)
        if ranking.problem:
            return RecommendationsOutcome(
                recommendations=_as_they_come(choice), source=Source.SIMILARITY, fallback=ranking.problem
            )
        return RecommendationsOutcome(recommendations=ranking.recommendations, source=Source.MODEL)

    async def _rank(self, choice: Choice) -> Ranking:
        """The model's choice, or in `problem` why there is none."""
        if choice.deadline is None:
            return Ranking(problem="there is no key for the model")
        end = workflow.now() + timedelta(seconds=choice.deadline)
        problem = None
        for _ in range(ASKS):
            if (left := end - workflow.now()) <= timedelta():
                break
            try:
                ranking = await step(Recommendations.rank_candidates, choice, within(left, IMPATIENT), "ask the model")
            except ActivityError as error:
                raise_if_cancelled(error)
                return Ranking(problem=f"the model did not answer: {_last_words(error)}")
            if ranking.problem is None:
                return ranking
            problem = ranking.problem
            self._timeline.tell(f"the answer of the model was of no use: {problem}")
        return Ranking(problem=f"the answer of the model was of no use: {problem}")


def _as_they_come(choice: Choice) -> list[Recommendation]:
    return [
        Recommendation(product_id=candidate.product_id, name=candidate.name, reason=_plain(candidate))
        for candidate in choice.candidates[:WANTED]
    ]


def _plain(candidate: Candidate) -> str:
    return (
        shorten(f"Similar to {candidate.near}, which you bought.")
        if candidate.near
        else "Popular with other customers."
    )


def _last_words(error: BaseException) -> str:
    """The innermost cause: of an activity that ran out of time, what its last attempt said, if it said anything."""
    while error.__cause__:
        error = error.__cause__
    return error.message if isinstance(error, ApplicationError) else "out of time"
