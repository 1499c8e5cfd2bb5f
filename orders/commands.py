"""The commands that operators are told to type, ready to paste: one line, with the real order id and step."""

import shlex
from typing import Final

from orders.models import Attention

PROGRAM: Final = ".venv/bin/python starter.py"
REASONS: Final = {"retry": "its cause is corrected", "resolved": "settled by hand"}


def command_line(*words: str) -> str:
    """A command of starter.py for a shell; any client may start a run under any id."""
    return f"{PROGRAM} {shlex.join(words)}"


def resolve_command(order_id: str, attention: Attention) -> str | None:
    """How to resolve what a run waits for; None: the run takes no resolution.

    A parked step waits to be retried. One that keeps failing is retried anyway: an operator can only end that.
    """
    action = "retry" if attention.parked or "resolved" not in attention.actions else "resolved"
    if action not in attention.actions:
        return None
    return command_line("resolve", order_id, "--step", attention.what, f"--{action}", "--reason", REASONS[action])
