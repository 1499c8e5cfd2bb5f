"""The keys of payloads are checked when they are read, and what they encrypt cannot be read, changed or forged."""

import base64
from typing import Final

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

from config.payload_converter import converter
from config.payload_keys import Key, parse_payload_keys
from config.sealing import Seal
from config.settings import read_payload_keys, read_settings
from orders.errors import InvalidInput, Unreadable
from orders.parsing import SEALED_WITH, came_sealed, read_payload

GOOD: Final = base64.b64encode(bytes(range(32))).decode()
SHORT: Final = base64.b64encode(bytes(16)).decode()
OLD, NEW = Key("k1", bytes(range(32))), Key("k2", bytes(range(32, 64)))
PLAIN: Final = Payload(metadata={"encoding": b"json/plain"}, data=b'"canary@canary.example"')


def test_keys_are_read_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces and a newline around them do not count; the first one encrypts."""
    monkeypatch.setenv("PAYLOAD_KEYS", f" k2:{GOOD} , k1 :{SHORT}\n".replace("k1 ", "k1").replace(SHORT, GOOD))
    assert [key.id for key in read_payload_keys()] == ["k2", "k1"]
    assert GOOD not in repr(read_settings())
    assert GOOD not in repr(read_payload_keys())
    monkeypatch.setenv("PAYLOAD_KEYS", "")
    assert read_payload_keys() == ()


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (f"k1:{SHORT}", r"key 1 \(k1\) has 16 bytes, not 32: `openssl rand -base64 32` makes one"),
        (f"k1:{GOOD},k1:{GOOD}", "two keys have the id k1"),
        (f"k2:{GOOD},k1:%{GOOD[1:]}", r"key 2 \(k1\) is not valid base64"),
        (f":{GOOD}", "key 1: its id must be 1 to 64 letters"),
        (f"k 1:{GOOD}", "key 1: its id must be 1 to 64 letters"),
        (GOOD, "key 1 has no colon: must have the form id:base64"),
        (f"k1:{GOOD},", "key 2 has no colon"),
    ],
    ids=["length", "duplicate", "base64", "no id", "space in the id", "no colon", "comma at the end"],
)
def test_a_wrong_key_is_named(monkeypatch: pytest.MonkeyPatch, keys: str, problem: str) -> None:
    """By its number and id, with what to do, and without the key; for every program that reads it."""
    monkeypatch.setenv("PAYLOAD_KEYS", keys)
    for read in (read_settings, read_payload_keys):
        with pytest.raises(InvalidInput, match=f"^PAYLOAD_KEYS: {problem}") as refusal:
            read()
        assert GOOD[1:] not in str(refusal.value)


def test_who_demands_encrypted_orders_has_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every order would be refused."""
    monkeypatch.setenv("PAYLOADS_MUST_BE_SEALED", "true")
    with pytest.raises(InvalidInput, match="PAYLOADS_MUST_BE_SEALED is true, but PAYLOAD_KEYS is empty"):
        read_settings()
    monkeypatch.setenv("PAYLOAD_KEYS", f"k1:{GOOD}")
    assert read_settings().payloads_must_be_sealed


async def test_a_payload_is_unreadable_without_its_key() -> None:
    """It is encrypted with the first key, differs every time, and is read with any key."""
    first, second = await Seal([NEW, OLD]).encode([PLAIN, PLAIN])
    assert first.metadata == {"encoding": b"binary/encrypted", "encryption-key-id": b"k2"}
    assert first.data != second.data
    assert b"canary" not in first.SerializeToString()
    [read] = await Seal([OLD, NEW]).decode([first])
    assert read.data == PLAIN.data
    with pytest.raises(Unreadable, match="encrypted with the key 'k2', which PAYLOAD_KEYS lacks: add it"):
        await Seal([OLD]).decode([first])


async def test_a_changed_payload_passes_unopened_and_is_refused() -> None:
    """Its data, its key under another id, or another key under its id; as an input, and as any other value."""
    [sealed] = await Seal([OLD]).encode([PLAIN])
    renamed = Payload(metadata={**sealed.metadata, "encryption-key-id": b"k2"}, data=sealed.data)
    for changed, keys in (
        (Payload(metadata=sealed.metadata, data=sealed.data[:-1] + b"\0"), [OLD]),
        (Payload(metadata=sealed.metadata, data=b""), [OLD]),
        (renamed, [Key("k2", OLD.secret)]),
        (sealed, [Key("k1", NEW.secret)]),
    ):
        [unopened] = await Seal(keys).decode([changed])
        assert unopened.data == changed.data
        with pytest.raises(InvalidInput, match="input: is marked as encrypted, and is not what a key"):
            read_payload(RawValue(unopened))
        with pytest.raises(Unreadable, match="this is marked as encrypted, and is not what a key"):
            await converter(keys).decode([changed])


async def test_only_what_came_encrypted_says_so() -> None:
    """What is not encrypted passes through, and cannot claim to have been."""
    seal = Seal([OLD])
    forged = Payload(metadata={**PLAIN.metadata, SEALED_WITH: b"k1"}, data=PLAIN.data)
    [from_plain, from_forged] = await seal.decode([PLAIN, forged])
    assert from_plain == from_forged == PLAIN
    [from_sealed] = await seal.decode(await seal.encode([forged]))
    assert [came_sealed(RawValue(each)) for each in (from_plain, from_forged, from_sealed)] == [False, False, True]


def test_a_customer_has_one_name_under_a_key() -> None:
    """The same for all orders, another under another key, and the key is not used for anything else."""
    assert OLD.tag("cus_123") == Key("other-id", OLD.secret).tag("cus_123")
    assert len({OLD.tag("cus_123"), NEW.tag("cus_123"), OLD.tag("cus_124")}) == 3
    assert all(len(key.tag("cus_123")) == 32 for key in parse_payload_keys(f"a:{GOOD}"))
