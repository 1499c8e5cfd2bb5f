"""What an external service says about an error, as operators may read it: without what must not be kept."""

import re
from typing import Final

import httpx
from pydantic import BaseModel, ValidationError

from orders.card_numbers import has_card_number
from orders.plain_text import shorten, without_harmful

MAX_MESSAGE: Final = 200  # characters
# The ids that operators look up; any other long word with a digit in it may be a key.
KNOWN_IDS: Final = r"(?:pi|re|pyr|ch|py|pm|du|dp|issfr|prv|evt|ful)_|order-"
SECRETS: Final = re.compile(
    r"\S+(?:@|%40)\S+"  # e-mail addresses
    r"|\bhttps?://\S+"  # webhook addresses are keys
    r"|\b(?:sk|rk|pk|whsec|fhsec)[-_][\w*-]+|\b\w+_secret_\w+"
    r"|\b(?:Bearer|Basic) \S+|\beyJ[\w.-]+"
    rf"|\b(?!{KNOWN_IDS})(?=[\w-]*\d)[\w-]{{16,}}"
    r"|(?<![\w-])\+?\d[\d ()./-]{5,}\d\b|\b\d{5,}\b",  # telephone numbers, postcodes
    re.IGNORECASE,
)
CODE: Final = re.compile(r"[A-Za-z_][\w.-]{0,39}")


class _Error(BaseModel):
    code: str | int | None = None
    message: str | None = None


class _Answer(_Error):
    """The usual forms of an error in JSON: an object with a code and a message, or with an `error` that is one."""

    error: _Error | str | None = None


def quote(message: str | None) -> str:
    """The message of an external service in one line; empty if nothing of it may be kept."""
    line = " ".join(without_harmful(message or "").split())
    return "" if has_card_number(line) else shorten(SECRETS.sub("…", line), MAX_MESSAGE)


def with_message(code: str, message: str | None) -> str:
    """A service's error code with its message behind it, if there is one."""
    quoted = quote(message)
    return f"{code}: {quoted}" if quoted and quoted != code else code


def explain(response: httpx.Response) -> str:
    """The code and the message in an answer; empty if it has none, or another form than JSON."""
    try:
        answer = _Answer.model_validate_json(response.content)
    except ValidationError:
        return ""
    said = _Error(message=answer.error) if isinstance(answer.error, str) else answer.error or answer
    code = str(said.code) if said.code is not None and CODE.fullmatch(str(said.code)) else ""
    return with_message(code, said.message) if code else quote(said.message)
