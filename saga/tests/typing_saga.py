"""Nothing here runs: mypy --strict proves that a wrong use of the saga is an error, and a right one is not.

An ignore that is not needed any more is an error too (`warn_unused_ignores`), so each of them is an assertion.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from saga import UNTIL_DONE, Saga, Step, StopUndo

MINUTE = timedelta(minutes=1)


@dataclass
class Guest:
    name: str


@dataclass
class Room:
    number: int


@dataclass
class Receipt:
    note: str
    is_used: bool


class Hotel:
    async def book_room(self, _guest: Guest) -> Room:
        return Room(1)

    async def cancel_room(self, _trip_id: str) -> Receipt:
        return Receipt("canceled", is_used=False)

    async def give_back(self, _room: Room) -> str:
        return "given back"

    async def ring(self, _trip_id: str) -> None: ...


def receipt(answer: Receipt) -> str | StopUndo:
    return StopUndo("the guest is there") if answer.is_used else answer.note


def room_number(room: Room) -> str:
    return str(room.number)


ROOM = Step(Hotel.book_room, Hotel.cancel_room, MINUTE, "cancel the room", receipt, skippable=False, independent=True)
NOTE_BY_DEFAULT = Step(Hotel.book_room, Hotel.ring, None, "ring the hotel up")
STEPS: tuple[Step[Any, Any, Any], ...] = (ROOM, NOTE_BY_DEFAULT)


async def right(saga: Saga) -> None:
    assert_type(ROOM, Step[Guest, Room, Receipt])
    assert_type(await saga.do(ROOM, Guest("Ada"), "a double room"), Room)
    assert_type(await saga.do(ROOM, Guest("Ada"), "a double room", MINUTE), Room)
    assert_type(await saga.run(Hotel.ring, "trip-1", UNTIL_DONE, "anybody there?"), None)


async def wrong(saga: Saga) -> None:
    # An undo takes the saga's id, never the step's result: it must work when the result was lost.
    Step(Hotel.book_room, Hotel.give_back, MINUTE, "give the room back")  # type: ignore[arg-type]
    # `read` reads what the undo answers, not what the step answers.
    Step(Hotel.book_room, Hotel.cancel_room, MINUTE, "cancel the room", room_number)  # type: ignore[misc]
    # Flags have names.
    Step(Hotel.book_room, Hotel.cancel_room, MINUTE, "cancel the room", receipt, False)  # type: ignore[call-arg]  # noqa: FBT003 (this is the point)
    # A step says how long it is tried, or says None.
    Step(Hotel.book_room, Hotel.cancel_room)  # type: ignore[call-arg]
    # A step gets its own argument.
    await saga.do(ROOM, "Ada", "a double room")  # type: ignore[misc]
    await saga.do(ROOM, Room(1), "a double room")  # type: ignore[misc]
    # A step gives its own result.
    _number: str = await saga.do(ROOM, Guest("Ada"), "a double room")  # type: ignore[arg-type]
    # An activity is no step: it has no undo.
    await saga.do(Hotel.book_room, Guest("Ada"), "a double room")  # type: ignore[arg-type]
    # An activity that is no step gets its own argument, too.
    await saga.run(Hotel.ring, 7, UNTIL_DONE, "anybody there?")  # type: ignore[arg-type]
    # A declaration does not change.
    ROOM.deadline = None  # type: ignore[misc]


class Wrong(Saga):
    # A subclass answers what the saga expects.
    async def claim(self, cause: BaseException | None) -> int:  # type: ignore[override]
        return 0 if cause else 1

    async def on_park(self, step: str, reason: str) -> None:  # type: ignore[override]
        del step, reason
