"""A trip: flight, car and hotel, or none of them."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

    from examples.trip_saga.activities import CAR, FLIGHT, HOTEL, STEPS, Trip
    from saga import Rejected, Saga


class TripOutcome(BaseModel):
    booked: bool
    note: str
    undone: list[str] = []


@workflow.defn(name="book-trip")
class BookTrip:
    """Its workflow id is the trip's id."""

    @workflow.init
    def __init__(self, trip: Trip) -> None:
        self._saga = Saga(STEPS, trip.id)

    @workflow.run
    async def run(self, trip: Trip) -> TripOutcome:
        """Book the trip. A refusal is a completed run with nothing left booked.

        Raises:
            ActivityError: a step failed for good or ran out of time; everything is undone.
            CancelledError: Temporal canceled the run; everything is undone.
        """
        try:
            async with self._saga as saga:
                await saga.do(FLIGHT, trip, f"to {trip.city}")
                await saga.do(CAR, trip, f"in {trip.city}")
                if await saga.do(HOTEL, trip, f"in {trip.city}") is None:
                    raise Rejected("no_rooms", f"no hotel in {trip.city} has a room")
                saga.commit()  # from here on nothing is undone
        except Rejected as refusal:
            return TripOutcome(booked=False, note=refusal.text, undone=self._saga.undone)
        except asyncio.CancelledError:
            if not self._saga.cancelled:
                raise
            return TripOutcome(booked=False, note="the customer called it off", undone=self._saga.undone)
        return TripOutcome(booked=True, note=f"to {trip.city}")

    @workflow.query
    def undone(self) -> list[str]:
        return self._saga.undone

    @workflow.signal
    def call_off(self) -> None:
        """Cancel on behalf of the customer: the step in flight ends, and everything is undone."""
        self._saga.cancel()
