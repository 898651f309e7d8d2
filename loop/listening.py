"""Addresses that a command or a run listens at."""

from __future__ import annotations

import socket

from loop.config.explain import ConfigError


class PortTakenError(ConfigError):
    """Another program listens at the port, or nobody may."""


def listen(host: str, port: int, setting: str = "--port") -> socket.socket:
    """A socket at an address; port 0 takes a free one.

    Args:
        setting: Where another port can be given, for the message.

    Raises:
        PortTakenError: It cannot be had.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise PortTakenError(
            f"port {port} of {host} cannot be used: {error.strerror}; choose another {setting}"
        ) from None
    return found


def shown(host: str) -> str:
    """A host as it stands in an address."""
    return f"[{host}]" if ":" in host else host
