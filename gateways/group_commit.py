"""Group commit: requests that arrive while one transaction is under way are decided together in the next one.

There is no task and no timer. Whoever asks while nothing is under way decides at once, alone; whoever asks meanwhile
waits, and the first of them decides for all. So there is nothing to start and nothing to drain: every transaction
belongs to somebody who waits for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from gateways.postgres import OUTAGE
from orders.errors import Unavailable

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

MAX_SIZE: Final = 256  # of one batch: it holds its locks for some 20 ms


class _Waiter(Generic[RequestT, AnswerT]):
    """One who asks. `called` is set when its answer is there, or when it is its turn to decide."""

    def __init__(self, request: RequestT) -> None:
        self.request = request
        self.called = asyncio.Event()
        self.answers: list[AnswerT | Exception] = []  # one, as soon as it is decided


class GroupCommit(Generic[RequestT, AnswerT]):
    """Decides requests in batches, in the order in which they arrived, one batch at a time."""

    def __init__(
        self,
        decide: Callable[[Sequence[RequestT]], Awaitable[Sequence[AnswerT | Exception | None]]],
        size: Callable[[RequestT], int],
    ) -> None:
        """`decide` answers the requests of a batch in one transaction, which must be harmless to repeat.

        It may answer some of them only; it gets those whose answer is None again, without the others.
        A batch ends before the sum of its sizes exceeds MAX_SIZE; a larger request is a batch of its own.
        """
        self._decide = decide
        self._size = size
        self._waiting: list[_Waiter[RequestT, AnswerT]] = []
        self._deciding: _Waiter[RequestT, AnswerT] | None = None

    async def ask(self, request: RequestT) -> AnswerT:
        """The answer to one request. If its caller is canceled, the others get their answers all the same.

        Raises:
            Unavailable, or whatever else `decide` raises for this request, or for all of them.
        """
        mine = _Waiter[RequestT, AnswerT](request)
        self._waiting.append(mine)
        self._deciding = self._deciding or mine
        try:
            if self._deciding is not mine:
                await mine.called.wait()
            if self._deciding is mine:
                await self._decide_next()
        finally:
            self._leave(mine)
        (answer,) = mine.answers
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _leave(self, mine: _Waiter[RequestT, AnswerT]) -> None:
        if mine in self._waiting:
            self._waiting.remove(mine)
        if self._deciding is mine:
            self._deciding = next(iter(self._waiting), None)
            if self._deciding:
                self._deciding.called.set()

    async def _decide_next(self) -> None:
        batch = self._next_batch()
        answers = await self._isolate([each.request for each in batch])
        for each, answer in zip(batch, answers, strict=True):
            each.answers.append(answer)
            each.called.set()
        self._waiting = [each for each in self._waiting if not each.answers]

    def _next_batch(self) -> list[_Waiter[RequestT, AnswerT]]:
        """From the one who decides, which is the first, as many as may be in one batch."""
        size = 0
        for number, each in enumerate(self._waiting):
            size += self._size(each.request)
            if number and size > MAX_SIZE:
                return self._waiting[:number]
        return [*self._waiting]

    async def _isolate(self, requests: Sequence[RequestT]) -> Sequence[AnswerT | Exception]:
        """Decide the requests; halves of them, if the transaction fails because of one of them."""
        try:
            answers = await self._decide(requests)
        except Exception as error:  # noqa: BLE001 (whichever it is, it is the answer to one of them)
            if len(requests) == 1:
                return [error]
            if isinstance(error, Unavailable) and error.type == OUTAGE:
                return [Unavailable(error.message, type=OUTAGE) for _ in requests]
        else:
            rest = [request for request, answer in zip(requests, answers, strict=True) if answer is None]
            late = iter(await self._isolate(rest) if rest else ())
            return [next(late) if answer is None else answer for answer in answers]
        middle = len(requests) // 2
        return [*await self._isolate(requests[:middle]), *await self._isolate(requests[middle:])]
