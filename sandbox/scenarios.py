"""The faults that the page and docs/sandbox.md offer by name."""

from functools import partial
from typing import Final

from pydantic import JsonValue

from sandbox.faults import Fault

REFUND: Final = "POST /v1/refunds"
VOID: Final = "POST /v1/payment_intents/*/cancel"
CAPTURE: Final = "POST /v1/payment_intents/*/capture"
CONFIRM: Final = "POST /v1/payment_intents/*/confirm"


def _refusal(code: str, message: str) -> JsonValue:
    return {"error": {"type": "invalid_request_error", "code": code, "message": message}}


_DISPUTED: Final = _refusal("refund_disputed_payment", "You cannot refund a disputed payment.")
_INVALID_STATE: Final = _refusal("intent_invalid_state", "This PaymentIntent cannot be canceled now.")
_BUSY: Final = _refusal("rate_limit", "Too many requests.")
_ADDRESS: Final = _refusal("address_refused", "No carrier delivers to this address.")
_PACKED: Final = _refusal("already_packed", "This order is packed and cannot be cancelled.")
_TEMPLATE: Final = _refusal("template_unknown", "There is no such template.")

# Without ids of their own: these are copied, and the copies are numbered.
_fault = partial(Fault, id="")

# What the external service does -> the fault that makes it do so, by the name of the scenario.
SCENARIOS: Final[dict[str, tuple[str, Fault]]] = {
    "stripe-down": ("Stripe answers 503", _fault(service="stripe", kind="status")),
    "stripe-busy": ("Stripe limits the rate (429)", _fault(service="stripe", kind="status", status=429, body=_BUSY)),
    "refund-refused": (
        "Stripe refuses the refund",
        _fault(service="stripe", route=REFUND, kind="status", status=400, body=_DISPUTED),
    ),
    "void-refused": (
        "Stripe refuses to void the authorization",
        _fault(service="stripe", route=VOID, kind="status", status=400, body=_INVALID_STATE),
    ),
    "confirm-lost": (
        "Stripe authorizes, and its answer is lost",
        _fault(service="stripe", route=CONFIRM, kind="reset_after"),
    ),
    "capture-lost": (
        "Stripe captures, and its answer is lost",
        _fault(service="stripe", route=CAPTURE, kind="reset_after"),
    ),
    "capture-saved-error": (
        "Stripe saves an error for the capture",
        _fault(service="stripe", route=CAPTURE, kind="saved", status=500, effect=False),
    ),
    "warehouse-down": ("The warehouse answers 503", _fault(service="fulfillment", kind="status")),
    "warehouse-slow": (
        "The warehouse answers after 20 seconds",
        _fault(service="fulfillment", kind="delay", seconds=20, after_effect=True),
    ),
    "warehouse-answer-lost": (
        "The warehouse acts, and its answer is lost",
        _fault(service="fulfillment", kind="reset_after"),
    ),
    "shipment-refused": (
        "The warehouse refuses the shipment",
        _fault(service="fulfillment", route="POST /orders", kind="status", status=422, body=_ADDRESS),
    ),
    "cancel-refused": (
        "The warehouse refuses to cancel the shipment",
        _fault(service="fulfillment", route="POST /orders/*/cancel", kind="status", status=422, body=_PACKED),
    ),
    "email-500": ("E-mail answers 500", _fault(service="email", kind="status", status=500)),
    "email-refused": ("E-mail refuses the message", _fault(service="email", kind="status", status=422, body=_TEMPLATE)),
    "analytics-500": ("Analytics answers 500", _fault(service="analytics", kind="status", status=500)),
    "slack-500": ("Slack answers 500", _fault(service="slack", kind="status", status=500)),
    "openai-down": ("OpenAI answers 503", _fault(service="openai", kind="status")),
    "webhook-lost": ("A webhook is lost", _fault(service="webhooks", kind="drop")),
    "webhook-twice": ("A webhook arrives twice", _fault(service="webhooks", kind="duplicate")),
    "webhook-late": ("A webhook arrives 20 seconds late", _fault(service="webhooks", kind="delay", seconds=20)),
}


def title_of(fault: Fault) -> str:
    """Say what the external service does; of a fault that is not in the table, its service, kind and route."""
    for title, known in SCENARIOS.values():
        if known.model_copy(update={"id": fault.id, "times": fault.times, "order": fault.order}) == fault:
            return title
    status = f" {fault.status}" if fault.kind in ("status", "saved") else ""
    return f"{fault.service}: {fault.kind}{status} for {fault.route}"


def calls_of(fault: Fault) -> str:
    """Say which calls the fault hits."""
    about = f" about {fault.order}" if fault.order else ""
    match fault.times:
        case None:
            return f"every call{about}, until it is removed"
        case 1:
            return f"the next call{about}"
        case times:
            return f"the next {times} calls{about}"
