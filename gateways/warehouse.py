"""The warehouse's HTTP API: ship an order, cancel its shipment, read where the shipment is.

Nothing here knows the order row; activities/fulfillment.py decides what may be asked when.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import quote

import httpx
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateways.http import CLIENT_ERRORS, get_json, post_json
from gateways.quotes import with_message
from orders.errors import Unavailable
from orders.models import FulfillmentRequest
from orders.parcels import Shipment, Token, parse_shipment

SERVICE: Final = "fulfillment"

# Error codes of the warehouse that mean something to an order; any other code is only quoted.
ORDER_CANCELLED: Final = "order_cancelled"
ORDER_UNKNOWN: Final = "order_unknown"
ALREADY_SHIPPED: Final = "already_shipped"

AnswerT = TypeVar("AnswerT", bound=BaseModel)

log = structlog.get_logger()


class WarehouseRefused(Exception):
    """The warehouse refuses the request, and would refuse it again.

    As text it is the error code; `full` also has the warehouse's message, for operators.
    """

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(code)
        self.full = with_message(code, message)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class _Accepted(_Answer):
    id: Token


class _Cancelled(_Answer):
    status: Literal["cancelled"]


class _Error(_Answer):
    code: Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,39}$")]
    message: str | None = None


class _Refusal(_Answer):
    error: _Error


class Warehouse:
    """One shipment for each order, by an idempotency key made of the shop's id and the order id.

    Raises, in all methods:
        Unavailable: an outage, a limit, a lost answer, or an answer that is neither a yes nor a refusal.
    """

    def __init__(self, http: httpx.AsyncClient, base: str, key: str, shop_id: str) -> None:
        self._http = http
        self._base = base.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"}
        self._shop_id = shop_id

    async def ship(self, request: FulfillmentRequest, items: Sequence[object]) -> str:
        """Ask the warehouse to ship the order; the answer is the id of the shipment.

        Raises:
            WarehouseRefused: for example the address; or ORDER_CANCELLED, because a cancel came first.
        """
        body = {
            "orderId": request.order_id,
            "items": items,
            "shippingAddress": request.shipping_address.model_dump(by_alias=True, exclude_none=True),
            "priority": request.priority,
            **({"giftMessage": request.gift_message} if request.gift_message else {}),
        }
        response = await self._post("/orders", body, f"{request.order_id}:fulfill")
        if not response.is_success:
            raise _error(response, ORDER_CANCELLED)
        return _read(_Accepted, response).id

    async def cancel(self, order_id: str, attempt: str) -> None:
        """Cancel the shipment of the order. A warehouse that remembers cancels refuses a later request to ship it.

        `attempt` names the business attempt: under the same key a warehouse may repeat an earlier refusal.

        Raises:
            WarehouseRefused: ORDER_UNKNOWN, ALREADY_SHIPPED, or another reason.
        """
        response = await self._post(f"{_path(order_id)}/cancel", {}, f"{order_id}:cancel:{attempt}")
        if not response.is_success:
            raise _error(response, ORDER_UNKNOWN, ALREADY_SHIPPED)
        _read(_Cancelled, response)

    async def read_shipment(self, order_id: str) -> Shipment | None:
        """The shipment of the order; None: the warehouse does not know the order."""
        response = await get_json(self._http, SERVICE, f"{self._base}{_path(order_id)}", self._headers)
        if response.is_success:
            return _read_shipment(response, order_id)
        error = _read_error(response)
        if error.code != ORDER_UNKNOWN:
            raise _unavailable(with_message(error.code, error.message))
        return None

    async def _post(self, path: str, body: object, key: str) -> httpx.Response:
        headers = self._headers | {"Idempotency-Key": f"{self._shop_id}:{key}"}
        return await post_json(self._http, SERVICE, f"{self._base}{path}", body, headers)


def _path(order_id: str) -> str:
    return f"/orders/{quote(order_id, safe='')}"


def _read(kind: type[AnswerT], response: httpx.Response) -> AnswerT:
    """The answer of a success. Anything else, such as the page of a proxy, is no yes. Raises Unavailable."""
    try:
        return kind.model_validate_json(response.content)
    except ValidationError:
        raise _unavailable("malformed_answer") from None


def _read_shipment(response: httpx.Response, order_id: str) -> Shipment:
    """The shipment. Raises Unavailable: the answer has no id or no status."""
    try:
        shipment = parse_shipment(response.content)
    except ValidationError:
        raise _unavailable("malformed_answer") from None
    if shipment.unread:
        log.warning("parcels that cannot be read", order_id=order_id, problems=shipment.unread)
    return shipment


def _error(response: httpx.Response, *refusals: str) -> WarehouseRefused | Unavailable:
    """What an answer means that is not a success; `refusals` are codes that are a refusal whatever the HTTP status."""
    error = _read_error(response)
    if error.code in refusals or response.status_code in CLIENT_ERRORS:
        return WarehouseRefused(error.code, error.message)
    return _unavailable(with_message(error.code, error.message))


def _unavailable(code: str) -> Unavailable:
    return Unavailable(f"{SERVICE}: {code}", type=f"{SERVICE}_unavailable")


def _read_error(response: httpx.Response) -> _Error:
    """The warehouse's error. Only a short identifier is a code: anything else may hold what must not be kept."""
    try:
        return _Refusal.model_validate_json(response.content).error
    except ValidationError:
        return _Error(code=f"http_{response.status_code}")
