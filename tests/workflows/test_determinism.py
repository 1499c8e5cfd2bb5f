"""Workflow code is replayed: nothing in it may answer otherwise the second time. The sandbox and a test check that."""

import ast
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from temporalio.client import WorkflowHandle
from temporalio.common import VersioningBehavior
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from temporalio.workflow import _Definition

from app.wiring import WORKFLOWS, version_of
from config.settings import Settings
from config.temporal import SHARED_MODULES
from tests.support.careless_workflow import Careless
from tests.support.shop import eventually

ROOT: Final = Path(__file__).parents[2]

# Modules, and names in others, whose answers differ when a workflow is replayed.
IMPURE_MODULES: Final = {"random", "secrets", "socket", "subprocess", "tempfile", "threading", "time", "uuid"}
IMPURE_NAMES: Final = {"as_completed", "environ", "now", "to_thread", "today", "urandom", "utcnow"}
PURE: Final = {"workflow.now"}


async def test_the_sandbox_refuses_what_cannot_be_replayed(temporal: WorkflowEnvironment) -> None:
    """The workflow task fails, and names what the code asked for."""
    asked = {"date": "datetime.datetime.now", "time": "time.time", "random": "random.random", "file": "open"}
    start = temporal.client.start_workflow
    async with Worker(temporal.client, task_queue="careless", workflows=[Careless]):
        runs = {what: await start(Careless.run, what, id=f"careless-{what}", task_queue="careless") for what in asked}
        refusals = {what: await eventually(partial(why_its_task_failed, run), what) for what, run in runs.items()}
        for run in runs.values():
            await run.terminate()

    for what, name in asked.items():
        assert name in refusals[what]
        assert "from inside a workflow" in refusals[what]


async def why_its_task_failed(run: WorkflowHandle[Careless, str]) -> str:
    """What the first failed workflow task says; empty: none has failed."""
    for event in (await run.fetch_history()).events:
        if event.HasField("workflow_task_failed_event_attributes"):
            return event.workflow_task_failed_event_attributes.failure.message
    return ""


def test_every_run_moves_to_the_next_version() -> None:
    """A pinned run that waits for an operator would hang once the workers of its build are gone."""
    version = version_of(Settings(temporal_deployment_name="orders", temporal_worker_build_id="1"))
    assert version is not None
    assert version.default_versioning_behavior is VersioningBehavior.AUTO_UPGRADE
    for each in WORKFLOWS:
        own = _Definition.must_from_class(each).versioning_behavior
        assert own in {None, VersioningBehavior.UNSPECIFIED, VersioningBehavior.AUTO_UPGRADE}, each
    assert version_of(Settings()) is None


def test_the_sandbox_loads_workflows_and_shares_all_else() -> None:
    """A module that defines a workflow is loaded for every run; the rest of workflows/ is loaded once."""
    modules = {f"workflows.{path.stem}" for path in (ROOT / "workflows").glob("[!_]*.py")}
    shared = {name for name in SHARED_MODULES if name.startswith("workflows.")}
    assert modules - shared == {each.__module__ for each in WORKFLOWS}


def shared_with_workflows() -> Iterator[Path]:
    """Of activities/, only the modules that declare steps: a workflow calls the functions that a step names."""
    for room in ("orders", "saga", "workflows", "activities"):
        for path in (ROOT / room).glob("*.py"):
            if room != "activities" or " = Step(" in path.read_text():
                yield path


@pytest.mark.parametrize(
    "path",
    list(shared_with_workflows()),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_what_workflows_share_is_deterministic(path: Path) -> None:
    """The sandbox does not look into shared modules: their text must not ask for the time, chance or the machine."""
    assert list(impure(ast.parse(path.read_text()))) == []


def test_the_check_of_shared_modules_sees_every_kind() -> None:
    """An import, a name taken from a module, and a call."""
    text = (
        "import time; from uuid import uuid4; from asyncio import to_thread; datetime.now(); workflow.now(); os.environ"
    )
    assert set(impure(ast.parse(text))) == {"time", "uuid", "to_thread", "datetime.now", "os.environ"}


def impure(tree: ast.Module) -> Iterator[str]:
    """What a module imports or asks that a replay would answer otherwise."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (each.name for each in node.names if each.name.partition(".")[0] in IMPURE_MODULES)
            case ast.ImportFrom(module=str(module)):
                if module.partition(".")[0] in IMPURE_MODULES:
                    yield module
                yield from (each.name for each in node.names if each.name in IMPURE_NAMES)
            case ast.Attribute(attr=name) if name in IMPURE_NAMES and ast.unparse(node) not in PURE:
                yield ast.unparse(node)
