"""Sound and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from remotemedia.data.message import ArrayMessage, Metadata, as_array, checked_int, shown
from remotemedia.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SAMPLE_RATE_HZ = 768_000
MAX_CHANNELS = 256
MAX_SIDE_PIXELS = 65_535
# Names and layouts are FFmpeg's pixel formats. Packed ones are (height, width, channels);
# planar ones are (height * 3 / 2, width), as PyAV's to_ndarray gives them.
PACKED_FORMATS = {"gray": 1, "rgb24": 3, "bgr24": 3, "rgba": 4, "bgra": 4}
PLANAR_FORMATS = ("yuv420p", "nv12")
PIXEL_FORMATS = (*PACKED_FORMATS, *PLANAR_FORMATS)


class Audio(ArrayMessage):
    """A stretch of sound.

    Args:
        samples: float32, shape (frames, channels), nominal range [-1, 1] (not enforced; NaN and
            empty are legal). Shape (frames,) is taken as one channel. Not copied: do not change
            it before it is sent.
        sample_rate: frames per second in Hz, 1 to 768,000.
        timestamp_ns, correlation_id, metadata: see `Message`.

    Raises:
        DataError: what was wrong and what is allowed.
    """

    __slots__ = ("sample_rate",)

    def __init__(
        self,
        samples: object,
        sample_rate: int,
        *,
        timestamp_ns: int | None = None,
        correlation_id: int = 0,
        metadata: Metadata | None = None,
    ) -> None:
        array = as_array(samples, "samples")
        if array.dtype != np.float32:
            hint = "divide int16 by 32768" if array.dtype == np.int16 else "use astype"
            raise DataError(f"samples are {array.dtype}; they must be float32 ({hint})")
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2:
            raise DataError(f"samples have shape {array.shape}; it must be (frames, channels)")
        if array.shape[1] > MAX_CHANNELS >= array.shape[0]:
            raise DataError(
                f"samples have shape {array.shape}; it must be (frames, channels), with 1 to "
                f"{MAX_CHANNELS} channels; where channels come first, transpose it: samples.T"
            )
        check_channels(array.shape[1])
        self.sample_rate = check_sample_rate(sample_rate)
        self._array = array
        self._set_envelope(timestamp_ns, correlation_id, metadata)

    @property
    def samples(self) -> NDArray[np.float32]:
        """The samples, float32, shape (frames, channels); read-only when received."""
        array = self._array
        return self._live_array() if array is None else array  # type: ignore[return-value]  # checked

    @property
    def frames(self) -> int:
        """Number of frames (one sample per channel)."""
        return len(self._live_array())

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self._live_array().shape[1])

    @property
    def duration_seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate

    def _format(self) -> object:
        return self.sample_rate

    def __repr__(self) -> str:
        if self._array is None:
            return f"<Audio {self._gone}>"
        return (
            f"<Audio {self.frames} frames x {self.channels} at {self.sample_rate} Hz, "
            f"{self.duration_seconds * 1000:.1f} ms>"
        )


class Video(ArrayMessage):
    """One picture.

    Args:
        pixels: uint8. Packed formats have shape (height, width, channels), "gray" also
            (height, width). Planar formats (yuv420p, nv12) have shape (height * 3 / 2, width)
            with even sides. Not copied: do not change it before it is sent.
        format: one of `PIXEL_FORMATS`, FFmpeg's names.
        timestamp_ns, correlation_id, metadata: see `Message`.

    Raises:
        DataError: what was wrong and what is allowed.
    """

    __slots__ = ("format",)

    def __init__(
        self,
        pixels: object,
        format: str = "rgb24",  # noqa: A002 (the field's word)
        *,
        timestamp_ns: int | None = None,
        correlation_id: int = 0,
        metadata: Metadata | None = None,
    ) -> None:
        array = as_array(pixels, "pixels")
        if array.dtype != np.uint8:
            raise DataError(f"pixels are {array.dtype}; they must be uint8")
        check_pixel_format(format)
        if format == "gray" and array.ndim == 2:
            array = array[:, :, None]
        check_picture_shape(array.shape, format)
        self.format = format
        self._array = array
        self._set_envelope(timestamp_ns, correlation_id, metadata)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture, uint8, in the shape its format has; read-only when received."""
        array = self._array
        return self._live_array() if array is None else array  # type: ignore[return-value]  # checked

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self._live_array().shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        rows = len(self._live_array())
        return rows * 2 // 3 if self.format in PLANAR_FORMATS else rows

    def _format(self) -> object:
        return self.format

    def __repr__(self) -> str:
        if self._array is None:
            return f"<Video {self._gone}>"
        return f"<Video {self.width} x {self.height} {self.format}>"


def check_sample_rate(sample_rate: object) -> int:
    """Return the rate in Hz as int, or raise `DataError`."""
    return checked_int(sample_rate, "sample_rate", 1, MAX_SAMPLE_RATE_HZ)


def check_channels(channels: object) -> int:
    """Return the channel count as int, or raise `DataError`."""
    return checked_int(channels, "the number of channels", 1, MAX_CHANNELS)


def check_pixel_format(name: object) -> None:
    """Raise `DataError` unless `name` is a pixel format we carry."""
    if name not in PIXEL_FORMATS:
        raise DataError(f"format is {shown(name)}; it must be one of {', '.join(PIXEL_FORMATS)}")


def check_picture_shape(shape: tuple[int, ...], format: str) -> None:  # noqa: A002
    """Raise `DataError` unless an array of this shape is a picture of that format."""
    if format in PLANAR_FORMATS:
        fits = len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0
        sides = (shape[0] * 2 // 3, *shape[1:]) if shape else ()
        wanted = "(height * 3 / 2, width) with even height and width"
    else:
        channels = PACKED_FORMATS[format]
        fits = len(shape) == 3 and shape[2] == channels
        sides = shape[:2]
        wanted = f"(height, width, {channels})"
    if not fits or not all(0 < side <= MAX_SIDE_PIXELS for side in sides):
        raise DataError(
            f"pixels of format {format} have shape {shape}; it must be {wanted}, "
            f"sides from 1 to {MAX_SIDE_PIXELS:,}"
        )
