"""When an order should arrive: a number of business days of its destination for each priority."""

from datetime import date
from typing import Final

import holidays

from orders.models import Delivery, Priority

BUSINESS_DAYS: Final = {Priority.STANDARD: 5, Priority.EXPRESS: 2, Priority.OVERNIGHT: 1}


def estimated_delivery(delivery: Delivery) -> date | None:
    """The day of delivery, counted from the day after the order. None: the country's holidays are not known.

    The first call for a country takes seconds on a busy machine, because the library reads its rules.
    """
    calendar = _calendar(delivery.country, delivery.state)
    if calendar is None:
        return None
    return calendar.get_nth_working_day(delivery.ordered, BUSINESS_DAYS[delivery.priority])


def _calendar(country: str, state: str | None) -> holidays.HolidayBase | None:
    """The holidays and the weekend of a country, and of its state if the library knows that."""
    for known in (state, None):
        try:
            return holidays.country_holidays(country, subdiv=known)
        except NotImplementedError:
            continue
    return None
