"""Limits of the process as the cause of a failure that does not say so.

The library tells most failures by one name, and the operating system by a number. That a limit was
reached is seen afterwards: by how much there is left of it.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

from remotemedia.errors import ResourceLimit

if TYPE_CHECKING:
    from collections.abc import Iterator

MORE_PROCESSES = "raise the limit of processes (ulimit -u, or the container's pids limit)"
"""What to do where no process or thread can be started."""
_DESCRIPTORS_OF_A_SERVICE = 16
"""What an end of a service takes in the process that opens it, measured as 8 or 9, and more, for
what is open for a moment: with fewer left, that is why it failed."""
_ADDRESS_SPACE_OF_A_SERVICE = 4 << 20


@contextmanager
def limits_named(what: str) -> Iterator[None]:
    """Raise `ResourceLimit` instead of an `OSError` that comes of a limit.

    Args:
        what: is done in the block, for the error.
    """
    try:
        yield
    except OSError as error:
        limit = _LIMITS.get(error.errno or 0)
        if limit is None:
            raise
        raise ResourceLimit(f"{what} failed ({error.strerror}): {limit}") from error


def limit_reached(what: str, needed_bytes: int = 0) -> ResourceLimit | None:
    """Make the error for the limit that something must have failed by; None if there is none.

    Args:
        what: was tried with the library, for the error.
        needed_bytes: of address space that it takes, and of one file.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        is_short = len(os.listdir("/proc/self/fd")) + _DESCRIPTORS_OF_A_SERVICE > soft
    except OSError:
        is_short = True
    if is_short:
        limit = f"{_LIMITS[errno.EMFILE]}; it is {soft:,} now"
        return ResourceLimit(f"{what} needs more file descriptors than are left: {limit}")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        with open("/proc/self/statm", encoding="ascii") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        needed = needed_bytes + _ADDRESS_SPACE_OF_A_SERVICE
        if used + needed > soft:
            return ResourceLimit(
                f"{what} needs {needed:,} bytes of address space, and of {soft:,} there are "
                f"{used:,} in use: {_LIMITS[errno.ENOMEM]}"
            )
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if resource.RLIM_INFINITY != soft < needed_bytes:
        return ResourceLimit(
            f"{what} needs a file of {needed_bytes:,} bytes in shared memory, and {soft:,} are "
            f"allowed: {_LIMITS[errno.EFBIG]}, or lower capacity or max_message_bytes of the "
            f"connection"
        )
    return None


_LIMITS = {
    errno.EMFILE: (
        "raise the limit of open files (RLIMIT_NOFILE, ulimit -n), or open fewer channels"
    ),
    errno.ENFILE: "raise the limit of open files of the system (sysctl fs.file-max)",
    errno.EFBIG: "raise the limit of the size of files (RLIMIT_FSIZE, ulimit -f)",
    errno.ENOMEM: (
        "raise the limit of address space (RLIMIT_AS, ulimit -v), or lower capacity or "
        "max_message_bytes of the connection"
    ),
}
