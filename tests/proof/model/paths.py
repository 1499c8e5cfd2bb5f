"""Paths through the model, so chosen that together they take every kind of step."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from tests.proof.model.activities import Do
from tests.proof.model.protocol import Act, Protocol, Step
from tests.proof.model.state import Refund, State

UNREAL: Final = {"read_run", "claim_unreserved"}  # they ask Temporal, of which these paths have none


Kind = tuple[object, ...]


class Taken(NamedTuple):
    """A step of a path, and the state in which it is taken; `do` is the statement or call that it executes, if any."""

    before: State
    step: Step
    do: str = ""

    @property
    def kind(self) -> Kind | None:
        """What is done and answered in which status of the order; None: nothing real is done."""
        step, before, after = self.step, self.before, self.step.after
        if step.act:
            attempt = step.act.attempt
            do, seen = self.do.split(":")[0], _rough(attempt.seen[-1])
            return (attempt.activity, do, seen, before.row.status) if do else None
        moves = (before.row, before.world) != (after.row, after.world)
        return (step.name, before.row.status) if moves or step.resolution else None


Path = tuple[Taken, ...]


def _rough(seen: object) -> object:
    """An answer without the numbers of refunds: which of them there are is what decides."""
    if isinstance(seen, tuple) and seen and all(isinstance(each, Refund) for each in seen):
        return frozenset((each.of, each.status) for each in seen)
    return seen


def choose_paths(protocols: Iterable[Protocol]) -> list[tuple[Protocol, Path]]:
    """Shortest paths from the start: each kind of step that the real activities can take is on one of them."""
    covered: set[Kind | None] = {None}
    chosen: list[tuple[Protocol, Path]] = []
    for protocol in protocols:
        origin, kinds = _explore(protocol)
        for taken in reversed(kinds.values()):  # the longest paths first: they cover most
            if taken.kind not in covered:
                path = _path_to(origin, taken)
                covered |= {each.kind for each in path}
                chosen.append((protocol, path))
    return chosen


def _explore(protocol: Protocol) -> tuple[dict[State, Taken | None], dict[Kind | None, Taken]]:
    """How each state is first reached, and each kind of step first taken."""
    origin: dict[State, Taken | None] = {protocol.start: None}
    kinds: dict[Kind | None, Taken] = {}
    queue = [protocol.start]
    for state in queue:  # it grows while it is read
        for step in protocol.steps(state):
            taken = Taken(state, step, _do_of(protocol, step.act))
            if not is_real(taken):
                continue
            kinds.setdefault(taken.kind, taken)
            if step.after not in origin:
                origin[step.after] = taken
                queue.append(step.after)
    return origin, kinds


def is_real(taken: Taken) -> bool:
    """Whether the real services can be made to answer so. Stripe's sandbox repeats no confirm after a void."""
    act, before, after = taken.step.act, taken.before, taken.step.after
    if act and act.attempt.activity in UNREAL:
        return before.row == after.row
    if act is None or not taken.do.startswith("confirm"):
        return True
    return before.world.intents[int(taken.do[-1]) - 1] != "canceled" or act.attempt.seen[-1] == "canceled"


def _do_of(protocol: Protocol, act: Act | None) -> str:
    if act is None or act.attempt.activity in UNREAL:
        return ""
    do = protocol.advance(act.attempt._replace(seen=act.attempt.seen[:-1]))
    assert isinstance(do, Do)
    return do.name


def _path_to(origin: dict[State, Taken | None], last: Taken) -> Path:
    path = [last]
    while taken := origin[path[-1].before]:
        path.append(taken)
    return tuple(reversed(path))
