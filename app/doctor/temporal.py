"""What orders need of Temporal, asked with no more rights than a client of one namespace has."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from temporalio.client import Client

from app.doctor.clocks import agree, now
from app.startup_checks import TEMPORAL_CHECKS, CannotAsk, CannotStart, Check
from client.schedules import SCHEDULES, list_schedules
from config.settings import Settings
from gateways import temporal_facts
from gateways.worker_versions import find_deployment
from orders.commands import command_line
from orders.names import TASK_QUEUE, model_queue

MIN_RETENTION: Final = timedelta(days=3)  # an operator looks at a closed run days after it


def temporal_checks(settings: Settings) -> Sequence[Check[Client]]:
    return (
        Check("server", check_server),
        Check("namespace", partial(check_namespace, is_live=settings.is_live)),
        *TEMPORAL_CHECKS,
        Check("clock", check_clock),
        Check("Schedules", partial(check_schedules, settings=settings)),
        Check("workers", check_workers),
        Check("worker version", partial(check_version, deployment=settings.temporal_deployment_name)),
    )


async def check_server(client: Client) -> str:
    config = client.service_client.config
    way = "TLS" if config.tls else "no TLS"
    key = ", with an API key" if config.api_key else ""
    version = await temporal_facts.server_version(client)
    return f"{config.target_host}, {way}{key}, server {version or 'of an unnamed version'}"


async def check_namespace(client: Client, *, is_live: bool) -> str:
    try:
        kept = await temporal_facts.retention(client)
    except temporal_facts.NotForUs as reason:
        raise CannotAsk(f"{client.namespace}; Temporal does not describe it ({reason})") from None
    text = f"{client.namespace} keeps closed runs for {kept.total_seconds() / 86_400:g} days"
    if kept < MIN_RETENTION and is_live:
        raise CannotStart(f"{text}: keep them for {MIN_RETENTION.days} at least, so that operators can look at them")
    return text


async def check_clock(client: Client) -> str:
    before = now()
    theirs = await temporal_facts.server_time(client, TASK_QUEUE)
    return agree(theirs, before, now())


async def check_schedules(client: Client, settings: Settings) -> str:
    every = {each.workflow: each.seconds(settings) for each in SCHEDULES}
    found = await list_schedules(client)
    if missing := [each.name for each in found if not each.applied]:
        raise CannotStart(f"{', '.join(missing)}: not there; run `{command_line('schedules', 'apply')}`")
    if paused := [each.name for each in found if each.paused]:
        raise CannotStart(f"{', '.join(paused)}: paused; run `{command_line('schedules', 'resume', paused[0])}`")
    if other := [each.name for each in found if each.every != every[each.name]]:
        raise CannotStart(
            f"{', '.join(other)}: not as often as the settings say; run `{command_line('schedules', 'apply')}`"
        )
    return f"{len(found)} applied, none paused"


async def check_workers(client: Client) -> str:
    """Every queue must be polled; a worker that has just stopped is counted for some minutes."""
    pollers = Counter(
        {
            f"{TASK_QUEUE} (workflows)": len(await temporal_facts.workflow_pollers(client, TASK_QUEUE)),
            f"{TASK_QUEUE} (activities)": len(await temporal_facts.activity_pollers(client, TASK_QUEUE)),
            f"{model_queue(TASK_QUEUE)} (activities)": len(
                await temporal_facts.activity_pollers(client, model_queue(TASK_QUEUE))
            ),
        }
    )
    if idle := [queue for queue, number in pollers.items() if not number]:
        raise CannotStart(f"no worker polls {', '.join(idle)}: start worker.py, and read its log if it ends")
    return ", ".join(f"{number} on {queue}" for queue, number in pollers.items())


async def check_version(client: Client, *, deployment: str, task_queue: str = TASK_QUEUE) -> str:
    """A version gets nothing until it is released, and nobody gets anything while the current one has no worker."""
    if not deployment:
        return "workers have none"
    found = await find_deployment(client, deployment)
    if found is None:
        raise CannotStart(f"no worker has polled as a version of TEMPORAL_DEPLOYMENT_NAME, {deployment}: start one")
    current = found.current or "workers without a version"
    polling = (await temporal_facts.workflow_pollers(client, task_queue)).count(found.current)
    if not polling:
        release = command_line("release", "to", found.versions[-1].build_id if found.versions else "BUILD_ID")
        raise CannotStart(f"orders go to {current}, and none of them polls: start some, or run `{release}`")
    return f"orders go to {current}, {polling} of which poll"
