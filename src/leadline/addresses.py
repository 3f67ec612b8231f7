"""Where something listens, and what is said where it cannot."""

from __future__ import annotations

import socket

from leadline.errors import ConfigError, reason


def split(address: str) -> tuple[str, int]:
    """``"[::1]:4318"`` -> ("::1", 4318)."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def listening_socket(setting: str, address: str, *, backlog: int) -> socket.socket:
    """A socket that listens on `address`. Raises `ConfigError`, saying which setting to change."""
    host, port = split(address)
    sock = None
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, kind, protocol)  # with its protocol, or asyncio leaves Nagle on: 40 ms an answer
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(backlog)
        sock.setblocking(False)
    except (OSError, OverflowError) as error:
        if sock is not None:
            sock.close()
        raise cannot_listen(setting, address, error) from error
    return sock


def cannot_listen(setting: str, address: str, error: Exception) -> ConfigError:
    """The error for an address that is taken, forbidden or not this machine's."""
    shown_host, _, port = address.rpartition(":")
    other = f"{shown_host}:{int(port) + 10_000 if int(port) < 50_000 else 0}"
    return ConfigError(
        [
            f"{setting}: cannot listen on {address} ({reason(error)}). Stop what listens there (ss -ltnp 'sport = :{port}' "
            f"names it), or listen elsewhere: --set {setting}={other}"
        ]
    )
