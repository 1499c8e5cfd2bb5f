"""Temporal behind a frontend: TLS, client certificates, API keys, and rights that Temporal Cloud does not give."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from app.startup_checks import TEMPORAL_CHECKS, CannotAsk, check_search_attributes, require
from config.settings import sandbox_addresses
from config.temporal import connect
from deploy.local.process import Command, running
from orders.errors import NoAnswer
from sandbox.server import serve
from tests.support.certificates import Certificates
from tests.support.frontend import COUNT, OPERATOR, Frontend, StatusCode, credentials, settings
from tests.support.sample import one_in
from tests.support.shop import an_order, eventually

ROOT = Path(__file__).parents[2]
KEY = "tmprl-canary"


@pytest.fixture(autouse=True)
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", os.devnull)


@pytest.fixture
def target(temporal: WorkflowEnvironment) -> str:
    return temporal.client.service_client.config.target_host


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def environment(address: str, **more: str) -> dict[str, str]:
    return {"TEMPORAL_ADDRESS": address, "TEMPORAL_CONFIG_FILE": os.devnull, **more}


def use(monkeypatch: pytest.MonkeyPatch, given: Mapping[str, str]) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)


# ------------------------------------------------------------------------------------------------- without an operator


@pytest.mark.parametrize("status", one_in(2, [StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED]))
async def test_a_program_starts_without_the_rights_of_an_operator(
    monkeypatch: pytest.MonkeyPatch, target: str, status: StatusCode
) -> None:
    """As in Temporal Cloud: its search attributes are asked for in another way."""
    frontend = Frontend(target, {OPERATOR: status})
    async with frontend.serve() as address:
        use(monkeypatch, environment(address))
        client = await connect()
        await require(TEMPORAL_CHECKS, client)
        assert COUNT in frontend.calls
        assert not any(call.startswith(OPERATOR) for call in frontend.calls)
        with pytest.raises(RPCError, match="unauthorized"):
            await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))


@pytest.mark.parametrize("status", one_in(2, [StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED]))
async def test_what_cannot_be_asked_is_said_and_the_program_goes_on(
    monkeypatch: pytest.MonkeyPatch, target: str, status: StatusCode
) -> None:
    """The log names what to look at."""
    async with Frontend(target, {COUNT: status}).serve() as address:
        use(monkeypatch, environment(address))
        client = await connect()
        with pytest.raises(CannotAsk, match="see to it that the namespace default has CustomerId, NeedsAttention"):
            await check_search_attributes(client)
        with capture_logs() as log:
            await require(TEMPORAL_CHECKS, client)
    assert [(each["event"], each["check"]) for each in log] == [("not checked", "search attributes")]


# ----------------------------------------------------------------------------------------------------------------- TLS


async def test_a_client_by_tls(monkeypatch: pytest.MonkeyPatch, target: str, certificates: Certificates) -> None:
    """The CA is enough; without TLS nothing is answered."""
    async with Frontend(target).serve(credentials(certificates, ask_client=False)) as address:
        use(monkeypatch, environment(address))
        with pytest.raises(NoAnswer, match="set TEMPORAL_TLS=true if the server uses TLS"):
            await connect()
        use(monkeypatch, settings(certificates))
        await require(TEMPORAL_CHECKS, await connect())


async def test_a_client_with_a_certificate(
    monkeypatch: pytest.MonkeyPatch, target: str, certificates: Certificates
) -> None:
    """Without one, or with one of another CA, the sentence names the settings of the certificate."""
    async with Frontend(target).serve(credentials(certificates, ask_client=True)) as address:
        for client in (None, "stranger"):
            use(monkeypatch, environment(address, **settings(certificates, client)))
            with pytest.raises(NoAnswer, match="TEMPORAL_TLS_CLIENT_CERT_PATH"):
                await connect()
        use(monkeypatch, settings(certificates, "client"))
        await require(TEMPORAL_CHECKS, await connect())


async def test_a_client_with_an_api_key(
    monkeypatch: pytest.MonkeyPatch, target: str, certificates: Certificates
) -> None:
    """A key alone turns TLS on. A wrong one is refused, and not quoted."""
    async with Frontend(target, api_key=KEY).serve(credentials(certificates, ask_client=False)) as address:
        trust = {"TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(certificates.ca_file)}
        use(monkeypatch, environment(address, **trust, TEMPORAL_API_KEY="wrong-canary"))
        with pytest.raises(NoAnswer, match="refuses the login: check TEMPORAL_API_KEY") as refusal:
            await connect()
        assert "canary" not in str(refusal.value)
        use(monkeypatch, {"TEMPORAL_API_KEY": KEY})
        await require(TEMPORAL_CHECKS, await connect())


@pytest.mark.prove
async def test_an_order_by_tls_with_certificate_and_key(
    target: str, certificates: Certificates, database_url: str, tmp_path: Path
) -> None:
    """Worker and command line, from their settings alone; doctor names the way, and no key."""
    frontend = Frontend(target, {OPERATOR: StatusCode.PERMISSION_DENIED}, api_key=KEY)
    async with serve() as sandbox, frontend.serve(credentials(certificates, ask_client=True)) as address:
        given = environment(
            address, **settings(certificates, "client"), TEMPORAL_API_KEY=KEY, DATABASE_URL=database_url
        )
        given |= sandbox_addresses(sandbox.url)
        log, order = tmp_path / "worker.log", tmp_path / "order.json"
        order.write_text(json.dumps(an_order()))
        worker = Command(name="The worker", argv=(sys.executable, "worker.py"), log=log, env={**os.environ, **given})

        async def is_ready() -> bool:
            return "worker ready" in log.read_text()

        async with running(worker):
            await eventually(is_ready, "the worker is ready")
            placed = await starter(given, "process-order", str(order), "--order-id", "by-tls")
            assert "by-tls is placed" in placed
            said = await starter(given, "doctor")
    assert f"{address}, TLS, with an API key" in said
    assert "CustomerId, NeedsAttention, OrderOutcome, OrderStage" in said
    assert "canary" not in said


async def starter(given: Mapping[str, str], *arguments: str) -> str:
    """What the command line shows."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "starter.py", *arguments),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **given},
        stdout=asyncio.subprocess.PIPE,
    )
    shown, _ = await process.communicate()
    return shown.decode()
