"""The sandbox's page in headless Chromium: nothing moves while one reads, and it can be read at any width and color."""

from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest

from deploy.local.process import StackError
from sandbox.server import Running
from tests.tools.chromium import Tab, browser, open_tab

try:
    browser()
except StackError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.prove

ROW: Final = "document.getElementById('order-order-1')"

# The lowest contrast between a text and its ground, by the formula of WCAG 2.
CONTRAST: Final = """
(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if ((channels(color)[3] ?? 1) === 1) return color;
    }
  };
  const found = [...document.querySelectorAll("body *")]
    .filter((each) => each.checkVisibility() && [...each.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((each) => {
      const [a, b] = [light(getComputedStyle(each).color), light(ground(each))].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    });
  return [found.length, Math.min(...found)];
})()
"""


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Tab]:
    async with open_tab() as opened:
        yield opened


@pytest.fixture
async def tab(sandbox: Running, chromium: Tab) -> AsyncIterator[Tab]:
    """A tab, and a sandbox with orders that have all there is to show."""
    async with httpx.AsyncClient(base_url=sandbox.url, trust_env=False) as http:
        http.headers["Authorization"] = "Bearer sk_test_sandbox"
        for order, card in (
            ("order-1", "pm_card_pendingRefund"),
            ("a-very-long-order-id-" + "0123456789" * 4, "pm_card_chargeDeclined"),
            ("order-3", "pm_card_threeDSecure2Required"),
        ):
            form = {"amount": "5998", "currency": "usd", "payment_method": card, "confirm": "true"}
            answer = await http.post("/stripe/v1/payment_intents", data=form | {"metadata[order_id]": order})
            if order == "order-1":
                await http.post("/stripe/v1/refunds", data={"payment_intent": answer.json()["id"]})
            email = {"to": "ada@example.com", "template": "order_confirmation", "data": {"orderNumber": order}}
            await http.post("/email/send", json=email, headers={"Idempotency-Key": "k" * 200})
            await http.post("/slack/webhook", json={"text": f"Order {order} is stuck."})
        await http.post("/actions/break", data={"scenario": "capture-saved-error", "order": "order-1"})
    await chromium.open()
    await chromium.call("Log.enable")
    await chromium.resize(1200, 700)
    yield chromium
    said = [each["params"]["entry"]["text"] for each in chromium.events if each.get("method") == "Log.entryAdded"]
    assert said == []


async def test_news_is_told_and_moves_nothing(tab: Tab, sandbox: Running) -> None:
    """A new request shows a link. When the reader follows it, the open order is still open."""
    await tab.go(sandbox.url)
    await tab.look(f"{ROW}.querySelector('summary').click(); scrollTo(0, 300)")
    place = f"[scrollY, {ROW}.getBoundingClientRect().top, document.body.scrollHeight]"
    before = await tab.look(place)
    async with httpx.AsyncClient(base_url=sandbox.url, trust_env=False) as http:
        await http.post("/analytics/events", json={"event": "new", "userId": "c", "properties": {"orderId": "order-4"}})
    shown = "new Promise((done) => setInterval(() => document.getElementById('news').hidden || done(true), 50))"
    assert await tab.look(shown)
    assert await tab.look(place) == before
    assert await tab.look("document.querySelector('.order .id strong').textContent") != "order-4"
    await tab.look("document.querySelector('#news a').click()")
    await tab.loaded()
    assert await tab.look("document.querySelector('.order .id strong').textContent") == "order-4"
    assert await tab.look(f"{ROW}.open")


async def test_the_keyboard_opens_an_order_and_presses_its_button(tab: Tab, sandbox: Running) -> None:
    """Tab and Enter do all that a mouse does, and the order is open afterwards."""
    await tab.go(f"{sandbox.url}/?order=order-3")
    await tab.look("document.querySelector('#order-order-3 form button').focus()")
    await press_enter(tab)
    await tab.loaded()
    assert sandbox.world.stripe.account.records()[2]["status"] == "succeeded"
    assert await tab.look("document.getElementById('order-order-3').open")
    await tab.look("document.querySelector('#order-order-3 summary').focus()")
    await press_enter(tab)
    assert not await tab.look("document.getElementById('order-order-3').open")


async def press_enter(tab: Tab) -> None:
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    for kind in ("keyDown", "keyUp"):
        await tab.call("Input.dispatchKeyEvent", type=kind, **key)


async def test_without_javascript_all_can_be_read_and_done(tab: Tab, sandbox: Running) -> None:
    """An order opens, and a form is sent."""
    await tab.call("Emulation.setScriptExecutionDisabled", value=True)
    await tab.go(sandbox.url)
    await tab.look("document.querySelector('#order-order-3 summary').click()")
    assert await tab.look("document.querySelector('#order-order-3 .request').checkVisibility()")
    await tab.look("document.querySelector('#order-order-3 form button').click()")
    await tab.loaded()
    assert sandbox.world.stripe.account.records()[2]["status"] == "succeeded"


@pytest.mark.parametrize("width", [360, 400, 600, 821, 1000, 1150, 1400])
async def test_nothing_is_wider_than_the_window(tab: Tab, sandbox: Running, width: int) -> None:
    """With every order and every request open, nothing has to be scrolled sideways."""
    await tab.resize(width, 900)
    await tab.go(sandbox.url)
    await tab.look("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert await tab.look("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_has_contrast(tab: Tab, sandbox: Running, scheme: str) -> None:
    """At least 4.5 to 1, in both color schemes."""
    await tab.prefer(scheme)
    await tab.go(sandbox.url)
    await tab.look("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    texts, lowest = await tab.look(CONTRAST)
    assert texts > 100
    assert lowest >= 4.5
