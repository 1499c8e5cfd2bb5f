"""Drives the real activities along a path of the model, statement by statement, and compares what both have come to."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from temporalio.client import Client

from activities.order_state import OrderState, ResolutionRecord
from activities.reconciliation import Reconciliation
from deploy.local.postgres import Postgres
from gateways.http import open_http
from gateways.order_store import lock_row
from gateways.parcel_store import follow_shipment
from gateways.stripe import stripe_client
from orders.errors import Permanent, Unavailable
from orders.models import (
    FulfillmentAnswer,
    OrderRow,
    Park,
    Payment,
    PaymentRequest,
    Refund,
    RefundClaim,
    RefundKey,
    RefundLine,
    Status,
    UndoResult,
)
from orders.parcels import Shipment
from saga import Resolution
from sandbox.fulfillment import Item
from sandbox.server import serve
from sandbox.stripe import PaymentIntent
from sandbox.stripe import Refund as StripeRefund
from sandbox.stripe_cards import CARDS as CARDS_OF_STRIPE
from sandbox.stripe_params import CreateRefund
from tests.proof.model.activities import PERMANENT, RETRY, Do, is_on_its_way
from tests.proof.model.paths import Path, Taken
from tests.proof.model.protocol import REFUND, Act, Protocol
from tests.proof.model.state import UNITS, Attempt, Claim, Configuration, Row, State, World
from tests.proof.model.state import Refund as RefundOfModel
from tests.support.activity_bench import (
    ActivityBench,
    Clients,
    ObservedDatabase,
    fulfillment,
    open_activity_bench,
    order_of,
    payment,
    undo,
)
from tests.support.servers import copy_database
from tests.support.shop import settings_for

PRODUCT: Final = "1"
TRANSACTION: Final = "transaction"

PRICE: Final = 2999  # of one unit

# With which transaction or request a statement or call of the model begins, where it is not the first of its attempt.
BEGINNINGS: Final = {
    "begin the try": TRANSACTION,
    "look at the payment": "GET .*/payment_intents/[^/]+",
    "create": "POST .*/payment_intents",
    "keep the id": TRANSACTION,
    "confirm": "POST .*/confirm",
    "capture": "POST .*/capture",
    "move": TRANSACTION,
    "void": "GET .*/payment_intents/[^/]+",
    "list the refunds": "GET .*/refunds",
    "read what is paid elsewhere": TRANSACTION,
    "take the next attempt": TRANSACTION,
    "refund ": "POST .*/refunds",
    "keep the refunds": TRANSACTION,
    "withdraw the claim": TRANSACTION,
    "ask to ship": "POST .*/orders",
    "keep the shipment's id": TRANSACTION,
    "ask what has left": "GET .*/orders/[^/]+",
    "ask what is short": "GET .*/orders/[^/]+",
    "keep what is short": TRANSACTION,
    "ask to call it off": "POST .*/orders/[^/]+/cancel",
}

# The cards with which the sandbox answers as the model does.
CARDS: Final = {
    "authorized": "pm_123",
    "taken": "pm_123",
    "declined": "pm_card_chargeDeclined",
    "action": "pm_card_authenticationRequired",
    "succeeded": "pm_123",
    "pending": "pm_card_pendingRefund",
    "failed": "pm_refund_failed",
}

# The card of every other try; before each answer of its bank it becomes the card that gets it.
ANOTHER_CARD: Final = "pm_card_another"

IN_THE_MODEL_ALONE: Final[dict[str, Any]] = {
    "by_hand": False,
    "asked": (),
    "forgotten": (),
    "refused": (),
}

INTENTS: Final = {
    "requires_confirmation": "new",
    "requires_action": "action",
    "requires_payment_method": "declined",
    "requires_capture": "authorized",
    "succeeded": "taken",
    "canceled": "canceled",
}

READ: Final = """
    SELECT o.*, v.state, v.quantity AS units, v.returned, v.written_off, i.quantity, i.reserved, i.sold,
        ARRAY(SELECT key FROM payment_tries t WHERE t.order_id = o.id ORDER BY t.number) AS tries,
        ARRAY(
            SELECT step FROM resolutions w
            WHERE w.order_id = o.id AND w.action <> 'retry' AND w.step NOT LIKE 'refund:%'
        ) AS settled,
        (SELECT coalesce(sum(quantity), 0) FROM shortage_lines l WHERE l.order_id = o.id) AS shorted,
        (SELECT coalesce(bool_and(restock), false) FROM shortages s WHERE s.order_id = o.id) AS restocks_shorted
    FROM inventory i LEFT JOIN orders o ON o.id = $1 LEFT JOIN reservations v ON v.order_id = o.id
    WHERE i.product_id = $2
"""
READ_REFUNDS: Final = "SELECT id, status FROM refunds WHERE order_id = $1"
READ_CLAIMS: Final = """
    SELECT r.refund_id, r.status, r.restocked, l.quantity, l.restock,
        (SELECT max(action) FROM resolutions w WHERE w.order_id = $1 AND w.step = 'refund:' || r.refund_id
            AND w.action <> 'retry') AS settled
    FROM order_refunds r JOIN order_refund_lines l USING (order_id, refund_id) WHERE order_id = $1 ORDER BY refund_id
"""

# The refunds that were known when an operator allowed another one.
READ_RETRIED: Final = """
    SELECT r.id FROM refunds r WHERE r.order_id = $1 AND EXISTS (
        SELECT FROM resolutions w WHERE w.order_id = $1 AND w.action = 'retry' AND w.at > r.at
            AND w.step = CASE WHEN r.refund_id IS NULL THEN 'void_payment' ELSE 'refund:' || r.refund_id END
    )
"""
STOCK: Final = "UPDATE inventory SET quantity = $2, reserved = 0, sold = 0 WHERE product_id = $1"
SHELF: Final = "UPDATE inventory SET quantity = $2 WHERE product_id = $1"
NO_LONGER_ON_ITS_WAY: Final = """
    UPDATE orders SET fulfillment_requested_at = now() - interval '1 day'
    WHERE id = $1 AND fulfillment_requested_at IS NOT NULL
"""
COUNT_RESOLUTIONS: Final = "SELECT count(*) FROM resolutions WHERE order_id = $1"


@dataclass
class Live:
    """A real attempt. It waits at the transaction or request that `until` matches; the `first` one it always passes."""

    attempt: Attempt
    until: str = ""
    first: bool = True
    waits: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[Any] | None" = None


_live: ContextVar[Live | None] = ContextVar("live", default=None)


async def pass_by(what: str) -> None:
    """Every transaction and every request of an attempt comes by here."""
    live = _live.get()
    if live is None:
        return
    first, live.first = live.first, False
    if live.until and not first and re.fullmatch(live.until, what):
        live.waits.set()
        await live.goes_on.wait()


class StoppableDatabase(ObservedDatabase):
    async def stand(self) -> None:
        await pass_by(TRANSACTION)


async def _pass_request(request: httpx.Request) -> None:
    await pass_by(f"{request.method} {request.url.path}")


@asynccontextmanager
async def open_stoppable_bench(postgres: Postgres, configuration: Configuration) -> AsyncIterator[ActivityBench]:
    """A bench for a shop of this configuration, whose attempts can be stopped."""
    async with copy_database(postgres) as url, serve() as sandbox:
        sandbox.world.fulfillment.forgets_cancels = not configuration.remembers_cancels
        settings = settings_for(
            url,
            sandbox,
            payment_capture="automatic" if configuration.automatic else "manual",
            payment_retry_seconds=600 if configuration.left.cards else 0,
            shorted_stock="restock" if configuration.restocks else "write_off",
            fulfillment_remembers_cancels=configuration.remembers_cancels,
        )
        async with open_http(5) as http:
            http.event_hooks = {"request": [_pass_request]}
            stripe = stripe_client(http, settings.stripe_secret_key.get_secret_value(), settings.stripe_base)
            clients = Clients(await Client.connect("127.0.0.1:1", lazy=True), http, stripe, openai=None)
            async with open_activity_bench(settings, sandbox, clients, StoppableDatabase) as bench:
                yield bench


class Driver:
    """One path, on an order of its own."""

    def __init__(self, bench: ActivityBench, protocol: Protocol, number: int) -> None:
        self._bench = bench
        self._protocol = protocol
        self._id = f"path-{number}"
        wanted = _payload(protocol.configuration)
        self._orders = {
            "ours": order_of(self._id, **wanted),
            "another": order_of(self._id, **wanted, priority="express"),
        }
        self._lives: dict[str, Live] = {}
        self._resolutions = 0
        self._is_forgotten = False

    async def drive(self, path: Path) -> None:
        """Take every step. Raises AssertionError where model and code come to different states."""
        await self._bench.pool.execute(STOCK, PRODUCT, UNITS)
        CARDS_OF_STRIPE[ANOTHER_CARD] = CARDS_OF_STRIPE["pm_123"]
        if self._protocol.configuration.placed:
            await self._bench.bring(self._orders["ours"], "finalize")
        try:
            for number, taken in enumerate(path):
                wrong = await self._take(taken) or await self._difference(taken.step.after)
                names = "\n".join(each.step.name for each in path[: number + 1])
                assert not wrong, f"{wrong} after:\n{names}"
                await self._follow(taken.step.after)
        finally:
            await self._follow(State())
            del CARDS_OF_STRIPE[ANOTHER_CARD]

    async def _take(self, taken: Taken) -> str:
        """What is wrong with the answer of an attempt that ended; "" if nothing is."""
        step = taken.step
        if step.act and taken.do:
            return await self._act(taken, step.act)
        if step.resolution:
            await self._resolve(*step.resolution)
        elif not step.act:
            await self._change_the_world(taken.before, step.after)
        return ""

    # ------------------------------------------------------------------------------------------------------ attempts

    async def _act(self, taken: Taken, act: Act) -> str:
        """Let the attempt execute one statement or call of the model, and what follows it until the next one."""
        then = self._protocol.advance(act.attempt)
        live = self._lives.get(act.by)
        if live is None:
            live = self._lives[act.by] = Live(act.attempt)
        live.attempt, live.until = act.attempt, _beginning(then) if isinstance(then, Do) else ""
        await self._arrange(taken, act.attempt.seen[-1])
        live.waits.clear()
        if live.task is None:
            live.task = asyncio.create_task(self._attempt(live))
        else:
            live.goes_on.set()
            live.goes_on = asyncio.Event()
        waiting = asyncio.create_task(live.waits.wait())
        await asyncio.wait({live.task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await self._clear()
        if not live.task.done():
            return ""
        del self._lives[act.by]
        if isinstance(then, Do):
            return f"{act.attempt.activity} ended with {live.task.result()}; in the model {then.name} follows"
        answer = live.task.result()
        # Whether a request to ship is on its way, the code knows by the clock alone.
        if answer == then[0] or (answer == RETRY and taken.do == "ask to call it off"):
            return ""
        return f"{act.attempt.activity} answered {answer}, in the model {then[0]}"

    async def _attempt(self, live: Live) -> Any:
        _live.set(live)
        activity, arg = live.attempt.activity, live.attempt.arg
        try:
            answer = await self._bench.do(self._bench.activities[activity], await self._argument(activity, arg))
        except Permanent:
            return PERMANENT
        except Unavailable:
            return RETRY
        return self._answer(activity, answer)

    async def _argument(self, activity: str, arg: tuple[str, ...]) -> Any:  # noqa: PLR0911 (a table)
        match activity, arg:
            case "reserve_stock", (payload,):
                return self._orders[payload].reservation
            case "claim_undo", (payload, closing):
                return undo(self._orders[payload], Status(closing))
            case "authorize_payment", (card,):
                return PaymentRequest(order_id=self._id, payment_method_id=ANOTHER_CARD, pay=card)
            case "authorize_payment", _:
                return payment(self._orders["ours"])
            case "request_fulfillment", _:
                return fulfillment(self._orders["ours"])
            case "park_order", (step, run, seen):
                count = await self._bench.pool.fetchval(COUNT_RESOLUTIONS, self._id) - (seen == "stale")
                return Park(order_id=self._id, step=step, reason="scripted", workflow_id=run, resolution_count=count)
            case "claim_refund", (refund,):
                units = self._protocol.configuration.refunds[int(refund) - 1]
                back = units if self._protocol.configuration.restocks else 0
                line = RefundLine(product_id=PRODUCT, quantity=units, restock=back)
                return Refund(order_id=self._id, refund_id=refund, lines=(line,))
            case "make_refund" | "return_stock", (refund,):
                return RefundKey(order_id=self._id, refund_id=refund)
        return self._id

    def _answer(self, activity: str, answer: Any) -> Any:  # noqa: PLR0911 (a table)
        """The answer in the terms of the model."""
        match answer:
            case Payment():
                return self._payment(answer)
            case FulfillmentAnswer(state=state):
                return "closed" if state == "order_closed" else state
            case UndoResult(shipped=shipped):
                return "shipped" if shipped else "done"
            case RefundClaim(status=status):
                return "done" if activity == "return_stock" else status or "refused"
            case None:
                return "absent" if activity == "read_order" else ("absent", "", "")
            case OrderRow():
                return self._row_answer(activity, answer)
        return answer

    def _row_answer(self, activity: str, row: OrderRow) -> Any:
        """What the model's run reads of a row after this activity."""
        parked, owner = row.parked_step or "", self._owner(row.request_hash)
        read: dict[str, Any] = {
            "reserve_stock": (row.status, owner),
            "claim_undo": (row.status, owner, parked),
            "release_stock": (row.status, parked),
            "claim_cancellation": (row.status, parked, row.parked_by or ""),
            "park_order": "parked" if parked else row.status,
        }
        return read.get(activity, row.status)

    def _payment(self, answer: Payment) -> str:
        if answer.state == "authorized":
            return INTENTS[self._intents()[self._number(answer.payment_intent_id) - 1].status]
        words = {"requires_action": "action", "declined": "declined", "canceled": "canceled", "order_closed": "closed"}
        return words[answer.state]

    async def _follow(self, s: State) -> None:
        """End the attempts that the model has none of any more, and pass on one that lives on as the late one."""
        attempts = {"placing": s.placing.attempt, "cancelling": s.cancelling.attempt, "late": s.late}
        attempts |= {f"{number}": run.attempt for number, run in enumerate(s.refunding, start=1)}
        for by, live in list(self._lives.items()):
            if attempts.get(by) == live.attempt:
                continue
            del self._lives[by]
            if attempts["late"] == live.attempt and "late" not in self._lives:
                self._lives["late"] = live
            elif live.task:
                live.task.cancel()
                await asyncio.wait({live.task})

    # ------------------------------------------------------------------------------------------------- the world

    async def _arrange(self, taken: Taken, answer: Any) -> None:  # noqa: C901 (a table)
        """Let PostgreSQL, Stripe or the warehouse answer the next statement or call as the model says."""
        world, after = taken.before.world, taken.step.after.world
        if taken.do == "read the row" and not is_on_its_way(taken.before):
            await self._bench.pool.execute(NO_LONGER_ON_ITS_WAY, self._id)
        match taken.do.split()[0], answer:
            case "insert", ("rejected", _) if taken.before.row.status == "absent":
                await self._bench.pool.execute(SHELF, PRODUCT, 0)
            case "create", 0 if after.refused != world.refused:
                body = {"error": {"type": "invalid_request_error", "param": "payment_method", "message": "detached"}}
                self._bench.fault("stripe", "saved", "POST */payment_intents", status=400, body=body, effect=False)
            case "create", 2 if not world.intents[1]:
                self._forget_keys("create")
            case "confirm", _ if after.asked != world.asked:
                CARDS_OF_STRIPE[ANOTHER_CARD] = CARDS_OF_STRIPE[CARDS[answer]]
            case "confirm", _ if world.intents[int(taken.do[-1]) - 1] == "new":
                self._intents()[int(taken.do[-1]) - 1].payment_method = CARDS[answer]
            case "refund", _ if len(after.refunds) > len(world.refunds):
                self._intents()[taken.before.row.intent - 1].payment_method = CARDS[after.refunds[-1].status]
            case "refund", _ if taken.before.left.errors > taken.step.after.left.errors:
                self._bench.fault("stripe", "saved", "POST */refunds", status=500, effect=False)
            case "ask", "refused":
                body = {"error": {"code": "address_refused"}}
                self._bench.fault("fulfillment", "status", "POST /orders", status=422, body=body)
            case "ask", answer if answer == PERMANENT:
                body = {"error": {"code": "in_customs"}}
                self._bench.fault("fulfillment", "status", "POST /orders/*/cancel", status=422, body=body)

    def _forget_keys(self, call: str) -> None:
        keys = self._bench.world.stripe.keys
        for key in [key for key in keys if self._id in key and f":{call}:" in key]:
            del keys[key]

    async def _clear(self) -> None:
        self._bench.world.faults.clear()
        await self._bench.pool.execute(f"{SHELF} AND quantity = 0 AND reserved + sold = 0", PRODUCT, UNITS)

    async def _change_the_world(self, before: State, after: State) -> None:  # noqa: C901 (one change after the other)
        """What customers, banks, the warehouse and reconciliation do."""
        account = self._bench.world.stripe.account
        for number, (was, becomes) in enumerate(zip(before.world.intents, after.world.intents, strict=True)):
            if was != becomes and becomes == "canceled":
                account.expire(self._intents()[number].id)
            elif was != becomes:
                account.authenticate(self._intents()[number].id, succeeds=becomes != "declined")
        if len(after.world.refunds) > len(before.world.refunds):
            payment = self._intents()[0]
            payment.payment_method = CARDS["succeeded"]
            account.create_refund(CreateRefund(payment_intent=payment.id, amount=PRICE))
        for refund, old, new in zip(self._refunds(), before.world.refunds, after.world.refunds, strict=False):
            if old != new:
                account.settle(refund.id, succeeds=new.status == "succeeded")
        if before.world.forgotten != after.world.forgotten:
            self._forget_keys("confirm")
        warehouse = self._bench.world.fulfillment
        if before.world.warehouse != after.world.warehouse == "forgotten":
            warehouse.forget(self._id)
            self._is_forgotten = True
        elif self._goods(before.world) != self._goods(after.world):
            shipment = warehouse.shipments[self._id]
            warehouse.shipments[self._id] = shipment.model_copy(update=self._goods(after.world))
        if before.row.status != after.row.status or before.row.shorted != after.row.shorted:
            await self._report()
        elif before.row != after.row:
            await self._bench.do(Reconciliation.follow_refunds, self._id)

    @staticmethod
    def _goods(world: World) -> dict[str, Any]:
        shorted = (Item(product_id=PRODUCT, quantity=world.shorted),) if world.shorted else ()
        return {"status": world.warehouse, "shorted": shorted}

    async def _report(self) -> None:
        told = self._bench.world.fulfillment.shipments[self._id]
        shipment = Shipment.model_validate(told.model_dump(include={"id", "status", "shorted"}))
        async with self._bench.database.transaction() as connection:
            restock = self._protocol.configuration.restocks
            await follow_shipment(connection, await lock_row(connection, self._id), shipment, restock=restock)

    async def _resolve(self, action: str, step: str) -> None:
        self._resolutions += 1
        said = Resolution.model_validate({"step": step, "action": action, "reason": "scripted", "by": "ann"})
        marks_row = not step.startswith(REFUND)
        record = ResolutionRecord(order_id=self._id, key=str(self._resolutions), resolution=said, marks_row=marks_row)
        await self._bench.do(OrderState.record_resolution, record)

    # -------------------------------------------------------------------------------------------------- the states

    async def _difference(self, s: State) -> str:
        """How the real state differs from the model's."""
        row = s.row._replace(refunds=tuple(map(_shown, s.row.refunds)))
        world = s.world._replace(refunds=tuple(map(_shown, s.world.refunds)), **IN_THE_MODEL_ALONE)
        expected = {"row": row._asdict(), "world": world._asdict()}
        real = {"row": (await self._row())._asdict(), "world": self._world()._asdict()}
        return "; ".join(
            f"{part}.{name} is {there!r}, in the model {expected[part][name]!r}"
            for part, fields in real.items()
            for name, there in fields.items()
            if there != expected[part][name]
        )

    async def _row(self) -> Row:
        row = await self._bench.pool.fetchrow(READ, self._id, PRODUCT)
        assert row is not None
        retried = await self._retried()
        return Row(
            status=row["status"] or "absent",
            owner=self._owner(row["request_hash"]),
            closing=row["closing"] or "",
            price=(row["total"] or 0) // PRICE,
            intent=self._number(row["payment_intent_id"]),
            requested=row["fulfillment_requested_at"] is not None,
            shipment=row["fulfillment_id"] is not None,
            parked=row["parked_step"] or "",
            parked_by=row["parked_by"] or "",
            placed=row["placed_at"] is not None,
            reservation=row["state"] or "",
            available=row["quantity"],
            reserved=row["reserved"],
            sold=row["sold"],
            units=row["units"] or 0,
            returned=row["returned"] or 0,
            written_off=row["written_off"] or 0,
            shorted=row["shorted"] or 0,
            restocks_shorted=row["restocks_shorted"],
            refunds=await self._kept_refunds(),
            claims=await self._claims(retried),
            settled=frozenset(row["settled"]),
            retried=_last_attempt(retried, ""),
            tries=tuple(row["tries"]),
        )

    async def _kept_refunds(self) -> tuple[RefundOfModel, ...]:
        kept = {row["id"]: row["status"] for row in await self._bench.pool.fetch(READ_REFUNDS, self._id)}
        known = [(refund, kept[refund.id]) for refund in self._refunds() if refund.id in kept]
        return tuple(_refund(refund)._replace(status=status) for refund, status in known)

    async def _retried(self) -> list[RefundOfModel]:
        ids = {row["id"] for row in await self._bench.pool.fetch(READ_RETRIED, self._id)}
        return [_refund(refund) for refund in self._refunds() if refund.id in ids]

    async def _claims(self, retried: Sequence[RefundOfModel]) -> tuple[Claim, ...]:
        return tuple(
            Claim(
                refund=row["refund_id"],
                units=row["quantity"],
                restock=row["restock"],
                status=row["status"],
                returned=row["restocked"],
                retried=_last_attempt(retried, row["refund_id"]),
                settled=row["settled"] or "",
            )
            for row in await self._bench.pool.fetch(READ_CLAIMS, self._id)
        )

    def _world(self) -> World:
        first, second, *others = [*(INTENTS[each.status] for each in self._intents()), "", ""]
        assert not any(others), others
        shipment = self._bench.world.fulfillment.shipments.get(self._id)
        return World(
            intents=(first, second),
            refunds=tuple(map(_refund, self._refunds())),
            warehouse=self._warehouse(),
            shorted=sum(each.quantity for each in shipment.shorted) if shipment else 0,
        )

    def _warehouse(self) -> str:
        warehouse = self._bench.world.fulfillment
        shipment = warehouse.shipments.get(self._id)
        if self._is_forgotten and shipment is None:
            return "forgotten"
        if shipment:
            return "called off" if shipment.status == "cancelled" else shipment.status
        return "refuses" if self._id in warehouse.cancelled_unseen else "unknown"

    def _intents(self) -> list[PaymentIntent]:
        intents = self._bench.world.stripe.account.intents.values()
        return [each for each in intents if each.metadata["order_id"] == self._id]

    def _refunds(self) -> list[StripeRefund]:
        mine = {intent.id for intent in self._intents()}
        return [each for each in self._bench.world.stripe.account.refunds.values() if each.payment_intent in mine]

    def _number(self, intent_id: str | None) -> int:
        return next((n for n, each in enumerate(self._intents(), 1) if each.id == intent_id), 0)

    def _owner(self, request_hash: str | None) -> str:
        return next((name for name, order in self._orders.items() if order.request_hash == request_hash), "")


def _beginning(do: Do) -> str:
    return next(pattern for start, pattern in BEGINNINGS.items() if do.name.startswith(start))


def _payload(configuration: Configuration) -> dict[str, Any]:
    """What the order changes in the reference's payload."""
    units = configuration.units
    items = {"items": [{"productId": PRODUCT, "quantity": units}]}
    if not configuration.free:
        return items
    return items | {"charges": [{"type": "discount", "amount": -units * PRICE / 100}], "paymentMethodId": None}


def _shown(refund: RefundOfModel) -> RefundOfModel:
    return refund._replace(born="", given=False)


def _last_attempt(refunds: Iterable[RefundOfModel], of: str) -> int:
    return max((each.attempt for each in refunds if each.of == of), default=0)


def _refund(refund: StripeRefund) -> RefundOfModel:
    """The refund in the terms of the model, as far as Stripe shows it."""
    attempt = int(refund.metadata.get("attempt", 0))
    of = refund.metadata.get("refund_id", "") if attempt else "dashboard"
    return RefundOfModel(of, attempt, refund.status, refund.amount // PRICE)
