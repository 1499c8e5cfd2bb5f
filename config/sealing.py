"""Encrypts payloads, so that Temporal stores nothing of an order that can be read: AES-256-GCM, a key id beside it.

What is not encrypted passes through: runs that began before there were keys go on.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

from config.payload_keys import Key, is_key_id
from orders.errors import Unreadable
from orders.parsing import SEALED, SEALED_WITH, UNOPENED

KEY_ID: Final = "encryption-key-id"
NONCE_BYTES: Final = 12


class Seal(PayloadCodec):
    """Encrypts with the first key, and decrypts with the key that a payload names.

    A decrypted payload says in its metadata which key it came with, and one that came plain never says so: workflows
    learn from it whether their input was encrypted.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)
        self._ciphers = {key.id: AESGCM(key.secret) for key in keys}

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt each payload, with its metadata."""
        return [self._seal(each) for each in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt each payload that is encrypted.

        What no key can ever decrypt passes through, marked as UNOPENED: any client can send it, and an error here would
        fail the workflow task for ever. Whoever reads such a payload refuses it.

        Raises:
            Unreadable: one names a key that is not here. It may come later.
        """
        return [self._open(each) for each in payloads]

    def _seal(self, payload: Payload) -> Payload:
        if _is_sealed(payload):  # by somebody else, whose keys may not be ours
            return payload
        key_id, nonce = self.keys[0].id, os.urandom(NONCE_BYTES)
        plain = _marked(payload, None).SerializeToString()
        data = nonce + self._ciphers[key_id].encrypt(nonce, plain, key_id.encode())
        return Payload(metadata={"encoding": SEALED, KEY_ID: key_id.encode()}, data=data)

    def _open(self, payload: Payload) -> Payload:
        if not _is_sealed(payload):
            return _marked(payload, None)
        key_id = payload.metadata.get(KEY_ID, b"").decode(errors="replace")
        if not is_key_id(key_id):
            return _unopened(payload)
        if key_id not in self._ciphers:
            raise Unreadable(
                f"this is encrypted with the key {key_id!r}, which PAYLOAD_KEYS lacks: add it, after the first one"
            )
        nonce, data = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
        try:
            plain = Payload.FromString(self._ciphers[key_id].decrypt(nonce, data, key_id.encode()))
        except (InvalidTag, ValueError, DecodeError):
            return _unopened(payload)
        return _marked(plain, key_id.encode())


def sealed_converter(plain: DataConverter, keys: Sequence[Key]) -> DataConverter:
    """A converter that encrypts payloads, and the messages and traces of failures."""
    failures: Any = DefaultFailureConverterWithEncodedAttributes
    return replace(plain, payload_codec=Seal(keys), failure_converter_class=failures)


def _is_sealed(payload: Payload) -> bool:
    return payload.metadata.get("encoding") == SEALED


def _unopened(payload: Payload) -> Payload:
    """The payload as it is, but for its encoding."""
    return Payload(metadata={**payload.metadata, "encoding": UNOPENED}, data=payload.data)


def _marked(payload: Payload, key_id: bytes | None) -> Payload:
    """The payload, saying that it came with this key; None: that it came plain."""
    if payload.metadata.get(SEALED_WITH) == key_id:
        return payload
    marked = Payload()
    marked.CopyFrom(payload)
    marked.metadata.pop(SEALED_WITH, None)
    if key_id is not None:
        marked.metadata[SEALED_WITH] = key_id
    return marked
