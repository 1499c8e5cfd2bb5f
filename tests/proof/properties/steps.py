"""The scripts that Hypothesis draws: what happens to two orders that want the same few units."""

from typing import Final, NamedTuple

from hypothesis import strategies as st

ORDERS: Final = 2
MAX_PAUSES: Final = 5  # transactions and requests of one attempt

# What happens, and how often. A run makes one attempt of its next activity: it is done; its answer is lost; the
# answers of the external services to it are lost; or it is suspended before a transaction or request, which the run
# takes for a time-out: the run retries, or gives the step up ("abandoned"). Or the run gives the step up before the
# attempt. A step that is given up before the pivot is undone. A suspended attempt is resumed as a late attempt.
# process-order is terminated, or started again; the customer cancels, or authenticates; the warehouse ships.
ATTEMPTS: Final = {"done": 6, "lost": 2, "cut_off": 2, "suspended": 3, "abandoned": 4, "given_up": 1}
EVENTS: Final = {"resume": 3, "terminate": 2, "start": 2, "cancel": 1, "ship": 2, "authenticate": 3}


class Step(NamedTuple):
    """`what` happens to the order, or with `cancels` to its run of cancel-order; `pause` is where it is suspended."""

    what: str
    order: int
    cancels: bool
    pause: int


class Script(NamedTuple):
    """There are `units` in stock; each order wants `wants` of them, and has made `begun` attempts undisturbed.

    If `cancelled` is not 0 the customer cancels, and cancel-order makes so many attempts less one. An order that ships
    at once (`ships`) is shipped as soon as the warehouse has accepted it.
    """

    units: int
    wants: tuple[int, ...]
    cards: tuple[str, ...]
    begun: tuple[int, ...]
    cancelled: tuple[int, ...]
    ships: tuple[bool, ...]
    steps: tuple[Step, ...]


_steps = st.builds(
    Step,
    st.sampled_from([what for what, weight in (ATTEMPTS | EVENTS).items() for _ in range(weight)]),
    st.integers(0, ORDERS - 1),
    st.sampled_from([False, False, True]),
    st.integers(1, MAX_PAUSES),
)
_cards = st.sampled_from(["pm_card_visa"] * 3 + ["pm_card_threeDSecure2Required"] * 2 + ["pm_card_chargeDeclined"])

scripts = st.builds(
    Script,
    st.integers(1, 4),
    st.tuples(*[st.integers(1, 2)] * ORDERS),
    st.tuples(*[_cards] * ORDERS),
    st.tuples(*[st.sampled_from([0, 1, 2, 3, 3, 4, 5, 5])] * ORDERS),
    st.tuples(*[st.sampled_from([0, 0, 0, 1, 2, 3, 3])] * ORDERS),
    st.tuples(*[st.booleans()] * ORDERS),
    st.lists(_steps, min_size=6, max_size=16).map(tuple),
)
