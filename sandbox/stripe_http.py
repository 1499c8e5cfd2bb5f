"""Stripe's API over HTTP: API keys, form parameters, idempotency (docs.stripe.com/api/idempotent_requests), errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from sandbox.call import REPLAYED, Call, Handler, Routes, parse_form
from sandbox.faults import FaultHit
from sandbox.persistence import PersistentDict
from sandbox.stripe import Stripe, StripeError, View
from sandbox.stripe_params import (
    CODES,
    CancelIntent,
    CaptureIntent,
    ConfirmIntent,
    CreateIntent,
    CreateRefund,
    ListIntents,
    ListRefunds,
    Nothing,
    Page,
    Params,
)
from sandbox.stripe_warnings import Dispute, FraudWarning, PaymentWarning, Review

MAX_KEY: Final = 255

# From this API version on, payment_method_types is read-only (docs.stripe.com/changelog/endive).
ENDIVE: Final = "2026-09-30"

WARNINGS: Final[Mapping[str, type[PaymentWarning]]] = {
    "/v1/disputes": Dispute,
    "/v1/radar/early_fraud_warnings": FraudWarning,
    "/v1/reviews": Review,
}

P = TypeVar("P", bound=Params)


@dataclass(frozen=True)
class Answer:
    status: int
    body: str
    media_type: str | None

    @classmethod
    def of(cls, answer: Response) -> Self:
        return cls(answer.status_code, bytes(answer.body).decode(), answer.media_type)


@dataclass
class Saved:
    """The request and answer saved under an idempotency key. Without an answer, the request is still running."""

    path: str
    params: dict[str, Any]
    answer: Answer | None = None

    def is_of(self, path: str, params: Params) -> bool:
        return (self.path, self.params) == (path, params.model_dump(mode="json"))


@dataclass(frozen=True)
class Misuse:
    """A POST without an idempotency key, or with the key of another request. `order` comes from the metadata."""

    order: str | None
    path: str
    what: str


@dataclass
class StripeApi:
    """One account, the answers saved by idempotency key, and the misuses of keys."""

    account: Stripe = field(default_factory=Stripe)
    keys: PersistentDict[Saved] = field(default_factory=lambda: PersistentDict(Saved))
    misuses: PersistentDict[Misuse] = field(default_factory=lambda: PersistentDict(Misuse))

    def forget_unanswered(self) -> None:
        """Drop the requests that were running when the sandbox stopped."""
        for key in [key for key, saved in self.keys.items() if saved.answer is None]:
            del self.keys[key]

    async def once(self, call: Call, params: Params, hit: FaultHit, act: Callable[[], View]) -> Response:
        """Act once per idempotency key; repeat the first answer to later requests, errors included."""
        if call.method != "POST" or call.key is None:
            if call.method == "POST":
                self._record_misuse(call, params, "without an idempotency key")
            return await hit.inside(lambda: _answer(act))
        if len(call.key) > MAX_KEY:
            raise StripeError(400, f"An idempotency key has at most {MAX_KEY} characters.")
        if saved := self.keys.get(call.key):
            if not saved.is_of(call.path, params):
                self._record_misuse(call, params, f"the key {call.key} was used for another request")
            return _replay(saved, call.path, params)
        saved = self.keys[call.key] = Saved(call.path, params.model_dump(mode="json"))
        answer = await hit.inside(lambda: _answer(act))
        saved.answer = Answer.of(answer)
        self.keys.touch(call.key)
        return answer

    def _record_misuse(self, call: Call, params: Params, what: str) -> None:
        given = params.model_dump(mode="json")
        intent = self.account.intents.get(call.ids.get("id") or given.get("payment_intent") or "")
        metadata = {**(intent.metadata if intent else {}), **given.get("metadata", {})}
        self.misuses[f"{len(self.misuses)}"] = Misuse(metadata.get("order_id"), call.path, what)


def _operation(model: type[P], act: Callable[[Stripe, P, str], View]) -> Handler[StripeApi]:
    """Return the handler of an endpoint: its parameters and its effect, which gets the id in the path."""

    async def handle(api: StripeApi, call: Call, hit: FaultHit) -> Response:
        try:
            _authenticate(call)
            params = _parse(model, call)
            return await api.once(call, params, hit, lambda: act(api.account, params, call.ids.get("id", "")))
        except StripeError as refusal:
            return refused(refusal)

    return handle


def _list_of(path: str, kind: type[PaymentWarning]) -> Handler[StripeApi]:
    return _operation(Page, lambda stripe, params, _: stripe.list_warnings(path, kind, params))


def _answer(act: Callable[[], View]) -> Response:
    try:
        return JSONResponse(act())
    except StripeError as refusal:
        return refused(refusal)


def refused(error: StripeError) -> Response:
    return JSONResponse(error.body, error.status)


def _replay(saved: Saved, path: str, params: Params) -> Response:
    if not saved.is_of(path, params):
        message = "This idempotency key was first used with another path or other parameters."
        raise StripeError(400, message, kind="idempotency_error")
    if saved.answer is None:
        raise StripeError(409, "The first request with this key is still running.", code="idempotency_key_in_use")
    first = saved.answer
    return Response(first.body, first.status, {REPLAYED: "true"}, media_type=first.media_type)


def _authenticate(call: Call) -> None:
    if not call.bearer:
        raise StripeError(401, "There is no API key in the Authorization header.")
    if not call.bearer.startswith(("sk_test_", "rk_test_")):
        raise StripeError(401, "The sandbox accepts test keys only: sk_test_… or rk_test_….")


def _parse(model: type[P], call: Call) -> P:
    given = parse_form(call.query if call.method == "GET" else call.content.decode(errors="replace"))
    if "payment_method_types" in given and call.headers.get("stripe-version", "") >= ENDIVE:
        param = "payment_method_types"
        raise StripeError(400, "Use allowed_payment_method_types.", code=f"{param}_no_longer_supported", param=param)
    try:
        return model.model_validate(given)
    except ValidationError as problem:
        first = problem.errors()[0]
        param = ".".join(map(str, first["loc"])) or "body"
        code = CODES.get(first["type"])
        raise StripeError(400, f"{param}: {first['msg']}", param=param, **({"code": code} if code else {})) from None


ROUTES: Final[Routes[StripeApi]] = (
    ("POST", "/v1/payment_intents", _operation(CreateIntent, lambda stripe, params, _: stripe.create_intent(params))),
    ("GET", "/v1/payment_intents", _operation(ListIntents, lambda stripe, params, _: stripe.list_intents(params))),
    ("GET", "/v1/payment_intents/{id}", _operation(Nothing, lambda stripe, _, id_: stripe.retrieve_intent(id_))),
    (
        "POST",
        "/v1/payment_intents/{id}/confirm",
        _operation(ConfirmIntent, lambda stripe, params, id_: stripe.confirm_intent(id_, params)),
    ),
    (
        "POST",
        "/v1/payment_intents/{id}/capture",
        _operation(CaptureIntent, lambda stripe, params, id_: stripe.capture_intent(id_, params)),
    ),
    (
        "POST",
        "/v1/payment_intents/{id}/cancel",
        _operation(CancelIntent, lambda stripe, params, id_: stripe.cancel_intent(id_, params)),
    ),
    ("POST", "/v1/refunds", _operation(CreateRefund, lambda stripe, params, _: stripe.create_refund(params))),
    ("GET", "/v1/refunds", _operation(ListRefunds, lambda stripe, params, _: stripe.list_refunds(params))),
    *(
        ("GET", f"{path}/{{id}}", _operation(Nothing, lambda stripe, _, id_: stripe.retrieve_warning(id_)))
        for path in WARNINGS
    ),
    *(("GET", path, _list_of(path, kind)) for path, kind in WARNINGS.items()),
    ("GET", "/v1/refunds/{id}", _operation(Nothing, lambda stripe, _, id_: stripe.retrieve_refund(id_))),
)
