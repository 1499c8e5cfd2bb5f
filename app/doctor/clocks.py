"""Whether the clock of another machine agrees with this one's."""

from datetime import UTC, datetime
from typing import Final

from app.startup_checks import CannotStart

MAX_SKEW: Final = 5.0  # seconds; leases, deadlines and signatures count in minutes


def agree(theirs: datetime, before: datetime, after: datetime, *, whole_seconds: bool = False) -> str:
    """Compare a time with this machine's, which was `before` when it was asked for, and `after` when it was there.

    Raises:
        CannotStart: the clocks differ by more than MAX_SKEW.
    """
    precision = 1.0 if whole_seconds else 0.0
    ahead, behind = (theirs - after).total_seconds(), (before - theirs).total_seconds() - precision
    skew = max(ahead, behind, 0.0)
    if skew > MAX_SKEW:
        raise CannotStart(
            f"its clock is {skew:.0f} seconds {'ahead of' if ahead > behind else 'behind'} this machine's: "
            "set both by NTP"
        )
    return f"within {max(skew, precision):.1f} seconds of this machine's" if skew or precision else "the same"


def now() -> datetime:
    return datetime.now(UTC)
