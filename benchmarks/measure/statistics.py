"""Percentiles, and ratios of figures that were measured side by side."""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from statistics import median
from typing import NamedTuple


class Spread(NamedTuple):
    """The median of some values and their range; `count` is how many there are."""

    median: float
    low: float
    high: float
    size: int


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many of the values do not exceed. `share` is between 0 and 1.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def spread(values: Iterable[float]) -> Spread | None:
    """None: there are no values."""
    found = sorted(values)
    return Spread(median(found), found[0], found[-1], len(found)) if found else None


def ratios(figures: Mapping[int, float], references: Mapping[int, float]) -> Spread | None:
    """The figure through the reference, round by round: both are of the same minutes. None: no round has both."""
    both = figures.keys() & references.keys()
    return spread(figures[each] / references[each] for each in both if references[each])
