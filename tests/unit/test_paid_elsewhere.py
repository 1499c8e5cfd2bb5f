"""What operators pay back of parts is counted once: at Stripe, or as paid by other means."""

from datetime import UTC, datetime, timedelta

import pytest

from orders.refunds import ByHand, paid_elsewhere

START = datetime(2026, 11, 1, 12, 0, 0, 500_000, tzinfo=UTC)


def paid(*parts: tuple[int, float]) -> list[ByHand]:
    """Amounts, each so many seconds after the start."""
    return [ByHand(amount, START + timedelta(seconds=at)) for amount, at in parts]


@pytest.mark.parametrize(
    ("resolved", "in_dashboard", "elsewhere"),
    [
        ([], [(30, 0)], 0),
        ([(100, 0)], [], 100),
        ([(100, 0)], [(100, 10)], 0),
        ([(100, 0)], [(130, 10)], 0),
        ([(100, 0)], [(30, 10)], 70),
        ([(100, 60)], [(30, 0)], 100),  # another reason: it was made before
        ([(100, 0)], [(100, -0.5)], 0),  # the same second, which is all that Stripe says
        ([(60, 0), (40, 60)], [(40, 90)], 60),
        ([(60, 0), (40, 60)], [(60, 30), (40, 90)], 0),
        ([(60, 0), (40, 60)], [(100, 30)], 40),
    ],
)
def test_paid_elsewhere(
    resolved: list[tuple[int, float]], in_dashboard: list[tuple[int, float]], elsewhere: int
) -> None:
    """A refund in the dashboard stands for the parts that were claimed before it, and for each amount once."""
    assert paid_elsewhere(paid(*resolved), paid(*in_dashboard)) == elsewhere
    assert paid_elsewhere(paid(*resolved[::-1]), paid(*in_dashboard[::-1])) == elsewhere
