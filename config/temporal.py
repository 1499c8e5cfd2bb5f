"""The connection to Temporal, how a program that has one ends, and the plugin that every program and test shares."""

import asyncio
import atexit
import os
import sys
import traceback
from collections.abc import Coroutine, Sequence
from typing import Any, Final, NoReturn

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.plugin import SimplePlugin
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.worker.workflow_sandbox import SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy

from config.payload_converter import converter
from config.payload_keys import Key
from config.replay_guard import Runner, UnsandboxedRunner
from config.settings import read_payload_keys, read_trace_settings
from config.streams import flush_streams
from config.temporal_problems import address_problem, connection_problem, profile_problem, setting_problem
from orders.errors import InvalidInput, NoAnswer
from orders.metrics import BUCKETS

CONNECT_SECONDS: Final = 15
INTERRUPTED: Final = 130

# Our modules that keep no state: every run may share them. The sandbox loads a module that defines a workflow for every
# run, and lets it call nothing whose answer differs when it is replayed. A test checks these modules for such calls; of
# `activities`, those that declare steps: of the others, workflows use only names and types.
SHARED_MODULES: Final = (
    "activities",
    "orders",
    "saga",
    "workflows.alerts",
    "workflows.another_card",
    "workflows.inputs",
    "workflows.notifications",
    "workflows.order_saga",
    "workflows.placing_saga",
    "workflows.refund_saga",
    "workflows.timeline",
)


def plugin(*, sandbox: bool = True, keys: Sequence[Key] = ()) -> SimplePlugin:
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
        data_converter=converter(keys),
        workflow_runner=Runner(restrictions=strict) if sandbox else UnsandboxedRunner(),
    )


async def connect(*, sandbox: bool = True, metrics_address: str = "") -> Client:
    """A client for the environment and profile that the `temporal` command reads too (TEMPORAL_ADDRESS, …).

    With PAYLOAD_KEYS in the environment, it encrypts; with OTEL_EXPORTER_OTLP_ENDPOINT, its calls are traced.
    `sandbox` is for the workflows of a worker with this client; `metrics_address` is where this process serves its
    metrics. Spaces around a value are ignored, as in our settings.

    Raises:
        InvalidInput: a variable, the profile or another one is wrong, or the metrics cannot be served there.
        NoAnswer: Temporal is out of reach.
    """
    plugins = [plugin(sandbox=sandbox, keys=read_payload_keys()), *_tracing()]
    environment = {name: value.strip() for name, value in os.environ.items()}
    try:
        config = ClientConfig.load_client_connect_config(override_env_vars=environment)
    except (RuntimeError, ValueError, OSError) as error:
        raise InvalidInput([profile_problem(error, environment)]) from None
    target = config.setdefault("target_host", "127.0.0.1:7233")
    if problem := address_problem(target):
        raise InvalidInput([problem])
    if metrics_address:
        _serve_metrics(metrics_address)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await Client.connect(**config, plugins=plugins)
    except TimeoutError:
        raise NoAnswer(
            f"Temporal is out of reach: {target} gives no answer within {CONNECT_SECONDS} seconds: "
            "check TEMPORAL_ADDRESS and TEMPORAL_TLS"
        ) from None
    except (RuntimeError, ValueError, OSError) as error:
        if problem := setting_problem(error):
            raise InvalidInput([problem]) from None
        raise NoAnswer(connection_problem(error, target, by_tls=bool(config.get("tls")))) from None


def _tracing() -> list[SimplePlugin]:
    """The plugin that traces, if the environment says where traces go: no other program loads OpenTelemetry."""
    settings = read_trace_settings()
    if not settings.otel_exporter_otlp_endpoint:
        return []
    from config.tracing import tracing_plugin  # noqa: PLC0415 (for those programs only)

    return [tracing_plugin(settings.otel_service_name)]


def _serve_metrics(address: str) -> None:
    """Serve the metrics of this process, in Prometheus' own units, from a thread of the SDK. Raises InvalidInput."""
    prometheus = PrometheusConfig(
        bind_address=address,
        counters_total_suffix=True,
        unit_suffix=True,
        durations_as_seconds=True,
        histogram_bucket_overrides=BUCKETS,
    )
    try:
        runtime = Runtime(telemetry=TelemetryConfig(metrics=prometheus, attach_service_name=False))
    except ValueError as error:
        reason = str(error).removeprefix("Failed starting Prometheus exporter: ").partition(" (")[0]
        advice = "Stop the program that uses it, or set another"
        raise InvalidInput([f"METRICS_ADDRESS: {address} cannot be used: {reason}. {advice}"]) from None
    Runtime.set_default(runtime)


def run(program: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Run a program that uses a client, like asyncio.run, and end the process; see `leave`.

    What the program returns is the exit status; None is 0. After an error it is 1, and the traceback is shown.
    """
    try:
        status = asyncio.run(program) or 0
    except SystemExit as asked:
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
        sys.stderr.write(f"{asked.code}\n" if isinstance(asked.code, str) else "")
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception:  # noqa: BLE001 (the interpreter does the same)
        traceback.print_exc()
        status = 1
    leave(status)


def leave(status: int) -> NoReturn:
    """End the process now: `atexit` functions run, threads do not go on.

    A file that is still open, or a thread that is not joined, loses what it has not written: end their blocks before.
    The interpreter's own exit may abort in the SDK's threads, with status 134 (temporalio/sdk-python#300).
    """
    atexit._run_exitfuncs()  # noqa: SLF001 (there is no public name)
    os._exit(flush_streams(status))
