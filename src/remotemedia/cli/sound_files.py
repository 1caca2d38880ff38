"""Sound files, read in chunks and written as sound comes."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from remotemedia.cli.devices import CHUNK_SECONDS
from remotemedia.cli.failure import UNREADABLE, Failure
from remotemedia.cli.wording import duration_text, not_written, plural
from remotemedia.data import Audio, File
from remotemedia.data.media import MAX_CHANNELS
from remotemedia.nodes.extras import install_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from remotemedia.data import RuntimeData

__all__ = ["SoundFileSink", "SoundFileSource"]


def sound_files() -> Any:
    """Return the library that reads and writes sound files.

    Raises:
        Failure: it is not installed, or lacks the library that it stands on.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:
        hint = f"run {install_command('audio')}"
        problem = f"sound files need the package soundfile: {hint} ({error})"
        raise Failure(problem) from error
    return soundfile


class SoundFileSource:
    """A sound file, read in chunks of `CHUNK_SECONDS` with its own rate and channels.

    Chunks have the times that they would have were it recorded from the first one on, also where
    they are sent faster than that.
    """

    kinds: tuple[str, ...] = ("Audio", "File")

    def __init__(self, path: Path) -> None:
        soundfile = sound_files()
        self.name = str(path)
        self._path = path
        try:
            self._file: Any = soundfile.SoundFile(path)
        except soundfile.LibsndfileError as error:
            raise Failure(_unreadable(path, error.error_string), UNREADABLE) from error
        self.warning = _cut_off(path)
        if not self._file.frames:
            self._file.close()
            problem = self.warning or f"{path} is a sound file of 0 frames"
            raise Failure(f"{problem}; there is no sound in it", UNREADABLE)
        if self.warning:
            self.warning += "; what is there is used"

    async def messages(self, kind: str) -> AsyncIterator[RuntimeData]:
        """See `Source.messages`."""
        if kind == "File":
            yield File(self._path.resolve())
            return
        import numpy as np

        soundfile = sound_files()
        rate = self._file.samplerate
        frames = max(1, round(rate * CHUNK_SECONDS))
        done = 0
        began_ns = time.monotonic_ns()
        if self._file.channels > MAX_CHANNELS:
            problem = f"{self._file.channels:,} channels, and sound here has at most {MAX_CHANNELS}"
            raise Failure(f"{self.name} has {problem}", UNREADABLE)
        while True:
            try:
                samples = self._file.read(frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                at = f"could be read up to {done / rate:.2f} s"
                raise Failure(f"{self.name} {at}: {error.error_string}", UNREADABLE) from error
            if not len(samples):
                return
            if not np.isfinite(samples).all():  # nodes would pass it on, or hear nothing
                problem = f"holds NaN or infinities from about {done / rate:.2f} s on"
                raise Failure(f"{self.name} {problem}: they are no sound", UNREADABLE)
            yield Audio(samples, rate, timestamp_ns=began_ns + done * 10**9 // rate)
            done += len(samples)

    def close(self) -> None:
        """See `Source.close`."""
        self._file.close()


def _unreadable(path: Path, problem: str) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    with suppress(UnicodeDecodeError):
        if "\0" not in (text := head.decode()):
            shown = text.strip().partition("\n")[0][:40]
            problem = f"{path} is no sound file: it holds text ({shown!r})"
            return f"{problem}; lines of text are read from .txt, .md and .jsonl files, and by -i -"
    size = path.stat().st_size
    if cut := _cut_off(path):
        return f"{cut}; there is no sound in it"
    if "SF_INFO" in problem:  # what it says of a rate of 0, or one that is too high
        problem = "its head says a sample rate that no sound has"
    if "not a regular file" in problem:  # what libsndfile says where it tried MP3 last
        problem = "it begins as no format does that is known"
    return f"{path} ({size:,} bytes) is no sound file that can be read: {problem.rstrip('.')}"


def _cut_off(path: Path) -> str:
    """Say that a file is shorter than its head says, where it is."""
    with path.open("rb") as file:
        head = file.read(8)
    said, size = int.from_bytes(head[4:8], "little") + 8, path.stat().st_size
    # Who writes to a pipe says a length near 2 or 4 GiB, for "unknown".
    if head[:4] != b"RIFF" or not size < said < 0x7FFF_0000:
        return ""
    return f"{path} is cut off: it has {size:,} of {said:,} bytes"


class SoundFileSink:
    """A sound file, made when the first sound comes, with its rate and channels."""

    kinds: tuple[str, ...] = ("Audio",)

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.count = 0
        self._path = path
        self._library = sound_files()
        self._file: Any = None

    async def write(self, message: RuntimeData) -> None:
        """See `Sink.write`."""
        assert isinstance(message, Audio)
        try:
            if self._file is None:
                self._file = self._library.SoundFile(
                    self._path, "w", message.sample_rate, message.channels
                )
            self._require_same(message)
            self._file.write(message.samples)
        except (self._library.LibsndfileError, OSError) as error:
            raise Failure(f"{self.name} cannot be written: {error}", UNREADABLE) from error
        self.count += 1

    def _require_same(self, message: Audio) -> None:
        was = self._file.samplerate, self._file.channels
        now = message.sample_rate, message.channels
        if was != now:
            raise Failure(
                f"{self.name} holds sound of {was[0]} Hz and {was[1]} channels, and now comes "
                f"sound of {now[0]} Hz and {now[1]}: put a node before the output that converts",
                UNREADABLE,
            )

    def close(self) -> str:
        """See `Sink.close`."""
        if self._file is None:
            return not_written(self._path, "no sound")
        seconds = self._file.frames / self._file.samplerate
        about = f"{self._file.samplerate:,} Hz, {plural(self._file.channels, 'channel')}"
        try:
            self._file.close()
        except (self._library.LibsndfileError, OSError) as error:
            raise Failure(f"{self.name} cannot be written: {error}", UNREADABLE) from error
        return f"{self.name}: {duration_text(seconds)} of sound, {about}"
