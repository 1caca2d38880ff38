"""What all tests share: registries over both transports, and a look at what each test leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.transport.memory import MemoryTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

# Named although installing the package declares it: these are the sources beside this file.
pytest_plugins = ("remotemedia.testing.plugin", "pytester")


@pytest.fixture(autouse=True)
def leaves_nothing(no_residue: None) -> None:
    """A test leaves no file in shared memory or the runtime folder, no process, no descriptor."""


@pytest.fixture(params=["iceoryx", "memory"])
def registry(request: pytest.FixtureRequest) -> Iterator[ChannelRegistry]:
    """A registry over each transport."""
    transport = None if request.param == "iceoryx" else MemoryTransport()
    with ChannelRegistry(transport) as made:
        yield made
