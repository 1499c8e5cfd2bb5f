"""Messages that Slack accepts and that mean there what they say here (docs.slack.dev/reference/block-kit)."""

import re
from collections.abc import Iterable
from typing import Final

MAX_NAME: Final = 150
MAX_SECTION: Final = 3_000  # characters of one section; a message has at most 50 of them

# Of all sections of a message. It is not documented; 9,597 were accepted and 11,341 refused (slackapi/bolt-js#2867).
MAX_MESSAGE: Final = 9_000

ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})

# Whitespace, control characters, and those that turn the direction of what follows.
UNPRINTABLE: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


def plain(text: str) -> str:
    """A name as one short line that mentions nobody, links nowhere and opens no code block over what follows."""
    line = UNPRINTABLE.sub(" ", text).strip()
    return line[:MAX_NAME].replace("`", "'").translate(ESCAPES)


def compose(text: str, title: str, lines: Iterable[str]) -> tuple[dict[str, object], int]:
    """The body of one message with as many of the lines as fit, and how many those are: at least one.

    Args:
        text: what notifications show in place of the sections.
        title: in bold above the first line.
        lines: in mrkdwn, each much shorter than a section.
    """
    sections, named, room = [f"*{title}*"], 0, MAX_MESSAGE - _length(title) - 2
    for line in lines:
        room -= _length(line) + 1
        if room < 0:
            break
        if _length(sections[-1]) + 1 + _length(line) > MAX_SECTION:
            sections.append(line)
        else:
            sections[-1] += f"\n{line}"
        named += 1
    return {"text": text, "blocks": [_section(section) for section in sections]}, named


def _section(text: str) -> dict[str, object]:
    # Verbatim: Slack makes no links and no mentions out of plain words such as @here.
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _length(text: str) -> int:
    """In units of UTF-16, of which there are never fewer than characters, whichever of them Slack counts."""
    return len(text.encode("utf-16-le")) // 2
