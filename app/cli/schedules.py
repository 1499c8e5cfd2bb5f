"""The commands about Schedules: apply, list, pause, resume, trigger."""

from typing import Annotated

import typer
from rich.console import Console

from app.cli.command import EXIT_CODES, Environment, Exit, Result, Session, command
from app.cli.layout import show
from app.cli.show import duration, show_schedules
from client.schedules import (
    SCHEDULES,
    apply_schedules,
    list_schedules,
    pause_schedule,
    resume_schedule,
    trigger_schedule,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `schedules list` shows it.", show_default=False)]

app = typer.Typer(
    no_args_is_help=True,
    help="The workflows that run by themselves: "
    + "; ".join(f"{each.workflow} {each.purpose}" for each in SCHEDULES)
    + ".",
    epilog=EXIT_CODES,
)


@command(app, "apply")
async def apply(environment: Environment) -> Result:
    """Create the Schedules, or change them to what the settings say. A paused Schedule stays paused."""
    session = await environment.connect()
    found = await apply_schedules(session.client, session.settings)
    links = {each.name: session.schedule_link(each.name) for each in found}

    def show_all(out: Console) -> None:
        for each in found:
            show(out, f"{each.name} is {each.change}", {"every": duration(each.every), "Web UI": links[each.name]})

    return Result([each.model_dump(mode="json") | {"link": links[each.name]} for each in found], show_all)


@command(app, "list")
async def list_(environment: Environment) -> Result:
    """List the Schedules: how often and when next they run, and how their last runs ended."""
    session = await environment.connect()
    found = await list_schedules(session.client)
    return Result(
        [each.model_dump(mode="json") | {"link": session.schedule_link(each.name)} for each in found],
        lambda out: show_schedules(out, session, found),
    )


@command(app, "pause")
async def pause(
    environment: Environment, name: Name, *, reason: Annotated[str, typer.Option(help="Why, for later readers.")]
) -> Result:
    """Let a Schedule start no run until it is resumed. A run that is under way goes on."""
    session = await environment.connect()
    await pause_schedule(session.client, name, reason)
    return _changed(session, name, paused=True, reason=reason)


@command(app, "resume")
async def resume(
    environment: Environment,
    name: Name,
    *,
    reason: Annotated[str, typer.Option(help="Why, for later readers.")] = "resumed by hand",
) -> Result:
    """End a pause. Runs that were missed meanwhile are not made up for."""
    session = await environment.connect()
    await resume_schedule(session.client, name, reason)
    return _changed(session, name, paused=False, reason=reason)


@command(app, "trigger")
async def trigger(environment: Environment, name: Name) -> Result:
    """Start a run now, also of a paused Schedule; not while a run of that Schedule is under way."""
    session = await environment.connect()
    triggered = await trigger_schedule(session.client, name)
    run = triggered.workflow_id
    text = f"{run} is started" if triggered.started else f"nothing is started: {run} is under way"
    return session.result(
        run,
        triggered,
        lambda out, _, link: show(out, text, {"Web UI": link}),
        Exit.DONE if triggered.started else Exit.NO,
    )


def _changed(session: Session, name: str, *, paused: bool, reason: str) -> Result:
    link = session.schedule_link(name)
    return Result(
        {"name": name, "paused": paused, "note": reason, "link": link},
        lambda out: show(out, f"{name} is {'paused' if paused else 'resumed'}: {reason}", {"Web UI": link}),
    )
