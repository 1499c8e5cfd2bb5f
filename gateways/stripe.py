"""Stripe's API as an order needs it: every POST under an idempotency key, every doubt settled by reading.

Nothing here knows the order row; activities/payments.py decides what may be done when.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final, TypeVar

import httpx
import stripe
from stripe.params import PaymentIntentListParams

from gateways.stripe_errors import code_of, is_customers_choice, is_saved, is_state_answer, translate
from orders.errors import Unavailable
from orders.models import OrderRow

MAX_KEYS: Final = 5
PAGE: Final = 100
ORDER_METADATA: Final = "order_id"
SHOP_METADATA: Final = "shop_id"  # tells the payments of this database from those of others on the same account
ATTEMPT_METADATA: Final = "attempt"
INTENT_PREFIX: Final = "pi_"

# The version of Stripe's API that this code was written for; the SDK's default moves with its releases.
API_VERSION: Final = "2026-10-28.endive"

Intent = stripe.PaymentIntent
T = TypeVar("T")


class PaymentRefused(Exception):
    """Stripe refuses what the customer chose; the argument is the code."""


class _Transport(stripe.HTTPClient):
    """Runs the SDK on our own HTTP client and its limits; the SDK's own trusts every answer and every proxy."""

    name = "httpx"

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__()
        self._http = http

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            response = await self._http.request(method, url, headers=headers, content=post_data)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise stripe.APIConnectionError(type(error).__name__) from error  # type: ignore[no-untyped-call]
        return response.content, response.status_code, response.headers


def stripe_client(http: httpx.AsyncClient, secret_key: str, base: str) -> stripe.StripeClient:
    """Stripe's SDK, which leaves retrying to Temporal and tells nobody about itself."""
    stripe.enable_telemetry = False  # it would write a file under the home folder and send platform data
    return stripe.StripeClient(
        secret_key,
        stripe_version=API_VERSION,
        base_addresses={"api": base},
        http_client=_Transport(http),
        max_network_retries=0,
    )


class StripeGateway:
    """PaymentIntents and refunds of orders. Where a POST fails, what came of it is read.

    A POST that is repeated under its key is answered as the object stood the first time.

    Raises, in all methods:
        Unavailable: an outage, a limit, a lost answer.
        Permanent: Stripe refuses the request itself: a bug.
    """

    def __init__(self, client: stripe.StripeClient) -> None:
        self._intents = client.v1.payment_intents
        self._refunds = client.v1.refunds

    async def create(self, order: OrderRow, payment_method_id: str, shop_id: str) -> Intent:
        """A PaymentIntent for the order, unconfirmed: it holds no money. `shop_id` names the shop that makes it.

        Raises:
            PaymentRefused: for what the customer chose.
        """

        async def post(key: str) -> Intent:
            return await self._intents.create_async(
                {
                    "amount": order.total,
                    "currency": order.currency,
                    "customer": order.customer_id,
                    "payment_method": payment_method_id,
                    # `payment_method_types` is refused since API version 2026-09-30 (docs.stripe.com/changelog/endive).
                    "allowed_payment_method_types": ["card"],
                    "capture_method": order.terms.capture_mode,
                    "metadata": {ORDER_METADATA: order.id, SHOP_METADATA: shop_id},
                },
                {"idempotency_key": key},
            )

        async def find() -> Intent | None:
            recent = await self._intents.list_async({"customer": order.customer_id, "limit": PAGE})
            ours = (each for each in recent.data if (order_of(each), shop_id_of(each)) == (order.id, shop_id))
            return next(ours, None)

        return await self._post(f"{order.id}:create", post, find)

    async def retrieve(self, intent_id: str) -> Intent:
        try:
            return await self._intents.retrieve_async(intent_id)
        except stripe.StripeError as error:
            raise translate(error) from None

    async def find(self, object_id: str) -> Intent | None:
        """The PaymentIntent that has this id, or that has a refund of this id; None if Stripe knows neither."""
        try:
            if object_id.startswith(INTENT_PREFIX):
                return await self._intents.retrieve_async(object_id)
            refund = await self._refunds.retrieve_async(object_id)
            return await self._intents.retrieve_async(str(refund.payment_intent)) if refund.payment_intent else None
        except stripe.StripeError as error:
            if code_of(error) == "resource_missing":
                return None
            raise translate(error) from None

    async def list_between(self, start: datetime, end: datetime, *, after: str | None, limit: int) -> list[Intent]:
        """PaymentIntents created between two moments, newest first; those that follow the one whose id is `after`."""
        params: PaymentIntentListParams = {
            "created": {"gte": int(start.timestamp()), "lte": int(end.timestamp())},
            "limit": limit,
        }
        if after:
            params["starting_after"] = after
        try:
            return (await self._intents.list_async(params)).data
        except stripe.StripeError as error:
            raise translate(error) from None

    async def confirm(self, order_id: str, intent_id: str) -> Intent:
        """Ask the customer's bank. A decline is a PaymentIntent that requires a payment method."""

        async def post(key: str) -> Intent:
            return await self._intents.confirm_async(intent_id, {}, {"idempotency_key": key})

        return await self._drive(f"{order_id}:confirm", intent_id, post, before={"requires_confirmation"})

    async def capture(self, order_id: str, intent_id: str) -> Intent:
        async def post(key: str) -> Intent:
            return await self._intents.capture_async(intent_id, {}, {"idempotency_key": key})

        return await self._drive(f"{order_id}:capture", intent_id, post, before={"requires_capture"})

    async def void(self, order_id: str, intent_id: str) -> Intent:
        """Cancel a PaymentIntent that took no money yet."""

        async def post(key: str) -> Intent:
            return await self._intents.cancel_async(intent_id, {}, {"idempotency_key": key})

        open_states = {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"}
        return await self._drive(f"{order_id}:void", intent_id, post, before=open_states)

    async def refunds(self, intent_id: str) -> list[stripe.Refund]:
        """All refunds of the PaymentIntent, newest first."""
        try:
            return (await self._refunds.list_async({"payment_intent": intent_id, "limit": PAGE})).data
        except stripe.StripeError as error:
            raise translate(error) from None

    async def refund(self, order_id: str, intent_id: str, *, attempt: int, known: int) -> stripe.Refund:
        """Refund all that is left of the charge.

        Args:
            order_id: part of the idempotency key.
            intent_id: the PaymentIntent.
            attempt: counted in operators' words, so that a retry is one to Stripe too.
            known: how many refunds there were when the caller looked.
        """

        async def post(key: str) -> stripe.Refund:
            return await self._refunds.create_async(
                {"payment_intent": intent_id, "metadata": {ORDER_METADATA: order_id, ATTEMPT_METADATA: str(attempt)}},
                {"idempotency_key": key},
            )

        async def find() -> stripe.Refund | None:
            refunds = await self.refunds(intent_id)
            return refunds[0] if len(refunds) > known else None

        return await self._post(f"{order_id}:refund:{attempt}", post, find)

    async def _drive(
        self, key: str, intent_id: str, post: Callable[[str], Awaitable[Intent]], before: set[str]
    ) -> Intent:
        """POST a change of state; whatever Stripe answers, the PaymentIntent itself tells what came of it."""

        async def changed() -> Intent | None:
            intent = await self.retrieve(intent_id)
            return None if intent.status in before else intent

        return await self._post(key, post, changed)

    async def _post(self, key: str, post: Callable[[str], Awaitable[T]], find: Callable[[], Awaitable[T | None]]) -> T:
        """POST under `key`; where the answer does not tell what is, look.

        An error that Stripe has saved under the key never heals (docs.stripe.com/api/idempotent_requests): be it a 500
        or a state that has passed since, the next key is used once it is seen that nothing has happened.
        """
        for number in range(1, MAX_KEYS + 1):
            try:
                return await post(f"{key}:{number}")
            except stripe.StripeError as error:
                if is_customers_choice(error):
                    raise PaymentRefused(code_of(error)) from None
                if not is_state_answer(error) and not is_saved(error):
                    raise translate(error) from None
                if found := await self._look(find):
                    return found
                if not is_saved(error):
                    raise Unavailable(f"stripe: {code_of(error)}, for a moment", type="payment_changing") from None
        raise Unavailable("stripe: every key has a saved error", type="stripe_unavailable")

    async def _look(self, find: Callable[[], Awaitable[T | None]]) -> T | None:
        try:
            return await find()
        except stripe.StripeError as error:
            raise translate(error) from None


def order_of(intent: Intent) -> str | None:
    """The order that a PaymentIntent was made for, by its metadata."""
    return _metadata(intent).get(ORDER_METADATA)


def shop_id_of(intent: Intent) -> str | None:
    """The id of the shop that created a PaymentIntent; None: somebody else did."""
    return _metadata(intent).get(SHOP_METADATA)


def attempt_of(refund: stripe.Refund) -> int | None:
    """Which attempt of ours a refund came of; None: somebody else made it."""
    attempt = _metadata(refund).get(ATTEMPT_METADATA, "")
    return int(attempt) if attempt.isdecimal() else None


def _metadata(of: Intent | stripe.Refund) -> dict[str, str]:
    return of.metadata.to_dict() if of.metadata else {}
