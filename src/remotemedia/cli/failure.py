"""How a command ends that could not do its work: an exit code and a paragraph."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    from remotemedia.errors import InitTimeout

__all__ = ["FAILED", "INVALID", "READER_GONE", "UNREADABLE", "Failure", "explained"]

_PLACE = re.compile(r'\s*File "(.+)", line (\d+)(?:, in (.+))?')

_PACKAGE = Path(__file__).parent.parent
_STANDARD = re.compile(r"<frozen |.*/python3\.\d+/(?!(site|dist)-packages/)")
"""Files of the standard library, also that of another interpreter."""

FAILED = 1
"""The pipeline failed."""
INVALID = 2
"""The command line or the pipeline file is wrong; nothing was started."""
UNREADABLE = 3
"""An input could not be read, or an output not be written."""
READER_GONE = 128 + 13
"""Who reads our output has gone: as a shell shows a program that SIGPIPE ended."""


class Failure(click.ClickException):
    """An error that is the user's to see: a paragraph, no traceback.

    Args:
        message: what is wrong and what to do.
        exit_code: of the program.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # it is a constant of click's own errors

    def show(self, file: IO[Any] | None = None) -> None:
        """Write it to standard error."""
        click.echo(f"error: {self.format_message()}", file=file, err=True)


def explained(error: BaseException, *, with_traceback: bool) -> str:
    """Say how a pipeline failed.

    Args:
        error: what its session raised.
        with_traceback: give the whole traceback of the node, not only where it ends.
    """
    from remotemedia.errors import InitTimeout, PipelineTerminated, ProcessCrashed

    if isinstance(error, PipelineTerminated) and error.__cause__ is not None:
        error = error.__cause__
    trace = str(getattr(error, "traceback", "") or getattr(error, "stack", ""))
    text = _late(error) if isinstance(error, InitTimeout) else str(error)
    head, newline, rest = text.partition("\n")
    if isinstance(error, ProcessCrashed):
        head = error.summary  # a command has one session, whose name nobody chose
    if with_traceback or not trace:
        return f"{head}{newline}{rest}"
    where = _innermost(trace.splitlines())
    return f"{head}{where}; --traceback shows all of it"


def _late(error: InitTimeout) -> str:
    """Say which node was late, and by which option it may take longer."""
    text = (
        f"node {error.node_id!r} was still {error.phase} after {error.seconds:g} s; raise "
        f"--start-timeout if it only needs longer"
    )
    return f"{text}\nits stack at that moment:\n{error.stack}" if error.stack else text


def _innermost(trace: Iterable[str]) -> str:
    """Say where it was in code that is neither ours nor Python's; empty if it was in none."""
    places = [match for line in trace if (match := _PLACE.match(line))]
    places = [
        one
        for one in places
        if not Path(one[1]).is_relative_to(_PACKAGE) and not _STANDARD.match(one[1])
    ]
    return f"\n  at {places[-1][1]}:{places[-1][2]}, in {places[-1][3]}" if places else ""
