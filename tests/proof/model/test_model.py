"""Every reachable state of one order, in every configuration; and what goes wrong without each rule."""

from collections.abc import Callable

import pytest

from tests.proof.model.explorer import explore
from tests.proof.model.protocol import Protocol
from tests.proof.model.shops import SHOPS, TEETH
from tests.proof.model.state import Rule, Shop

# Between them they have a late attempt, a terminated run, 3DS, shipping, an expiry and another payload.
TELLING = {
    "3DS, the run itself is cancelled",
    "another payload",
    "a late attempt, shipping, expiry",
    "terminated, shipping, expiry",
}


@pytest.mark.parametrize(
    "shop",
    [pytest.param(shop, id=name, marks=() if name in TELLING else pytest.mark.prove) for name, shop in SHOPS.items()],
)
def test_every_invariant_holds(shop: Shop, record_property: Callable[[str, object], None]) -> None:
    """Whatever happens in whichever order, no invariant is broken and an end can be reached."""
    found = explore(Protocol(shop))
    record_property("states", found.states)
    assert found.violation is None, f"\n{found.violation}"
    assert found.states > 1_000
    assert found.at_rest > 10


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name)
def test_every_rule_is_needed(rule: Rule) -> None:
    """Without it the explorer finds an order that goes wrong, and names the invariant."""
    tooth = TEETH[rule]
    violation = explore(Protocol(SHOPS[tooth.shop], without=frozenset({rule}))).violation
    assert violation is not None, f"nothing goes wrong when it is not so that {rule}"
    assert violation.invariant == tooth.invariant, f"\n{violation}"
    assert violation.trace
