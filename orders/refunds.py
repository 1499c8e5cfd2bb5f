"""Statuses of Stripe's refunds, and what was paid back beside them.

These are the only definitions of the sets: a query takes one as a parameter.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

UNDER_WAY: Final = frozenset({"pending", "requires_action"})
FAILED: Final = frozenset({"failed", "canceled"})
STANDING: Final = UNDER_WAY | {"succeeded"}  # the customer has the money, or will have it
ARRIVING: Final = STANDING - {"requires_action"}  # without the customer's help


class ByHand(NamedTuple):
    """Money that a person pays back: a part that an operator resolved, or a refund in the dashboard.

    `amount` in minor units; `at` is when the part was claimed, or the refund made.
    """

    amount: int
    at: datetime


def paid_elsewhere(resolved: Iterable[ByHand], in_dashboard: Iterable[ByHand]) -> int:
    """How much of the resolved parts the customer has by other means than Stripe, in minor units.

    A refund in the dashboard may be the payment of a part that was claimed before it: Stripe counts that already. An
    earlier one had another reason.
    """
    refunds = [*in_dashboard]
    elsewhere = used = 0
    for part in sorted(resolved, key=lambda each: each.at, reverse=True):  # the fewest refunds can be of the latest
        # Stripe's times have whole seconds.
        later = sum(each.amount for each in refunds if each.at >= part.at.replace(microsecond=0))
        covered = min(part.amount, max(0, later - used))
        used += covered
        elsewhere += part.amount - covered
    return elsewhere
