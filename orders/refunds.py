"""Statuses of Stripe's refunds. These are their only definitions: a query takes a set as a parameter."""

from typing import Final

UNDER_WAY: Final = frozenset({"pending", "requires_action"})
FAILED: Final = frozenset({"failed", "canceled"})
STANDING: Final = UNDER_WAY | {"succeeded"}  # the customer has the money, or will have it
ARRIVING: Final = STANDING - {"requires_action"}  # without the customer's help
