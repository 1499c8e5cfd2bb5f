"""Which signatures are valid: with one of the secrets, over exactly these bytes, at about this time."""

import hashlib
import hmac

import pytest
import stripe

from app.web.signatures import BadSignature, verify

BODY = b'{"id": "evt_1"}'
NOW = 1_800_000_000
NEW = "new"  # the secret that follows the old one


def signature(secret: str = NEW, body: bytes = BODY, at: object = NOW) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def signed(secret: str = NEW, body: bytes = BODY, at: object = NOW) -> str:
    return f"t={at},v1={signature(secret, body, at)}"


def check(header: str, *, secrets: tuple[str, ...] = ("new", "old"), body: bytes = BODY) -> None:
    verify(header, body, secrets, tolerance=300, now=NOW + 0.5)


@pytest.mark.parametrize(
    "header",
    [
        signed(),
        signed("old"),
        f"t={NOW},v1={'0' * 64},v1={signature()}",
        f"v1={signature()}, v0=ignored, t={NOW}",
        signed(at=NOW - 299),
        signed(at=NOW + 300),
    ],
    ids=["signed", "by the old secret", "several", "in any order", "at the old end", "at the new end"],
)
def test_believed(header: str) -> None:
    """Either secret is accepted while we rotate it, either signature while Stripe rotates its own."""
    check(header)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "malformed"),
        (f"v1={signature()}", "malformed"),
        (f"t=,v1={signature(at='')}", "malformed"),
        (f"t=-1,v1={signature(at=-1)}", "malformed"),
        (f"t=9e9,v1={signature(at='9e9')}", "malformed"),
        (f"t={'9' * 5000},v1={signature()}", "malformed"),
        (f"t={NOW},{signed()}", "malformed"),
        (f"t={NOW}", "forged"),
        (f"t={NOW},v1=", "forged"),
        (f"t={NOW},v1=\xe9", "forged"),
        (f"t={NOW},v0={signature()}", "forged"),
        (f"t={NOW},v1={signature().upper()}", "forged"),
        (signed("other"), "forged"),
        (signed(body=BODY + b" "), "forged"),
        (f"t={NOW + 1},v1={signature()}", "forged"),
        (signed(at=NOW - 301), "stale"),
        (signed(at=NOW + 302), "early"),
    ],
)
def test_refused(header: str, why: str) -> None:
    """A header that is missing, odd, forged, tampered with, too old or too far ahead is refused."""
    with pytest.raises(BadSignature, match=why):
        check(header)


def test_without_a_secret_nothing_is_believed() -> None:
    """Not even a signature with an empty secret is accepted."""
    with pytest.raises(BadSignature, match="forged"):
        check(signed(""), secrets=())


def test_stripe_means_the_same_by_it() -> None:
    """The check of Stripe's SDK accepts what ours accepts."""
    stripe.WebhookSignature.verify_header(BODY.decode(), signed(), "new")
