"""DATABASE_URL: addresses written for other tools are understood, or refused with what to write instead."""

import ssl

import pytest
from pydantic import SecretStr

from config.settings import Settings, read_settings
from orders.errors import InvalidInput

PLACE = "postgresql://u:p@h:5432/d"


def read(url: str) -> str:
    return Settings(database_url=SecretStr(url)).database_url.get_secret_value()


@pytest.mark.parametrize(
    "url",
    [
        PLACE,
        f" {PLACE}\n",
        "postgres://u:p@h:5432/d",
        "postgresql+asyncpg://u:p@h:5432/d",
        "postgresql+psycopg://u:p@h:5432/d",
        f"{PLACE}?channel_binding=prefer&connect_timeout=10",
        f"{PLACE}?schema=public&pgbouncer=true&connection_limit=5&pool_timeout=3",
        f"{PLACE}?prepared_statement_cache_size=0&statement_cache_size=0",
    ],
)
def test_addresses_of_other_tools_mean_the_same(url: str) -> None:
    """What says nothing about this server is left out."""
    assert read(url) == PLACE


@pytest.mark.parametrize(
    "url",
    [
        f"{PLACE}?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem",
        f"{PLACE}?role=orders_app&options=-c%20statement_timeout%3D5s",
        "postgresql://u:p%40s%2Fs%25@h1:5432,h2/d?target_session_attrs=read-write",
        "postgresql:///d?host=/var/run/postgresql",
        "postgresql://u:p@[::1]:5432/d",
        "postgresql://u:50%off@h/d",
    ],
)
def test_what_the_driver_and_the_server_read_is_kept(url: str) -> None:
    """Also what only the server knows: it refuses what it does not know."""
    assert read(url) == url


def test_the_roots_of_the_system() -> None:
    """The driver wants a file; with verify-full the demand for channel binding is met in another way."""
    bundle = ssl.get_default_verify_paths().cafile
    assert bundle
    assert read(f"{PLACE}?sslmode=verify-full&sslrootcert=system&channel_binding=require") == (
        f"{PLACE}?sslmode=verify-full&sslrootcert={bundle}"
    )


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", "must have the form postgresql://"),
        ("canary", "must have the form postgresql://"),
        ("mysql://u:canary@h/d", "must have the form postgresql://"),
        ("postgresql://u:can ary@h/d", "%20"),
        ("postgresql://u:can\nary@h/d", "%20"),
        ("postgresql://u:can@ary@h/d", "%40"),
        ("postgresql://u:can#ary@h/d", "%23"),
        ("postgresql://u:can/ary@h/d", "%2F"),
        ("postgresql://u:canary@h:x/d", "a port must be a number"),
        ("postgresql://u:canary@h:0/d", "a port must be a number"),
        ("postgresql://u:canary@h1:1,h2:99999/d", "a port must be a number"),
        (f"{PLACE}?canary", "name=value"),
        (f"{PLACE}?ssl=true", "sslmode=require"),
        (f"{PLACE}?sslmode=require&channel_binding=require", "sslmode=verify-full"),
        (f"{PLACE}?schema=canary", "schema public"),
        (f"{PLACE}?sslmode=canary", "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full"),
        (f"{PLACE}?sslmode=", "sslmode must be one of"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_write(
    monkeypatch: pytest.MonkeyPatch, url: str, advice: str
) -> None:
    """One line names the setting and quotes no value."""
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(InvalidInput) as refusal:
        read_settings()
    (problem,) = refusal.value.problems
    assert problem.startswith("DATABASE_URL: ")
    assert advice in problem
    assert "canary" not in problem
