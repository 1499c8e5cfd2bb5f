"""Prints one line for each folder of tests when its last test ends, and each failure at once.

pytest -p tests.support.progress
"""

import time
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import PurePath
from typing import Any, Final

import pytest

MAX_SILENCE: Final = 60  # seconds until a line says how many tests have ended


@pytest.hookimpl(trylast=True)  # when there is a terminal
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the controller of pytest-xdist prints, its workers do not
        config.pluginmanager.register(Progress(config.pluginmanager))


def group_of(test: str) -> str:
    """The folder of a test, without the part of the path that all folders share."""
    folders = PurePath(test.partition("::")[0]).parent.parts
    return "/".join(folder for folder in folders if folder != "tests") or "tests"


class Progress:
    """Counts the tests that each folder still has to run."""

    def __init__(self, plugins: pytest.PytestPluginManager) -> None:
        self._plugins = plugins
        self._total: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._began = self._printed = time.monotonic()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._total = Counter(group_of(item.nodeid) for item in session.items) or self._total

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self._total = Counter(map(group_of, ids))  # every node collects all tests

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        group = group_of(report.nodeid)
        if report.failed:
            self._failed[group] += 1
            self._print(f"✗ {report.nodeid}")
        if report.when in {"setup", "call"}:
            return
        self._ended[group] += 1
        if self._ended[group] == self._total[group]:
            failed = f", {self._failed[group]} failed" if self._failed[group] else ""
            self._print(f"{'✗' if failed else '✓'} {group}: {self._ended[group]} tests{failed}")
        elif time.monotonic() - self._printed > MAX_SILENCE:
            self._print(f"… {self._ended.total()} of {self._total.total()} tests")

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, tuple[str, str, Any], tuple[str, str, Any]]:
        """Print no letter for a test."""
        category, _, _ = yield
        return category, "", ""

    def _print(self, text: str) -> None:
        self._printed = time.monotonic()
        minutes, seconds = divmod(int(self._printed - self._began), 60)
        if terminal := self._plugins.get_plugin("terminalreporter"):
            terminal.write_line(f"{minutes:2}:{seconds:02}  {text}")
