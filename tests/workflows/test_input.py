"""Bad input from any client: a clear answer, nothing started, nothing held, never a task that fails for ever."""

import asyncio
import json
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload as RawPayload
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError

from client.orders import submit_order
from orders.models import CancelOutcome, OrderOutcome
from orders.names import (
    CANCEL_ORDER,
    CHECK_INVENTORY,
    INDEX_PRODUCTS,
    PROCESS_ORDER,
    PRODUCT_RECOMMENDATIONS,
    RECONCILE_ORDERS,
    VERIFY_ORDERS,
    cancel_order_id,
)
from tests.support.invariants import assert_invariants
from tests.support.sample import one_in
from tests.support.shop import PATIENCE, Payload, Shop, an_order

O = "o1"  # noqa: E741 (the one order of each test)

CARD = "4242 4242 4242 4242"


async def place_raw(shop: Shop, data: bytes, encoding: bytes = b"json/plain") -> OrderOutcome:
    """Start process-order through a client without our converter, with these very bytes."""
    plain = Client(shop.client.service_client, namespace=shop.client.namespace, data_converter=DataConverter.default)
    payload = RawPayload(metadata={"encoding": encoding}, data=data)
    run = await plain.start_workflow(PROCESS_ORDER, RawValue(payload), id=O, task_queue=shop.task_queue)
    outcome = OrderOutcome.model_validate(await run.result())
    await check_no_task_failed(run)
    return outcome


async def check_no_task_failed(run: WorkflowHandle[Any, Any]) -> None:
    kinds = [event.event_type async for event in run.fetch_history_events()]
    assert EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED not in kinds


async def check_refused(shop: Shop, outcome: OrderOutcome, *names: str) -> None:
    """The order is invalid and every problem is named; there is no row, no reservation and no call."""
    assert not outcome.success
    assert outcome.error_code == "invalid_order"
    for name in names:
        assert name in (outcome.error or ""), outcome.error
    assert CARD not in (outcome.error or "")
    assert await shop.status(O) is None
    assert await shop.stock() == (100, 0)
    assert list(shop.world.journal.about()) == []


RAW: dict[str, tuple[bytes, bytes, str]] = {
    "null": (b"null", b"json/plain", "input: must be an object"),
    "nothing": (b"", b"binary/null", "input: must be an object"),
    "no JSON": (b"{", b"json/plain", "input: must be JSON"),
    "empty": (b"", b"json/plain", "input: must be JSON"),
    "bytes": (b"\x00\xff", b"binary/plain", "input: must be JSON"),
    "an exponent beyond reason": (b'{"price": 1e99999999999999999999}', b"json/plain", "input: must be JSON"),
    "nested beyond reason": (b"[" * 970 + b"]" * 970, b"json/plain", "input: must be at most"),
    "a card number as a name": (f'{{"{CARD}": 1}}'.encode(), b"json/plain", "is unknown"),
    "text": (b'"order please"', b"json/plain", "input: must be an object"),
    "a number": (b"1", b"json/plain", "input: must be an object"),
    "a list": (b"[]", b"json/plain", "input: must be an object"),
    "not UTF-8": (b'{"customerId": "\xff"}', b"json/plain", "input: must be JSON"),
    "NaN": (b'{"items": [{"productId": "1", "quantity": NaN}]}', b"json/plain", "input: must be JSON"),
    "infinity": (b'{"items": [{"productId": "1", "price": Infinity}]}', b"json/plain", "input: must be JSON"),
    "very deep": (b"[" * 30_000, b"json/plain", "input: must be JSON"),
    "too large": (b'"' + b"x" * 70_000 + b'"', b"json/plain", "input: must be at most"),
    "a repeated name that hides a card number": (
        f'{{"customerId": "{CARD}", "customerId": "cus_1"}}'.encode(),
        b"json/plain",
        "customerId: appears more than once",
    ),
    "a quantity twice": (
        b'{"items": [{"productId": "1", "quantity": 1, "quantity": 9}]}',
        b"json/plain",
        "quantity: appears more than once",
    ),
    "an unpaired surrogate as a name": (rb'{"\ud800": 1}', b"json/plain", "input: must be a valid string"),
}


@pytest.mark.parametrize(("data", "encoding", "error"), one_in(2, RAW.values()), ids=RAW)
async def test_what_is_no_order_at_all(shop: Shop, data: bytes, encoding: bytes, error: str) -> None:
    """Whatever bytes a client sends, the run completes with invalid_order."""
    await check_refused(shop, await place_raw(shop, data, encoding), error)


async def test_no_argument_at_all(shop: Shop) -> None:
    """A client that forgot the input learns every field that is missing or that an object is wanted."""
    run = await shop.client.start_workflow(PROCESS_ORDER, id=O, task_queue=shop.task_queue, result_type=OrderOutcome)
    await check_refused(shop, await run.result(), "input: must be an object")


ONE_ARGUMENT = "input: must be one argument, not several"


async def test_an_order_with_two_arguments(shop: Shop) -> None:
    """It is refused, whatever the arguments are; a submit of the same order then gets its own run."""
    run = await shop.client.start_workflow(
        PROCESS_ORDER,
        args=[an_order(), "and more"],
        id=O,
        task_queue=shop.task_queue,
        result_type=OrderOutcome,
    )
    await check_refused(shop, await asyncio.wait_for(run.result(), PATIENCE), ONE_ARGUMENT)
    await check_no_task_failed(run)

    assert (await submit_order(shop.client, O, an_order(), task_queue=shop.task_queue)).success


async def test_a_cancel_with_two_arguments(shop: Shop) -> None:
    """It is refused, and the order stays as it is."""
    await shop.place(order_id=O)
    run = await shop.client.start_workflow(
        CANCEL_ORDER,
        args=[{"orderId": O}, {}],
        id=cancel_order_id(O),
        task_queue=shop.task_queue,
        result_type=CancelOutcome,
    )
    outcome = await asyncio.wait_for(run.result(), PATIENCE)

    assert (outcome.cancelled, outcome.reason) == (False, f"invalid_request: {ONE_ARGUMENT}")
    assert await shop.status(O) == "processing"
    await check_no_task_failed(run)


@pytest.mark.parametrize(
    "workflow", [CHECK_INVENTORY, INDEX_PRODUCTS, PRODUCT_RECOMMENDATIONS, RECONCILE_ORDERS, VERIFY_ORDERS]
)
async def test_any_other_run_with_two_arguments(shop: Shop, workflow: str) -> None:
    """It fails at once, with the reason."""
    run = await shop.client.start_workflow(workflow, args=[{}, {}], id=f"{workflow}:two", task_queue=shop.task_queue)
    with pytest.raises(WorkflowFailureError) as failure:
        await asyncio.wait_for(run.result(), PATIENCE)

    assert str(failure.value.cause) == f"InvalidInput: {ONE_ARGUMENT}"
    await check_no_task_failed(run)


def item(**changes: Any) -> Payload:
    return an_order(items=[{"productId": "1", "quantity": 1} | changes])


def address(**changes: Any) -> Payload:
    return an_order(shippingAddress=an_order()["shippingAddress"] | changes)


FIELDS: dict[str, tuple[Payload, tuple[str, ...]]] = {
    "an empty object": ({}, ("customerId: is required", "items: is required", "shippingAddress: is required")),
    "several wrong": (
        an_order(customerEmail="nobody", items=[], priority="soon"),
        ("customerEmail:", "items:", "priority:"),
    ),
    "an unknown field": (an_order(coupon="FREE"), ("coupon: is unknown",)),
    "quantity 0": (item(quantity=0), ("items[0].quantity:",)),
    "quantity negative": (item(quantity=-1), ("items[0].quantity:",)),
    "quantity fractional": (item(quantity=1.5), ("items[0].quantity:",)),
    "quantity as a float": (item(quantity=1.0), ("items[0].quantity:",)),
    "quantity as text": (item(quantity="1"), ("items[0].quantity:",)),
    "quantity true": (item(quantity=True), ("items[0].quantity:",)),
    "quantity 2^31": (item(quantity=2**31), ("items[0].quantity:",)),
    "quantity beyond 64 bits": (item(quantity=10**30), ("items[0].quantity:",)),
    "price with a third decimal": (item(price=29.999), ("items[0].price: usd has 2 decimals",)),
    "price negative": (item(price=-1), ("items[0].price:",)),
    "price as text": (item(price="29.99"), ("items[0].price:",)),
    "price enormous": (item(price=1e30), ("items[0].price:",)),
    "101 items": (
        an_order(items=[{"productId": f"p{number}", "quantity": 1} for number in range(101)]),
        ("items:",),
    ),
    "no items": (an_order(items=[]), ("items:",)),
    "items no list": (an_order(items={"productId": "1"}), ("items:",)),
    "one product at two prices": (
        an_order(items=[{"productId": "1", "quantity": 1, "price": 1}, {"productId": "1", "quantity": 1, "price": 2}]),
        ("items[1].price: differs",),
    ),
    "too many units in two lines": (
        an_order(items=[{"productId": "1", "quantity": 9_999}] * 2),
        ("items[1].quantity: more than",),
    ),
    "a card number as the card": (an_order(paymentMethodId=CARD), ("paymentMethodId: looks like a card number",)),
    "a card number as a number": (
        an_order(paymentMethodId=4242424242424242),
        ("paymentMethodId: looks like a card number",),
    ),
    "a card number in the street": (address(street=f"c/o {CARD}"), ("shippingAddress.street: looks like a card",)),
    "NUL in a text": (address(city="San\x00Francisco"), ("shippingAddress.city: must not contain control",)),
    "an unpaired surrogate": (address(city="\ud800"), ("shippingAddress.city:",)),
    "a turned direction": (address(city="San \u202eocsicnarF"), ("shippingAddress.city: must not contain control",)),
    "markup": (address(street="<script>alert(1)</script>"), ("shippingAddress.street: must not contain links or",)),
    "a link as a name": (
        address(name="Win at https://evil.example"),
        ("shippingAddress.name: must not contain links",),
    ),
    "a state that its country requires": (address(state=None), ("shippingAddress.state: is required in US",)),
    "a country that is none": (address(country="UK"), ("shippingAddress.country: must be a country code",)),
    "a missing street": (address(street=None), ("shippingAddress.street:",)),
    "an empty city": (address(city=""), ("shippingAddress.city:",)),
    "an address as text": (an_order(shippingAddress="here"), ("shippingAddress: must be an object",)),
    "an unknown currency": (an_order(currency="xxx"), ("currency: must be one of",)),
    "a currency that is no text": (an_order(currency=1), ("currency:",)),
}


@pytest.mark.parametrize(("payload", "names"), one_in(3, FIELDS.values()), ids=FIELDS)
async def test_wrong_fields(shop: Shop, payload: Payload, names: tuple[str, ...]) -> None:
    """Each is refused by its name, all of them at once, before anything is begun."""
    await check_refused(shop, await place_raw(shop, as_json(payload)), *names)


def as_json(payload: Payload) -> bytes:
    return json.dumps(payload).encode()


TEXTS = {
    "SQL": "'; DROP TABLE orders; --",
    "unicode": "Łódź 東京 🏠 \u200fא \U0001face",
    "a template": "{{7*7}} ${HOME} %s",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_any_text_is_a_text(shop: Shop, text: str) -> None:
    """It arrives at the warehouse as it was written, and does nothing on the way."""
    assert (await place_raw(shop, as_json(address(street=text)))).success
    assert shop.world.fulfillment.shipments[O].order.shipping_address.street == text
    await assert_invariants(shop, O)


async def test_an_address_without_state_and_postcode(shop: Shop) -> None:
    """The warehouse gets all of the recipient and the gift message, and nothing that the country does not have."""
    address = {
        "name": "陳大文",
        "company": "Ada & Söhne",
        "street": "1 Queen's Road Central",
        "street2": "Flat 8",
        "city": "Central",
        "country": "HK",
        "phone": "+852 2123 4567",
    }
    payload = an_order(shippingAddress=address, giftMessage="生日快樂")
    assert (await place_raw(shop, as_json(payload))).success
    (sent,) = [entry["body"] for entry in shop.world.journal.about(O) if entry["path"].endswith("/orders")]
    assert (sent["shippingAddress"], sent["giftMessage"]) == (address, "生日快樂")
    await assert_invariants(shop, O)


@pytest.mark.parametrize("order_id", ["4242424242424242", "536453645364536453"])
async def test_ids_that_look_like_card_numbers(shop: Shop, order_id: str) -> None:
    """They are ids like any others: placed, and cancelled."""
    assert (await shop.place(order_id=order_id)).success
    assert (await shop.cancel(order_id)).cancelled
    await assert_invariants(shop, order_id)


async def test_a_plain_client_reads_the_answer_in_the_reference_names(shop: Shop) -> None:
    """Start and result are JSON in camelCase, as the `temporal` command shows them."""
    plain = Client(shop.client.service_client, namespace=shop.client.namespace, data_converter=DataConverter.default)
    run = await plain.start_workflow(PROCESS_ORDER, an_order(), id=O, task_queue=shop.task_queue)
    answer = await run.result()
    assert answer.items() >= {"success": True, "orderId": O}.items()
    assert answer["paymentIntent"].startswith("pi_")
    assert answer["fulfillmentId"].startswith("ful_")


CATALOGUE: dict[str, tuple[Payload, str, tuple[str, ...]]] = {
    "unknown products": (
        an_order(items=[{"productId": "77", "quantity": 1}, {"productId": "78", "quantity": 1}]),
        "unknown_product",
        ("product 77 is not sold", "product 78 is not sold"),
    ),
    "another price": (item(price=1.00), "price_changed", ("product 1 costs 29.99 usd",)),
    "out of stock": (
        an_order(items=[{"productId": "5", "quantity": 2}, {"productId": "3", "quantity": 41}]),
        "out_of_stock",
        ("product 5: 2 wanted, 1 available", "product 3: 41 wanted, 40 available"),
    ),
    "another currency": (an_order(currency="eur"), "unknown_product", ("product 1 is not sold in eur",)),
    "too large a total": (
        an_order(items=[{"productId": "1", "quantity": 10_000}, {"productId": "2", "quantity": 10_000}]),
        "order_too_large",
        ("the most in one order is 999999.99 usd",),
    ),
}


@pytest.mark.parametrize(("payload", "code", "names"), CATALOGUE.values(), ids=CATALOGUE)
async def test_what_the_catalogue_refuses(shop: Shop, payload: Payload, code: str, names: tuple[str, ...]) -> None:
    """A refusal that names every line that stands in the way; the order is rejected, and no payment is made."""
    await shop.pool.execute("UPDATE inventory SET quantity = 20000 WHERE product_id IN ('1', '2')")
    outcome = await shop.place(payload, O)
    assert (outcome.success, outcome.error_code) == (False, code)
    for name in names:
        assert name in (outcome.error or ""), outcome.error
    assert await shop.events(O) == ["rejected"]
    assert await shop.stock() == (20_000, 0)
    assert list(shop.world.journal.about()) == []


async def test_a_submit_without_a_hash_joins(shop: Shop) -> None:
    """An update from the Web UI without input is answered, and no workflow task fails."""
    run = await shop.start(order_id=O)
    outcome = await run.execute_update("submit", result_type=OrderOutcome)
    assert outcome.success
    assert (await run.result()).success


@pytest.mark.parametrize(
    "arguments", [["a hash", "a hash"], [{"hash": 1}], [1], [["a hash"]], [None, None]], ids=json.dumps
)
async def test_a_submit_with_other_arguments_is_refused_at_once(shop: Shop, arguments: list[Any]) -> None:
    """The order under way goes on."""
    held = shop.hooks.hold("reserve_stock")
    run = await shop.start(order_id=O)
    await held.reached.wait()
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await asyncio.wait_for(run.execute_update("submit", args=arguments), PATIENCE)
    held.let_go()

    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "invalid_submit"
    assert (await run.result()).success
    await check_no_task_failed(run)


@pytest.mark.parametrize(("signal", "error"), [("payment-updated", None), ("cancel-requested", "cancelled")])
async def test_a_signal_with_arguments_is_a_signal(shop: Shop, signal: str, error: str | None) -> None:
    """An order under way takes the signal, and its workflow task does not fail."""
    held = shop.hooks.hold("reserve_stock")
    run = await shop.start(order_id=O)
    await held.reached.wait()
    await run.signal(signal, args=[{"payment": 1}, 2])
    held.let_go()

    assert (await asyncio.wait_for(run.result(), PATIENCE)).error_code == error
    await check_no_task_failed(run)


@pytest.mark.parametrize("order_id", ["..", ".", "-a", "a" * 65, "a:b", "a/b"])
async def test_an_order_id_that_would_lead_elsewhere(shop: Shop, order_id: str) -> None:
    """It becomes part of addresses and of other ids."""
    outcome = await shop.place(order_id=order_id)
    assert outcome.error_code == "invalid_order"
    assert "orderId" in (outcome.error or "")
