"""When an order should arrive: a number of business days for each priority."""

from datetime import date, timedelta
from typing import Final

from orders.models import Priority

BUSINESS_DAYS: Final = {Priority.STANDARD: 5, Priority.EXPRESS: 2, Priority.OVERNIGHT: 1}
SATURDAY: Final = 5


def estimated_delivery(ordered: date, priority: Priority) -> date:
    """The day of delivery. Business days are Monday to Friday, counted from the day after the order."""
    day, left = ordered, BUSINESS_DAYS[priority]
    while left:
        day += timedelta(days=1)
        left -= day.weekday() < SATURDAY
    return day
