"""Every reachable state of one order, in every configuration; and what goes wrong without each rule."""

from collections import Counter
from collections.abc import Callable
from typing import Final

import pytest

from tests.proof.model.explorer import explore
from tests.proof.model.protocol import Protocol
from tests.proof.model.shops import SHOPS, TEETH
from tests.proof.model.state import Rule, Shop
from tests.support.sample import sampled

# The four configurations in which most rules are missed.
SAMPLE: Final = {name for name, _ in Counter(tooth.shop for tooth in TEETH.values()).most_common(4)}


@pytest.mark.parametrize("shop", sampled(SHOPS.values(), lambda shop: shop.name in SAMPLE), ids=lambda shop: shop.name)
def test_every_invariant_holds(shop: Shop, record_property: Callable[[str, object], None]) -> None:
    """Whatever happens in whichever order, no invariant is broken and an end can be reached."""
    found = explore(Protocol(shop))
    record_property("states", found.states)
    assert found.violation is None, f"\n{found.violation}"
    assert found.states > 1_000
    assert found.at_rest > 10


@pytest.mark.parametrize("rule", sampled(Rule, lambda rule: TEETH[rule].shop in SAMPLE), ids=lambda rule: rule.name)
def test_every_rule_is_needed(rule: Rule) -> None:
    """Without it the explorer finds an order that goes wrong, and names the invariant."""
    tooth = TEETH[rule]
    violation = explore(Protocol(SHOPS[tooth.shop], without=frozenset({rule}))).violation
    assert violation is not None, f"nothing goes wrong when it is not so that {rule}"
    assert violation.invariant == tooth.invariant, f"\n{violation}"
    assert violation.trace
