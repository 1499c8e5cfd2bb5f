"""The sockets on which a program listens."""

import socket

from app.startup_checks import CannotStart


def open_listener(setting: str, host: str, port: int) -> socket.socket:
    """A socket that listens at the address that `setting` gives. Port 0: a free one.

    Raises:
        CannotStart: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # without the address, which is named already
        raise CannotStart(
            f"{setting}: port {port} of {host} cannot be used: {reason}. Stop the program that uses it, or set another"
        ) from None
