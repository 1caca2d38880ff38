"""iceoryx2 as this project uses it: the only module that imports it, for the two that build on it.

Its rules (version 0.10.0, which is pinned) that shape all three:

- A Rust panic aborts the interpreter: a sample that is sent twice, anything used after `delete()`.
  So samples leave here only as tokens that are used once, and nothing is ever deleted: dropping
  the last reference gives a port or a sample back, and memory stays mapped while a sample lives.
- `send()` holds the GIL, so it must never wait: `DiscardData`, never `RetryUntilDelivered`.
- Signal handling stays off, and configuration is never read from the working directory.
- Dead processes are cleaned up in one place, by the executor, not in every process.
- Several threads may use one port in turn, not at once. A call that holds the GIL is a turn.
"""

from __future__ import annotations

import ctypes
import functools
import gc
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import iceoryx2 as iox

from remotemedia.core.multiprocess.transport.base import ALIGNMENT_BYTES
from remotemedia.core.multiprocess.transport.limits import limit_reached
from remotemedia.core.multiprocess.transport.pages import require_free
from remotemedia.data.wire import HEADER_BYTES
from remotemedia.errors import ChannelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = [
    "OUT_OF_MEMORY",
    "TOO_MANY_LOANS",
    "assume_init",
    "attempt",
    "builder",
    "configuration",
    "iox",
    "never_drop",
    "new_node",
]

TOO_MANY_LOANS = "ExceedsMaxLoans"
OUT_OF_MEMORY = "OutOfMemory"
"""Errors of a loan, by the names that the library has for them."""
T = TypeVar("T")
_LIBRARY_TYPES = {one for one in vars(iox).values() if isinstance(one, type)}

iox.set_log_level(iox.LogLevel.Fatal)

assume_init = getattr(iox.SampleMutUninit, "__assume_init")
"""What the library's Python layer calls after checks that cost more than the call."""


class _Header(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint64 * (HEADER_BYTES // 8))]


class _Block(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * ALIGNMENT_BYTES)]


def new_node(root: Path, prefix: str) -> Any:
    """Join a domain; raise `ChannelError` if iceoryx2 cannot start on this machine."""
    require_free(0, "starting iceoryx2")
    try:
        return (
            iox.NodeBuilder.new()
            .config(configuration(root, prefix))
            .signal_handling_mode(iox.SignalHandlingMode.Disabled)
            .create(iox.ServiceType.Ipc)
        )
    except iox.NodeCreationFailure as error:
        limit = limit_reached("starting iceoryx2")
        if limit is not None:
            raise limit from error
        raise ChannelError(f"iceoryx2 cannot start in {root}: {error}") from error


def builder(node: Any, service: str) -> Any:
    """Begin to make or to open a service of our kind: our header, blocks of aligned bytes."""
    return (
        node.service_builder(iox.ServiceName.new(service))
        .publish_subscribe(iox.Slice[_Block])
        .user_header(_Header)
        .payload_alignment(iox.Alignment.new(ALIGNMENT_BYTES))
    )


@functools.cache
def never_drop(_: int) -> None:
    """In a forked child, keep all there is of the library for ever: dropped, it is given back.

    The queues and the lists of free memory are shared, and the parent goes on with them. What
    holds samples is not known here: messages, loans, arrays. So everything is looked through.

    Args:
        _: the parent, of which this is done once.
    """
    gc.unfreeze()  # what was frozen for the fork is not looked through otherwise
    # What a module has is in its dictionary. Asked itself, asyncio's also names what it has freed,
    # which crashes Python 3.12 before 3.12.6 (gh-122695).
    held = gc.get_referents(*(one for one in gc.get_objects() if type(one) is not ModuleType))
    # A tuple is not tracked itself if nothing in it is.
    untracked = (one for one in held if type(one) is tuple and not gc.is_tracked(one))
    held += gc.get_referents(*untracked)
    for one in held:
        if type(one) in _LIBRARY_TYPES:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


def configuration(root: Path, prefix: str) -> Any:
    """Return how a domain is to be used: nothing is cleaned up unless it is asked for."""
    configuration = iox.config.default()
    domain = configuration.global_cfg
    domain.root_path = iox.Path.new(str(root))
    domain.prefix = iox.FileName.new(prefix)
    domain.node.cleanup_dead_nodes_on_creation = False
    domain.node.cleanup_dead_nodes_on_destruction = False
    domain.service.cleanup_dead_nodes_on_open = False
    return configuration


def attempt(
    what: str, action: Callable[[], T], expected: type[Exception], needed_bytes: int = 0
) -> T:
    """Do something with the library; its errors are names of a Rust enum."""
    try:
        return action()
    except expected as error:
        advice = _ADVICE.get(str(error), "")
        limit = None if advice else limit_reached(what, needed_bytes)
        if limit is not None:
            raise limit from error
        raise ChannelError(f"{what} failed: {error}{advice}") from error


_ADVICE = {
    "DoesNotExist": " (its creator is gone, or has not created it yet)",
    "AlreadyExists": " (two ports of one session have the same name)",
    "ExceedsMaxSupportedPublishers": " (a port has one writer; close the other first)",
    "ExceedsMaxSupportedSubscribers": (
        " (all spare taps of the port are taken, or messages are still held that came by one)"
    ),
    "InsufficientPermissions": " (shared memory or the runtime folder belongs to another user)",
}
