"""Runs the command line as a user does: as a program, with pipes or on a terminal."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

from remotemedia.cli.app import app

if TYPE_CHECKING:
    from types import TracebackType

COMMAND = (sys.executable, "-m", "remotemedia")
NODES = Path(__file__).with_name("cli_nodes.py")
SECONDS = 60.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def remotemedia(
    *arguments: object, stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as a program."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def inside(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which takes half the time and shows what it leaves open."""
    words = [*map(str, arguments)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command with pipes."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_pipeline(folder: Path, *nodes: tuple[str, dict[str, object]]) -> Path:
    """Write a pipeline file: a chain of nodes of `cli_nodes`, each named like its type."""
    entries = [
        {"id": kind.lower(), "node_type": f"cli_nodes:{kind}", "params": params}
        for kind, params in nodes
    ]
    ids = [kind.lower() for kind, _ in nodes]
    connections = [{"from": a, "to": b} for a, b in itertools.pairwise(ids)]
    path = folder / f"{'-'.join(ids)}.json"
    path.write_text(
        json.dumps(
            {
                "version": "v1",
                "name": "tested",
                "modules": [str(NODES)],
                "nodes": entries,
                "connections": connections,
            }
        )
    )
    return path


class OnTerminal:
    """The command on a terminal of its own; ended at the end of the block."""

    def __init__(
        self,
        *arguments: object,
        columns: int = 100,
        rows: int = 40,
        term: str = "xterm-256color",
    ) -> None:
        self.seen = ""
        controller, terminal = pty.openpty()
        self._controller = controller
        self._rows = rows
        size = struct.pack("HHHH", rows, columns, 0, 0)
        # These would go before the real size; pytest-xdist sets them, and so do some shells.
        around = {name: os.environ[name] for name in os.environ.keys() - {"COLUMNS", "LINES"}}
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
        self._process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**around, "TERM": term},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(SECONDS)
        os.close(self._controller)

    def wait_for(self, pattern: str) -> str:
        """Read until the text so far, without escapes, matches; return what matched."""
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.text)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in:\n{self.text}"
            assert self._read(left), f"it ended without {pattern!r}:\n{self.text}"
        return found[0]

    @property
    def text(self) -> str:
        """All that was written, without escape sequences."""
        return _ESCAPES.sub("", self.seen).replace("\r", "")

    @property
    def screen(self) -> list[str]:
        """What has been written as it stands in rows, those that have scrolled out among them.

        Of escape sequences it knows those that move up and that erase a row. As on a terminal,
        nothing reaches the rows that have scrolled out.
        """
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", self.seen):
            top = max(0, len(lines) - self._rows)
            if part == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif part == "\r":
                column = 0
            elif part.endswith("A"):
                row = max(top, row - int(part[2:-1]))
            elif part == "\x1b[2K":
                lines[row] = ""
            elif not part.startswith("\x1b"):
                lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._controller, keys.encode())

    def wait_ended(self) -> int:
        """Read to the end and return the exit code."""
        while self._read(SECONDS):
            pass
        return self._process.wait(SECONDS)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._controller], [], [], seconds)
        if not ready:
            return False
        try:
            data = os.read(self._controller, 65536)
        except OSError:  # EIO: the last one has closed the terminal
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)
