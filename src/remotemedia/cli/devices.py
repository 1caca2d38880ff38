"""The microphone and the speaker, which need a library of the system."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from remotemedia.cli.failure import UNREADABLE, Failure
from remotemedia.data import Audio
from remotemedia.nodes.extras import install_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from remotemedia.data import RuntimeData

__all__ = ["CHUNK_SECONDS", "MicSource", "SpeakerSink"]

CHUNK_SECONDS = 0.02
"""Length of a piece of sound: what WebRTC and telephony send at once (RFC 7587, section 4.2)."""
MIC_RATE_HZ = 16_000


def sound_devices() -> Any:
    """Return the library that records and plays.

    Raises:
        Failure: it is not installed, or lacks the library that it stands on.
    """
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        hint = f"run {install_command('mic')}"
        problem = f"a microphone or speaker needs the package sounddevice: {hint}"
        raise Failure(problem) from error
    except OSError as error:
        hint = "install it (Debian, Ubuntu: libportaudio2)"
        problem = f"a microphone or speaker needs PortAudio, and: {error}; {hint}"
        raise Failure(problem) from error
    return sounddevice


class MicSource:
    """The default microphone, one channel."""

    kinds: tuple[str, ...] = ("Audio",)
    warning = ""
    name = "the microphone"

    def __init__(self) -> None:
        self._devices = sound_devices()
        try:
            self._stream = self._devices.RawInputStream(
                samplerate=MIC_RATE_HZ,
                channels=1,
                dtype="float32",
                blocksize=round(MIC_RATE_HZ * CHUNK_SECONDS),
                callback=self._hear,
            )
        except self._devices.PortAudioError as error:
            raise Failure(f"{self.name} cannot be opened: {error}", UNREADABLE) from error
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()

    def _hear(self, chunk: object, _frames: int, _time: object, _status: object) -> None:
        """Keep a chunk, a buffer of cffi's; called by PortAudio, in a thread of its own."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                copied = bytes(chunk)  # type: ignore[call-overload]  # cffi's buffers have no type
                self._loop.call_soon_threadsafe(self._chunks.put_nowait, copied)

    async def messages(self, kind: str) -> AsyncIterator[RuntimeData]:  # noqa: ARG002 (other sources make others)
        """See `Source.messages`."""
        import numpy as np

        self._loop = asyncio.get_running_loop()
        self._stream.start()
        while True:
            yield Audio(np.frombuffer(await self._chunks.get(), np.float32), MIC_RATE_HZ)

    def close(self) -> None:
        """See `Source.close`."""
        self._stream.close()


class SpeakerSink:
    """The default speaker. Writing waits until there is room, so the pipeline is paced by it."""

    kinds: tuple[str, ...] = ("Audio",)
    name: str = "the speaker"

    def __init__(self) -> None:
        self.count = 0
        self._devices = sound_devices()
        self._stream: Any = None

    async def write(self, message: RuntimeData) -> None:
        """See `Sink.write`."""
        assert isinstance(message, Audio)
        samples = message.samples.copy()  # a thread reads it, also if this is cancelled
        await asyncio.to_thread(self._play, samples, message.sample_rate, message.channels)
        self.count += 1

    def _play(self, samples: Any, rate: int, channels: int) -> None:
        try:
            if self._stream is None or (self._stream.samplerate, self._stream.channels) != (
                rate,
                channels,
            ):
                self._stop()
                self._stream = self._devices.OutputStream(
                    samplerate=rate, channels=channels, dtype="float32"
                )
                self._stream.start()
            self._stream.write(samples)
        except self._devices.PortAudioError as error:
            raise Failure(f"{self.name} cannot be used: {error}", UNREADABLE) from error

    def _stop(self) -> None:
        if self._stream is not None:
            self._stream.stop()  # plays what it has to its end
            self._stream.close()
            self._stream = None

    def close(self) -> str:
        """See `Sink.close`."""
        try:
            self._stop()
        except self._devices.PortAudioError as error:
            raise Failure(f"{self.name} cannot be used: {error}", UNREADABLE) from error
        return "" if self.count else f"{self.name}: no sound came"
