"""What a node prints: read as it comes, logged line by line, with its last lines kept.

A node never waits for us: its pipes are read whenever they hold something, and what is too much
for the log is counted and thrown away. Nothing it prints can forge a line of the log or command a
terminal.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import logging
import os
import re
import sys
import termios
import time
from contextlib import suppress

__all__ = ["LineSplitter", "NodeStdio", "PipeReader", "log_or_show", "render"]

MAX_LINE_BYTES = 8 * 1024
TAIL_BYTES = 64 * 1024
TAIL_LINES = 50
LOG_BYTES_PER_SECOND = 256 * 1024
LOG_BURST_BYTES = 1024 * 1024
LINE_COST_BYTES = 100  # what a log adds to every line: time, level, name
READ_BYTES = 64 * 1024  # the default capacity of a pipe: one read leaves it empty

# Control characters except tab, line separators, and the marks that reorder a line for its reader.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def render(line: bytes) -> str:
    r"""Return a line as text that is safe to log.

    Control characters and bytes that are not UTF-8 are escaped (`\x1b`, `\xff`); what goes beyond
    `MAX_LINE_BYTES` is left out and the line marked.
    """
    text = line[:MAX_LINE_BYTES].decode("utf-8", "backslashreplace")
    mark = " [truncated]" if len(line) > MAX_LINE_BYTES else ""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text) + mark


def log_or_show(
    logger: logging.Logger, level: int, text: str, about: dict[str, str] | None = None
) -> None:
    """Log a line; show it on standard error where the program has configured no logging.

    As with `logging.lastResort`: whatever handler there is on the way up from the logger, it gets
    the line and nothing is shown, and where `logging.lastResort` is None nothing is either. A line
    is shown whatever the level of the root logger, which is WARNING if nobody said so; levels of
    loggers below it, `logging.disable` and filters count as always.

    Args:
        logger: of the node.
        level: of the line.
        text: the line.
        about: attributes of the record; `node_id` is put before a line that is shown.
    """
    if logger.hasHandlers():
        logger.log(level, "%s", text, extra=about)
    elif logging.lastResort is not None and _is_wanted(logger, level):
        record = logger.makeRecord(logger.name, level, "", 0, text, (), None, extra=about)
        if logger.filter(record) and sys.stderr is not None:
            node_id = about["node_id"] if about else logger.name
            with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
                sys.stderr.write(f"{node_id} | {text}\n")


def _is_wanted(logger: logging.Logger, level: int) -> bool:
    """Whether a logger lets a level pass, were the root's level not set."""
    if logger.disabled or logger.manager.disable >= level:
        return False
    above: logging.Logger | None = logger
    while above is not None and above is not logger.root:
        if above.level:
            return level >= above.level
        above = above.parent
    return True


class LineSplitter:
    """Cuts a stream of bytes into lines, and holds no more than `MAX_LINE_BYTES` of it.

    A line ends with a newline or a carriage return, so a progress bar is a line per update. Empty
    lines are left out. A line that grows too long is given out at once, and its rest skipped.
    """

    def __init__(self) -> None:
        self._rest = b""  # the line that has no end yet
        self._is_skipping = False  # until the end of the line that was too long

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes."""
        lines = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if self._is_skipping:
            lines[0] = b""
        if len(lines) > 1:
            self._is_skipping = False
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
            self._is_skipping = True
        return [line for line in lines if line]

    def flush(self) -> list[bytes]:
        """Return the line that was begun and never ended, if there is one."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class PipeReader:
    """Reads one pipe on the running loop, into a logger, until its end or until `close()`.

    Args:
        fd: the end to read from; owned from here on.
        logger: gets a record per line, with `node_id` and `session_id` where they are known.
        level: the level of the records.
        about: the attributes of the records.
    """

    def __init__(
        self, fd: int, logger: logging.Logger, level: int, about: dict[str, str] | None = None
    ) -> None:
        self._fd: int | None = fd
        self._logger = logger
        self._level = level
        self._about = about
        self._lines = LineSplitter()
        self._tail = b""
        self._tokens: float = LOG_BURST_BYTES  # a token bucket: bytes that may be logged now
        self._refilled_at = time.monotonic()
        self._dropped_lines = 0  # since the log last said so
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    @property
    def tail(self) -> str:
        """The last lines that were read: at most `TAIL_LINES`, of the last `TAIL_BYTES`."""
        splitter = LineSplitter()
        lines = [*splitter.feed(self._tail), *splitter.flush()]
        return "\n".join(render(line) for line in lines[-TAIL_LINES:])

    def drain(self) -> None:
        """Read what the pipe holds at this moment, without waiting for more."""
        if self._fd is None:
            return
        held = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, held)  # a bound: a writer may still be there
        left = held[0]
        while left > 0 and self._fd is not None:
            left -= self._read()

    def close(self) -> None:
        """Drain, log the line that is incomplete, and let go of the pipe. May be called again."""
        self.drain()
        self._release()

    def _release(self) -> None:
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
            self._log(self._lines.flush())
            self._log_dropped()

    def _read(self) -> int:
        assert self._fd is not None
        try:
            chunk = os.read(self._fd, READ_BYTES)
        except BlockingIOError:  # drained since the loop saw that it could be read
            return 0
        if chunk:
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]
            self._log(self._lines.feed(chunk))
        else:
            self._release()
        return len(chunk)

    def _log(self, lines: list[bytes]) -> None:
        now = time.monotonic()
        earned = (now - self._refilled_at) * LOG_BYTES_PER_SECOND
        self._tokens = min(LOG_BURST_BYTES, self._tokens + earned)
        self._refilled_at = now
        for line in lines:
            cost = min(len(line), MAX_LINE_BYTES) + LINE_COST_BYTES
            if cost > self._tokens:
                self._dropped_lines += 1
                continue
            self._tokens -= cost
            self._log_dropped()
            self._emit(self._level, render(line))

    def _log_dropped(self) -> None:
        if self._dropped_lines:
            limit = f"more than {LOG_BYTES_PER_SECOND // 1024} KiB a second"
            self._emit(logging.WARNING, f"{self._dropped_lines} lines were left out here: {limit}")
            self._dropped_lines = 0

    def _emit(self, level: int, text: str) -> None:
        try:
            log_or_show(self._logger, level, text, self._about)
        except Exception as error:  # a filter of the user's must not hide the exit of a node
            context = {"message": "logging the output of a node failed", "exception": error}
            self._loop.call_exception_handler(context)


class NodeStdio:
    """The pipes behind a node's standard output and standard error.

    They go to the logger `remotemedia.node.<node_id>`: output as INFO, errors as WARNING. Where the
    program has configured no logging they are shown on standard error, as "node_id | line".

    Args:
        node_id: the node.
        session_id: its session; both are attributes of the records.

    Attributes:
        write_ends: for the node's process, by descriptor number; owned, see `close_write_ends`.
    """

    def __init__(self, node_id: str, session_id: str) -> None:
        logger = logging.getLogger(f"remotemedia.node.{node_id}")
        about = {"node_id": node_id, "session_id": session_id}
        stdout, stdout_writer = os.pipe()
        try:
            stderr, stderr_writer = os.pipe()
        except OSError:
            os.close(stdout)
            os.close(stdout_writer)
            raise
        self.write_ends = {1: stdout_writer, 2: stderr_writer}
        self._stdout = PipeReader(stdout, logger, logging.INFO, about)
        self._stderr = PipeReader(stderr, logger, logging.WARNING, about)

    @property
    def stderr_tail(self) -> str:
        """The last lines of standard error, complete once the process has ended."""
        return self._stderr.tail

    def close_write_ends(self) -> None:
        """Let go of the process's ends: it has its own by now. May be called again."""
        for fd in self.write_ends.values():
            os.close(fd)
        self.write_ends = {}

    def drain(self) -> None:
        """Read what the pipes hold at this moment, without waiting for more."""
        self._stdout.drain()
        self._stderr.drain()

    def close(self) -> None:
        """Read what the pipes hold and close them, even if a process still writes to them."""
        self.close_write_ends()
        self._stdout.close()
        self._stderr.close()
