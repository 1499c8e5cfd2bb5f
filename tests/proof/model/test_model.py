"""Every reachable state of one order, in every configuration; and what goes wrong without each rule."""

from collections import Counter
from collections.abc import Callable
from typing import Final

import pytest

from tests.proof.model.configurations import CONFIGURATIONS, DETECTIONS
from tests.proof.model.explorer import explore
from tests.proof.model.protocol import Protocol
from tests.proof.model.state import Configuration, Rule
from tests.support.sample import sampled

# The configuration in which most rules are missed.
SAMPLE: Final = {name for name, _ in Counter(each.configuration for each in DETECTIONS.values()).most_common(1)}


@pytest.mark.parametrize(
    "configuration", sampled(CONFIGURATIONS.values(), lambda each: each.name in SAMPLE), ids=lambda each: each.name
)
def test_every_invariant_holds(configuration: Configuration, record_property: Callable[[str, object], None]) -> None:
    """No order of events breaks an invariant, and an end can always be reached."""
    found = explore(Protocol(configuration))
    record_property("states", found.states)
    assert found.violation is None, f"\n{found.violation}"
    assert found.states > 200
    assert found.at_rest > 10


@pytest.mark.parametrize(
    "rule", sampled(Rule, lambda rule: DETECTIONS[rule].configuration in SAMPLE), ids=lambda rule: rule.name
)
def test_every_rule_is_needed(rule: Rule) -> None:
    """Without it the explorer finds an order that goes wrong, and names the invariant."""
    detection = DETECTIONS[rule]
    violation = explore(Protocol(CONFIGURATIONS[detection.configuration], without=frozenset({rule}))).violation
    assert violation is not None, f"no invariant needs the rule that {rule}"
    assert violation.invariant == detection.invariant, f"\n{violation}"
    assert violation.trace
