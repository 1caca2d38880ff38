"""Text to speech in the voice of a recording."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator  # noqa: TC003 (a node's annotations are read)
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec

from remotemedia.core.node import Node
from remotemedia.core.registry import node
from remotemedia.data import Audio, Text
from remotemedia.nodes.extras import needs_extra, uses_extra
from remotemedia.nodes.hub import given_path
from remotemedia.nodes.options import Seed, Threads  # noqa: TC001 (a node's annotations are read)
from remotemedia.nodes.threads import default_threads, made_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from remotemedia.nodes.threads import Outlet

    Samples: TypeAlias = NDArray[np.float32]

__all__ = ["VibeVoice"]

MODELS = {"small": "vibevoice/VibeVoice-1.5B-hf", "large": "vibevoice/VibeVoice-7B-hf"}
RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")

Guidance: TypeAlias = Annotated[float, msgspec.Meta(ge=1, le=10)]
Steps: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=5400)]


@node("vibe_voice")
@uses_extra("vibevoice", "diffusers", "torch", "transformers")
class VibeVoice(Node):
    """Says text with VibeVoice, in the voice of a recording; sound leaves as it is decoded.

    A message holds what the model decodes at a time, 133 ms. An interrupt ends what is being said
    after the next step of the model. The metadata of what is sent is that of the text.

    Ports: `in` takes Text, `out` sends Audio of one channel at 24,000 Hz.

    Args:
        model: small (1.5 billion parameters), large (7 billion), a repository on the hub, all
            downloaded when they are used first, or a folder.
        voice: a recording of the voice, some seconds of clear speech: its path, or its name
            without the ending in `voices`, such as sarah for sarah.wav; empty: the model's choice.
        voices: folder of recordings that have names; empty: remotemedia/voices where the user's
            data is, $XDG_DATA_HOME or ~/.local/share.
        device: cpu, cuda, cuda:1 and so on, or auto: cuda if there is one.
        dtype: what is calculated in: float32, bfloat16, float16, or auto, as the model is stored.
        guidance: how closely the voice is followed, 1 to 10.
        diffusion_steps: steps per piece of sound, 1 to 1,000; more are slower.
        max_audio_s: the longest sound for a text in seconds, up to 5,400, to the next piece.
        seed: makes the same text sound the same, 0 to 2,147,483,647; None: not.
        threads: threads of the processor that it may use, 0 to 256; 0: half of those that the
            process may use, at most 4.
    """

    def __init__(
        self,
        model: str = "small",
        *,
        voice: str = "",
        voices: str = "",
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        guidance: Guidance = 1.3,
        diffusion_steps: Steps = 10,
        max_audio_s: Seconds = 120,
        seed: Seed | None = None,
        threads: Threads = 0,
    ) -> None:
        self.model = model
        self.voice = voice
        self.voices = voices
        self.device = device
        self.dtype = dtype
        self.guidance = guidance
        self.diffusion_steps = diffusion_steps
        self.max_audio_s = max_audio_s
        self.seed = seed
        self.threads = threads
        self._reference: Samples | None = None

    async def initialize(self) -> None:
        """Load the model, downloading it first if it is on the hub, and the voice."""
        await asyncio.to_thread(self._load)

    async def process(self, text: Text) -> AsyncIterator[Audio]:
        """Send the sound, piece by piece."""
        if not text.text.strip():
            return
        async with aclosing(made_in_thread(partial(self._generate, text.text))) as pieces:
            async for samples in pieces:
                yield Audio(samples, self._sample_rate, metadata=text.metadata)

    def _load(self) -> None:
        recording = _recording_of(self.voice, self.voices) if self.voice else None
        self.progress(0.0, "importing torch and transformers")
        with needs_extra("vibe_voice", "vibevoice"):
            import diffusers  # noqa: F401 (the model's noise; said now that it is missing)
            import torch
            from transformers import VibeVoiceProcessor
            from transformers.utils.logging import disable_progress_bar
        disable_progress_bar()
        torch.set_num_threads(self.threads or default_threads())
        name = MODELS.get(self.model) or str(given_path(self.model) or self.model)
        self.progress(0.3, f"loading the tokenizer of {name}")
        self._processor: Any = VibeVoiceProcessor.from_pretrained(name)
        self._sample_rate = int(self._processor.feature_extractor.sampling_rate)
        self.progress(0.4, f"loading {name}")
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = _streaming_model().from_pretrained(name, dtype=self.dtype).to(device).eval()
        if recording is not None:
            self.progress(0.9, f"loading the voice {self.voice}")
            self._reference = _samples_of(recording, self._sample_rate)
        self.progress(1.0, f"loaded {name}")

    def _generate(self, text: str, outlet: Outlet[Samples]) -> None:
        """Make the sound, in a thread; put each piece of it where it is waited for."""
        import torch

        content: list[dict[str, object]] = [{"type": "text", "text": " ".join(text.split())}]
        if self._reference is not None:
            content.append({"type": "audio"})
        prompt = self._processor.apply_chat_template(
            [{"role": "0", "content": content}], tokenize=False
        )
        audio = None if self._reference is None else [self._reference]
        inputs = self._processor(text=prompt, audio=audio, return_tensors="pt")
        if self.seed is not None:
            torch.manual_seed(self.seed)
        hop_frames = self._model.config.audio_config.hop_length
        with torch.inference_mode():
            self._model.generate(
                **inputs.to(self._model.device, self._model.dtype),
                max_new_tokens=math.ceil(self.max_audio_s * self._sample_rate / hop_frames) + 1,
                guidance_scale=self.guidance,
                num_diffusion_steps=self.diffusion_steps,
                stopping_criteria=[self._model.start(outlet)],
            )


def _streaming_model() -> Any:
    """Return the model's class, with a way out for sound as it is decoded.

    The library gives the whole sound at the end. Its version is pinned for the private method.
    """
    import torch
    from transformers import VibeVoiceForConditionalGeneration

    class Streaming(VibeVoiceForConditionalGeneration):  # type: ignore[misc]  # it is Any here
        def start(self, outlet: Outlet[Samples]) -> Callable[..., torch.Tensor]:
            """Put what is decoded from now on; return what says when to stop."""
            self._outlet = outlet
            return lambda ids, *_, **__: torch.full(
                (len(ids),), not outlet.is_wanted, dtype=torch.bool, device=ids.device
            )

        def _decode_audio_latent(self, *args: Any, **kwargs: Any) -> Any:
            output = super()._decode_audio_latent(*args, **kwargs)
            self._outlet.put(output.audio[0, 0].float().cpu().numpy())
            return output

    return Streaming


def _recording_of(voice: str, voices: str) -> Path:
    """Return the file of a voice: a path, or a name in the folder; ValueError if there is none."""
    path = Path(voice).expanduser()
    if path.is_file():
        return path
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    folder = Path(voices or Path(data, "remotemedia", "voices")).expanduser()
    found = sorted(file for file in folder.glob("*") if file.suffix.lower() in RECORDINGS)
    for file in found:
        if file.stem == voice:
            return file
    known = ", ".join(file.stem for file in found) or "none"
    raise ValueError(
        f"there is no voice {voice!r} in {folder} (there are: {known}); put a recording "
        f"{voice}.wav there, or give the path of one"
    )


def _samples_of(recording: Path, sample_rate: int) -> Samples:
    """Return a recording as one channel at a rate."""
    with needs_extra("vibe_voice", "vibevoice"):
        import soundfile
        import soxr
    samples, rate = soundfile.read(recording, dtype="float32", always_2d=True)
    resampled: Samples = soxr.resample(samples.mean(axis=1), rate, sample_rate)
    return resampled
