"""The codec server decrypts for those who have a token, and for pages of the Web UI alone."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from temporalio.api.common.v1 import Payload, Payloads

from app.codec.endpoints import MAX_BODY, application
from app.web.server import serve
from config.payload_keys import Key
from config.sealing import Seal
from config.settings import read_settings
from deploy.local.process import Command, free_ports, running
from orders.errors import InvalidInput

OLD, NEW = Key("k1", bytes(range(32))), Key("k2", bytes(range(32, 64)))
UI: Final = "https://temporal.example.com"
TOKENS: Final = ("first-canary-token-0123456789abcdef", "second-canary-token-0123456789abcde")
BEARER: Final = {"Authorization": f"Bearer {TOKENS[0]}"}
PLAIN: Final = Payload(metadata={"encoding": b"json/plain"}, data=b'"canary"')


def as_json(*payloads: Payload) -> Any:
    return MessageToDict(Payloads(payloads=payloads))


@pytest.fixture(scope="module")
async def codec() -> AsyncIterator[httpx.AsyncClient]:
    app = application(Seal([NEW, OLD]), TOKENS, [UI])
    async with serve(app, "127.0.0.1", 0) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        yield http


async def test_payloads_are_encrypted_and_decrypted(codec: httpx.AsyncClient) -> None:
    """Each of several, with any token, in the header or in the path; those of an older key too."""
    [old] = await Seal([OLD]).encode([PLAIN])
    sealed = (await codec.post("/encode", json=as_json(PLAIN, PLAIN), headers=BEARER)).json()
    assert base64.b64decode(sealed["payloads"][0]["metadata"]["encryption-key-id"]) == b"k2"
    for path, headers in (
        ("/decode", BEARER),
        ("/decode", {"Authorization": f"bearer {TOKENS[1]}"}),
        (f"/{TOKENS[1]}/decode", {}),
    ):
        read = await codec.post(
            path, json={"payloads": [*sealed["payloads"], *as_json(old)["payloads"]]}, headers=headers
        )
        assert read.json() == as_json(PLAIN, PLAIN, PLAIN)


@pytest.mark.parametrize("operation", ["encode", "decode"])
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/{}", {}),
        ("/{}", {"Authorization": TOKENS[0]}),
        ("/{}", {"Authorization": f"Basic {TOKENS[0]}"}),
        ("/{}", {"Authorization": f"Bearer {TOKENS[0][:-1]}"}),
        ("/{}", {"Authorization": "Bearer"}),
        (f"/{TOKENS[0].upper()}/{{}}", {}),
        (f"/{','.join(TOKENS)}/{{}}", {}),
    ],
    ids=["none", "no scheme", "another scheme", "cut off", "empty", "upper case", "both in one"],
)
async def test_without_a_token_it_answers_nobody(
    codec: httpx.AsyncClient, operation: str, path: str, headers: dict[str, str]
) -> None:
    """The answer is 401 whatever the body is, also to what cannot be decrypted: it is no oracle."""
    for body in (as_json(*await Seal([NEW]).encode([PLAIN])), {"no": "payloads"}):
        answer = await codec.post(path.format(operation), json=body, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "canary" not in answer.text


@pytest.mark.parametrize(
    "origin",
    [f"{UI}.evil.example", "https://evil.example", UI.replace("https", "http"), f"{UI}:8443", f"{UI}/", "null", ""],
)
async def test_pages_of_other_origins_are_refused(codec: httpx.AsyncClient, origin: str) -> None:
    """Before the request, by its preflight, and also a request that needs none; with a token too."""
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-namespace"}
    preflight = await codec.options("/decode", headers=asks)
    assert preflight.status_code != 200
    assert "Access-Control-Allow-Origin" not in preflight.headers
    sealed = as_json(*await Seal([NEW]).encode([PLAIN]))
    answer = await codec.post("/decode", json=sealed, headers=BEARER | {"Origin": origin})
    assert answer.status_code == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_pages_of_the_web_ui_are_answered(codec: httpx.AsyncClient) -> None:
    """Its preflight, and its request, also where the token is missing: the page can show why."""
    headers = {"Access-Control-Request-Headers": "authorization,content-type,x-namespace"}
    asks = {"Origin": UI, "Access-Control-Request-Method": "POST"} | headers
    preflight = await codec.options(f"/{TOKENS[0]}/decode", headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Methods"] == "POST"
    for given, status in ((BEARER, 200), ({}, 401)):
        answer = await codec.post(
            "/decode", json=as_json(PLAIN), headers={"Origin": UI, "X-Namespace": "default"} | given
        )
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, UI)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"no json", 400),
        (b"\xff", 400),
        (b'{"payloads": "x"}', 400),
        (b"[" * 100_000, 400),
        (b" " * (MAX_BODY + 1), 413),
        (b"{}", 200),
        (b'{"payloads": [], "newer": 1}', 200),
    ],
    ids=["empty", "text", "bytes", "string", "deep", "large", "nothing", "of a newer Temporal"],
)
async def test_a_body_that_is_none_is_refused(codec: httpx.AsyncClient, body: bytes, status: int) -> None:
    """With a word why."""
    answer = await codec.post("/decode", content=body, headers=BEARER)
    assert answer.status_code == status
    assert status == 200 or answer.json()["message"]


async def test_what_it_cannot_decrypt_stays_as_it_is(codec: httpx.AsyncClient) -> None:
    """A retired key, another key of the same id, or no ciphertext at all; what stands beside it is decrypted."""
    [retired] = await Seal([Key("k9", OLD.secret)]).encode([PLAIN])
    [changed] = await Seal([Key("k1", NEW.secret)]).encode([PLAIN])
    junk = Payload(metadata={"encoding": b"binary/encrypted"}, data=b"junk")
    [sealed] = await Seal([OLD]).encode([PLAIN])
    answer = await codec.post("/decode", json=as_json(retired, sealed, changed, junk), headers=BEARER)
    assert (answer.status_code, answer.json()) == (200, as_json(retired, PLAIN, changed, junk))
    assert (await codec.get("/decode", headers=BEARER)).status_code == 405
    assert (await codec.get("/healthz")).is_success


KEYS: Final = f"k1:{base64.b64encode(OLD.secret).decode()}"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("CODEC_ORIGINS", "*", "must be the exact origins"),
        ("CODEC_ORIGINS", "https://ui.example/path", "must be the exact origins"),
        ("CODEC_ORIGINS", "ui.example", "must be the exact origins"),
        ("CODEC_TOKENS", f"{TOKENS[0]},canary", "token 2 must have 32 or more letters"),
        ("CODEC_TOKENS", f"{TOKENS[0]}/", "token 1 must have 32 or more letters"),
        ("CODEC_ADDRESS", "", "must have the form host:port"),
        ("CODEC_ADDRESS", "8430", "must have the form host:port"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str) -> None:
    """Without its value, where it is a secret."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=f"^{name}: {problem}") as refusal:
        read_settings()
    assert "canary" not in str(refusal.value)


def test_the_web_ui_of_the_links_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless others are named."""
    monkeypatch.setenv("TEMPORAL_UI_URL", f"{UI}/base/path")
    assert read_settings().codec_origin_list == (UI,)
    monkeypatch.setenv("CODEC_ORIGINS", "https://A.example, https://b.example:8443")
    assert read_settings().codec_origin_list == ("https://a.example", "https://b.example:8443")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PAYLOAD_KEYS": ""}, "PAYLOAD_KEYS is empty"),
        ({"CODEC_TOKENS": ""}, "CODEC_TOKENS is empty: everybody could decrypt"),
    ],
)
async def test_it_refuses_to_be_an_oracle(environment: dict[str, str], message: str) -> None:
    """It does not start without keys, nor without tokens."""
    given = {"PAYLOAD_KEYS": KEYS, "CODEC_TOKENS": TOKENS[0]} | environment
    process = await asyncio.create_subprocess_exec(
        sys.executable, "codec_server.py", env={**os.environ, **given}, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert (process.returncode, message in errors.decode()) == (1, True)


@pytest.mark.prove
async def test_the_program_serves_and_logs_no_secret(tmp_path: Path) -> None:
    """Its log has one line for each request, without tokens and payloads; SIGTERM ends it with status 0."""
    port, health = free_ports(2)
    environment = {"PAYLOAD_KEYS": KEYS, "CODEC_TOKENS": ",".join(TOKENS), "CODEC_ADDRESS": f"127.0.0.1:{port}"}
    command = Command(
        name="The codec server",
        argv=(sys.executable, "codec_server.py"),
        log=tmp_path / "codec.log",
        env={**os.environ, **environment, "HEALTH_ADDRESS": f"127.0.0.1:{health}"},
    )
    async with running(command) as child, httpx.AsyncClient(trust_env=False) as http:

        async def ready() -> bool:
            try:
                return (await http.get(f"http://127.0.0.1:{health}/readyz")).is_success
            except httpx.TransportError:
                return False

        await child.ready(ready, within=30)
        url = f"http://127.0.0.1:{port}"
        sealed = (await http.post(f"{url}/{TOKENS[0]}/encode", json=as_json(PLAIN))).json()
        assert (await http.post(f"{url}/decode", json=sealed, headers=BEARER)).is_success
        assert (await http.post(f"{url}/decode", json=sealed)).status_code == 401
    log = (tmp_path / "codec.log").read_text()
    told = [each for line in log.splitlines() if (each := json.loads(line))["event"].startswith("codec")]
    assert [each.get("outcome", each["event"]).partition(" of ")[0] for each in told] == [
        "codec server ready",
        "answered",
        "answered",
        "a token",
        "codec server stopped",
    ]
    assert "canary" not in log
    assert KEYS.partition(":")[2] not in log
