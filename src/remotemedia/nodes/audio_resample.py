"""A stream of sound at another rate."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator  # noqa: TC003 (a node's annotations are read)
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec

from remotemedia.core.node import Node
from remotemedia.core.registry import node
from remotemedia.data import Audio
from remotemedia.data.media import MAX_SAMPLE_RATE_HZ
from remotemedia.nodes.extras import needs_extra, uses_extra

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from remotemedia.data.message import Metadata

    Samples: TypeAlias = NDArray[np.float32]

__all__ = ["Resample"]

Rate: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_SAMPLE_RATE_HZ)]


@node("audio.resample")
@uses_extra("audio", "soxr")
class Resample(Node):
    """Brings a stream of audio to one sample rate, and to one channel if asked to.

    The chunks that come in are one stream: the filter goes on from chunk to chunk, and what it
    holds back leaves at the end. A stream that changes its rate or its channels begins anew. What
    has the right format passes as it is. Times and metadata are those of the sound that came in;
    where the times of what comes in never go back, those of what leaves do not either.

    Ports: `in` takes Audio of any rate and channels, `out` sends Audio.

    Args:
        sample_rate: rate of what is sent in Hz, 1 to 768,000.
        mono: send one channel, the mean of those that come in.
        quality: of soxr's filter: VHQ, HQ, MQ, LQ or QQ, from the best to the quickest.
    """

    def __init__(
        self,
        sample_rate: Rate = 16_000,
        *,
        mono: bool = False,
        quality: Literal["VHQ", "HQ", "MQ", "LQ", "QQ"] = "HQ",
    ) -> None:
        self.sample_rate = sample_rate
        self.mono = mono
        self.quality = quality
        self._stream: _Stream | None = None

    def initialize(self) -> None:
        """Load soxr."""
        with needs_extra("audio.resample", "audio"):
            import soxr

        self._make = soxr.ResampleStream

    def process(self, audio: Audio) -> Iterator[Audio]:
        """Send what the filter lets go of so far."""
        is_mixed = self.mono and audio.channels > 1
        samples = audio.samples.mean(axis=1, keepdims=True) if is_mixed else audio.samples
        form = (audio.sample_rate, samples.shape[1])
        if self._stream is not None and self._stream.form != form:
            yield from self.finish()
        if audio.sample_rate == self.sample_rate:
            yield self._audio(samples, audio.timestamp_ns, audio.metadata) if is_mixed else audio
            return
        if self._stream is None:
            made = self._make(form[0], self.sample_rate, form[1], quality=self.quality)
            self._stream = _Stream(form, self.sample_rate, made.resample_chunk)
        resampled, began_ns = self._stream.feed(samples, audio)
        if len(resampled):
            yield self._audio(resampled, began_ns, audio.metadata)

    def finish(self) -> Iterator[Audio]:
        """Send what the filter still holds."""
        stream, self._stream = self._stream, None
        if stream is not None:
            rest, began_ns = stream.flush()
            if len(rest):
                yield self._audio(rest, began_ns, stream.metadata)

    def interrupt(self) -> None:
        """Forget what the filter holds."""
        self._stream = None

    def _audio(self, samples: Samples, began_ns: int, metadata: Metadata) -> Audio:
        return Audio(samples, self.sample_rate, timestamp_ns=began_ns, metadata=metadata)


class _Stream:
    """A stream of one format on its way through the filter.

    Attributes:
        form: rate in Hz and channels of what goes in.
        metadata: of the chunk that went in last. The chunk itself is let go of.
    """

    metadata: Metadata

    def __init__(
        self, form: tuple[int, int], made_rate: int, resample: Callable[..., Samples]
    ) -> None:
        self.form = form
        self._made_rate = made_rate
        self._resample = resample
        self._fed_frames = self._made_frames = 0
        # Where in the stream chunks begin and when that was: those of which frames are held.
        self._chunks: deque[tuple[int, int]] = deque()
        self._sent_ns: int | None = None

    def feed(self, samples: Samples, audio: Audio) -> tuple[Samples, int]:
        """Put a chunk in; return what comes out, and the time of its first frame."""
        self._chunks.append((self._fed_frames, audio.timestamp_ns))
        self.metadata = audio.metadata
        self._fed_frames += len(samples)
        return self._timed(self._resample(samples))

    def flush(self) -> tuple[Samples, int]:
        """Return all that is left, and the time of its first frame."""
        import numpy as np

        return self._timed(self._resample(np.empty((0, self.form[1]), np.float32), last=True))

    def _timed(self, made: Samples) -> tuple[Samples, int]:
        """Return what came out with the time of its first frame: its chunk's, and its place there.

        Chunks that come faster than live overlap, by their times. So it may be later than that: it
        is never before what left already.
        """
        at = self._made_frames * self.form[0] // self._made_rate
        while len(self._chunks) > 1 and self._chunks[1][0] <= at:
            _, before_ns = self._chunks.popleft()
            if self._chunks[0][1] < before_ns:
                self._sent_ns = None  # what comes in went back itself
        begin, chunk_ns = self._chunks[0]
        began_ns = chunk_ns + (at - begin) * 10**9 // self.form[0]
        if len(made):
            self._made_frames += len(made)
            if self._sent_ns is not None:
                began_ns = max(began_ns, self._sent_ns)
            self._sent_ns = began_ns
        return made, began_ns
