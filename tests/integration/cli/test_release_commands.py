"""starter.py release: what it refuses, and what it shows. tests/proof/releases runs whole releases."""

from typing import Any

import pytest

from app.cli.command import Exit
from app.cli.release import result_of
from client.releases import Released
from tests.integration.cli.conftest import Starter


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("to", "2", "--deployment", "d", "--ramp", "50,10"), "--ramp: must be growing numbers between 0 and 100"),
        (("to", "2", "--deployment", "d", "--ramp", "half"), "--ramp: must be growing numbers between 0 and 100"),
        (("to", "2"), "TEMPORAL_DEPLOYMENT_NAME is not set: give the deployment as --deployment NAME"),
        (("rollback",), "TEMPORAL_DEPLOYMENT_NAME is not set: give the deployment as --deployment NAME"),
    ],
)
async def test_bad_input_is_refused(starter: Starter, arguments: tuple[str, ...], message: str) -> None:
    """Before anything is connected; the message says what to write."""
    said = await starter("release", *arguments)
    assert said.status == 2, said
    assert message in said.err


async def test_a_deployment_that_is_not_there(starter: Starter) -> None:
    """The message names the setting that makes one."""
    said = await starter("release", "status", "--deployment", "nobody")
    assert (said.status, said.err) == (
        1,
        "no worker has ever polled as a version of nobody: see TEMPORAL_DEPLOYMENT_NAME\n",
    )


@pytest.mark.parametrize(
    ("found", "to", "by_hand"),
    [
        ({"state": "released"}, Exit.DONE, Exit.DONE),
        ({"state": "rolled_back"}, Exit.FAILED, Exit.DONE),
        ({"state": "rolled_back", "failing": ("order-1",)}, Exit.NEEDS_OPERATOR, Exit.NEEDS_OPERATOR),
        ({"state": "rolled_back", "unanswered": ("order-1",)}, Exit.NEEDS_OPERATOR, Exit.NEEDS_OPERATOR),
    ],
)
def test_the_exit_status_tells_whether_runs_were_left_behind(found: dict[str, Any], to: Exit, by_hand: Exit) -> None:
    """Of a release, and of a rollback by hand."""
    released = Released.model_validate({"deployment": "d", "current": "1"} | found)
    assert (result_of(released).status, result_of(released, Exit.DONE).status) == (to, by_hand)
