"""The command line as a whole, on the Temporal that the environment or a profile names."""

import typer

from app.cli import demo, orders, products, schedules, verification
from app.cli.command import EXIT_STATUSES, Exit

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Place, cancel, show and resolve orders; check stock; recommend products; verify invariants.",
    epilog=EXIT_STATUSES,
)
for part in (orders, products, verification, demo):
    app.add_typer(part.app)
app.add_typer(schedules.app, name="schedules")


def main() -> int:
    """Run the command that the arguments name; its exit status."""
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else Exit.NO
    return Exit.DONE
