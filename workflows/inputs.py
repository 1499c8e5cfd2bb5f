"""The input of a run: any client may send any JSON, and bad input must fail the run, not retry its task for ever."""

from collections.abc import Callable
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from orders.errors import InvalidInput
    from orders.parsing import read_payload

T = TypeVar("T")


def parsed(parse: Callable[[object], T], raw: RawValue | None) -> T:
    """Parse the input.

    Raises:
        ApplicationError: `InvalidInput`, naming every field that is wrong.
    """
    try:
        return parse(read_payload(raw))
    except InvalidInput as invalid:
        raise ApplicationError(str(invalid), type="InvalidInput", non_retryable=True) from None
