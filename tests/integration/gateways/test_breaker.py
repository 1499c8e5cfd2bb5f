"""The circuit breaker: when a service is left alone, and when it is called again."""

import asyncio

import pytest

from gateways import breaker
from gateways.breaker import MAX_FAILURES, Breaker
from orders.errors import OrderError, Permanent, Unavailable

OUTAGE = Unavailable("shop: HTTP 503", type="shop_unavailable")
LIMIT = Unavailable("shop: HTTP 429", type="shop_limited")
REFUSAL = Permanent("shop: HTTP 400", type="shop_refused")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    """Left alone for a minute."""
    monkeypatch.setattr(breaker, "PAUSE", 60)
    return Breaker("shop")


def call(service: Breaker, *answers: OrderError | None) -> None:
    """Calls that end like this, None: with an answer."""
    for answer in answers:
        try:
            with service.watch("shop_unavailable"):
                if answer:
                    raise answer
        except OrderError as error:
            if error is not answer:
                raise


def test_a_service_that_keeps_failing_is_left_alone(service: Breaker) -> None:
    """The error says for how long, and what the last failure was."""
    call(service, *[OUTAGE] * MAX_FAILURES)
    with pytest.raises(Unavailable, match="shop: suspended after 5 failures in a row: HTTP 503") as refused:
        call(service, None)

    assert refused.value.type == "shop_suspended"
    assert refused.value.next_retry_delay is not None
    assert 50 < refused.value.next_retry_delay.total_seconds() <= 60


@pytest.mark.parametrize("answer", [None, LIMIT, REFUSAL], ids=["success", "a limit", "a refusal"])
def test_any_answer_ends_the_count(service: Breaker, answer: OrderError | None) -> None:
    """A service that answers is not out, whatever it answers."""
    for _ in range(3):
        call(service, *[OUTAGE] * (MAX_FAILURES - 1), answer)
    call(service, None)


async def test_one_call_at_a_time_finds_out_whether_the_service_is_back(
    service: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is under way, and after it has failed, no other is made; after an answer all are."""
    monkeypatch.setattr(breaker, "PAUSE", 0.05)
    call(service, *[OUTAGE] * MAX_FAILURES)
    await asyncio.sleep(0.1)
    monkeypatch.setattr(breaker, "PAUSE", 60)
    with service.watch("shop_unavailable"), pytest.raises(Unavailable, match="suspended"):
        call(service, None)
    call(service, None, OUTAGE, None)

    monkeypatch.setattr(breaker, "PAUSE", 0.05)
    call(service, *[OUTAGE] * MAX_FAILURES)
    await asyncio.sleep(0.1)
    monkeypatch.setattr(breaker, "PAUSE", 60)
    call(service, OUTAGE)
    with pytest.raises(Unavailable, match="suspended"):
        call(service, None)
