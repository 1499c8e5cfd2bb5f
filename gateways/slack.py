"""Messages to Slack's incoming webhook, in the form that it accepts (docs.slack.dev/reference/block-kit)."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, Literal

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from gateways.http import CLIENT_ERRORS, not_understood, post_json, raise_for_refusal
from orders.plain_text import without_harmful

MAX_NAME: Final = 150
MAX_SECTION: Final = 3_000  # characters of one section; a message has at most 50 of them

# Characters of all sections of a message. Slack does not document the limit; it accepted 9,597 and refused 11,341
# (slackapi/bolt-js#2867).
MAX_MESSAGE: Final = 9_000

ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class _Answer(BaseModel):
    ok: Literal[True]


async def post(
    http: httpx.AsyncClient,
    webhook: SecretStr,
    body: object,
    headers: Mapping[str, str],
    client_errors: AbstractSet[int] = CLIENT_ERRORS,
) -> None:
    """Post a message, and return only if Slack has accepted it: it answers `ok`, or an object in which `ok` is true.

    Raises:
        Permanent: Slack refuses the message, by one of the statuses `client_errors`.
        Unavailable: anything else, e.g. an outage, or the page of a proxy; the message may be in the channel.
    """
    response = await post_json(http, "slack", webhook.get_secret_value(), body, headers)
    raise_for_refusal("slack", response, client_errors)
    if response.text.strip() == "ok":
        return
    try:
        _Answer.model_validate_json(response.content)
    except ValidationError:
        raise not_understood("slack", response) from None


def plain(text: str) -> str:
    """A name as one short line that Slack cannot read as a mention, a link or the beginning of a code block."""
    line = " ".join(without_harmful(text).split())
    return line[:MAX_NAME].replace("`", "'").translate(ESCAPES)


def escape(text: str) -> str:
    """The text as Slack shows it, whatever external services have put into it: it mentions nobody."""
    return text.translate(ESCAPES)


def compose(text: str, title: str, lines: Iterable[str]) -> tuple[dict[str, object], int]:
    """The body of one message with as many of the lines as fit, and their number, which is at least one.

    Args:
        text: what Slack's notifications show instead of the sections.
        title: above the first line, in bold.
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
    # Verbatim: Slack must not turn plain words such as @here into mentions or links.
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _length(text: str) -> int:
    """In UTF-16 units: never fewer than characters, so the limit holds whichever of the two Slack counts."""
    return len(text.encode("utf-16-le")) // 2
