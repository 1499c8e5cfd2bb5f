"""Which cases of a long proof `make test` runs; `make prove` runs the others."""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import pytest

CaseT = TypeVar("CaseT")

# For fixtures with a shop: every test of theirs runs in both executions of steps.
EXECUTIONS: Final = ["regular", pytest.param("local-first", marks=pytest.mark.prove)]


def sampled(cases: Iterable[CaseT], in_sample: Callable[[CaseT], bool]) -> list[Any]:
    """The cases as parameters of a test, all outside of the sample marked for `make prove`."""
    return [pytest.param(case, marks=() if in_sample(case) else pytest.mark.prove) for case in cases]


def one_in(number: int, cases: Iterable[Any]) -> list[Any]:
    """The cases as parameters of a test, all but the first of each `number` of them marked for `make prove`."""
    return [
        pytest.param(*(case if type(case) is tuple else (case,)), marks=pytest.mark.prove if index % number else ())
        for index, case in enumerate(cases)
    ]


def before_and_after(activities: Iterable[str]) -> list[Any]:
    """Each activity before and after its effect, as two parameters; `make prove` runs those before it."""
    names = list(activities)
    before = [pytest.param(name, "before", marks=pytest.mark.prove) for name in names]
    return [*before, *((name, "after") for name in names)]
