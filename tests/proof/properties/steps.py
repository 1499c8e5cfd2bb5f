"""What can happen to two orders that want the same few units, as Hypothesis draws it."""

from typing import Final, NamedTuple

from hypothesis import strategies as st

ORDERS: Final = 2
MAX_SEAMS: Final = 5  # transactions and requests of one attempt

# What happens, and how often. A run makes one attempt of what comes next for it: it is done; or it is done, and its
# answer is lost; or the external services do what it asks and it never hears of it; or it falls asleep before
# one of its transactions or requests, which its run takes for a time-out: it tries again, or has the step abandoned; or
# the run gives up before it. What is given up before the pivot is undone. A sleeper wakes, and nobody waits for it.
# process-order is terminated, or started again; the customer cancels, authenticates the payment, or sends a unit back.
# At the warehouse a unit leaves, all the rest does, or a unit falls short. One of the events that it has sent arrives,
# maybe again, or its delivery falls asleep, or the runs that it is to start are lost; or reconcile-orders asks the
# warehouse.
ATTEMPTS: Final = {"done": 8, "lost": 2, "cut_off": 4, "asleep": 4, "abandoned": 7, "given_up": 3}
EVENTS: Final = {"wake": 3, "terminate": 2, "start": 2, "cancel": 1, "authenticate": 3, "refund": 3}
GOODS: Final = {"ship": 3, "ship_rest": 2, "fall_short": 3}
WAREHOUSE: Final = GOODS | {"told": 4, "told_asleep": 2, "start_lost": 4, "reconcile": 2}


class Step(NamedTuple):
    """`what` happens to the order; if it `cancels`, rather to its run that began last; `seam` is where one sleeps.

    Of the warehouse's events the one with that number arrives; if it `cancels`, reconcile-orders falls asleep.
    """

    what: str
    order: int
    cancels: bool
    seam: int


class Script(NamedTuple):
    """`units` are available; each order wants `wants` of them for what it `costs`.

    It has made `begun` attempts undisturbed. Then the customers of `regretted` orders cancel, whose runs have made so
    many attempts less one; 0: they do not. The goods of `prompt` orders leave as soon as they may. Of orders that are
    paid by then a unit comes back, whose refund-order has made `returns` attempts less one; 0: none comes back. Of
    those with `shortages` a unit falls short; above 1 its event has arrived, and its refund-order has made the rest of
    the attempts. The events of `told` orders have arrived too. A warehouse that `hides` its parcels tells of them by
    events only.
    """

    units: int
    wants: tuple[int, ...]
    costs: tuple[str, ...]
    cards: tuple[str, ...]
    begun: tuple[int, ...]
    regretted: tuple[int, ...]
    prompt: tuple[bool, ...]
    returns: tuple[int, ...]
    shortages: tuple[int, ...]
    told: tuple[bool, ...]
    hides: bool
    steps: tuple[Step, ...]


_steps = st.builds(
    Step,
    st.sampled_from([what for what, weight in (ATTEMPTS | EVENTS | WAREHOUSE).items() for _ in range(weight)]),
    st.integers(0, ORDERS - 1),
    st.sampled_from([False, False, True]),
    st.integers(1, MAX_SEAMS),
)
_cards = st.sampled_from(["pm_card_visa"] * 4 + ["pm_card_threeDSecure2Required"] * 2 + ["pm_card_chargeDeclined"])

scripts = st.builds(
    Script,
    st.integers(1, 5),
    st.tuples(*[st.sampled_from([1, 2, 2, 3])] * ORDERS),
    st.tuples(*[st.sampled_from(["the price"] * 4 + ["with charges"] * 2 + ["nothing"])] * ORDERS),
    st.tuples(*[_cards] * ORDERS),
    st.tuples(*[st.sampled_from([0, 1, 2, 3, 3, 4, 5, 5, 5, 5, 5])] * ORDERS),
    st.tuples(*[st.sampled_from([0, 0, 0, 1, 2, 3, 3])] * ORDERS),
    st.tuples(*[st.booleans()] * ORDERS),
    st.tuples(*[st.sampled_from([0, 0, 1, 2, 3])] * ORDERS),
    st.tuples(*[st.sampled_from([0, 1, 2, 2, 3, 4])] * ORDERS),
    st.tuples(*[st.sampled_from([False, False, True])] * ORDERS),
    st.sampled_from([False, False, True]),
    st.lists(_steps, min_size=8, max_size=18).map(tuple),
)
