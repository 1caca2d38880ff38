"""How iceoryx2 0.10.0 lays out the memory of a port: what must be known before it is touched.

Nothing of this is documented by the library; the version is pinned, and the tests hold every
number against real segments.

A segment is a file of chunks, one a sample, each with a header of the library, ours, and the
payload. Aligning the first chunk costs the last, so a segment of n chunks lends n - 1. A message
that fits no chunk makes the library replace the segment: chunks of the next power of two, as many
as the old one could lend, and one is lost again. A segment with no chunk left is replaced too, by
one with more chunks than the library's own table has room for, which ends in an abort. So a port
gets chunks to lose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.plan import METADATA_ROOM_BYTES
from remotemedia.core.multiprocess.transport.base import ALIGNMENT_BYTES
from remotemedia.data.message import MAX_METADATA_BYTES
from remotemedia.data.plain import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.plan import PortPlan

INITIAL_MESSAGE_BYTES = 4096
CHUNK_HEADER_BYTES = 192
"""From the beginning of a chunk to its payload."""
USER_HEADER_OFFSET = 48
"""From the beginning of a chunk to the header that is ours."""
_CONNECTION_BYTES = 16 * 1024
_CONNECTION_CHUNK_BYTES = 264
"""What the queues between a writer and a reader take, in all and for each chunk of the port."""


def initial_bytes(port: PortPlan) -> int:
    """Room of a sample in the segment that a port begins with, metadata included."""
    declared = port.max_message_bytes
    return METADATA_ROOM_BYTES + (INITIAL_MESSAGE_BYTES if declared is None else declared)


def stride(nbytes: int) -> int:
    """Size of a chunk in the first segment, for samples of `nbytes`."""
    return CHUNK_HEADER_BYTES + -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def grown_stride(nbytes: int) -> int:
    """Size of a chunk in a segment that replaces one whose chunks were too small for `nbytes`."""
    return 1 << (stride(nbytes) - 1).bit_length()


def room(stride_bytes: int) -> int:
    """The largest sample that a chunk of that size holds."""
    return stride_bytes - CHUNK_HEADER_BYTES


def spare_chunks(port: PortPlan) -> int:
    """How many chunks are lost to alignment, in the first segment and by every possible growth."""
    declared = port.max_message_bytes
    largest = MAX_METADATA_BYTES + (MAX_MESSAGE_BYTES if declared is None else declared)
    current, lost = stride(initial_bytes(port)), 1
    while room(current) < largest:
        current, lost = grown_stride(room(current) + 1), lost + 1
    return lost


def preallocated_chunks(port: PortPlan) -> int:
    """How many chunks to ask for, so that what the port may have in flight can always be lent."""
    return port.chunks + spare_chunks(port)


def first_segment_bytes(port: PortPlan) -> int:
    """What the segment that a port begins with takes, all pages of it."""
    return preallocated_chunks(port) * (stride(initial_bytes(port)) + 8) + 4096


def connection_bytes(port: PortPlan) -> int:
    """What the queues between a port's writer and one reader take."""
    return _CONNECTION_BYTES + _CONNECTION_CHUNK_BYTES * preallocated_chunks(port)
