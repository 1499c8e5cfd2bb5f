"""Puts a bug into a copy of the project, runs the tests that must catch it, and says what came of it."""

import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET

from deploy.local.process import ROOT, Command, running
from tests.proof.negative_controls.bugs import Bug

IGNORED: Final = shutil.ignore_patterns(".*", "__pycache__")
# As pytest-timeout and `eventually` say it: no verdict on anything.
OUT_OF_TIME: Final = ("Timeout", "AssertionError: not within")


class Verdict(NamedTuple):
    """`caught_by` are the tests that failed, `missed` those that should have, and why they did not."""

    bug: Bug
    caught_by: tuple[str, ...]
    missed: tuple[str, ...]
    seconds: float

    @property
    def is_caught(self) -> bool:
        return not self.missed


class Result(NamedTuple):
    """One test case: the message with which it `failed`, or what has `broken` it before it could say anything."""

    test: str
    failed: str
    broken: str


async def try_bug(bug: Bug, folder: Path, source: Path = ROOT) -> Verdict:
    """Run the tests against the bug, in a copy of `source` below `folder`. A patch that does not fit gets away.

    Tests that fail for another reason than the bug's have said nothing of it: they run once more.
    """
    began = time.monotonic()
    project = copy_project(folder / bug.name, source)
    try:
        for patch in bug.patches:
            file = project / patch.file
            file.write_text(patch.apply(file.read_text()))
    except ValueError as misfit:
        return Verdict(bug, (), (str(misfit),), time.monotonic() - began)
    results = await run_tests(project, bug.caught_by)
    if assess(bug, results, 0).missed and any(each.failed or each.broken for each in results):
        results = await run_tests(project, bug.caught_by)
    return assess(bug, results, time.monotonic() - began)


def assess(bug: Bug, results: Iterable[Result], seconds: float) -> Verdict:
    """Every test of the bug must have failed, in one of its cases, and for the bug's own reason."""
    caught: list[str] = []
    missed: list[str] = []
    for test in bug.caught_by:
        mine = [
            each for each in results if test in (each.test, each.test.partition("[")[0], each.test.partition("::")[0])
        ]
        if any(re.search(bug.because, each.failed) for each in mine if each.failed):
            caught.append(test)
        else:
            why = [each.failed or each.broken for each in mine if each.failed or each.broken]
            missed.append(f"{test}: {(why or ['it passes' if mine else 'it did not run'])[0]}")
    return Verdict(bug, tuple(caught), tuple(missed), seconds)


def copy_project(target: Path, source: Path = ROOT) -> Path:
    """The project as it is now, without what a command can make again."""
    shutil.copytree(source, target, ignore=IGNORED)
    return target


async def run_tests(project: Path, tests: Iterable[str]) -> list[Result]:
    """The cases of these tests, run with this interpreter in that folder."""
    report = project.with_name(f"{project.name}.xml")
    options = (
        "-q",
        "-m",
        "",
        "--timeout=90",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        "-o",
        "junit_family=xunit1",
    )
    command = Command(
        name="The tests",
        argv=(sys.executable, "-m", "pytest", *options, *tests),
        log=project / "pytest.log",
        cwd=project,
        stop_signal=signal.SIGINT,  # at which pytest still stops the servers of its fixtures
        grace=60,
    )
    async with running(command) as child:
        await child.wait()
    return read_report(report.read_text()) if report.exists() else []


def read_report(text: str) -> list[Result]:
    """What pytest says in its XML."""
    return [_result(case) for case in ET.fromstring(text).iter("testcase")]  # noqa: S314  our own pytest's


def _result(case: ET.Element) -> Result:
    test = f"{case.get('file')}::{case.get('name')}"
    failure = case.find("failure")
    flaw = failure if failure is not None else case.find("error")
    message = "" if flaw is None else flaw.get("message", "")[:200] or "it says nothing"
    if failure is not None and not any(words in message for words in OUT_OF_TIME):
        return Result(test, failed=message, broken="")
    return Result(test, failed="", broken=message)
