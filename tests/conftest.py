"""What all tests share: registries over both transports, and a look at what each test leaves."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from remotemedia.core.multiprocess.transport.doorbell import DEFAULT_SPIN_NS
from tests.channel_helpers import new_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry

# Named although installing the package declares it: these are the sources beside this file.
pytest_plugins = ("remotemedia.testing.plugin", "pytester")

# A shell has its background jobs ignore Ctrl-C, and all that they start: tests that press it would
# wait for ever.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        is_interrupt = number is signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def leaves_nothing(no_residue: None) -> None:
    """A test leaves no file in shared memory or the runtime folder, no process, no descriptor."""


@pytest.fixture
def spin_ns() -> int:
    """How long the ends of `registry` and `local` look for news; modules may have their own."""
    return DEFAULT_SPIN_NS


@pytest.fixture(params=["iceoryx", "memory"])
def registry(request: pytest.FixtureRequest, spin_ns: int) -> Iterator[ChannelRegistry]:
    """A registry over each transport."""
    with new_registry(request.param, spin_ns=spin_ns) as made:
        yield made


@pytest.fixture
def local(spin_ns: int) -> Iterator[ChannelRegistry]:
    """A registry over the transport in memory."""
    with new_registry(spin_ns=spin_ns) as made:
        yield made
