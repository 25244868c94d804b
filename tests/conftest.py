"""Processes for all tests."""

from collections.abc import Iterator

import pytest

from fork_server import ForkServer


@pytest.fixture(scope="session")
def processes() -> Iterator[ForkServer]:
    """Starts a process in no time; see fork_server."""
    server = ForkServer()
    yield server
    server.close()
