"""Restate: a workflow whose steps are recorded by a server of its own, which calls the worker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.arms.arm import Arm, Entrance, Payload, Place, Post, Server
from benchmarks.arms.no_engine import FASTEST
from benchmarks.arms.steps import AFTERWARDS, FORWARD, open_steps, order_of
from config.settings import Settings
from deploy.local.process import HOST, ROOT, Command, free_ports, running

PROGRAM: Final = "benchmarks/restate_server/node_modules/@restatedev/restate-server-*/bin/restate-server"

CONFIG: Final = """
base-dir = "{folder}"
listen-mode = "tcp"
bind-address = "{host}:{node}"
advertised-address = "http://{host}:{node}"
disable-telemetry = true
log-filter = "warn"
[admin]
bind-address = "{host}:{admin}"
[ingress]
bind-address = "{host}:{ingress}"
"""


@asynccontextmanager
async def serve(folder: Path) -> AsyncIterator[Server]:
    """The server of Restate, with its data in the folder. Raises StackError."""
    node, admin, ingress = free_ports(3)
    config = folder / "restate.toml"
    folder.mkdir()  # noqa: ASYNC240 (once)
    config.write_text(CONFIG.format(folder=folder / "data", host=HOST, node=node, admin=admin, ingress=ingress))
    program = next(ROOT.glob(PROGRAM))
    command = Command(
        name="Restate", argv=(str(program), "--config-file", str(config)), log=folder / "restate.log", grace=30
    )
    async with running(command) as child, httpx.AsyncClient() as http:

        async def healthy() -> bool:
            try:
                answers = [
                    await http.get(url)
                    for url in (f"http://{HOST}:{admin}/health", f"http://{HOST}:{ingress}/restate/health")
                ]
            except httpx.TransportError:
                return False
            return all(answer.is_success for answer in answers)

        await child.ready(healthy, within=90)
        yield Server(child.pid, f"http://{HOST}:{admin}", f"http://{HOST}:{ingress}")


@asynccontextmanager
async def work(settings: Settings, post: Post) -> AsyncIterator[None]:
    """Serve the workflow to the server, which is told so."""
    import restate  # noqa: PLC0415 (an optional package)
    from hypercorn.asyncio import serve as serve_http  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415

    async with open_steps(settings) as steps:
        workflow = restate.Workflow("Order")

        async def run(context: restate.WorkflowContext, payload: Payload) -> str:
            order = order_of(context.key(), payload)
            for name in FORWARD:
                await context.run_typed(name, steps[name], restate.RunOptions(), order)
            await context.promise("answer").resolve("placed")
            afterwards = [context.run_typed(name, steps[name], restate.RunOptions(), order) for name in AFTERWARDS]
            await restate.gather(*afterwards)
            return "done"

        async def answer(context: restate.WorkflowSharedContext) -> Any:  # noqa: ANN401 (as it was resolved)
            return await context.promise("answer").value()

        workflow.main()(run)
        workflow.handler()(answer)
        config = Config()
        config.bind = [f"{HOST}:{post.port}"]
        config.accesslog = None
        stop = asyncio.Event()
        serving = asyncio.create_task(serve_http(restate.app([workflow]), config, shutdown_trigger=stop.wait))
        try:
            await _register(post)
            yield
        finally:
            stop.set()
            await serving


async def _register(post: Post) -> None:
    """Tell the server where this worker is, once it answers."""
    async with httpx.AsyncClient(timeout=30, transport=httpx.AsyncHTTPTransport(retries=5)) as http:
        where = {"uri": f"http://{HOST}:{post.port}", "force": True}
        (await http.post(f"{post.engine_url}/deployments", json=where)).raise_for_status()


def client(entrance: Entrance) -> Place:
    async def place(order_id: str, payload: Payload, answered: Callable[[], None]) -> None:
        order = f"{entrance.url}/Order/{order_id}"

        async def wait() -> None:
            (await entrance.http.post(f"{order}/answer")).raise_for_status()
            answered()

        async with asyncio.TaskGroup() as group:
            run = group.create_task(entrance.http.post(f"{order}/run", json=payload))
            group.create_task(wait())
        run.result().raise_for_status()

    return place


def missing() -> str:
    """Why the server cannot run; empty: it can."""
    return "" if any(ROOT.glob(PROGRAM)) else "its server is not installed: npm is missing"


RESTATE_7: Final = Arm(
    name="restate-7",
    title="Restate, the same seven steps, on its own server",
    engine="restate",
    worker=work,
    client=client,
    settings=FASTEST,
    package="restate",
    server=serve,
    lacks=missing,
)
