"""The body of a request, read with a limit to its size and its time."""

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect, Request

BODY_SECONDS: Final = 10  # for a sender to send the body


class Refused(Exception):
    """A request that is refused: the HTTP status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def read_body(request: Request, most: int) -> bytes:
    """The body, of at most so many bytes.

    Raises:
        Refused: it is larger, or does not come in time.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refused(413, "too large")
    except TimeoutError:
        raise Refused(408, "too slow") from None
    except ClientDisconnect:
        raise Refused(400, "cut off") from None
    return bytes(body)
