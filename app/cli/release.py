"""The commands about versions of the worker: release to, release status, release rollback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from app.cli.command import EXIT_CODES, Environment, Exit, NoLongerWaiting, Result, Session, command
from app.cli.layout import Cell, line, show, table, time_of
from app.cli.standing import from_database
from client.releases import (
    CANARIES,
    DeploymentView,
    Plan,
    Released,
    canary_order,
    release,
    roll_back,
    view_deployment,
)
from config.settings import Settings
from gateways.report_store import find_sellable
from orders.commands import command_line
from orders.errors import InvalidInput, NotFound

MAX_STEPS: Final = 20
ALL: Final = 100  # percent

Deployment = Annotated[
    str | None, typer.Option(help="The worker deployment. Default: TEMPORAL_DEPLOYMENT_NAME.", show_default=False)
]
BuildId = Annotated[str, typer.Argument(metavar="BUILD_ID", help="As its workers have it.", show_default=False)]

app = typer.Typer(
    no_args_is_help=True,
    help="Give the orders to a new version of the workers step by step, and back if it does badly.",
    epilog=EXIT_CODES,
)


@command(app, "to")
async def to(
    environment: Environment,
    build_id: BuildId,
    *,
    ramp: Annotated[str, typer.Option(help="The shares in percent that it gets before all.")] = "10,50",
    watch: Annotated[int, typer.Option(min=1, max=86_400, help="Seconds that each share is watched.")] = 300,
    deployment: Deployment = None,
) -> Result:
    """Release a version: canary orders, a growing share, all; and back by itself if it does badly."""
    shares = _shares(ramp)
    name = _name(environment.settings, deployment)
    product = await from_database(environment.settings, lambda database: find_sellable(database, CANARIES))
    if product is None:
        raise NotFound(
            f"no product has {CANARIES} units in stock and a price that the payment provider takes, so that canary "
            "orders could be placed: restock one first"
        )
    session = await environment.connect()
    plan = Plan(name, build_id, canary_order(*product), shares, timedelta(seconds=watch))
    async with _until_interrupted(name):
        released = await release(session.client, plan, lambda text: line(environment.out, text))
    return result_of(released)


@command(app, "rollback")
async def rollback(
    environment: Environment,
    build_id: Annotated[
        str | None, typer.Argument(metavar="[BUILD_ID]", help="Default: the version before.", show_default=False)
    ] = None,
    *,
    deployment: Deployment = None,
) -> Result:
    """End a ramp, or give all orders back to an earlier version, whose workers must be running."""
    name = _name(environment.settings, deployment)
    session = await environment.connect()
    async with _until_interrupted(name):
        released = await roll_back(session.client, name, build_id, lambda text: line(environment.out, text))
    return result_of(released, Exit.DONE)


@command(app, "status")
async def status(environment: Environment, *, deployment: Deployment = None) -> Result:
    """Show the versions of the workers, and the runs that are pinned to one, with the command that frees each."""
    name = _name(environment.settings, deployment)
    session = await environment.connect()
    found = await view_deployment(session.client, name)
    return Result(_json(session, found), lambda out: _show(out, session, found))


def _name(settings: Settings, given: str | None) -> str:
    if name := given or settings.temporal_deployment_name:
        return name
    raise InvalidInput(["TEMPORAL_DEPLOYMENT_NAME is not set: give the deployment as --deployment NAME"])


def _shares(ramp: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(each) for each in ramp.split(",") if each.strip())
    except ValueError:
        shares = (-1.0,)
    if not all(0 < each < ALL for each in shares) or list(shares) != sorted(set(shares)) or len(shares) > MAX_STEPS:
        raise InvalidInput(["--ramp: must be growing numbers between 0 and 100, separated by commas, e.g. 10,50"])
    return shares


@asynccontextmanager
async def _until_interrupted(deployment: str) -> AsyncIterator[None]:
    """Raises NoLongerWaiting after Ctrl-C: the versions keep the shares that they have then."""
    try:
        yield
    except asyncio.CancelledError:
        raise NoLongerWaiting(
            "Stopped; the versions keep the shares that they have now. Release again to go on, or go back: "
            + command_line("release", "rollback", "--deployment", deployment)
        ) from None


def result_of(released: Released, rolled_back: Exit = Exit.FAILED) -> Result:
    verb = "is released" if released.state == "released" else "has all orders again"
    current = released.current or "the workers without a version"
    facts: dict[str, Cell | None] = {
        "why": released.reason,
        "started again": released.started_again,
        "still failing": released.failing,
        "no answer": released.unanswered,
    }
    status = Exit.DONE if released.state == "released" else rolled_back
    return Result(
        released.model_dump(mode="json"),
        lambda out: show(out, f"{current} {verb}", facts),
        Exit.NEEDS_OPERATOR if released.failing or released.unanswered else status,
    )


def _json(session: Session, found: DeploymentView) -> dict[str, Any]:
    pinned = [
        each.model_dump(mode="json")
        | {"command": _free(each.workflow_id), "link": session.link(each.workflow_id, each.run_id)}
        for each in found.pinned
    ]
    return found.model_dump(mode="json") | {"pinned": pinned}


def _show(out: Console, session: Session, found: DeploymentView) -> None:
    ramp = (
        f"{found.ramping or 'workers without a version'}, {found.percentage:g} %" if found.ramping is not None else ""
    )
    show(out, found.name, {"current": found.current or "workers without a version", "ramping": ramp})
    rows = [(each.build_id, each.status, time_of(each.created)) for each in found.versions]
    table(out, ("build", "status", "created"), rows)
    for each in found.pinned:
        facts = {"free it": _free(each.workflow_id), "Web UI": session.link(each.workflow_id, each.run_id)}
        show(out, f"{each.workflow_id} is pinned to {each.build_id}", facts)


def _free(workflow_id: str) -> str:
    return f"temporal workflow update-options --workflow-id {workflow_id} --versioning-override-behavior auto_upgrade"
