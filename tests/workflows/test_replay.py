"""Runs that are under way must survive a deployment: the code of today replays every recorded history."""

import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from app.wiring import WORKFLOWS
from config.temporal import plugin
from tests.tools.histories import FOLDER, SCENARIOS

HISTORIES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_replays(path: Path) -> None:
    """No command differs from the one that was recorded."""
    text = path.read_text()
    workflow_id = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]["workflowId"]
    history = WorkflowHistory.from_json(workflow_id, text)
    await Replayer(workflows=WORKFLOWS, plugins=[plugin()]).replay_workflow(history)


def test_every_ending_is_recorded() -> None:
    """Every scenario has a history, and every history a scenario."""
    assert {path.name.split(".")[0] for path in HISTORIES} == set(SCENARIOS)
