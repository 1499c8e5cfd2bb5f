"""Where messages end up: the customers' e-mail, the analytics events, and the channel that gets the alerts."""

import secrets
from dataclasses import dataclass, field
from typing import Annotated, Final, TypeVar

from pydantic import Field, JsonValue
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sandbox.call import REPLAYED, Body, Call, Routes, plain

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


Message = TypeVar("Message", Email, Event)


@dataclass
class Inbox:
    """What was delivered, oldest first. A message with a known idempotency key is acknowledged, not delivered again."""

    emails: list[Email] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    receipts: dict[tuple[str, str], str] = field(default_factory=dict)

    def send(self, call: Call) -> Response:
        return self._deliver(call, Email.model_validate(call.body), self.emails)

    def record(self, call: Call) -> Response:
        return self._deliver(call, Event.model_validate(call.body), self.events)

    def alert(self, call: Call) -> Response:
        """Slack's incoming webhook, which knows no idempotency key."""
        self.alerts.append(Alert.model_validate(call.body))
        return PlainTextResponse("ok")

    def _deliver(self, call: Call, message: Message, box: list[Message]) -> Response:
        receipt = f"msg_{secrets.token_hex(8)}"
        if call.key is not None:
            known = self.receipts.setdefault((call.service, call.key), receipt)
            if known != receipt:
                return JSONResponse({"id": known}, headers={REPLAYED: "true"})
        box.append(message)
        return JSONResponse({"id": receipt})


EMAIL_ROUTES: Final[Routes[Inbox]] = (("POST", "/send", plain(Inbox.send)),)
ANALYTICS_ROUTES: Final[Routes[Inbox]] = (("POST", "/events", plain(Inbox.record)),)
SLACK_ROUTES: Final[Routes[Inbox]] = (("POST", "/webhook", plain(Inbox.alert)),)
