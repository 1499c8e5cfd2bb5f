"""make check-tls: a real pgbouncer and a real PostgreSQL, with TLS and client certificates, from DATABASE_URL alone.

    PGBOUNCER=PROGRAM    another pgbouncer than that of the system, e.g. a newer one

What is not installed is skipped, and named. TLS to Temporal needs no package: test_temporal_frontend.py proves it.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from temporalio.testing import WorkflowEnvironment

from app.startup_checks import CannotStart, open_database
from client.orders import submit_order
from config.settings import Settings, sandbox_addresses
from deploy.local.postgres import SERVICE_UID, temporary_folder
from deploy.local.process import HOST, ROOT, Command, free_ports, run, running
from gateways.postgres_facts import describe
from sandbox.server import serve
from tests.support.certificates import Certificates
from tests.support.shop import an_order, eventually

PGBOUNCER: Final = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer") or ""
POSTGRES: Final = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
ORDERS: Final = 20

needs_pgbouncer = pytest.mark.skipif(not PGBOUNCER, reason="pgbouncer is not installed: apt-get install pgbouncer")
needs_postgres = pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed: apt-get install postgresql")


def version() -> tuple[int, ...]:
    said = subprocess.check_output([PGBOUNCER, "--version"], text=True)  # noqa: S603 (named by who runs the check)
    return tuple(map(int, re.findall(r"\d+", said)[:2]))


needs_tracking = pytest.mark.skipif(
    not PGBOUNCER or version() < (1, 21),
    reason="this pgbouncer does not track prepared statements: name a newer one, PGBOUNCER=PROGRAM make check-tls",
)


@pytest.fixture
def folder() -> Any:
    """Whose files the user of the servers may read."""
    with temporary_folder() as path:
        yield path


@pytest.fixture
def certificates(folder: Path) -> Certificates:
    return Certificates(folder)


def give(path: Path) -> Path:
    """A file of the servers' user: a key must be nobody else's."""
    if os.geteuid() == 0:
        os.chown(path, SERVICE_UID, SERVICE_UID)
    path.chmod(0o600 if path.suffix == ".key" else 0o644)
    return path


def uid() -> int | None:
    return SERVICE_UID if os.geteuid() == 0 else None


@asynccontextmanager
async def pgbouncer(url: str, certificates: Certificates, **settings: str) -> AsyncIterator[str]:
    """A pgbouncer in transaction mode before this database, which demands TLS; yields the address behind it."""
    (port,), folder = free_ports(1), certificates.folder
    certificate, key = map(give, certificates.of_server(HOST))
    (folder / "users.txt").write_text('"orders" "orders"\n')
    given = {
        "listen_addr": HOST,
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": str(folder / "users.txt"),
        "pool_mode": "transaction",
        "default_pool_size": "4",
        "client_tls_sslmode": "require",
        "client_tls_key_file": str(key),
        "client_tls_cert_file": str(certificate),
        **settings,
    }
    server = urlsplit(url)
    lines = [f"* = host={server.hostname} port={server.port}", "[pgbouncer]", *(f"{k} = {v}" for k, v in given.items())]
    (folder / "pgbouncer.ini").write_text("\n".join(["[databases]", *lines, ""]))
    log = folder / "pgbouncer.log"
    command = Command(name="pgbouncer", argv=(PGBOUNCER, str(folder / "pgbouncer.ini")), log=log, cwd=folder, uid=uid())

    async def listens() -> bool:
        return "listening on" in log.read_text()

    async with running(command):
        await eventually(listens, "pgbouncer listens")
        yield f"postgresql://orders:orders@{HOST}:{port}{server.path}"


async def sentence(url: str) -> str:
    with pytest.raises(CannotStart) as refusal:
        async with open_database(Settings(database_url=SecretStr(url)), checks=()):
            pass
    return str(refusal.value)


async def doctor(url: str, **settings: str) -> dict[str, str]:
    """What doctor says of PostgreSQL, by check: the state and the text."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "starter.py", "doctor", "--json"),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url, "TEMPORAL_ADDRESS": f"{HOST}:1", **settings},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    found = [each for each in json.loads(said) if each["area"] == "PostgreSQL"]
    return {each["check"]: f"{each['state']}: {each['text']}" for each in found}


async def place_orders(temporal: WorkflowEnvironment, direct: str, url: str, folder: Path, **settings: str) -> None:
    """A worker at this address places orders all at once: each is paid, and every unit is sold or there."""
    log = folder / "worker.log"

    async def is_ready() -> bool:
        return "worker ready" in log.read_text()

    async with serve() as sandbox:
        given = {"TEMPORAL_ADDRESS": temporal.client.service_client.config.target_host, "DATABASE_URL": url, **settings}
        environment = {**os.environ, **given, **sandbox_addresses(sandbox.url)}
        async with running(Command(name="The worker", argv=(sys.executable, "worker.py"), log=log, env=environment)):
            await eventually(is_ready, "the worker is ready")
            outcomes = await asyncio.gather(
                *(
                    submit_order(temporal.client, f"{folder.name}-{number}", json.dumps(an_order()))
                    for number in range(ORDERS)
                )
            )
    assert all(outcome.success for outcome in outcomes)
    assert "NameError" not in log.read_text()
    assert "StatementError" not in log.read_text()
    connection = await asyncpg.connect(direct)
    stock = await connection.fetchrow("SELECT quantity, reserved, sold FROM inventory WHERE product_id = '1'")
    await connection.close()
    assert tuple(stock or ()) == (100 - 2 * ORDERS, 0, 2 * ORDERS)


# -------------------------------------------------------------------------------------------------------- pgbouncer


@needs_pgbouncer
@pytest.mark.timeout(180)
async def test_orders_through_a_pgbouncer_that_tracks_no_statements(
    temporal: WorkflowEnvironment, database_url: str, certificates: Certificates
) -> None:
    """By verify-full, with DATABASE_PREPARED_STATEMENTS=false; without it doctor says what to set."""
    untracked = {} if version() < (1, 21) else {"max_prepared_statements": "0"}
    async with pgbouncer(database_url, certificates, **untracked) as address:
        url = f"{address}?sslmode=verify-full&sslrootcert={certificates.ca_file}"
        kept = await doctor(url)
        assert kept["prepared statements"].startswith(
            "problem: a pgbouncer in front does not track prepared statements"
        )
        settings = {"DATABASE_PREPARED_STATEMENTS": "false"}
        said = await doctor(url, **settings)
        assert said["prepared statements"] == "ok: not kept, as DATABASE_PREPARED_STATEMENTS says"
        assert said["TLS"] == "ok: encrypted, and the server's certificate is checked (verify-full)"
        assert said["rights"].startswith("ok: ")
        await place_orders(temporal, database_url, url, certificates.folder, **settings)


@needs_pgbouncer
@needs_tracking
@pytest.mark.timeout(180)
async def test_orders_through_a_pgbouncer_that_tracks_statements(
    temporal: WorkflowEnvironment, database_url: str, certificates: Certificates
) -> None:
    """By verify-full, with prepared statements, which are the default."""
    async with pgbouncer(database_url, certificates, max_prepared_statements="200") as address:
        url = f"{address}?sslmode=verify-full&sslrootcert={certificates.ca_file}"
        assert (await doctor(url))["prepared statements"] == "ok: kept from one transaction to the next"
        await place_orders(temporal, database_url, url, certificates.folder)


@needs_pgbouncer
async def test_the_certificates_of_pgbouncer_and_of_the_client(database_url: str, certificates: Certificates) -> None:
    """Each that is wrong or missing is refused, with what to write."""
    trusting = f"sslmode=verify-full&sslrootcert={certificates.ca_file}"
    demanding = {"client_tls_sslmode": "verify-full", "client_tls_ca_file": str(certificates.ca_file)}
    async with pgbouncer(database_url, certificates, **demanding) as address:
        assert "its certificate is not trusted" in await sentence(
            f"{address}?sslmode=verify-full&sslrootcert={certificates.other_ca_file}"
        )
        assert "sslcert" in await sentence(f"{address}?{trusting}")
        for name in ("orders", "stranger"):
            certificate, key = certificates.of_client(name)
            url = f"{address}?{trusting}&sslcert={certificate}&sslkey={key}"
            if name == "stranger":
                assert "sslcert" in await sentence(url)
            else:
                async with open_database(Settings(database_url=SecretStr(url), database_prepared_statements=False)):
                    pass


# -------------------------------------------------------------------------------------------------------- PostgreSQL


@asynccontextmanager
async def postgres(certificates: Certificates) -> AsyncIterator[str]:
    """The system's PostgreSQL, which takes nothing but TLS and, of the login `shop`, a certificate too."""
    assert POSTGRES
    folder, (port,) = certificates.folder, free_ports(1)
    certificate, key = map(give, certificates.of_server(HOST))
    give(certificates.ca_file)
    data = folder / "data"
    data.mkdir()
    give(data).chmod(0o700)
    log = folder / "postgres.log"
    (folder / "password").write_text("canary")
    initdb = (str(POSTGRES / "initdb"), "-D", str(data), "-U", "orders", f"--pwfile={folder / 'password'}", "--no-sync")
    await run(Command(name="initdb", argv=initdb, log=folder / "initdb.log", cwd=folder, uid=uid()))
    (data / "pg_hba.conf").write_text("hostssl all shop all cert\nhostssl all all all scram-sha-256\n")
    settings = {"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key, "ssl_ca_file": certificates.ca_file}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    argv = (str(POSTGRES / "postgres"), "-D", str(data), "-h", HOST, "-p", str(port), "-k", "", *options)

    async def listens() -> bool:
        return "ready to accept connections" in log.read_text()

    async with running(Command(name="Postgres", argv=argv, log=log, cwd=folder, uid=uid())):
        await eventually(listens, "PostgreSQL listens")
        yield f"{HOST}:{port}/postgres"


@needs_postgres
async def test_a_postgres_that_takes_nothing_but_tls(certificates: Certificates) -> None:
    """verify-full by its own certificate; a login by certificate; and what each refusal says."""
    trusting = f"sslmode=verify-full&sslrootcert={certificates.ca_file}"
    async with postgres(certificates) as place:
        async with open_database(
            Settings(database_url=SecretStr(f"postgresql://orders:canary@{place}?{trusting}")), checks=()
        ) as database:
            assert (await describe(database)).login == "orders"
            async with database.transaction() as connection:
                assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                await connection.execute("CREATE ROLE shop LOGIN")

        certificate, key = certificates.of_client("shop")
        shop = f"postgresql://shop@{place}?{trusting}&sslcert={certificate}&sslkey={key}"
        async with open_database(Settings(database_url=SecretStr(shop)), checks=()) as database:
            assert (await describe(database)).login == "shop"

        assert "its certificate is not trusted" in await sentence(
            f"postgresql://orders:canary@{place}?sslmode=verify-full&sslrootcert={certificates.other_ca_file}"
        )
        assert "pg_hba.conf" in await sentence(f"postgresql://orders:canary@{place}?sslmode=disable")
        assert "the client certificate (sslcert, sslkey)" in await sentence(f"postgresql://shop@{place}?{trusting}")
