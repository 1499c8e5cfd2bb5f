"""`starter.py verify`: a mark for each invariant, what breaks it, and the exit status."""

from audit.invariants import IN_OPERATION, describe
from tests.integration.cli.conftest import Starter
from tests.support.scenarios import final_error
from tests.support.shop import Shop

RULES = [describe(rule) for rule in IN_OPERATION]


async def test_all_is_well(shop: Shop, starter: Starter) -> None:
    """Every invariant has a tick."""
    await shop.place(order_id="o1")
    said = await starter("verify")
    assert said.status == 0, said
    marks = {line[2:].strip(): line[0] for line in said.out.splitlines() if line[0] in "✓✗?"}
    assert marks == dict.fromkeys(RULES, "✓")
    assert "0 violations, 1 order verified" in said.out


async def test_a_broken_rule(shop: Shop, starter: Starter) -> None:
    """It has a cross, with the order and what is wrong; scripts get the same, and exit status 1."""
    await shop.place(order_id="o1")
    await shop.pool.execute("UPDATE order_items SET price = 3000")
    shown, listed = await starter("verify"), await starter("verify", "--json")

    assert (shown.status, listed.status) == (1, 1)
    [broken] = listed.json["violations"]
    assert (broken["subject"], broken["rule"]) == ("o1", "totals_add_up")
    assert (listed.json["count"], listed.json["checked"], listed.json["unverified"]) == (1, 1, [])
    crossed = [line for line in shown.out.splitlines() if line.startswith("✗")]
    assert [line[2:].strip() for line in crossed] == [listed.json["rules"][broken["rule"]]]
    assert f"o1: {broken['what']}" in shown.out


async def test_what_could_not_be_verified(shop: Shop, starter: Starter) -> None:
    """No invariant has a tick, and the exit status is that of no answer."""
    await shop.place(order_id="o1")
    shop.hooks.fail("check_orders", final_error(), times=None)
    said = await starter("verify")
    assert said.status == 4, said
    assert "✓" not in said.out
    assert "the orders o1 to o1: scripted" in said.out
