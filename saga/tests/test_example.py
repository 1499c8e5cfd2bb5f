"""The three commands of examples/trip_saga, on the test server."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from temporalio.testing import WorkflowEnvironment

from examples.trip_saga import starter
from examples.trip_saga.activities import Agency
from examples.trip_saga.worker import worker
from examples.trip_saga.workflow import TripOutcome

REFUSED = "no hotel in Atlantis has a room"
UNDONE = [
    "cancel_car: the car is canceled",
    "cancel_hotel: there was no hotel",
    "cancel_flight: the flight is canceled",
]


@dataclass
class Office:
    """The example's worker, on a task queue of its own."""

    env: WorkflowEnvironment
    agency: Agency = field(default_factory=Agency)
    task_queue: str = field(default_factory=lambda: f"example-{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def office(environment: WorkflowEnvironment) -> AsyncIterator[Office]:
    office = Office(environment)
    async with worker(environment.client, office.agency, office.task_queue):
        yield office


async def test_success(office: Office) -> None:
    """Everything is booked, and nothing undone."""
    outcome = await starter.success(office.env.client, office.task_queue)
    assert outcome == TripOutcome(booked=True, note="to Oslo")
    assert {what for _, what in office.agency.bookings} == {"flight", "car", "hotel"}


async def test_failure(office: Office) -> None:
    """The run completes, and nothing is left booked."""
    outcome = await starter.failure(office.env.client, office.task_queue)
    assert (outcome.booked, outcome.note) == (False, REFUSED)
    assert sorted(outcome.undone) == sorted(UNDONE)
    assert outcome.undone[-1] == UNDONE[-1]
    assert office.agency.bookings == set()


@pytest.mark.prove
async def test_cancel_during_the_undo(office: Office) -> None:
    """The undo goes on to its end."""
    outcome = await starter.cancel(office.env.client, office.task_queue)
    assert (outcome.booked, outcome.note) == (False, REFUSED)
    assert sorted(outcome.undone) == sorted(UNDONE)
    assert office.agency.bookings == set()


@pytest.mark.prove
async def test_a_customer_calls_a_trip_off(environment: WorkflowEnvironment) -> None:
    """The run completes, and nothing is left booked."""
    office = Office(environment)
    handle = await starter.start(environment.client, "Oslo", office.task_queue)
    await handle.signal("call_off")  # before a worker runs
    async with worker(environment.client, office.agency, office.task_queue):
        outcome = await handle.result()
    assert (outcome.booked, outcome.note) == (False, "the customer called it off")
    assert len(outcome.undone) == 3
    assert office.agency.bookings == set()
