"""The keys of encrypted payloads: how PAYLOAD_KEYS reads, and the name that each key gives a customer.

Lists of runs show search attributes to whoever may list them, and Temporal stores them in plain text. So with keys,
`CustomerId` holds a keyed hash of the customer's id: equal for all orders of a customer, and useless without the key.
"""

import base64
import hmac
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from temporalio.client import Client

KEY_BYTES: Final = 32  # AES-256
MAKE_ONE: Final = "`openssl rand -base64 32` makes one"
FORM: Final = "must have the form id:base64, several separated by commas, the one that encrypts first"
PURPOSE: Final = b"order-sagas: CustomerId"
TAG_LENGTH: Final = 32  # of 64 hexadecimal digits: 128 bits


class Key(NamedTuple):
    """A key and its id, which stands in plain text beside everything that it encrypts."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Key({self.id})"

    def tag(self, customer_id: str) -> str:
        """The name of a customer under this key, by a key of its own that is derived from it (HKDF, RFC 5869)."""
        extracted = hmac.digest(bytes(KEY_BYTES), self.secret, "sha256")
        derived = hmac.digest(extracted, PURPOSE + b"\x01", "sha256")
        return hmac.new(derived, customer_id.encode(), "sha256").hexdigest()[:TAG_LENGTH]


def parse_payload_keys(text: str) -> tuple[Key, ...]:
    """The keys that PAYLOAD_KEYS names; the first one encrypts. None of them is in a message.

    Raises:
        ValueError: naming the key that is wrong, and what to do.
    """
    keys = tuple(_parse(number, part.strip()) for number, part in enumerate(text.split(","), 1)) if text else ()
    ids = [key.id for key in keys]
    if twice := next((each for each in ids if ids.count(each) > 1), None):
        raise ValueError(f"two keys have the id {twice}: give each new key an id of its own")
    return keys


def is_key_id(text: str) -> bool:
    """Whether a key can have this id."""
    return re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text) is not None


def _parse(number: int, part: str) -> Key:
    key_id, colon, encoded = part.partition(":")
    if not part or not colon:
        raise ValueError(f"key {number} has no colon: {FORM}")
    if not is_key_id(key_id):
        raise ValueError(f"key {number}: its id must be 1 to 64 letters, digits, dots, dashes and underscores")
    try:
        secret = base64.b64decode(encoded.strip(), validate=True)
    except ValueError:
        raise ValueError(f"key {number} ({key_id}) is not valid base64: {MAKE_ONE}") from None
    if len(secret) != KEY_BYTES:
        raise ValueError(f"key {number} ({key_id}) has {len(secret)} bytes, not {KEY_BYTES}: {MAKE_ONE}")
    return Key(key_id, secret)


def customer_tags(client: Client, customer_id: str) -> tuple[str, ...]:
    """What the search attribute CustomerId holds for a customer: first in runs that this client starts.

    The others are what older runs hold: of before the keys were rotated, and last of before there were any.
    """
    keys: Iterable[Key] = getattr(client.data_converter.payload_codec, "keys", ())
    return (*(key.tag(customer_id) for key in keys), customer_id)
