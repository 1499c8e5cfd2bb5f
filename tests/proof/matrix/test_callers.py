"""The fault matrix, callers: repeated requests, cancels at every step, and invalid input.

Cancels of an order paid at once are in tests/workflows: test_failures.py (an operator's), test_cancel_order.py (a
customer's) and test_reconcile_orders.py (a run that is terminated). Here its customer authenticates the payment first.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from temporalio.api.common.v1 import Payload as RawPayload
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.common import RawValue, WorkflowIDReusePolicy
from temporalio.converter import DataConverter
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from client.orders import order_status, submit_order
from deploy.local.postgres import Postgres
from orders.errors import InvalidInput, UnknownOrder
from orders.models import CancelOutcome, OrderOutcome, Stage
from orders.names import CANCEL_ORDER, PROCESS_ORDER, cancel_order_id
from tests.proof.matrix.endings import ORDER_ID, PLACED, TOTAL, ExpectedEnding, check_ending, reconcile
from tests.support.activity_hooks import Held, Moment
from tests.support.scenarios import REFUSED_ADDRESS, Run, ending_of, final_error, is_running, until_stage, until_stuck
from tests.support.servers import copy_database
from tests.support.shop import Payload, Shop, an_order, eventually, new_order_id, open_shop

CALLERS: Final = 8  # at once

CANCELLED = ExpectedEnding("completed", "cancelled", "cancelled")
CANCELLED_RUN = ExpectedEnding("cancelled", None, "cancelled")
CANCELLED_AND_REFUNDED = replace(PLACED, status="cancelled", refunded=TOTAL)
VOIDED = ExpectedEnding("completed", "fulfillment_refused", "rejected")

# What was charged at once, before the cancel came, or the warehouse refused.
CHARGED_AND_CANCELLED = replace(CANCELLED, captured=TOTAL, refunded=TOTAL)
CHARGED_AND_CANCELLED_RUN = replace(CANCELLED_RUN, captured=TOTAL, refunded=TOTAL)
CHARGED_AND_REFUSED = replace(VOIDED, captured=TOTAL, refunded=TOTAL)

THREE_D_SECURE = an_order(paymentMethodId="pm_card_authenticationRequired")
REFUSED = an_order(shippingAddress=REFUSED_ADDRESS)
OTHER = an_order(items=[{"productId": "3", "quantity": 4}])


@pytest.fixture(scope="module")
async def shops(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Mapping[str, Shop]]:
    """A shop that captures after the warehouse has accepted, and one that charges at once."""
    async with (
        copy_database(postgres) as url,
        open_shop(url, temporal, reconcile_after_seconds=0) as manual,
        open_shop(url, temporal, payment_capture="automatic", reconcile_after_seconds=0) as automatic,
    ):
        yield {"manual": manual, "automatic": automatic}


async def opened(shops: Mapping[str, Shop], capture: str = "manual") -> Shop:
    """The shop with this way of charging, as new."""
    await shops[capture].clear()
    return shops[capture]


@pytest.fixture
async def shop(shops: Mapping[str, Shop]) -> Shop:
    return await opened(shops)


@pytest.fixture
def order_id() -> str:
    """An id that Temporal does not know."""
    return new_order_id()


# ---------------------------------------------------------------------------------------------- the same order id again


async def submit(shop: Shop, order_id: str, payload: Payload) -> OrderOutcome:
    return await submit_order(shop.client, order_id, payload, task_queue=shop.task_queue)


async def test_many_start_and_submit_one_order_at_once(shop: Shop, order_id: str) -> None:
    """All submits get one answer of one run; starts are refused because the run exists."""
    submits = asyncio.gather(*(submit(shop, order_id, an_order()) for _ in range(CALLERS)))
    starts = (shop.start(order_id=order_id) for _ in range(CALLERS))
    refusals = [each for each in await asyncio.gather(*starts, return_exceptions=True) if isinstance(each, Exception)]
    answers = await submits
    assert answers[0].success
    assert answers == [answers[0]] * CALLERS
    assert len(refusals) >= CALLERS - 1
    assert all(isinstance(each, WorkflowAlreadyStartedError) for each in refusals)
    await check_ending(shop, shop.client.get_workflow_handle(order_id), PLACED)
    assert len(shop.world.books()["payments"]) == 1


async def test_many_submit_two_payloads_at_once(shop: Shop, order_id: str) -> None:
    """The first payload becomes the order; the other payload is refused and leaves no trace."""
    payloads = [an_order(), OTHER] * (CALLERS // 2)
    answers = await asyncio.gather(*(submit(shop, order_id, payload) for payload in payloads))
    won = 0 if answers[0].success else 1
    assert {answer.error_code for answer in answers[won::2]} == {None}
    assert {answer.error_code for answer in answers[1 - won :: 2]} == {"order_id_conflict"}
    assert await shop.stock("1") == (100 if won else 98, 0)
    assert await shop.stock("3") == (36 if won else 40, 0)
    end = replace(PLACED, captured=4 * 1450 if won else TOTAL)
    await check_ending(shop, shop.client.get_workflow_handle(order_id), end)
    assert len(shop.world.books()["payments"]) == 1


@dataclass(frozen=True)
class First:
    """An order whose id is used again: its payload, the activity that fails for good, and its state."""

    payload: Payload
    fails: str = ""
    cancelled: bool = False
    open: bool = False


FIRSTS = {
    "placed": First(an_order()),
    "declined": First(an_order(paymentMethodId="pm_card_chargeDeclined")),
    "out of stock": First(an_order(items=[{"productId": "5", "quantity": 2}])),
    "failed": First(an_order(), fails="request_fulfillment"),
    "placed and cancelled": First(an_order(), cancelled=True),
    "waiting for its customer": First(THREE_D_SECURE, open=True),
    "parked in its undo": First(REFUSED, fails="void_payment", open=True),
}


async def create_first(shop: Shop, order_id: str, first: First) -> Run:
    """Bring the first order to the state in which its id is used again."""
    if first.fails:
        shop.hooks.fail(first.fails, final_error())
    run = await shop.start(first.payload, order_id)
    if first.open:
        await (until_stuck(run) if first.fails else until_stage(run, Stage.AWAITING_CUSTOMER))
    else:
        await ending_of(run)
    if first.cancelled:
        await shop.cancel(order_id)
    return run


@pytest.mark.parametrize("first", FIRSTS.values(), ids=FIRSTS)
async def test_another_payload_comes_later(shop: Shop, order_id: str, first: First) -> None:
    """The client and a new run both refuse it, and the first order does not change."""
    run = await create_first(shop, order_id, first)
    before = await traces(shop)
    assert (await submit(shop, order_id, OTHER)).error_code == "order_id_conflict"
    again = shop.place(OTHER, order_id, id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE)
    if first.open:
        with pytest.raises(WorkflowAlreadyStartedError):
            await again
        assert await is_running(run)
    else:
        assert (await again).error_code == "order_id_conflict"
        assert await submit(shop, order_id, first.payload) == (await ending_of(run)).outcome
    assert await traces(shop) == before


CLOSED = {name: first for name, first in FIRSTS.items() if not first.open}


@pytest.mark.parametrize("first", CLOSED.values(), ids=CLOSED)
async def test_the_same_payload_comes_later(shop: Shop, order_id: str, first: First) -> None:
    """The client and a new run both give the first answer, and nothing happens twice."""
    run = await create_first(shop, order_id, first)
    before = await traces(shop)
    answer = (await ending_of(run)).outcome
    assert await submit(shop, order_id, first.payload) == answer
    again = await shop.place(first.payload, order_id, id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE)
    assert again == answer
    assert await traces(shop) == before


async def traces(shop: Shop) -> Any:
    """All that orders leave in the database and at the external services."""
    tables = ("orders", "order_items", "reservations", "refunds", "notifications", "order_events", "inventory")
    rows = [
        await shop.pool.fetchval(f"SELECT json_agg(t ORDER BY t::text)::text FROM {table} t")  # noqa: S608 (ours)
        for table in tables
    ]
    return rows, shop.world.books() | {"alerts": ()}  # which may still be on their way


# --------------------------------------------------------------------------------------- cancels at every step boundary


NOT_CHARGED = (True, False, "not_charged")
AUTHORIZATION_VOIDED = (True, False, "authorization_voided")
REFUNDED = (True, True, None)


@dataclass(frozen=True)
class Boundary:
    """A moment of an order that is paid with 3DS, and how an operator's or a customer's cancel then ends it."""

    step: str
    moment: Moment
    operators: ExpectedEnding
    customers: ExpectedEnding | None
    answer: tuple[bool, bool, str | None] = AUTHORIZATION_VOIDED
    capture: str = "manual"

    @property
    def is_authenticated(self) -> bool:
        return self.step not in ("reserve_stock", "authorize_payment")


def name(boundary: Boundary) -> str:
    moment = f"{boundary.moment} {boundary.step}"
    return moment if boundary.capture == "manual" else f"{moment}, charged at once"


# A customer's cancel that comes before there is a row: see test_cancel_order.py.
UNDER_WAY = (
    Boundary("reserve_stock", "before", CANCELLED_RUN, None),
    Boundary("reserve_stock", "after", CANCELLED_RUN, CANCELLED, NOT_CHARGED),
    Boundary("authorize_payment", "before", CANCELLED_RUN, CANCELLED, NOT_CHARGED),
    Boundary("authorize_payment", "after", CANCELLED_RUN, CANCELLED),
    Boundary("read_payment", "before", CANCELLED_RUN, CANCELLED),
    Boundary("read_payment", "after", CANCELLED_RUN, CANCELLED),
    Boundary("request_fulfillment", "before", CANCELLED_RUN, CANCELLED),
    Boundary("request_fulfillment", "after", CANCELLED_RUN, CANCELLED),
    Boundary("capture_payment", "before", PLACED, CANCELLED),
    Boundary("capture_payment", "after", PLACED, CANCELLED_AND_REFUNDED, REFUNDED),
    Boundary("finalize_order", "before", PLACED, CANCELLED_AND_REFUNDED, REFUNDED),
)
PAID = (
    Boundary("finalize_order", "after", PLACED, CANCELLED_AND_REFUNDED, REFUNDED),
    Boundary("track_order", "before", PLACED, CANCELLED_AND_REFUNDED, REFUNDED),
)
# Where it matters that the money is there already: a cancel is a refund.
AT_ONCE = (
    Boundary("read_payment", "before", CHARGED_AND_CANCELLED_RUN, CHARGED_AND_CANCELLED, REFUNDED, "automatic"),
    Boundary("read_payment", "after", CHARGED_AND_CANCELLED_RUN, CHARGED_AND_CANCELLED, REFUNDED, "automatic"),
    Boundary("request_fulfillment", "before", CHARGED_AND_CANCELLED_RUN, CHARGED_AND_CANCELLED, REFUNDED, "automatic"),
    Boundary("request_fulfillment", "after", CHARGED_AND_CANCELLED_RUN, CHARGED_AND_CANCELLED, REFUNDED, "automatic"),
    Boundary("capture_payment", "before", PLACED, CHARGED_AND_CANCELLED, REFUNDED, "automatic"),
    Boundary("capture_payment", "after", PLACED, CANCELLED_AND_REFUNDED, REFUNDED, "automatic"),
)
BOUNDARIES = {name(each): each for each in (*UNDER_WAY, *PAID, *AT_ONCE)}


async def hold_at(shop: Shop, at: Boundary) -> tuple[Run, Held]:
    """Start the order and hold it at the boundary."""
    held = shop.hooks.hold(at.step, at.moment, ORDER_ID)
    run = await shop.start(THREE_D_SECURE, ORDER_ID)
    if at.is_authenticated:
        await until_stage(run, Stage.AWAITING_CUSTOMER)
        await authenticate(shop, run)
    await held.reached.wait()
    return run, held


@pytest.mark.parametrize("at", BOUNDARIES.values(), ids=name)
async def test_an_operator_cancels(shops: Mapping[str, Shop], at: Boundary) -> None:
    """Before the pivot the run is cancelled and everything is undone; after it a cancel changes nothing."""
    shop = await opened(shops, at.capture)
    run, held = await hold_at(shop, at)
    await run.cancel()
    await eventually(lambda: has_seen_the_cancel(run), "the run has seen the cancel")
    held.let_go()
    await check_ending(shop, run, at.operators)


@pytest.mark.parametrize("at", [each for each in BOUNDARIES.values() if each.customers], ids=name)
async def test_a_customer_cancels(shops: Mapping[str, Shop], at: Boundary) -> None:
    """Before the capture is claimed the order is undone, after it the customer is refunded."""
    shop = await opened(shops, at.capture)
    run, held = await hold_at(shop, at)
    cancel = await shop.start_cancel(ORDER_ID)
    await eventually(lambda: has_looked(shop, cancel), "cancel-order has looked at the row")
    held.let_go()
    assert shape(await cancel.result()) == at.answer
    assert at.customers
    await check_ending(shop, run, at.customers)


@pytest.mark.parametrize("at", UNDER_WAY, ids=name)
async def test_the_run_is_terminated(shop: Shop, at: Boundary) -> None:
    """reconcile-orders restarts it, the late attempt changes nothing, and the order is placed."""
    run, held = await hold_at(shop, at)
    await run.terminate()
    if at is UNDER_WAY[0]:
        held.let_go()
        await eventually(lambda: shop.status(ORDER_ID), "the late attempt has reserved")
    await reconcile(shop)
    held.let_go()
    second = shop.client.get_workflow_handle(ORDER_ID)
    await eventually(
        lambda: authenticate_until_closed(shop, second), "the customer authenticates, and the order is placed"
    )
    await check_ending(shop, second, PLACED)


UNDOS = ("claim_undo", "cancel_fulfillment", "void_payment", "release_stock")


@pytest.mark.parametrize("undo", UNDOS)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_customer_cancels_during_the_undo(shop: Shop, undo: str, moment: Moment) -> None:
    """The first claim sets the reason: the warehouse's refusal, unless its undo is not yet claimed."""
    first = (undo, moment) == ("claim_undo", "before")
    answer = AUTHORIZATION_VOIDED if first else (False, False, "order_rejected")
    await cancel_during_the_undo(shop, undo, moment, answer, CANCELLED if first else VOIDED)


@pytest.mark.parametrize(
    ("undo", "moment"), [("claim_undo", "before"), ("void_payment", "before"), ("void_payment", "after")]
)
async def test_a_customer_cancels_during_a_refund(shops: Mapping[str, Shop], undo: str, moment: Moment) -> None:
    """An order that was charged at once is refunded once, and the answer says so, whichever claim is first."""
    first = undo == "claim_undo"
    answer = REFUNDED if first else (False, True, "order_rejected")
    end = CHARGED_AND_CANCELLED if first else CHARGED_AND_REFUSED
    await cancel_during_the_undo(await opened(shops, "automatic"), undo, moment, answer, end)


async def cancel_during_the_undo(
    shop: Shop, undo: str, moment: Moment, answer: tuple[bool, bool, str | None], end: ExpectedEnding
) -> None:
    held = shop.hooks.hold(undo, moment, ORDER_ID)
    run = await shop.start(REFUSED, ORDER_ID)
    await held.reached.wait()
    cancel = await shop.start_cancel(ORDER_ID)
    await eventually(lambda: has_looked(shop, cancel), "cancel-order has looked at the row")
    held.let_go()
    assert shape(await cancel.result()) == answer
    await check_ending(shop, run, end)


@dataclass(frozen=True)
class ConcurrentCancels:
    """Where the order is when many cancels come at once, how it ends, and the answer to those who asked in time."""

    at: Boundary
    end: ExpectedEnding
    answer: tuple[bool, bool, str | None]


CONCURRENT = {
    "before the pivot": ConcurrentCancels(
        BOUNDARIES["before request_fulfillment"], CANCELLED_RUN, AUTHORIZATION_VOIDED
    ),
    "before the pivot, charged at once": ConcurrentCancels(
        BOUNDARIES["before request_fulfillment, charged at once"], CHARGED_AND_CANCELLED_RUN, REFUNDED
    ),
    "after the pivot": ConcurrentCancels(BOUNDARIES["after capture_payment"], CANCELLED_AND_REFUNDED, REFUNDED),
    "while the order finishes": ConcurrentCancels(BOUNDARIES["before track_order"], CANCELLED_AND_REFUNDED, REFUNDED),
}


@pytest.mark.parametrize("case", CONCURRENT.values(), ids=CONCURRENT)
async def test_many_cancel_at_once(shops: Mapping[str, Shop], case: ConcurrentCancels) -> None:
    """Operators and customers cancel under one workflow id and under many: one outcome, each effect once."""
    shop = await opened(shops, case.at.capture)
    run, held = await hold_at(shop, case.at)
    await asyncio.gather(*(run.cancel() for _ in range(CALLERS)))
    cancels = await asyncio.gather(
        *(shop.start_cancel(ORDER_ID) for _ in range(CALLERS // 2)),
        *(cancel_as(shop, f"support-{n}") for n in range(CALLERS // 2)),
    )
    await eventually(lambda: has_looked(shop, cancels[0]), "cancel-order has looked at the row")
    held.let_go()
    answers = {shape(answer) for answer in await asyncio.gather(*(cancel.result() for cancel in cancels))}
    assert case.answer in answers
    assert answers <= {case.answer, (False, case.answer[1], "already_cancelled")}
    await check_ending(shop, run, case.end)


@pytest.mark.parametrize("open_", [True, False], ids=["while the order finishes", "when it has"])
async def test_a_cancel_after_the_goods_have_left(shop: Shop, *, open_: bool) -> None:
    """The cancel is refused: the order is shipped and stays paid."""
    held = shop.hooks.hold("track_order", "before", ORDER_ID)
    run = await shop.start(order_id=ORDER_ID)
    await held.reached.wait()
    await shop.ship(ORDER_ID)
    if not open_:
        held.let_go()
        await run.result()
    else:
        await run.cancel()
    assert shape(await shop.cancel(ORDER_ID)) == (False, False, "already_shipped")
    held.let_go()
    await check_ending(shop, run, replace(PLACED, status="shipped"))


async def authenticate(shop: Shop, run: Run) -> None:
    """The customer authenticates at the bank, and Stripe's event arrives."""
    shop.world.stripe.account.authenticate((await shop.row(ORDER_ID))["payment_intent_id"], succeeds=True)
    await run.signal("payment-updated")


async def authenticate_until_closed(shop: Shop, run: Run) -> bool:
    """Authenticate the payment if the bank asks, and say whether the run is closed."""
    payment = (await shop.row(ORDER_ID))["payment_intent_id"]
    if payment and shop.world.stripe.account.intent(payment).status == "requires_action":
        shop.world.stripe.account.authenticate(payment, succeeds=True)
    try:
        await run.signal("payment-updated")
    except RPCError:
        return True
    return False


async def has_seen_the_cancel(run: Run) -> bool:
    """A workflow task was completed after the cancel."""
    kinds = [event.event_type async for event in run.fetch_history_events()]
    cancel = kinds.index(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
    return EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in kinds[cancel:]


async def has_looked(shop: Shop, cancel: Run) -> bool:
    """cancel-order has claimed the row, or found that there is nothing to claim."""
    claims = shop.hooks.calls.count((cancel_order_id(ORDER_ID), "claim_cancellation"))
    claimed = await shop.status(ORDER_ID) in {"undoing", "cancelling"}
    return claims > 1 or (claims > 0 and claimed) or not await is_running(cancel)


async def cancel_as(shop: Shop, workflow_id: str) -> Run:
    payload = {"orderId": ORDER_ID, "customerEmail": "customer@example.com"}
    return await shop.client.start_workflow(
        CANCEL_ORDER, payload, id=workflow_id, task_queue=shop.task_queue, result_type=CancelOutcome
    )


def shape(outcome: CancelOutcome) -> tuple[bool, bool, str | None]:
    return outcome.cancelled, outcome.refunded, outcome.reason


# --------------------------------------------------------------------------------------------------- input


def item(**changes: Any) -> Payload:
    return an_order(items=[{"productId": "1", "quantity": 1} | changes])


# The fields that a client fills; TEXTS take any text, IDS do not.
IDS = ("customerId", "customerEmail", "paymentMethodId", "priority", "currency", "items[0].productId")
TEXTS = tuple(f"shippingAddress.{field}" for field in ("street", "city", "state", "zip"))


def text_in_every_field(text: str) -> Payload:
    """An order with this text in every field."""
    top = dict.fromkeys(IDS[:-1], text)
    return {**top, "items": [{"productId": text, "quantity": 1}], "shippingAddress": an_address_of(text)}


def an_address_of(text: str) -> Payload:
    return dict.fromkeys(("street", "city", "state", "zip"), text)


CARD = "4242 4242 4242 4242"

INVALID: dict[str, tuple[Any, tuple[str, ...]]] = {
    "quantity 0": (item(quantity=0), ("items[0].quantity:",)),
    "quantity negative": (item(quantity=-1), ("items[0].quantity:",)),
    "quantity 2^31": (item(quantity=2**31), ("items[0].quantity:",)),
    "quantity fractional": (item(quantity=1.5), ("items[0].quantity:",)),
    "money that no float holds": (item(price=0.1 + 0.2), ("items[0].price: usd has 2 decimals",)),
    "a third decimal": (item(price=29.999), ("items[0].price: usd has 2 decimals",)),
    "10,000 lines": (
        an_order(items=[{"productId": f"p{number}", "quantity": 1} for number in range(10_000)]),
        ("input: must be at most 65536 bytes",),
    ),
    "2,000 short lines": (an_order(items=[{"x": 1}] * 2_000), ("items:",)),
    "an unknown currency": (an_order(currency="xxx"), ("currency: must be one of",)),
    "the decimals of another currency": (item(price=29.99) | {"currency": "jpy"}, ("items[0].price: jpy has 0",)),
    "NUL everywhere": (text_in_every_field("a\x00b"), (*IDS, *TEXTS)),
    "line breaks everywhere": (text_in_every_field("a\r\nb"), (*IDS, *TEXTS)),
    "escapes everywhere": (text_in_every_field("\x1b[2J"), (*IDS, *TEXTS)),
    "unpaired surrogates everywhere": (text_in_every_field("\ud800"), (*IDS, *TEXTS)),
    "nothing everywhere": (text_in_every_field(""), (*IDS, *TEXTS)),
    "endless texts": (text_in_every_field("x" * 300), (*IDS, *TEXTS)),
    "card numbers everywhere": (text_in_every_field(CARD), (*IDS, *TEXTS)),
    "card numbers inside of a text": (text_in_every_field(f"no. {CARD.replace(' ', '-')}."), (*IDS, *TEXTS)),
    "SQL for an id": (text_in_every_field("'; DROP TABLE orders; --"), IDS),
    "markup for an id": (text_in_every_field("<script>alert(1)</script>"), IDS),
    "a path for an id": (text_in_every_field("../../admin"), IDS),
    "unicode for an id": (text_in_every_field("cüs_1"), IDS),
}


@pytest.mark.parametrize(("payload", "names"), INVALID.values(), ids=INVALID)
async def test_invalid_input(shop: Shop, order_id: str, payload: Any, names: tuple[str, ...]) -> None:
    """The client refuses it and names the field; a run that is started without the client does the same."""
    with pytest.raises(InvalidInput) as refusal:
        await submit(shop, order_id, payload)
    with pytest.raises(UnknownOrder):
        await order_status(shop.client, order_id)
    outcome = await start_without_client(shop, order_id, json.dumps(payload).encode())
    assert outcome.error_code == "invalid_order"
    assert outcome.error == str(refusal.value)
    for name_ in names:
        assert name_ in outcome.error, outcome.error
    assert "4242" not in outcome.error
    assert await shop.status(order_id) is None
    assert list(shop.world.journal.about()) == []


async def test_more_than_temporal_takes(shop: Shop, order_id: str) -> None:
    """The client and Temporal both refuse an input over 2 MiB: there is no run."""
    huge = json.dumps(an_order(shippingAddress=an_address_of("x" * 1024 * 1024)))
    with pytest.raises(InvalidInput, match="input: must be at most"):
        await submit_order(shop.client, order_id, huge, task_queue=shop.task_queue)
    with pytest.raises(RPCError):
        await start_without_client(shop, order_id, huge.encode())
    with pytest.raises(UnknownOrder):
        await order_status(shop.client, order_id)


NOT_SOLD = {
    "an unknown product": item(productId="77"),
    "another currency": an_order(items=[{"productId": "1", "quantity": 1}], currency="eur"),
}


@pytest.mark.parametrize("payload", NOT_SOLD.values(), ids=NOT_SOLD)
async def test_what_is_not_sold(shop: Shop, order_id: str, payload: Payload) -> None:
    """The catalogue does not have it: a business refusal, repeated for each request."""
    answer = await submit(shop, order_id, payload)
    assert answer.error_code == "unknown_product"
    assert await submit(shop, order_id, payload) == answer
    await check_ending(
        shop, shop.client.get_workflow_handle(order_id), ExpectedEnding("completed", "unknown_product", "rejected")
    )


WRITTEN = {
    "SQL": "'; DROP TABLE orders; --",
    "markup": "<script>alert(1)</script>",
    "unicode": "Łódź 東京 🏠 \u202e",
    "a template": "{{7*7}} ${HOME} %s {0} %00",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
async def test_any_text_is_a_text(shop: Shop, order_id: str, text: str) -> None:
    """Every free text field passes it on unchanged."""
    email = f"{''.join(text.split())}@example.com"
    payload = an_order(shippingAddress=an_address_of(text), customerEmail=email)
    assert (await submit(shop, order_id, payload)).success
    await check_ending(shop, shop.client.get_workflow_handle(order_id), PLACED)
    shipped = shop.world.fulfillment.shipments[order_id].order.shipping_address
    assert shipped.model_dump(include=set(an_address_of(text))) == an_address_of(text)
    assert [each.to for each in shop.world.inbox.emails] == [email]


async def start_without_client(shop: Shop, order_id: str, data: bytes) -> OrderOutcome:
    """What process-order answers to these bytes from a client that is not ours."""
    plain = Client(shop.client.service_client, namespace=shop.client.namespace, data_converter=DataConverter.default)
    payload = RawPayload(metadata={"encoding": b"json/plain"}, data=data)
    run = await plain.start_workflow(PROCESS_ORDER, RawValue(payload), id=order_id, task_queue=shop.task_queue)
    outcome = OrderOutcome.model_validate(await run.result())
    kinds = [event.event_type async for event in run.fetch_history_events()]
    assert EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED not in kinds
    return outcome
