"""The command demo: the one part of the command line that needs the local stack."""

from typing import Annotated

import typer

from app.cli.command import Environment, Exit, Result, command
from app.cli.show import json_of

app = typer.Typer()


@command(app, "demo")
async def demo(
    environment: Environment,
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every invariant by its text.")] = False,
) -> Result:
    """Place orders of every kind on the local stack, and check stock and money afterwards."""
    from deploy.local.demo import run_demo  # noqa: PLC0415 (it needs packages that only the local stack installs)

    session = await environment.connect()
    report = await run_demo(session.client, session.settings, environment.out, verbose=verbose)
    return Result(json_of(report), lambda _: None, Exit.DONE if report.passed else Exit.NO)
