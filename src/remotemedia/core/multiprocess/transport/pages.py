"""Making sure that shared memory is really there before it is touched.

Segments are sparse files in a tmpfs. A page is found only at first touch, and if the file system
is full then, the process dies by SIGBUS. `posix_fallocate(3)` finds the pages beforehand and turns
that death into ENOSPC; it also takes the cost of the first touch, about 1 ms per MB.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from remotemedia.core.errors import ChannelError, SharedMemoryExhausted

SHM_FOLDER = "/dev/shm"  # noqa: S108 (where POSIX shared memory is on Linux)
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
WHOLE_SEGMENT_BYTES = 4 << 20
"""Segments up to this size are reserved whole, at once."""


def free_bytes() -> int:
    """How much the file system of the shared memory has left."""
    state = os.statvfs(SHM_FOLDER)
    return state.f_bavail * state.f_frsize


def require_free(needed_bytes: int, what: str) -> None:
    """Raise `SharedMemoryExhausted` unless that much is free."""
    free = free_bytes()
    if free < needed_bytes:
        raise SharedMemoryExhausted(what, needed_bytes, free, SHM_FOLDER)


class Mapping(NamedTuple):
    """A mapped file: addresses [start, end), offset of the start in the file, path."""

    start: int
    end: int
    offset: int
    path: str


def mapping_at(address: int) -> Mapping:
    """Find the mapped file that holds an address of this process (proc_pid_maps(5)).

    Raises:
        ChannelError: no file is mapped there.
    """
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            span, _, offset, _, _, *path = line.split(maxsplit=5)
            start, end = (int(part, 16) for part in span.split("-"))
            if start <= address < end and path:
                return Mapping(start, end, int(offset, 16), path[0].rstrip("\n"))
    raise ChannelError(f"no shared memory is mapped at {address:#x}")


class PageReserver:
    """Reserves the pages of one writer's segments, chunk by chunk, before they are written.

    Args:
        what: the port, for errors.
        chunks: how many chunks a segment has.
    """

    def __init__(self, what: str, chunks: int) -> None:
        self._what = what
        self._chunks = chunks
        self._segment: Mapping | None = None
        self._is_whole = False

    def reserve(self, address: int, nbytes: int, *, whole: bool = False) -> None:
        """Reserve the pages of [address, address + nbytes) of a segment.

        The first call for a segment also reserves the page where each chunk has its header, which
        the transport writes before anybody can ask.

        Args:
            address: in the segment.
            nbytes: how many bytes.
            whole: reserve the whole segment, whatever its size.

        Raises:
            SharedMemoryExhausted: the pages are not there. What was reserved before stays so.
        """
        segment = self._segment
        if segment is None or not segment.start <= address < segment.end:
            segment = self._enter(mapping_at(address), address, whole=whole)
        if not self._is_whole:
            self._allocate(segment, address - segment.start, nbytes)

    def forget(self) -> None:
        """Forget the segment: it may have been replaced by a larger one."""
        self._segment = None

    def _enter(self, segment: Mapping, address: int, *, whole: bool) -> Mapping:
        size = os.stat(segment.path).st_size
        self._is_whole = whole or size <= WHOLE_SEGMENT_BYTES
        if self._is_whole:
            self._allocate(segment, 0, size)
        else:
            stride = size // self._chunks
            first = (address - segment.start) % stride
            for chunk in range(self._chunks):
                self._allocate(segment, first + chunk * stride - PAGE_BYTES // 8, PAGE_BYTES // 4)
        self._segment = segment
        return segment

    def _allocate(self, segment: Mapping, offset: int, nbytes: int) -> None:
        start = max(0, segment.offset + offset)
        end = min(start + nbytes, os.stat(segment.path).st_size)
        fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if end > start:
                os.posix_fallocate(fd, start, end - start)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            raise SharedMemoryExhausted(
                f"a message of {self._what}", end - start, free_bytes(), SHM_FOLDER
            ) from error
        finally:
            os.close(fd)
