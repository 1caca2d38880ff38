"""Arrays over memory that something else owns."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from collections import deque

    from numpy.typing import NDArray


class ArrayInterface(TypedDict):
    """Numpy's array interface, version 3 (https://numpy.org/doc/stable/reference/arrays.interface.html)."""

    data: tuple[int, bool]
    shape: tuple[int, ...]
    typestr: str
    version: int


class Owner:
    """Keeps the memory of an array alive: numpy holds it as long as any view of it lives."""

    __slots__ = ("__array_interface__", "sample")

    __array_interface__: ArrayInterface
    sample: object


class Borrow(Owner):
    """A received sample on its way back: when the last view dies, it is handed to `returned`.

    The views may die in any thread and at any moment the garbage collector chooses, so nothing is
    counted here: the reader collects what was returned when it next looks for a message, and a
    deque's append is atomic.
    """

    __slots__ = ("returned",)

    returned: deque[object]

    def __del__(self) -> None:
        self.returned.append(self.sample)


def array_at(
    owner: Owner, address: int, shape: tuple[int, ...], typestr: str, *, readonly: bool
) -> NDArray[np.generic]:
    """View memory at `address` as a C-contiguous array that keeps `owner` alive."""
    owner.__array_interface__ = {
        "data": (address, readonly),
        "shape": shape,
        "typestr": typestr,
        "version": 3,
    }
    return np.asarray(owner)
