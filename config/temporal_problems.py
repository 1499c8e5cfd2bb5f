"""Why Temporal cannot be used: one sentence that says which setting to correct, in place of what the SDK reports."""

import re
from collections.abc import Mapping
from typing import Final

ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+):([0-9]{1,5})")
MAX_PORT: Final = 65_535

NOT_TEMPORAL: Final = (
    "what answers at {target} is not Temporal, or it uses TLS: check the port (it is not that of the Web UI), and set "
    "TEMPORAL_TLS=true if the server uses TLS"
)

# A server that refuses a client's certificate, or the lack of one, often says no more than that it hangs up.
HUNG_UP: Final = (
    "what answers at {target} ends the connection: it may demand a client certificate of a CA that it trusts "
    "(TEMPORAL_TLS_CLIENT_CERT_PATH, TEMPORAL_TLS_CLIENT_KEY_PATH); or it is not Temporal"
)

# What the SDK's message contains, and what is wrong. The first match counts.
SETTINGS: Final = {
    "Must have both": "TEMPORAL_TLS_CLIENT_CERT_PATH and TEMPORAL_TLS_CLIENT_KEY_PATH: set both, or neither",
    "PrivateKeyParseError": "TEMPORAL_TLS_CLIENT_KEY_PATH: must name a file with a private key in PEM",
    "NoCertificatesPresented": "TEMPORAL_TLS_CLIENT_CERT_PATH: must name a file with a certificate in PEM",
    "KeyMismatch": "TEMPORAL_TLS_CLIENT_KEY_PATH: is not the key of the certificate in TEMPORAL_TLS_CLIENT_CERT_PATH",
    "CertificateParseError": "TEMPORAL_TLS_SERVER_CA_CERT_PATH: must name a file with certificates in PEM",
}
CONNECTION: Final = {
    "ConnectionRefused": (
        "nothing answers at {target}. Is `make up` running? If Temporal is elsewhere, set its address, e.g. "
        "TEMPORAL_ADDRESS=temporal.example.com:7233"
    ),
    "dns error": "the host of {target} is not known: correct TEMPORAL_ADDRESS",
    "tcp connect error": "{target} cannot be reached: check TEMPORAL_ADDRESS and the network",
    "UnknownIssuer": (
        "the certificate of {target} is not trusted: name the file of its CA, e.g. "
        "TEMPORAL_TLS_SERVER_CA_CERT_PATH=/etc/temporal/ca.pem"
    ),
    "NotValidForName": (
        "the certificate of {target} is for another host: name that host, e.g. "
        "TEMPORAL_TLS_SERVER_NAME=temporal.example.com"
    ),
    "InvalidCertificate": "the certificate of {target} is not valid: it may have expired",
    "InvalidContentType": "{target} does not use TLS: unset TEMPORAL_TLS, TEMPORAL_TLS_… and TEMPORAL_API_KEY",
    "Unauthenticated": "{target} refuses the login: check TEMPORAL_API_KEY or the client certificate",
    "PermissionDenied": "{target} refuses the login: check TEMPORAL_API_KEY and TEMPORAL_NAMESPACE",
}


def profile_problem(error: Exception, environment: Mapping[str, str]) -> str:
    """What is wrong with the variables TEMPORAL_…, or with the profile."""
    if isinstance(error, OSError) and error.filename:
        named = [name for name, value in environment.items() if value == error.filename and name.startswith("TEMPORAL")]
        return f"{' and '.join(named) or 'Temporal profile'}: {error.filename} cannot be read: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines()]
    reason = f"{lines[0]}: {lines[-1]}" if lines[1:] else lines[0]  # of TOML: the place and the problem
    reason = re.sub(r"^(Configuration loading error|Invalid configuration): | \(os error \d+\)$", "", reason)
    file = environment.get("TEMPORAL_CONFIG_FILE")
    return f"TEMPORAL_PROFILE, TEMPORAL_CONFIG_FILE{f' {file}' if file else ''}: {reason}"


def address_problem(target: str) -> str | None:
    """What is wrong with the address; None if nothing is."""
    match = ADDRESS.fullmatch(target)
    if match and 1 <= int(match[2]) <= MAX_PORT:
        return None
    return "TEMPORAL_ADDRESS: must be a host and a port, without http://, e.g. 127.0.0.1:7233"


def setting_problem(error: Exception) -> str | None:
    """Which setting keeps the SDK from connecting; None if it is none of them."""
    return _first(SETTINGS, error)


def connection_problem(error: Exception, target: str, *, by_tls: bool) -> str:
    """Why the connection to an address fails."""
    sentence = _first(CONNECTION, error) or (HUNG_UP if by_tls else NOT_TEMPORAL)
    return f"Temporal is out of reach: {sentence.format(target=target)}"


def _first(sentences: Mapping[str, str], error: Exception) -> str | None:
    return next((text for part, text in sentences.items() if part in str(error)), None)
