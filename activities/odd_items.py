"""What happens when some items of a page cannot be read: they are named, and the others are checked all the same."""

from collections.abc import Collection
from typing import Final

from temporalio import activity

from orders.errors import Permanent, Unavailable

ATTEMPTS: Final = 3  # until an item that fails while others succeed counts as odd


def raise_outage(errors: Collection[BaseException], asked: int) -> None:
    """Tell an outage from odd items, by the errors of a page of `asked` items.

    Raises:
        Unavailable: no item can be read, or those that cannot may be read by the next attempt.
        BaseException: one of the errors is none of the project's: a bug, or the end of the attempt.
    """
    for error in errors:
        if not isinstance(error, Unavailable | Permanent):
            raise error
    outages = [error for error in errors if isinstance(error, Unavailable)]
    if outages and (len(errors) == asked or activity.info().attempt < ATTEMPTS):
        raise outages[0]
