"""The commands for what runs by itself."""

from typing import Annotated

import typer

from app.cli.session import EXIT_STATUSES, AsJson, Exit, Session, print_json, run_connected
from app.cli.show import duration, show, show_schedules
from client.schedules import (
    SCHEDULES,
    apply_schedules,
    list_schedules,
    pause_schedule,
    resume_schedule,
    trigger_schedule,
)

app = typer.Typer(
    no_args_is_help=True,
    help="What runs by itself: " + "; ".join(f"{each.workflow} {each.purpose}" for each in SCHEDULES) + ".",
    epilog=EXIT_STATUSES,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `schedules list` shows it.", show_default=False)]


@app.command("apply", epilog=EXIT_STATUSES)
def apply(*, as_json: AsJson = False) -> None:
    """Make the schedules what the settings say. A schedule that is paused stays paused."""

    async def work(session: Session) -> Exit:
        found = await apply_schedules(session.client, session.settings)
        if as_json:
            print_json([each.model_dump(mode="json") | {"link": session.schedule_link(each.name)} for each in found])
        else:
            for each in found:
                facts = {"every": duration(each.every), "Web UI": session.schedule_link(each.name)}
                show(session.out, f"{each.name} is {each.change}", facts)
        return Exit.DONE

    run_connected(work, as_json=as_json)


@app.command("list", epilog=EXIT_STATUSES)
def list_(*, as_json: AsJson = False) -> None:
    """List the schedules: how often, when next, and what became of the last runs."""

    async def work(session: Session) -> Exit:
        found = await list_schedules(session.client)
        if as_json:
            print_json([each.model_dump(mode="json") | {"link": session.schedule_link(each.name)} for each in found])
        else:
            show_schedules(session, found)
        return Exit.DONE

    run_connected(work, as_json=as_json)


@app.command("pause", epilog=EXIT_STATUSES)
def pause(
    name: Name,
    *,
    reason: Annotated[str, typer.Option(help="Why, for those who look later.")],
    as_json: AsJson = False,
) -> None:
    """Let a schedule start nothing until it is resumed. What runs goes on."""

    async def work(session: Session) -> Exit:
        await pause_schedule(session.client, name, reason)
        return _said(session, name, paused=True, reason=reason, as_json=as_json)

    run_connected(work, as_json=as_json)


@app.command("resume", epilog=EXIT_STATUSES)
def resume(
    name: Name,
    *,
    reason: Annotated[str, typer.Option(help="Why, for those who look later.")] = "resumed by hand",
    as_json: AsJson = False,
) -> None:
    """End a pause. What was missed meanwhile stays missed."""

    async def work(session: Session) -> Exit:
        await resume_schedule(session.client, name, reason)
        return _said(session, name, paused=False, reason=reason, as_json=as_json)

    run_connected(work, as_json=as_json)


@app.command("trigger", epilog=EXIT_STATUSES)
def trigger(name: Name, *, as_json: AsJson = False) -> None:
    """Start a run now, paused or not; not while a run of that schedule is under way."""

    async def work(session: Session) -> Exit:
        triggered = await trigger_schedule(session.client, name)
        link = session.link(triggered.workflow_id)
        if as_json:
            print_json(triggered.model_dump(mode="json") | {"link": link})
        elif triggered.started:
            show(session.out, f"{triggered.workflow_id} is started", {"Web UI": link})
        else:
            show(session.out, f"nothing is started: {triggered.workflow_id} is under way", {"Web UI": link})
        return Exit.DONE if triggered.started else Exit.NO

    run_connected(work, as_json=as_json)


def _said(session: Session, name: str, *, paused: bool, reason: str, as_json: bool) -> Exit:
    link = session.schedule_link(name)
    if as_json:
        print_json({"name": name, "paused": paused, "note": reason, "link": link})
    else:
        show(session.out, f"{name} is {'paused' if paused else 'resumed'}: {reason}", {"Web UI": link})
    return Exit.DONE
