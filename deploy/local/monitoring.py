"""Prometheus and Alertmanager beside the local stack, with the files of deploy/monitoring."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from deploy.local.process import HOST, ROOT, Child, Command, require_free_port, running

FILES: Final = ROOT / "deploy" / "monitoring"
ALERTMANAGERS: Final = ("prometheus-alertmanager", "alertmanager")  # Debian's name, and upstream's
INSTALL: Final = "on Debian, apt-get install prometheus prometheus-alertmanager"


def missing_programs() -> str:
    """Which of the two programs are not installed; empty: both are there."""
    alertmanager = any(map(shutil.which, ALERTMANAGERS))
    found = {"prometheus": bool(shutil.which("prometheus")), "alertmanager": alertmanager}
    return ", ".join(name for name, is_there in found.items() if not is_there)


@dataclass(frozen=True, kw_only=True, slots=True)
class Monitoring:
    """Where worker and web process serve their metrics, and where Prometheus and Alertmanager listen, on 127.0.0.1.

    `sandbox` is the sandbox's URL, whose Slack gets the alerts.
    """

    data_dir: Path
    logs: Path
    sandbox: str
    worker: int
    webhooks: int
    prometheus: int
    alertmanager: int
    seconds: int = 10  # between two scrapes, and between two looks at the alerts

    @property
    def metrics(self) -> tuple[str, str]:
        """The values of METRICS_ADDRESS for the worker and the web process."""
        return f"{HOST}:{self.worker}", f"{HOST}:{self.webhooks}"

    @property
    def prometheus_url(self) -> str:
        return f"http://{HOST}:{self.prometheus}"

    @property
    def alertmanager_url(self) -> str:
        return f"http://{HOST}:{self.alertmanager}"

    def places(self, missing: str) -> tuple[tuple[str, str], ...]:
        """Where to look, for people; `missing` are the programs that are not installed."""
        metrics = tuple(("Metrics", f"http://{each}/metrics") for each in self.metrics)
        if missing:
            return *metrics, ("Prometheus", f"not started, this machine lacks {missing}: {INSTALL}")
        alerts = f"{self.prometheus_url}/alerts, and the sandbox's Slack"
        return (
            *metrics,
            ("Prometheus", self.prometheus_url),
            ("Alertmanager", self.alertmanager_url),
            ("Alerts", alerts),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[list[Child]]:
        """Run both until the block ends. Raises StackError."""
        self.write_files()
        program = next(filter(None, map(shutil.which, ALERTMANAGERS)), ALERTMANAGERS[0])
        async with AsyncExitStack() as children:
            yield [
                await children.enter_async_context(
                    self._child(
                        "Alertmanager",
                        self.alertmanager,
                        program,
                        f"--config.file={self.data_dir / 'alertmanager.yml'}",
                        f"--storage.path={self.data_dir / 'alertmanager'}",
                        "--cluster.listen-address=",
                    )
                ),
                await children.enter_async_context(
                    self._child(
                        "Prometheus",
                        self.prometheus,
                        "prometheus",
                        f"--config.file={self.data_dir / 'prometheus.yml'}",
                        f"--storage.tsdb.path={self.data_dir / 'prometheus'}",
                    )
                ),
            ]

    @asynccontextmanager
    async def _child(self, name: str, port: int, *argv: str) -> AsyncIterator[Child]:
        require_free_port(port, name)
        listen = f"--web.listen-address={HOST}:{port}"
        command = Command(name=name, argv=(*argv, listen), log=self.logs / f"{name.lower()}.log", cwd=self.data_dir)
        async with running(command) as child, httpx.AsyncClient(trust_env=False) as http:

            async def is_ready() -> bool:
                try:
                    return (await http.get(f"http://{HOST}:{port}/-/ready")).is_success
                except httpx.TransportError:
                    return False

            await child.ready(is_ready)
            yield child

    def write_files(self) -> None:
        """The files of deploy/monitoring, with these addresses."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        changes = {
            f"{HOST}:8430": f"{HOST}:{self.worker}",
            f"{HOST}:8431": f"{HOST}:{self.webhooks}",
            f"{HOST}:9093": f"{HOST}:{self.alertmanager}",
            "http://127.0.0.1:8400": self.sandbox,
            "_interval: 10s": f"_interval: {self.seconds}s",
            "group_wait: 10s": f"group_wait: {self.seconds}s",
            "group_interval: 1m": f"group_interval: {6 * self.seconds}s",
        }
        for name in ("prometheus.yml", "alertmanager.yml", "alerts.yaml"):
            text = (FILES / name).read_text()
            for before, after in changes.items():
                text = text.replace(before, after)
            (self.data_dir / name).write_text(text)
