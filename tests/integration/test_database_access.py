"""What worker, web process and `make migrate` make of a DATABASE_URL: the same, and one sentence where it fails."""

import asyncio
import os
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
import trustme
from pydantic import SecretStr

from app.migrate import migrate
from app.startup_checks import CannotStart, open_database
from config.settings import Settings
from deploy.local.postgres import Postgres
from deploy.local.process import ROOT
from tests.support.sample import one_in

TLS_REQUEST, PROTOCOL_3 = 80877103, 196608  # the codes that begin a connection

Access = Callable[[str], Awaitable[None]]

LOGINS = """
    DROP ROLE IF EXISTS stranger, reader, clerk;
    CREATE ROLE stranger LOGIN PASSWORD 'canary';
    CREATE ROLE reader LOGIN PASSWORD 'canary' IN ROLE orders_readonly;
    CREATE ROLE clerk LOGIN PASSWORD 'canary' IN ROLE orders_app;
"""


@pytest.fixture
async def logins(database_url: str) -> str:
    """The address of the test's database, with the place of user and password open."""
    await run(database_url, LOGINS)
    return database_url.replace("orders:orders", "{0}")


async def run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def settings_of(url: str) -> Settings:
    return Settings(database_url=SecretStr(url))


async def opened(url: str) -> None:
    """As the worker and the web process open it."""
    async with open_database(settings_of(url)):
        pass


async def migrated(url: str) -> None:
    await migrate(settings_of(url).database_url.get_secret_value())


async def sentence(url: str, access: Access = opened) -> str:
    """The one sentence with which an address is refused."""
    with pytest.raises(CannotStart) as refusal:
        await access(url)
    said = str(refusal.value)
    assert "canary" not in said
    assert len(said.splitlines()) == 1
    return said


@pytest.mark.parametrize("access", [opened, migrated])
@pytest.mark.parametrize(
    "form",
    one_in(
        3,
        [
            "{0}",
            "{0}\n",
            "{0}?sslmode=disable",
            "{0}?sslmode=prefer&channel_binding=prefer&connect_timeout=10",
            "{0}?schema=public&pgbouncer=true&connection_limit=1",
            "{0}?application_name=shop&options=-c%20statement_timeout%3D9s",
            "{0}?target_session_attrs=read-write",
        ],
    ),
)
async def test_every_program_takes_the_same_addresses(database_url: str, form: str, access: Access) -> None:
    """Whatever tool they were written for."""
    await access(form.format(database_url))
    await access(form.format(database_url.replace("postgresql://", "postgresql+asyncpg://")))
    await access(form.format(database_url.replace("@127.0.0.1", "@127.0.0.1:1,127.0.0.1")))


@pytest.mark.parametrize("access", [opened, migrated])
@pytest.mark.parametrize(
    ("change", "advice"),
    one_in(
        3,
        [
            (("@127.0.0.1", "@nowhere.invalid"), "host is not known"),
            (("orders:orders", "orders:canary"), "refuses the user or the password"),
            (("/test_", "/none_"), "no such database"),
            (("", "?sslmode=require"), "write sslmode=disable"),
            (("", "?sslmode=verify-full"), "sslrootcert=system"),
            (("", "?sslmode=require&sslcert=/no/canary.crt&sslkey=/no/canary.key"), "sslcert names a file"),
            (("", "?sslmode=require&sslcrl=/no/canary.crl"), "sslcrl names a file"),
            (("", "?sslmode=verify-full&sslrootcert=/"), "sslrootcert names a file"),
            (("", "?sslmode=verify-full&sslrootcert=/no/canary.crt"), "sslrootcert names a file"),
            (("", "?gssencmode=disable"), "remove it: gssencmode"),
            (("", "?role=canary"), "refuses the value of one of these parameters: role"),
        ],
    ),
    ids=lambda value: value if isinstance(value, str) else value[1],
)
async def test_every_program_says_what_to_write(
    database_url: str, access: Access, change: tuple[str, str], advice: str
) -> None:
    """One sentence, without a secret or a value, and never only the name of an error."""
    old, new = change
    url = database_url.replace(old, new, 1) if old else database_url + new
    assert advice in await sentence(url, access)


async def test_nothing_listens(database_url: str) -> None:
    """For example the wrong port."""
    port = database_url.rpartition(":")[2].partition("/")[0]
    assert "nothing answers at 127.0.0.1:1 (is `make up` running?)" in await sentence(
        database_url.replace(f":{port}/", ":1/")
    )


# --------------------------------------------------------------------------------------------------------- privileges


@pytest.mark.parametrize("login", ["stranger", "reader"])
async def test_a_login_without_the_role_is_told_the_grant(logins: str, login: str) -> None:
    """It is not told to migrate a database that is up to date."""
    said = await sentence(logins.format(f"{login}:canary"))
    assert said.endswith(f"run GRANT orders_app TO {login} as an administrator")
    assert "make migrate" not in said


@pytest.mark.parametrize("access", [opened, migrated])
async def test_a_role_in_the_address_that_the_login_lacks(logins: str, access: Access) -> None:
    """PostgreSQL refuses the connection."""
    said = await sentence(logins.format("stranger:canary") + "?role=orders_app", access)
    assert said.endswith('run GRANT orders_app TO "stranger" as an administrator')


async def test_a_login_with_the_role_is_enough(logins: str) -> None:
    """Also with the role in the address."""
    await opened(logins.format("clerk:canary"))
    await opened(logins.format("clerk:canary") + "?role=orders_app")


@asynccontextmanager
async def a_refusing_server(code: str, message: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Refuses every connection in the protocol of PostgreSQL, with this SQLSTATE; yields an address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # the client may leave at the certificate
            while (request := await read_startup(reader)) == TLS_REQUEST:
                writer.write(b"S" if tls else b"N")
                if tls:
                    await writer.start_tls(tls)
            assert request == PROTOCOL_3
            fields = f"SFATAL\0C{code}\0M{message}\0\0".encode()
            writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"postgresql://clerk:canary@127.0.0.1:{server.sockets[0].getsockname()[1]}/orders"


async def read_startup(reader: asyncio.StreamReader) -> int:
    """The code of a request that begins a connection."""
    size, code = struct.unpack("!ii", await reader.readexactly(8))
    await reader.readexactly(size - 8)
    return int(code)


@pytest.mark.parametrize("access", [opened, migrated])
async def test_a_role_through_pgbouncer(access: Access) -> None:
    """It refuses a parameter that it neither tracks nor ignores; the grant needs none."""
    async with a_refusing_server("08P01", "unsupported startup parameter: role") as url:
        said = await sentence(f"{url}?role=orders_app", access)
    assert "a pgbouncer in front refuses one of these parameters, remove it: role" in said
    assert 'GRANT orders_app TO "clerk"' in said


@pytest.mark.parametrize("access", [opened, migrated])
async def test_a_server_with_a_certificate(access: Access, tmp_path: Path) -> None:
    """It is checked by the CA that the address names; what it then refuses is the client's."""
    ca, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    trusted, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    ca.cert_pem.write_to_path(str(trusted))
    trustme.CA().cert_pem.write_to_path(str(other))
    async with a_refusing_server("28000", "connection requires a valid client certificate", tls) as url:
        for root, advice in (
            (other, "its certificate is not trusted"),
            ("system", "its certificate is not trusted"),
            (trusted, "the client certificate (sslcert, sslkey)"),
        ):
            assert advice in await sentence(f"{url}?sslmode=verify-full&sslrootcert={root}", access)
        assert "sslcert names a file that cannot be read" in await sentence(
            f"{url}?sslmode=verify-full&sslrootcert={trusted}&sslcert=/no/canary.crt", access
        )


# --------------------------------------------------------------------------------------------------------- migrations


@pytest.fixture
async def empty(postgres: Postgres) -> AsyncIterator[str]:
    """The address of a database without a schema."""
    name = f"empty_{os.urandom(6).hex()}"
    await run(postgres.url(), f"CREATE DATABASE {name}")
    yield postgres.url(name)
    await run(postgres.url(), f"DROP DATABASE {name} WITH (FORCE)")


async def make_migrate(url: str) -> tuple[int | None, str]:
    """The exit status and the output of the program that `make migrate` runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.migrate"),
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "STRIPE_SECRET_KEY": "sk_live_canary"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_the_program_that_migrates(empty: str) -> None:
    """It needs no key of an external service, applies each migration once, and names it."""
    assert await sentence(empty) == (
        "PostgreSQL lacks the migrations 20261101000000, 20261101000100: run `make migrate`"
    )
    status, said = await make_migrate(f"{empty}\n")
    assert (status, said.splitlines()) == (0, ["Applied 20261101000000_schema.sql", "Applied 20261101000100_roles.sql"])
    assert await make_migrate(empty) == (0, "The schema is up to date.\n")
    await opened(empty)


async def test_an_address_that_cannot_be_used() -> None:
    """One line names the setting; the exit status is 1."""
    status, said = await make_migrate("postgresql://u:canary@h:x/d")
    assert (status, said) == (1, "make migrate: DATABASE_URL: a port must be a number between 1 and 65535\n")


async def test_two_that_migrate_at_once(empty: str) -> None:
    """Each migration is applied by one of them."""
    applied = await asyncio.gather(*(migrate(empty) for _ in range(4)))
    assert sorted(name for names in applied for name in names) == [
        "20261101000000_schema.sql",
        "20261101000100_roles.sql",
    ]


async def test_a_server_without_pgvector(empty: str) -> None:
    """The migration says what to install, and leaves nothing behind."""
    await run(empty, f"ALTER DATABASE {empty.rpartition('/')[2]} SET extension_control_path = '/nowhere'")
    said = await sentence(empty, migrated)
    assert "PostgreSQL lacks the extension pgvector: install it on the server (Debian: postgresql-18-pgvector)" in said
    assert "20261101000000" in await sentence(empty)


@pytest.mark.usefixtures("logins")
async def test_a_login_that_may_not_create_pgvector(empty: str) -> None:
    """An administrator creates it once."""
    await run(empty, "GRANT ALL ON SCHEMA public TO stranger")
    login = empty.replace("orders:orders", "stranger:canary")
    assert "run CREATE EXTENSION vector in this database as an administrator" in await sentence(login, migrated)
    await run(empty, "CREATE EXTENSION vector")
    await migrated(login)
