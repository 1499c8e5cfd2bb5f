"""The command doctor: the one part of the command line that asks the external services."""

from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from app.cli.command import Environment, Exit, Result, command
from app.cli.layout import count_of, line, table

MARKS: Final = {"ok": Text("ok", "green"), "problem": Text("problem", "bold red"), "skipped": Text("skipped", "dim")}

app = typer.Typer()


@command(app, "doctor")
async def doctor(
    _: Environment,
    *,
    send: Annotated[
        bool, typer.Option("--send", help="Also post a test message to Slack, and embed one word, which costs.")
    ] = False,
) -> Result:
    """Ask everything that this shop needs, and say what is wrong and what to do. It changes nothing."""
    from app.doctor.examination import examine  # noqa: PLC0415 (it needs the clients of all external services)

    found = await examine(send=send)
    problems = sum(each.state == "problem" for each in found)
    skipped = sum(each.state == "skipped" for each in found)

    def show(out: Console) -> None:
        table(out, ("area", "check", "", "found"), [(e.area, e.check, MARKS[e.state], e.text) for e in found])
        line(out, f"{count_of(problems, 'problem')}, {skipped} of {count_of(len(found), 'check')} skipped", "bold")

    return Result([each.model_dump() for each in found], show, Exit.NO if problems else Exit.DONE)
