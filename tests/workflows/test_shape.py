"""What a happy order may cost, whatever its size."""

import pytest

from tests.support.shop import Shop
from tests.tools.shape import measure


@pytest.mark.parametrize("items", [1, 50])
async def test_a_happy_order_stays_small(shop: Shop, items: int) -> None:
    """The answer waits for 5 stages, the notifications are a sixth: the same for one item and for fifty.

    There are 47 events if the two notifications end in the same workflow task.
    """
    shape = await measure(shop, items)

    assert (shape.stages_to_answer, shape.stages, shape.activities, shape.upserts) == (5, 6, 7, 1)
    assert shape.events in {47, 50}
