"""A pytest plugin, `-p tests.support.groups`: one line for each group of tests, when its last test has ended."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

PARTS = {"integration": 3, "proof": 3}  # folders whose subfolders are groups of their own


def group_of(test: str) -> str:
    """The folder that a test belongs to, e.g. `tests/proof/matrix`."""
    folders = test.partition("::")[0].split("/")[:-1]
    return "/".join(folders[: PARTS.get(folders[1] if len(folders) > 1 else "", 2)])


class Groups:
    """Counts the tests of each group, in the process that reports them."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._began = time.monotonic()
        self._left: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def expect(self, tests: Iterable[str]) -> None:
        self._left = Counter(map(group_of, tests))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:  # none where pytest-xdist distributes them
            self.expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.expect(ids)  # every process collects the same tests

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        group = group_of(report.nodeid)
        self._failed[group] += report.failed
        if report.when == "teardown":
            self._ended[group] += 1
            if self._ended[group] == self._left[group]:
                self._show(group)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """No dot for a test that passed."""
        if report.passed:
            return ("passed" if report.when == "call" else "", "", "")
        return None

    def _show(self, group: str) -> None:
        seconds = time.monotonic() - self._began
        failed = f", {self._failed[group]} failed" if self._failed[group] else ""
        self._terminal.write_line(f"{seconds:5.0f} s  {group}: {self._ended[group]} tests{failed}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Groups(terminal))
