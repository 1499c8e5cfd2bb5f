"""Signatures of webhooks, by Stripe's scheme (docs.stripe.com/webhooks): `t=TIME,v1=…` over `TIME.` and the body."""

import hmac
import re
from collections.abc import Iterable
from typing import Final

UNIX_TIME: Final = re.compile(r"[0-9]{1,12}")


class BadSignature(Exception):
    """A delivery that is not to be believed. The argument says why, for our log alone."""


def verify(header: str, body: bytes, secrets: Iterable[str], *, tolerance: int, now: float) -> None:
    """Check that somebody who has one of the secrets signed this body at about this time.

    Args:
        header: `t=…,v1=…`, with one `v1` for every secret that the sender has while it is rotated.
        body: as it was received, to the byte.
        secrets: those that are accepted; with none nothing is.
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
