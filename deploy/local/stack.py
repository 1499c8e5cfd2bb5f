"""The local stack: Postgres, Temporal and the sandbox, started together and stopped together.

    python -m deploy.local.stack up        run the stack, the worker and the web process until Ctrl-C
    python -m deploy.local.stack observe   run the same with its metrics, Prometheus and Alertmanager
    python -m deploy.local.stack demo      run the same until `starter.py demo` ends; with --keep until Ctrl-C

Nothing is restarted: when one of them ends, all are stopped and the error names it.
"""

import argparse
import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never, Self

import asyncpg
import httpx
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from app.migrate import migrate
from app.startup_checks import CannotStart
from config.links import workflow_link
from config.settings import (
    SANDBOX_FULFILLMENT_WEBHOOK_SECRET,
    SANDBOX_OPENAI_KEY,
    SANDBOX_STRIPE_KEY,
    SANDBOX_STRIPE_WEBHOOK_SECRET,
    Settings,
    sandbox_addresses,
)
from config.streams import flush_streams, open_streams
from deploy.local.data import DATA_DIR, locked, space_problem
from deploy.local.monitoring import Monitoring, missing_programs
from deploy.local.postgres import Postgres
from deploy.local.process import (
    HOST,
    ROOT,
    Child,
    Command,
    StackError,
    first_to_end,
    free_ports,
    require_free_port,
    running,
)
from deploy.local.temporal import TemporalServer

SEEDS = (ROOT / "deploy" / "local" / "seed.sql", ROOT / "deploy" / "local" / "demo_products.sql")

PLACE = "    .venv/bin/python starter.py process-order examples/order.json"

DEMO_SETTINGS = {"PAYMENT_RETRY_SECONDS": "600"}  # one of its customers pays with another card

# If the environment has one of these keys, no sandbox setting of its service is used: the key would be sent there.
OWN_KEYS = {"STRIPE_SECRET_KEY": "STRIPE_", "OPENAI_API_KEY": "OPENAI_"}


class Ports(BaseModel):
    """The ports of the stack on 127.0.0.1. The defaults match config/settings.py."""

    model_config = ConfigDict(frozen=True)

    postgres: int = 54329
    temporal: int = 7233
    ui: int = 8233
    sandbox: int = 8400
    webhooks: int = 8410
    codec: int = 8440
    worker_metrics: int = 8430  # these four: of `observe`, as deploy/monitoring has them
    webhooks_metrics: int = 8431
    prometheus: int = 9090
    alertmanager: int = 9093

    @classmethod
    def free(cls) -> Self:
        names = list(cls.model_fields)
        return cls(**dict(zip(names, free_ports(len(names)), strict=True)))


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The simulated external services."""

    port: int
    webhooks: int
    logs: Path
    state: Path
    workflows: str

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables that connect the project to this sandbox."""
        return {
            **sandbox_addresses(self.url),
            "STRIPE_SECRET_KEY": SANDBOX_STRIPE_KEY,
            "FULFILLMENT_REMEMBERS_CANCELS": "true",  # the sandbox's warehouse does
            "FULFILLMENT_KEY": Settings.model_fields["fulfillment_key"].default.get_secret_value(),
            "STRIPE_WEBHOOK_SECRET": SANDBOX_STRIPE_WEBHOOK_SECRET,
            "FULFILLMENT_WEBHOOK_SECRET": SANDBOX_FULFILLMENT_WEBHOOK_SECRET,
            "OPENAI_API_KEY": SANDBOX_OPENAI_KEY,
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Child]:
        """Serve until the block ends. Raises StackError."""
        require_free_port(self.port, "The sandbox")
        options = {
            "port": self.port,
            "state": self.state,
            "webhooks": f"http://{HOST}:{self.webhooks}",
            "workflows": self.workflows,
        }
        argv = (sys.executable, "-m", "sandbox", *(f"--{name}={value}" for name, value in options.items()))
        async with running(Command(name="The sandbox", argv=argv, log=self.logs / "sandbox.log")) as child:
            await _answering(child, f"{self.url}/_sandbox/health")
            yield child


@dataclass(frozen=True, slots=True)
class Stack:
    """Postgres, Temporal and the sandbox, with their data in one folder, which is locked against a second stack."""

    data_dir: Path = DATA_DIR
    ports: Ports = field(default_factory=Ports)
    fast: bool = False
    sealed: bool = False  # payloads are encrypted: the Web UI needs a codec server
    codec_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def __post_init__(self) -> None:
        # The children have another working directory than this process.
        object.__setattr__(self, "data_dir", self.data_dir.resolve())

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def postgres(self) -> Postgres:
        return Postgres(self.data_dir / "postgres", self.ports.postgres, logs=self.logs, fast=self.fast)

    @property
    def temporal(self) -> TemporalServer:
        """Its Web UI gets the token in the address of the codec server: nobody logs in to it."""
        codec = f"http://{HOST}:{self.ports.codec}/{self.codec_token}" if self.sealed else None
        return TemporalServer(
            self.data_dir / "temporal.db", self.ports.temporal, self.ports.ui, logs=self.logs, codec=codec
        )

    @property
    def sandbox(self) -> Sandbox:
        return Sandbox(
            self.ports.sandbox,
            self.ports.webhooks,
            logs=self.logs,
            state=self.data_dir / "sandbox.db",
            workflows=workflow_link(self.temporal.ui_url, "default", ""),
        )

    @property
    def monitoring(self) -> Monitoring:
        return Monitoring(
            data_dir=self.data_dir / "monitoring",
            logs=self.logs,
            sandbox=self.sandbox.url,
            worker=self.ports.worker_metrics,
            webhooks=self.ports.webhooks_metrics,
            prometheus=self.ports.prometheus,
            alertmanager=self.ports.alertmanager,
        )

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a program on this stack.

        Database and Temporal are always the stack's, even if `given` names others or a Temporal profile. External
        services in `given` replace the sandbox's, so that your own keys work: for Stripe's test mode or OpenAI.
        """
        own = tuple(prefix for key, prefix in OWN_KEYS.items() if key in given)
        sandbox = {name: value for name, value in self.sandbox.settings.items() if not name.startswith(own)}
        return (
            sandbox
            | {name: value for name, value in given.items() if not name.startswith("TEMPORAL_")}
            | (self._codec_settings(given) if self.sealed else {})
            | {
                "DATABASE_URL": self.postgres.url(),
                "TEMPORAL_ADDRESS": self.temporal.address,
                "TEMPORAL_CONFIG_FILE": os.devnull,
                "TEMPORAL_UI_URL": self.temporal.ui_url,
                "WEBHOOKS_HOST": HOST,
                "WEBHOOKS_PORT": str(self.ports.webhooks),
                "HEALTH_ADDRESS": "",  # two programs cannot share it
                "METRICS_ADDRESS": "",
            }
        )

    def _codec_settings(self, given: Mapping[str, str]) -> dict[str, str]:
        tokens = (self.codec_token, given.get("CODEC_TOKENS", "").strip())
        return {
            "CODEC_ADDRESS": f"{HOST}:{self.ports.codec}",
            "CODEC_ORIGINS": f"{self.temporal.ui_url},http://localhost:{self.ports.ui}",
            "CODEC_TOKENS": ",".join(filter(None, tokens)),
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[list[Child]]:
        """Run until the block ends; yields the children, so that the caller can watch them. Raises StackError."""
        with locked(self.data_dir):
            async with AsyncExitStack() as children:
                starts = (self.database(), self.temporal.running(), self.sandbox.running())
                yield await _together(children, starts)

    @asynccontextmanager
    async def worker(self, environment: Mapping[str, str], name: str = "worker") -> AsyncIterator[Child]:
        """Run a worker until the block ends, then drain it. Several workers need different names. Raises StackError."""
        ready = self.data_dir / f"{name}.ready"
        ready.unlink(missing_ok=True)
        command = Command(
            name="The worker",
            argv=(sys.executable, "worker.py"),
            log=self.logs / f"{name}.log",
            env={**environment, "WORKER_READY_FILE": str(ready)},
            grace=60,
        )
        async with running(command) as child:
            await child.ready(lambda: asyncio.to_thread(ready.exists), within=60)
            yield child

    def webhooks(self, environment: Mapping[str, str]) -> AbstractAsyncContextManager[Child]:
        """Run the web process until the block ends. Raises StackError."""
        return self._serving("The web process", "webhooks", self.ports.webhooks, environment)

    def codec_server(self, environment: Mapping[str, str]) -> AbstractAsyncContextManager[Child]:
        """Run the codec server until the block ends. Raises StackError."""
        return self._serving("The codec server", "codec_server", self.ports.codec, environment)

    @asynccontextmanager
    async def _serving(
        self, name: str, program: str, port: int, environment: Mapping[str, str]
    ) -> AsyncIterator[Child]:
        """Run one of the programs that answer at a port until the block ends."""
        require_free_port(port, name)
        argv, log = (sys.executable, f"{program}.py"), self.logs / f"{program}.log"
        async with running(Command(name=name, argv=argv, log=log, env=environment, grace=40)) as child:
            await _answering(child, f"http://{HOST}:{port}/healthz")
            yield child

    @asynccontextmanager
    async def programs(
        self, environment: Mapping[str, str], metrics: tuple[str, str] = ("", "")
    ) -> AsyncIterator[list[Child]]:
        """Run the worker, the web process, and for encrypted payloads the codec server, until the block ends.

        `metrics` are where worker and web process serve them. Raises StackError.
        """
        worker, webhooks = ({**environment, "METRICS_ADDRESS": address} for address in metrics)
        codec = [self.codec_server(environment)] if self.sealed else []
        async with AsyncExitStack() as children:
            yield await _together(children, (self.worker(worker), self.webhooks(webhooks), *codec))

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Child]:
        """Run Postgres until the block ends, with the schema and the demo products. Raises StackError."""
        async with self.postgres.running() as child:
            try:
                await migrate(self.postgres.url())
            except CannotStart as error:
                raise StackError(str(error)) from None
            await _seed(self.postgres.url())
            yield child


async def up(stack: Stack) -> Never:
    """Run everything until cancelled. Raises StackError when a part ends."""
    async with stack.running() as services, stack.programs(stack.environment(os.environ)) as programs:
        _show(stack)
        print_lines("\nReady. In another terminal:", PLACE, "Ctrl-C stops everything.")
        ended = await first_to_end(*services, *programs)
        raise ended.ended()


async def observe(stack: Stack) -> Never:
    """Run everything with its metrics, and with Prometheus and Alertmanager where they are installed, until cancelled.

    Raises StackError when a part ends.
    """
    monitoring = stack.monitoring
    async with AsyncExitStack() as children:
        services = await children.enter_async_context(stack.running())
        programs = stack.programs(stack.environment(os.environ), monitoring.metrics)
        services += await children.enter_async_context(programs)
        missing = missing_programs()
        if not missing:
            services += await children.enter_async_context(monitoring.running())
        _show(stack, monitoring.places(missing))
        print_lines("\nReady. In another terminal:", PLACE, "Ctrl-C stops everything.")
        raise (await first_to_end(*services)).ended()


async def demo(stack: Stack, options: Iterable[str], *, keep: bool) -> int:
    """Run the demo on the stack, with the sandbox only, and return its exit status. Raises StackError.

    `options` are those of `starter.py demo`. With `keep` the stack runs on until it is interrupted.
    """
    environment = stack.environment(DEMO_SETTINGS | os.environ | stack.sandbox.settings)
    argv = (sys.executable, "starter.py", "demo", *options)
    command = Command(name="The demo", argv=argv, log=None, env=environment)
    async with stack.running() as services, stack.programs(environment) as programs:
        _show(stack)
        print_lines("\nPlacing orders of every kind …")
        async with running(command) as starter:
            if (ended := await first_to_end(*services, *programs, starter)) is not starter:
                raise ended.ended()
            status = await starter.wait()
        if keep:
            print_lines("\nEverything runs on: the links above work. Ctrl-C stops it. To place an order:", PLACE)
            raise (await first_to_end(*services, *programs)).ended()
        print_lines("\nEverything stops now. The links above work again after `make up`, or use `make demo KEEP=1`.")
        return status


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.stack", description="Run the local stack.")
    parser.add_argument("verb", choices=("up", "observe", "demo"))
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR)
    parser.add_argument("--keep", action="store_true", help="keep the stack running after the demo")
    parser.add_argument("--verbose", action="store_true", help="let the demo show every invariant by its text")
    for name, port in Ports():
        parser.add_argument(f"--{name.replace('_', '-')}-port", type=int, default=port)
    given = parser.parse_args()
    ports = Ports(**{name: getattr(given, f"{name}_port") for name in Ports.model_fields})
    stack = Stack(given.data_dir, ports, sealed=bool(os.environ.get("PAYLOAD_KEYS", "").strip()))
    print_lines("Starting Postgres, Temporal, the sandbox, the worker and the web process: about ten seconds …")
    try:
        if given.verb == "demo":
            work = demo(stack, ["--verbose"] if given.verbose else [], keep=given.keep)
            return asyncio.run(until_signaled(work, interrupted=0 if given.keep else 130))
        work = observe(stack) if given.verb == "observe" else up(stack)
        return asyncio.run(until_signaled(work, interrupted=0))
    except (StackError, OSError) as error:
        text = f"{error.filename or stack.data_dir}: {error.strerror}." if isinstance(error, OSError) else str(error)
        sys.stderr.write(f"{text}{space_problem(stack.data_dir, text)}\n")
        return 1


async def until_signaled(work: Coroutine[None, None, int], *, interrupted: int) -> int:
    """Cancel the work on SIGINT, SIGTERM or SIGHUP; a second signal does not disturb the stop."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, lambda: task.cancelling() or task.cancel())
    with suppress(asyncio.CancelledError):
        return await task
    return interrupted


async def _together(stack: AsyncExitStack, starts: Iterable[AbstractAsyncContextManager[Child]]) -> list[Child]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(stack.enter_async_context(start)) for start in starts]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _answering(child: Child, url: str) -> None:
    """Wait until a child answers at the URL. Raises StackError."""
    async with httpx.AsyncClient(trust_env=False) as client:

        async def healthy() -> bool:
            try:
                return (await client.get(url)).is_success
            except httpx.TransportError:
                return False

        await child.ready(healthy, within=60)


async def _seed(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for seed in SEEDS:
            await connection.execute(seed.read_text())
    except asyncpg.PostgresError as error:
        raise StackError(f"{seed}: {error}") from None
    finally:
        await connection.close()


def print_lines(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _show(stack: Stack, more: Iterable[tuple[str, str]] = ()) -> None:
    places = Table.grid(padding=(0, 2))
    places.add_row("Web UI", stack.temporal.ui_url)
    places.add_row("Temporal", stack.temporal.address)
    places.add_row("Postgres", stack.postgres.url())
    places.add_row("Sandbox", stack.sandbox.url)
    places.add_row("Webhooks", f"http://{HOST}:{stack.ports.webhooks}")
    if stack.sealed:
        places.add_row("Codec server", f"http://{HOST}:{stack.ports.codec}, for the keys in PAYLOAD_KEYS")
    places.add_row("Logs", str(stack.logs))
    for place in more:
        places.add_row(*place)
    Console(soft_wrap=True).print(places)


if __name__ == "__main__":
    open_streams()
    sys.exit(flush_streams(main()))
