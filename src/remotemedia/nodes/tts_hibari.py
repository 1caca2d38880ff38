"""Text to speech."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 (a node's annotations are read)
from typing import Annotated, TypeAlias

import msgspec

from remotemedia.core.node import Node
from remotemedia.core.registry import node
from remotemedia.data import Audio, Text
from remotemedia.nodes.extras import needs_extra, uses_extra
from remotemedia.nodes.options import Seed, Threads  # noqa: TC001 (a node's annotations are read)
from remotemedia.nodes.threads import default_threads

__all__ = ["Hibari"]

PACKAGED_VOICE = "heart"

Speed: TypeAlias = Annotated[float, msgspec.Meta(ge=0.5, le=2)]


@node("tts.hibari")
@uses_extra("speech", "hibari")
class Hibari(Node):
    """Says English text, with Hibari; a sentence leaves as soon as it has been made.

    The metadata of what is sent is that of the text, and `text`, the sentence that is said.

    Ports: `in` takes Text, `out` sends Audio of one channel at 24,000 Hz.

    Args:
        voice: "heart", which comes with the `speech` extra, or another of Hibari's voices, which
            is downloaded when it is used first.
        speed: how fast it speaks, 0.5 to 2.
        threads: threads of the processor that it may use, 0 to 256; 0: half of those that the
            process may use, at most 4.
        seed: makes the same text sound the same, sample for sample, 0 to 2,147,483,647; None:
            not.
    """

    def __init__(
        self,
        voice: str = PACKAGED_VOICE,
        *,
        speed: Speed = 1.0,
        threads: Threads = 1,
        seed: Seed | None = None,
    ) -> None:
        self.voice = voice
        self.speed = speed
        self.threads = threads
        self.seed = seed

    def initialize(self) -> None:
        """Load the voice, and say something once: the first time takes longest."""
        self.progress(0.0, "importing hibari")
        with needs_extra("tts.hibari", "speech"):
            import hibari
        self.progress(0.3, f"loading the voice {self.voice}")
        self._sample_rate = int(hibari.SAMPLE_RATE)
        self._voice = hibari.Hibari(voice=self.voice, threads=self.threads or default_threads())
        self.progress(0.7, "warming up")
        self._voice("Ready.")
        self.progress(1.0, f"loaded the voice {self.voice}")

    def process(self, text: Text) -> Iterator[Audio]:
        """Send the sentences, one by one."""
        for sentence in self._voice.split_sentences(text.text):
            for samples in self._voice.stream(sentence, speed=self.speed, seed=self.seed):
                if len(samples):
                    yield Audio(
                        samples,
                        self._sample_rate,
                        metadata={**text.metadata, "text": sentence},
                    )
