"""How values become payloads: as JSON, and with keys encrypted."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn

from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import DataConverter, EncodingPayloadConverter

from config.payload_keys import Key
from orders.errors import Unreadable
from orders.parsing import NO_KEYS, NOT_OPENED, SEALED, UNOPENED


class SealedPayloadConverter(EncodingPayloadConverter):
    """Says what is wrong where the SDK would say that it does not know the encoding."""

    def __init__(self, encoding: bytes, problem: str) -> None:
        self._encoding = encoding.decode()
        self._problem = problem

    @property
    def encoding(self) -> str:
        return self._encoding

    def to_payload(self, value: Any) -> Payload | None:  # noqa: ANN401, ARG002 (the SDK's signature)
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> NoReturn:  # noqa: ARG002
        raise Unreadable(self._problem)


class PlainPayloadConverter(PydanticPayloadConverter):
    """Pydantic models as JSON; what is encrypted is refused with the reason."""

    def __init__(self) -> None:
        super().__init__()
        self.converters = {**self.converters} | {
            encoding: SealedPayloadConverter(encoding, problem)
            for encoding, problem in ((SEALED, NO_KEYS), (UNOPENED, f"this {NOT_OPENED}"))
        }


def converter(keys: Sequence[Key]) -> DataConverter:
    """How values become payloads: with keys, encrypted ones."""
    plain = dataclasses.replace(pydantic_data_converter, payload_converter_class=PlainPayloadConverter)
    if not keys:
        return plain
    from config.sealing import sealed_converter  # noqa: PLC0415 (programs without keys start faster)

    return sealed_converter(plain, keys)
