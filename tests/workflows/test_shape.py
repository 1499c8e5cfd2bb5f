"""What a happy order may cost, whatever its size."""

import pytest

from tests.support.shop import Shop
from tests.tools.shape import measure


@pytest.mark.parametrize("items", [1, 50])
async def test_a_happy_order_stays_small(shop: Shop, items: int) -> None:
    """At most 5 sequential stages, 8 activities and 55 events: the same for one item and for fifty."""
    shape = await measure(shop, items)

    assert shape.stages <= 5
    assert shape.activities <= 8
    assert shape.events <= 55
