"""Making sure that shared memory is really there before it is touched.

Segments are sparse files in a tmpfs. A page is found only at first touch, and if the file system
is full then, the process dies by SIGBUS. `posix_fallocate(3)` finds the pages beforehand and turns
that death into ENOSPC; it also takes the cost of the first touch, about 1 ms per MB.
"""

from __future__ import annotations

import errno
import os
import re
import weakref
from typing import NamedTuple

from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.core.multiprocess.transport.segments import CHUNK_HEADER_BYTES
from remotemedia.errors import ChannelClosed, ChannelError, SharedMemoryExhausted

SHM_FOLDER = "/dev/shm"  # noqa: S108 (where POSIX shared memory is on Linux)
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
MARGIN_BYTES = 1 << 20
"""Free space to insist on beyond what is needed: for small control structures, a few kilobytes,
and for what others take meanwhile."""
WHOLE_SEGMENT_BYTES = 4 << 20
"""Segments up to this size are reserved whole, at once."""


def free_bytes() -> int:
    """How much the file system of the shared memory has left."""
    state = os.statvfs(SHM_FOLDER)
    return state.f_bavail * state.f_frsize


def require_free(needed_bytes: int, what: str) -> None:
    """Raise `SharedMemoryExhausted` unless that much is free, and a margin."""
    free, needed_bytes = free_bytes(), needed_bytes + MARGIN_BYTES
    if free < needed_bytes:
        raise SharedMemoryExhausted(what, needed_bytes, free, SHM_FOLDER)


class Mapping(NamedTuple):
    """A mapped file: addresses [start, end), offset of the start in the file, path."""

    start: int
    end: int
    offset: int
    path: str


NOWHERE = Mapping(0, 0, 0, "")


_LOOKS = 3
"""What another thread maps between two pieces shifts the second: then it is read anew."""
_PIECE_BYTES = 1 << 16
_MAPPED_FILE = re.compile(rb"^(\w+)-(\w+) \S+ (\w+) \S+ \d+ +(/.*)$", re.MULTILINE)


class Maps:
    """What is mapped in this process (proc_pid_maps(5)).

    Open from the start: when a message has come, it is too late to run out of descriptors.
    """

    def __init__(self) -> None:
        with limits_named("looking at what is mapped"):
            self._fd = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._fd)
        self._close.atexit = False

    def close(self) -> None:
        """Look no more. Twice is harmless."""
        self._fd = -1  # the number may be another file's soon
        self._close()

    def at(self, address: int) -> Mapping:
        """Find the mapped file that holds an address.

        Raises:
            ChannelError: no file is mapped there.
        """
        for _ in range(_LOOKS):
            for line in _MAPPED_FILE.finditer(self._read()):
                start, end, offset = (int(part, 16) for part in line.group(1, 2, 3))
                if start <= address < end:
                    return Mapping(start, end, offset, os.fsdecode(line[4]))
        raise ChannelError(f"no shared memory is mapped at {address:#x}")

    def _read(self) -> bytes:
        # It comes in pieces, and threads read at the same time: each from a place of its own.
        text = b""
        try:
            while piece := os.pread(self._fd, _PIECE_BYTES, len(text)):
                text += piece
        except OSError as error:
            if self._fd >= 0:
                raise
            raise ChannelClosed("the transport was closed meanwhile; make another") from error
        return text


class PageReserver:
    """Reserves the pages of one writer's segments, chunk by chunk, before they are written.

    Args:
        what: the port, for errors.
        maps: of this process.
    """

    def __init__(self, what: str, maps: Maps) -> None:
        self._what = what
        self._maps = maps
        self._segment = NOWHERE
        self._is_whole = False

    def reserve(self, address: int, nbytes: int, stride: int, *, whole: bool = False) -> None:
        """Reserve the pages of [address, address + nbytes) of a segment.

        The first call for a segment also reserves the page where each chunk begins, which the
        transport writes before anybody can ask.

        Args:
            address: where a chunk begins.
            nbytes: how many bytes of it.
            stride: from chunk to chunk, in bytes.
            whole: reserve the whole segment, whatever its size.

        Raises:
            SharedMemoryExhausted: the pages are not there. What was reserved before stays so.
            ResourceLimit: the process may not open or enlarge the segment.
            ChannelError: the segment was removed.
        """
        segment, is_new, is_whole = self._segment, False, False
        if not segment.start <= address < segment.end:
            segment, is_new = self._maps.at(address), True
        elif self._is_whole:
            return
        try:
            with limits_named(f"reserving memory for {self._what}"):
                fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ChannelError(f"the shared memory of {self._what} was removed") from error
        try:
            at = segment.offset + address - segment.start
            size = os.fstat(fd).st_size
            if is_new:
                is_whole = whole or size <= WHOLE_SEGMENT_BYTES
                if is_whole:
                    at, nbytes = 0, size
                else:
                    for begin in range(at % stride, size, stride):
                        self._allocate(fd, begin, min(CHUNK_HEADER_BYTES, size - begin))
            self._allocate(fd, at, min(nbytes, size - at))
        finally:
            os.close(fd)
        self._segment, self._is_whole = segment, is_whole

    def forget(self) -> None:
        """Forget the segment: it may have been replaced by a larger one."""
        self._segment = NOWHERE

    def _allocate(self, fd: int, offset: int, nbytes: int) -> None:
        with limits_named(f"reserving memory for {self._what}"):
            try:
                os.posix_fallocate(fd, offset, nbytes)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                    raise
                raise SharedMemoryExhausted(
                    f"a message of {self._what}", nbytes, free_bytes(), SHM_FOLDER
                ) from error
