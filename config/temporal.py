"""The connection to Temporal, and the plugin that worker, clients, tests and replayer share."""

import os
from typing import Final

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.plugin import SimplePlugin
from temporalio.worker.workflow_sandbox import SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy

from config.replay_guard import Runner, UnsandboxedRunner
from orders.errors import NoAnswer

# Our modules that keep no state: every run may share them. The sandbox loads a module that defines a workflow for every
# run, and lets it call nothing whose answer differs when it is replayed. A test checks these modules for such calls.
SHARED_MODULES: Final = (
    "activities",
    "orders",
    "saga",
    "workflows.alerts",
    "workflows.inputs",
    "workflows.notifications",
    "workflows.order_saga",
    "workflows.placing_saga",
    "workflows.timeline",
)


def plugin(*, sandbox: bool = True) -> SimplePlugin:
    """What worker, clients and replayer must agree on.

    The workflow sandbox is strict: the worker refuses to start if workflow code imports a module that is not passed
    through on purpose. No exception type fails a workflow: that would close the run before its undo.
    """
    restrictions = SandboxRestrictions.default.with_passthrough_modules(*SHARED_MODULES)
    strict = restrictions.with_import_notification_policy(
        SandboxImportNotificationPolicy.WARN_ON_DYNAMIC_IMPORT
        | SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
    )
    return SimplePlugin(
        "orders",
        data_converter=pydantic_data_converter,
        workflow_runner=Runner(restrictions=strict) if sandbox else UnsandboxedRunner(),
    )


async def connect(*, sandbox: bool = True) -> Client:
    """A client for the environment and profile that the `temporal` command reads too (TEMPORAL_ADDRESS, …).

    `sandbox` is for the workflows of a worker with this client. Spaces around a value are ignored, as in our settings.

    Raises:
        NoAnswer: Temporal is out of reach, or the profile cannot be read.
    """
    try:
        environment = {name: value.strip() for name, value in os.environ.items()}
        config = ClientConfig.load_client_connect_config(override_env_vars=environment)
        config.setdefault("target_host", "localhost:7233")
        return await Client.connect(**config, plugins=[plugin(sandbox=sandbox)])
    except (RuntimeError, ValueError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise NoAnswer(f"Temporal is out of reach at TEMPORAL_ADDRESS: {first_line}") from None
