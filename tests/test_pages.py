"""Pages of shared memory are there before they are touched."""

from __future__ import annotations

import ctypes
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from remotemedia.core.multiprocess.transport.pages import (
    MARGIN_BYTES,
    PAGE_BYTES,
    SHM_FOLDER,
    WHOLE_SEGMENT_BYTES,
    Maps,
    PageReserver,
    free_bytes,
    require_free,
)
from remotemedia.core.multiprocess.transport.segments import CHUNK_HEADER_BYTES
from remotemedia.errors import ChannelClosed, ChannelError, SharedMemoryExhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20


class Segment:
    """A sparse file in shared memory, mapped, as a transport would make it."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    @property
    def reserved_bytes(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def is_reserved(self, offset: int) -> bool:
        """Reserving it takes nothing more."""
        before = self.reserved_bytes
        os.posix_fallocate(self._fd, offset, 1)
        return self.reserved_bytes == before

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)
        os.unlink(self.path)


@pytest.fixture
def new_path() -> str:
    return f"{SHM_FOLDER}/test-pages-{os.getpid()}"


@pytest.fixture
def large(new_path: str) -> Iterator[Segment]:
    segment = Segment(new_path, 3 * WHOLE_SEGMENT_BYTES)
    yield segment
    segment.close()


def test_a_mapping_is_found_by_any_address_in_it(large: Segment) -> None:
    for offset in (0, 1, 3 * WHOLE_SEGMENT_BYTES - 1):
        found = Maps().at(large.address + offset)
        assert (found.start, found.offset, found.path) == (large.address, 0, large.path)
    with pytest.raises(ChannelError, match="no shared memory is mapped at 0x1"):
        Maps().at(1)


def test_a_look_at_the_end_or_after_it_says_that_it_was_closed(
    large: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def close_and_look(fd: int, close: Callable[[int], None] = os.close) -> None:
        nonlocal looks
        close(fd)
        with pytest.raises(ChannelClosed, match="the transport was closed"):
            maps.at(large.address)
        looks += 1

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close_and_look)
        maps = Maps()
    maps.close()
    assert looks == 1
    with pytest.raises(ChannelClosed, match="the transport was closed"):
        maps.at(large.address)


def test_threads_look_at_the_same_time(large: Segment) -> None:
    maps = Maps()

    def look(segment: Segment) -> int:
        return sum(maps.at(segment.address).start <= segment.address for _ in range(200))

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(look, (large, large))) == [200, 200]


def test_what_is_reserved_is_there_and_the_rest_is_not(large: Segment) -> None:
    reserver, stride = PageReserver("port a", Maps()), MIB
    reserver.reserve(large.address + 192 + 2 * stride, 100_000, stride)
    chunks = range(192, 3 * WHOLE_SEGMENT_BYTES, stride)
    assert large.reserved_bytes <= 100_000 + (len(chunks) + 2) * PAGE_BYTES
    for begin in chunks:
        assert large.is_reserved(begin)
        assert large.is_reserved(begin + CHUNK_HEADER_BYTES - 1)
        assert not large.is_reserved(begin + 500_000)
    assert large.is_reserved(192 + 2 * stride + 99_999)
    before = large.reserved_bytes
    reserver.reserve(large.address + 192 + 2 * stride, 100_000, stride)
    assert large.reserved_bytes == before


def test_a_header_across_two_pages_has_both(large: Segment) -> None:
    stride = MIB + PAGE_BYTES - 100 - 192
    PageReserver("port a", Maps()).reserve(large.address + 192, 10, stride)
    assert (192 + stride) // PAGE_BYTES < (192 + stride + 191) // PAGE_BYTES
    assert large.is_reserved(192 + stride)
    assert large.is_reserved(192 + stride + 191)


def test_the_end_of_a_segment_is_no_error(large: Segment) -> None:
    size = 3 * WHOLE_SEGMENT_BYTES
    PageReserver("port a", Maps()).reserve(large.address + size - 100, 100_000, MIB)
    assert large.is_reserved(size - 1)


def test_a_declared_segment_is_reserved_whole(large: Segment) -> None:
    PageReserver("port a", Maps()).reserve(large.address + 192, 10, MIB, whole=True)
    assert large.reserved_bytes == 3 * WHOLE_SEGMENT_BYTES


def test_a_small_segment_is_reserved_whole(new_path: str) -> None:
    small = Segment(new_path, WHOLE_SEGMENT_BYTES)
    PageReserver("port a", Maps()).reserve(small.address + 192, 10, MIB)
    assert small.reserved_bytes == WHOLE_SEGMENT_BYTES
    small.close()


def test_another_segment_is_met_by_its_address(large: Segment, new_path: str) -> None:
    reserver = PageReserver("port a", Maps())
    reserver.reserve(large.address + 192, 10, MIB)
    other = Segment(new_path + "-2", WHOLE_SEGMENT_BYTES)
    reserver.reserve(other.address + 192, 10, MIB)
    assert other.reserved_bytes == WHOLE_SEGMENT_BYTES
    other.close()


def test_a_segment_at_the_same_address_is_met_after_forgetting(new_path: str) -> None:
    reserver = PageReserver("port a", Maps())
    for size in (WHOLE_SEGMENT_BYTES, WHOLE_SEGMENT_BYTES // 2):
        segment = Segment(new_path, size)
        reserver.reserve(segment.address + 192, 10, MIB)
        assert segment.reserved_bytes == size
        segment.close()
        reserver.forget()


def test_a_segment_that_was_removed_is_an_error(new_path: str) -> None:
    segment = Segment(new_path, WHOLE_SEGMENT_BYTES)
    os.rename(new_path, new_path + "-moved")
    os.unlink(new_path + "-moved")
    with pytest.raises(ChannelError, match="shared memory of port a was removed"):
        PageReserver("port a", Maps()).reserve(segment.address, 10, MIB)
    with open(new_path, "x"):
        pass
    segment.close()


def test_asking_for_more_than_there_is_says_what_is_missing() -> None:
    require_free(0, "nothing")
    wanted = free_bytes() * 2
    with pytest.raises(SharedMemoryExhausted) as caught:
        require_free(wanted, "everything")
    assert caught.value.needed_bytes == wanted + MARGIN_BYTES
    assert 0 < caught.value.free_bytes < wanted
    assert (caught.value.what, caught.value.path) == ("everything", SHM_FOLDER)
