"""Where messages end up: the customers' e-mail, the analytics events, and the channel that gets the alerts."""

import secrets
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import Field, JsonValue
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sandbox.call import REPLAYED, Body, Call, Routes, plain
from sandbox.store import Shelf

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
    text: Text


Message = Email | Event | Alert


@dataclass
class Inbox:
    """What was delivered, oldest first. A message with a known idempotency key is acknowledged, not delivered again."""

    messages: Shelf[Message] = field(default_factory=lambda: Shelf(Message))
    receipts: Shelf[str] = field(default_factory=lambda: Shelf(str))

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
        """Slack's incoming webhook, which knows no idempotency key."""
        self.messages[_receipt()] = Alert.model_validate(call.body)
        return PlainTextResponse("ok")

    def _deliver(self, call: Call, message: Message) -> Response:
        delivery, receipt = f"{call.service} {call.key}", _receipt()
        if known := self.receipts.get(delivery):
            return JSONResponse({"id": known}, headers={REPLAYED: "true"})
        if call.key is not None:
            self.receipts[delivery] = receipt
        self.messages[receipt] = message
        return JSONResponse({"id": receipt})


def _receipt() -> str:
    return f"msg_{secrets.token_hex(8)}"


EMAIL_ROUTES: Final[Routes[Inbox]] = (("POST", "/send", plain(Inbox.send)),)
ANALYTICS_ROUTES: Final[Routes[Inbox]] = (("POST", "/events", plain(Inbox.record)),)
SLACK_ROUTES: Final[Routes[Inbox]] = (("POST", "/webhook", plain(Inbox.alert)),)
