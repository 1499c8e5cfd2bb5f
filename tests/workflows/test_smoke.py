from tests.shop import Shop


async def test_order(shop: Shop) -> None:
    """An order is placed."""
    outcome = await shop.place(order_id="o1")
    print(outcome)
    print(shop.stagehand.calls)
    assert outcome.success
    print(await shop.events("o1"), await shop.stock())
    c = await shop.cancel("o1")
    print(c, await shop.events("o1"), await shop.stock())
    h = await shop.client.get_workflow_handle("o1").fetch_history()
    print(len(h.events))
