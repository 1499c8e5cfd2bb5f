"""A travel agency's activities, and the steps of a trip: each activity is declared beside what undoes it."""

import asyncio
from datetime import timedelta
from typing import Final

from pydantic import BaseModel
from temporalio import activity

from saga import Step


class Trip(BaseModel):
    id: str
    city: str


class Agency:
    """It keeps its bookings in memory; yours are rows, with the trip's id as their key. So a retry changes nothing."""

    def __init__(self) -> None:
        self.bookings: set[tuple[str, str]] = set()

    @activity.defn
    async def book_flight(self, trip: Trip) -> str:
        return self._book(trip.id, "flight")

    @activity.defn
    async def book_hotel(self, trip: Trip) -> str | None:
        return self._book(trip.id, "hotel") if trip.city != "Atlantis" else None  # it has no rooms

    @activity.defn
    async def book_car(self, trip: Trip) -> str:
        return self._book(trip.id, "car")

    @activity.defn
    async def cancel_flight(self, trip_id: str) -> str:
        await asyncio.sleep(2)  # airlines take their time
        return self._cancel(trip_id, "flight")

    @activity.defn
    async def cancel_hotel(self, trip_id: str) -> str:
        return self._cancel(trip_id, "hotel")

    @activity.defn
    async def cancel_car(self, trip_id: str) -> str:
        return self._cancel(trip_id, "car")

    def _book(self, trip_id: str, what: str) -> str:
        self.bookings.add((trip_id, what))
        return f"{what} booked"

    def _cancel(self, trip_id: str, what: str) -> str:
        existed = (trip_id, what) in self.bookings
        self.bookings.discard((trip_id, what))
        return f"the {what} is canceled" if existed else f"there was no {what}"


MINUTE: Final = timedelta(minutes=1)

FLIGHT: Final = Step(Agency.book_flight, Agency.cancel_flight, MINUTE, "cancel the flight")
CAR: Final = Step(Agency.book_car, Agency.cancel_car, MINUTE, "give the car back", independent=True)
HOTEL: Final = Step(Agency.book_hotel, Agency.cancel_hotel, MINUTE, "cancel the hotel")
STEPS: Final = (FLIGHT, CAR, HOTEL)
