"""verify-orders: judge the orders of the last days, and the stock, by rules that must hold whatever happened.

It changes nothing. A person is told of every violation, once a day as long as it lasts.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.invariants import IN_OPERATION, words
    from activities.verification import Verification
    from orders.intake import parse_nothing
    from orders.reconciliation import Problem
    from orders.temporal import NEEDS_ATTENTION, VERIFY_ORDERS
    from orders.verification import Judgement, VerifyReport, Violation
    from workflows.alerts import PATIENCE, tell_people
    from workflows.inputs import parsed
    from workflows.progress import Story
    from workflows.saga import reason
    from workflows.steps import step, unless_cancelled

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")

PAGE: Final = 20  # orders in one attempt, each with up to five calls
MOST_ORDERS: Final = 10_000  # of one run: its history must not outgrow Temporal's limit
MOST_OUTAGES: Final = 3  # pages in a row, then the rest is not tried
MOST_LISTED: Final = 100  # violations in the answer; a person is told of each


@workflow.defn(name=VERIFY_ORDERS)
class VerifyOrders:
    """One look at everything. An outage of a neighbour is no violation: the answer says what nobody could look at."""

    def __init__(self) -> None:
        self._story = Story()
        self._checked = 0
        self._violations: list[Violation] = []
        self._unverified: list[str] = []

    @workflow.run
    async def run(self, raw: RawValue = None) -> VerifyReport:  # type: ignore[assignment]
        """Judge, and tell; the input is `{}`, null or nothing.

        Raises:
            ApplicationError: InvalidInput, naming every field that is there all the same.
        """
        parsed(parse_nothing, raw)
        await self._judge_stock()
        await self._judge_orders()
        alerted = await self._tell_people()
        return VerifyReport(
            checked=self._checked,
            count=len(self._violations),
            violations=tuple(self._violations[:MOST_LISTED]),
            rules={rule.__name__: words(rule) for rule in IN_OPERATION},
            unverified=tuple(self._unverified),
            alerted=alerted,
        )

    async def _judge_stock(self) -> None:
        if judged := await self._try(Verification.judge_stock, MOST_LISTED, "the stock"):
            self._hear(judged)

    async def _judge_orders(self) -> None:
        orders = await self._try(Verification.find_verifiable, MOST_ORDERS + 1, "the orders") or ()
        if len(orders) > MOST_ORDERS:
            self._unverified.append(f"the orders before {orders[MOST_ORDERS - 1]}: too many for one run")
        outages = 0
        for start in range(0, min(len(orders), MOST_ORDERS), PAGE):
            if outages == MOST_OUTAGES:
                self._unverified.append(f"all other orders: {MOST_OUTAGES} times in a row it was not possible")
                return
            page = orders[start : start + PAGE]
            judged = await self._try(Verification.judge_orders, page, f"the orders {page[0]} to {page[-1]}")
            outages = 0 if judged else outages + 1
            if judged:
                self._checked += judged.checked
                self._hear(judged)
                self._story.tell(f"{self._checked} orders are judged, of {len(orders)}")

    def _hear(self, judged: Judgement) -> None:
        for violation in judged.violations:
            self._violations.append(violation)
            self._story.tell(f"**{violation.text}**")

    async def _tell_people(self) -> int:
        """Of the violations that are listed; the rest is a number."""
        if not self._violations:
            return 0
        workflow.upsert_search_attributes([NEEDS_ATTENTION.value_set(VERIFY_ORDERS)])
        return len((await tell_people(_problems(self._violations), self._story)).told)

    async def _try(self, activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, what: str) -> ResultT | None:
        """What the activity found; None if it could not look."""
        try:
            return await step(activity, arg, PATIENCE, what)
        except ActivityError as error:
            unless_cancelled(error)
            self._unverified.append(f"{what}: {reason(error)}")
            self._story.tell(f"not verified: {what}: {reason(error)}")
            return None


def _problems(violations: Sequence[Violation]) -> list[Problem]:
    """One for each order or product and rule, however much there is to say of them."""
    problems: dict[str, Problem] = {}
    for each in violations[:MOST_LISTED]:
        order_id = "" if each.subject.startswith("product ") else each.subject
        key = f"violation:{each.subject}:{each.rule}"
        problems.setdefault(key, Problem(key=key, order_id=order_id, text=f"an invariant is broken: {each.text}"))
    if len(violations) > MOST_LISTED:
        text = f"invariants are broken {len(violations)} times; {MOST_LISTED} of them are told one by one"
        problems["violations"] = Problem(key="violations", order_id="", text=text)
    return list(problems.values())
