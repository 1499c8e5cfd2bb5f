"""Three storms of every commit: whatever is killed, stopped, cut and lied about, nothing is lost."""

import pytest
from rich.console import Console

from activities.evidence import Ledger, OrderEntry
from orders.models import CancelOutcome, ErrorCode, OrderOutcome, Status
from tests.chaos.judge import broken_words
from tests.chaos.plan import draw_plan
from tests.chaos.run import run_chaos


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_is_lost(seed: int) -> None:
    """Every rule holds after 150 orders, and the storm was one."""
    plan = draw_plan(seed, 150, orders_per_blow=3)
    report = await run_chaos(plan, Console(quiet=True))
    assert report.violations == ()
    assert sum(report.blows.values()) + report.missed == len(plan.blows)
    assert report.missed < len(plan.blows) / 4
    assert report.answers["placed"] >= 50
    assert report.stock_checks >= 20
    assert report.replayed > 0


def test_a_seed_is_a_plan() -> None:
    """The same seed draws the same plan, another one another."""
    plan = draw_plan(7, 150, 2)
    assert draw_plan(7, 150, 2) == plan
    assert draw_plan(8, 150, 2).fingerprint != plan.fingerprint


@pytest.mark.parametrize(
    ("moves", "yes"),
    [([], True), ([("pending", "rejected")], True), ([("capturing", "processing")], False)],
    ids=["a yes without an order", "a yes for a rejected order", "a no for a paid order"],
)
def test_a_broken_word_is_seen(moves: list[tuple[str, str]], *, yes: bool) -> None:
    """What a customer was told must be what the order came to."""
    ledger = a_ledger(moves)
    assert [each.subject for each in broken_words(ledger, {"o": [answered(yes)]}, {})] == ["o"]
    assert not [*broken_words(ledger, {"o": [answered(not yes)]}, {})]


def test_a_broken_cancel_is_seen() -> None:
    """Whoever was told that the order is cancelled must find it so."""
    told = {"o": [CancelOutcome(cancelled=True, refunded=True)]}
    assert [*broken_words(a_ledger([("capturing", "processing")]), {}, told)]
    assert not [*broken_words(a_ledger([("capturing", "processing"), ("processing", "cancelled")]), {}, told)]


def answered(yes: bool) -> OrderOutcome:  # noqa: FBT001
    return OrderOutcome(success=yes, order_id="o", error_code=None if yes else ErrorCode.OUT_OF_STOCK)


def a_ledger(moves: list[tuple[str, str]]) -> Ledger:
    """One order that has gone these ways; none, if it went none."""
    order = OrderEntry(
        id="o",
        status=Status(moves[-1][1] if moves else Status.PENDING),
        total=100,
        payment_intent_id=None,
        parked=False,
        age=0,
        unchanged=0,
        notice_deadline=0,
        settled=(),
        notices=(),
        moves=tuple(moves),
    )
    return Ledger(orders=(order,) if moves else (), reservations=(), stock=())
