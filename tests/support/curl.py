"""What curl does with the lines of the documentation: it is not on every machine."""

import shlex
from typing import Final

import httpx

HERE: Final = "http://127.0.0.1:8400"  # where the documentation says that the sandbox is


async def curl(http: httpx.AsyncClient, line: str) -> httpx.Response:
    """The answer to a line, from the sandbox of `http`."""
    program, *words = shlex.split(line)
    assert program == "curl"
    method, fields = "", []
    while words and words[0].startswith("-"):
        option, value, *words = words
        match option:
            case "-d":
                fields.append(value)
            case "-X":
                method = value
            case _:
                raise AssertionError(f"an option that this test does not know: {option}")
    (url,) = words
    assert url.startswith(f"{HERE}/")
    return await http.request(
        method or ("POST" if fields else "GET"),
        url.removeprefix(HERE),
        content="&".join(fields),
        headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "*/*"},
    )
