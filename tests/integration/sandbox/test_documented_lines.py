"""docs/sandbox.md: its curl lines work word for word, and its tables name all that the sandbox knows."""

import re
import shlex
from pathlib import Path
from typing import Final

import httpx
import pytest

from sandbox.actions import Actions
from sandbox.faults import Fault
from sandbox.fulfillment import Address
from sandbox.page import Page
from sandbox.scenarios import SCENARIOS
from sandbox.server import Running
from sandbox.stripe_cards import CARDS, Card
from sandbox.world import World

ROOT: Final = Path(__file__).parents[3]
DOC: Final = (ROOT / "docs" / "sandbox.md").read_text()
LINES: Final = re.findall(r"^curl .*$", DOC, re.MULTILINE)
ORDER: Final = "my-order-1"
HERE: Final = "http://127.0.0.1:8400"


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its head."""
    section = DOC.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ----------------------------------------------------------------------------------------------------------- the lines


async def prepare(http: httpx.AsyncClient, action: str) -> None:
    """Bring the order of the lines to where the action can be done."""
    card = {"authenticate": "pm_card_threeDSecure2Required", "settle": "pm_card_pendingRefund"}.get(action, "pm_123")
    created = await http.post(
        "/stripe/v1/payment_intents",
        data={
            "amount": "5998",
            "currency": "usd",
            "payment_method": card,
            "capture_method": "manual" if action == "expire" else "automatic",
            "confirm": "true",
            "metadata[order_id]": ORDER,
        },
    )
    if action == "settle":
        await http.post("/stripe/v1/refunds", data={"payment_intent": created.json()["id"]})
    if action == "end-warning":
        await http.post("/actions/warn", data={"order": ORDER, "kind": "dispute"})
    shipment = {
        "orderId": ORDER,
        "items": [{"productId": "1", "quantity": 2}],
        "shippingAddress": {"street": "1 Main St"},
        "priority": "standard",
    }
    await http.post("/fulfillment/orders", json=shipment)


async def curl(http: httpx.AsyncClient, line: str) -> httpx.Response:
    """Do what curl does with the options that the page uses."""
    program, *words = shlex.split(line)
    assert program == "curl"
    method, fields = "", []
    while words and words[0].startswith("-"):
        option, value, *words = words
        match option:
            case "-d":
                fields.append(value)
            case "-X":
                method = value
            case _:
                raise AssertionError(f"an option that this test does not know: {option}")
    (url,) = words
    assert url.startswith(f"{HERE}/")
    return await http.request(
        method or ("POST" if fields else "GET"),
        url.removeprefix(HERE),
        content="&".join(fields),
        headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "*/*"},
    )


@pytest.mark.parametrize("line", LINES)
async def test_a_line_of_the_page_does_what_it_says(sandbox: Running, http: httpx.AsyncClient, line: str) -> None:
    """It is accepted, and answers in one line."""
    http.headers["Authorization"] = "Bearer sk_test_sandbox"
    action = line.rpartition("/")[2]
    await prepare(http, action)
    if action == "remove-fault":
        sandbox.world.faults.add(Fault(id="fault_1", service="slack", kind="status"))
    answer = await curl(http, line)
    if "/actions/" in line:
        assert (answer.status_code, answer.text.count("\n")) == (303, 1), answer.text
    else:
        assert answer.is_success
    if action in ("break", "fault"):
        assert len(sandbox.world.faults.pending()) == 1


def test_the_page_names_every_action() -> None:
    """In a line to paste, and in the table of their fields."""
    world = World()
    actions = {route.path.removeprefix("/actions/") for route in Actions(world, Page(world, "")).routes()}
    assert {line.rpartition("/actions/")[2] for line in LINES if "/actions/" in line} == actions
    assert {name for row in table("The same with curl") for name in names(row[0])} == actions


# ---------------------------------------------------------------------------------------------------------- the tables


def test_the_table_of_payment_methods_has_every_card_and_what_it_does() -> None:
    """The declines by their code; `pm_card_visa_charge…` is like `pm_card_charge…`."""
    described: dict[str, str] = {}
    for cards, does, _ in table("Payment methods"):
        for card in names(cards):
            described[card] = does
            if card.startswith("pm_card_charge"):
                described[card.replace("pm_card_", "pm_card_visa_")] = does
    assert described == {name: summary(card) for name, card in CARDS.items()}


def summary(card: Card) -> str:
    ends = f"declines: `{card.decline.decline_code}`" if card.decline else "approves"
    refund = {
        "succeeded": "",
        "pending": "; a refund stays pending until you settle it",
        "failed_later": "; a refund succeeds, and fails right after that",
        "failed": "; a refund fails at once",
    }[card.refund]
    return ("asks for 3DS, then " if card.authenticate else "") + ends + refund


def test_the_table_of_addresses_is_true() -> None:
    """Both addresses are refused, any other is not."""
    (street, _, _), (state, _, _), (other, _, _) = table("Addresses")
    assert [
        Address(**{field: value}, **more).undeliverable
        for field, value, more in (
            ("street", names(street)[2], {}),
            (names(state)[0], names(state)[1], {"street": "1 Main St"}),
        )
    ] == [True, True]
    assert other == "anything else"
    assert not Address(street="1 Main St").undeliverable


def test_the_table_of_products_is_what_the_local_stack_has() -> None:
    """Id, name, price and units, as the two seed files insert them."""
    seeds = [(ROOT / "deploy" / "local" / f"{name}.sql").read_text() for name in ("seed", "demo_products")]
    products = [found for seed in seeds for found in re.findall(r"\('(\d+)', '([^']+)', (\d+), 'usd'", seed)]
    units = {n: count for seed in seeds for n, count in re.findall(r"WHEN '(\d+)' THEN (\d+)", seed)}
    assert [[*row[:3], row[3].partition(":")[0]] for row in table("Products")] == [
        [f"`{product}`", name, f"{int(price) / 100:.2f}", units.get(product, "40")] for product, name, price in products
    ]


def test_the_table_of_faults_is_that_of_the_form() -> None:
    """Each scenario by its name and what happens."""
    assert [(*names(row[0]), row[1]) for row in table("Faults")] == [
        (name, title) for name, (title, _) in SCENARIOS.items()
    ]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_a_fault_of_its_own(name: str) -> None:
    """The script tells it from every other one by what it does."""
    _, fault = SCENARIOS[name]
    same = Fault.model_validate(fault.model_dump(exclude={"id"}))
    assert [each for each, (_, other) in SCENARIOS.items() if other.model_copy(update={"id": same.id}) == same] == [
        name
    ]
