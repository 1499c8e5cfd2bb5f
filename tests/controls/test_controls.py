"""The negative controls fit the code of today, and are judged rightly; `make negative-controls` runs them."""

import ast
import re
from pathlib import Path

import pytest

from deploy.process import ROOT
from tests.controls.bugs import BUGS, Bug, Patch
from tests.controls.trial import Result, judge, read_report, try_bug

TEST = "tests/test_x.py::test_y"
A_BUG = Bug("a_bug", "it is wrong", (), (TEST,))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_fits_the_code_of_today(bug: Bug) -> None:
    """Its patches apply, what comes out is Python, and its tests exist."""
    for patch in bug.patches:
        text = (ROOT / patch.file).read_text()
        assert patch.apply(text) != text
        ast.parse(patch.apply(text))
    for test in bug.caught_by:
        file, _, function = test.partition("::")
        assert re.search(rf"def {function}" if function else "def test_", (ROOT / file).read_text()), test


def test_a_patch_that_does_not_fit_is_refused() -> None:
    """A control that no longer seeds its bug would pass for ever."""
    with pytest.raises(ValueError, match="0 times"):
        Patch("f.py", "gone", "").apply("text")
    with pytest.raises(ValueError, match="2 times"):
        Patch("f.py", "x", "").apply("x x")


@pytest.mark.parametrize(
    ("results", "is_caught"),
    [
        ([Result(f"{TEST}[a]", failed=False, broken=""), Result(f"{TEST}[b]", failed=True, broken="")], True),
        ([Result(TEST, failed=False, broken="")], False),
        ([Result(TEST, failed=False, broken="ImportError")], False),
        ([Result("tests/test_x.py::test_other", failed=True, broken="")], False),
        ([], False),
    ],
    ids=["one case fails", "it passes", "it is broken", "another one fails", "nothing ran"],
)
def test_the_verdict(results: list[Result], *, is_caught: bool) -> None:
    """Caught is only what a test of its own fails for."""
    assert judge(A_BUG, results, 1).is_caught is is_caught


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("", Result(TEST, failed=False, broken="")),
        ('<failure message="assert 1 == 2"/>', Result(TEST, failed=True, broken="")),
        (
            '<failure message="Timeout"/>',
            Result(TEST, failed=False, broken="Timeout"),
        ),
        ('<error message="fixture"/>', Result(TEST, failed=False, broken="fixture")),
    ],
    ids=["passed", "failed", "out of time", "broken"],
)
def test_what_pytest_reports(inside: str, expected: Result) -> None:
    """A time-out and an error before the test are no verdict."""
    report = f'<testsuite><testcase file="tests/test_x.py" name="test_y">{inside}</testcase></testsuite>'
    assert read_report(report) == [expected]


async def test_a_bug_that_harms_nobody_gets_away(tmp_path: Path) -> None:
    """The whole way, with a change that no test can see."""
    harmless = Bug("harmless", "nothing", (), ("tests/orders/test_money.py",))
    verdict = await try_bug(harmless, tmp_path)
    assert not verdict.is_caught
    assert verdict.escaped == ("tests/orders/test_money.py: it passes",)
