"""From the tokens of LFM2-Audio to sound and sentences, as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from remotemedia.nodes.sentences import Sentences

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    Samples: TypeAlias = NDArray[np.float32]

__all__ = ["SAMPLE_RATE_HZ", "SoundDecoder", "TextDecoder"]

SAMPLE_RATE_HZ = 24_000
FRAME_SAMPLES = 1_920
END_OF_AUDIO = 2_048
# What comes before a frame changes its sound, as far back as its attention reaches: 5 frames in
# each of its few layers. What comes after changes no more than the last frame, whose windows
# overlap with the next.
CONTEXT_FRAMES = 24
FRAMES_AT_A_TIME = 4
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class SoundDecoder:
    """Makes sound of frames, some at a time, so that it sounds as if made of all at once.

    Args:
        decode: makes sound of frames, 1,920 samples of each.
    """

    def __init__(self, decode: Callable[[list[list[int]]], Samples]) -> None:
        self._decode = decode
        self._frames: list[list[int]] = []
        self._sent = 0  # how many of these frames have been sent as sound
        self._is_first = True

    def add(self, frame: list[int]) -> list[Samples]:
        """Take the next frame; return the sound that is certain now, if that is enough to send."""
        if END_OF_AUDIO in frame:
            return []
        self._frames.append(frame)
        enough = 1 if self._is_first else FRAMES_AT_A_TIME
        certain = len(self._frames) - 1
        return self._make(certain) if certain - self._sent >= enough else []

    def rest(self) -> list[Samples]:
        """Return the sound that is left."""
        return self._make(len(self._frames)) if len(self._frames) > self._sent else []

    def _make(self, until: int) -> list[Samples]:
        samples = self._decode(self._frames)
        made = samples[self._sent * FRAME_SAMPLES : until * FRAME_SAMPLES]
        dropped = max(0, until - CONTEXT_FRAMES)
        self._frames, self._sent, self._is_first = self._frames[dropped:], until - dropped, False
        return [made]


class TextDecoder:
    """Makes sentences of tokens.

    Args:
        decode: makes text of tokens; a token may be a part of a letter.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._known = ""
        self._sentences = Sentences()

    def add(self, token: int) -> list[str]:
        """Take the next token; return the sentences that are complete now."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith(UNFINISHED):
            return []
        piece, self._known = text[len(self._known) :], text
        return self._sentences.add(piece)

    def rest(self) -> list[str]:
        """Return what is left, if anything is."""
        rest = self._sentences.rest()
        return [rest] if rest else []
