"""The recipe of examples/add_a_step: its patch fits the project of today, is small, and does what the recipe says."""

import os
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

from activities.fulfillment import FULFILL
from activities.inventory import RESERVE
from activities.payments import AUTHORIZE
from deploy.local.process import ROOT
from tests.proof.negative_controls.trial import copy_project, run_tests
from tests.workflows.test_replay import HISTORIES

PATCH: Final = ROOT / "examples" / "add_a_step" / "fraud_review.patch"
README: Final = "examples/add_a_step/README.md"
PRODUCT: Final = ("activities", "app", "config", "orders", "workflows")

CRASHES: Final = "tests/proof/matrix/test_crashes.py"
TESTS: Final = (
    "tests/workflows/test_fraud_review.py",
    "tests/workflows/test_replay.py",
    "tests/workflows/test_shape.py::test_a_happy_order_stays_small",
    "tests/test_house.py::test_every_setting_is_documented",
    "tests/test_house.py::test_every_code_that_callers_get_is_documented",
    "tests/test_house.py::test_every_activity_is_registered",
    "tests/test_house.py::test_the_sandbox_has_every_external_service",
    "tests/test_house.py::test_the_failure_table_names_tests_that_exist",
    f"{CRASHES}::test_the_table_has_every_activity",
    f"{CRASHES}::test_a_worker_dies_and_nothing_is_lost[placed-open_review:effect:1]",
    f"{CRASHES}::test_a_worker_dies_and_nothing_is_lost[refused-close_review:effect:1]",
)

pytestmark = pytest.mark.skipif((ROOT / "activities" / "fraud.py").exists(), reason="the patch is applied here")


def apply_patch(project: Path, *options: str) -> None:
    command = ["git", "apply", "--whitespace=nowarn", *options, str(PATCH)]
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(project.parent)}  # the copy belongs to no repository
    done = subprocess.run(command, cwd=project, env=outside, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        pytest.fail(f"{PATCH.name} does not fit the code of today: see `Refresh the patch` in {README}.\n{done.stderr}")


@pytest.mark.prove
@pytest.mark.timeout(400)
async def test_the_patched_project_does_what_the_recipe_says(tmp_path: Path) -> None:
    """The patch's own tests pass in a copy, and so does the replay of every history from before the step."""
    project = copy_project(tmp_path / "project")
    apply_patch(project)
    results = await run_tests(project, TESTS)
    ran = {result.test.partition("[")[0] for result in results}
    assert {test.partition("[")[0] for test in TESTS if "::" in test} <= ran
    assert sum("test_replays[" in result.test for result in results) == len(HISTORIES)
    assert sum("test_fraud_review.py" in result.test for result in results) >= 9
    assert [result for result in results if result.failed or result.broken] == []


def test_the_patch_fits() -> None:
    """Whoever changes a line beside it hears of it at once."""
    apply_patch(ROOT, "--check")


def test_the_patch_is_small() -> None:
    """Sixty lines in six files of the product; a larger one says that something became hard to extend."""
    lines = defaultdict[str, list[str]](list)
    file = ""
    for line in PATCH.read_text().splitlines():
        if header := re.match(r"diff --git a/(\S+)", line):
            file = header[1]
        elif re.match(r"[+-]\s*\S", line) and not line.startswith(("+++", "---")):
            lines[file].append(line)
    product = {file: changed for file, changed in lines.items() if file.partition("/")[0] in PRODUCT}
    assert len(product) <= 6
    assert sum(map(len, product.values())) <= 60


def test_no_undo_of_an_order_itself_is_independent() -> None:
    """Void and release wait for the warehouse's cancel: goods that have left must be paid for, and are not in stock."""
    assert [step.name for step in (RESERVE, AUTHORIZE, FULFILL) if step.independent] == []
