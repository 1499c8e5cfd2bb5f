"""Settings refuse what would charge real money, or leak a key, by mistake."""

import pytest
from pydantic import SecretStr, ValidationError

from orders.settings import SANDBOX, STRIPE, Settings


@pytest.mark.parametrize("key", ["sk_live_canary", "rk_live_canary"])
def test_a_live_key_is_refused_unless_it_is_meant(key: str) -> None:
    """And the key is not in the message."""
    with pytest.raises(ValidationError, match="ALLOW_LIVE_STRIPE") as refusal:
        Settings(stripe_secret_key=SecretStr(key))

    assert key not in str(refusal.value)
    assert Settings(stripe_secret_key=SecretStr(key), allow_live_stripe=True).stripe_base == STRIPE


def test_a_live_key_goes_to_stripe_only() -> None:
    """Any other address would get hold of it."""
    with pytest.raises(ValidationError, match="leak"):
        Settings(stripe_secret_key=SecretStr("sk_live_x"), allow_live_stripe=True, stripe_api_base=SANDBOX)


def test_where_stripe_is() -> None:
    """The sandbox for the sandbox's key, Stripe for any other, or what is set."""
    assert Settings().stripe_base == f"{SANDBOX}/stripe"
    assert Settings(stripe_secret_key=SecretStr("sk_test_other")).stripe_base == STRIPE
    assert Settings(stripe_api_base="http://127.0.0.1:1").stripe_base == "http://127.0.0.1:1"


def test_secrets_are_not_shown() -> None:
    """Settings may end up in a log."""
    shown = repr(Settings(fulfillment_key=SecretStr("canary"), database_url=SecretStr("postgresql://u:canary@h/d")))

    assert "canary" not in shown
    assert "sk_test_sandbox" not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_TIMEOUT_SECONDS", "7"),
        ("HTTP_TIMEOUT_SECONDS", "0"),
        ("DATABASE_POOL_SIZE", "0"),
        ("PAYMENT_CAPTURE", "later"),
        ("FULFILLMENT_DEADLINE_SECONDS", "-1"),
    ],
)
def test_a_setting_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Read from the environment, named by field."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()
