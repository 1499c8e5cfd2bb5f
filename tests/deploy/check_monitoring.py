"""make check-monitoring: a real Prometheus and a real Alertmanager judge metrics, alerts and dashboards.

It checks the files, then runs the demo and looks for every metric that an alert or a dashboard names. It parks an order
and kills the worker, sees both arrive in the sandbox's Slack, repairs both, and sees that too. About five minutes.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from deploy.local.monitoring import FILES, INSTALL, Monitoring, missing_programs
from deploy.local.process import ROOT, Child, Command, running
from deploy.local.stack import DEMO_SETTINGS, Ports, Stack

TOOLS: Final = ("promtool", "amtool")
ALERT_TESTS: Final = "tests/deploy/alerts_test.yaml"
OBSERVED: Final = "tests/integration/local_stack/test_stack.py::test_a_shop_is_observed"
SECONDS: Final = 2  # between two scrapes
PATIENCE: Final = 200  # seconds until an alert must have arrived, or ended

# What Prometheus need not have after this run, and why. On a slow machine it may all the same.
MAY_BE_ABSENT: Final[Mapping[str, str]] = {
    "temporal_workflow_task_execution_failed_total": "no workflow task fails; on a busy machine one may take too long",
    "temporal_long_request_failure_total": "Temporal is not out",
    "temporal_local_activity_execution_latency_seconds_bucket": "STEP_EXECUTION is `regular`",
    "order_sagas_notifications_given_up_total": "every notification arrives",
    "order_sagas_alerts_lost_total": "every alert arrives",
    "order_sagas_keeps_failing_total": "no step fails for ten minutes",
}


def main() -> int:
    """Exit status 0 if all is well, or if a program is missing."""
    missing = [each for each in (missing_programs(), *(tool for tool in TOOLS if not shutil.which(tool))) if each]
    if missing:
        sys.stdout.write(f"make check-monitoring is skipped: it needs {', '.join(missing)} ({INSTALL})\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        checks = {
            "Prometheus takes its file and the rules": ("promtool", "check", "config", str(FILES / "prometheus.yml")),
            "every alert fires and is silent as its tests say": ("promtool", "test", "rules", ALERT_TESTS),
            "Alertmanager takes its file": ("amtool", "check-config", str(FILES / "alertmanager.yml")),
            "the dashboards are made": (
                str(ROOT / ".venv-dashboards" / "bin" / "python"),
                *("-m", "deploy.monitoring.dashboards", folder),
            ),
            "`make observe` watches a shop": (sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", OBSERVED),
        }
        results = [_told(what, _passes(command)) for what, command in checks.items()]
        if not all(results):
            return 1
        dashboards = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    if not _told("a legend names what its expression tells apart", not list(wrong_legends(dashboards))):
        return 1
    asked = list(expressions(dashboards))
    # The demo has one order of each refusal, and what happened once must be seen.
    refusals = [f"({each}) > 0" for each in asked if 'outcome!="placed"' in each]
    return 0 if bool(refusals) and asyncio.run(_run_shop([*asked, *refusals, *selectors()])) else 1


def _told(what: str, holds: bool) -> bool:  # noqa: FBT001 (the subject of the sentence)
    sys.stdout.write(f"{'ok' if holds else 'FAILED'}: {what}\n")
    sys.stdout.flush()
    return holds


def _passes(command: tuple[str, ...]) -> bool:
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)  # noqa: S603 (our own files)
    if done.returncode:
        sys.stdout.write(done.stdout + done.stderr)
    return done.returncode == 0


def targets(dashboards: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The queries of all panels."""
    for dashboard in dashboards:
        for panel in dashboard["panels"]:
            yield from panel.get("targets") or ()


def expressions(dashboards: list[dict[str, Any]]) -> Iterator[str]:
    """What the dashboards ask Prometheus."""
    for target in targets(dashboards):
        yield target["expr"].replace("$__rate_interval", "5m")


def wrong_legends(dashboards: list[dict[str, Any]]) -> Iterator[str]:
    """Legends that name other labels than the expression keeps: two curves would look alike, or one lack its name."""
    for target in targets(dashboards):
        legend = target.get("legendFormat", "")
        kept = {label for by in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for label in by.split(", ")} - {"le"}
        if legend and set(re.findall(r"{{(\w+)}}", legend)) != kept:
            sys.stdout.write(f"  {legend}: {target['expr']}\n")
            yield legend


def selectors() -> Iterator[str]:
    """What the alerts look at; their comparisons yield nothing as long as all is well."""
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        # Values of labels are left out: an alert waits for one that has not been seen yet.
        yield from re.findall(r"\b(?:order_sagas|temporal)_\w+|\bup\b", rule["expr"])


class Shop:
    """The stack under Prometheus' eyes, and what this check asks of it."""

    def __init__(self, stack: Stack, monitoring: Monitoring, http: httpx.AsyncClient) -> None:
        self._stack = stack
        self._monitoring = monitoring
        self._http = http
        self._environment = {**stack.environment(DEMO_SETTINGS | os.environ), "HTTP_TIMEOUT_SECONDS": "5"}

    def worker(self) -> AbstractAsyncContextManager[Child]:
        return self._stack.worker({**self._environment, "METRICS_ADDRESS": self._monitoring.metrics[0]})

    def web_process(self) -> AbstractAsyncContextManager[Child]:
        return self._stack.webhooks({**self._environment, "METRICS_ADDRESS": self._monitoring.metrics[1]})

    async def starter(self, *arguments: str) -> int:
        """Run starter.py; its exit status."""
        argv = (sys.executable, "starter.py", *arguments)
        log = self._stack.logs / "starter.log"
        async with running(Command(name="starter.py", argv=argv, log=log, env=self._environment)) as child:
            return await child.wait()

    async def break_once(self, scenario: str) -> None:
        answer = await self._http.post(f"{self._stack.sandbox.url}/actions/break", data={"scenario": scenario})
        if answer.is_error:
            raise SystemExit(answer.text)

    async def said(self, status: str, alert: str) -> bool:
        """Whether the sandbox's Slack has this message of Alertmanager."""
        records = (await self._http.get(f"{self._stack.sandbox.url}/_sandbox/records")).raise_for_status().json()
        return any(each["text"].startswith(f"{status} {alert}\n") for each in records["alerts"])

    async def has(self, expression: str) -> bool:
        """Whether Prometheus has a series for the expression."""
        url = f"{self._monitoring.prometheus_url}/api/v1/query"
        answer = await self._http.get(url, params={"query": expression})
        return bool(answer.raise_for_status().json()["data"]["result"])


async def _run_shop(queries: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "data", Ports.free(), fast=True)
        monitoring = replace(stack.monitoring, seconds=SECONDS)
        async with stack.running(), monitoring.running(), httpx.AsyncClient(trust_env=False) as http:
            shop = Shop(stack, monitoring, http)
            async with shop.web_process():
                return await _watch(shop, queries)


async def _watch(shop: Shop, queries: list[str]) -> bool:
    results = []
    async with shop.worker() as worker:
        await shop.starter("schedules", "apply")
        results.append(_told("the demo runs", await shop.starter("demo") == 0))
        await shop.starter("verify")
        results += await _park_and_resolve(shop)
        results += await _look_for(shop, queries)
        results += [await _kill(shop, worker)]
    async with shop.worker():
        results.append(await _arrives(shop, "RESOLVED", "NoWorker"))
    return all(results)


async def _park_and_resolve(shop: Shop) -> list[bool]:
    await shop.starter("process-order", "examples/order.json", "--order-id", "parked")
    await shop.break_once("refund-refused")
    await shop.starter("cancel-order", "parked")
    fired = await _arrives(shop, "FIRING", "OrderParked")
    reason = ("--reason", "Stripe accepts refunds again")
    done = await shop.starter("resolve", "parked", "--step", "void_payment", "--retry", *reason) == 0
    return [fired, _told("the parked order is resolved", done), await _arrives(shop, "RESOLVED", "OrderParked")]


async def _look_for(shop: Shop, queries: list[str]) -> list[bool]:
    """Every query yields a series, or the list says why it need not; and the list names nothing else."""
    lost: list[str] = []
    absent = 0
    for query in dict.fromkeys(queries):
        names = set(re.findall(r"\b(?:order_sagas|temporal)_\w+", query))
        if not await shop.has(query):
            is_excused = bool(names) and names <= MAY_BE_ABSENT.keys()
            absent += is_excused
            lost += [] if is_excused else [query]
    for query in lost:
        sys.stdout.write(f"  no series: {query}\n")
    unknown = {name for name in MAY_BE_ABSENT if not any(name in query for query in queries)}
    for name in unknown:
        sys.stdout.write(f"  nothing asks for: {name}\n")
    return [
        _told(f"{len(queries)} expressions: all yield a series but {absent}, which need not", not lost),
        not unknown,
    ]


async def _kill(shop: Shop, worker: Child) -> bool:
    os.kill(worker.pid, signal.SIGKILL)
    await worker.wait()
    return await _arrives(shop, "FIRING", "NoWorker")


async def _arrives(shop: Shop, status: str, alert: str) -> bool:
    start = time.monotonic()
    arrived = await _within(PATIENCE, lambda: shop.said(status, alert))
    return _told(f"{status} {alert} is in Slack after {time.monotonic() - start:.0f} s", arrived)


async def _within(seconds: float, condition: Callable[[], Awaitable[bool]]) -> bool:
    end = time.monotonic() + seconds
    while not (holds := await condition()) and time.monotonic() < end:
        await asyncio.sleep(0.5)
    return holds


if __name__ == "__main__":
    sys.exit(main())
