"""The fault matrix, callers: those who ask twice, who change their mind at any moment, who send anything.

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

from client.orders import submit_order
from client.runs import order_status
from deploy.local.postgres import Postgres
from orders.errors import InvalidInput, UnknownOrder
from orders.models import CancelOutcome, OrderOutcome, Stage
from orders.names import CANCEL_ORDER, PROCESS_ORDER
from tests.proof.matrix.endings import PLACED, TOTAL, End, O, check_end, has_looked, reconcile
from tests.support.activity_hooks import Held, Moment
from tests.support.sample import EXECUTIONS, one_in, sampled
from tests.support.scenarios import REFUSED_ADDRESS, Run, ending_of, final_error, is_running, until_stage, until_stuck
from tests.support.servers import copy_database
from tests.support.shop import Payload, Shop, an_order, eventually, new_order_id, open_shop

CALLERS: Final = 8  # at once

CANCELLED = End("completed", "cancelled", "cancelled")
CANCELLED_RUN = End("cancelled", None, "cancelled")
CANCELLED_AND_REFUNDED = replace(PLACED, status="cancelled", refunded=TOTAL)
VOIDED = End("completed", "fulfillment_refused", "rejected")

# What was charged at once, before the cancel came, or the warehouse refused.
CHARGED_AND_CANCELLED = replace(CANCELLED, captured=TOTAL, refunded=TOTAL)
CHARGED_AND_CANCELLED_RUN = replace(CANCELLED_RUN, captured=TOTAL, refunded=TOTAL)
CHARGED_AND_REFUSED = replace(VOIDED, captured=TOTAL, refunded=TOTAL)

THREE_D_SECURE = an_order(paymentMethodId="pm_card_authenticationRequired")
REFUSED = an_order(shippingAddress=REFUSED_ADDRESS)
OTHER = an_order(items=[{"productId": "3", "quantity": 4}])


@pytest.fixture(scope="module", params=EXECUTIONS)
async def shops(
    postgres: Postgres, temporal: WorkflowEnvironment, request: pytest.FixtureRequest
) -> AsyncIterator[Mapping[str, Shop]]:
    """One that captures when the warehouse has accepted, one that charges at once; nothing is too young to look at."""
    shared: dict[str, Any] = {"reconcile_after_seconds": 0, "step_execution": request.param}
    async with (
        copy_database(postgres) as url,
        open_shop(url, temporal, **shared) as manual,
        open_shop(url, temporal, payment_capture="automatic", **shared) as automatic,
    ):
        yield {"manual": manual, "automatic": automatic}


async def opened(shops: Mapping[str, Shop], capture: str = "manual") -> Shop:
    """The shop with this way of charging, as good as new."""
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


@pytest.mark.prove
async def test_many_start_and_submit_one_order_at_once(shop: Shop, order_id: str) -> None:
    """One run and one answer, whichever way they ask; who only starts is told that it runs already."""
    submits = asyncio.gather(*(submit(shop, order_id, an_order()) for _ in range(CALLERS)))
    starts = (shop.start(order_id=order_id) for _ in range(CALLERS))
    refusals = [each for each in await asyncio.gather(*starts, return_exceptions=True) if isinstance(each, Exception)]
    answers = await submits
    assert answers[0].success
    assert answers == [answers[0]] * CALLERS
    assert len(refusals) >= CALLERS - 1
    assert all(isinstance(each, WorkflowAlreadyStartedError) for each in refusals)
    await check_end(shop, shop.client.get_workflow_handle(order_id), PLACED)
    assert len(shop.world.provider_records()["payments"]) == 1


async def test_many_submit_two_payloads_at_once(shop: Shop, order_id: str) -> None:
    """One of the payloads is the order; everybody with the other one is refused, and left no trace."""
    payloads = [an_order(), OTHER] * (CALLERS // 2)
    answers = await asyncio.gather(*(submit(shop, order_id, payload) for payload in payloads))
    won = 0 if answers[0].success else 1
    assert {answer.error_code for answer in answers[won::2]} == {None}
    assert {answer.error_code for answer in answers[1 - won :: 2]} == {"order_id_conflict"}
    assert await shop.stock("1") == (100 if won else 98, 0)
    assert await shop.stock("3") == (36 if won else 40, 0)
    end = replace(PLACED, captured=4 * 1450 if won else TOTAL)
    await check_end(shop, shop.client.get_workflow_handle(order_id), end)
    assert len(shop.world.provider_records()["payments"]) == 1


@dataclass(frozen=True)
class First:
    """An order whose id somebody uses again: its payload, the activity that fails for good, and what comes next."""

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


async def bring(shop: Shop, order_id: str, first: First) -> Run:
    """The order as it stands when somebody comes again."""
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


@pytest.mark.parametrize("first", one_in(3, FIRSTS.values()), ids=FIRSTS)
async def test_another_payload_comes_later(shop: Shop, order_id: str, first: First) -> None:
    """It is refused at both doors, by the client and as a run of its own, and changes nothing of the first."""
    run = await bring(shop, order_id, first)
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


@pytest.mark.parametrize("first", one_in(2, CLOSED.values()), ids=CLOSED)
async def test_the_same_payload_comes_later(shop: Shop, order_id: str, first: First) -> None:
    """It is answered as the first was, by the client and by a run of its own, and nothing happens twice."""
    run = await bring(shop, order_id, first)
    before = await traces(shop)
    answer = (await ending_of(run)).outcome
    assert await submit(shop, order_id, first.payload) == answer
    again = await shop.place(first.payload, order_id, id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE)
    assert again == answer
    assert await traces(shop) == before


async def traces(shop: Shop) -> Any:
    """All that orders leave behind: at home, at the external services, at the customer's."""
    tables = ("orders", "order_items", "reservations", "refunds", "notifications", "order_events", "inventory")
    rows = [
        await shop.pool.fetchval(f"SELECT json_agg(t ORDER BY t::text)::text FROM {table} t")  # noqa: S608 (ours)
        for table in tables
    ]
    return rows, shop.world.provider_records() | {"alerts": ()}  # which may still be on their way


# --------------------------------------------------------------------------------------- cancels at every step boundary


NOT_CHARGED = (True, False, "not_charged")
AUTHORIZATION_VOIDED = (True, False, "authorization_voided")
REFUNDED = (True, True, None)


@dataclass(frozen=True)
class Boundary:
    """A moment of an order that is paid with 3DS: how a cancel then ends it, an operator's or a customer's."""

    step: str
    moment: Moment
    operators: End
    customers: End | None
    answer: tuple[bool, bool, str | None] = AUTHORIZATION_VOIDED
    capture: str = "manual"

    @property
    def is_authenticated(self) -> bool:
        return self.step not in ("reserve_stock", "authorize_payment")


def name(boundary: Boundary) -> str:
    words = f"{boundary.moment} {boundary.step}"
    return words if boundary.capture == "manual" else f"{words}, charged at once"


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
SAMPLE = (UNDER_WAY[0], UNDER_WAY[-1], PAID[-1], AT_ONCE[-2])  # the others are near those in tests/workflows


async def stand_at(shop: Shop, at: Boundary) -> tuple[Run, Held]:
    """The order, standing still at the boundary."""
    held = shop.hooks.hold(at.step, at.moment, O)
    run = await shop.start(THREE_D_SECURE, O)
    if at.is_authenticated:
        await until_stage(run, Stage.AWAITING_CUSTOMER)
        await authenticate(shop, run)
    await held.reached.wait()
    return run, held


@pytest.mark.parametrize("at", sampled(BOUNDARIES.values(), lambda at: at in SAMPLE), ids=name)
async def test_an_operator_cancels(shops: Mapping[str, Shop], at: Boundary) -> None:
    """Before the pivot the run is cancelled and nothing is held or kept; after it a cancel changes nothing."""
    shop = await opened(shops, at.capture)
    run, held = await stand_at(shop, at)
    await run.cancel()
    await eventually(lambda: has_seen_the_cancel(run), "the run has seen the cancel")
    held.let_go()
    await check_end(shop, run, at.operators)


@pytest.mark.parametrize(
    "at", sampled([each for each in BOUNDARIES.values() if each.customers], lambda at: at in SAMPLE), ids=name
)
async def test_a_customer_cancels(shops: Mapping[str, Shop], at: Boundary) -> None:
    """Before the capture is claimed the order is undone, after it the customer is refunded."""
    shop = await opened(shops, at.capture)
    run, held = await stand_at(shop, at)
    cancel = await shop.start_cancel(O)
    await eventually(lambda: has_looked(shop, cancel), "cancel-order has looked at the row")
    held.let_go()
    assert shape(await cancel.result()) == at.answer
    assert at.customers
    await check_end(shop, run, at.customers)


@pytest.mark.prove
@pytest.mark.parametrize("at", sampled(UNDER_WAY, lambda at: at in SAMPLE), ids=name)
async def test_the_run_is_terminated(shop: Shop, at: Boundary) -> None:
    """reconcile-orders starts it again, the attempt left behind changes nothing, and the order is placed."""
    run, held = await stand_at(shop, at)
    await run.terminate()
    if at is UNDER_WAY[0]:
        held.let_go()
        await eventually(lambda: shop.status(O), "the attempt left behind has reserved")
    await reconcile(shop)
    held.let_go()
    second = shop.client.get_workflow_handle(O)
    await eventually(lambda: is_seen_through(shop, second), "the customer authenticates, and the order is placed")
    await check_end(shop, second, PLACED)


UNDOS = ("claim_undo", "cancel_fulfillment", "void_payment", "release_stock")


@pytest.mark.parametrize("undo", UNDOS)
@pytest.mark.parametrize("moment", one_in(2, ["after", "before"]))
async def test_a_customer_cancels_during_the_undo(shop: Shop, undo: str, moment: Moment) -> None:
    """Whoever claims first names the reason: the refusal of the warehouse, unless its undo was not yet claimed."""
    first = (undo, moment) == ("claim_undo", "before")
    answer = AUTHORIZATION_VOIDED if first else (False, False, "order_rejected")
    await cancel_during_the_undo(shop, undo, moment, answer, CANCELLED if first else VOIDED)


@pytest.mark.parametrize(
    ("undo", "moment"), [("claim_undo", "before"), ("void_payment", "before"), ("void_payment", "after")]
)
async def test_a_customer_cancels_during_a_refund(shops: Mapping[str, Shop], undo: str, moment: Moment) -> None:
    """The same where the order was charged at once: it is refunded once, and says so, whoever claims first."""
    first = undo == "claim_undo"
    answer = REFUNDED if first else (False, True, "order_rejected")
    end = CHARGED_AND_CANCELLED if first else CHARGED_AND_REFUSED
    await cancel_during_the_undo(await opened(shops, "automatic"), undo, moment, answer, end)


async def cancel_during_the_undo(
    shop: Shop, undo: str, moment: Moment, answer: tuple[bool, bool, str | None], end: End
) -> None:
    held = shop.hooks.hold(undo, moment, O)
    run = await shop.start(REFUSED, O)
    await held.reached.wait()
    cancel = await shop.start_cancel(O)
    await eventually(lambda: has_looked(shop, cancel), "cancel-order has looked at the row")
    held.let_go()
    assert shape(await cancel.result()) == answer
    await check_end(shop, run, end)


@dataclass(frozen=True)
class ConcurrentCancels:
    """Where the order stands when everybody cancels at once, how it ends, and what those who asked in time hear."""

    at: Boundary
    end: End
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


@pytest.mark.prove
@pytest.mark.parametrize("case", one_in(3, CONCURRENT.values()), ids=CONCURRENT)
async def test_everybody_cancels_at_once(shops: Mapping[str, Shop], case: ConcurrentCancels) -> None:
    """Operators and customers, under one id and under many: one outcome, and its effects once."""
    shop = await opened(shops, case.at.capture)
    run, held = await stand_at(shop, case.at)
    await asyncio.gather(*(run.cancel() for _ in range(CALLERS)))
    cancels = await asyncio.gather(
        *(shop.start_cancel(O) for _ in range(CALLERS // 2)),
        *(cancel_as(shop, f"support-{n}") for n in range(CALLERS // 2)),
    )
    await eventually(lambda: has_looked(shop, cancels[0]), "cancel-order has looked at the row")
    held.let_go()
    answers = {shape(answer) for answer in await asyncio.gather(*(cancel.result() for cancel in cancels))}
    assert case.answer in answers
    assert answers <= {case.answer, (False, case.answer[1], "already_cancelled")}
    await check_end(shop, run, case.end)


@pytest.mark.prove
@pytest.mark.parametrize("open_", [True, False], ids=["while the order finishes", "when it has"])
async def test_a_cancel_after_the_goods_have_left(shop: Shop, *, open_: bool) -> None:
    """Too late for everybody: the order is shipped and stays paid."""
    held = shop.hooks.hold("track_order", "before", O)
    run = await shop.start(order_id=O)
    await held.reached.wait()
    await shop.ship(O)
    if not open_:
        held.let_go()
        await run.result()
    else:
        await run.cancel()
    assert shape(await shop.cancel(O)) == (False, False, "already_shipped")
    held.let_go()
    await check_end(shop, run, replace(PLACED, status="shipped"))


async def authenticate(shop: Shop, run: Run) -> None:
    """What the customer does at the bank, and Stripe's word of it."""
    shop.world.stripe.account.authenticate((await shop.row(O))["payment_intent_id"], succeeds=True)
    await run.signal("payment-updated")


async def is_seen_through(shop: Shop, run: Run) -> bool:
    """Whether the run is over; a customer who is asked authenticates, and one who has says so."""
    payment = (await shop.row(O))["payment_intent_id"]
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


async def cancel_as(shop: Shop, workflow_id: str) -> Run:
    payload = {"orderId": O, "customerEmail": "customer@example.com"}
    return await shop.client.start_workflow(
        CANCEL_ORDER, payload, id=workflow_id, task_queue=shop.task_queue, result_type=CancelOutcome
    )


def shape(outcome: CancelOutcome) -> tuple[bool, bool, str | None]:
    return outcome.cancelled, outcome.refunded, outcome.reason


# --------------------------------------------------------------------------------------------------- whatever they send


def item(**changes: Any) -> Payload:
    return an_order(items=[{"productId": "1", "quantity": 1} | changes])


# Where a client may write; the last ones are free text, the others ids and words.
WORDS = ("customerId", "customerEmail", "paymentMethodId", "priority", "currency", "items[0].productId")
TEXTS = tuple(f"shippingAddress.{field}" for field in ("street", "city", "state", "zip"))


def written_everywhere(text: str) -> Payload:
    """An order with this text wherever there is room for one."""
    top = dict.fromkeys(WORDS[:-1], text)
    return {**top, "items": [{"productId": text, "quantity": 1}], "shippingAddress": an_address_of(text)}


def an_address_of(text: str) -> Payload:
    return dict.fromkeys(("street", "city", "state", "zip"), text)


CARD = "4242 4242 4242 4242"

POISON: dict[str, tuple[Any, tuple[str, ...]]] = {
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
    "NUL everywhere": (written_everywhere("a\x00b"), (*WORDS, *TEXTS)),
    "line breaks everywhere": (written_everywhere("a\r\nb"), (*WORDS, *TEXTS)),
    "escapes everywhere": (written_everywhere("\x1b[2J"), (*WORDS, *TEXTS)),
    "unpaired surrogates everywhere": (written_everywhere("\ud800"), (*WORDS, *TEXTS)),
    "nothing everywhere": (written_everywhere(""), (*WORDS, *TEXTS)),
    "endless texts": (written_everywhere("x" * 300), (*WORDS, *TEXTS)),
    "card numbers everywhere": (written_everywhere(CARD), (*WORDS, *TEXTS)),
    "card numbers inside of words": (written_everywhere(f"no. {CARD.replace(' ', '-')}."), (*WORDS, *TEXTS)),
    "turned directions everywhere": (written_everywhere("a\u202eb"), (*WORDS, *TEXTS)),
    "SQL for an id": (written_everywhere("'; DROP TABLE orders; --"), WORDS),
    "markup everywhere": (written_everywhere("<script>alert(1)</script>"), (*WORDS, *TEXTS)),
    "a path for an id": (written_everywhere("../../admin"), WORDS),
    "unicode for an id": (written_everywhere("cüs_1"), WORDS),
}


@pytest.mark.parametrize(("payload", "names"), one_in(4, POISON.values()), ids=POISON)
async def test_poison(shop: Shop, order_id: str, payload: Any, names: tuple[str, ...]) -> None:
    """Refused before anything starts, by its name; and where a client goes past our door, by the run itself."""
    with pytest.raises(InvalidInput) as refusal:
        await submit(shop, order_id, payload)
    with pytest.raises(UnknownOrder):
        await order_status(shop.client, order_id)
    outcome = await past_the_door(shop, order_id, json.dumps(payload).encode())
    assert outcome.error_code == "invalid_order"
    assert outcome.error == str(refusal.value)
    for name_ in names:
        assert name_ in outcome.error, outcome.error
    assert "4242" not in outcome.error
    assert await shop.status(order_id) is None
    assert list(shop.world.journal.about()) == []


async def test_more_than_temporal_takes(shop: Shop, order_id: str) -> None:
    """An input over 2 MiB is refused at the door, and by Temporal itself: there is no run."""
    huge = json.dumps(an_order(shippingAddress=an_address_of("x" * 1024 * 1024)))
    with pytest.raises(InvalidInput, match="input: must be at most"):
        await submit_order(shop.client, order_id, huge, task_queue=shop.task_queue)
    with pytest.raises(RPCError):
        await past_the_door(shop, order_id, huge.encode())
    with pytest.raises(UnknownOrder):
        await order_status(shop.client, order_id)


NOT_SOLD = {
    "an unknown product": item(productId="77"),
    "another currency": an_order(items=[{"productId": "1", "quantity": 1}], currency="eur"),
}


@pytest.mark.parametrize("payload", NOT_SOLD.values(), ids=NOT_SOLD)
async def test_what_is_not_sold(shop: Shop, order_id: str, payload: Payload) -> None:
    """Only the catalogue can tell: a business no, the same for all who ask."""
    answer = await submit(shop, order_id, payload)
    assert answer.error_code == "unknown_product"
    assert await submit(shop, order_id, payload) == answer
    await check_end(shop, shop.client.get_workflow_handle(order_id), End("completed", "unknown_product", "rejected"))


WRITTEN = {
    "SQL": "'; DROP TABLE orders; --",
    "unicode": "Łódź 東京 🏠 \u200fא \U0001face",
    "a template": "{{7*7}} ${HOME} %s {0} %00",
}


@pytest.mark.parametrize("text", one_in(2, WRITTEN.values()), ids=WRITTEN)
async def test_any_text_is_a_text(shop: Shop, order_id: str, text: str) -> None:
    """In every field that takes one it arrives as it was written, and does nothing on the way."""
    email = f"{''.join(text.split())}@example.com"
    recipient = an_address_of(text) | {"name": text, "company": text, "street2": text}
    payload = an_order(shippingAddress=recipient, customerEmail=email, giftMessage=text)
    assert (await submit(shop, order_id, payload)).success
    await check_end(shop, shop.client.get_workflow_handle(order_id), PLACED)
    shipped = shop.world.fulfillment.shipments[order_id].order
    assert shipped.shipping_address.model_dump(include=set(recipient)) == recipient
    assert shipped.gift_message == text
    assert [each.to for each in shop.world.inbox.emails] == [email]


async def past_the_door(shop: Shop, order_id: str, data: bytes) -> OrderOutcome:
    """What process-order answers to these very bytes, given to Temporal by a client that knows nothing of us."""
    plain = Client(shop.client.service_client, namespace=shop.client.namespace, data_converter=DataConverter.default)
    payload = RawPayload(metadata={"encoding": b"json/plain"}, data=data)
    run = await plain.start_workflow(PROCESS_ORDER, RawValue(payload), id=order_id, task_queue=shop.task_queue)
    outcome = OrderOutcome.model_validate(await run.result())
    kinds = [event.event_type async for event in run.fetch_history_events()]
    assert EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED not in kinds
    return outcome
