"""Whether this program, Temporal's newest order and the codec server agree about the keys of encrypted payloads."""

from collections.abc import Sequence
from typing import Final

from google.protobuf.json_format import MessageToDict, Parse, ParseError
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.client import Client

from app.doctor.services import Services, naming
from app.startup_checks import CannotAsk, CannotStart
from config.payload_keys import Key, parse_payload_keys
from config.sealing import Seal
from config.settings import Settings
from gateways import temporal_facts
from gateways.http import post_json, raise_for_refusal
from orders.names import PROCESS_ORDER, TASK_QUEUE
from orders.parsing import SEALED, UNOPENED

SAMPLE: Final = Payload(metadata={"encoding": b"json/plain"}, data=b'"doctor"')
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


async def check_keys(settings: Settings) -> str:
    """Each key must decrypt what it has encrypted."""
    keys = _keys(settings)
    if not keys:
        return "none: Temporal stores orders in plain text"
    if wrong := _undone(keys, await Seal(keys).decode(await _sealed(keys))):
        raise CannotStart(f"PAYLOAD_KEYS: payloads of {wrong} are not decrypted again")
    others = [key.id for key in keys[1:]]
    return f"{keys[0].id} encrypts and decrypts" + (f", {', '.join(others)} decrypts too" if others else "")


async def check_newest_order(client: Client, task_queue: str = TASK_QUEUE) -> str:
    """Its input must be readable here: else the program that placed it has other keys."""
    try:
        payload = await temporal_facts.newest_input(client, PROCESS_ORDER, task_queue)
    except temporal_facts.NotForUs as reason:
        raise CannotAsk(f"Temporal does not show the newest order ({reason})") from None
    if payload is None:
        raise CannotAsk("no order is there yet")
    codec, is_sealed = client.data_converter.payload_codec, payload.metadata.get("encoding") == SEALED
    if not is_sealed:
        return "the newest order came in plain text"
    if codec is None:
        raise CannotStart("the newest order is encrypted, but PAYLOAD_KEYS is empty: set the keys that its client has")
    [opened] = await codec.decode([payload])
    if opened.metadata.get("encoding") == UNOPENED:
        raise CannotStart(
            "the newest order is encrypted by another key than that of its id here: give all programs the same keys"
        )
    return "the newest order is encrypted, and can be read"


async def check_codec_server(services: Services) -> str:
    """It must take the token, and decrypt what each of our keys encrypts."""
    settings = services.settings
    if not settings.codec_token_list:
        raise CannotAsk("CODEC_TOKENS is empty here: there is none, or doctor must ask where it runs")
    keys = _keys(settings)
    if not keys:
        raise CannotStart("CODEC_TOKENS is set, but PAYLOAD_KEYS is empty: codec_server.py does not start")
    host, _, port = settings.codec_address.rpartition(":")
    url = f"http://{EVERYWHERE.get(host, host)}:{port}/decode"
    body = MessageToDict(Payloads(payloads=await _sealed(keys)))
    headers = {"Authorization": f"Bearer {settings.codec_token_list[0]}"}
    with naming("CODEC_ADDRESS", "CODEC_TOKENS"):
        answer = await post_json(services.http, "codec_server", url, body, headers)
        raise_for_refusal("codec_server", answer)
    try:
        opened = Parse(answer.text, Payloads()).payloads
    except ParseError:
        raise CannotStart("another program answers at CODEC_ADDRESS") from None
    if lacking := _undone(keys, opened):
        raise CannotStart(f"it does not decrypt the payloads of {lacking}: give it the same PAYLOAD_KEYS")
    return f"takes the token, and decrypts the payloads of {', '.join(key.id for key in keys)}"


def _keys(settings: Settings) -> tuple[Key, ...]:
    return parse_payload_keys(settings.payload_keys.get_secret_value())


async def _sealed(keys: Sequence[Key]) -> list[Payload]:
    """The sample, encrypted by each key."""
    return [payload for key in keys for payload in await Seal([key]).encode([SAMPLE])]


def _undone(keys: Sequence[Key], opened: Sequence[Payload]) -> str:
    """The ids of the keys whose sample is not what it was."""
    right = [payload.data == SAMPLE.data for payload in opened]
    right += [False] * (len(keys) - len(right))
    return ", ".join(key.id for key, is_right in zip(keys, right, strict=False) if not is_right)
