"""Settings that are valid, each for itself, and wrong together in a shop that takes real money."""

import re
from typing import Final

from app.startup_checks import SETTINGS_CHECKS as AT_START
from app.startup_checks import CannotAsk, CannotStart, Check
from config.settings import SANDBOX_STRIPE_KEY, SANDBOX_STRIPE_WEBHOOK_SECRET, Settings, public_values

SIGNING_SECRET: Final = re.compile(r"whsec_\S{16,}")


async def check_values(settings: Settings) -> str:
    """All are valid by now."""
    given = sorted(name.upper() for name in settings.model_fields_set)
    return f"all valid; set here: {', '.join(given) or 'none, so all are those of the local stack'}"


async def check_own_values(settings: Settings) -> str:
    """Refuse addresses and keys of the local stack beside a live key."""
    public = ", ".join(public_values(settings))
    if settings.is_live and public:
        raise CannotStart(f"STRIPE_SECRET_KEY is a live key, but these are still those of the local stack: {public}")
    return f"still those of the local stack: {public}" if public else "all are your own"


async def check_form_of_secret(settings: Settings) -> str:
    """Stripe's signing secrets have one form; another value refuses every event."""
    secrets = settings.stripe_webhook_secret_list
    if secrets == (SANDBOX_STRIPE_WEBHOOK_SECRET,):
        raise CannotAsk("it is the sandbox's")
    if wrong := [number for number, each in enumerate(secrets, start=1) if not SIGNING_SECRET.fullmatch(each)]:
        raise CannotStart(
            f"STRIPE_WEBHOOK_SECRET: number {', '.join(map(str, wrong))} of {len(secrets)} is no signing secret: copy "
            "it from the endpoint's page in the Stripe dashboard, it begins with whsec_"
        )
    return "1 secret" if len(secrets) == 1 else f"{len(secrets)} secrets, while it is rotated"


async def check_key(settings: Settings) -> str:
    key = settings.stripe_secret_key.get_secret_value()
    if key == SANDBOX_STRIPE_KEY:
        return "the sandbox's: no money moves"
    kind = "restricted" if key.startswith("rk_") else "of all rights; a restricted one is safer"
    return f"{'live: real money is charged' if settings.is_live else 'test: no money moves'}; {kind}"


SETTINGS_CHECKS: Final = (
    Check("values", check_values),
    Check("own values", check_own_values),
    Check("Stripe key", check_key),
    *AT_START,
    Check("Stripe's signing secret", check_form_of_secret),
)
