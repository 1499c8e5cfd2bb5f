"""starter.py release: what it refuses, and what it shows. tests/proof/releases runs whole releases."""

import pytest

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
