"""Business days are those of the destination."""

from datetime import date

import pytest

from orders.delivery import estimated_delivery
from orders.models import Delivery, Priority

MONDAY, THURSDAY, FRIDAY, SATURDAY, SUNDAY = (date(2026, 11, day) for day in (16, 19, 20, 21, 22))


def estimate(ordered: date, priority: Priority, country: str, state: str | None = None) -> date | None:
    return estimated_delivery(Delivery(ordered=ordered, priority=priority, country=country, state=state))


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
    assert estimate(ordered, priority, "GB") == date(2026, 11, day)


@pytest.mark.parametrize(
    ("ordered", "country", "state", "day"),
    [
        (date(2026, 11, 25), "US", "NY", date(2026, 11, 27)),  # Thanksgiving
        (date(2026, 11, 25), "US", "California", date(2026, 11, 30)),  # and the day after it
        (date(2026, 12, 24), "US", None, date(2026, 12, 28)),
        (date(2026, 12, 24), "GB", None, date(2026, 12, 29)),  # Boxing Day is moved to Monday
        (date(2026, 12, 24), "GE", None, date(2026, 12, 25)),  # Christmas is in January
        (date(2027, 4, 30), "JP", None, date(2027, 5, 6)),  # Golden Week
        (date(2026, 12, 23), "SA", None, date(2026, 12, 24)),
        (date(2026, 12, 24), "SA", None, date(2026, 12, 27)),  # Friday and Saturday are the weekend
        (date(2027, 1, 5), "DE", "BY", date(2027, 1, 7)),  # Epiphany, in Bavaria
        (date(2027, 1, 5), "DE", "Bayern", date(2027, 1, 7)),
        (date(2027, 1, 5), "DE", "Berlin", date(2027, 1, 6)),
        (date(2027, 1, 5), "DE", "no such state", date(2027, 1, 6)),
    ],
)
def test_holidays_of_the_destination(ordered: date, country: str, state: str | None, day: date) -> None:
    """They are no business days, and neither is the weekend of that country; a state that is not known has none."""
    assert estimate(ordered, Priority.OVERNIGHT, country, state) == day


def test_a_country_whose_holidays_are_not_known() -> None:
    """There is no date that could be promised."""
    assert estimate(MONDAY, Priority.STANDARD, "XX") is None
