"""Business days are Monday to Friday."""

from datetime import date

import pytest

from orders.delivery import estimated_delivery
from orders.models import Priority

MONDAY, THURSDAY, FRIDAY, SATURDAY, SUNDAY = (date(2026, 11, day) for day in (16, 19, 20, 21, 22))


@pytest.mark.parametrize(
    ("ordered", "priority", "day"),
    [
        (MONDAY, Priority.OVERNIGHT, 17),
        (MONDAY, Priority.EXPRESS, 18),
        (MONDAY, Priority.STANDARD, 23),
        (THURSDAY, Priority.EXPRESS, 23),
        (FRIDAY, Priority.OVERNIGHT, 23),
        (SATURDAY, Priority.OVERNIGHT, 23),
        (SUNDAY, Priority.STANDARD, 27),
    ],
)
def test_estimated_delivery(ordered: date, priority: Priority, day: int) -> None:
    """Days are counted from the day after the order, and skip the weekend."""
    assert estimated_delivery(ordered, priority) == date(2026, 11, day)
