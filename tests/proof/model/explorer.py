"""Breadth-first through every state that can be reached: the first violation found is one of the shortest."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.proof.model import invariants
from tests.proof.model.protocol import Protocol, is_at_rest, is_over
from tests.proof.model.state import State

LIVENESS = "every_state_can_end"


class Violation(NamedTuple):
    """`trace` names the transitions that lead there from the start."""

    invariant: str
    what: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.invariant}: {self.what}", *(f"  {n:2}. {name}" for n, name in enumerate(self.trace, 1))]
        )


@dataclass
class Exploration:
    """`edges` are the changes of the order's status that were seen."""

    states: int = 0
    transitions: int = 0
    at_rest: int = 0
    edges: set[tuple[str, str]] = field(default_factory=set)
    violation: Violation | None = None


class _Search:
    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._origin: dict[State, tuple[State, str] | None] = {protocol.start: None}
        self._before: dict[State, list[State]] = defaultdict(list)
        self._ends: list[State] = []
        self.found = Exploration()

    def run(self) -> Exploration:
        found, queue = self.found, [self._protocol.start]
        for state in queue:  # it grows while it is read
            if wrong := self._judge(state):
                found.violation = Violation(*wrong, self._trace(state))
                break
            for step in self._protocol.steps(state):
                found.transitions += 1
                after = step.after
                if state.row.status != after.row.status:
                    found.edges.add((state.row.status, after.row.status))
                for rule in invariants.ACROSS:
                    if what := rule(state, step):
                        found.violation = Violation(rule.__name__, what, (*self._trace(state), step.name))
                        found.states = len(queue)
                        return found
                if after not in self._origin:
                    self._origin[after] = (state, step.name)
                    queue.append(after)
                if after is not state:
                    self._before[after].append(state)
        else:
            found.violation = self._dead_end(queue)
        found.states = len(queue)
        return found

    def _judge(self, state: State) -> tuple[str, str] | None:
        rules = invariants.ALWAYS
        if is_at_rest(state):
            self.found.at_rest += 1
            rules += invariants.AT_REST
            if is_over(state):
                self._ends.append(state)
        return next(((rule.__name__, what) for rule in rules if (what := rule(state))), None)

    def _dead_end(self, states: list[State]) -> Violation | None:
        """Backwards from the ends: what is not reached can never end."""
        reached, frontier = set(self._ends), list(self._ends)
        while frontier:
            for state in self._before[frontier.pop()]:
                if state not in reached:
                    reached.add(state)
                    frontier.append(state)
        stuck = next((state for state in states if state not in reached), None)
        return stuck and Violation(LIVENESS, f"no end can be reached any more: {stuck}", self._trace(stuck))

    def _trace(self, state: State) -> tuple[str, ...]:
        names: list[str] = []
        while origin := self._origin[state]:
            state, name = origin
            names.append(name)
        return tuple(reversed(names))


def explore(protocol: Protocol) -> Exploration:
    """Every state, or those up to the first violation."""
    return _Search(protocol).run()
