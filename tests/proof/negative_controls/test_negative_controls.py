"""The negative controls fit the code of today, and are judged rightly; `make negative-controls` runs them."""

import ast
import re
from io import StringIO
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from rich.console import Console

from deploy.local.process import ROOT
from tests.proof.negative_controls import __main__ as controls
from tests.proof.negative_controls import trial
from tests.proof.negative_controls.bugs import BUGS, Bug, Patch
from tests.proof.negative_controls.trial import Result, Verdict, assess, read_report, try_bug

TEST = "tests/test_x.py::test_y"
DEMANDED = {
    "random_idempotency_key",
    "confirmed_before_kept",
    "undo_registered_late",
    "unshielded_undo",
    "no_tombstone",
    "no_release_on_decline",
    "double_email",
    "lost_update",
    "refund_by_amount",
}
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
        assert re.search(rf"def {function}\(" if function else "def test_", (ROOT / file).read_text()), test


def test_the_classic_mistakes_are_there() -> None:
    """Each by its name, and no name twice."""
    names = [bug.name for bug in BUGS]
    assert set(names) >= DEMANDED
    assert len(names) == len(set(names))


def test_a_patch_that_does_not_fit_is_refused() -> None:
    """A control that no longer seeds its bug would pass for ever."""
    with pytest.raises(ValueError, match="0 times"):
        Patch("f.py", "gone", "").apply("text")
    with pytest.raises(ValueError, match="2 times"):
        Patch("f.py", "x", "").apply("x x")


@pytest.mark.parametrize(
    ("results", "is_caught"),
    [
        ([Result(f"{TEST}[a]", failed="", broken=""), Result(f"{TEST}[b]", failed="assert 1 == 2", broken="")], True),
        ([Result(TEST, failed="", broken="")], False),
        ([Result(TEST, failed="NameError: name 'x' is not defined", broken="")], False),
        ([Result(TEST, failed="", broken="ImportError")], False),
        ([Result(f"{TEST}_as_well", failed="assert 1 == 2", broken="")], False),
        ([], False),
    ],
    ids=[
        "one case fails",
        "it passes",
        "it fails for another reason",
        "it is broken",
        "another one fails",
        "nothing ran",
    ],
)
def test_the_verdict(results: list[Result], *, is_caught: bool) -> None:
    """Caught is only what a test of its own fails for."""
    assert assess(A_BUG, results, 1).is_caught is is_caught


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("", Result(TEST, failed="", broken="")),
        ('<failure message="assert 1 == 2"/>', Result(TEST, failed="assert 1 == 2", broken="")),
        (
            '<failure message="Timeout"/>',
            Result(TEST, failed="", broken="Timeout"),
        ),
        (
            '<failure message="AssertionError: not within 30 s: the order is parked"/>',
            Result(TEST, failed="", broken="AssertionError: not within 30 s: the order is parked"),
        ),
        ('<error message="fixture"/>', Result(TEST, failed="", broken="fixture")),
    ],
    ids=["passed", "failed", "out of time", "out of patience", "broken"],
)
def test_what_pytest_reports(inside: str, expected: Result) -> None:
    """A time-out and an error before the test are no verdict."""
    report = f'<testsuite><testcase file="tests/test_x.py" name="test_y">{inside}</testcase></testsuite>'
    assert read_report(report) == [expected]


@pytest.mark.prove
async def test_a_bug_that_harms_nobody_gets_away(tmp_path: Path) -> None:
    """The whole way, with a change that no test can see."""
    harmless = Bug("harmless", "nothing", (), ("tests/unit/test_money.py",))
    verdict = await try_bug(harmless, tmp_path)
    assert not verdict.is_caught
    assert verdict.missed == ("tests/unit/test_money.py: it passes",)


@pytest.mark.parametrize(
    ("first", "runs", "is_caught"),
    [
        (Result(TEST, failed="", broken="Timeout"), 2, True),
        (Result(TEST, failed="NameError", broken=""), 2, True),
        (Result(TEST, failed="", broken=""), 1, False),
        (Result(TEST, failed="assert 1 == 2", broken=""), 1, True),
    ],
    ids=["out of time", "another reason", "it passes", "it fails"],
)
async def test_tests_that_say_nothing_run_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: Result, *, runs: int, is_caught: bool
) -> None:
    """A bug that a test passes over is no matter of luck, and gets no second chance."""
    run = AsyncMock(side_effect=[[first], [Result(TEST, failed="assert 1 == 2", broken="")]])
    monkeypatch.setattr(trial, "run_tests", run)
    monkeypatch.setattr(trial, "copy_project", lambda target, _source: target)
    assert (await try_bug(A_BUG, tmp_path)).is_caught is is_caught
    assert run.await_count == runs


async def test_a_patch_that_does_not_fit_catches_nothing(tmp_path: Path) -> None:
    """Whoever has changed the code reads which patch to mend."""
    misfit = Bug("misfit", "nothing", (Patch("worker.py", "no such line", ""),), ("tests/unit/test_money.py",))
    verdict = await try_bug(misfit, tmp_path)
    assert verdict.missed == ("worker.py has 0 times, not once: no such line",)


@pytest.mark.prove
async def test_one_that_got_away_fails_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit status is that of the worst bug, and the line says which it is."""
    run_nothing = AsyncMock(return_value=[Result(TEST, failed="", broken="")])
    monkeypatch.setattr(controls, "run_tests", run_nothing)
    caught, away = Verdict(A_BUG, (TEST,), (), 1), Verdict(A_BUG, (), (f"{TEST}: it passes",), 1)
    console = Console(file=StringIO(), record=True, soft_wrap=True)
    monkeypatch.setattr(controls, "try_bug", AsyncMock(side_effect=[caught, away, caught, caught]))
    assert await controls.run_controls([A_BUG, A_BUG], console) == 1
    assert f"missed: a_bug: it is wrong; {TEST}: it passes" in console.export_text()
    assert await controls.run_controls([A_BUG, A_BUG], console) == 0
    run_nothing.return_value = [Result(TEST, failed="assert 1 == 2", broken="")]
    assert await controls.run_controls([A_BUG], console) == 1


@pytest.mark.parametrize("status", [0, 1])
def test_the_exit_status_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """What the gate goes by."""
    monkeypatch.setattr(controls, "run_controls", AsyncMock(return_value=status))
    with pytest.raises(SystemExit) as ended:
        controls.main()
    assert ended.value.code == status
