"""What `run` sends into a pipeline: a sound file, lines of text, a microphone."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from remotemedia.cli.devices import MicSource
from remotemedia.cli.failure import INVALID, UNREADABLE, Failure
from remotemedia.cli.sound_files import SoundFileSource
from remotemedia.core.findings import listed
from remotemedia.data import Json, Text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from remotemedia.core.validation import SessionPort, ValidatedPipeline
    from remotemedia.data import RuntimeData
    from remotemedia.data.plain import JsonValue

__all__ = ["JSON_LINES_SUFFIX", "TEXT_SUFFIXES", "Source", "open_source", "pick_input"]

TEXT_SUFFIXES = (".txt", ".text", ".md")
JSON_LINES_SUFFIX = ".jsonl"
JSON_SUFFIX = ".json"
STANDARD_INPUT = "standard input"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # RFC 3986, section 3.1
_READ_BYTES = 64 * 1024


class Source(Protocol):
    """Something to read messages from.

    Attributes:
        name: what to call it.
        kinds: the types of message that it can be sent as, the one it fits best first.
        warning: what is odd about it; empty if nothing is.
    """

    name: str
    kinds: tuple[str, ...]
    warning: str

    def messages(self, kind: str) -> AsyncIterator[RuntimeData]:
        """Iterate over all that it holds, as messages of one of its kinds.

        Raises:
            Failure: it cannot be read any further.
        """

    def close(self) -> None:
        """Let go of it. Twice is harmless."""


def open_source(given: str | None, text: str | None) -> Source | None:
    """Open what the command line names as input; None if it names nothing.

    Raises:
        Failure: it cannot be read, and why.
    """
    if text is not None:
        return TextSource(text)
    if given is None:
        return None
    if given == "-":
        return LineSource(0, STANDARD_INPUT)
    if given == "mic":
        return MicSource()
    if _URL.match(given):  # as a path it would lose one of its slashes
        problem = "a URL is not taken; download it, and name the file"
        raise Failure(f"--input {given}: {problem}", INVALID)
    path = Path(given)
    _require_file(path)
    suffix = path.suffix.lower()
    if suffix == JSON_SUFFIX:
        return TextSource(_whole_text(path), given, ("Json", "Text"))
    if suffix in (*TEXT_SUFFIXES, JSON_LINES_SUFFIX):
        return LineSource(os.open(path, os.O_RDONLY | os.O_CLOEXEC), given)
    return SoundFileSource(path)


def _require_file(path: Path) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():
        problem = "is a device or a pipe; lines of text can come from standard input: --input -"
        raise Failure(f"{path} {problem}", UNREADABLE)
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except FileNotFoundError:
        raise Failure(f"there is no file {path}", UNREADABLE) from None
    except IsADirectoryError:
        raise Failure(f"{path} is a folder; name a file in it", UNREADABLE) from None
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", UNREADABLE) from error
    if is_empty and path.suffix.lower() not in (*TEXT_SUFFIXES, JSON_LINES_SUFFIX):
        raise Failure(f"{path} is empty: it holds no byte", UNREADABLE)


def pick_input(
    pipeline: ValidatedPipeline, source: Source, to: str | None
) -> tuple[SessionPort, str]:
    """Choose the input port that a source goes to, and the type of message to send it as.

    Raises:
        Failure: no input takes it, or several do and `to` does not say which.
    """
    inputs = pipeline.inputs
    if to is not None:
        inputs = tuple(one for one in inputs if to in (str(one), one.node_id))
        if not inputs:
            there_is = listed(str(one) for one in pipeline.inputs) or "none"
            raise Failure(f"--to {to}: there is no such input; there is {there_is}", INVALID)
    fitting = [(one, kind) for one in inputs if (kind := _first_of(source.kinds, one.port.kinds))]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        which = listed(str(one) for one, _ in fitting)
        example = fitting[0][0]
        raise Failure(f"several inputs take it: {which}; say which: --to {example}", INVALID)
    takes = "; ".join(f"{one} takes {' or '.join(one.port.kinds)}" for one in inputs)
    problem = takes or "the pipeline has no input: its nodes are sources or connected"
    if source.name == STANDARD_INPUT and any("Audio" in one.port.kinds for one in inputs):
        problem += "; sound is not read from standard input: name a file"
    raise Failure(f"{source.name} is {source.kinds[0]}, and {problem}", INVALID)


def _first_of(wanted: Sequence[str], there: Sequence[str]) -> str | None:
    return next((kind for kind in wanted if kind in there), None)


def _whole_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is no UTF-8 text: {error}", UNREADABLE) from error


class TextSource:
    """One text, given on the command line or a whole file."""

    warning = ""

    def __init__(
        self, text: str, name: str = "--text", kinds: tuple[str, ...] = ("Text", "Json")
    ) -> None:
        self.name = name
        self.kinds = kinds
        self._text = text

    async def messages(self, kind: str) -> AsyncIterator[RuntimeData]:
        """See `Source.messages`."""
        yield _text_message(self._text, kind, self.name)

    def close(self) -> None:
        """See `Source.close`."""


def _text_message(line: str, kind: str, where: str) -> RuntimeData:
    from remotemedia.errors import DataError

    try:
        return Text(line) if kind == "Text" else Json(_json_value(line))
    except (DataError, ValueError) as error:
        raise Failure(f"{where} is no {kind}: {error}", UNREADABLE) from error


def _json_value(line: str) -> JsonValue:
    import json

    value: JsonValue = json.loads(line)
    return value


class LineSource:
    """Lines of a file or of standard input, each a message; empty ones are left out.

    A thread reads: neither a pipe nor a terminal may keep the loop waiting.

    Args:
        fd: what to read; owned, unless it is standard input.
        name: what to call it.
    """

    kinds: tuple[str, ...] = ("Text", "Json")
    warning = ""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self._fd = fd

    async def messages(self, kind: str) -> AsyncIterator[RuntimeData]:
        """See `Source.messages`."""
        number = 0
        async for line in self._lines():
            number += 1
            if line.strip():
                yield _text_message(line, kind, f"line {number} of {self.name}")

    async def _lines(self) -> AsyncIterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        rest = ""
        async for chunk in _chunks(self._fd, self.name):
            try:
                rest += decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise Failure(f"{self.name} is no UTF-8 text: {error}", UNREADABLE) from error
            *lines, rest = rest.split("\n")
            for line in lines:
                yield line.removesuffix("\r")
        if rest:
            yield rest

    def close(self) -> None:
        """See `Source.close`."""
        if self._fd > 2:
            os.close(self._fd)
            self._fd = -1


async def _chunks(fd: int, name: str) -> AsyncIterator[bytes]:
    """Read a descriptor in a thread, to its end, which is given as an empty chunk."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(4)

    def read() -> None:
        chunk: bytes | OSError = b"begin"
        while isinstance(chunk, bytes) and chunk:
            room.acquire()
            try:
                chunk = os.read(fd, _READ_BYTES)
            except OSError as error:
                chunk = error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    # A daemon, which reads past Python's buffers: the program can end while it waits for input.
    threading.Thread(target=read, name="input", daemon=True).start()
    while True:
        chunk = await chunks.get()
        room.release()
        if isinstance(chunk, OSError):
            raise Failure(f"{name} cannot be read: {chunk.strerror}", UNREADABLE)
        yield chunk
        if not chunk:
            return
