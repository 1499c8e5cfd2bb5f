"""What is kept of the errors of external services."""

from typing import Any

import httpx
import pytest

from gateways.quotes import MAX_MESSAGE, explain, quote, with_message


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("This charge was disputed.", "This charge was disputed."),
        ("Two\nlines \x1b[2J \u202e of it", "Two lines [2J of it"),
        ("Invalid API Key provided: sk_test_********canary", "Invalid API Key provided: …"),
        ("signed with whsec_abc and rk_live_abc", "signed with … and …"),
        ("pi_1_secret_abc is used up", "… is used up"),
        ("write to customer@example.com now", "write to … now"),
        ("Invalid API key: sandbox-fulfillment-key-9f3a", "Invalid API key: …"),
        ("no such hook https://hooks.slack.com/services/T0/B0/abcdef", "no such hook …"),
        ("Authorization: Basic dXNlcjpwdw== is wrong", "Authorization: … is wrong"),
        ("expired: eyJhbGciOi.eyJzdWIi.c2ln", "expired: …"),
        ("unknown: jane%40example.com", "unknown: …"),
        ("call +1 555 010 9999, ZIP 62704", "call …, ZIP …"),
        ("No such payment_intent: pi_3Nabc12345678901234567", "No such payment_intent: pi_3Nabc12345678901234567"),
        ("Refund amount 5998 is greater than 100.00 usd", "Refund amount 5998 is greater than 100.00 usd"),
        ("the card 4242 4242 4242 4242 was declined", ""),
        (None, ""),
    ],
)
def test_a_message_in_one_line(message: str | None, kept: str) -> None:
    """Without keys, addresses and whatever controls a terminal; nothing of a message that holds a card number."""
    assert quote(message) == kept


def test_a_long_message_is_cut() -> None:
    """It is kept in rows and in alerts."""
    assert len(quote("word " * 100)) <= MAX_MESSAGE


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({"error": {"code": "gate_closed", "message": "Come back at noon."}}, "gate_closed: Come back at noon."),
        ({"code": 17, "message": "no such template"}, "no such template"),
        ({"error": "unknown template"}, "unknown template"),
        ({"error": {"code": "customer@example.com"}}, ""),
        ({"detail": "something else"}, ""),
        ([1], ""),
        ("<html>a page</html>", ""),
    ],
)
def test_the_usual_forms_of_an_error(body: Any, kept: str) -> None:
    """An answer of another form is not quoted: it may hold anything."""
    response = httpx.Response(422, text=body) if isinstance(body, str) else httpx.Response(422, json=body)
    assert explain(response) == kept


def test_a_code_without_a_message() -> None:
    """It stands alone, and once."""
    assert [with_message("gone", said) for said in (None, "gone", "it left")] == ["gone", "gone", "gone: it left"]
