"""Stands in for the package sounddevice: a microphone that counts, a speaker that writes a file.

It is put on the path of a program under that name.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class PortAudioError(Exception):
    """What the real one raises."""


class RawInputStream:
    """Hears 0.001, then 0.002 and so on, a chunk each, until it is closed."""

    def __init__(
        self,
        samplerate: int,
        channels: int,
        dtype: str,
        blocksize: int,
        callback: Callable[[memoryview, int, None, None], None],
    ) -> None:
        if "NO_MICROPHONE" in os.environ:
            raise PortAudioError("Error querying device -1")
        assert (samplerate, channels, dtype, blocksize) == (16_000, 1, "float32", 320)
        self._callback = callback
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._hear)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._is_closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _hear(self) -> None:
        number = 0
        while not self._is_closed.wait(0.02):
            number += 1
            self._callback(np.full(320, number / 1000, np.float32).data.cast("B"), 320, None, None)


class OutputStream:
    """Writes what it plays to the file that an environment variable names."""

    def __init__(self, samplerate: int, channels: int, dtype: str) -> None:
        self.samplerate = samplerate
        self.channels = channels
        self._file = Path(os.environ["SPEAKER"]).open("ab")  # noqa: SIM115 (closed by `close`)

    def start(self) -> None:
        return

    def write(self, samples: NDArray[np.float32]) -> None:
        if "BROKEN_SPEAKER" in os.environ:
            raise PortAudioError("Device unavailable")
        self._file.write(samples.tobytes())

    def stop(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
