"""What a node's process is started with: plain data, checked when it is made."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from remotemedia.core.environment import text_problem, variable_problem
from remotemedia.core.ids import ID_RULE, is_id
from remotemedia.errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SpawnSpec"]

RUNNER_MODULE = "remotemedia.core.multiprocess.runner"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnSpec:
    """One process to start.

    Attributes:
        node_id, session_id: the node; both as `is_id` has it.
        node_type: name of its type.
        python_executable: interpreter that runs the node.
        argv: the whole command line, instead of the runner's; no shell. A name without a slash is
            looked up in the PATH of `env`.
        env: its whole environment; None is that of this process.
        cwd: its working directory; None is that of this process.
        fds: descriptors it inherits, as number there (3 and up) to descriptor here. They stay the
            caller's. Its standard input is empty, its output is read by us, and it has no other.
        cpus: the CPUs it may run on; None is all that this process may use.
        max_memory_bytes: limit of its address space (RLIMIT_AS); None is that of this process.

    Raises:
        SpawnError: no process could be started with these values.
    """

    node_id: str
    node_type: str
    session_id: str
    python_executable: str = field(default_factory=lambda: sys.executable)
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    fds: Mapping[int, int] = field(default_factory=dict)
    cpus: frozenset[int] | None = None
    max_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in (self.node_id, self.session_id):
            if not is_id(name):
                raise self.error(f"{name!r} is not an id", f"use {ID_RULE}")
        folder = [] if self.cwd is None else [self.cwd]
        for text in (*self.command, *folder):
            if problem := text_problem(text):
                raise self.error(f"a text of its command line or folder {problem}")
        for name, text in ({} if self.env is None else self.env).items():
            if problem := variable_problem(name, text):
                raise self.error(problem)
        if any(number < 3 for number in self.fds):
            raise self.error("descriptors 0 to 2 are not for use", "choose numbers from 3 up")
        if self.cpus is not None and not self.cpus:
            raise self.error("cpu_affinity is empty", "leave it out to allow all CPUs")
        if self.max_memory_bytes is not None and self.max_memory_bytes <= 0:
            raise self.error("memory_limit_bytes is not positive", "leave it out for no limit")

    @property
    def command(self) -> tuple[str, ...]:
        """The command line: `argv`, or the runner's for this node (as in the contract)."""
        return self.argv or (
            *(self.python_executable, "-m", RUNNER_MODULE),
            *("--node-type", self.node_type, "--node-id", self.node_id),
        )

    def order(self, number: int, mark: tuple[str, str]) -> dict[str, object]:
        """Return the spawner's command that starts this process.

        Args:
            number: its id between executor and spawner.
            mark: one variable to add to its environment.

        Raises:
            SpawnError: it would start in the current folder, which there is no more.
        """
        try:
            cwd = self.cwd or os.getcwd()
        except OSError as error:
            hint = "go to a folder that exists, or set working_directory"
            raise self.error(
                f"the current folder cannot be used: {error.strerror}", hint
            ) from error
        env = {**(os.environ if self.env is None else self.env), mark[0]: mark[1]}
        return {
            "op": "spawn",
            "id": number,
            "argv": [_portable(text) for text in self.command],
            "env": {_portable(name): _portable(value) for name, value in env.items()},
            "cwd": _portable(cwd),
            "fds": [1, 2, *self.fds],
            "cpus": None if self.cpus is None else sorted(self.cpus),
            "max_memory_bytes": self.max_memory_bytes,
        }

    def error(self, problem: str, hint: str = "") -> SpawnError:
        """Return the error that says why this process could not be started."""
        what = f"node {self.node_id!r} of session {self.session_id!r}"
        return SpawnError(what, problem, hint, node_id=self.node_id, session_id=self.session_id)


def _portable(text: str) -> str:
    # The spawner is in UTF-8 mode, whatever this process's locale makes of bytes.
    return os.fsencode(text).decode("utf-8", "surrogateescape")
