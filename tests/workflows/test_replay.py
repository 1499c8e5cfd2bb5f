"""Runs that are under way must survive a deployment: the code of today replays every recorded history."""

from pathlib import Path

import pytest

from tests.tools.histories import FOLDER, SCENARIOS, replay

HISTORIES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_replays(path: Path) -> None:
    """No command differs from the one that was recorded."""
    await replay(path)


def test_every_ending_is_recorded() -> None:
    """Every scenario has a history, and every history a scenario."""
    assert {path.name.split(".")[0] for path in HISTORIES} == set(SCENARIOS)
