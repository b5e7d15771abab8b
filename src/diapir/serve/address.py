"""The address that a service or a page listens on."""

import socket

from diapir.errors import RunError


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections.

    Args:
        host: Name or address of this machine.
        port: 0: any free one.

    Raises:
        RunError: The port is taken, or the address is not of this machine.
    """
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), int(address[1])), family=kind)
    except OSError as error:
        raise RunError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}",
            where="--port",
            mend="Give another port, or 0 for any free one.",
        ) from error
