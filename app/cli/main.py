"""The command line as a whole, on the Temporal that the environment or a profile names."""

import typer

from app.cli import catalogue, demo, doctor, orders, privacy, products, release, schedules, verification
from app.cli.command import EXIT_CODES, MEANINGS, Environment, Exit, Result, command
from app.cli.layout import table
from config.streams import open_streams

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Place, cancel, show and resolve orders; check stock; recommend products; verify invariants.",
    epilog=EXIT_CODES,
)
for part in (orders, products, verification, privacy, doctor, demo):
    app.add_typer(part.app)
app.add_typer(schedules.app, name="schedules")
app.add_typer(catalogue.app, name="catalogue")
app.add_typer(release.app, name="release")


@command(app, "exit-codes")
async def exit_codes(_: Environment) -> Result:
    """List the exit statuses of the commands, and what each means."""
    return Result(
        {str(status): meaning for status, meaning in MEANINGS.items()},
        lambda out: table(out, ("status", "meaning"), [(str(status), text) for status, text in MEANINGS.items()]),
    )


def main() -> int:
    """Run the command that the arguments name; its exit status."""
    open_streams()
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else Exit.NO
    return Exit.DONE
