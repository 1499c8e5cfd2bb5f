"""Temporal's real development server, once per test run, where the clock of a run can be moved forward."""

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.plugin import SimplePlugin
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy

from saga.tests.agency import LOCAL_FIRST, Agency

TEMPORAL = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")

DYNAMIC_CONFIG = (
    "frontend.WorkflowTimeSkippingEnabled=true",
    # The defaults poll the server's queues so slowly that a step costs 50 ms more, and a timer up to a second.
    "history.transferProcessorMaxPollRPS=2000",
    "history.timerProcessorMaxPollRPS=2000",
    'history.timerProcessorMaxTimeShift="1ms"',
)


def plugin() -> SimplePlugin:
    """Pydantic on the wire, and a strict sandbox: importing a module without passing it through is an error."""
    policy = (
        SandboxImportNotificationPolicy.WARN_ON_DYNAMIC_IMPORT
        | SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
    )
    restrictions = SandboxRestrictions.default.with_import_notification_policy(policy)
    runner = SandboxedWorkflowRunner(restrictions=restrictions)
    return SimplePlugin("saga", data_converter=pydantic_data_converter, workflow_runner=runner)


@pytest.fixture(scope="session")
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    env = await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(enabled=False),
        plugins=[plugin()],
        identity="saga-tests",
        dev_server_existing_path=TEMPORAL,
        dev_server_extra_args=[f"--dynamic-config-value={value}" for value in DYNAMIC_CONFIG],
        dev_server_log_level="error",
    )
    async with env:
        yield env


CACHES = [
    pytest.param({}, id="cached"),
    pytest.param({"max_cached_workflows": 0}, id="replayed at every task", marks=pytest.mark.prove),
]


@pytest.fixture(params=[*CACHES, pytest.param(LOCAL_FIRST, id="local first", marks=pytest.mark.prove)])
async def agency(environment: WorkflowEnvironment, request: pytest.FixtureRequest) -> AsyncIterator[Agency]:
    """Every rule holds for a run in memory, for one that is evicted after every task, and for local attempts."""
    async with open_agency(environment, request.param) as agency:
        yield agency


@pytest.fixture(params=CACHES)
async def regular_agency(environment: WorkflowEnvironment, request: pytest.FixtureRequest) -> AsyncIterator[Agency]:
    """For tests that hold an attempt for longer than a local one may take."""
    async with open_agency(environment, request.param) as agency:
        yield agency


@asynccontextmanager
async def open_agency(environment: WorkflowEnvironment, options: dict[str, Any]) -> AsyncIterator[Agency]:
    agency = Agency(environment)
    async with agency.open(**options):
        yield agency
