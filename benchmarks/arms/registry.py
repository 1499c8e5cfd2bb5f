"""All arms, in the order of the tables."""

from typing import Final

from benchmarks.arms.arm import Arm, is_installed
from benchmarks.arms.dbos import DBOS_7, DBOS_18
from benchmarks.arms.empty import EMPTY
from benchmarks.arms.floor import FLOOR, FLOOR_LOCAL
from benchmarks.arms.naive import NAIVE
from benchmarks.arms.no_engine import HAND_ROLLED, NO_ENGINE
from benchmarks.arms.product import PRODUCT, PRODUCT_FAST, PRODUCT_LOCAL
from benchmarks.arms.restate import RESTATE_7

ARMS: Final[tuple[Arm, ...]] = (
    EMPTY,
    FLOOR,
    FLOOR_LOCAL,
    NAIVE,
    PRODUCT,
    PRODUCT_LOCAL,
    PRODUCT_FAST,
    NO_ENGINE,
    HAND_ROLLED,
    DBOS_7,
    DBOS_18,
    RESTATE_7,
)


def missing(arm: Arm) -> str:
    """Why an arm cannot run; empty: it can."""
    if arm.package and not is_installed(arm.package):
        return f"the package {arm.package} is not installed: `make bench-peers`"
    return arm.lacks()
