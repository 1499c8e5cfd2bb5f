"""The sandbox's page over HTTP, as a browser without JavaScript reads and uses it."""

import re
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest

from sandbox.page import HERE
from sandbox.server import Running, serve
from tests.integration.sandbox.page import BROWSER, Browser, parse

MARKUP: Final = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>"
ADDRESS: Final = {"name": MARKUP, "street": "123 Main St", "city": "San Francisco", "state": "CA", "zip": "94102"}
LINKS: Final = "http://127.0.0.1:8233/namespaces/default/workflows/"

# Everything that the page may consist of. A smuggled element or attribute is not among it.
ATTRIBUTES: Final = re.compile(
    "lang|charset|name|content|rel|href|src|defer|class|type|value|method|action|id|for|placeholder|autocomplete|open|"
    "datetime|data-(latest|order|head)|aria-(label|labelledby|hidden)|role|tabindex|hidden|min|max|step|pattern"
)


@pytest.fixture
def browser(http: httpx.AsyncClient) -> Browser:
    http.headers["Authorization"] = "Bearer sk_test_sandbox"
    return Browser(http)


async def pay(http: httpx.AsyncClient, order: str, card: str = "pm_123", **more: str) -> str:
    """Confirm a payment, and return the id of the PaymentIntent."""
    form = {"amount": "5998", "currency": "usd", "payment_method": card, "capture_method": "manual"} | more
    created = await http.post("/stripe/v1/payment_intents", data=form | {"metadata[order_id]": order})
    intent_id = created.json()["id"]
    await http.post(f"/stripe/v1/payment_intents/{intent_id}/confirm")
    return str(intent_id)


async def capture(http: httpx.AsyncClient, intent_id: str) -> None:
    (await http.post(f"/stripe/v1/payment_intents/{intent_id}/capture")).raise_for_status()


async def refund(http: httpx.AsyncClient, intent_id: str) -> httpx.Response:
    return await http.post("/stripe/v1/refunds", data={"payment_intent": intent_id})


async def ask_to_ship(http: httpx.AsyncClient, order: str) -> httpx.Response:
    items = [{"productId": "1", "quantity": 2}]
    body = {"orderId": order, "items": items, "shippingAddress": ADDRESS, "priority": "standard"}
    return await http.post("/fulfillment/orders", json=body)


async def email(http: httpx.AsyncClient, order: str, template: str = "order_confirmation") -> httpx.Response:
    data = {"orderNumber": order, "total": 59.98}
    return await http.post("/email/send", json={"to": "ada@example.com", "template": template, "data": data})


# -------------------------------------------------------------------------------------------------------------- reading


async def test_each_order_is_one_row_newest_first(browser: Browser) -> None:
    """A row has the order's money, shipment, e-mails and events; also of an order that no payment was made for."""
    http = browser.http
    await capture(http, await pay(http, "order-1"))
    await ask_to_ship(http, "order-1")
    await email(http, "order-1")
    event = {"event": "purchase", "userId": "cus_123", "properties": {"orderId": "order-1"}}
    await http.post("/analytics/events", json=event)
    await http.post("/slack/webhook", json={"text": "Order order-1 is stuck."})
    await pay(http, "order-2", "pm_card_chargeDeclined", amount="500", currency="jpy")
    await email(http, "order-3", "out_of_stock")

    page = await browser.go("/")

    rows = [each.one("summary", class_="row").text for each in page.all("details", class_="order")]
    assert [re.sub(r" \d\d:\d\d:\d\d UTC", "", each) for each in rows] == [
        "order-3 none none out_of_stock none",
        "order-2 declined 500 jpy none none none",
        "order-1 captured 59.98 usd accepted order_confirmation purchase 1 alert",
    ]


async def test_a_row_opens_to_the_requests_and_answers_of_its_order_alone(browser: Browser) -> None:
    """Every service's, oldest first; `order-1` is not a part of `order-10`; no client secret is shown."""
    http = browser.http
    intent_id = await pay(http, "order-1")
    await ask_to_ship(http, "order-1")
    await email(http, "order-10")
    await http.post("/_sandbox/faults", json={"service": "email", "kind": "reset_before"})
    with pytest.raises(httpx.TransportError):
        await email(http, "order-1")

    await browser.go("/")

    requests = browser.order("order-1").all("details", class_="request")
    lines = [re.sub(r"^\S+ UTC ", "", each.one("summary").text) for each in requests]
    assert lines == [
        "200 stripe POST /v1/payment_intents",
        f"200 stripe POST /v1/payment_intents/{intent_id}/confirm",
        "201 fulfillment POST /orders",
        "no answer email POST /send fault: reset_before",
    ]
    request, answer = requests[0].all("pre")
    assert '"order_id": "order-1"' in request.text
    assert f'"id": "{intent_id}"' in answer.text
    assert re.findall(r"_secret_\w*", answer.text) == ["_secret_"]
    assert [each.all("pre")[1].text for each in requests][-1] == "(none)"


async def test_orders_are_filtered_by_a_part_of_their_id(browser: Browser) -> None:
    """The order with exactly that id is open; a filter that fits nothing says so."""
    for order in ("order-1", "order-10", "another"):
        await pay(browser.http, order)
    page = await browser.go("/?order=order-1")
    shown = {each.attributes["data-order"]: "open" in each.attributes for each in page.all("details", class_="order")}
    assert shown == {"order-10": False, "order-1": True}
    assert page.one("input", id="filter").attributes["value"] == "order-1"
    nothing = await browser.go("/?order=nothing")
    assert "No order has “nothing” in its id." in nothing.one("main").text


async def test_a_long_list_is_shown_in_parts(browser: Browser) -> None:
    """The newest 20 orders, and a link to 20 more that keeps the filter."""
    for number in range(25):
        await email(browser.http, f"order-{number:02}")
    page = await browser.go("/?order=order")
    assert len(page.all("details", class_="order")) == 20
    (more,) = [each for each in page.all("a") if each.text.startswith("Show more")]
    page = await browser.go((more.attributes["href"] or "").partition("#")[0])
    assert len(page.all("details", class_="order")) == 25
    assert not [each for each in page.all("a") if each.text.startswith("Show more")]


async def test_an_order_whose_requests_left_the_journal_is_still_there(sandbox: Running, browser: Browser) -> None:
    """The journal is bounded, the records are not. Of those orders, the ones without a payment come last."""
    await ask_to_ship(browser.http, "shipped")
    intent_id = await pay(browser.http, "paid")
    sandbox.world.stripe.account.intents[intent_id].created -= 60
    sandbox.world.journal.lines.clear()
    await email(browser.http, "new")
    page = await browser.go("/")
    shown = [each.attributes["data-order"] for each in page.all("details", class_="order")]
    assert shown == ["new", "paid", "shipped"]
    assert "None is left in the journal." in browser.order("paid").text


async def test_text_of_requests_is_shown_as_text(sandbox: Running, browser: Browser) -> None:
    """Markup in a name, an id, an e-mail, an alert, a filter, a fault or a problem makes no element."""
    http = browser.http
    await pay(http, MARKUP)
    await ask_to_ship(http, MARKUP)
    await http.post("/email/send", json={"to": "a@b", "template": MARKUP, "data": {"orderNumber": MARKUP, MARKUP: 1}})
    await http.post("/slack/webhook", json={"text": f"{MARKUP} {MARKUP}"})
    await http.post(f"/analytics/{MARKUP}", json=MARKUP, headers={"Idempotency-Key": MARKUP})
    await http.post("/actions/fault", data={"service": "slack", "kind": "status", "route": MARKUP, "order": MARKUP})
    problem = await http.post("/actions/ship", data={"order": MARKUP + "x"}, headers=BROWSER)
    shown = await http.get("/", params={"order": MARKUP, "open": MARKUP})
    for answer in (problem, shown):
        page = parse(answer.text)
        assert [each.attributes.get("src") for each in page.all("script")] == ["/static/page.js"]
        assert not page.all("img")
        assert all(ATTRIBUTES.fullmatch(name) for each in page.all() for name in each.attributes)
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert MARKUP in page.text
    assert len(sandbox.world.faults.pending()) == 1


async def test_reading_moves_nothing(browser: Browser) -> None:
    """The page does not load itself again; each field has a label, and each button says what it does."""
    await capture(browser.http, await pay(browser.http, "order-1"))
    page = await browser.go("/?open=order-1")
    assert not [each for each in page.all("meta") if each.attributes.get("http-equiv")]
    labeled = {each.attributes.get("for") for each in page.all("label")}
    fields = [each for each in page.all("input") + page.all("select") if each.attributes.get("type") != "hidden"]
    assert {each.attributes["id"] for each in fields} == labeled
    assert all(each.text for each in page.all("button"))
    ids = [each.attributes["id"] for each in page.all() if "id" in each.attributes]
    assert len(ids) == len(set(ids))


async def test_the_files_of_the_page_are_served(http: httpx.AsyncClient) -> None:
    """No file comes from another host."""
    page = parse((await http.get("/")).text)
    files = [
        each.attributes.get("src") or each.attributes.get("href") for each in page.all("script") + page.all("link")
    ]
    assert files == ["/static/page.js", "data:,", "/static/page.css"]
    for name in ("page.js", "page.css"):
        assert (await http.get(f"/static/{name}")).text == (HERE / "static" / name).read_text()


async def test_the_page_can_ask_whether_there_is_news(http: httpx.AsyncClient) -> None:
    """Each request makes the latest one another."""
    page = parse((await http.get("/")).text)
    assert (await http.get("/_sandbox/latest")).json() == {"latest": page.one("body").attributes["data-latest"]}
    await email(http, "order-1")
    assert (await http.get("/_sandbox/latest")).json() != {"latest": page.one("body").attributes["data-latest"]}


@pytest.fixture
async def linked() -> AsyncIterator[Browser]:
    """A browser on a sandbox that knows the address of Temporal's Web UI."""
    async with serve(workflows=LINKS) as running, httpx.AsyncClient(base_url=running.url, trust_env=False) as http:
        yield Browser(http)


async def test_an_order_links_to_its_workflow(linked: Browser, browser: Browser) -> None:
    """If the address of the Web UI is known."""
    for each, links in ((linked, [f"{LINKS}order-1%2F2"]), (browser, [])):
        await email(each.http, "order-1/2")
        await each.go("/")
        assert [link.attributes["href"] for link in each.order("order-1/2").all("a")] == links


# --------------------------------------------------------------------------------------------------------------- acting


async def test_a_declined_payment_that_was_voided_is_shown_as_declined(browser: Browser) -> None:
    """The undo of the order voids it, but the customer was declined."""
    intent_id = await pay(browser.http, "order-1", "pm_card_chargeDeclined")
    (await browser.http.post(f"/stripe/v1/payment_intents/{intent_id}/cancel")).raise_for_status()
    await browser.go("/")
    assert "declined 59.98 usd" in browser.order("order-1").one("summary", class_="row").text


async def test_the_customer_passes_3ds(browser: Browser) -> None:
    """By a button in the order's row, which is open afterwards, under the filter that was set."""
    await pay(browser.http, "order-1", "pm_card_threeDSecure2Required")
    await browser.go("/?order=order")
    assert "waits for 3DS 59.98 usd" in browser.order("order-1").one("summary", class_="row").text
    answer = await browser.press("Pass 3DS as the customer")
    assert answer.headers["Location"] == "/?order=order&open=order-1#order-order-1"
    assert "authorized 59.98 usd" in browser.order("order-1").one("summary", class_="row").text
    assert "open" in browser.order("order-1").attributes


@pytest.mark.parametrize(
    ("card", "before", "label", "after"),
    [
        ("pm_card_threeDSecure2Required", "waits for 3DS", "Fail 3DS as the customer", "declined"),
        ("pm_123", "authorized", "Let the authorization expire", "expired"),
        ("pm_card_pendingRefund", "refund pending", "Settle the refund", "refunded"),
        ("pm_card_pendingRefund", "refund pending", "Fail the refund", "refund failed"),
        ("pm_card_visa", "refunded", "Fail the refund", "refund failed"),
        ("pm_card_mastercard", "captured", "Dispute the payment", "dispute: needs response"),
        ("pm_card_mastercard", "captured", "Suspect fraud", "early fraud warning: actionable"),
        ("pm_card_mastercard", "captured", "Ask for a review", "review: open"),
        ("pm_card_amex", "dispute: needs response", "Win the dispute", "dispute: won"),
        ("pm_card_amex", "dispute: needs response", "Lose the dispute", "dispute: lost"),
    ],
)
async def test_customer_and_banks_act(browser: Browser, card: str, before: str, label: str, after: str) -> None:
    """Each button changes what the row says, and is gone when there is nothing left for it to do."""
    intent_id = await pay(browser.http, "order-1", card)
    if card not in ("pm_123", "pm_card_threeDSecure2Required"):
        await capture(browser.http, intent_id)
    if "refund" in before:
        await refund(browser.http, intent_id)
    if "dispute" in before:
        await browser.http.post("/actions/warn", data={"order": "order-1", "kind": "dispute"})
    await browser.go("/")
    assert f"{before} 59.98 usd" in browser.order("order-1").one("summary", class_="row").text
    assert (await browser.press(label)).status_code == 303
    assert f"{after} 59.98 usd" in browser.order("order-1").one("summary", class_="row").text
    if label not in ("Dispute the payment", "Suspect fraud", "Ask for a review"):
        assert label not in [each.text for each in browser.page.all("button")]


async def test_the_warehouse_ships_delivers_and_forgets(sandbox: Running, browser: Browser) -> None:
    """One button each."""
    await ask_to_ship(browser.http, "order-1")
    await browser.go("/")
    for label, status in (
        ("Ship the order", "shipped"),
        ("Deliver the order", "delivered"),
        ("Forget the order in the warehouse", "none"),
    ):
        assert (await browser.press(label)).status_code == 303
        assert browser.order("order-1").all("span", **{"data-head": "Shipment"})[0].text == status
    assert sandbox.world.fulfillment.shipments == {}


async def test_a_scenario_is_scripted_by_a_form(browser: Browser) -> None:
    """The scenario “Stripe refuses the refund” hits the next refund of that order, and then it is used up."""
    first, second = [await pay(browser.http, order) for order in ("order-1", "order-2")]
    for each in (first, second):
        await capture(browser.http, each)
    await browser.go("/")
    answer = await browser.press("Break it", scenario="refund-refused", times="1", order="order-2")
    assert answer.headers["Location"] == "/#faults"
    assert "Stripe refuses the refund: the next call about order-2" in browser.page.one("ul", class_="faults").text
    assert [(await refund(browser.http, each)).status_code for each in (first, second, second)] == [200, 400, 200]
    assert "None: every service works." in (await browser.go("/")).one("aside").text


async def test_any_fault_is_scripted_by_a_form_and_removed(browser: Browser) -> None:
    """By its service, kind, route, status and count. One is removed, then all are."""
    await browser.go("/")
    await browser.press("Add the fault", service="email", route="POST /send", status="507", times="always")
    await browser.press("Add the fault", service="slack", kind="reset_before", times="2")
    await browser.press("Break it", scenario="warehouse-down", times="3")
    assert [each.one("span").text for each in browser.page.one("ul", class_="faults").all("li")] == [
        "email: status 507 for POST /send: every call, until it is removed",
        "slack: reset_before for *: the next 2 calls",
        "The warehouse answers 503: the next 3 calls",
    ]
    assert (await email(browser.http, "order-1")).status_code == 507
    await browser.press("Remove: email: status 507 for POST /send")
    assert (await email(browser.http, "order-1")).status_code == 200
    await browser.press("Remove all, and end all delays")
    assert (await ask_to_ship(browser.http, "order-1")).status_code == 201


WRONG: Final[list[tuple[str, dict[str, str], int, str]]] = [
    # action, its fields -> the HTTP status, a part of the reason
    ("break", {"scenario": "x"}, 409, "There is no scenario x. There are: stripe-down, stripe-busy,"),
    ("remove-fault", {"id": "fault_0"}, 409, "There is no fault fault_0. It may have hit."),
    ("break", {}, 422, "scenario: Field required"),
    ("break", {"scenario": "stripe-down", "times": "0"}, 422, "times: Input should be greater than or equal to 1"),
    ("break", {"scenario": "stripe-down", "times": "many"}, 422, "times: Input should be a valid integer"),
    ("break", {"scenario": "stripe-down", "ordre": "order-1"}, 422, "ordre: Extra inputs are not permitted"),
    ("fault", {"service": "email", "kind": "drop"}, 422, "service email cannot have a fault of kind drop"),
    ("fault", {"service": "nobody", "kind": "status"}, 422, "no service nobody. Services: stripe, fulfillment"),
    ("fault", {"service": "stripe", "kind": "status", "status": "9"}, 422, "status: Input should be greater"),
    ("authenticate", {"order": "order-1", "outcome": "maybe"}, 422, "outcome: Input should be 'succeed' or 'fail'"),
    ("authenticate", {"order": "order-1", "outcome": "succeed"}, 409, "No payment of order order-1 waits for 3DS."),
    ("settle", {"order": "order-1", "outcome": "succeed"}, 409, "No refund of order order-1 is pending."),
    ("settle", {"order": "order-1", "outcome": "fail"}, 409, "No refund of order order-1 is pending or done."),
    ("expire", {"order": "no-order"}, 409, "No payment of order no-order is authorized and not captured."),
    ("warn", {"order": "order-1", "kind": "dispute"}, 409, "No payment of order order-1 is captured."),
    ("end-warning", {"order": "order-1", "outcome": "fail"}, 409, "Order order-1 has no open dispute,"),
    ("ship", {"order": "order-1"}, 409, "The warehouse says of order order-1: There is no such order."),
    ("deliver", {"order": "order-1"}, 409, "The warehouse says of order order-1: There is no such order."),
    ("forget", {"order": "order-1"}, 409, "The warehouse has no order order-1."),
    ("ship", {}, 422, "order: Field required"),
]


@pytest.mark.parametrize(("action", "fields", "status", "says"), WRONG)
async def test_an_action_that_makes_no_sense_is_refused_with_the_reason(  # noqa: PLR0913, PLR0917  one column each
    sandbox: Running, browser: Browser, action: str, fields: dict[str, str], status: int, says: str
) -> None:
    """In one line of text for curl, at the top of the page for a browser."""
    await pay(browser.http, "order-1")
    line = await browser.http.post(f"/actions/{action}", data=fields)
    page = await browser.http.post(f"/actions/{action}", data=fields, headers=BROWSER)
    assert (line.status_code, page.status_code) == (status, status)
    assert says in line.text
    assert line.text.count("\n") == 1
    assert says in parse(page.text).one("p", role="alert").text
    assert sandbox.world.faults.pending() == []


async def test_what_changes_something_is_a_post_that_answers_303(browser: Browser) -> None:
    """A GET of an action is refused, so that no link and no reload acts."""
    await capture(browser.http, await pay(browser.http, "order-1"))
    await ask_to_ship(browser.http, "order-1")
    await browser.http.post("/actions/break", data={"scenario": "slack-500"})
    page = await browser.go("/")
    forms = [each for each in page.all("form") if each.attributes["action"] != "/"]
    assert len(forms) > 8
    for form in forms:
        assert form.attributes["method"] == "post"
        assert (await browser.http.get(form.attributes["action"] or "")).status_code == 405
    answers: list[Any] = [await browser.press("Ship the order"), await browser.press("Break it")]
    assert [each.status_code for each in answers] == [303, 303]


@pytest.mark.parametrize(
    "referer", ["http://evil.example/x?a=b", "//evil.example", "/actions/ship?x=y", "http://[?a=b", ""]
)
async def test_an_action_leads_back_to_the_page_only(browser: Browser, referer: str) -> None:
    """Not to another host, whatever the Referer says, and not to an action."""
    await ask_to_ship(browser.http, "order-1")
    sent = BROWSER | {"Referer": referer}
    answer = await browser.http.post("/actions/deliver", data={"order": "order-1"}, headers=sent)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/?open=order-1#order-order-1")
