"""The standard streams as a command may count on them, whatever its caller has left of them."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["give_up", "leave_streams", "open_streams"]


def open_streams() -> None:
    """Give this process the standard streams that it was started without, as daemons may be.

    Reading and writing them then fails with EBADF, as it does on closed ones, but no file that is
    opened later takes their place. Standard error never fails: a command that cannot say how it
    goes is not wrong for that, unless its reader has gone.
    """
    # The lowest number that is free is taken: in this order, the one that is closed.
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_WRONLY), encoding="utf-8", closefd=False)
    if sys.stdout is None:
        fd = os.open(os.devnull, os.O_RDONLY)
        sys.stdout = os.fdopen(fd, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        fd = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        raw = io.BufferedWriter(_Forgiving(fd, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True)


def give_up(stream: TextIO) -> None:
    """Send to nowhere what is left in the buffer of a stream.

    It could not be written, and would fail once more when the program ends.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def leave_streams() -> None:
    """Keep what standard error has not taken from changing the exit code."""
    try:
        sys.stderr.flush()
    except OSError:
        give_up(sys.stderr)


class _Forgiving(io.FileIO):
    """A file whose disk may be full: what cannot be written is left out."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError:
            return memoryview(data).nbytes
