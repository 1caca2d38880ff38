"""Arrays with no media meaning: features, embeddings, logits, masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from remotemedia.data.message import ArrayMessage, Metadata, as_array, shown
from remotemedia.errors import DataError

if TYPE_CHECKING:
    from types import CapsuleType  # type: ignore[attr-defined]  # Python 3.13

    from numpy.typing import NDArray

MAX_DIMENSIONS = 8
# The position of a dtype is its code on the wire: append only. All little-endian.
DTYPES = tuple(
    np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)
_NAMES = ", ".join(dtype.name for dtype in DTYPES)


class Tensor(ArrayMessage):
    """An array of any shape of up to eight dimensions.

    Args:
        array: a numpy array, or anything that speaks DLPack (a torch tensor on the CPU), of a
            dtype in `DTYPES`. Any strides; readers get it C-contiguous. Not copied: do not change
            it before it is sent. A dtype that numpy lacks (bfloat16) travels as a view of its bits
            (`t.view(torch.int16)`).
        timestamp_ns, correlation_id, metadata: see `Message`.

    `np.from_dlpack(tensor)` and `torch.from_dlpack(tensor)` view it without a copy. What arrives is
    read-only, so that it takes a consumer that speaks DLPack 1.0 (numpy 2.1).

    Raises:
        DataError: what was wrong and what is allowed.
    """

    __slots__ = ()

    def __init__(
        self,
        array: object,
        *,
        timestamp_ns: int | None = None,
        correlation_id: int = 0,
        metadata: Metadata | None = None,
    ) -> None:
        checked = as_array(array, "array")
        check_dtype(checked.dtype)
        if checked.ndim > MAX_DIMENSIONS:
            raise DataError(
                f"array has {checked.ndim} dimensions; at most {MAX_DIMENSIONS} are allowed"
            )
        self._array = checked
        self._set_envelope(timestamp_ns, correlation_id, metadata)

    @property
    def array(self) -> NDArray[np.generic]:
        """The array; read-only and C-contiguous when received."""
        array = self._array
        return self._live_array() if array is None else array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._live_array().shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Element type of the array."""
        return self._live_array().dtype

    def __dlpack__(self, **request: object) -> CapsuleType:
        """Export the array by the DLPack protocol, without a copy."""
        # Through a view of its own, so that a loan can see that it is still in use.
        view = self._live_array()[...]
        try:
            return view.__dlpack__(**request)  # type: ignore[arg-type, misc]  # numpy's to check
        except BufferError as error:
            if view.flags.writeable:
                raise
            raise BufferError(
                "a received tensor is read-only, and this consumer does not ask for DLPack 1.0, "
                "which alone can say so; take tensor.array (torch.from_numpy views it), or a copy"
            ) from error

    def __dlpack_device__(self) -> tuple[int, int]:
        """Tell DLPack consumers that the array is in CPU memory."""
        return self._live_array().__dlpack_device__()

    def __repr__(self) -> str:
        if self._array is None:
            return f"<Tensor {self._gone}>"
        return f"<Tensor {self.dtype} {self.shape}>"


def check_dtype(dtype: np.dtype[np.generic] | str) -> np.dtype[np.generic]:
    """Return the little-endian form of a dtype we carry, or raise `DataError`."""
    try:
        little = np.dtype(dtype).newbyteorder("<")
    except TypeError as error:
        raise DataError(f"dtype is {shown(dtype)}; it must be one of {_NAMES}") from error
    if little not in DTYPES:
        raise DataError(f"array is {dtype}; its dtype must be one of {_NAMES}")
    return little
