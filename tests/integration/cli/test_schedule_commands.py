"""starter.py schedules: its commands, output and exit statuses."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from client.schedules import SCHEDULES
from orders.names import CHECK_INVENTORY, INDEX_PRODUCTS
from tests.integration.cli.conftest import Starter
from tests.support.schedules import passing_schedules
from tests.support.shop import Shop

NAMES = ", ".join(scheduled.workflow for scheduled in SCHEDULES)


@pytest.fixture(autouse=True)
async def schedules(temporal: WorkflowEnvironment) -> AsyncIterator[None]:
    async with passing_schedules(temporal.client):
        yield


async def test_applying_says_what_it_did(starter: Starter) -> None:
    """It reads the settings of the environment: created, then unchanged, then changed."""
    first = await starter("schedules", "apply")
    assert first.status == 0, first
    assert f"{CHECK_INVENTORY} is created" in first.out
    assert f"http://127.0.0.1:8233/namespaces/default/schedules/{INDEX_PRODUCTS}" in first.out

    for interval, change in (("900", "unchanged"), ("86400", "changed")):
        again = await starter("schedules", "apply", "--json", CHECK_INVENTORY_EVERY_SECONDS=interval)
        assert (again.status, again.json[0]) == (
            0,
            {
                "name": CHECK_INVENTORY,
                "change": change,
                "every": int(interval),
                "link": f"http://127.0.0.1:8233/namespaces/default/schedules/{CHECK_INVENTORY}",
            },
        )
    assert "every   1 d" in (await starter("schedules", "apply", CHECK_INVENTORY_EVERY_SECONDS="86400")).out


async def test_a_bad_interval_is_refused(starter: Starter) -> None:
    """The error names the setting, and no Schedule is applied."""
    said = await starter("schedules", "apply", CHECK_INVENTORY_EVERY_SECONDS="0")
    assert said.status == 2, said
    assert said.err.startswith("CHECK_INVENTORY_EVERY_SECONDS: ")
    assert not any(each["applied"] for each in (await starter("schedules", "list", "--json")).json)


async def test_the_list_is_for_people(shop: Shop, starter: Starter) -> None:
    """It shows what is not applied; then interval, times and last runs; then a pause with its reason, unchanged."""
    assert "never: `.venv/bin/python starter.py schedules apply`" in (await starter("schedules", "list")).out

    await starter("schedules", "apply")
    triggered = await starter("schedules", "trigger", CHECK_INVENTORY, "--json")
    await shop.client.get_workflow_handle(triggered.json["workflowId"]).result()
    await starter("schedules", "pause", INDEX_PRODUCTS, "--reason", "the [bold] new catalogue")
    said = await starter("schedules", "list")

    assert said.status == 0, said
    assert all(words in said.out for words in (CHECK_INVENTORY, "15 min", "completed, ", "none yet"))
    assert "paused: the [bold] new catalogue" in said.out


async def test_a_pause_and_its_end(starter: Starter) -> None:
    """The list for scripts shows both."""
    await starter("schedules", "apply")
    said = await starter("schedules", "pause", INDEX_PRODUCTS, "--reason", "maintenance")
    assert (said.status, said.out.splitlines()[0]) == (0, f"{INDEX_PRODUCTS} is paused: maintenance")
    found = await pauses(starter)
    assert (found[CHECK_INVENTORY], found[INDEX_PRODUCTS]) == ((False, "reports low stock"), (True, "maintenance"))

    said = await starter("schedules", "resume", INDEX_PRODUCTS, "--json")
    assert (said.status, said.json["paused"]) == (0, False)
    assert (await pauses(starter))[INDEX_PRODUCTS] == (False, "resumed by hand")


async def pauses(starter: Starter) -> dict[str, tuple[bool, str]]:
    found = await starter("schedules", "list", "--json")
    return {each["name"]: (each["paused"], each["note"]) for each in found.json}


async def test_a_trigger_starts_a_run_or_says_why_not(shop: Shop, starter: Starter) -> None:
    """The exit status is 0 with the run's link; 1 while a run is under way."""
    held = shop.hooks.hold("find_low_stock")
    await starter("schedules", "apply")
    said = await starter("schedules", "trigger", CHECK_INVENTORY)
    run = said.out.split()[0]
    assert (said.status, said.out.splitlines()[0]) == (0, f"{run} is started")
    assert f"http://127.0.0.1:8233/namespaces/default/workflows/{run}" in said.out

    await held.reached.wait()
    again = await starter("schedules", "trigger", CHECK_INVENTORY)
    assert (again.status, again.out.splitlines()[0]) == (1, f"nothing is started: {run} is under way")
    held.let_go()
    assert [item["product_id"] for item in (await result(shop.client, run))["lowStockItems"]] == ["5"]


async def result(client: Client, workflow_id: str) -> dict[str, Any]:
    report: dict[str, Any] = await client.get_workflow_handle(workflow_id).result()
    return report


@pytest.mark.parametrize("verb", [("pause", "--reason", "so"), ("resume",), ("trigger",)], ids=lambda verb: verb[0])
async def test_a_wrong_name_is_refused(starter: Starter, verb: tuple[str, ...]) -> None:
    """An unknown name is bad input, and the error lists the names; a Schedule that was never applied is a refusal."""
    said = await starter("schedules", *verb, "nightly", "--json")
    assert (said.status, said.json["error"]) == (2, f"name: must be one of {NAMES}")

    said = await starter("schedules", *verb, INDEX_PRODUCTS)
    assert (said.status, said.err.strip()) == (
        1,
        f"{INDEX_PRODUCTS} is not a Schedule yet: create it with `starter.py schedules apply`",
    )


async def test_a_reason_is_asked_for(starter: Starter) -> None:
    """A pause needs a reason."""
    await starter("schedules", "apply")
    assert (await starter("schedules", "pause", INDEX_PRODUCTS)).status == 2
    said = await starter("schedules", "pause", INDEX_PRODUCTS, "--reason", "")
    assert (said.status, said.err.strip()) == (2, "reason: must have 1 to 500 characters")
    assert not (await pauses(starter))[INDEX_PRODUCTS][0]


async def test_the_help_says_what_there_is(starter: Starter) -> None:
    """The help lists commands and Schedules, and says where the exit statuses are."""
    said = await starter("schedules", "--help")
    assert all(words in said.out for words in ("apply", "trigger", CHECK_INVENTORY, INDEX_PRODUCTS, "exit-codes"))
