"""What the page's forms and curl can do, by one POST each: script a fault, act as customer, bank or warehouse.

A browser is sent back to the page; any other client gets one line of text that says what happened.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox.call import Refused
from sandbox.faults import Fault, UnknownServiceError
from sandbox.fulfillment import Arrival, Lack
from sandbox.page import Page
from sandbox.scenarios import SCENARIOS, calls_of, title_of
from sandbox.stripe import PaymentIntent, Stripe
from sandbox.world import World

ALWAYS: Final = "always"


class Impossible(Exception):
    """The action cannot be done now. The message says why, and what to do."""


class Form(BaseModel):
    """The fields of an action. An unknown field is refused: it may be a typing error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Order(Form):
    order: str = Field(min_length=1)


class Outcome(Order):
    outcome: Literal["succeed", "fail"]

    @property
    def succeeds(self) -> bool:
        return self.outcome == "succeed"


class Warned(Order):
    kind: Literal["dispute", "fraud_warning", "review"]


Times = Annotated[int | None, BeforeValidator(lambda value: None if value == ALWAYS else value)]


class Break(Form):
    """`times`: how many calls the fault hits, or `always`. `order`: it hits only orders whose id contains this."""

    scenario: str
    times: Times = 1
    order: str | None = None


class CustomFault(Form):
    service: str
    kind: str
    route: str = "*"
    status: int = 503
    seconds: float = 1
    times: Times = 1
    order: str | None = None


class Removed(Form):
    id: str


F = TypeVar("F", bound=Form)
T = TypeVar("T")


class Actions:
    def __init__(self, world: World, page: Page) -> None:
        self._world = world
        self._page = page

    def routes(self) -> list[Route]:
        return [
            self._route("break", Break, self._break),
            self._route("fault", CustomFault, self._add_fault),
            self._route("remove-fault", Removed, self._remove_fault),
            self._route("clear-faults", Form, self._clear_faults),
            self._route("authenticate", Outcome, self._authenticate),
            self._route("expire", Order, self._expire),
            self._route("settle", Outcome, self._settle),
            self._route("warn", Warned, self._warn),
            self._route("end-warning", Outcome, self._end_warning),
            self._route("ship", Order, self._ship),
            self._route("ship-part", Order, self._ship_part),
            self._route("deliver", Order, self._deliver),
            self._route("short", Order, self._short),
            self._route("forget", Order, self._forget),
        ]

    def _route(self, name: str, kind: type[F], act: Callable[[F], str]) -> Route:
        async def respond(request: Request) -> Response:
            fields = dict(parse_qsl((await request.body()).decode(errors="replace")))
            try:
                said = act(kind.model_validate(fields))
            except ValidationError as problem:
                return self._refuse(request, 422, _wrong_fields(problem))
            except UnknownServiceError as problem:
                return self._refuse(request, 422, str(problem))
            except Impossible as problem:
                return self._refuse(request, 409, str(problem))
            return _back(request, "" if "fault" in name or name == "break" else fields.get("order", ""), said)

        return Route(f"/actions/{name}", respond, methods=["POST"])

    def _refuse(self, request: Request, status: int, why: str) -> Response:
        if _is_browser(request):
            return self._page.response({}, why, status)
        return PlainTextResponse(f"{why}\n", status)

    # --------------------------------------------------------------------------------------------------------- faults

    def _break(self, form: Break) -> str:
        if form.scenario not in SCENARIOS:
            raise Impossible(f"There is no scenario {form.scenario}. There are: {', '.join(SCENARIOS)}.")
        _, fault = SCENARIOS[form.scenario]
        return self._script(fault.model_dump(exclude={"id"}) | form.model_dump(exclude={"scenario"}))

    def _add_fault(self, form: CustomFault) -> str:
        return self._script(form.model_dump())

    def _script(self, fields: dict[str, Any]) -> str:
        fault = self._world.faults.add(Fault.model_validate(fields))
        return f"{fault.id}: {title_of(fault)}: {calls_of(fault)}"

    def _remove_fault(self, form: Removed) -> str:
        if all(each.id != form.id for each in self._world.faults.pending()):
            raise Impossible(f"There is no fault {form.id}. It may have hit.")
        self._world.faults.remove(form.id)
        return f"{form.id} is removed"

    def _clear_faults(self, _: Form) -> str:
        self._world.faults.clear()
        return "no fault is left"

    # ------------------------------------------------------------------------------------------- the customer and banks

    def _authenticate(self, form: Outcome) -> str:
        intent = self._payment(form.order, "requires_action", "waits for 3DS")
        self._account.authenticate(intent.id, succeeds=form.succeeds)
        return f"{form.order}: the customer has {'passed' if form.succeeds else 'failed'} 3DS"

    def _expire(self, form: Order) -> str:
        self._account.expire(self._payment(form.order, "requires_capture", "is authorized and not captured").id)
        return f"{form.order}: the authorization has expired"

    def _settle(self, form: Outcome) -> str:
        intents = {each.id for each in self._payments(form.order)}
        refunds = [each for each in self._account.refunds.values() if each.payment_intent in intents and each.stands]
        if form.succeeds:
            refunds = [each for each in refunds if each.status != "succeeded"]
        wanted = "pending" if form.succeeds else "pending or done"
        refund = _latest(refunds, f"No refund of order {form.order} is {wanted}.")
        self._account.settle(refund.id, succeeds=form.succeeds)
        return f"{form.order}: the refund has {'succeeded' if form.succeeds else 'failed'}"

    def _warn(self, form: Warned) -> str:
        self._account.warn(form.kind, self._payment(form.order, "succeeded", "is captured").id)
        return f"{form.order}: there is a {form.kind.replace('_', ' ')}"

    def _end_warning(self, form: Outcome) -> str:
        intents = {each.id for each in self._payments(form.order)}
        warnings = [each for each in self._account.warnings.values() if each.payment_intent in intents and each.is_open]
        warning = _latest(warnings, f"Order {form.order} has no open dispute, fraud warning or review.")
        ended = self._account.end_warning(warning.id, succeeds=form.succeeds)
        return f"{form.order}: the {ended['object'].rpartition('.')[2].replace('_', ' ')} has ended"

    def _payment(self, order: str, status: str, means: str) -> PaymentIntent:
        payments = [each for each in self._payments(order) if each.status == status]
        return _latest(payments, f"No payment of order {order} {means}.")

    def _payments(self, order: str) -> Iterable[PaymentIntent]:
        return [each for each in self._account.intents.values() if each.metadata.get("order_id") == order]

    @property
    def _account(self) -> Stripe:
        return self._world.stripe.account

    # --------------------------------------------------------------------------------------------------- the warehouse

    def _ship(self, form: Order) -> str:
        return self._move(form.order, "shipped", lambda: self._world.fulfillment.send(form.order, None))

    def _short(self, form: Order) -> str:
        warehouse = self._world.fulfillment
        return self._move(form.order, "shorted: the rest can never leave", lambda: warehouse.lack(form.order, Lack()))

    def _ship_part(self, form: Order) -> str:
        warehouse = self._world.fulfillment
        return self._move(form.order, "shipped in part", lambda: warehouse.send_part(form.order))

    def _deliver(self, form: Order) -> str:
        return self._move(form.order, "delivered", lambda: self._world.fulfillment.bring(form.order, Arrival()))

    def _move(self, order: str, status: str, act: Callable[[], Response]) -> str:
        try:
            act()
        except Refused as refusal:
            raise Impossible(f"The warehouse says of order {order}: {refusal}") from None
        return f"{order}: the order is {status}"

    def _forget(self, form: Order) -> str:
        if all(each.order.order_id != form.order for each in self._world.fulfillment.shipments.values()):
            raise Impossible(f"The warehouse has no order {form.order}.")
        self._world.fulfillment.forget(form.order)
        return f"{form.order}: the warehouse has forgotten the order"


def _latest(found: list[T], otherwise: str) -> T:
    if not found:
        raise Impossible(otherwise)
    return found[-1]


def _wrong_fields(problem: ValidationError) -> str:
    wrong = (f"{'.'.join(map(str, each['loc'][:1])) or 'fault'}: {each['msg']}" for each in problem.errors())
    return f"The fields are not right. {'; '.join(wrong)}."


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _back(request: Request, order: str, said: str) -> Response:
    """Send a browser back to where it was, with the order open; tell any other client what happened."""
    if not _is_browser(request):
        return PlainTextResponse(f"{said}\n", 303, {"Location": "/"})
    page, _, query = request.headers.get("referer", "").partition("?")
    fields = parse_qsl(query) if page == str(request.base_url) else []
    if order and ("open", order) not in fields:
        fields.append(("open", order))
    query = f"?{urlencode(fields)}" if fields else ""
    return RedirectResponse(f"/{query}#{quote(f'order-{order}') if order else 'faults'}", 303)
