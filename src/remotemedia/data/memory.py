"""Arrays over memory that something else owns, and when that memory is free again.

A chunk of shared memory has one array over it, kept from message to message; what people get are
views of that array. Numpy gives every view, and every view of a view, a reference to it, so the
array's reference count says whether anybody can still reach the memory. Looking at the count costs
a twentieth of an object with a finaliser, needs no lock, and cannot come at a bad moment.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

OWN_REFERENCES = 3
"""References of ours to a chunk's array where it is counted: the chunk's, a local name, and the
argument of `sys.getrefcount`."""
count_references = sys.getrefcount


def array_at(
    address: int, shape: tuple[int, ...], dtype: np.dtype[np.generic], nbytes: int
) -> NDArray[np.generic]:
    """View `nbytes` bytes at an address as a C-contiguous array, owning nothing."""
    return np.ndarray(shape, dtype, (ctypes.c_char * nbytes).from_address(address))


def keep_until_unused(array: NDArray[np.generic], token: object) -> None:
    """Keep what owns the memory of an array for as long as the array or a view of it lives."""
    weakref.finalize(array, id, token).atexit = False
