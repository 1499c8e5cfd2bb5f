"""The connection to Temporal reads the environment as the other settings are read."""

import pytest
from temporalio.testing import WorkflowEnvironment

from config.temporal import connect


async def test_spaces_around_the_address_are_ignored(
    monkeypatch: pytest.MonkeyPatch, temporal: WorkflowEnvironment
) -> None:
    """A value that comes from a file often ends in a newline."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", f" {temporal.client.service_client.config.target_host}\n")
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "default\n")
    assert (await connect()).namespace == "default"
