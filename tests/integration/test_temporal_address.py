"""The connection to Temporal: it reads the environment as other settings are read, and says which value is wrong."""

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from temporalio.testing import WorkflowEnvironment

import config.streams
import config.temporal
from config.temporal import connect
from deploy.local.process import HOST, ROOT, free_ports
from orders.errors import InvalidInput, NoAnswer
from tests.support.sample import one_in

NOBODY = "127.0.0.1:1"
FOREIGN = ("Error(", "Error:", "Traceback", "tonic", "os error", "Custom {", "Os {")


@pytest.fixture(autouse=True)
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", os.devnull)


async def test_spaces_around_the_address_are_ignored(
    monkeypatch: pytest.MonkeyPatch, temporal: WorkflowEnvironment
) -> None:
    """A value that comes from a file often ends in a newline."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", f" {temporal.client.service_client.config.target_host}\n")
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "default\n")
    assert (await connect()).namespace == "default"


async def problem(monkeypatch: pytest.MonkeyPatch, kind: type[InvalidInput | NoAnswer], **environment: str) -> str:
    """The one sentence with which a connection is refused; it holds nothing of the SDK's own error."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kind) as refusal:
        await connect()
    text = str(refusal.value)
    assert not any(part in text for part in FOREIGN), text
    return text


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"TEMPORAL_ADDRESS": "http://127.0.0.1:7233"}, "TEMPORAL_ADDRESS: must be a host and a port, without http://"),
        ({"TEMPORAL_ADDRESS": "127.0.0.1"}, "TEMPORAL_ADDRESS: must be a host and a port"),
        ({"TEMPORAL_ADDRESS": "localhost:99999"}, "e.g. 127.0.0.1:7233"),
        ({"TEMPORAL_ADDRESS": "a b:1"}, "TEMPORAL_ADDRESS: must be"),
        (
            {"TEMPORAL_TLS_CLIENT_CERT_PATH": "/no.pem"},
            "TEMPORAL_TLS_CLIENT_CERT_PATH: /no.pem cannot be read: ",
        ),
        ({"TEMPORAL_TLS_SERVER_CA_CERT_PATH": "/no.pem"}, "TEMPORAL_TLS_SERVER_CA_CERT_PATH: /no.pem cannot be read"),
        (
            {"TEMPORAL_TLS_SERVER_CA_CERT_PATH": "/"},
            "TEMPORAL_TLS_SERVER_CA_CERT_PATH: / cannot be read: Is a dir",
        ),
        ({"TEMPORAL_TLS_CLIENT_CERT_PATH": "{text}"}, "TEMPORAL_TLS_CLIENT_KEY_PATH: set both, or neither"),
        (
            {"TEMPORAL_TLS_CLIENT_CERT_PATH": "{text}", "TEMPORAL_TLS_CLIENT_KEY_PATH": "{text}"},
            "TEMPORAL_TLS_CLIENT_KEY_PATH: must name a file with a private key in PEM",
        ),
        (
            {"TEMPORAL_TLS_CLIENT_CERT_PATH": "{text}", "TEMPORAL_TLS_CLIENT_KEY_PATH": "{key}"},
            "TEMPORAL_TLS_CLIENT_CERT_PATH: must name a file with a certificate in PEM",
        ),
        (
            {"TEMPORAL_TLS_CLIENT_CERT_PATH": "{cert}", "TEMPORAL_TLS_CLIENT_KEY_PATH": "{other}"},
            "TEMPORAL_TLS_CLIENT_KEY_PATH: is not the key of the certificate in TEMPORAL_TLS_CLIENT_CERT_PATH",
        ),
        ({"TEMPORAL_PROFILE": "none"}, "Profile 'none' not found"),
        ({"TEMPORAL_CONFIG_FILE": "{text}"}, "line 1, column 4: "),
        ({"TEMPORAL_CONFIG_FILE": "/"}, "TEMPORAL_CONFIG_FILE /: Is a directory"),
    ],
    ids=str,
)
async def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], wanted: str
) -> None:
    """With what is right, in one sentence."""
    ca = trustme.CA()
    mine, other = ca.issue_cert("client"), ca.issue_cert("other")
    (tmp_path / "text").write_text("no certificate")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    mine.private_key_pem.write_to_path(tmp_path / "key")
    other.private_key_pem.write_to_path(tmp_path / "other")
    files = {name: str(tmp_path / name) for name in ("text", "cert", "key", "other")}
    given = {name: value.format(**files) for name, value in environment.items()}
    async with a_server() as address:
        assert wanted in await problem(monkeypatch, InvalidInput, **{"TEMPORAL_ADDRESS": address} | given)


@asynccontextmanager
async def a_server(context: ssl.SSLContext | None = None, answer: bytes = b"no") -> AsyncIterator[str]:
    """A server that is not Temporal's; without an answer it is silent."""
    waiting: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting.append(writer)
        if answer:
            await reader.read(10)
            writer.write(answer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in waiting:
            writer.close()


async def test_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has the address, and what most often starts it."""
    said = await problem(monkeypatch, NoAnswer, TEMPORAL_ADDRESS=NOBODY)
    assert said.startswith(f"Temporal is out of reach: nothing answers at {NOBODY}. Is `make up` running? ")
    said = await problem(monkeypatch, NoAnswer, TEMPORAL_ADDRESS="nowhere.invalid:7233")
    assert said == "Temporal is out of reach: the host of nowhere.invalid:7233 is not known: correct TEMPORAL_ADDRESS"


async def test_what_answers_is_not_temporal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server, or one that accepts connections and says nothing."""
    async with a_server() as address:
        said = await problem(monkeypatch, NoAnswer, TEMPORAL_ADDRESS=address)
        assert f"what answers at {address} is not Temporal, or it uses TLS" in said
        said = await problem(monkeypatch, NoAnswer, TEMPORAL_ADDRESS=address, TEMPORAL_TLS="true")
        assert f"{address} does not use TLS: unset TEMPORAL_TLS" in said or "is not Temporal" in said
    monkeypatch.delenv("TEMPORAL_TLS")
    monkeypatch.setattr(config.temporal, "CONNECT_SECONDS", 1)
    async with a_server(answer=b"") as address:
        said = await problem(monkeypatch, NoAnswer, TEMPORAL_ADDRESS=address)
        assert f"{address} gives no answer within 1 seconds" in said


async def test_a_certificate_that_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sentence names the setting for the CA, and for the name."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    ca.issue_cert("temporal.example.com").configure_cert(context)
    async with a_server(context) as address:
        said = await problem(monkeypatch, NoAnswer, TEMPORAL_ADDRESS=address, TEMPORAL_TLS="true")
        assert "is not trusted: name the file of its CA, e.g. TEMPORAL_TLS_SERVER_CA_CERT_PATH=" in said
        authority = str(tmp_path / "ca.pem")
        said = await problem(monkeypatch, NoAnswer, TEMPORAL_TLS_SERVER_CA_CERT_PATH=authority)
        assert "is for another host: name that host, e.g. TEMPORAL_TLS_SERVER_NAME=" in said


# ------------------------------------------------------------------------------------------------------------- programs


async def ended(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """The exit status, the output and the errors of a program."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TEMPORAL_CONFIG_FILE": os.devnull, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), errors.decode()


@pytest.mark.parametrize(
    ("program", "status"), one_in(3, [("starter.py list --runs", 2), ("worker.py", 1), ("webhooks.py", 1)])
)
async def test_every_program_names_the_setting(program: str, status: int) -> None:
    """One line, and no traceback."""
    found, out, errors = await ended(*program.split(), TEMPORAL_TLS_SERVER_CA_CERT_PATH="/no.pem")
    name = "" if program.startswith("starter") else f"{program}: "
    reason = "TEMPORAL_TLS_SERVER_CA_CERT_PATH: /no.pem cannot be read: No such file or directory"
    assert (found, out, errors) == (status, "", f"{name}{reason}\n")


@pytest.mark.prove
@pytest.mark.parametrize(
    ("ending", "wanted"),
    [
        ("return None", (0, "out\nat exit\n", "")),
        ("return 7", (7, "out\nat exit\n", "")),
        ("sys.exit('no')", (1, "out\nat exit\n", "no\n")),
        ("sys.exit(3)", (3, "out\nat exit\n", "")),
        ("raise KeyboardInterrupt", (130, "out\nat exit\n", "")),
        ("raise ValueError('why')", (1, "out\nat exit\n", "ValueError: why\n")),
    ],
)
async def test_a_program_that_runs_a_client_ends_as_it_says(ending: str, wanted: tuple[int, str, str]) -> None:
    """Its output is written, its exit functions run, and the exit status is its own."""
    code = (
        "import atexit, sys\nfrom config.temporal import run\n"
        f"async def main():\n    print('out')\n    {ending}\n"
        "atexit.register(print, 'at exit')\nrun(main())\n"
    )
    status, out, errors = await ended("-c", code)
    last = errors.splitlines(keepends=True)[-1:] or [""]
    assert (status, out, last[0]) == wanted


async def test_a_program_that_fails_ends_at_once() -> None:
    """Not through the interpreter's own exit, which waits for threads and may abort in those of the SDK."""
    code = (
        "import atexit, threading\nfrom contextlib import asynccontextmanager\nfrom app.process import launch\n"
        "@asynccontextmanager\nasync def program(settings):\n"
        "    threading.Timer(3, print, ['a thread goes on']).start()\n    raise ValueError('why')\n    yield\n"
        "atexit.register(print, 'at exit')\nlaunch('x.py', program)\n"
    )
    status, out, errors = await ended("-c", code)
    assert (status, out, errors.splitlines()[-1]) == (1, "at exit\n", "ValueError: why")


async def test_a_program_whose_output_is_lost_says_so() -> None:
    """Also one that does not use the streams of our own programs."""
    code = "from config.temporal import run\nasync def main():\n    print('out')\nrun(main())"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$@" >/dev/full', "sh", sys.executable, "-c", code),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == config.streams.NOT_WRITTEN
    assert errors.decode().startswith("Standard output cannot be written: No space left on device.")


async def test_a_taken_port_is_one_line(database_url: str, temporal: WorkflowEnvironment) -> None:
    """webhooks.py names the setting, and what to do."""
    (port,) = free_ports(1)
    with socket.create_server((HOST, port)):
        status, _, errors = await ended(
            "webhooks.py",
            DATABASE_URL=database_url,
            TEMPORAL_ADDRESS=temporal.client.service_client.config.target_host,
            WEBHOOKS_PORT=str(port),
        )
    assert status == 1
    assert errors.splitlines()[-1] == (
        f"webhooks.py: WEBHOOKS_PORT: port {port} of {HOST} cannot be used: Address already in use. "
        "Stop the program that uses it, or set another"
    )


@pytest.mark.prove
async def test_a_ready_file_that_cannot_be_made_is_one_line(database_url: str, temporal: WorkflowEnvironment) -> None:
    """worker.py names the setting."""
    status, _, errors = await ended(
        "worker.py",
        DATABASE_URL=database_url,
        TEMPORAL_ADDRESS=temporal.client.service_client.config.target_host,
        WORKER_READY_FILE="/no/ready",
    )
    assert status == 1
    last = errors.splitlines()[-1]
    assert last == "worker.py: WORKER_READY_FILE: /no/ready cannot be made: No such file or directory"
