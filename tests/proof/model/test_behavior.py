"""The real activities do what the model says, on its own paths: after each statement both are in the same state."""

from collections.abc import Sequence
from typing import Final

import pytest

from deploy.local.postgres import Postgres
from tests.proof.model.configurations import CONFIGURATIONS
from tests.proof.model.driver import Driver, open_stoppable_bench
from tests.proof.model.paths import choose_paths
from tests.proof.model.protocol import Protocol
from tests.proof.model.state import Configuration

SAMPLE: Final = "3DS, the run itself is cancelled"

# Whether it captures at once, whether its warehouse remembers cancels, whether it waits for another card, whether parts
# are refunded, and whether they come back. The configurations of a shop share paths.
Kind = tuple[bool, bool, bool, bool, bool]
SHOPS: Final[tuple[Kind, ...]] = (
    (False, True, False, False, True),
    (True, True, False, False, True),
    (False, False, False, False, True),
    (False, True, True, False, True),
    (True, True, True, False, True),
    (False, True, False, True, True),
    (False, True, False, True, False),
)


def test_the_code_goes_paths_of_every_configuration() -> None:
    assert set(SHOPS) == set(map(kind_of, CONFIGURATIONS.values()))


def kind_of(each: Configuration) -> Kind:
    return each.automatic, each.remembers_cancels, bool(each.left.cards), bool(each.refunds), each.restocks


def configurations_of(shop: Kind) -> list[Configuration]:
    return [each for each in CONFIGURATIONS.values() if kind_of(each) == shop]


@pytest.mark.prove
@pytest.mark.timeout(120)
async def test_the_code_goes_the_paths_of_one_configuration(postgres: Postgres) -> None:
    """Each kind of step of this configuration is on one of its paths: for the seeded bugs, which need a short proof."""
    await go_the_paths(postgres, [CONFIGURATIONS[SAMPLE]])


@pytest.mark.prove
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("shop", SHOPS)
async def test_the_code_goes_the_paths_of_the_model(postgres: Postgres, shop: Kind) -> None:
    """Each kind of step of the model is on one of the paths."""
    await go_the_paths(postgres, configurations_of(shop))


async def go_the_paths(postgres: Postgres, configurations: Sequence[Configuration]) -> None:
    paths = choose_paths(map(Protocol, configurations))
    assert len(paths) > 20
    async with open_stoppable_bench(postgres, configurations[0]) as bench:
        for number, (protocol, path) in enumerate(paths):
            await Driver(bench, protocol, number).drive(path)
