"""What doctor says of settings that are valid, each for itself; of the way to PostgreSQL; and of clocks."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload

from app.doctor.clocks import agree
from app.doctor.payloads import check_keys
from app.doctor.postgres import check_tls
from app.doctor.settings import check_form_of_secret, check_key, check_own_values
from app.startup_checks import CannotAsk, CannotStart, check_public_secrets
from config.sealing import Seal
from config.settings import Settings

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def settings(**changes: Any) -> Settings:
    secrets = {name: SecretStr(value) if "secret" in name else value for name, value in changes.items()}
    return Settings.model_validate({**secrets, "allow_live_stripe": True})


async def test_a_live_key_beside_the_local_stacks_values() -> None:
    """Each setting is named; a test key may stand beside them."""
    with pytest.raises(CannotStart) as refusal:
        await check_own_values(settings(stripe_secret_key="sk_live_1", fulfillment_api="https://w.example.com"))
    assert str(refusal.value).endswith(
        "EMAIL_SERVICE_URL, ANALYTICS_URL, SLACK_WEBHOOK, FULFILLMENT_KEY, TEMPORAL_UI_URL"
    )
    assert "FULFILLMENT_API" in await check_own_values(settings(stripe_secret_key="sk_test_1"))


async def test_a_live_key_beside_the_sandboxs_signing_secrets() -> None:
    """The web process refuses to start by the same check."""
    with pytest.raises(CannotStart, match="FULFILLMENT_WEBHOOK_SECRET is the sandbox's"):
        await check_public_secrets(settings(stripe_secret_key="rk_live_1", stripe_webhook_secret="whsec_mine"))
    assert (
        await check_public_secrets(
            settings(stripe_secret_key="rk_live_1", stripe_webhook_secret="whsec_a", fulfillment_webhook_secret="b")
        )
        == "your own"
    )


@pytest.mark.parametrize(
    ("key", "said"),
    [("rk_live_1", "live: real money is charged; restricted"), ("sk_test_1", "test: no money moves; of all rights")],
)
async def test_a_key_is_described_by_its_beginning(key: str, said: str) -> None:
    """And not quoted."""
    assert (await check_key(settings(stripe_secret_key=key))).startswith(said)


async def test_the_form_of_the_signing_secret() -> None:
    """The number of the wrong one, not its text."""
    right = "whsec_" + "a" * 32
    assert await check_form_of_secret(settings(stripe_webhook_secret=f"{right},{right}")) == (
        "2 secrets, while it is rotated"
    )
    with pytest.raises(CannotStart, match="number 2 of 2 is no signing secret"):
        await check_form_of_secret(settings(stripe_webhook_secret=f"{right},sk_test_canary"))
    with pytest.raises(CannotAsk, match="the sandbox's"):
        await check_form_of_secret(settings())


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1", "on this machine"),
        ("db.example.com/orders?sslmode=verify-full", "is checked"),
        ("db.example.com/orders?sslmode=require", "anybody may be the server"),
        ("db.example.com/orders?sslmode=disable", "none, as sslmode=disable says"),
    ],
)
async def test_how_the_way_to_postgres_is_protected(address: str, said: str) -> None:
    """As the address asks for it."""
    assert said in await check_tls(None, url=f"postgresql://u:p@{address}")  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["db.example.com", "127.0.0.1,db.example.com", "db.example.com/o?sslmode=prefer"])
async def test_an_address_that_leaves_it_open(address: str) -> None:
    """The driver would fall back to plain text without a word."""
    with pytest.raises(CannotStart, match="sslmode=verify-full"):
        await check_tls(None, url=f"postgresql://u:p@{address}")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("theirs", "whole", "said"),
    [
        (0.5, False, "the same"),
        (4, False, "within 3.0 seconds of this machine's"),
        (-0.9, True, "within 1.0 seconds of this machine's"),
    ],
)
def test_clocks_that_agree(theirs: float, whole: bool, said: str) -> None:  # noqa: FBT001
    """The answer took a second, and a date of HTTP has whole seconds."""
    assert agree(NOON + timedelta(seconds=theirs), NOON, NOON + timedelta(seconds=1), whole_seconds=whole) == said


@pytest.mark.parametrize(("theirs", "said"), [(121, "120 seconds ahead of"), (-90, "90 seconds behind")])
def test_clocks_that_do_not(theirs: float, said: str) -> None:
    """By how much, in which direction, and what to do."""
    with pytest.raises(CannotStart, match=f"its clock is {said} this machine's: set both by NTP"):
        agree(NOON + timedelta(seconds=theirs), NOON, NOON + timedelta(seconds=1))


async def test_payload_keys_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their ids; a key that does not decrypt what it encrypts is named, and none is shown."""
    first, second = (base64.b64encode(bytes(range(each, each + 32))).decode() for each in (1, 2))
    keys = Settings(payload_keys=SecretStr(f"new:{first},old:{second}"))
    assert await check_keys(keys) == "new encrypts and decrypts, old decrypts too"
    assert await check_keys(Settings()) == "none: Temporal stores orders in plain text"

    opens = Seal.decode

    async def forgets_one(seal: Seal, payloads: Sequence[Payload]) -> list[Payload]:
        opened = await opens(seal, payloads)
        return [opened[0], payloads[1]]

    monkeypatch.setattr(Seal, "decode", forgets_one)
    with pytest.raises(CannotStart, match="payloads of old are not decrypted again"):
        await check_keys(keys)
