"""The commands that operators are told to type, ready to paste: one line, with the real order id and step."""

import shlex
import sys
from typing import Final

from orders.models import Attention

# As who runs this program would type it: on a laptop from the folder of the project, in the image from its own.
PROGRAM: Final = f"{'.venv/bin/python' if sys.prefix.endswith('/.venv') else 'python'} starter.py"


def command_line(*words: str) -> str:
    """A command of starter.py for a shell; any client may start a run under any id."""
    return f"{PROGRAM} {shlex.join(words)}"


def resolve_command(order_id: str, attention: Attention) -> str | None:
    """How to retry the parked step that a run waits for; None: it waits for no operator.

    A command that leaves the step undone is never ready to paste: only who has settled it by hand may write that.
    """
    if not attention.parked or "retry" not in attention.actions:
        return None
    return command_line("resolve", order_id, "--step", attention.what, "--retry", "--reason", "its cause is corrected")
