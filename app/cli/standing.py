"""Where orders stand: what their runs and their rows say, put together."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from app.cli.advice import Advice, advice_about
from app.startup_checks import READER_CHECKS, CannotStart, open_database
from client.runs import Run, StuckRun
from config.settings import Settings
from gateways.postgres import Database
from orders.errors import Unavailable
from orders.models import SETTLED, Attention, View
from orders.names import PAYMENT_WARNING, SWEEPS
from orders.order_report import ListedOrder

# The order's row tells how these ended, whatever became of the run; a step that a shop adds may leave nothing there.
ON_THE_ROW: Final = frozenset(
    {"claim_undo", "claim_cancellation", "cancel_fulfillment", "void_payment", "release_stock", "park_order"}
    | {"capture_payment", "resume_capture", "finalize_order", "read_order"}
)
BY_ITSELF: Final = frozenset({"completed", "failed", "canceled"})  # such a run has settled what it was marked for

ResultT = TypeVar("ResultT")


class Needs(NamedTuple):
    """One thing that needs an operator. `run` is None for an order that is parked while no run drives it."""

    order_id: str | None
    run: Run | None
    attention: Attention
    amount: str | None
    advice: Advice

    @property
    def waits_for_operator(self) -> bool:
        """Whether nothing goes on by itself: an undo is parked, an invariant broken, or an alert could not be posted.

        Not a dispute: the bank decides about it, weeks after operators were alerted and have answered.
        """
        is_of_sweep = self.run is None or self.run.workflow in SWEEPS
        return self.attention.parked or (is_of_sweep and self.attention.what != PAYMENT_WARNING)

    @property
    def json(self) -> dict[str, Any]:
        advice = {"amount": self.amount, "advice": self.advice.text, "command": self.advice.command}
        return self.attention.model_dump(mode="json") | advice


class StandingRun(NamedTuple):
    """A run of an order, what its query answers (None: no worker answers), and what it needs an operator for."""

    run: Run
    view: View | None
    needs: Sequence[Needs]


async def from_database(settings: Settings, read: Callable[[Database], Awaitable[ResultT]]) -> ResultT:
    """What PostgreSQL says.

    Raises:
        CannotStart: it cannot be used; the message says why.
    """
    try:
        async with open_database(settings, checks=READER_CHECKS) as database:
            return await read(database)
    except Unavailable as error:
        raise CannotStart(f"PostgreSQL at DATABASE_URL cannot be used: {error.message}") from error


def standing_run(run: Run, view: View | None, order: ListedOrder | None) -> StandingRun:
    attention = view.attention if view else ()
    if run.needs_attention and not view:
        attention = (Attention(what=run.needs_attention, reason=""),)
    if run.closed:
        attention = tuple(each.of_closed_run() for each in attention)
    return StandingRun(run, view, _needs(run, attention, order))


def standing_runs(
    found: Iterable[StuckRun], named: Mapping[str, ListedOrder], parked: Iterable[ListedOrder]
) -> list[Needs]:
    """What the marked runs need, and the orders that are parked although no marked run says so.

    `named` are the orders of the runs, by their ids, as far as their rows are known.
    """
    of_runs: list[Needs] = []
    for each in found:
        attention = each.attention or (Attention(what=each.run.needs_attention or "", reason=""),)
        dated = (one if one.since else one.model_copy(update={"since": each.since}) for one in attention)
        of_runs += _needs(each.run, dated, named.get(each.run.order_id or ""))
    told = {each.order_id for each in of_runs}
    return [*of_runs, *(without_run(order) for order in parked if order.id not in told)]


def needs_of(order: ListedOrder | None, runs: Iterable[StandingRun]) -> list[Needs]:
    """All that an order needs an operator for: as its runs say, and as its row says where no run does."""
    found = [need for each in runs for need in each.needs]
    unsaid = order is not None and order.parked and order.parked.step not in {each.attention.what for each in found}
    return [*found, without_run(order)] if order and unsaid else found


def without_run(order: ListedOrder) -> Needs:
    """What an order needs that is parked while no run drives it."""
    assert order.parked  # noqa: S101 (the caller looks)
    attention = Attention(what=order.parked.step, reason=order.parked.reason, since=order.parked.since, parked=True)
    return Needs(order.id, None, attention, order.amount, advice_about(None, attention, order))


def _needs(run: Run, attention: Iterable[Attention], order: ListedOrder | None) -> list[Needs]:
    known = (_as_the_row_says(run, each, order) for each in attention)
    return [
        Needs(run.order_id, run, each, each.amount or (order.amount if order else None), advice_about(run, each, order))
        for each in known
        if not _is_over(run, each, order)
    ]


def _as_the_row_says(run: Run, attention: Attention, order: ListedOrder | None) -> Attention:
    """Where no worker answers, or the run is gone, the row still tells that the order is parked, and why."""
    if attention.parked or order is None or order.parked is None or order.parked.step != attention.what:
        return attention
    said = {"reason": attention.reason or order.parked.reason, "since": order.parked.since, "parked": True}
    return attention.model_copy(update=said | ({} if run.closed else {"actions": ("retry",)}))


def _is_over(run: Run, attention: Attention, order: ListedOrder | None) -> bool:
    """Whether what a closed run is marked for has been settled: by itself, or by another run, as the row says.

    A message that was given up stays, and a step that the row does not tell of, if its run was ended from outside.
    """
    if not run.closed or order is None or attention.what.startswith("notification:"):
        return False
    is_told = attention.what in ON_THE_ROW or run.state in BY_ITSELF
    return is_told and order.status in SETTLED and order.parked is None
