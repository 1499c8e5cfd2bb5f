"""Why PostgreSQL at DATABASE_URL cannot be used: one sentence that says what to do, and quotes no secret."""

import os
import socket
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg

# What the driver raises when it cannot connect.
CONNECT_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)

FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
APP_ROLE: Final = "orders_app"  # of the programs
CATALOGUE_ROLE: Final = "orders_catalogue"  # of who imports products
PRIVACY_ROLE: Final = "orders_privacy"  # of who answers requests for erasure
READER_ROLE: Final = "orders_readonly"  # of who only reads
GRANT: Final = "run GRANT {role} TO {login} as an administrator"

# The first match counts, so a subclass stands before its base.
SENTENCES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (asyncpg.InvalidPasswordError, "it refuses the user or the password"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "it refuses the login: check the user, the client certificate (sslcert, sslkey) and pg_hba.conf",
    ),
    (asyncpg.InvalidCatalogNameError, "there is no such database: create it"),
    (asyncpg.InvalidParameterValueError, "it refuses the value of one of these parameters: {parameters}"),
    (asyncpg.UndefinedObjectError, "it does not know one of these parameters, remove it: {parameters}"),
    (
        asyncpg.ProtocolViolationError,
        "a pgbouncer in front refuses one of these parameters, remove it: {parameters}; instead of role, " + GRANT,
    ),
    (asyncpg.InsufficientPrivilegeError, "the login may not use the database or the role: " + GRANT),
    (asyncpg.TooManyConnectionsError, "it has no connection left: raise max_connections or lower DATABASE_POOL_SIZE"),
    (asyncpg.CannotConnectNowError, "it is starting or stopping: try again"),
    (
        asyncpg.ConnectionDoesNotExistError,
        "it ends the connection: it may demand a client certificate (sslcert, sslkey), or be stopping; look at its log",
    ),
    (
        asyncpg.ClientConfigurationError,
        "correct sslmode, sslrootcert and ssl_…: verify-full needs e.g. sslrootcert=system",
    ),
    (ssl.SSLCertVerificationError, "its certificate is not trusted: write sslrootcert with the file of its CA"),
    (ssl.SSLError, "TLS fails: check sslmode, sslrootcert, sslcert and sslkey"),
    (socket.gaierror, "the name of its host is not known: {place}"),
    (ConnectionRefusedError, "nothing answers at {place} (is `make up` running?)"),
    (TimeoutError, "{place} does not answer in time"),
)


def problem_of(error: Exception, url: str) -> str:
    """What is wrong, after one of CONNECT_ERRORS for this address."""
    return f"PostgreSQL at DATABASE_URL cannot be used: {_reason(error, url)}"


def missing_grant(login: str, role: str) -> str:
    """What to do when a login may not do what the role may. `login` is quoted as SQL needs it."""
    return "PostgreSQL at DATABASE_URL cannot be used: the login may not use the tables: " + GRANT.format(
        role=role, login=login
    )


def _reason(error: Exception, url: str) -> str:
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query))
    for name in FILES:
        if isinstance(error, OSError) and name in parameters and not _is_readable(parameters[name]):
            return f"{name} names a file that cannot be read"
    if type(error) is ConnectionError:  # as the driver reports a server that declines TLS
        return "it does not use TLS: write sslmode=disable if nobody can listen in on the way"
    sentence = next((text for kind, text in SENTENCES if isinstance(error, kind)), _other(error))
    login = f'"{unquote(parts.username)}"' if parts.username else "the login"
    return sentence.format(
        role=parameters.get("role", APP_ROLE),
        login=login,
        parameters=", ".join(parameters) or "none",
        place=parts.netloc.rpartition("@")[2] or "its default address",
    )


def _other(error: Exception) -> str:
    if isinstance(error, asyncpg.PostgresError):
        return f"it answers with error {error.sqlstate}: look for it in the server's log"
    return getattr(error, "strerror", None) or "check its host, port and parameters"


def _is_readable(path: str) -> bool:
    return Path(path).is_file() and os.access(path, os.R_OK)
