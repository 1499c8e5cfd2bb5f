"""What a run measures: the cells of each profile."""

from dataclasses import dataclass
from typing import Final

CART: Final = 3  # items, unless a cell is about the size of the cart
FAR_FROM_SATURATION: Final = 0.7  # the rate of an open loop, as a share of what the arm could do


@dataclass(frozen=True)
class Cell:
    """A load. In a closed loop each of so many customers orders again as soon as the last order is done.

    In an open loop customers come by chance, whether or not earlier orders are done, at a share of the arm's highest
    rate in the closed loops of the same run. Only an open loop shows what one customer waits under load.
    """

    customers: int
    items: int = CART
    is_open: bool = False

    @property
    def name(self) -> str:
        load = f"open loop at {FAR_FROM_SATURATION:.0%}" if self.is_open else _some(self.customers, "customer")
        return f"{load}, {_some(self.items, 'item')}"


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


@dataclass(frozen=True)
class Profile:
    """`seconds` are those of one cell, after `warm_up` seconds; `arms` None: all that can run."""

    name: str
    cells: tuple[Cell, ...]
    rounds: int
    seconds: float
    warm_up: float
    arms: tuple[str, ...] | None = None


QUICK: Final = Profile(
    name="quick",
    cells=(Cell(1), Cell(16), Cell(0, is_open=True)),
    rounds=3,
    seconds=5,
    warm_up=1.5,
    arms=("floor", "naive", "product", "product-local", "product-fast", "no-engine"),
)

FULL: Final = Profile(
    name="full",
    cells=(Cell(1), Cell(16), Cell(64), Cell(1, items=1), Cell(1, items=50), Cell(0, is_open=True)),
    rounds=3,
    seconds=10,
    warm_up=2,
)

PROFILES: Final = {profile.name: profile for profile in (QUICK, FULL)}
