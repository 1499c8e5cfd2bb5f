"""Three chaos runs of every commit: whatever is killed, stopped, cut and lied about, nothing is lost."""

from pathlib import Path

import pytest
from rich.console import Console

from audit.evidence import DatabaseSnapshot, OrderEntry, PaymentEntry, ProviderRecords
from orders.models import CancelOutcome, ErrorCode, OrderOutcome, Status
from orders.names import CANCEL_ORDER
from tests.proof.chaos.checker import broken_words
from tests.proof.chaos.plan import FAULTS, draw_plan
from tests.proof.chaos.run import run_chaos

PLACED = [("pending", "capturing"), ("capturing", "processing")]
CALLED_OFF = [*PLACED, ("processing", "cancelling"), ("cancelling", "cancelled")]


@pytest.mark.prove
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_is_lost(seed: int, tmp_path: Path) -> None:
    """Every rule holds after 150 orders, and the chaos run was one."""
    plan = draw_plan(seed, 150, orders_per_fault=1)
    report = await run_chaos(plan, Console(quiet=True), tmp_path / "evidence")
    assert report.violations == ()
    assert {planned.kind for planned in plan.faults if planned.is_on_a_process} <= report.faults.keys() | {
        "cut postgres"
    }
    assert report.process_faults >= 50
    assert any(kind.startswith(("terminate", "cancel")) for kind in report.faults)
    assert sum(report.request_faults.values()) >= 80
    assert report.answers["placed"] >= 50
    assert report.authenticated
    assert report.statuses["shipped"]
    assert report.stock_checks >= 20
    assert report.replayed == report.runs


def test_a_seed_is_a_plan() -> None:
    """The same seed draws the same plan, another one another."""
    plan = draw_plan(7, 150, 2)
    assert draw_plan(7, 150, 2) == plan
    assert draw_plan(9, 150, 2).fingerprint != plan.fingerprint
    assert (plan.capture, draw_plan(8, 1, 1).capture) == ("manual", "automatic")


def test_each_kind_of_fault_falls_where_it_can_hit() -> None:
    """At least once, if there are enough of them; a cancel's run is terminated where somebody cancels."""
    plan = draw_plan(7, 150, 5)
    kinds = {(planned.act, planned.target.partition(".")[0]) for planned in plan.faults if planned.act != "script"}
    assert kinds == {(act, target) for act, target, *_ in FAULTS if act != "script"}
    assert all(plan.errands[planned.order].cancels for planned in plan.faults if planned.target == CANCEL_ORDER)


@pytest.mark.parametrize(
    ("moves", "yes"),
    [([], True), ([("pending", "rejected")], True), ([("capturing", "processing")], False)],
    ids=["a yes without an order", "a yes for a rejected order", "a no for a paid order"],
)
def test_a_broken_word_is_seen(moves: list[tuple[str, str]], *, yes: bool) -> None:
    """What a customer was told must be what the order came to."""
    assert broken(moves, {"o": [answered(yes)]}, {}) == ["o"]
    assert broken(moves, {"o": [answered(not yes)]}, {}) == []


def test_another_payment_than_was_answered_is_seen() -> None:
    """Whoever asks Stripe for it finds somebody else's."""
    told = answered(yes=True).model_copy(update={"payment_intent": "pi_other"})
    assert broken(PLACED, {"o": [told]}, {}) == ["o"]


@pytest.mark.parametrize(
    ("moves", "refunded", "answer"),
    [
        (PLACED, 0, CancelOutcome(cancelled=True, refunded=False)),
        (PLACED, 0, CancelOutcome(cancelled=False, refunded=False, reason="already_shipped")),
        (PLACED, 0, CancelOutcome(cancelled=False, refunded=False, reason="already_cancelled")),
        (CALLED_OFF, 0, CancelOutcome(cancelled=True, refunded=True)),
        (CALLED_OFF, 0, CancelOutcome(cancelled=True, refunded=False, reason="refund_pending")),
        (CALLED_OFF, 100, CancelOutcome(cancelled=True, refunded=False, reason="authorization_voided")),
    ],
    ids=lambda value: value.reason or "cancelled" if isinstance(value, CancelOutcome) else "",
)
def test_a_broken_cancel_is_seen(moves: list[tuple[str, str]], refunded: int, answer: CancelOutcome) -> None:
    """What whoever cancels was told of the order, and of the money."""
    assert broken(moves, {}, {"o": [answer]}, refunded) == ["o"]


@pytest.mark.parametrize(
    ("moves", "refunded", "answer"),
    [
        (CALLED_OFF, 100, CancelOutcome(cancelled=True, refunded=True)),
        (CALLED_OFF, 100, CancelOutcome(cancelled=True, refunded=False, reason="refund_pending")),
        (CALLED_OFF, 0, CancelOutcome(cancelled=True, refunded=False, reason="authorization_voided")),
        (CALLED_OFF, 100, CancelOutcome(cancelled=False, refunded=True, reason="already_cancelled")),
        (PLACED, 0, CancelOutcome(cancelled=False, refunded=False, reason="undo_parked")),
        ([], 0, CancelOutcome(cancelled=False, refunded=False, reason="unknown_order")),
    ],
)
def test_a_kept_word_is_no_violation(moves: list[tuple[str, str]], refunded: int, answer: CancelOutcome) -> None:
    """So that the others are seen for what they are."""
    assert broken(moves, {}, {"o": [answer]}, refunded) == []


def broken(
    moves: list[tuple[str, str]],
    orders: dict[str, list[OrderOutcome]],
    cancels: dict[str, list[CancelOutcome]],
    refunded: int = 0,
) -> list[str]:
    payment = PaymentEntry(
        id="pi_1", order="o", status="succeeded", authorized=0, captured=100, refunded=refunded, refund_pending=0
    )
    books = ProviderRecords(payments=(payment,), fulfillment=())
    return [each.subject for each in broken_words(a_ledger(moves), books, orders, cancels)]


def answered(yes: bool) -> OrderOutcome:  # noqa: FBT001
    code = None if yes else ErrorCode.OUT_OF_STOCK
    return OrderOutcome(success=yes, order_id="o", payment_intent="pi_1" if yes else None, error_code=code)


def a_ledger(moves: list[tuple[str, str]]) -> DatabaseSnapshot:
    """One order that has gone these ways; none, if it went none."""
    order = OrderEntry(
        id="o",
        status=Status(moves[-1][1] if moves else Status.PENDING),
        total=100,
        payment_intent_id="pi_1",
        parked=False,
        age=0,
        unchanged=0,
        notification_deadline=0,
        settled=(),
        notifications=(),
        moves=tuple(moves),
    )
    return DatabaseSnapshot(orders=(order,) if moves else (), reservations=(), stock=())
