"""Requests that arrive during a transaction are decided in the next one; each gets its own answer."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random

import pytest

from gateways.group_commit import MAX_SIZE, GroupCommit
from gateways.postgres import OUTAGE, REFUSED
from orders.errors import Unavailable

POISON = -1


class Clerk:
    """Decides numbers: each answer is the number as text. A transaction with POISON in it fails."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.error: Exception = Unavailable("a constraint", type=REFUSED)
        self.later: set[int] = set()  # answered alone, in a transaction that leaves the others for the next one
        self.at_end: Callable[[], object] = bool
        self.commit = GroupCommit(self.decide, size=abs)

    async def decide(self, batch: Sequence[int]) -> Sequence[str | Exception | None]:
        self.batches.append([*batch])
        await asyncio.sleep(0)
        await self.goes_on.wait()
        self.at_end()
        if POISON in batch:
            raise self.error
        if late := self.later.intersection(batch):
            self.later -= late
            return [KeyError(number) if number in late else None for number in batch]
        return [str(number) for number in batch]

    async def ask(self, *numbers: int) -> list[str | BaseException]:
        return await asyncio.gather(*(self.commit.ask(number) for number in numbers), return_exceptions=True)

    def hold(self, *numbers: int) -> "list[asyncio.Task[str]]":
        """They ask while the first of them is being decided."""
        self.goes_on.clear()
        return [asyncio.create_task(self.commit.ask(number)) for number in numbers]


async def test_one_who_asks_alone_does_not_wait() -> None:
    """No timer, no task: the transaction begins before the caller has let go of the event loop."""
    clerk = Clerk()
    clerk.goes_on.clear()
    asking = clerk.commit.ask(1)
    asking.send(None)
    assert clerk.batches == [[1]]
    asking.close()


async def test_what_arrives_meanwhile_is_decided_together() -> None:
    """In the order in which it arrived."""
    clerk = Clerk()
    assert await clerk.ask(3, 1, 2, 1) == ["3", "1", "2", "1"]
    assert clerk.batches == [[3], [1, 2, 1]]


async def test_a_batch_is_bounded() -> None:
    """It ends before it is too large; one that is larger by itself is a batch of its own."""
    clerk, half = Clerk(), MAX_SIZE // 2
    await clerk.ask(1, half, half, half, MAX_SIZE + 1, 2)
    assert clerk.batches == [[1], [half, half], [half], [MAX_SIZE + 1], [2]]


@pytest.mark.parametrize(
    "error", [Unavailable("a constraint", type=REFUSED), KeyError("a bug")], ids=["refused", "bug"]
)
async def test_what_makes_a_transaction_fail_fails_alone(error: Exception) -> None:
    """The batch is decided again by halves; the error is that of its own transaction."""
    clerk = Clerk()
    clerk.error = error
    *others, last = await clerk.ask(1, 2, 3, 4, POISON)
    assert (others, last) == (["1", "2", "3", "4"], error)
    assert clerk.batches[1:] == [[2, 3, 4, POISON], [2, 3], [4, POISON], [4], [POISON]]


async def test_in_an_outage_nobody_is_tried_alone() -> None:
    """Each caller has an error of its own, and the database is not asked once for each of them."""
    clerk = Clerk()
    clerk.error = Unavailable("no connection", type=OUTAGE)
    _, *errors = await clerk.ask(1, 2, POISON)
    assert [getattr(error, "type", "") for error in errors] == [OUTAGE, OUTAGE]
    assert errors[0] is not errors[1]
    assert clerk.batches == [[1], [2, POISON]]


async def test_what_is_left_undecided_is_decided_without_the_others() -> None:
    """In the same turn, before what has arrived since."""
    clerk = Clerk()
    clerk.later = {3}
    answers = await clerk.ask(1, 2, 3, 4)
    assert isinstance(answers.pop(2), KeyError)
    assert answers == ["1", "2", "4"]
    assert clerk.batches == [[1], [2, 3, 4], [2, 4]]


@pytest.mark.parametrize("number", range(4), ids=["who decides", "the next to decide", "in the middle", "the last"])
async def test_a_caller_who_is_canceled_leaves_the_others(number: int) -> None:
    """Also the one whose transaction it is: another caller decides again."""
    clerk = Clerk()
    asking = clerk.hold(1, 2, 3, 4)
    await asyncio.sleep(0)
    asking[number].cancel()
    await asyncio.sleep(0)
    clerk.goes_on.set()
    ends = await asyncio.gather(*asking, return_exceptions=True)
    canceled = ends.pop(number)
    assert isinstance(canceled, asyncio.CancelledError)
    assert ends == [str(each) for each in (1, 2, 3, 4) if each != number + 1]
    assert await clerk.ask(5) == ["5"]


async def test_a_caller_who_is_canceled_in_the_moment_of_its_turn_passes_it_on() -> None:
    """It is called before it has noticed its cancel."""
    clerk = Clerk()
    asking = clerk.hold(1, 2, 3)
    await asyncio.sleep(0)
    clerk.at_end = asking[1].cancel
    clerk.goes_on.set()
    assert (await asking[0], await asking[2]) == ("1", "3")
    assert clerk.batches == [[1], [3]]


async def test_when_all_are_canceled_nothing_is_left() -> None:
    """No task of ours outlives its callers, so nothing needs to be closed when a worker stops."""
    clerk, before = Clerk(), asyncio.all_tasks()
    asking = clerk.hold(1, 2, 3)
    await asyncio.sleep(0)
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)
    assert asyncio.all_tasks() == before
    clerk.goes_on.set()
    assert await clerk.ask(4) == ["4"]


@pytest.mark.parametrize("seed", range(50))
async def test_nobody_waits_for_ever(seed: int) -> None:
    """Whoever comes, is canceled, is refused or makes a transaction fail, in whatever order."""
    random = Random(seed)  # noqa: S311  (the same seed must draw the same callers)
    clerk = Clerk()
    numbers = [random.choice((POISON, *range(1, 100))) for _ in range(60)]
    clerk.later = {number for number in numbers if random.random() < 0.1}
    asking = []
    for number in numbers:
        asking.append(asyncio.create_task(clerk.commit.ask(number)))
        for _ in range(random.randint(0, 2)):
            await asyncio.sleep(0)
        if random.random() < 0.3:
            random.choice(asking).cancel()
    async with asyncio.timeout(10):
        ends = await asyncio.gather(*asking, return_exceptions=True)

    for number, end in zip(numbers, ends, strict=True):
        errors = Unavailable if number == POISON else KeyError
        assert end == str(number) or isinstance(end, (asyncio.CancelledError, errors))
    assert await clerk.ask(1) == ["1"]
