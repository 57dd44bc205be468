"""Weights and a few words between processes of one machine: JSON, then safetensors, over a loopback socket.

Nothing is unpickled, and both ends must know the run's key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import numpy as np
from safetensors.numpy import load, save

LOOPBACK = "127.0.0.1"


def listen(key: str) -> Listener:
    """Listen on a free port of the loopback device; `key` is hexadecimal."""
    return Listener((LOOPBACK, 0), family="AF_INET", authkey=bytes.fromhex(key))


def accept(listener: Listener) -> Connection:
    """The next connection by somebody who knows the key; others, such as port scanners, are turned away."""
    while True:
        try:
            return listener.accept()
        except (AuthenticationError, EOFError, ConnectionError):
            continue


def connect(address: Sequence[Any], key: str) -> Connection:
    """Connect to a listener; `address` is host and port, as JSON gives them back."""
    return Client((address[0], int(address[1])), family="AF_INET", authkey=bytes.fromhex(key))


def send(connection: Connection, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Send a JSON object and named arrays of any shape."""
    connection.send_bytes(json.dumps(header).encode())
    connection.send_bytes(save(dict(arrays)) if arrays else b"")


def receive(connection: Connection) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `send` sent. Raises EOFError when the other end has gone."""
    header = json.loads(connection.recv_bytes())
    data = connection.recv_bytes()
    return header, load(data) if data else {}


def ask(address: Sequence[Any], key: str, header: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One question and its answer, on a connection of their own. Raises EOFError or OSError when the other end dies."""
    with connect(address, key) as connection:
        send(connection, header, arrays)
        return receive(connection)
