"""Which cases of a long proof `make test` runs; `make prove` runs the others."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest

CaseT = TypeVar("CaseT")


def sampled(cases: Iterable[CaseT], in_sample: Callable[[CaseT], bool]) -> list[Any]:
    """The cases as parameters of a test, all outside of the sample marked for `make prove`."""
    return [pytest.param(case, marks=() if in_sample(case) else pytest.mark.prove) for case in cases]


def before_and_after(activities: Iterable[str]) -> list[Any]:
    """Each activity before and after its effect, as two parameters; `make prove` runs those before it."""
    names = list(activities)
    before = [pytest.param(name, "before", marks=pytest.mark.prove) for name in names]
    return [*before, *((name, "after") for name in names)]
