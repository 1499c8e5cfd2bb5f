"""starter.py refund: what it asks for, what it shows, its exit status; and how status shows refunds."""

import json
from typing import Any

import pytest

from tests.integration.cli.conftest import Starter
from tests.support.shop import CHARGES, Shop, an_order, eventually, new_order_id


@pytest.mark.prove
async def test_a_part_is_refunded(shop: Shop, starter: Starter, database_url: str) -> None:
    """Units that come back, units that do not, and charges; the same command again is the same refund."""
    order_id = new_order_id()
    await shop.place(an_order(charges=CHARGES), order_id)
    asked = ("refund", order_id, "--refund-id", "r1", "--restock", "1:1", "--line", "1:1", "--charge", "shipping:2.50")

    said = await starter(*asked, "--reason", "too small")
    assert said.status == 0, said
    assert said.out.startswith(f"r1 of {order_id} is refunded")
    assert "62.48 usd" in said.out
    assert "1 unit" in said.out
    again = await starter(*asked, "--json")
    assert (again.status, again.json["refundAmount"], again.json["restocked"]) == (0, 62.48, 1)
    assert shop.world.provider_records()["orders"][order_id]["refunded"] == 6248

    status = await starter("status", order_id, DATABASE_URL=database_url)
    assert "Refund r1 of 62.48 usd is made, 1 unit back in stock" in status.out
    assert "too small" in status.out
    assert "62.48 usd refunded" in status.out
    report = await starter("status", order_id, "--json", DATABASE_URL=database_url)
    (part,) = report.json["order"]["partialRefunds"]
    assert (part["refundId"], part["amount"], part["status"]) == ("r1", 62.48, "made")
    await eventually(lambda: is_listed(starter, order_id), "status shows the run of the refund")


async def is_listed(starter: Starter, order_id: str) -> bool:
    return f"refund-order:{order_id}:r1" in (await starter("status", order_id)).out


async def test_a_refusal_is_exit_status_1(shop: Shop, starter: Starter) -> None:
    """The output says why; without an id the refund gets a new one."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    said = await starter("refund", order_id, "--amount", "60")
    assert said.status == 1, said
    assert "is not refunded" in said.out
    assert "60.00 usd wanted, 59.98 usd left of the payment" in said.out
    as_json = await starter("refund", "nobody", "--amount", "1", "--json")
    assert (as_json.status, as_json.json["reason"]) == (1, "unknown_order")
    assert as_json.json["refundId"].startswith("refund-")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "amount: must be above zero"),
        (("--line", "1"), "--line: must be PRODUCT:UNITS"),
        (("--restock", "1:one"), "--restock: must be PRODUCT:UNITS"),
        (("--charge", "tax:some"), "--charge: must be a number"),
        (("--charge", "discount:1"), "charges[0].type"),
        (("--amount", "1e"), "--amount: must be a number"),
        (("--amount", "1", "--refund-id", "a:b"), "refundId"),
        (("--amount", "1", "--email", "nobody"), "customerEmail"),
    ],
)
async def test_bad_input_is_exit_status_2(shop: Shop, starter: Starter, options: tuple[str, ...], problem: str) -> None:
    """Nothing is started; the problem names the option or the field."""
    said = await starter("refund", "o1", *options)
    assert said.status == 2, said
    assert problem in said.err
    assert shop.hooks.calls == []


@pytest.mark.prove
async def test_a_parked_refund_is_exit_status_5(shop: Shop, starter: Starter) -> None:
    """`stuck` and `status` name it, with its own amount; `resolve` settles it."""
    order_id = new_order_id()
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), order_id)
    said = await starter("refund", order_id, "--refund-id", "r1", "--line", "1:1")
    assert said.status == 5, said

    async def listed() -> list[dict[str, Any]]:
        return [each for each in (await starter("stuck", "--json")).json if each["orderId"] == order_id]

    (need,) = await eventually(listed, "the parked refund is listed")
    assert (need["what"], need["amount"], need["parked"]) == ("refund:r1", "29.99 usd", True)
    assert need["command"].endswith(f"resolve {order_id} --step refund:r1 --retry --reason 'its cause is corrected'")
    settled = await starter("resolve", order_id, "--step", "refund:r1", "--resolved", "--reason", "bank transfer")
    assert settled.status == 0, settled
    again = await starter("refund", order_id, "--refund-id", "r1", "--line", "1:1", "--json")
    assert (again.status, again.json["reason"]) == (0, "settled_by_hand"), json.dumps(again.json)
