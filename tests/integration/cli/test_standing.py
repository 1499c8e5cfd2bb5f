"""What the command line says of orders: where they stand, which there are, what needs an operator, and how it ends."""

import asyncio
import json
import shlex
from datetime import timedelta
from typing import Any

import pytest
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.testing import WorkflowEnvironment

import app.cli.orders
from gateways.run_starts import start_notify_shipment
from orders.commands import PROGRAM
from orders.errors import Permanent, Unavailable
from orders.names import NEEDS_ATTENTION, PROCESS_ORDER, notify_shipment_id
from orders.parcels import ParcelNotice
from sandbox.faults import Fault
from tests.integration.cli.conftest import Said, Starter
from tests.integration.cli.test_starter import DECLINED, NOBODY, an_empty_namespace
from tests.support.scenarios import ship, until_marked, until_stuck
from tests.support.shop import CHARGES, FREE, Shop, an_order, eventually, new_order_id

NO_DATABASE = {"DATABASE_URL": "postgresql://127.0.0.1:1/nothing"}
PAGES = "http://127.0.0.1:8233/namespaces/default/workflows"


@pytest.fixture
def starter(starter: Starter, shop: Shop) -> Starter:
    """The command line of an operator, who can read the shop's database."""
    mine = {"DATABASE_URL": shop.settings.database_url.get_secret_value()}

    async def run(*arguments: str, stdin: str | bytes = b"", **changes: str) -> Said:
        return await starter(*arguments, stdin=stdin, **mine | changes)

    return run


def lines(said: Said) -> list[str]:
    """The lines of the output, without its columns."""
    return [" ".join(line.split()) for line in said.out.splitlines()]


def command_in(said: Said, verb: str) -> list[str]:
    """The arguments of the one command that the output tells an operator to type; it stands on a line of its own."""
    (line,) = [line for line in said.out.splitlines() if line.strip().startswith(f"{PROGRAM} {verb} ")]
    return shlex.split(line)[2:]


async def parked(shop: Shop, *errors: BaseException) -> str:
    """An order that was declined, and whose undo is parked."""
    order_id = new_order_id()
    for error in errors or (Permanent("the bank is closed", type="refund_failed"),):
        shop.hooks.fail("void_payment", error)
    await until_stuck(await shop.start(an_order(paymentMethodId=DECLINED), order_id))
    return order_id


# -------------------------------------------------------------------------------------------------------------- status


async def test_a_cancelled_order_is_cancelled_however_often_it_is_asked(shop: Shop, starter: Starter) -> None:
    """The row says so, with its money; each run says what it answered."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    before = await starter("status", order_id)
    assert before.out.splitlines()[0] == f"{order_id} is processing"
    assert "money 59.98 usd captured" in lines(before)
    for _ in range(2):
        await starter("cancel-order", order_id)
    said = await starter("status", order_id)

    assert (said.status, said.out.splitlines()[0]) == (0, f"{order_id} is cancelled")
    assert "money 59.98 usd captured, 59.98 usd refunded" in lines(said)
    assert "shipment cancelled (ful_" in "\n".join(lines(said))
    (messages,) = (line for line in lines(said) if line.startswith("messages "))
    assert sorted(messages[9:].split("; ")) == ["order_confirmation sent", "order_placed sent"]
    assert "outcome placed" in lines(said)
    assert "outcome not cancelled: already cancelled" in lines(said)
    assert f"{PAGES}/cancel-order:{order_id}/" in said.out

    found = (await starter("status", order_id, "--json")).json
    amounts = ("total", "authorized", "captured", "refunded", "refundPending", "currency", "status")
    assert [found["order"][name] for name in amounts] == [59.98, 59.98, 59.98, 59.98, 0, "usd", "cancelled"]
    assert [run["workflow"] for run in found["runs"]] == ["process-order", "cancel-order"]


@pytest.mark.parametrize(
    ("changes", "status", "money", "shipment"),
    [
        ({"paymentMethodId": DECLINED}, "rejected", "nothing charged", "never asked for"),
        ({"items": [{"productId": "1", "quantity": 999}]}, "rejected", "nothing charged", "never asked for"),
        (
            {"shippingAddress": an_order()["shippingAddress"] | {"street": "1 Refuse Street"}},
            "rejected",
            "59.98 usd voided, nothing charged",
            "none",
        ),
    ],
    ids=["declined", "out of stock", "not shipped"],
)
async def test_a_refused_order(  # noqa: PLR0913, PLR0917 (one argument for each fact)
    shop: Shop, starter: Starter, changes: dict[str, Any], status: str, money: str, shipment: str
) -> None:
    """The status says why, that nothing is charged, and that another try needs a new id."""
    order_id = new_order_id()
    outcome = await shop.place(an_order(**changes), order_id)
    said = await starter("status", order_id)

    assert (said.status, said.out.splitlines()[0]) == (0, f"{order_id} is {status}")
    assert outcome.error
    assert outcome.error in said.out
    assert f"money {money}" in lines(said)
    assert f"shipment {shipment}" in lines(said)
    assert "another try needs a new order id: an order that is rejected stays rejected" in lines(said)


async def test_an_order_whose_id_was_used_again_stays_what_it_is(shop: Shop, starter: Starter) -> None:
    """The refusal is the run's; the order is paid."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    refused = await starter("process-order", "-", "--order-id", order_id, stdin='{"customerId": "cus_1"}')
    assert refused.status == 2
    await shop.place(an_order(customerId="cus_other"), order_id)
    said = await starter("status", order_id)

    assert said.out.splitlines()[0] == f"{order_id} is processing"
    assert "outcome rejected: order id conflict" in lines(said)
    assert "outcome rejected: order id conflict" in lines(await starter("status", order_id, **NO_DATABASE))
    assert [each["status"] for each in (await starter("list", "--json")).json if each["id"] == order_id] == [
        "processing"
    ]


@pytest.mark.prove
async def test_what_an_order_costs(shop: Shop, starter: Starter) -> None:
    """Its total beside the placed order; its charges in its status; a free one has a price, and nothing to pay."""
    charged, free = new_order_id(), new_order_id()
    said = await starter("process-order", "-", "--order-id", charged, stdin=json.dumps(an_order(charges=CHARGES)))
    assert "total 69.84 usd" in lines(said)
    shown = " ".join(lines(await starter("status", charged)))
    assert "price 69.84 usd: 59.98 usd products, 12.50 usd shipping (Express), " in shown
    assert "-10.00 usd discount (WELCOME)" in shown

    said = await starter("process-order", "-", "--order-id", free, "--json", stdin=json.dumps(FREE))
    assert (said.json["paymentIntent"], said.json["total"], said.json["currency"]) == (None, 0, "usd")
    assert await shop.status(free) == "processing"
    assert "money nothing to pay" in lines(await starter("status", free))
    listed = {each["id"]: each for each in (await starter("list", "--json")).json}
    assert (listed[free]["total"], listed[free]["priced"]) == (0, True)


async def test_an_order_under_way(shop: Shop, starter: Starter) -> None:
    """The payment waits for its customer, and nothing is charged."""
    order_id = new_order_id()
    run = await shop.start(an_order(paymentMethodId="pm_card_threeDSecure2Required"), order_id)
    await eventually(lambda: shop.pool.fetchval("SELECT payment_intent_id FROM orders WHERE id = $1", order_id), "")
    said = await starter("status", order_id)

    assert said.out.splitlines()[0] == f"{order_id} is pending"
    assert "59.98 usd asked for, not authorized yet" in said.out
    assert (await starter("status", order_id, "--json")).json["order"]["authorized"] is None
    await run.terminate()


@pytest.mark.prove
async def test_a_refund_that_is_pending_or_failed_is_named(shop: Shop, starter: Starter) -> None:
    """What the customer has is not what was sent."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await starter("cancel-order", order_id)
    for status, text in (("pending", "refund pending"), ("failed", "refund failed"), ("succeeded", "refunded")):
        await shop.pool.execute("UPDATE refunds SET status = $1 WHERE order_id = $2", status, order_id)
        assert f"money 59.98 usd captured, 59.98 usd {text}" in lines(await starter("status", order_id))


async def test_what_banks_say_of_the_payment(shop: Shop, starter: Starter) -> None:
    """A dispute stands below the order, with its amount."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    await shop.pool.execute(
        "INSERT INTO payment_warnings (id, order_id, kind, status, reason, amount)"
        " VALUES ('du_1', $1, 'dispute', 'needs_response', 'fraudulent', 5998)",
        order_id,
    )
    said = await starter("status", order_id)
    assert "Payment warning: dispute du_1 over 59.98 usd is needs_response (fraudulent), since " in said.out
    (warning,) = (await starter("status", order_id, "--json")).json["order"]["warnings"]
    assert (warning["id"], warning["amount"]) == ("du_1", 59.98)


async def test_without_postgres_only_the_runs_are_shown(shop: Shop, starter: Starter) -> None:
    """It says so, and exits as usual."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    said = await starter("status", order_id, **NO_DATABASE)

    problem = "PostgreSQL at DATABASE_URL cannot be used: nothing answers at 127.0.0.1:1 (is `make up` running?)"
    assert said.status == 0
    assert said.out.splitlines()[0].startswith(f"{problem}. Only the runs are shown")
    assert f"run {order_id}" in said.out
    found = (await starter("status", order_id, "--json", **NO_DATABASE)).json
    assert (found["order"], found["orderNotKnown"], len(found["runs"])) == (None, problem, 1)


async def test_an_order_outlives_its_runs(shop: Shop, temporal: WorkflowEnvironment, starter: Starter) -> None:
    """Temporal no longer has them, as this namespace never had; the row is enough."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    said = await starter("status", order_id, TEMPORAL_NAMESPACE=await an_empty_namespace(temporal))

    assert (said.status, said.out.splitlines()[0]) == (0, f"{order_id} is processing")
    assert "run " not in said.out


# ---------------------------------------------------------------------------------------------------------------- list


async def test_orders_are_listed(shop: Shop, starter: Starter) -> None:
    """The newest first, or those of one status; Temporal is not asked."""
    placed, declined = new_order_id(), new_order_id()
    await shop.place(order_id=placed)
    await shop.place(an_order(paymentMethodId=DECLINED), declined)
    said = await starter("list", TEMPORAL_ADDRESS=NOBODY)

    assert said.status == 0, said
    header, first, second = (line.split() for line in said.out.splitlines()[:3])
    assert header == ["order", "state", "amount", "created"]
    assert (first[:4], second[:4]) == (
        [declined, "rejected", "59.98", "usd"],
        [placed, "processing", "59.98", "usd"],
    )
    assert [each["id"] for each in (await starter("list", "--limit", "1", "--json")).json] == [declined]
    assert (await starter("list", "--customer", "cus_nobody", "--json")).json == []
    assert (await starter("list", "--customer", "no customer")).status == 2
    (only,) = (await starter("list", "--customer", "cus_123", "--status", "processing", "--limit", "1", "--json")).json
    assert (only["id"], only["total"], only["currency"], only["parked"]) == (placed, 59.98, "usd", None)


async def test_without_postgres_the_list_says_what_to_do(starter: Starter) -> None:
    """Exit status 4, and the command that needs no PostgreSQL."""
    said = await starter("list", **NO_DATABASE)
    assert said.status == 4, said
    assert said.err.strip() == (
        "PostgreSQL at DATABASE_URL cannot be used: nothing answers at 127.0.0.1:1 (is `make up` running?). "
        f"`{PROGRAM} list --runs` lists the runs that Temporal has"
    )


async def test_runs_are_listed_with_their_links(shop: Shop, starter: Starter) -> None:
    """The newest runs, or those of one stage."""
    order_id = new_order_id()
    await shop.place(an_order(paymentMethodId=DECLINED), order_id)

    async def listed() -> list[str]:
        said = await starter("list", "--runs", "--stage", "rejected", **NO_DATABASE)
        return [line for line in said.out.splitlines() if line.startswith(order_id)]

    (line,) = await eventually(listed, "the run is listed")
    assert "rejected: card declined" in line
    said = await starter("list", "--runs", "--limit", "1", "--json")
    assert said.status == 0
    assert len(said.json) == 1
    assert said.json[0]["link"].endswith(f"{said.json[0]['runId']}/history")


# -------------------------------------------------------------------------------------------------- stuck, and resolve


async def stuck(starter: Starter, order_id: str, **changes: str) -> Any:
    """What `stuck` says of the order, once Temporal lists its run."""

    async def listed() -> Any:
        return [each for each in (await starter("stuck", "--json", **changes)).json if each["orderId"] == order_id]

    return await eventually(listed, "the run is listed as stuck")


@pytest.mark.prove
async def test_a_parked_order_from_the_alarm_to_the_end(shop: Shop, starter: Starter) -> None:
    """`stuck` and `status` say where, why, since when, over what; their command, as it is, ends the order."""
    order_id = await parked(shop)
    (found,) = await stuck(starter, order_id)
    assert [found[name] for name in ("what", "reason", "amount", "parked")] == [
        "void_payment",
        "the bank is closed",
        "59.98 usd",
        True,
    ]
    for said in (
        await starter("stuck"),
        await starter("status", order_id),
        await starter("status", order_id, **NO_DATABASE),
    ):
        assert said.status == 5, said
        assert "void_payment is parked" in said.out
        assert "why the bank is closed" in lines(said)
        assert "since 2" in "\n".join(lines(said))
        assert "amount 59.98 usd" in lines(said)
        assert f"{PAGES}/{order_id}/" in said.out
    command = command_in(await starter("status", order_id), "resolve")
    assert command == shlex.split(found["command"])[2:]
    assert command == command_in(await starter("stuck"), "resolve")

    wrong = await starter("resolve", order_id, "--step", "release_stock", "--skip", "--reason", "so", "--json")
    assert (wrong.status, wrong.json["error"]) == (
        1,
        f"release_stock of {order_id} is not parked; parked is: void_payment",
    )
    done = await starter(*command)
    assert done.status == 0, done
    assert done.out.splitlines()[0] == f"{order_id}: void_payment is done"
    assert f"{PAGES}/{order_id}" in done.out
    assert not (await shop.client.get_workflow_handle(order_id).result())["success"]
    assert (await starter("status", order_id)).out.splitlines()[0] == f"{order_id} is rejected"
    assert (await starter(*command)).status == 1


@pytest.mark.prove
async def test_the_alert_has_the_page_and_the_command(shop: Shop, starter: Starter) -> None:
    """What operators read in Slack is enough to look at the run, and to resolve it."""
    order_id = await parked(shop, Permanent("no <@U1> & `no`", type="refund_failed"))
    (found,) = await stuck(starter, order_id)
    await eventually(lambda: alerts_about(shop, order_id), "operators are alerted")
    (alert,) = await alerts_about(shop, order_id)

    assert alert.splitlines() == [
        f":warning: {order_id} (59.98 usd): void_payment is parked: no &lt;@U1&gt; &amp; `no`",
        f"`{found['command']}`",
        f"{PAGES}/{order_id}",
    ]


async def alerts_about(shop: Shop, order_id: str) -> list[str]:
    return [alert.text for alert in shop.world.inbox.alerts if order_id in alert.text]


async def test_a_retry_is_followed_until_it_parks_again(shop: Shop, starter: Starter) -> None:
    """Exit status 5 with the new reason and the command; the next retry succeeds."""
    order_id = await parked(shop, *(Permanent(text, type="refund_failed") for text in ("no", "still no")))
    command = command_in(await starter("status", order_id), "resolve")
    said = await starter(*command)

    assert said.status == 5, said
    assert said.out.splitlines()[0] == f"{order_id}: void_payment is parked again"
    assert "why still no" in lines(said)
    assert command_in(said, "resolve") == command
    ended = (await starter(*command, "--json")).json
    assert (ended["step"]["state"], ended["run"]) == ("done", order_id)


async def test_a_retry_that_takes_long_is_not_waited_for(
    shop: Shop, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 4, with the reason of the last attempt; the run goes on."""
    monkeypatch.setattr(app.cli.orders, "FOLLOWED_FOR", timedelta(seconds=1))
    order_id = await parked(shop)
    shop.hooks.fail("void_payment", Unavailable("stripe: out", type="stripe_unavailable"), times=None)
    said = await starter(*command_in(await starter("status", order_id), "resolve"))

    assert said.status == 4, said
    assert said.out.splitlines()[0] == f"{order_id}: void_payment is still being tried"
    assert lines(said)[1].endswith("is next: stripe: out")


@pytest.mark.prove
async def test_a_parked_cancel_is_linked_to_its_own_run(shop: Shop, starter: Starter) -> None:
    """The run that is parked is that of cancel-order, whose refund Stripe has failed: its reason has Stripe's code."""
    order_id = new_order_id()
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), order_id)
    cancelled = await starter("cancel-order", order_id)
    assert (cancelled.status, f"{PROGRAM} status {order_id}" in cancelled.out) == (5, True)
    said = await starter("status", order_id)

    assert said.status == 5, said
    assert said.out.splitlines()[0] == f"{order_id} is cancelling, parked at void_payment"
    assert any(line.startswith("why the refund failed (re_") for line in lines(said))
    assert any(line.endswith("): expired_or_canceled_card") for line in lines(said))
    assert "money 59.98 usd captured, 59.98 usd refund failed" in lines(said)
    word = ("--step", "void_payment", "--resolved", "--reason", "paid in cash", "--by", "ada")
    resolved = await starter("resolve", order_id, *word)
    assert resolved.status == 0
    assert f"{PAGES}/cancel-order:{order_id}" in resolved.out
    await shop.client.get_workflow_handle(f"cancel-order:{order_id}").result()
    assert "ada said resolved of void_payment, " in (await starter("status", order_id)).out


@pytest.mark.prove
async def test_a_retry_whose_run_is_terminated_is_not_done(shop: Shop, starter: Starter) -> None:
    """Exit status 5: the refund was not made."""
    order_id = new_order_id()
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), order_id)
    await starter("cancel-order", order_id)
    held = shop.hooks.hold("void_payment", "before", f"cancel-order:{order_id}")
    retry = ("--step", "void_payment", "--retry", "--reason", "so")
    following = asyncio.ensure_future(starter("resolve", order_id, *retry))
    await held.reached.wait()
    await shop.client.get_workflow_handle(f"cancel-order:{order_id}").terminate()
    said = await following
    held.let_go()

    assert said.status == 5, said
    assert "void_payment is not done: its run was ended" in said.out


@pytest.mark.prove
async def test_the_reason_has_the_code_and_the_message_of_the_warehouse(shop: Shop, starter: Starter) -> None:
    """What a message must not hold is left out of it."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    body: dict[str, Any] = {
        "error": {"code": "gate_closed", "message": "The gate is closed\nuntil noon: ask ann@example.com"}
    }
    route = "POST /orders/*/cancel"
    shop.world.faults.add(Fault(service="fulfillment", kind="status", status=422, body=body, route=route))
    await starter("cancel-order", order_id)

    reason = "the warehouse refused to cancel the shipment (gate_closed: The gate is closed until noon: ask …)"
    assert f"why {reason}" in lines(await starter("status", order_id))


async def test_a_step_that_keeps_failing_is_named(shop: Shop, starter: Starter) -> None:
    """The worker retries it; an operator can end that, by a command that nothing offers to paste."""
    order_id = new_order_id()
    shop.hooks.fail("void_payment", Unavailable("stripe: out", type="stripe_unavailable"), times=None)
    run = await shop.start(an_order(paymentMethodId=DECLINED), order_id)
    await eventually(lambda: was_tried(shop, order_id), "the undo is tried")
    await shop.advance(run, timedelta(minutes=15))
    await until_marked(run, "void_payment")
    said = await starter("status", order_id)

    assert said.status == 0, said
    assert "void_payment keeps failing" in said.out
    assert "why stripe: out" in lines(said)
    assert "amount 59.98 usd" in lines(said)
    assert "starter.py resolve" not in said.out
    by_hand = ("--step", "void_payment", "--resolved", "--reason", "refunded by bank transfer", "--by", "ada")
    assert (await starter("resolve", order_id, *by_hand)).status == 0


async def was_tried(shop: Shop, order_id: str) -> bool:
    return (order_id, "void_payment") in shop.hooks.calls


@pytest.mark.prove
async def test_a_parked_order_whose_run_is_gone(shop: Shop, starter: Starter) -> None:
    """A resolution has nobody to go to: the command is a cancel, which takes over, and then can be resolved."""
    order_id = await parked(shop)
    await stuck(starter, order_id)
    await shop.client.get_workflow_handle(order_id).terminate()
    said = await starter("status", order_id)
    assert said.status == 5, said
    assert "why the bank is closed" in lines(said)
    (found,) = await stuck(starter, order_id)
    assert found["command"] == f"{PROGRAM} cancel-order {order_id}"

    assert (await starter(*command_in(said, "cancel-order"))).status == 5
    taken = await starter("status", order_id)
    assert (await starter(*command_in(taken, "resolve"))).status == 0
    await shop.client.get_workflow_handle(f"cancel-order:{order_id}").result()
    settled = await starter("status", order_id)
    assert (settled.status, settled.out.splitlines()[0]) == (0, f"{order_id} is rejected")

    async def is_over() -> bool:
        return order_id not in [each["orderId"] for each in (await starter("stuck", "--json")).json]

    await eventually(is_over, "the run that was terminated is not stuck any more")


async def parked_row(shop: Shop) -> str:
    """An order that is parked, and has no run."""
    order_id = new_order_id()
    await shop.pool.execute(
        "WITH made AS (INSERT INTO orders (id, customer_id, request_hash, status, closing, total, currency,"
        " capture_mode, terms, parked_step, parked_reason, parked_by)"
        " VALUES ($1, 'cus_123', 'hash', 'undoing', 'failed', 5998, 'usd', 'manual', '{}', 'void_payment', 'no', $1)"
        " RETURNING id) INSERT INTO order_items (order_id, product_id, quantity, price)"
        " SELECT id, '1', 2, 2999 FROM made",
        order_id,
    )
    return order_id


@pytest.mark.prove
async def test_a_parked_order_that_temporal_has_forgotten(shop: Shop, starter: Starter) -> None:
    """Its row is enough to list it, with the cancel that takes over; without PostgreSQL the list says what it lacks."""
    order_id = await parked_row(shop)
    said = await starter("stuck")
    assert said.status == 5, said
    assert f"order {order_id}" in lines(said)
    assert "amount 59.98 usd" in lines(said)
    assert ["cancel-order", order_id] in [shlex.split(line)[2:] for line in lines(said) if line.startswith(PROGRAM)]

    blind = await starter("stuck", **NO_DATABASE)
    assert order_id not in blind.out
    assert blind.out.rstrip().endswith("Orders that are parked without a run are not shown.")


@pytest.mark.prove
async def test_more_parked_orders_than_are_listed(
    shop: Shop, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list says so, and not before there are."""
    monkeypatch.setattr(app.cli.orders, "MAX_PARKED", 1)
    first = await parked_row(shop)
    assert "are parked" not in (await starter("stuck")).err
    second = await parked_row(shop)
    said = await starter("stuck")
    assert said.err.endswith(
        "More than 1 orders are parked; those without a run are listed if they are among the 1 oldest.\n"
    )
    assert (f"order {first}" in lines(said), f"order {second}" in lines(said)) == (True, False)


async def test_a_message_that_was_given_up_says_why(shop: Shop, starter: Starter) -> None:
    """The order is as it should be; its addressee must be reached in another way."""
    order_id = new_order_id()
    body: dict[str, Any] = {"error": {"code": "unknown_template", "message": "There is no such template."}}
    shop.world.faults.add(Fault(service="email", kind="status", status=422, body=body, times=None))
    await asyncio.wait_for(shop.place(order_id=order_id), 60)
    said = await starter("status", order_id)

    assert said.status == 0, said
    assert "why email: HTTP 422: unknown_template: There is no such template." in lines(said)
    assert "reach its addressee by other means" in said.out
    assert "order_confirmation given up" in said.out


@pytest.mark.prove
async def test_a_message_about_a_parcel_that_was_given_up(shop: Shop, starter: Starter) -> None:
    """Its run is about the order too, and is closed by now."""
    order_id = await ship(shop)
    shop.world.faults.add(Fault(service="email", kind="status", status=422, times=None))
    notice = ParcelNotice(order_id=order_id, shipment_id="par_1")
    await start_notify_shipment(shop.client, shop.task_queue, notice)
    await shop.client.get_workflow_handle(notify_shipment_id(order_id, "par_1")).result()
    (found,) = await stuck(starter, order_id)
    assert (found["what"], found["command"]) == ("notification:order_shipped:par_1", None)
    assert "email: HTTP 422" in found["reason"]
    assert "reach its addressee by other means" in found["advice"]


@pytest.mark.prove
async def test_more_marked_runs_than_are_listed(
    temporal: WorkflowEnvironment, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list says that there are more, and how to see them."""
    monkeypatch.setattr(app.cli.orders, "MAX_STUCK", 1)
    marked = TypedSearchAttributes([SearchAttributePair(NEEDS_ATTENTION, "void_payment")])
    orders = [new_order_id() for _ in range(3)]
    runs = [
        await temporal.client.start_workflow(
            PROCESS_ORDER, id=order, task_queue="polled-by-nobody", search_attributes=marked
        )
        for order in orders
    ]

    async def are_listed() -> bool:
        return (await temporal.client.count_workflows("TaskQueue = 'polled-by-nobody'")).count == len(runs)

    await eventually(are_listed, "the runs are listed")
    said = await starter("stuck", "--json")
    for run in runs:
        await run.terminate()
    told = "more runs are marked, and not listed: NeedsAttention IS NOT NULL lists all in the Web UI."
    assert int(said.err.partition(told)[0]) >= 2, "and those that other tests have left"


@pytest.mark.prove
async def test_who_only_reads_needs_no_more_than_that_role(shop: Shop, starter: Starter) -> None:
    """`status`, `list` and `stuck` work with orders_readonly, and nothing that writes does."""
    order_id = await parked(shop)
    reading = {"DATABASE_URL": f"{shop.database_url}?role=orders_readonly"}
    assert "is undoing, parked at void_payment" in (await starter("status", order_id, **reading)).out
    assert order_id in (await starter("list", **reading)).out
    assert order_id in (await starter("stuck", **reading)).out
    assert "GRANT orders_app" in (await starter("restock", "5", "1", **reading)).err
