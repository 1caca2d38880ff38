"""Where `run` puts what comes out: sound files, text files, standard output, the speaker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from remotemedia.cli.devices import SpeakerSink
from remotemedia.cli.failure import INVALID, UNREADABLE, Failure
from remotemedia.cli.sound_files import SoundFileSink
from remotemedia.cli.sources import JSON_LINES_SUFFIX, TEXT_SUFFIXES
from remotemedia.cli.wording import json_text, not_written, plural
from remotemedia.data import Audio, Binary, Control, File, Json, Tensor, Text, Video

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from remotemedia.core.validation import ValidatedPipeline
    from remotemedia.data import RuntimeData

__all__ = ["Sink", "json_line", "open_sinks", "text_line"]

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


class Sink(Protocol):
    """Something to write messages to.

    Attributes:
        name: what to call it.
        kinds: the types of message that it takes; empty is all that no other sink takes.
        count: how many it has taken.
    """

    name: str
    kinds: tuple[str, ...]
    count: int

    async def write(self, message: RuntimeData) -> None:
        """Write one message.

        Raises:
            Failure: it cannot be written.
        """

    def close(self) -> str:
        """Finish it, and return what became of it, in words. Twice is harmless.

        Raises:
            Failure: it cannot be finished.
        """


def open_sinks(
    outputs: Iterable[str],
    pipeline: ValidatedPipeline,
    write: Callable[[str], None],
    *,
    as_json: bool,
    source: Path | None = None,
) -> list[Sink]:
    """Open what the command line names as outputs.

    Args:
        outputs: names of files, "-" and "speaker".
        pipeline: whose outputs they are for.
        write: prints a line on standard output.
        as_json: whether lines on standard output are JSON.
        source: the file that is read, which must not be written.

    Raises:
        Failure: one is no output, cannot be written, is given twice, or would get nothing.
    """
    outputs = tuple(outputs)
    _require_different(outputs)
    sinks = [_open(one, write, source, as_json=as_json) for one in outputs]
    sent = {kind for one in pipeline.outputs for kind in one.port.kinds}
    for sink in sinks:
        if sink.kinds and not sent & set(sink.kinds):
            sends = "; ".join(f"{o} sends {' or '.join(o.port.kinds)}" for o in pipeline.outputs)
            problem = f"{sink.name} takes {' or '.join(sink.kinds)}"
            raise Failure(f"{problem}, and {sends or 'the pipeline has no output'}", INVALID)
    return sinks


def _require_different(outputs: Iterable[str]) -> None:
    """Two that write one file would each spoil what the other writes."""
    seen: dict[str | Path, str] = {}
    for name in outputs:
        target = name if name in ("-", "speaker") else Path(name).resolve()
        if target in seen:
            also = "" if seen[target] == name else f", also as {seen[target]}"
            raise Failure(f"--output {name}: it is given twice{also}", INVALID)
        seen[target] = name


def _open(name: str, write: Callable[[str], None], source: Path | None, *, as_json: bool) -> Sink:
    if name == "-":
        return LineSink("standard output", json_line if as_json else text_line, write)
    if name == "speaker":
        return SpeakerSink()
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix not in (*SOUND_SUFFIXES, *TEXT_SUFFIXES, JSON_LINES_SUFFIX):
        known = " ".join((*SOUND_SUFFIXES, *TEXT_SUFFIXES, JSON_LINES_SUFFIX))
        problem = f"--output {name}: its ending says no format; there is {known}, - and speaker"
        raise Failure(problem, INVALID)
    if source is not None and path.exists() and path.samefile(source):
        raise Failure(
            f"--output {name}: it is the input, and would be overwritten while it is read", INVALID
        )
    if path.is_dir() or not path.absolute().parent.is_dir():
        problem = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise Failure(f"--output {name}: {problem}", INVALID)
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise Failure(f"--output {name}: you may not write it", UNREADABLE)
    if suffix in SOUND_SUFFIXES:
        return SoundFileSink(path)
    return TextFileSink(path, text_line if suffix in TEXT_SUFFIXES else json_line)


def text_line(message: RuntimeData) -> str:
    """Return a message as a line for people; a text may have several lines of its own."""
    match message:
        case Text():
            return message.text
        case Json():
            return json_text(message.value)
        case File():
            return message.path
        case _:
            return repr(message)


def json_line(message: RuntimeData) -> str:
    """Return a message as one line of JSON; of arrays, what they are and not what they hold."""
    about: dict[str, object] = {
        "type": type(message).__name__,
        "output": message.origin,
        "input": message.correlation_id,
        "timestamp_ns": message.timestamp_ns,
        **_content(message),
    }
    if message.metadata:
        about["metadata"] = dict(message.metadata)
    return json_text(about)


def _content(message: RuntimeData) -> dict[str, object]:
    match message:
        case Text():
            return {"text": message.text}
        case Json():
            return {"value": message.value}
        case Audio():
            return {
                "frames": message.frames,
                "channels": message.channels,
                "sample_rate": message.sample_rate,
                "seconds": round(message.duration_seconds, 6),
            }
        case Video():
            return {"width": message.width, "height": message.height, "format": message.format}
        case Tensor():
            return {"shape": list(message.array.shape), "dtype": str(message.array.dtype)}
        case Binary():
            return {"bytes": len(message)}
        case File():
            return {"path": message.path, "media_type": message.media_type}
        case Control():
            return {"name": message.name, "value": message.value}


class LineSink:
    """Prints a line for every message."""

    kinds: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        line: Callable[[RuntimeData], str],
        write: Callable[[str], None],
    ) -> None:
        self.name = name
        self.count = 0
        self._line = line
        self._write = write

    async def write(self, message: RuntimeData) -> None:
        """See `Sink.write`."""
        self._write(self._line(message))
        self.count += 1

    def close(self) -> str:
        """See `Sink.close`."""
        return ""


class TextFileSink:
    """A file with a line for every message, made when the first one comes."""

    kinds: tuple[str, ...] = ()

    def __init__(self, path: Path, line: Callable[[RuntimeData], str]) -> None:
        self.name = str(path)
        self.count = 0
        self._path = path
        self._line = line
        self._file: IO[str] | None = None

    async def write(self, message: RuntimeData) -> None:
        """See `Sink.write`."""
        try:
            if self._file is None:
                self._file = self._path.open("w", encoding="utf-8")
            self._file.write(self._line(message) + "\n")
            self._file.flush()
        except OSError as error:
            raise Failure(f"{self.name} cannot be written: {error.strerror}", UNREADABLE) from error
        self.count += 1

    def close(self) -> str:
        """See `Sink.close`."""
        if self._file is None:
            return not_written(self._path, "nothing")
        try:
            self._file.close()
        except OSError as error:
            raise Failure(f"{self.name} cannot be written: {error.strerror}", UNREADABLE) from error
        return f"{self.name}: {plural(self.count, 'line')}"
