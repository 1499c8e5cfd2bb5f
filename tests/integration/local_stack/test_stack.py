"""The whole stack, as `make up` runs it: start, stop, refusals and messages."""

import asyncio
import base64
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from client.orders import cancel_order, submit_order
from config.payload_keys import parse_payload_keys
from config.settings import Settings
from config.temporal import plugin
from deploy.local.data import clean
from deploy.local.monitoring import missing_programs
from deploy.local.postgres import temporary_folder
from deploy.local.process import HOST, ROOT, StackError
from deploy.local.stack import Ports, Stack
from tests.support.shop import an_order

DEADLINE = 100

pytestmark = pytest.mark.timeout(240)  # a stack starts slowly beside other tests


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as folder:
        yield folder


def options(ports: Ports) -> list[str]:
    """The ports as arguments."""
    return [f"--{name.replace('_', '-')}-port={port}" for name, port in ports]


@asynccontextmanager
async def supervisor(stack: Stack, verb: str = "up") -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m deploy.local.stack up` or another verb on the folder and ports of a stack."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.local.stack", verb, f"--data-dir={stack.data_dir}", *options(stack.ports)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        children = {}
        if process.returncode is None:
            children = descendants(process.pid)
            process.kill()
        await process.communicate()
        await eventually(lambda: not any(map(alive, children)))  # a Postgres that stops still writes to the folder


async def serving(process: asyncio.subprocess.Process, until: bytes = b"Logs") -> dict[int, str]:
    """Wait until a supervisor has shown its addresses, and return its child processes."""
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE):
        while until not in (line := await process.stdout.readline()):
            assert line, (await process.stderr.read()).decode()
    return descendants(process.pid)


def children(pid: int) -> dict[int, str]:
    """Return the children of a process, with their command lines."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child): Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ") for child in pids}


def descendants(pid: int) -> dict[int, str]:
    """Return the same of all that descend from it."""
    found = children(pid)
    for child in list(found):
        found |= descendants(child)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a defunct one does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.05)


@pytest.mark.prove
async def test_the_life_of_a_stack(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder has one stack and is not deleted under it; SIGKILL leaves no process; the next stack finds the data."""
    stack = Stack(folder, Ports.free(), fast=True)
    async with supervisor(stack) as first:
        children = await serving(first)
        with pytest.raises(StackError, match=rf"in use by another stack, process {first.pid}\."):
            async with Stack(folder, Ports.free()).running():
                pass
        assert clean(folder) == 1
        assert capsys.readouterr().err == (
            f"make clean: {folder} is in use by another stack, process {first.pid}. "
            f"Stop that first: Ctrl-C where it runs, or kill {first.pid}.\n"
        )
        connection = await asyncpg.connect(stack.postgres.url())
        await connection.execute("CREATE TABLE kept ()")
        await connection.close()
        first.kill()
        await eventually(lambda: not any(map(alive, children)))
    async with supervisor(stack) as second:
        children = await serving(second)
        connection = await asyncpg.connect(stack.postgres.url())
        await connection.execute("SELECT FROM kept")
        await connection.close()
        async with httpx.AsyncClient(trust_env=False) as http:
            assert f"{stack.temporal.ui_url}/namespaces/default/workflows" in (await http.get(stack.sandbox.url)).text
        second.terminate()
        assert await asyncio.wait_for(second.wait(), DEADLINE) == 0
        assert not any(map(alive, children))
    assert clean(folder) == 0
    assert not folder.exists()
    assert clean(folder) == 0
    folder.mkdir()


FULL_DISK = """
    mount -t tmpfs -o size=8m none "$1" && chmod 711 "$1" && shift || { echo cannot mount; exit 77; }
    exec "$@"
"""


@pytest.mark.prove
async def test_a_full_disk_is_a_message(folder: Path) -> None:
    """The error names the disk, with exit status 1 and no traceback."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", FULL_DISK, "sh", str(folder)),
        *(sys.executable, "-m", "deploy.local.stack", "up", f"--data-dir={folder}/data", *options(Ports.free())),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), DEADLINE)
    if process.returncode == 77 or b"unshare" in errors:
        pytest.skip("this user may not mount a small disk")
    assert process.returncode == 1, out
    assert f"The disk of {folder}/data is full: free some space, then start the stack again." in errors.decode()
    assert b"Traceback" not in errors


@pytest.mark.prove
async def test_the_order_of_yesterday_can_be_cancelled(folder: Path) -> None:
    """After SIGKILL of everything the next stack refunds what the first one charged."""
    stack = Stack(folder, Ports.free(), fast=True)
    async with supervisor(stack) as first:
        children = await serving(first)
        placed = await submit_order(await client(stack), "yesterday", an_order())
        assert placed.success
        first.kill()
        await eventually(lambda: not any(map(alive, children)))
    async with supervisor(stack) as second:
        await serving(second)
        async with asyncio.timeout(DEADLINE):
            cancelled = await cancel_order(await client(stack), "yesterday")
        assert (cancelled.cancelled, cancelled.refunded) == (True, True)


async def client(stack: Stack) -> Client:
    return await Client.connect(stack.temporal.address, plugins=[plugin()])


@pytest.mark.prove
async def test_no_child_is_restarted(folder: Path) -> None:
    """When one child dies, the others are stopped and the error names it, with exit status 1 and no traceback."""
    async with supervisor(Stack(folder, Ports.free())) as process:
        children = await serving(process)
        os.kill(next(pid for pid, command in children.items() if "-m sandbox" in command), signal.SIGKILL)
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE)
        assert errors.decode().startswith("The sandbox was killed by SIGKILL.")
        assert b"Traceback" not in errors
        assert process.returncode == 1
        assert not any(map(alive, children))


@pytest.mark.prove
async def test_an_interrupted_start_leaves_no_process(folder: Path) -> None:
    """Ctrl-C while the stack is starting stops everything without an error."""
    async with supervisor(Stack(folder, Ports.free())) as process:
        await eventually(lambda: any("initdb" in command for command in descendants(process.pid).values()))
        children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE)
        assert errors == b""
        assert process.returncode == 0
        await eventually(lambda: not any(map(alive, children)))


KEYS = f"k1:{base64.b64encode(bytes(range(32))).decode()}"


@pytest.mark.prove
async def test_a_shop_is_observed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make observe` with encrypted payloads runs all parts; Prometheus, if it is installed, scrapes both programs."""
    monkeypatch.setenv("PAYLOAD_KEYS", KEYS)
    stack = Stack(folder, Ports.free(), fast=True, sealed=True)
    async with supervisor(stack, "observe") as process, httpx.AsyncClient(trust_env=False) as http:
        children = await serving(process, until=b"Ready.")
        temporal = await Client.connect(stack.temporal.address, plugins=[plugin(keys=parse_payload_keys(KEYS))])
        assert (await submit_order(temporal, "observed", an_order())).success
        for address in stack.monitoring.metrics:
            assert "order_sagas_" in (await http.get(f"http://{address}/metrics")).text

        async def value(expression: str) -> str:
            query = f"{stack.monitoring.prometheus_url}/api/v1/query"
            found = (await http.get(query, params={"query": expression})).json()["data"]["result"]
            return str(found[0]["value"][1]) if found else ""

        if not missing_programs():
            async with asyncio.timeout(DEADLINE):
                while await value("sum(order_sagas_orders_total)") != "1" or await value("sum(up)") != "2":
                    await asyncio.sleep(0.5)
            known = await http.get(f"{stack.monitoring.prometheus_url}/api/v1/alertmanagers")
            assert len(known.json()["data"]["activeAlertmanagers"]) == 1
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
        assert not any(map(alive, children))


@pytest.mark.parametrize(
    ("name", "wanted_by"),
    [("postgres", "Postgres"), ("temporal", "Temporal"), ("ui", "Temporal's Web UI"), ("sandbox", "The sandbox")],
)
async def test_a_taken_port_is_a_message(folder: Path, name: str, wanted_by: str) -> None:
    """The error names the taken port and the part that needs it; every started part is stopped."""
    stack = Stack(folder, Ports.free(), fast=True)
    port = getattr(stack.ports, name)
    before = children(os.getpid())  # without theirs: the Postgres of the other tests starts processes at any time
    with socket.create_server((HOST, port)), pytest.raises(StackError, match=f"^{wanted_by} needs port {port} of"):
        async with stack.running():
            pass
    assert children(os.getpid()) == before


async def test_a_taken_port_of_the_web_process_is_a_message(folder: Path) -> None:
    """The error names the taken port of the web process."""
    stack = Stack(folder, Ports.free())
    port = stack.ports.webhooks
    with (
        socket.create_server((HOST, port)),
        pytest.raises(StackError, match=f"^The web process needs port {port} of"),
    ):
        async with stack.webhooks({}):
            pass


def test_no_two_parts_have_one_port() -> None:
    """`make observe` with PAYLOAD_KEYS runs all of them at once."""
    ports = [port for _, port in Ports()]
    assert len(set(ports)) == len(ports)


def test_the_default_ports_match_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without settings finds the stack on its default ports."""
    environment = Stack().environment({})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = Settings()
    for name in environment:
        monkeypatch.delenv(name)
    assert (found.stripe_base, found.openai_base) == (Settings().stripe_base, Settings().openai_base)
    others = {"stripe_api_base", "openai_base_url", "fulfillment_remembers_cancels"}  # the sandbox's warehouse does
    assert found.model_dump(exclude=others) == Settings().model_dump(exclude=others)


def test_given_keys_replace_the_sandbox_but_never_database_or_temporal() -> None:
    """Given keys reach Stripe and OpenAI; database and Temporal are always the stack's."""
    stack = Stack()
    keys = {"STRIPE_SECRET_KEY": "sk_test_own", "OPENAI_API_KEY": "sk-own"}
    given = keys | {"EMAIL_SERVICE_URL": "http://mail", "HOME": "/home/me"}
    environment = stack.environment(given | {"DATABASE_URL": "postgresql://live", "TEMPORAL_API_KEY": "cloud"})
    assert environment.items() >= given.items()
    assert environment["DATABASE_URL"] == stack.postgres.url()
    assert not environment.keys() & {"STRIPE_API_BASE", "OPENAI_BASE_URL", "TEMPORAL_API_KEY"}
    for key, base in (("STRIPE_SECRET_KEY", "OPENAI_BASE_URL"), ("OPENAI_API_KEY", "STRIPE_API_BASE")):
        assert stack.environment({key: keys[key]})[base] == stack.sandbox.settings[base]
