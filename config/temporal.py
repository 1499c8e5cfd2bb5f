"""The connection to Temporal, and the plugin that worker, clients, tests and replayer share."""

import os

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.plugin import SimplePlugin
from temporalio.worker.workflow_sandbox import SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy

from config.replay_guard import Runner
from orders.errors import NoAnswer


def plugin() -> SimplePlugin:
    """What worker, clients and replayer must agree on.

    The workflow sandbox is strict: the worker refuses to start if workflow code imports a module that is not passed
    through on purpose. No exception type fails a workflow: that would close the run before its undo.
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
    """A client for the environment and profile that the `temporal` command reads too (TEMPORAL_ADDRESS, …).

    Spaces around a value are ignored, as in our own settings.

    Raises:
        NoAnswer: Temporal is out of reach, or the profile cannot be read.
    """
    try:
        environment = {name: value.strip() for name, value in os.environ.items()}
        config = ClientConfig.load_client_connect_config(override_env_vars=environment)
        config.setdefault("target_host", "localhost:7233")
        return await Client.connect(**config, plugins=[plugin()])
    except (RuntimeError, ValueError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise NoAnswer(f"Temporal is out of reach at TEMPORAL_ADDRESS: {first_line}") from None
