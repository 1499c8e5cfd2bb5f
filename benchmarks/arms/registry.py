"""All arms, in the order of the tables."""

from typing import Final

from benchmarks.arms.arm import Arm, is_installed
from benchmarks.arms.empty import EMPTY
from benchmarks.arms.floor import FLOOR, FLOOR_LOCAL
from benchmarks.arms.naive import NAIVE
from benchmarks.arms.product import PRODUCT

ARMS: Final[tuple[Arm, ...]] = (EMPTY, FLOOR, FLOOR_LOCAL, NAIVE, PRODUCT)


def missing(arm: Arm) -> str:
    """Why an arm cannot run; empty: it can."""
    return "" if not arm.package or is_installed(arm.package) else f"the package {arm.package} is not installed"
