"""Signatures of webhooks, by Stripe's scheme (docs.stripe.com/webhooks): `t=TIME,v1=…` over `TIME.` and the body."""

import hmac
import re
from collections.abc import Iterable
from typing import Final

UNIX_TIME: Final = re.compile(r"[0-9]{1,12}")


class BadSignature(Exception):
    """The signature of a delivery is not valid. The argument says why, for the log alone."""


def verify(header: str, body: bytes, secrets: Iterable[str], *, tolerance: int, now: float) -> None:
    """Check that the body was signed with one of the secrets, at about this time.

    Args:
        header: `t=…,v1=…`; while the sender rotates its secret there is one `v1` for each.
        body: the bytes as received.
        secrets: each is accepted; without any, no delivery is.
        tolerance: seconds by which the sender's time may differ, in the past or in the future.
        now: Unix time.

    Raises:
        BadSignature: `malformed`, `forged`, `stale` or `early`.
    """
    fields = [field.strip().partition("=") for field in header.split(",")]
    times = [value for name, _, value in fields if name == "t"]
    if len(times) != 1 or not UNIX_TIME.fullmatch(times[0]):
        raise BadSignature("malformed")
    signed = f"{times[0]}.".encode() + body
    expected = [hmac.digest(secret.encode(), signed, "sha256").hex().encode() for secret in secrets]
    given = [value.encode() for name, _, value in fields if name == "v1"]
    if not any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in given):
        raise BadSignature("forged")
    age = now - int(times[0])
    if abs(age) > tolerance:
        raise BadSignature("stale" if age > 0 else "early")
