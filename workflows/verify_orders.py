"""verify-orders: check the orders of the last days, the stock and the Schedules against the invariants.

It changes nothing. It alerts operators about every violation, once a day as long as it lasts.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.verification import RULES, Verification
    from orders.names import NEEDS_ATTENTION, VERIFY_ORDERS
    from orders.parsing import parse_nothing
    from orders.reconciliation import Problem
    from orders.verification import CheckResult, VerifyReport, Violation
    from saga import raise_if_cancelled, reason, run_activity
    from workflows.alerts import BRIEFLY, alert_operators
    from workflows.inputs import parsed
    from workflows.timeline import Timeline

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")

PAGE: Final = 20  # orders in one attempt, each with up to five calls
MAX_ORDERS: Final = 10_000  # of one run: its history must stay below Temporal's limit
MAX_OUTAGES: Final = 3  # pages in a row; then the rest is not checked
MAX_LISTED: Final = 100  # violations in the report, each with an alert of its own; that there are more must show


@workflow.defn(name=VERIFY_ORDERS)
class VerifyOrders:
    """Checks everything once. A service that is out is no violation: the report says what was not checked."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._checked = 0
        self._violations: list[Violation] = []
        self._unverified: list[str] = []

    @workflow.run
    async def run(self, raw: RawValue = None) -> VerifyReport:  # type: ignore[assignment]
        """Check, and alert operators; the input is `{}`, null or nothing.

        Raises:
            ApplicationError: InvalidInput, naming every field that is not expected.
        """
        parsed(parse_nothing, raw)
        await self._check_stock()
        await self._check_schedules()
        await self._check_orders()
        alerted = await self._alert_operators()
        return VerifyReport(
            checked=self._checked,
            count=len(self._violations),
            violations=tuple(self._violations[:MAX_LISTED]),
            rules=RULES,
            unverified=tuple(self._unverified),
            alerted=alerted,
        )

    async def _check_stock(self) -> None:
        if result := await self._try(Verification.check_stock, MAX_LISTED + 1, "the stock"):
            self._record(result)

    async def _check_schedules(self) -> None:
        if result := await self._try(Verification.check_schedules, MAX_LISTED + 1, "the Schedules"):
            self._record(result)

    async def _check_orders(self) -> None:
        orders = await self._try(Verification.find_verifiable, MAX_ORDERS + 1, "the orders") or ()
        if len(orders) > MAX_ORDERS:
            self._unverified.append(f"the orders before {orders[MAX_ORDERS - 1]}: too many for one run")
        outages = 0
        for start in range(0, min(len(orders), MAX_ORDERS), PAGE):
            if outages == MAX_OUTAGES:
                self._unverified.append(f"all other orders: it was not possible {MAX_OUTAGES} times in a row")
                return
            page = orders[start : start + PAGE]
            result = await self._try(Verification.check_orders, page, f"the orders {page[0]} to {page[-1]}")
            outages = 0 if result else outages + 1
            if result:
                self._checked += result.checked
                self._record(result)
                self._timeline.note(f"{self._checked} of {len(orders)} orders are checked")

    def _record(self, result: CheckResult) -> None:
        self._unverified += result.unverified
        for violation in result.violations:
            self._violations.append(violation)
            self._timeline.note(f"**{violation.text}**")

    async def _alert_operators(self) -> int:
        """Alert about the violations that are listed; the number of alerts that were sent."""
        if not self._violations:
            return 0
        workflow.upsert_search_attributes([NEEDS_ATTENTION.value_set(VERIFY_ORDERS)])
        return len((await alert_operators(_problems(self._violations), self._timeline)).sent)

    async def _try(self, activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, what: str) -> ResultT | None:
        """What the activity found; None if it could not check."""
        try:
            return await run_activity(activity, arg, BRIEFLY, what)
        except ActivityError as error:
            raise_if_cancelled(error)
            self._unverified.append(f"{what}: {reason(error)}")
            self._timeline.note(f"not verified: {what}: {reason(error)}")
            return None


def _problems(violations: Sequence[Violation]) -> list[Problem]:
    """One problem for each subject and rule, however many violations there are."""
    problems: dict[str, Problem] = {}
    for each in violations[:MAX_LISTED]:
        order_id = "" if " " in each.subject else each.subject
        key = f"violation:{each.subject}:{each.rule}"
        problems.setdefault(key, Problem(key=key, order_id=order_id, text=f"an invariant is broken: {each.text}"))
    if len(violations) > MAX_LISTED:
        text = f"invariants are broken {len(violations)} times; {MAX_LISTED} of them have an alert of their own"
        problems["violations"] = Problem(key="violations", order_id="", text=text)
    return list(problems.values())
