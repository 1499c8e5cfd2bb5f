"""How much of the stock one customer may hold with orders that are not finished yet."""

from typing import Final, NamedTuple


class Held(NamedTuple):
    """What the unfinished orders of a customer hold."""

    orders: int = 0
    units: int = 0


class HoldLimits(NamedTuple):
    """The most that the unfinished orders of one customer may hold. 0: as much as there is."""

    orders: int = 0
    units: int = 0

    @property
    def are_set(self) -> bool:
        return any(self)

    def excess(self, held: Held, units: int) -> str | None:
        """Why a customer who holds so much cannot have another order of so many units; None if it may."""
        if self.orders and held.orders >= self.orders:
            return f"the customer has {held.orders} unfinished orders, the most is {self.orders}"
        if self.units and held.units + units > self.units:
            had = f" and has {held.units} in unfinished orders" if held.units else ""
            return f"the customer orders {units} units{had}, the most is {self.units}"
        return None


NO_LIMITS: Final = HoldLimits()
