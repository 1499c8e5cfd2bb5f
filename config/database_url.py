"""One form of DATABASE_URL, whatever library or tool the operator's address was written for."""

import ssl
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

SCHEMES: Final = {"postgres", "postgresql"}
SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# Parameters of other tools about what is fixed here: no statement is prepared by name, and the time-outs are our own.
WITHOUT_MEANING: Final = {
    "connect_timeout",
    "connection_limit",
    "pgbouncer",
    "pool_timeout",
    "prepared_statement_cache_size",
    "statement_cache_size",
}


def parse_database_url(url: str) -> str:
    """The address in the form that the driver reads. A parameter that is not known here is the server's.

    Raises:
        ValueError: the address cannot be used; the message says what to write, and quotes nothing but names.
    """
    if not url.isprintable() or " " in url:
        raise ValueError("must not contain spaces or control characters: write a space in a password as %20")
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0].lower() not in SCHEMES or not rest:
        raise ValueError("must have the form postgresql://user:password@host:port/database")
    try:
        parts = urlsplit(f"postgresql://{rest}")
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError("the host or a parameter after `?` cannot be read: write parameters as name=value") from None
    if parts.fragment or "@" in parts.path or parts.netloc.count("@") > 1:
        raise ValueError("in user and password write @ as %40, / as %2F, # as %23, ? as %3F")
    if not all(_is_host(each) for each in parts.netloc.rpartition("@")[2].split(",")):
        raise ValueError("a port must be a number between 1 and 65535")
    query = urlencode(_known(parameters), safe="/:,", quote_via=quote)
    return f"postgresql://{parts.netloc}{parts.path}{query and '?'}{query}"


def _is_host(text: str) -> bool:
    try:
        return urlsplit(f"//{text}").port != 0
    except ValueError:
        return False


def _known(parameters: dict[str, str]) -> dict[str, str]:
    """The parameters that the driver and the server read. Raises ValueError."""
    if "ssl" in parameters:
        raise ValueError("write sslmode=require or sslmode=verify-full instead of the parameter ssl")
    if parameters.get("sslmode", "prefer") not in SSL_MODES:
        raise ValueError(f"sslmode must be one of {', '.join(SSL_MODES)}; e.g. ?sslmode=verify-full&sslrootcert=system")
    binding = parameters.pop("channel_binding", "prefer")
    if binding == "require" and parameters.get("sslmode") != "verify-full":
        raise ValueError(
            "channel_binding=require is not supported: write sslmode=verify-full&sslrootcert=system instead, which "
            "checks the server's certificate"
        )
    if parameters.pop("schema", "public") != "public":
        raise ValueError("the tables are in the schema public: remove the parameter schema")
    if parameters.get("sslrootcert") == "system":
        parameters["sslrootcert"] = ssl.get_default_verify_paths().cafile or "system"
    return {name: value for name, value in parameters.items() if name not in WITHOUT_MEANING}
