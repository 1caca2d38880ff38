"""Arrays over memory that something else owns, and when that memory is free again.

A chunk of shared memory has one array over it, kept from message to message; what people get are
views of that array. Numpy gives every view, and every view of a view, a reference to it, so the
array's reference count says whether anybody can still reach the memory. Looking at the count costs
a twentieth of an object with a finaliser, needs no lock, and cannot come at a bad moment.

That holds as long as the array's own base is no array: numpy makes a view refer to the array at
the end of such a chain, past ours.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

OWN_REFERENCES = 3
"""References of ours to a chunk's array where it is counted: the chunk's, a local name, and the
argument of `sys.getrefcount`."""
count_references = sys.getrefcount


class _Memory:
    """Read-only memory, for numpy (its array interface, version 3).

    Nothing else can be done with it: over a writable buffer numpy would let anybody make a view
    writable again, and writing to what was received kills the process.
    """

    __slots__ = ("__array_interface__",)

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def array_at(
    address: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> NDArray[np.generic]:
    """View memory at an address as a read-only C-contiguous array, owning nothing."""
    where = {"version": 3, "data": (address, True), "shape": shape, "typestr": dtype.str}
    return np.asarray(_Memory(where))


def keep_until_unused(array: NDArray[np.generic], token: object) -> None:
    """Keep what owns the memory of an array for as long as the array or a view of it lives."""
    weakref.finalize(array, id, token).atexit = False


def empty_out(array: NDArray[np.generic]) -> None:
    """Make an array empty and read-only, for everybody who has it: it lets go of its memory."""
    # Numpy's own way of giving an array new content.
    array.__setstate__((1, (0,), array.dtype, False, b""))  # type: ignore[arg-type]  # numpy takes a bool
    array.setflags(write=False)


def has_exports(array: NDArray[np.generic]) -> bool:
    """Whether a buffer of this very array (not of a view of it) was ever handed out.

    What was handed out, a memoryview say, refers to the array and to the memory, each by itself.
    """
    return _first_export(array) is not None if _FINDS_EXPORTS else True


def _first_export(array: NDArray[np.generic]) -> int | None:
    # Numpy notes exported buffers behind its list of weak references.
    return ctypes.c_void_p.from_address(id(array) + _EXPORTS_AT).value


_EXPORTS_AT = np.ndarray.__weakrefoffset__ + ctypes.sizeof(ctypes.c_void_p)


def _finds_exports() -> bool:
    """Whether this numpy keeps its note where we look for it."""
    array = np.zeros(1)
    if _first_export(array) is not None:
        return False
    bytes(array.data)
    return _first_export(array) is not None


_FINDS_EXPORTS = _finds_exports()
