"""The contract of Stripe's API, as tables. With STRIPE_CONTRACT_KEY=sk_test_… the tests run against Stripe."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
import stripe

from sandbox.server import Running

AMOUNT: Final = 2999
Client = stripe.StripeClient
Intent = stripe.PaymentIntent


def key() -> str:
    return f"contract-{uuid4()}"


async def create(client: Client, **params: object) -> Intent:
    wanted = {
        "amount": AMOUNT,
        "currency": "usd",
        "payment_method": "pm_card_visa",
        "allowed_payment_method_types": ["card"],
        "capture_method": "manual",
        "metadata": {"order_id": "order-1"},
        **params,
    }
    given: Any = {name: value for name, value in wanted.items() if value is not None}
    return await client.v1.payment_intents.create_async(given, {"idempotency_key": key()})


async def confirm(client: Client, intent: Intent) -> Intent:
    return await client.v1.payment_intents.confirm_async(intent.id, {}, {"idempotency_key": key()})


async def capture(client: Client, intent: Intent, **params: object) -> Intent:
    given: Any = params
    return await client.v1.payment_intents.capture_async(intent.id, given, {"idempotency_key": key()})


async def cancel(client: Client, intent: Intent) -> Intent:
    return await client.v1.payment_intents.cancel_async(intent.id, {}, {"idempotency_key": key()})


async def refund(client: Client, intent: Intent, **params: object) -> stripe.Refund:
    given: Any = {"payment_intent": intent.id, **params}
    return await client.v1.refunds.create_async(given, {"idempotency_key": key()})


async def refused(call: Awaitable[object]) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError) as caught:
        await call
    return caught.value


def intent_in(error: stripe.StripeError) -> Intent:
    assert error.error
    assert error.error.payment_intent
    return error.error.payment_intent


# --------------------------------------------------------------------------------------------- life of a PaymentIntent


async def test_a_payment_intent_starts_unconfirmed_with_what_it_was_given(client: Client, customer: str) -> None:
    """A new PaymentIntent authorizes nothing and carries all given parameters."""
    intent = await create(client, customer=customer)
    assert (intent.object, intent.status) == ("payment_intent", "requires_confirmation")
    assert (intent.amount, intent.amount_capturable, intent.amount_received) == (AMOUNT, 0, 0)
    assert (intent.currency, intent.customer, intent.capture_method) == ("usd", customer, "manual")
    assert intent.payment_method_types == ["card"]
    assert intent.metadata["order_id"] == "order-1"
    assert intent.client_secret
    assert intent.client_secret.startswith(intent.id)
    assert intent.latest_charge is None
    assert (await client.v1.payment_intents.retrieve_async(intent.id)).status == "requires_confirmation"


CONFIRMATIONS: Final = [
    # payment method, capture method -> status, capturable, received
    ("pm_card_visa", "manual", "requires_capture", AMOUNT, 0),
    ("pm_card_visa", "automatic", "succeeded", 0, AMOUNT),
    ("pm_card_mastercard", "manual", "requires_capture", AMOUNT, 0),
    ("pm_card_authenticationRequired", "manual", "requires_action", 0, 0),
    ("pm_card_authenticationRequiredOnSetup", "automatic", "requires_action", 0, 0),
]


@pytest.mark.parametrize(("method", "capture_method", "status", "capturable", "received"), CONFIRMATIONS)
async def test_confirming_asks_the_bank(  # noqa: PLR0913, PLR0917  one column each
    client: Client, method: str, capture_method: str, status: str, capturable: int, received: int
) -> None:
    """Each test card authorizes, charges or requires authentication, as Stripe documents."""
    intent = await confirm(client, await create(client, payment_method=method, capture_method=capture_method))
    assert (intent.status, intent.amount_capturable, intent.amount_received) == (status, capturable, received)
    assert (intent.latest_charge is None) == (status == "requires_action")
    assert (intent.next_action is None) == (status != "requires_action")


async def test_creating_and_confirming_in_one_request(client: Client) -> None:
    """A create with confirm=true also confirms."""
    assert (await create(client, confirm=True)).status == "requires_capture"


DECLINES: Final = [
    # payment method -> code, decline code
    ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
    ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
    ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card"),
    ("pm_card_visa_chargeDeclinedStolenCard", "card_declined", "stolen_card"),
    ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
    ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", "incorrect_cvc"),
    ("pm_card_chargeDeclinedProcessingError", "processing_error", "processing_error"),
]


@pytest.mark.parametrize(("method", "code", "decline_code"), DECLINES)
async def test_a_declined_card_is_a_card_error(client: Client, method: str, code: str, decline_code: str) -> None:
    """A decline is answered 402 with the issuer's reason; the PaymentIntent requires another payment method."""
    intent = await create(client, payment_method=method)
    error = await refused(confirm(client, intent))
    assert isinstance(error, stripe.CardError)
    assert (error.http_status, error.code) == (402, code)
    assert error.error
    assert error.error.decline_code == decline_code
    assert intent_in(error).id == intent.id
    after = await client.v1.payment_intents.retrieve_async(intent.id)
    assert (after.status, after.amount_capturable, after.amount_received) == ("requires_payment_method", 0, 0)
    assert after.last_payment_error
    assert (after.last_payment_error.code, after.last_payment_error.decline_code) == (code, decline_code)


async def test_another_card_may_follow_a_decline(client: Client) -> None:
    """A declined PaymentIntent accepts a new payment method."""
    intent = await create(client, payment_method="pm_card_visa_chargeDeclined")
    await refused(confirm(client, intent))
    again = await client.v1.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})
    assert (again.status, again.last_payment_error) == ("requires_capture", None)


# --------------------------------------------------------------------------------------------------- the state machine

WAYS: Final[dict[str, tuple[dict[str, Any], tuple[Callable[..., Awaitable[Any]], ...]]]] = {
    "requires_payment_method": ({"payment_method": None}, ()),
    "requires_confirmation": ({}, ()),
    "requires_action": ({"payment_method": "pm_card_authenticationRequired"}, (confirm,)),
    "requires_capture": ({}, (confirm,)),
    "succeeded": ({}, (confirm, capture)),
    "canceled": ({}, (confirm, cancel)),
}

UNEXPECTED: Final = "payment_intent_unexpected_state"

TRANSITIONS: Final = [
    # from, action -> the new state, or the error's code and the state that stays
    ("requires_payment_method", confirm, UNEXPECTED),
    ("requires_payment_method", capture, UNEXPECTED),
    ("requires_payment_method", cancel, "canceled"),
    ("requires_payment_method", refund, None),
    ("requires_confirmation", confirm, "requires_capture"),
    ("requires_confirmation", capture, UNEXPECTED),
    ("requires_confirmation", cancel, "canceled"),
    ("requires_confirmation", refund, None),
    ("requires_action", confirm, "requires_action"),
    ("requires_action", capture, UNEXPECTED),
    ("requires_action", cancel, "canceled"),
    ("requires_action", refund, None),
    ("requires_capture", confirm, UNEXPECTED),
    ("requires_capture", capture, "succeeded"),
    ("requires_capture", cancel, "canceled"),
    ("requires_capture", refund, None),
    ("succeeded", confirm, UNEXPECTED),
    ("succeeded", capture, UNEXPECTED),
    ("succeeded", cancel, UNEXPECTED),
    ("succeeded", refund, "succeeded"),
    ("canceled", confirm, UNEXPECTED),
    ("canceled", capture, UNEXPECTED),
    ("canceled", cancel, UNEXPECTED),
    ("canceled", refund, None),
]
STATES: Final = frozenset(WAYS)


@pytest.mark.parametrize(("state", "action", "expected"), TRANSITIONS)
async def test_every_action_in_every_state(
    client: Client, state: str, action: Callable[..., Awaitable[Any]], expected: str | None
) -> None:
    """An action moves the PaymentIntent or is refused without a change: no late capture and no second one."""
    params, steps = WAYS[state]
    intent = await create(client, **params)
    for step in steps:
        intent = await step(client, intent)
    assert intent.status == state
    if expected in STATES:
        assert (await action(client, intent)).status == expected
        return
    error = await refused(action(client, intent))
    assert isinstance(error, stripe.InvalidRequestError)
    assert (error.http_status, error.code) == (400, expected)
    if expected == UNEXPECTED:
        assert intent_in(error).status == state
    assert (await client.v1.payment_intents.retrieve_async(intent.id)).status == state


async def test_a_cancelled_payment_holds_nothing(client: Client) -> None:
    """A cancel releases the authorization and records time and reason."""
    intent = await confirm(client, await create(client))
    gone = await client.v1.payment_intents.cancel_async(intent.id, {"cancellation_reason": "abandoned"})
    assert (gone.amount_capturable, gone.amount_received, gone.cancellation_reason) == (0, 0, "abandoned")
    assert gone.canceled_at


async def test_a_capture_may_be_partial_and_releases_the_rest(client: Client) -> None:
    """A partial capture receives its amount only, and there is no second one."""
    intent = await capture(client, await confirm(client, await create(client)), amount_to_capture=1000)
    assert (intent.status, intent.amount_received, intent.amount_capturable) == ("succeeded", 1000, 0)


async def test_a_capture_is_never_more_than_was_authorized(client: Client) -> None:
    """A capture of more is refused and captures nothing."""
    intent = await confirm(client, await create(client))
    error = await refused(capture(client, intent, amount_to_capture=AMOUNT + 1))
    assert isinstance(error, stripe.InvalidRequestError)
    after = await client.v1.payment_intents.retrieve_async(intent.id)
    assert (after.status, after.amount_received) == ("requires_capture", 0)


# ------------------------------------------------------------------------------------------------------------- refunds


async def paid(client: Client, method: str = "pm_card_visa") -> Intent:
    return await create(client, payment_method=method, capture_method="automatic", confirm=True)


async def test_a_refund_without_an_amount_returns_all_that_is_left(client: Client) -> None:
    """After a partial refund, a refund without an amount returns the rest; a third one is refused."""
    intent = await paid(client)
    first = await refund(client, intent, amount=1000, metadata={"order_id": "order-1"})
    assert (first.object, first.status, first.amount, first.payment_intent) == ("refund", "succeeded", 1000, intent.id)
    assert (await refund(client, intent)).amount == AMOUNT - 1000
    error = await refused(refund(client, intent))
    assert isinstance(error, stripe.InvalidRequestError)
    assert error.code == "charge_already_refunded"
    assert (await client.v1.refunds.retrieve_async(first.id)).status == "succeeded"


async def test_a_refund_is_never_more_than_is_left(client: Client) -> None:
    """A refund of more than is left is refused, also after a partial one."""
    intent = await paid(client)
    await refund(client, intent, amount=2000)
    error = await refused(refund(client, intent, amount=1000))
    assert isinstance(error, stripe.InvalidRequestError)
    assert error.param == "amount"
    listed = await client.v1.refunds.list_async({"payment_intent": intent.id})
    assert [each.amount for each in listed.data] == [2000]


async def test_a_pending_refund_counts_as_refunded(client: Client) -> None:
    """pm_card_pendingRefund: the refund is pending, and its amount cannot be refunded again."""
    intent = await paid(client, "pm_card_pendingRefund")
    assert (await refund(client, intent)).status == "pending"
    assert (await refused(refund(client, intent))).code == "charge_already_refunded"


async def test_a_refund_may_fail_after_it_succeeded(sandbox: Running, client: Client) -> None:
    """pm_card_refundFail: the answer says succeeded, later reads say failed; another refund is possible."""
    intent = await paid(client, "pm_card_refundFail")
    created = await refund(client, intent)
    assert created.status == "succeeded"
    after = await client.v1.refunds.retrieve_async(created.id)
    assert (after.status, after.failure_reason) == ("failed", "expired_or_canceled_card")
    assert (await refund(client, intent)).amount == AMOUNT
    assert sandbox.world.provider_records()["orders"]["order-1"]["refunded"] == 0


async def test_a_refund_may_fail_at_once(sandbox: Running, client: Client) -> None:
    """pm_refund_failed, a card of the sandbox only: the answer says failed."""
    assert (await refund(client, await paid(client, "pm_refund_failed"))).status == "failed"
    assert sandbox.world.provider_records()["orders"]["order-1"]["refunded"] == 0


@pytest.mark.parametrize(("outcome", "status", "refunded"), [("succeed", "succeeded", AMOUNT), ("fail", "failed", 0)])
async def test_a_pending_refund_ends(  # noqa: PLR0913, PLR0917  the table's columns and its world
    sandbox: Running, http: httpx.AsyncClient, client: Client, outcome: str, status: str, refunded: int
) -> None:
    """A pending refund succeeds or fails later, and a failed one stays failed."""
    created = await refund(client, await paid(client, "pm_card_pendingRefund"))
    assert sandbox.world.provider_records()["orders"]["order-1"]["refund_pending"] == AMOUNT
    await http.post(f"/_sandbox/settle/{created.id}", json={"outcome": outcome})
    assert (await client.v1.refunds.retrieve_async(created.id)).status == status
    again = await http.post(f"/_sandbox/settle/{created.id}", json={"outcome": "succeed"})
    assert again.status_code == (200 if outcome == "succeed" else 400)
    order = sandbox.world.provider_records()["orders"]["order-1"]
    assert (order["refunded"], order["refund_pending"]) == (refunded, 0)


# ---------------------------------------------------------------------------------------------------------- parameters

WRONG: Final = [
    # parameters over the usual ones -> code, param
    ({"amount": None}, "parameter_missing", "amount"),
    ({"currency": None}, "parameter_missing", "currency"),
    ({"amount": 49}, "amount_too_small", "amount"),
    ({"amount": 100_000_000}, "amount_too_large", "amount"),
    ({"amount": 0}, "parameter_invalid_integer", "amount"),
    ({"amount": "12.5"}, "parameter_invalid_integer", "amount"),
    ({"currency": "xxx"}, None, "currency"),
    ({"color": "red"}, "parameter_unknown", "color"),
    ({"payment_method": "pm_card_unheard_of"}, "resource_missing", "payment_method"),
    ({"customer": "nobody"}, "resource_missing", "customer"),
    (
        {"allowed_payment_method_types": None, "payment_method_types": ["card"]},
        "payment_method_types_no_longer_supported",
        "payment_method_types",
    ),
]


@pytest.mark.parametrize(("params", "code", "param"), WRONG)
async def test_wrong_parameters_are_named(client: Client, params: dict[str, Any], code: str | None, param: str) -> None:
    """A wrong parameter is answered 400 with Stripe's code and the parameter's name."""
    error = await refused(create(client, **params))
    assert isinstance(error, stripe.InvalidRequestError)
    assert (error.http_status, error.code, error.param) == (400, code, param)


@pytest.mark.parametrize("call", [confirm, capture, cancel])
async def test_an_unknown_payment_intent_is_404(client: Client, call: Callable[..., Awaitable[Any]]) -> None:
    """Every action on an unknown PaymentIntent is answered resource_missing."""
    error = await refused(call(client, Intent(id="pi_unheard_of")))
    assert isinstance(error, stripe.InvalidRequestError)
    assert (error.http_status, error.code) == (404, "resource_missing")


async def test_the_sandbox_knows_the_card_of_the_example_payload(sandbox: Running, client: Client) -> None:
    """pm_123 is authorized for cus_123."""
    intent = await create(client, customer="cus_123", payment_method="pm_123", confirm=True)
    assert sandbox.world.stripe.account.intent(intent.id).status == "requires_capture"


async def test_lists_are_newest_first_and_come_in_pages(client: Client, customer: str) -> None:
    """Limit and starting_after page through the PaymentIntents of a customer; has_more says if there are more."""
    made = [(await create(client, customer=customer)).id for _ in range(3)]
    await create(client)
    first = await client.v1.payment_intents.list_async({"customer": customer, "limit": 2})
    assert ([each.id for each in first.data], first.has_more) == ([made[2], made[1]], True)
    rest = await client.v1.payment_intents.list_async(
        {"customer": customer, "limit": 2, "starting_after": first.data[-1].id}
    )
    assert ([each.id for each in rest.data], rest.has_more) == ([made[0]], False)


@pytest.mark.parametrize("authorization", ["", "Basic abc", "Bearer", "Bearer sk_live_abc", "Bearer nonsense"])
async def test_only_test_keys_are_accepted(sandbox: Running, http: httpx.AsyncClient, authorization: str) -> None:
    """A request without a key or with a live key is answered 401."""
    answer = await http.get("/stripe/v1/payment_intents", headers={"Authorization": authorization})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not sandbox.world.stripe.account.intents


async def test_every_answer_has_a_request_id(client: Client) -> None:
    """Successes and errors have a request id, which Stripe's support asks for."""
    assert headers_of(await create(client))["request-id"].startswith("req_")
    assert ((await refused(create(client, amount=1))).request_id or "").startswith("req_")


# --------------------------------------------------------------------------------------------------------- idempotency


def headers_of(answer: stripe.StripeObject) -> Mapping[str, str]:
    assert answer.last_response
    return answer.last_response.headers


def replayed(headers: Mapping[str, str] | None) -> bool:
    return (headers or {}).get("idempotent-replayed") == "true"


async def test_the_same_key_gives_the_first_answer_again(client: Client) -> None:
    """A repeated POST has no second effect, and its answer says that it is a replay."""
    params: Any = {"amount": AMOUNT, "currency": "usd", "metadata": {"order_id": "order-1"}}
    options: Any = {"idempotency_key": key()}
    first = await client.v1.payment_intents.create_async(params, options)
    again = await client.v1.payment_intents.create_async(params, options)
    assert again.id == first.id
    assert (replayed(headers_of(first)), replayed(headers_of(again))) == (False, True)


async def test_a_replay_shows_the_state_of_the_first_answer(client: Client) -> None:
    """The answer saved under a key does not change: the current state must be read."""
    intent = await confirm(client, await create(client))
    options: Any = {"idempotency_key": key()}
    await client.v1.payment_intents.cancel_async(intent.id, {}, options)
    created = await create(client)
    options = {"idempotency_key": key()}
    await client.v1.payment_intents.confirm_async(created.id, {}, options)
    await cancel(client, created)
    assert (await client.v1.payment_intents.confirm_async(created.id, {}, options)).status == "requires_capture"
    assert (await client.v1.payment_intents.retrieve_async(created.id)).status == "canceled"


@pytest.mark.parametrize("change", ["params", "path"])
async def test_a_key_belongs_to_one_request(client: Client, change: str) -> None:
    """Other parameters or another path under the same key are an idempotency_error without effect."""
    intent, other = await create(client), await create(client)
    options: Any = {"idempotency_key": key()}
    await client.v1.payment_intents.confirm_async(intent.id, {}, options)
    call = (
        client.v1.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_mastercard"}, options)
        if change == "params"
        else client.v1.payment_intents.confirm_async(other.id, {}, options)
    )
    error = await refused(call)
    assert isinstance(error, stripe.IdempotencyError)
    assert error.http_status == 400
    assert (await client.v1.payment_intents.retrieve_async(other.id)).status == "requires_confirmation"


async def test_a_decline_is_kept_under_its_key(client: Client) -> None:
    """The same key gets the same 402: a new attempt needs a new key."""
    intent = await create(client, payment_method="pm_card_visa_chargeDeclined")
    options: Any = {"idempotency_key": key()}
    first = await refused(client.v1.payment_intents.confirm_async(intent.id, {}, options))
    again = await refused(client.v1.payment_intents.confirm_async(intent.id, {}, options))
    assert (type(first), type(again)) == (stripe.CardError, stripe.CardError)
    assert (replayed(first.headers), replayed(again.headers)) == (False, True)


async def test_a_state_answer_is_kept_under_its_key(client: Client) -> None:
    """A refusal by the state of the object is replayed, even if the request would succeed now."""
    intent = await create(client)
    options: Any = {"idempotency_key": key()}
    first = await refused(client.v1.payment_intents.capture_async(intent.id, {}, options))
    await confirm(client, intent)
    again = await refused(client.v1.payment_intents.capture_async(intent.id, {}, options))
    assert (first.code, again.code) == (UNEXPECTED, UNEXPECTED)
    assert replayed(again.headers)


async def test_a_wrong_parameter_does_not_use_up_the_key(client: Client) -> None:
    """A refusal by validation is not saved: the corrected request may use the key."""
    options: Any = {"idempotency_key": key()}
    wrong: Any = {"amount": "lots", "currency": "usd"}
    await refused(client.v1.payment_intents.create_async(wrong, options))
    right = await client.v1.payment_intents.create_async({"amount": AMOUNT, "currency": "usd"}, options)
    assert not replayed(headers_of(right))


async def test_a_key_may_be_pruned(sandbox: Running, http: httpx.AsyncClient, client: Client) -> None:
    """After Stripe pruned a key the request runs again; only the state of the object prevents a second charge."""
    intent = await confirm(client, await create(client))
    options: Any = {"idempotency_key": key()}
    await client.v1.payment_intents.capture_async(intent.id, {}, options)
    await http.post("/_sandbox/forget-keys")
    error = await refused(client.v1.payment_intents.capture_async(intent.id, {}, options))
    assert (error.code, replayed(error.headers)) == (UNEXPECTED, False)
    assert sandbox.world.provider_records()["orders"]["order-1"]["captured"] == AMOUNT


async def test_a_key_has_at_most_255_characters(client: Client) -> None:
    """A longer key is refused."""
    options: Any = {"idempotency_key": "k" * 256}
    error = await refused(client.v1.payment_intents.create_async({"amount": AMOUNT, "currency": "usd"}, options))
    assert error.http_status == 400


# ----------------------------------------------------------------------------------- what customer, bank and time do


@pytest.mark.parametrize(
    ("method", "outcome", "status", "code"),
    [
        ("pm_card_authenticationRequired", "succeed", "requires_capture", None),
        ("pm_card_authenticationRequired", "fail", "requires_payment_method", "payment_intent_authentication_failure"),
        (
            "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds",
            "succeed",
            "requires_payment_method",
            "card_declined",
        ),
    ],
)
async def test_the_customer_authenticates_or_fails_to(  # noqa: PLR0913, PLR0917  the table's columns and its world
    http: httpx.AsyncClient, client: Client, method: str, outcome: str, status: str, code: str | None
) -> None:
    """After 3DS the PaymentIntent is charged, or requires another payment method and says why."""
    intent = await confirm(client, await create(client, payment_method=method))
    assert intent.next_action
    assert intent.next_action.type == "use_stripe_sdk"
    answer = await http.post(f"/_sandbox/authenticate/{intent.id}", json={"outcome": outcome})
    assert answer.status_code == 200
    after = await client.v1.payment_intents.retrieve_async(intent.id)
    assert (after.status, after.next_action) == (status, None)
    assert (after.last_payment_error.code if after.last_payment_error else None) == code


async def test_a_payment_is_authenticated_once(http: httpx.AsyncClient, client: Client) -> None:
    """An authentication after the payment was cancelled changes nothing."""
    intent = await confirm(client, await create(client, payment_method="pm_card_authenticationRequired"))
    await cancel(client, intent)
    answer = await http.post(f"/_sandbox/authenticate/{intent.id}", json={"outcome": "succeed"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, UNEXPECTED)


async def test_an_authorization_expires(http: httpx.AsyncClient, client: Client) -> None:
    """A lapsed authorization cancels the PaymentIntent, and a late capture is refused."""
    intent = await confirm(client, await create(client))
    await http.post(f"/_sandbox/expire/{intent.id}")
    after = await client.v1.payment_intents.retrieve_async(intent.id)
    assert (after.status, after.amount_capturable, after.cancellation_reason) == ("canceled", 0, "automatic")
    assert (await refused(capture(client, intent))).code == UNEXPECTED
