"""Starting and ending the other processes of a ring."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Workers:
    """The processes of one ring that run `benchmarks.worker`."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """Their pids."""
        return [child.pid for child in self._children]

    def start(self, system: str, arguments: dict[str, object], fds: Sequence[int] = ()) -> None:
        """Start one more, with the descriptors it needs under the same numbers."""
        command = [sys.executable, "-m", "benchmarks.worker", system, json.dumps(arguments)]
        self._children.append(subprocess.Popen(command, pass_fds=tuple(fds)))

    def end(self) -> None:
        """Kill them and wait for them: they do their job until then. Twice is harmless."""
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
        self._children.clear()
