"""The services that receive messages: customer e-mail, analytics events, and the Slack channel for alerts."""

import secrets
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sandbox.call import REPLAYED, Body, Call, Routes, plain
from sandbox.persistence import PersistentDict

# Slack truncates a longer text (api.slack.com/changelog/2018-04-truncating-really-long-messages).
MAX_ALERT: Final = 40_000
MAX_ATTACHMENTS: Final = 100  # one more is refused (containrrr/shoutrrr#238)

Text = Annotated[str, Field(min_length=1)]


class Email(Body):
    to: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    template: Text
    data: dict[str, JsonValue]


class Event(Body):
    event: Text
    user_id: Text
    properties: dict[str, JsonValue]


class Alert(Body):
    text: str
    blocks: tuple[dict[str, JsonValue], ...] = ()


class TextObject(Body):
    type: Literal["mrkdwn", "plain_text"]
    text: str = Field(min_length=1, max_length=3000)


class Section(Body):
    type: Literal["section"]
    text: TextObject


class Title(Body):
    type: Literal["plain_text"]
    text: str = Field(min_length=1, max_length=150)


class Header(Body):
    type: Literal["header"]
    text: Title


class Context(Body):
    type: Literal["context"]
    elements: tuple[TextObject, ...] = Field(min_length=1, max_length=10)


class Divider(Body):
    type: Literal["divider"]


# The accepted blocks, and their limits (docs.slack.dev/reference/block-kit/blocks).
Block = Annotated[Section | Header | Context | Divider, Field(discriminator="type")]
_BLOCKS: Final = TypeAdapter(Annotated[tuple[Block, ...], Field(max_length=50)])

Message = Email | Event | Alert


@dataclass
class Inbox:
    """The delivered messages, oldest first. A message with a known idempotency key is answered, not delivered again."""

    messages: PersistentDict[Message] = field(default_factory=lambda: PersistentDict(Message))
    receipts: PersistentDict[str] = field(default_factory=lambda: PersistentDict(str))

    @property
    def emails(self) -> list[Email]:
        return [each for each in self.messages.values() if isinstance(each, Email)]

    @property
    def events(self) -> list[Event]:
        return [each for each in self.messages.values() if isinstance(each, Event)]

    @property
    def alerts(self) -> list[Alert]:
        return [each for each in self.messages.values() if isinstance(each, Alert)]

    def send(self, call: Call) -> Response:
        return self._deliver(call, Email.model_validate(call.body))

    def record(self, call: Call) -> Response:
        return self._deliver(call, Event.model_validate(call.body))

    def alert(self, call: Call) -> Response:
        """Receive a post to Slack's incoming webhook, which has no idempotency keys."""
        if error := _error_in(call.body):
            return PlainTextResponse(error, 400)
        blocks = tuple(call.body.get("blocks") or ())
        self.messages[_receipt()] = Alert(text=_shown(call.body)[:MAX_ALERT], blocks=blocks)
        return PlainTextResponse("ok")

    def _deliver(self, call: Call, message: Message) -> Response:
        delivery, receipt = f"{call.service} {call.key}", _receipt()
        if known := self.receipts.get(delivery):
            return JSONResponse({"id": known}, headers={REPLAYED: "true"})
        if call.key is not None:
            self.receipts[delivery] = receipt
        self.messages[receipt] = message
        return JSONResponse({"id": receipt})


def _error_in(payload: object) -> str | None:
    """Return the error code that Slack answers to a payload, or None if it is valid."""
    if not isinstance(payload, dict) or not isinstance(payload.get("text"), str | None):
        return "invalid_payload"
    attachments = payload.get("attachments") or []
    if not isinstance(attachments, list) or not all(isinstance(each, dict) for each in attachments):
        return "invalid_payload"
    if len(attachments) > MAX_ATTACHMENTS:
        return "too_many_attachments"
    if not any(payload.get(part) for part in ("text", "blocks", "attachments")):
        return "no_text"
    try:
        _BLOCKS.validate_python(payload.get("blocks") or ())
    except ValidationError:
        return "invalid_blocks"
    return None


def _shown(payload: dict[str, Any]) -> str:
    """What a reader of the channel sees: the text, then each attachment's title and text (docs.slack.dev/messaging)."""
    lines = [payload.get("text")]
    for attachment in payload.get("attachments") or ():
        lines += [attachment.get(part) for part in ("pretext", "title", "text")]
    return "\n".join(line for line in lines if isinstance(line, str) and line)


def _receipt() -> str:
    return f"msg_{secrets.token_hex(8)}"


EMAIL_ROUTES: Final[Routes[Inbox]] = (("POST", "/send", plain(Inbox.send)),)
ANALYTICS_ROUTES: Final[Routes[Inbox]] = (("POST", "/events", plain(Inbox.record)),)
SLACK_ROUTES: Final[Routes[Inbox]] = (("POST", "/webhook", plain(Inbox.alert)),)
