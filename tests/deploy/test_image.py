"""The image: what is in it, and that it places orders and drains as an unprivileged user with a read-only root."""

import asyncio
import base64
import json
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import httpx
import pytest
import yaml
from google.protobuf.json_format import MessageToDict
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from temporalio.testing import WorkflowEnvironment

from deploy.local.process import Child, Command, free_ports, running
from orders.models import OrderOutcome
from orders.names import PROCESS_ORDER, TASK_QUEUE
from sandbox.faults import Fault
from sandbox.server import Running, serve
from sandbox.world import World
from tests.integration.test_worker import addresses, confirmations
from tests.support.invariants import assert_invariants
from tests.support.shop import an_order, eventually
from tests.support.traces import collecting

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]

IMAGE: Final = os.environ.get("IMAGE", "")
ROOT: Final = Path(__file__).parents[2]
USER: Final = 10001
TOKEN: Final = "a-token-of-the-codec-server-012345"  # noqa: S105 (of a codec server that lives for a test)
STREET: Final = an_order()["shippingAddress"]["street"].encode()
LIMITS: Final = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")  # some machines allow no more
RESTRICTED: Final = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges")

pytestmark = pytest.mark.skipif(not IMAGE, reason="make check-image builds the image and runs this")


def _podman(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 (our own image)
        _argv(*arguments), input=stdin, capture_output=True, text=True, check=False, timeout=60
    )


def _argv(*arguments: str) -> tuple[str, ...]:
    """The container shares the network of this test, which `make check-image` has made for it."""
    return ("podman", "run", "--rm", "-i", "--network=host", "--timeout=100", *LIMITS, *RESTRICTED, *arguments)


@asynccontextmanager
async def a_container(log: Path, environment: Mapping[str, str], *program: str) -> AsyncIterator[Child]:
    """A process of the image that is ready."""
    (port,) = free_ports(1)
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    argv = _argv(*variables, f"--env=HEALTH_ADDRESS=127.0.0.1:{port}", IMAGE, *program)
    async with running(Command(name="The container", argv=argv, log=log, grace=60)) as child:

        async def is_ready() -> bool:
            try:
                async with httpx.AsyncClient(trust_env=False) as http:
                    return (await http.get(f"http://127.0.0.1:{port}/readyz")).is_success
            except httpx.TransportError:
                return False

        await child.ready(is_ready, within=60)
        yield child


@dataclass
class Records:
    """What the invariants read."""

    pool: "Pool"
    sandbox: Running

    @property
    def world(self) -> World:
        return self.sandbox.world


@pytest.fixture
async def sandbox() -> AsyncIterator[Running]:
    async with serve() as server:
        yield server


@pytest.fixture
def environment(temporal: WorkflowEnvironment, database_url: str, sandbox: Running) -> dict[str, str]:
    (port,) = free_ports(1)
    return addresses(temporal, database_url, sandbox) | {"WEBHOOKS_PORT": str(port)}


async def test_an_order_is_placed(environment: dict[str, str], tmp_path: Path) -> None:
    """The worker, the web process, the command line and the migrations run from the one image."""
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    async with (
        a_container(tmp_path / "worker.log", environment),
        a_container(tmp_path / "webhooks.log", environment, "webhooks.py"),
    ):
        migrated = await asyncio.to_thread(_podman, *variables, IMAGE, "-m", "app.migrate")
        command = ("starter.py", "process-order", "-", "--json")
        placed = await asyncio.to_thread(_podman, *variables, IMAGE, *command, stdin=json.dumps(an_order()))

    assert (migrated.returncode, migrated.stdout) == (0, "The schema is up to date.\n")
    assert placed.returncode == 0, placed.stderr
    assert json.loads(placed.stdout)["success"]


async def test_an_encrypted_order_is_placed_read_and_traced(
    environment: dict[str, str], temporal: WorkflowEnvironment, tmp_path: Path
) -> None:
    """With keys and a collector: Temporal holds no address, and the codec server of the image shows it."""
    (port,) = free_ports(1)
    keys = {"PAYLOAD_KEYS": f"k1:{base64.b64encode(bytes(range(32))).decode()}"}
    codec = keys | {"CODEC_TOKENS": TOKEN, "CODEC_ADDRESS": f"127.0.0.1:{port}"}
    with collecting() as (endpoint, collector):
        environment |= keys | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        async with a_container(tmp_path / "worker.log", environment):
            command = ("starter.py", "process-order", "-", "--json", "--order-id=sealed")
            placed = await asyncio.to_thread(_podman, *variables, IMAGE, *command, stdin=json.dumps(an_order()))
    assert placed.returncode == 0, placed.stderr
    assert {"RunWorkflow:process-order", "call stripe"} <= {each.name for each in collector.spans}
    first = await anext(temporal.client.get_workflow_handle("sealed").fetch_history_events())
    payloads = first.workflow_execution_started_event_attributes.input
    assert STREET not in payloads.SerializeToString()
    async with (
        a_container(tmp_path / "codec.log", codec, "codec_server.py"),
        httpx.AsyncClient(trust_env=False) as http,
    ):
        url = f"http://127.0.0.1:{port}/{TOKEN}/decode"
        answer = await http.post(url, json=MessageToDict(payloads))
    assert STREET in base64.b64decode(answer.json()["payloads"][0]["data"])


@contextmanager
def a_pod(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """The worker's Deployment and the ConfigMap as the base has them, played by podman on the network of this test."""
    base = ROOT / "deploy" / "kubernetes" / "base"
    settings = yaml.safe_load((base / "settings.yaml").read_text())
    settings["data"] |= {name: value for name, value in environment.items() if name != "DATABASE_URL"}
    worker = next(yaml.safe_load_all((base / "worker.yaml").read_text()))
    worker["spec"]["replicas"] = 1
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    container["image"] = IMAGE
    del container["ports"]  # podman publishes none on a shared network
    manifests, configuration = folder / "pod.yaml", folder / "containers.conf"
    manifests.write_text(yaml.safe_dump_all([settings, worker]))
    limits = [each.removeprefix("--ulimit=") for each in LIMITS]
    configuration.write_text(f'[containers]\ndefault_ulimits={limits}\n[engine]\ninfra_image="{IMAGE}-pause"\n')
    secret = json.dumps({"DATABASE_URL": base64.b64encode(environment["DATABASE_URL"].encode()).decode()})

    def podman(*arguments: str, stdin: str | None = None) -> None:
        subprocess.run(  # noqa: S603 (our own image)
            ("podman", *arguments),  # noqa: S607
            input=stdin,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "CONTAINERS_CONF": str(configuration)},
            stdout=subprocess.DEVNULL,
        )

    podman("secret", "create", "order-sagas", "-", stdin=secret)
    try:
        podman("kube", "play", "--network=host", str(manifests))
        yield
    finally:
        podman("kube", "down", str(manifests))
        podman("secret", "rm", "order-sagas")


async def test_the_manifest_places_an_order(
    environment: dict[str, str], temporal: WorkflowEnvironment, tmp_path: Path
) -> None:
    """The worker starts from the files of deploy/kubernetes as they are."""
    with a_pod(tmp_path, environment):
        handle = await temporal.client.start_workflow(
            PROCESS_ORDER, an_order(), id="played", task_queue=TASK_QUEUE, result_type=OrderOutcome
        )
        assert (await asyncio.wait_for(handle.result(), 60)).success


async def test_a_signal_ends_it_in_order(
    environment: dict[str, str], temporal: WorkflowEnvironment, database_url: str, sandbox: Running, tmp_path: Path
) -> None:
    """SIGTERM to PID 1 while an order is under way: status 0, the step is finished, and another worker goes on."""
    sandbox.world.faults.add(
        Fault(service="stripe", route="*/confirm", kind="delay", seconds=2, order="drained", after_effect=True)
    )

    async def is_confirming() -> bool:
        return confirmations(sandbox) > 0

    async with a_container(tmp_path / "first.log", environment) as first:
        handle = await temporal.client.start_workflow(
            PROCESS_ORDER, an_order(), id="drained", task_queue=TASK_QUEUE, result_type=OrderOutcome
        )
        await eventually(is_confirming, "Stripe is being asked")
        os.kill(first.pid, 15)
        assert await asyncio.wait_for(first.wait(), 40) == 0
    said = [json.loads(line)["event"] for line in (tmp_path / "first.log").read_text().splitlines()]
    assert "worker draining" in said
    assert said[-1] == "worker stopped"
    async with a_container(tmp_path / "second.log", environment):
        assert (await asyncio.wait_for(handle.result(), 40)).success
    assert confirmations(sandbox) == 1
    async with asyncpg.create_pool(database_url, min_size=1) as pool:
        await assert_invariants(Records(pool, sandbox), "drained")


def test_it_has_no_privilege() -> None:
    """It runs as user 10001 with no capability, and can gain none."""
    code = "import os, pathlib; print(os.getuid(), os.getgid(), pathlib.Path('/proc/self/status').read_text())"
    said = _podman(IMAGE, "-c", code).stdout

    assert said.startswith(f"{USER} {USER} ")
    assert "CapEff:\t0000000000000000" in said
    assert "NoNewPrivs:\t1" in said


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """The files of the image, as they are on disk."""
    mounted = subprocess.check_output(("podman", "image", "mount", IMAGE), text=True).strip()  # noqa: S603, S607
    yield Path(mounted)
    subprocess.run(("podman", "image", "unmount", IMAGE), check=True, capture_output=True)  # noqa: S603, S607


def test_its_user_can_write_no_file(root: Path) -> None:
    """Only the base's folders for temporary files are open to all."""
    found = (Path(folder) / name for folder, folders, files in os.walk(root) for name in [*folders, *files])
    writable = {path.relative_to(root) for path in found if _is_writable(path.lstat())}
    assert writable <= {Path("tmp"), Path("var/tmp"), Path("run/lock")}


def _is_writable(status: os.stat_result) -> bool:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return False
    owned = status.st_uid == USER and status.st_mode & stat.S_IWUSR
    of_group = status.st_gid == USER and status.st_mode & stat.S_IWGRP
    return bool(owned or of_group or status.st_mode & stat.S_IWOTH)


def test_its_packages_are_those_of_the_requirements() -> None:
    """Every one that requirements.txt names for its Python, and no other; not even pip."""
    code = "from importlib.metadata import distributions as d; print(*[x.name + '==' + x.version for x in d()])"
    version, *listed = _podman(IMAGE, "-c", f"import platform; print(platform.python_version()); {code}").stdout.split()
    held = dict(each.split("==") for each in listed)
    lines = [line.rstrip(" \\") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    wanted = [Requirement(line) for line in lines]

    assert {canonicalize_name(name): version for name, version in held.items()} == {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in wanted
        if each.marker is None or each.marker.evaluate({"python_full_version": version})
    }


def test_its_files_are_those_of_the_programs(root: Path) -> None:
    """No test, no sandbox, no local stack and no cache is in it."""
    assert {path.name for path in (root / "srv/app").iterdir()} == {
        *("activities", "app", "audit", "client", "config", "gateways", "migrations", "orders", "saga", "workflows"),
        *("worker.py", "webhooks.py", "codec_server.py", "starter.py", "__pycache__"),
    }
    assert not (root / "srv/app/saga/tests").exists()
