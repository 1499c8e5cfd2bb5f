"""The local Temporal server keeps its runs in a file, and registers the search attributes on every start."""

from pathlib import Path

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client, WorkflowExecutionStatus

from deploy.local.process import free_ports
from deploy.local.temporal import TemporalServer


@pytest.mark.prove
async def test_runs_and_search_attributes_survive_a_restart(tmp_path: Path) -> None:
    """A run is still open after a restart, and a new search attribute is registered."""
    port, ui_port = free_ports(2)
    file = tmp_path / "temporal.db"
    first = TemporalServer(file, port, ui_port, logs=tmp_path, search_attributes={"Old": "Keyword"})
    async with first.running():
        client = await Client.connect(first.address)
        await client.start_workflow("anything", id="kept", task_queue="nobody")
    second = TemporalServer(file, port, ui_port, logs=tmp_path, search_attributes={"Old": "Keyword", "New": "Int"})
    async with second.running():
        client = await Client.connect(second.address)
        description = await client.get_workflow_handle("kept").describe()
        assert description.status is WorkflowExecutionStatus.RUNNING
        answer = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))
        assert answer.custom_attributes.keys() >= {"Old", "New"}
