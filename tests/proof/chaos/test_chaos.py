"""Chaos runs lose nothing, whichever processes are killed, stopped or cut off and whichever requests fail."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from audit.evidence import DatabaseSnapshot, OrderEntry, PartialRefund, PaymentEntry, ProviderRecords
from orders.models import CancelOutcome, ErrorCode, OrderOutcome, RefundOutcome, RefundStatus, Status
from orders.names import CANCEL_ORDER, REFUND_ORDER
from tests.proof.chaos.checker import wrong_answers, wrong_refunds
from tests.proof.chaos.plan import FAULTS, RUSH, Execution, draw_plan
from tests.proof.chaos.run import run_chaos

PLACED = [("pending", "capturing"), ("capturing", "processing")]
CANCELLED = [*PLACED, ("processing", "cancelling"), ("cancelling", "cancelled")]


@pytest.mark.prove
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("seed", "execution"), [(1, "regular"), (2, "regular"), (5, "local-first")])
async def test_nothing_is_lost(seed: int, execution: Execution, tmp_path: Path) -> None:
    """Every rule holds after 150 orders with a fault each, and the faults have hit."""
    plan = draw_plan(seed, 150, orders_per_fault=1, execution=execution)
    report = await run_chaos(plan, Console(quiet=True), tmp_path / "evidence")
    assert report.violations == ()
    assert {fault.kind for fault in plan.faults if fault.is_process_fault} <= report.faults.keys() | {"cut postgres"}
    assert report.process_faults >= 50
    assert any(kind.startswith(("terminate", "cancel")) for kind in report.faults)
    assert sum(report.request_faults.values()) >= 80
    assert report.answers["placed"] + report.answers["placed for nothing"] >= 50
    assert report.answers["placed for nothing"]
    assert report.authenticated
    assert report.paid_again
    assert report.statuses["shipped"]
    assert report.answers["refund: yes, succeeded"]
    assert report.parcels >= 5
    assert report.shortages_refunded >= 2
    assert report.stock_checks >= 20
    assert report.replayed == report.runs


def test_a_seed_is_a_plan() -> None:
    """The same seed draws the same plan, another seed another plan."""
    plan = draw_plan(7, 150, 2)
    assert draw_plan(7, 150, 2) == plan
    assert draw_plan(9, 150, 2).fingerprint != plan.fingerprint
    assert (plan.capture, draw_plan(8, 1, 1).capture) == ("manual", "automatic")


def test_one_product_is_wanted_by_most_at_first() -> None:
    """So that workers reserve many orders of it together, and wait for each other's."""
    orders = draw_plan(7, 150, 2).orders
    first, later = orders[:50], orders[50:]
    assert sum(order.product == RUSH for order in first) > len(first) / 2
    assert sum(order.product == RUSH for order in later) < len(later) / 3


def test_each_kind_of_fault_has_a_target() -> None:
    """Each kind is drawn at least once; cancel-order is terminated only for an order that is cancelled."""
    plan = draw_plan(7, 150, 5)
    kinds = {(fault.act, fault.target.partition(".")[0]) for fault in plan.faults if fault.act != "request"}
    assert kinds == {(act, target) for act, target, *_ in FAULTS if act != "request"}
    assert all(plan.orders[fault.order].cancels for fault in plan.faults if fault.target == CANCEL_ORDER)
    assert all(plan.orders[fault.order].refunds for fault in plan.faults if fault.target == REFUND_ORDER)


@pytest.mark.parametrize(
    ("moves", "success"),
    [([], True), ([("pending", "rejected")], True), ([("capturing", "processing")], False)],
    ids=["success without an order", "success of a rejected order", "refusal of a paid order"],
)
def test_a_wrong_answer_is_a_violation(moves: list[tuple[str, str]], *, success: bool) -> None:
    """The answer to a customer must fit the order's end."""
    assert wrong(moves, {"o": [answered(success)]}, {}) == ["o"]
    assert wrong(moves, {"o": [answered(not success)]}, {}) == []


def test_an_answer_with_another_payment_is_a_violation() -> None:
    """The answer must name the payment on the order row."""
    answer = answered(success=True).model_copy(update={"payment_intent": "pi_other"})
    assert wrong(PLACED, {"o": [answer]}, {}) == ["o"]


@pytest.mark.parametrize(
    ("moves", "refunded", "answer"),
    [
        (PLACED, 0, CancelOutcome(cancelled=True, refunded=False)),
        (PLACED, 0, CancelOutcome(cancelled=False, refunded=False, reason="already_shipped")),
        (PLACED, 0, CancelOutcome(cancelled=False, refunded=False, reason="already_cancelled")),
        (CANCELLED, 0, CancelOutcome(cancelled=True, refunded=True)),
        (CANCELLED, 0, CancelOutcome(cancelled=True, refunded=False, reason="refund_pending")),
        (CANCELLED, 100, CancelOutcome(cancelled=True, refunded=False, reason="authorization_voided")),
    ],
    ids=lambda value: value.reason or "cancelled" if isinstance(value, CancelOutcome) else "",
)
def test_a_wrong_cancel_answer_is_a_violation(
    moves: list[tuple[str, str]], refunded: int, answer: CancelOutcome
) -> None:
    """The answer to a cancel must fit the order's end and the refunds."""
    assert wrong(moves, {}, {"o": [answer]}, refunded) == ["o"]


@pytest.mark.parametrize(
    ("moves", "refunded", "answer"),
    [
        (CANCELLED, 100, CancelOutcome(cancelled=True, refunded=True)),
        (CANCELLED, 100, CancelOutcome(cancelled=True, refunded=False, reason="refund_pending")),
        (CANCELLED, 0, CancelOutcome(cancelled=True, refunded=False, reason="authorization_voided")),
        (CANCELLED, 100, CancelOutcome(cancelled=False, refunded=True, reason="already_cancelled")),
        (PLACED, 0, CancelOutcome(cancelled=False, refunded=False, reason="undo_parked")),
        ([], 0, CancelOutcome(cancelled=False, refunded=False, reason="unknown_order")),
    ],
)
def test_a_right_cancel_answer_is_no_violation(
    moves: list[tuple[str, str]], refunded: int, answer: CancelOutcome
) -> None:
    """Answers that fit the order's end and the refunds are accepted."""
    assert wrong(moves, {}, {"o": [answer]}, refunded) == []


@pytest.mark.parametrize(
    ("status", "refunded", "is_wrong"),
    [("made", True, False), ("made", False, True), ("withdrawn", True, True), ("withdrawn", False, False)],
)
def test_a_wrong_answer_about_a_refund_is_a_violation(status: RefundStatus, *, refunded: bool, is_wrong: bool) -> None:
    """The answer to a refund must fit what became of its claim."""
    claim = PartialRefund(
        refund_id="r", amount=1, status=status, restocked=False, settled=None, age=0, at=datetime.now(UTC)
    )
    answers = {"o": [RefundOutcome(refunded=refunded, refund_id="r")]}
    found = [each.subject for each in wrong_refunds(a_snapshot(PLACED, claim), answers)]
    assert found == (["o"] if is_wrong else [])


def wrong(
    moves: list[tuple[str, str]],
    orders: dict[str, list[OrderOutcome]],
    cancels: dict[str, list[CancelOutcome]],
    refunded: int = 0,
) -> list[str]:
    payment = PaymentEntry(
        id="pi_1",
        order="o",
        status="succeeded",
        currency="usd",
        authorized=0,
        captured=100,
        refunded=refunded,
        refund_pending=0,
    )
    records = ProviderRecords(payments=(payment,), fulfillment=())
    return [each.subject for each in wrong_answers(a_snapshot(moves), records, orders, cancels)]


def answered(success: bool) -> OrderOutcome:  # noqa: FBT001
    code = None if success else ErrorCode.OUT_OF_STOCK
    return OrderOutcome(success=success, order_id="o", payment_intent="pi_1" if success else None, error_code=code)


def a_snapshot(moves: list[tuple[str, str]], *refunds: PartialRefund) -> DatabaseSnapshot:
    """One order that has made these moves; no order, if there are none."""
    order = OrderEntry(
        id="o",
        status=Status(moves[-1][1] if moves else Status.PENDING),
        total=100,
        price=100,
        requested=True,
        currency="usd",
        payment_intent_id="pi_1",
        fulfillment_id=None,
        parked=False,
        age=0,
        unchanged=0,
        notification_deadline=0,
        settled=(),
        notifications=(),
        moves=tuple(moves),
        refunds=tuple(refunds),
    )
    return DatabaseSnapshot(orders=(order,) if moves else (), reservations=(), stock=())
