"""The one way to Temporal, for worker, client, tests and replayer: the connection, and the plugin that all share."""

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.plugin import SimplePlugin
from temporalio.worker.workflow_sandbox import SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy

from config.replay_guard import Runner


def plugin() -> SimplePlugin:
    """What worker, clients and replayer must agree on.

    Workflow code is sandboxed strictly: a module that is imported without being passed through on purpose is an error
    when the worker starts. No exception type fails a workflow: it would close the run past its undo.
    """
    return SimplePlugin(
        "orders",
        data_converter=pydantic_data_converter,
        workflow_runner=Runner(
            restrictions=SandboxRestrictions.default.with_import_notification_policy(
                SandboxImportNotificationPolicy.WARN_ON_DYNAMIC_IMPORT
                | SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
            )
        ),
    )


async def connect() -> Client:
    """A client by the environment and profile that the `temporal` command uses too (TEMPORAL_ADDRESS, …).

    Raises:
        RuntimeError: nobody answers there.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, plugins=[plugin()])


def workflow_link(ui: str, namespace: str, workflow_id: str, run_id: str | None = None) -> str:
    """The address of a run in the Web UI."""
    path = f"{ui.rstrip('/')}/namespaces/{namespace}/workflows/{workflow_id}"
    return f"{path}/{run_id}/history" if run_id else path


def schedule_link(ui: str, namespace: str, name: str) -> str:
    """The address of a Schedule in the Web UI."""
    return f"{ui.rstrip('/')}/namespaces/{namespace}/schedules/{name}"
