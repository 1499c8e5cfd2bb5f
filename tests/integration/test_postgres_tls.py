"""PostgreSQL by TLS, from the address alone. `make check-tls` does the same with real servers and a pgbouncer."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from app.doctor.postgres import check_tls
from app.startup_checks import CannotStart, open_database
from config.settings import Settings
from tests.support.certificates import Certificates
from tests.support.secure_line import HOST, by_tls


async def test_the_certificate_of_the_server_is_checked(database_url: str, tmp_path: Path) -> None:
    """Its CA, and its name; a program then starts as it does without TLS."""
    certificates = Certificates(tmp_path)
    port = int(database_url.rpartition(":")[2].partition("/")[0])

    async def opened(port: int, parameters: str) -> str:
        url = database_url.replace(f":{database_url.rpartition(':')[2].partition('/')[0]}/", f":{port}/")
        settings = Settings(database_url=SecretStr(f"{url}?{parameters}"))
        async with open_database(settings) as database:
            return await check_tls(database, url=settings.database_url.get_secret_value())

    trusting = f"sslmode=verify-full&sslrootcert={certificates.ca_file}"
    async with by_tls(port, *certificates.of_server(HOST)) as secure:
        assert "certificate is checked (verify-full)" in await opened(secure, trusting)
        with pytest.raises(CannotStart, match="its certificate is not trusted"):
            await opened(secure, f"sslmode=verify-full&sslrootcert={certificates.other_ca_file}")
    async with by_tls(port, *certificates.of_server("db.example.com")) as secure:
        with pytest.raises(CannotStart, match="its certificate is not trusted"):
            await opened(secure, trusting)
        assert "is checked (verify-ca)" in await opened(secure, trusting.replace("full", "ca"))
