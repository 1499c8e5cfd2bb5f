"""Stripe's API as orders need it: every POST has an idempotency key, and every doubtful answer is settled by reading.

Nothing here knows the order row; activities/payments.py decides what may be done when.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx
import stripe
from stripe.params import PaymentIntentListParams, RefundCreateParams, RefundListParams

from gateways.calls import watch_call
from gateways.http import header
from gateways.payment_tries import FIRST_TRY
from gateways.spent_keys import SpentKeys
from gateways.stripe_errors import REPLAYED, code_of, is_customers_choice, is_saved, is_transient, translate
from orders.errors import Permanent, Unavailable
from orders.models import OrderRow, PaymentWarning, RefundKey, WarningKind

MAX_POSTS: Final = 3  # in one attempt: under the first key, the last one that was used, and a new one
PAGE: Final = 100
ORDER_METADATA: Final = "order_id"
SHOP_METADATA: Final = "shop_id"  # other shops may use the same Stripe account
ATTEMPT_METADATA: Final = "attempt"
REFUND_METADATA: Final = "refund_id"  # of the refund of a part; the refund of all that is left has none
INTENT_PREFIX: Final = "pi_"
REVIEW_PREFIX: Final = "prv_"
FRAUD_WARNING_PREFIX: Final = "issfr_"

# Statuses of a PaymentIntent that a void can change; `processing` allows neither a void nor a refund.
VOIDABLE: Final = frozenset({"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"})
CONFIRMABLE: Final = VOIDABLE - {"requires_capture"}  # another payment method can be tried, and nothing is held
FINAL: Final = frozenset({"canceled", "succeeded"})
UNCONFIRMED: Final = "requires_confirmation"

# The version of Stripe's API that this code is written for; the SDK's default changes with its releases.
API_VERSION: Final = "2026-10-28.endive"

Intent = stripe.PaymentIntent
T = TypeVar("T")


class PaymentRefused(Exception):
    """Stripe refuses what the customer chose. The argument is Stripe's error code and parameter, as far as named."""


class _Transport(stripe.HTTPClient):
    """Runs the SDK on our HTTP client, for its limits: the SDK's client reads any answer and uses any proxy."""

    name = "httpx"

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__()
        self._http = http

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            with watch_call("stripe", f"{method.upper()} {urlsplit(url).path}") as call:
                response = await self._http.request(method, url, headers=headers, content=post_data)
                call.answered(response.status_code)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise stripe.APIConnectionError(type(error).__name__) from error  # type: ignore[no-untyped-call]
        return response.content, response.status_code, response.headers


def stripe_client(http: httpx.AsyncClient, secret_key: str, base: str) -> stripe.StripeClient:
    """Stripe's SDK without retries, which are Temporal's task, and without telemetry."""
    stripe.enable_telemetry = False  # it writes a file in the home folder and sends data about the platform
    return stripe.StripeClient(
        secret_key,
        stripe_version=API_VERSION,
        base_addresses={"api": base},
        http_client=_Transport(http),
        max_network_retries=0,
    )


class StripeGateway:
    """PaymentIntents and refunds of one shop's orders. After a POST that failed, the gateway reads what happened.

    Stripe answers a repeated POST with the same key as it answered the first one, even if the object changed since.
    Every key begins with the shop's id: other shops with the same order ids may use the same Stripe account.

    Raises, in all methods:
        Unavailable: an outage, a limit, a lost answer.
        Permanent: Stripe refuses the request itself, which is a bug.
    """

    def __init__(self, client: stripe.StripeClient, shop_id: str, spent_keys: SpentKeys) -> None:
        self.shop_id = shop_id
        self._spent_keys = spent_keys
        self._intents = client.v1.payment_intents
        self._refunds = client.v1.refunds
        self._disputes = client.v1.disputes
        self._fraud_warnings = client.v1.radar.early_fraud_warnings
        self._reviews = client.v1.reviews

    async def create(
        self,
        order: OrderRow,
        payment_method_id: str,
        is_kept: Callable[[str], Awaitable[bool]],
        *,
        number: int = FIRST_TRY,
    ) -> Intent:
        """Create a PaymentIntent for the order, unconfirmed: it holds no money.

        `is_kept` says whether the order's row has this id by now: then another attempt has confirmed it. `number` is
        that of the try: those before it were refused, and created none.

        Raises:
            PaymentRefused: Stripe refuses what the customer chose.
        """

        async def post(key: str) -> Intent:
            created = await self._intents.create_async(
                {
                    "amount": order.total,
                    "currency": order.currency,
                    "customer": order.customer_id,
                    "payment_method": payment_method_id,
                    # `payment_method_types` is refused since API version 2026-09-30 (docs.stripe.com/changelog/endive).
                    "allowed_payment_method_types": ["card"],
                    "capture_method": order.terms.capture_mode,
                    "metadata": {ORDER_METADATA: order.id, SHOP_METADATA: self.shop_id},
                },
                {"idempotency_key": key},
            )
            return await self._ours(created, is_kept)

        async def find() -> Intent | None:
            recent = await self._intents.list_async({"customer": order.customer_id, "limit": PAGE})
            ours = (order.id, self.shop_id, UNCONFIRMED)
            return next((each for each in recent.data if (order_of(each), shop_id_of(each), each.status) == ours), None)

        call = f"{order.id}:create" if number == FIRST_TRY else f"{order.id}:create:{number}"
        return await self._post(call, post, find, is_choice=True)

    async def _ours(self, created: Intent, is_kept: Callable[[str], Awaitable[bool]]) -> Intent:
        """The PaymentIntent, unless somebody has confirmed it whose row is not ours.

        A copy of this database asks under the same keys, and would get the payment of the other one's customer.

        Raises:
            StripeError: somebody has; the key is spent.
        """
        if not _is_repeated(created):
            return created
        now = await self._intents.retrieve_async(created.id)
        if now.status != UNCONFIRMED and not await is_kept(now.id):
            raise stripe.StripeError("confirmed elsewhere", code="payment_of_others", headers={REPLAYED: "true"})
        return now

    async def retrieve(self, intent_id: str) -> Intent:
        try:
            return await self._intents.retrieve_async(intent_id)
        except stripe.StripeError as error:
            raise translate(error) from None

    async def find(self, object_id: str) -> Intent | None:
        """The PaymentIntent with this id, or with a refund of this id; None if Stripe knows neither."""
        try:
            if object_id.startswith(INTENT_PREFIX):
                return await self._intents.retrieve_async(object_id)
            refund = await self._refunds.retrieve_async(object_id)
            return await self._intents.retrieve_async(str(refund.payment_intent)) if refund.payment_intent else None
        except stripe.StripeError as error:
            if code_of(error) == "resource_missing":
                return None
            raise translate(error) from None

    async def find_warning(self, warning_id: str) -> PaymentWarning | None:
        """The dispute, early fraud warning or review with this id; None if Stripe has none, or it names no payment."""
        try:
            if warning_id.startswith(REVIEW_PREFIX):
                review = await self._reviews.retrieve_async(warning_id)
                return _warning("review", review, "open" if review.open else "closed", review.reason, 0)
            if warning_id.startswith(FRAUD_WARNING_PREFIX):
                found = await self._fraud_warnings.retrieve_async(warning_id)
                status = "actionable" if found.actionable else "not_actionable"
                return _warning("fraud_warning", found, status, found.fraud_type, 0)
            dispute = await self._disputes.retrieve_async(warning_id)
            return _warning("dispute", dispute, dispute.status, dispute.reason, dispute.amount)
        except stripe.StripeError as error:
            if code_of(error) == "resource_missing":
                return None
            raise translate(error) from None

    async def list_between(self, start: datetime, end: datetime, *, after: str | None, limit: int) -> list[Intent]:
        """PaymentIntents created between two moments, newest first; the next `limit` of them after the id `after`."""
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
        """Ask the customer's bank. After a decline the PaymentIntent requires a payment method.

        Raises:
            PaymentRefused: Stripe refuses what the customer chose.
        """

        async def post(key: str) -> Intent:
            return await self._intents.confirm_async(intent_id, {}, {"idempotency_key": key})

        return await self._drive(
            f"{order_id}:{intent_id}:confirm", intent_id, post, before={UNCONFIRMED}, is_choice=True
        )

    async def confirm_with(self, order_id: str, intent_id: str, payment_method_id: str, *, number: int) -> Intent:
        """Ask the bank of another payment method, which is the try `number`. See confirm.

        After a saved error the bank may be asked once more: a PaymentIntent that can be confirmed holds no money.

        Raises:
            PaymentRefused: Stripe refuses what the customer chose.
        """

        async def post(key: str) -> Intent:
            try:
                return await self._intents.confirm_async(
                    intent_id, {"payment_method": payment_method_id}, {"idempotency_key": key}
                )
            except stripe.CardError:  # declined: the PaymentIntent says why, and whether another try came after it
                return await self._intents.retrieve_async(intent_id)

        call = f"{order_id}:{intent_id}:confirm:{number}"
        return await self._drive(call, intent_id, post, before=CONFIRMABLE, is_choice=True)

    async def capture(self, order_id: str, intent_id: str) -> Intent:
        async def post(key: str) -> Intent:
            return await self._intents.capture_async(intent_id, {}, {"idempotency_key": key})

        return await self._drive(f"{order_id}:{intent_id}:capture", intent_id, post, before={"requires_capture"})

    async def void(self, order_id: str, intent_id: str, *, attempt: int) -> Intent:
        """Cancel the PaymentIntent unless it has taken money. The answer reads `canceled` or `succeeded`.

        `attempt` grows with each retry that an operator allows, so that Stripe takes the retry for a new request.

        Raises:
            Unavailable: also while the payment can be neither voided nor refunded.
        """

        async def post(key: str) -> Intent:
            return await self._intents.cancel_async(intent_id, {}, {"idempotency_key": key})

        intent = await self.retrieve(intent_id)
        if intent.status not in FINAL | {"processing"}:
            intent = await self._drive(f"{order_id}:{intent_id}:void:{attempt}", intent_id, post, before=VOIDABLE)
        if intent.status not in FINAL:
            raise Unavailable(f"stripe: cannot void yet, the payment is {intent.status}", type="payment_not_voidable")
        return intent

    async def refunds(self, intent_id: str) -> list[stripe.Refund]:
        """All refunds of the PaymentIntent, newest first."""
        found: list[stripe.Refund] = []
        params: RefundListParams = {"payment_intent": intent_id, "limit": PAGE}
        try:
            while True:
                page = await self._refunds.list_async(params)
                found += page.data
                if not page.has_more:
                    return found
                params["starting_after"] = page.data[-1].id
        except stripe.StripeError as error:
            raise translate(error) from None

    async def refund(
        self, order_id: str, intent_id: str, *, attempt: int, known: Sequence[stripe.Refund], amount: int | None = None
    ) -> list[stripe.Refund]:
        """Refund all that is left of the charge. Returns all refunds of the PaymentIntent, newest first.

        Args:
            order_id: for the idempotency key and the refund's metadata.
            intent_id: the PaymentIntent.
            attempt: one more than that of the last refund, so that Stripe takes it for a new request.
            known: the refunds that the caller has read, newest first.
            amount: not all that is left, but so much of it, in minor units: the rest was paid by other means.
        """
        params: RefundCreateParams = {
            "payment_intent": intent_id,
            "metadata": {ORDER_METADATA: order_id, ATTEMPT_METADATA: str(attempt)},
        }
        if amount is not None:
            params["amount"] = amount
        call = f"{order_id}:{intent_id}:refund:{attempt}"
        return await self._refund(call if amount is None else f"{call}:{amount}", params, (None, attempt), known)

    async def refund_part(
        self, key: RefundKey, intent_id: str, amount: int, *, attempt: int, known: Sequence[stripe.Refund]
    ) -> list[stripe.Refund]:
        """Refund a part of the charge, in minor units. Returns all refunds of the PaymentIntent, newest first.

        The refund carries its refund id: after a lost answer it is told from others, also when Stripe has forgotten its
        idempotency key. See `refund` for `attempt` and `known`.
        """
        params: RefundCreateParams = {
            "payment_intent": intent_id,
            "amount": amount,
            "metadata": {
                ORDER_METADATA: key.order_id,
                REFUND_METADATA: key.refund_id,
                ATTEMPT_METADATA: str(attempt),
            },
        }

        call = f"{key.order_id}:{intent_id}:refund-part:{key.refund_id}:{attempt}"
        return await self._refund(call, params, (key.refund_id, attempt), known)

    async def _refund(
        self,
        call: str,
        params: RefundCreateParams,
        name: tuple[str | None, int],
        known: Sequence[stripe.Refund],
    ) -> list[stripe.Refund]:
        """`name` is the part that the refund is of, and its attempt: by them it is found again after a lost answer."""
        intent_id = str(params["payment_intent"])

        async def post(key: str) -> stripe.Refund:
            return await self._refunds.create_async(params, {"idempotency_key": key})

        async def find() -> stripe.Refund | None:
            found = await self.refunds(intent_id)
            return next((each for each in found if (part_of(each), attempt_of(each)) == name), None)

        try:
            created = await self._post(call, post, find)
        except Permanent:
            # It may ask for more than is left: the next attempt of the activity reads how much that is.
            if {refund.id for refund in await self.refunds(intent_id)} - {refund.id for refund in known}:
                raise Unavailable("stripe: somebody has refunded meanwhile", type="payment_changing") from None
            raise
        return [created, *(refund for refund in known if refund.id != created.id)]

    async def _drive(
        self,
        call: str,
        intent_id: str,
        post: Callable[[str], Awaitable[Intent]],
        before: AbstractSet[str],
        *,
        is_choice: bool = False,
    ) -> Intent:
        """POST a change of status. It has happened if the PaymentIntent no longer has one of the statuses `before`.

        A repeated answer says how the PaymentIntent was: it is read again.
        """

        async def changed() -> Intent | None:
            intent = await self.retrieve(intent_id)
            return None if intent.status in before else intent

        answer = await self._post(call, post, changed, is_choice=is_choice)
        return await self.retrieve(intent_id) if _is_repeated(answer) else answer

    async def _post(
        self,
        call: str,
        post: Callable[[str], Awaitable[T]],
        find: Callable[[], Awaitable[T | None]],
        *,
        is_choice: bool = False,
    ) -> T:
        """POST under a key of the call; `find` returns what the POST was to produce, None if it does not exist.

        Stripe repeats an error that it has saved under a key for ever (docs.stripe.com/api/idempotent_requests), also
        one whose cause has passed. So the next key is used, once `find` has seen that nothing happened: one new key in
        each attempt of the activity, whose distance grows, and no last one. `is_choice`: the POST carries what the
        customer chose, which Stripe may refuse.
        """
        number = 1
        for _ in range(MAX_POSTS):
            try:
                return await post(f"{self.shop_id}:{call}:{number}")
            except stripe.StripeError as error:
                if is_transient(error):
                    raise translate(error) from None
                problem = error
            if found := await self._look(find):
                return found
            if is_choice and is_customers_choice(problem):
                raise PaymentRefused(" ".join(filter(None, (problem.code, getattr(problem, "param", None)))))
            if not is_saved(problem):
                raise translate(problem)
            number = await self._spent_keys.spend(call, number)
        raise translate(problem)

    async def _look(self, find: Callable[[], Awaitable[T | None]]) -> T | None:
        try:
            return await find()
        except stripe.StripeError as error:
            raise translate(error) from None


def order_of(intent: Intent) -> str | None:
    """The order that a PaymentIntent names in its metadata."""
    return _metadata(intent).get(ORDER_METADATA)


def shop_id_of(intent: Intent) -> str | None:
    """The shop that created a PaymentIntent; None: it was not created by this program."""
    return _metadata(intent).get(SHOP_METADATA)


def attempt_of(refund: stripe.Refund) -> int | None:
    """The number of the attempt that created a refund; None: it was not created by this program."""
    attempt = _metadata(refund).get(ATTEMPT_METADATA, "")
    return int(attempt) if attempt.isdecimal() else None


def part_of(refund: stripe.Refund) -> str | None:
    """The refund id of a refund of a part; None: it is of all that was left, or was made by hand."""
    return _metadata(refund).get(REFUND_METADATA)


def is_by_hand(refund: stripe.Refund) -> bool:
    """Whether somebody made the refund in the dashboard."""
    return part_of(refund) is None and attempt_of(refund) is None


def made_at(refund: stripe.Refund) -> datetime:
    """When a refund was made, by Stripe's clock."""
    return datetime.fromtimestamp(refund.created, UTC)


def _warning(
    kind: WarningKind,
    found: stripe.Dispute | stripe.radar.EarlyFraudWarning | stripe.Review,
    status: str,
    reason: str,
    amount: int,
) -> PaymentWarning | None:
    """A payment that was made without a PaymentIntent is none of ours."""
    if not found.payment_intent:
        return None
    payment = str(found.payment_intent)
    return PaymentWarning(
        id=found.id, kind=kind, payment_intent_id=payment, status=status, reason=reason, amount=amount
    )


def _is_repeated(intent: Intent) -> bool:
    """Whether Stripe repeated an earlier answer, since when the PaymentIntent may have changed."""
    answer = intent.last_response
    return answer is not None and header(answer.headers, REPLAYED) == "true"


def _metadata(of: Intent | stripe.Refund) -> dict[str, str]:
    return of.metadata.to_dict() if of.metadata else {}
