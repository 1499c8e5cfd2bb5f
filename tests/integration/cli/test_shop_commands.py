"""Stock and recommendations on the command line: what it starts, its output, its exit status."""

import asyncio
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from client.reports import index_products, view_index
from client.runs import stuck_runs, view_timeline
from orders.errors import Permanent
from orders.names import CHECK_INVENTORY, INDEX_RUN, PRODUCT_RECOMMENDATIONS
from orders.stock import MAX_STOCK
from sandbox.faults import Fault
from tests.integration.cli.conftest import Said, Starter
from tests.integration.cli.test_starter import NOBODY, an_empty_namespace
from tests.support.shop import Shop, an_order, eventually

RUNS = "http://127.0.0.1:8233/namespaces/default/workflows"
GLOBE = "Last-of-its-kind globe"  # of which the seed has one, below its reorder level


# --------------------------------------------------------------------------------------------------------------- stock


async def test_low_stock_is_shown_and_told_once(shop: Shop, starter: Starter) -> None:
    """The low products in units; how many were alerted now, and that the others were alerted earlier."""
    said = await starter("check-inventory")

    assert said.status == 0, said
    header, row, headline = (" ".join(line.split()) for line in said.out.splitlines()[:3])
    assert (header, row) == ("product name units reorder level", f"5 {GLOBE} 1 10")
    assert headline == "1 product at or below the reorder level"
    assert "alerted  1 now" in said.out
    assert f"{RUNS}/{CHECK_INVENTORY}:" in said.out
    assert len(shop.world.inbox.alerts) == 1

    again = await starter("check-inventory")
    assert again.status == 0, again
    assert "alerted  0 now, the others earlier" in again.out
    assert len(shop.world.inbox.alerts) == 1


async def test_low_stock_for_scripts(shop: Shop, starter: Starter) -> None:
    """JSON is the report in the workflow's own names, with the link to its run."""
    said = await starter("check-inventory", "--json")

    assert said.status == 0, said
    assert [item["product_name"] for item in said.json["lowStockItems"]] == [GLOBE]
    assert (said.json["alerted"], said.json["undelivered"]) == (1, None)
    run = said.json["link"].removeprefix(f"{RUNS}/")
    assert (await shop.client.get_workflow_handle(run).result())["lowStockItems"] == said.json["lowStockItems"]


async def test_nothing_is_low(shop: Shop, starter: Starter) -> None:
    """The output is one line and the link, without a table."""
    await shop.set_stock(50, "5")
    said = await starter("check-inventory")

    assert (said.status, said.out.splitlines()[0]) == (0, "0 products at or below the reorder level")
    assert len(said.out.splitlines()) == 2
    assert "told" not in said.out


async def test_a_products_name_is_only_text(shop: Shop, starter: Starter) -> None:
    """Neither the terminal nor the table interprets it."""
    await shop.pool.execute("UPDATE products SET name = $1 WHERE id = '5'", "[red]globe[/red]\x1b[2J\n\u202e\U0001face")
    said = await starter("check-inventory")

    assert said.status == 0, said
    assert "[red]globe[/red] [2J" in said.out
    assert "\x1b" not in said.out
    assert "\u202e" not in said.out
    assert "\U0001face" in said.out, "an emoji that is newer than this Python"


@pytest.mark.prove
async def test_low_stock_that_nobody_hears_of_needs_a_person(shop: Shop, starter: Starter) -> None:
    """Exit status 5 and the cause; `stuck` says what to do, until a later check has alerted."""
    shop.world.faults.add(Fault(service="slack", kind="status", status=404, times=None))
    said = await starter("check-inventory")
    assert said.status == 5, said
    assert "alerted      0 now" in said.out
    assert "not alerted  slack" in said.out

    await eventually(lambda: untold(shop), "the run is listed as stuck")
    shown, listed = await starter("stuck"), await starter("stuck", "--json")
    assert (shown.status, listed.status) == (5, 5)
    assert "mend SLACK_WEBHOOK" in shown.out
    ours = [each["run"] for each in listed.json if each["run"]["workflow"] == CHECK_INVENTORY]
    assert [(run["orderId"], run["needsAttention"]) for run in ours] == [(None, "post_low_stock")]
    assert CHECK_INVENTORY not in (await starter("list")).out

    shop.world.faults.clear()
    assert "alerted  1 now" in (await starter("check-inventory")).out

    async def is_settled() -> bool:
        return not await untold(shop)

    await eventually(is_settled, "the later check speaks for the earlier one")


async def untold(shop: Shop) -> bool:
    return CHECK_INVENTORY in [each.run.workflow for each in await stuck_runs(shop.client)]


async def test_what_the_check_is_at_can_be_seen(shop: Shop, starter: Starter) -> None:
    """The client reads the last line of its timeline while it waits."""
    held = shop.hooks.hold("post_low_stock")
    checking = asyncio.ensure_future(starter("check-inventory"))
    await held.reached.wait()
    (run,) = {run for run, activity in shop.hooks.calls if activity == "post_low_stock"}

    assert (await view_timeline(shop.client, run) or "").endswith("products at or below their reorder level: 1")
    held.let_go()
    assert (await checking).status == 0


async def test_restocking(shop: Shop, starter: Starter) -> None:
    """The output is the new quantity, for people and for scripts."""
    database = shop.settings.database_url.get_secret_value()
    said = await starter("restock", "5", "20", DATABASE_URL=database, TEMPORAL_ADDRESS=NOBODY)
    assert (said.status, said.out.splitlines()[0]) == (0, f"5 ({GLOBE}) is restocked")
    assert "units          21" in said.out

    said = await starter("restock", "5", "1", "--json", DATABASE_URL=database)
    assert (said.status, said.json) == (
        0,
        {"productId": "5", "productName": GLOBE, "quantity": 22, "reorderLevel": 10},
    )
    assert await shop.stock("5") == (22, 0)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("99", "1"), 1, "the inventory has no product 99"),
        (("5", "0"), 2, "quantity: must be greater than or equal to 1"),
        (("5", "10001"), 2, "quantity: must be less than or equal to 10000"),
        (("5", "some"), 2, "Invalid value for 'QUANTITY'"),
        (("a b", "0"), 2, "productId: must match pattern"),
        (("5",), 2, "Missing argument 'QUANTITY'"),
    ],
)
async def test_a_restock_that_cannot_be_is_refused(
    database_url: str, starter: Starter, arguments: tuple[str, ...], status: int, message: str
) -> None:
    """An unknown product is a refusal, all else is bad input; the field is named."""
    said = await starter("restock", *arguments, DATABASE_URL=database_url)
    assert said.status == status, said
    assert message in said.err


async def test_a_stock_has_an_upper_bound(shop: Shop, starter: Starter) -> None:
    """Bad input, and a sentence with the numbers; the bound itself can be reached."""
    database = shop.settings.database_url.get_secret_value()
    await shop.set_stock(MAX_STOCK - 2, "5")
    assert (await starter("restock", "5", "2", DATABASE_URL=database)).status == 0
    said = await starter("restock", "5", "1", DATABASE_URL=database)
    assert said.status == 2, said
    assert "quantity: product 5 has 1000000000 units; at most 1000000000 can be in stock" in said.err
    assert await shop.stock("5") == (MAX_STOCK, 0)


async def test_restocking_without_postgres_is_no_answer(starter: Starter) -> None:
    """Exit status 4 with one line, which does not hold the password."""
    said = await starter("restock", "5", "1", DATABASE_URL="postgresql://orders:secret@127.0.0.1:1/orders")
    assert said.status == 4, said
    reason = "nothing answers at 127.0.0.1:1 (is `make up` running?)"
    assert said.err.strip() == f"PostgreSQL at DATABASE_URL cannot be used: {reason}"


# ----------------------------------------------------------------------------------------------------- recommendations


@pytest.mark.usefixtures("shop")
async def test_the_index_is_filled(starter: Starter) -> None:
    """The output says how many were embedded: all products, then none."""
    said = await starter("index-products")
    assert (said.status, said.out.splitlines()[0]) == (0, "5 of 5 products embedded")
    assert "searched  yes" in said.out
    assert f"{RUNS}/{INDEX_RUN}" in said.out

    again = await starter("index-products", "--json")
    assert (again.status, again.json["embedded"], again.json["finished"]) == (0, 0, True)
    assert again.json["link"] == f"{RUNS}/{INDEX_RUN}"


async def test_whoever_indexes_meanwhile_joins(shop: Shop) -> None:
    """All callers share one run and get the same answer; its progress can be read."""
    held = shop.hooks.hold("activate_index")
    asked = [asyncio.create_task(index_products(shop.client)) for _ in range(3)]
    await held.reached.wait()
    progress = await view_index(shop.client)
    assert progress
    assert (progress.embedded, progress.products, progress.finished) == (5, 5, False)
    held.let_go()

    assert [(end.embedded, end.finished) for end in await asyncio.gather(*asked)] == [(5, True)] * 3
    assert [activity for _, activity in shop.hooks.calls].count("plan_index") == 1


async def test_an_index_run_that_fails_is_exit_status_3(shop: Shop, starter: Starter) -> None:
    """The error is the activity's message, for people and for scripts."""
    shop.hooks.fail("embed_batch", Permanent("the model knows no such dimensions", type="openai_refused"))
    said = await starter("index-products", "--json")
    assert (said.status, said.json["error"]) == (
        3,
        "index-products:all failed: openai_refused: the model knows no such dimensions",
    )
    assert said.err.splitlines()[1:] == [said.json["error"]]


async def a_customer(shop: Shop) -> str:
    """A customer who has bought a desk lamp."""
    await shop.place(an_order(items=[{"productId": "2", "quantity": 1}], customerId="cus_lamp"))
    return "cus_lamp"


async def recommend(starter: Starter, customer: str, *more: str) -> Said:
    said = await starter("recommend", customer, *more)
    assert said.status == 0, said
    return said


async def test_recommendations_by_the_model(shop: Shop, starter: Starter) -> None:
    """A table with reasons and their source; for scripts JSON in the workflow's own names."""
    await starter("index-products")
    customer = await a_customer(shop)
    said = await recommend(starter, customer)
    assert said.out.startswith(f"4 recommendations for {customer}")
    assert "the language model's choice among what is most like their purchases" in said.out
    assert GLOBE in said.out
    assert f"{RUNS}/{PRODUCT_RECOMMENDATIONS}:" in said.out

    outcome: dict[str, Any] = (await recommend(starter, customer, "--json")).json
    assert (outcome["source"], outcome["fallback"]) == ("model", None)
    assert sorted(each["productId"] for each in outcome["recommendations"]) == ["1", "3", "4", "5"]
    assert all(each["reason"] and each["name"] in said.out for each in outcome["recommendations"])
    assert outcome["link"].startswith(f"{RUNS}/{PRODUCT_RECOMMENDATIONS}:")


async def test_recommendations_without_the_model(shop: Shop, starter: Starter) -> None:
    """By similarity, and why not by the model; exit status 0, since the customer gets recommendations."""
    await starter("index-products")
    customer = await a_customer(shop)
    shop.world.openai.script("not_json", 2)
    said = await recommend(starter, customer)
    assert "source               what is most like their purchases" in said.out
    assert "why not the model's  the answer of the model was not usable" in said.out
    assert "Similar to Brass desk lamp, which you bought." in said.out


async def test_recommendations_for_somebody_new(shop: Shop, starter: Starter) -> None:
    """They are the popular products; with nothing in stock there are none."""
    said = await recommend(starter, "cus_new")
    assert "what is popular with other customers" in said.out

    await shop.pool.execute("UPDATE inventory SET quantity = 0")
    assert (await recommend(starter, "cus_new")).out.startswith("0 recommendations for cus_new")


@pytest.mark.parametrize("customer", ["", "a b", "x" * 65, "4242 4242 4242 4242"])
async def test_a_bad_customer_is_refused(starter: Starter, customer: str) -> None:
    """The field is named, without a call to Temporal, which is out of reach here."""
    said = await starter("recommend", customer, "--json", TEMPORAL_ADDRESS=NOBODY)
    assert said.status == 2, said
    assert all(problem.startswith("customerId: ") for problem in said.json["problems"])
    assert "4242" not in said.err


# ----------------------------------------------------------------------------------------------------------- the rest


@pytest.mark.prove
@pytest.mark.parametrize("command", [("check-inventory",), ("recommend", "cus_123"), ("index-products",)])
async def test_without_a_worker_it_says_so(
    temporal: WorkflowEnvironment, starter: Starter, command: tuple[str, ...]
) -> None:
    """Exit status 4; the run waits for a worker."""
    namespace = await an_empty_namespace(temporal)
    said = await starter(*command, TEMPORAL_NAMESPACE=namespace)
    assert said.status == 4, said
    assert "is kept by Temporal, but no worker polls the task queue `orders`" in said.err


async def test_the_help_says_that_restock_is_for_trying_out(starter: Starter) -> None:
    """The command is no stock management."""
    said = await starter("restock", "--help")
    assert "for trying things out" in said.out
