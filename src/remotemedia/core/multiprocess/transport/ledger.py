"""The ledger: what was sent, received, released and dropped, word by word, in shared memory.

One memfd of u64 words per session, passed by descriptor, so that it has no name to leak and
outlives every process that writes to it. Every word has a single writer at a time: a process, and
once that is dead the executor in its place, until the next process takes over. It is flow control,
metrics, watchdog and black box at once.

Invariant of every connection: `sent = released + dropped + in flight`.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import weakref
from enum import IntEnum, auto
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.transport.forks import tell_children
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.errors import ChannelError, ResourceLimit

if TYPE_CHECKING:
    from types import TracebackType

WORDS = 1 << 17
_BYTES = WORDS * 8  # sparse: only pages that are written take memory
_MAGIC = 0x0004_5245_4744_454C  # "LEDGER" and the version of the layout
HISTOGRAM_BUCKETS = 40

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value
_MAP_FIXED = 0x10


class LedgerWord(IntEnum):
    """Words at the start of the ledger."""

    MAGIC = 0
    EPOCH = auto()
    """Raised by an interrupt. Written by the executor."""
    ALLOCATED = auto()
    """Words handed out. Written by the creator."""


class EndpointWord(IntEnum):
    """Words of a process. Written by that process; once it is dead, by the executor."""

    ASLEEP = 0
    """Not 0 while it is about to block or blocked: whoever has news for it rings its doorbell.
    Alone in its cache line: others read it with every message, and write nothing beside it."""
    SEQUENCE = 8
    """Sequence number of the message it is processing."""
    CORRELATION = auto()
    BEGAN_NS = auto()
    """When it began processing; 0 while it is idle."""
    PROCESSED = auto()
    ERRORS = auto()
    """Messages that failed and were skipped."""
    ENDED = auto()
    """The process has finished with every input up to this number."""
    CONNECTION = auto()
    """Slot of the connection by which the message came that it is processing; 0 if it has one."""


class PortWord(IntEnum):
    """Words of an output port. Written by its writer; once that is dead, by the executor."""

    STATE = 0
    """A `PortState`."""
    SENT = auto()
    """Messages accepted for sending; the sequence number of the newest. Written before it is handed
    over, as `HANDED` is after."""
    BYTES = auto()
    BLOCKED_NS = auto()
    """Time spent waiting for credit."""
    REFUSED = auto()
    """Messages turned away for lack of credit, sent to nobody."""
    ENDED = auto()
    """The writer has finished with every input up to this number: nothing more will come of them.
    Written after the last message of the input was counted in `SENT`."""
    COPIES = auto()
    """Loans that had to be copied because an array of theirs was still in use at send."""
    HANDED = 8
    """All messages up to this one are in the queues of their readers, or never will be. In another
    cache line than what is written with it: readers look at it again and again."""
    SKIPPED = auto()
    """The newest message whose writer died or was interrupted while it handed it over."""
    MOVED = auto()
    """From this message on all are in the memory that the port has now. Written when a process
    opens the port, and when it replaces its memory by larger one."""


class ConnectionWord(IntEnum):
    """Words of a connection. Written by its reader, but for the two that say "by the writer".

    Once the one that writes a word is dead, the executor does.
    """

    STATE = 0
    """A `ReaderState`."""
    BASE = auto()
    """Sequence number before the first message meant for it; `UNLINKED` until the writer of an
    open port knows of it. Written by the writer."""
    POSITION = auto()
    """Sequence number of the newest message it has taken."""
    RELEASED = auto()
    COPIED = auto()
    """Messages copied because the reader kept more views than its share."""
    DROPPED_OVERWRITTEN = auto()
    """Lost to `drop_oldest` or `latest`."""
    DROPPED_LOST = auto()
    """Lost with a process that died, by an interrupt, or in memory that could not be mapped."""
    DROPPED_INTERRUPTED = auto()
    """Of an older epoch."""
    DROPPED_UNREADABLE = auto()
    """No message of this version."""
    DROPPED_CLOSED = auto()
    """Unread when the reader closed."""
    CREDIT_WANTED = auto()
    """1 while the writer waits: each message that is taken wakes it. Written by the writer; once
    that is dead the executor waits in its place."""
    FIRST = auto()
    """Sequence number of the first message that the process which reads now can take."""


ALWAYS_ASLEEP = (1 << 64) - 1
"""In `EndpointWord.ASLEEP`: the process cannot say when it sleeps, and wants every ring."""
ENDPOINT_WORDS = 64
PORT_WORDS = 16
CONNECTION_WORDS = 64
UNLINKED = (1 << 64) - 1
HISTOGRAM_AT = CONNECTION_WORDS - HISTOGRAM_BUCKETS
"""Where in a connection's block (latency) and an endpoint's (compute time) the histogram begins:
both blocks have the same size.

Bucket k counts durations d with k = bit_length(d in ns), that is 2**(k-1) <= d < 2**k; the last
takes all that is longer.
"""


class PortState(IntEnum):
    """Life of a port's writer."""

    UNOPENED = 0
    OPEN = 1
    FINISHED = 2
    """It has sent the end of its stream, or closed."""
    LOST = 3
    """Its process died."""


class ReaderState(IntEnum):
    """Life of a connection's reader."""

    UNOPENED = 0
    OPEN = 1
    CLOSED = 2
    """It reads no more: nobody waits for it."""
    LOST = 3
    """Its process died."""


class Ledger:
    """A mapped ledger.

    Attributes:
        fd: its descriptor; pass it on to share the ledger.
        words: all words. Write only those that are yours.
    """

    def __init__(self, fd: int) -> None:
        """Map the ledger behind a descriptor, which the ledger then owns.

        Raises:
            ChannelError: the descriptor is no ledger of this version; it stays the caller's.
            ResourceLimit: there is no address space for it.
        """
        try:
            size = os.fstat(fd).st_size
        except OSError as error:
            raise ChannelError(f"descriptor {fd} is no ledger: {error}") from error
        if size != _BYTES:
            raise ChannelError(f"descriptor {fd} is no ledger: it has {size:,} bytes")
        words = _map(fd)
        if words[LedgerWord.MAGIC] != _MAGIC:
            raise ChannelError(f"descriptor {fd} is no ledger of this version")
        self.fd = fd
        self.words = words
        self._free: dict[int, list[int]] = {}

    @classmethod
    def create(cls) -> Ledger:
        """Make an empty ledger; its memory ends with the last process that maps it.

        Raises:
            ResourceLimit: too many files are open, or there is no address space for it.
        """
        with limits_named("creating the ledger"):
            fd = os.memfd_create("remotemedia-ledger", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.ftruncate(fd, _BYTES)
                # Sealed, so that no reader can ever be killed by SIGBUS over a ledger cut short.
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
                os.pwrite(fd, _MAGIC.to_bytes(8, "little"), LedgerWord.MAGIC * 8)
                os.pwrite(fd, ENDPOINT_WORDS.to_bytes(8, "little"), LedgerWord.ALLOCATED * 8)
                return cls(fd)
            except BaseException:
                os.close(fd)
                raise

    def allocate(self, count: int) -> int:
        """Hand out `count` zeroed words. Called by the creator alone.

        Raises:
            ResourceLimit: the ledger is full.
        """
        free = self._free.get(count)
        if free:
            return free.pop()
        slot = self.words[LedgerWord.ALLOCATED]
        if slot + count > WORDS:
            raise ResourceLimit(
                f"the ledger of the session is full ({WORDS:,} words): each connection takes "
                f"{CONNECTION_WORDS} of them; use fewer"
            )
        self.words[LedgerWord.ALLOCATED] = slot + count
        return slot

    def free(self, slot: int, count: int) -> None:
        """Take back words that no process writes any more, to hand them out again, zeroed."""
        self.words[slot : slot + count] = memoryview(bytes(count * 8)).cast("Q")
        self._free.setdefault(count, []).append(slot)

    def close(self) -> None:
        """Close the descriptor. Twice is harmless.

        The memory goes with the last that refers to `words`: an end that another thread still uses
        writes where nobody reads any more, which is harmless, and not where nothing is.
        """
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _map(fd: int) -> memoryview:
    """Map a ledger for as long as anything refers to its words.

    Not by `mmap.mmap`, which keeps a duplicate of the descriptor for as long.
    """
    address = _libc.mmap(None, _BYTES, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address == _MAP_FAILED:
        number = ctypes.get_errno()
        with limits_named("mapping the ledger"):
            raise OSError(number, os.strerror(number))
    block = _Block.from_address(address)
    weakref.finalize(block, _libc.munmap, address, _BYTES).atexit = False
    tell_children(block)
    return memoryview(block).cast("B").cast("Q")


class _Block(ctypes.Array[ctypes.c_uint64]):
    """The memory of a mapped ledger."""

    _type_ = ctypes.c_uint64
    _length_ = WORDS
    __hash__ = object.__hash__

    def disown(self) -> None:
        """Put a copy in its place: what a forked child counts and closes is for itself alone."""
        address, used = ctypes.addressof(self), self[LedgerWord.ALLOCATED] * 8
        content = ctypes.string_at(address, used)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        _libc.mmap(address, _BYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        ctypes.memmove(address, content, used)


def taken(words: memoryview, slot: int) -> int:
    """Sequence number of the newest message that a connection has taken, or had no claim to."""
    return max(words[slot + ConnectionWord.POSITION], words[slot + ConnectionWord.BASE])


def copied(words: memoryview, slots: tuple[int, int]) -> memoryview:
    """Return words of one's own, with what a port and a connection have by now."""
    copy = memoryview(bytearray(_BYTES)).cast("Q")  # of zeros: pages that are not written are none
    for slot, count in zip(slots, (PORT_WORDS, CONNECTION_WORDS), strict=True):
        copy[slot : slot + count] = words[slot : slot + count]
    return copy


def drop_unread(words: memoryview, port_slot: int, slot: int, reason: ConnectionWord) -> None:
    """Count all that a connection has not taken as dropped: its reader will not take it any more.

    Called by the reader, or once that is dead by the executor.
    """
    base, sent = words[slot + ConnectionWord.BASE], words[port_slot + PortWord.SENT]
    unread = sent - taken(words, slot)
    if base != UNLINKED and unread > 0:
        words[slot + ConnectionWord.POSITION] = sent
        words[slot + reason] += unread
