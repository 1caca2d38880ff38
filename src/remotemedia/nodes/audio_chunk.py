"""A stream of sound in pieces of one size."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 (a node's annotations are read)
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from remotemedia.core.node import Node
from remotemedia.core.registry import node
from remotemedia.data import Audio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Chunk"]

Milliseconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=60_000)]
Frames: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


@node("audio.chunk")
class Chunk(Node):
    """Cuts a stream of audio into pieces of one size.

    The messages that come in are one stream, whatever their sizes; what is left over waits for
    more, and leaves at the end, shorter than the others. A change of rate or channels begins a new
    stream in the same way.

    Ports: `in` takes Audio, `out` sends Audio of the same format.

    Args:
        duration_ms: length of a piece in milliseconds, above 0 and up to 60,000.
        frames: its length in frames instead, 1 to 10,000,000; None: by `duration_ms`.
    """

    def __init__(self, duration_ms: Milliseconds = 20.0, *, frames: Frames | None = None) -> None:
        self.duration_ms = duration_ms
        self.frames = frames
        self._rest: Audio | None = None

    def process(self, audio: Audio) -> Iterator[Audio]:
        """Send the pieces that are full."""
        import numpy as np

        rest = self._rest
        if rest is not None and _form(rest) != _form(audio):
            yield from self.finish()
            rest = None
        samples, began_ns = audio.samples, audio.timestamp_ns
        if rest is not None:
            samples = np.concatenate((rest.samples, samples))
            began_ns -= _length_ns(rest.frames, audio.sample_rate)
        size = self.frames or max(1, round(self.duration_ms * audio.sample_rate / 1000))
        full = len(samples) // size * size
        # Kept before anything leaves: an interrupt may end the loop, and comes after it.
        self._rest = (
            _piece(samples[full:].copy(), audio, began_ns, full) if full < len(samples) else None
        )
        for at in range(0, full, size):
            yield _piece(samples[at : at + size], audio, began_ns, at)

    def finish(self) -> Iterator[Audio]:
        """Send what is left over."""
        rest, self._rest = self._rest, None
        if rest is not None:
            yield rest

    def interrupt(self) -> None:
        """Forget what is left over."""
        self._rest = None


def _form(audio: Audio) -> tuple[int, int]:
    return audio.sample_rate, audio.channels


def _length_ns(frames: int, sample_rate: int) -> int:
    return frames * 10**9 // sample_rate


def _piece(samples: NDArray[np.float32], source: Audio, began_ns: int, at: int) -> Audio:
    """Return frames that begin `at` frames after `began_ns`, with the source's metadata."""
    return Audio(
        samples,
        source.sample_rate,
        timestamp_ns=began_ns + _length_ns(at, source.sample_rate),
        metadata=source.metadata,
    )
