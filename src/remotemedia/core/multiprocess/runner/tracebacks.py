"""What a node raised, in words for the executor."""

from __future__ import annotations

import os
import traceback

from remotemedia.core.multiprocess import control

_HERE = __file__.rpartition("/")[0] + "/"
MAX_SUMMARY_BYTES = 4096
_READ_ONLY_HINT = "; what was received is a read-only view: write to a copy, or to a self.loan"
"""To what numpy says of an array: who has forgotten it looks for the mistake elsewhere."""
_DEBUGGER_HINT = (
    "; a debugger quits where it has no terminal, as in a node's process: use the executor 'inline'"
)
"""To what pdb raises, and says nothing by, where its input is at an end."""


def summary(error: BaseException) -> str:
    """Return an error in a few words: its type and its message, which may have several lines."""
    try:
        lines = traceback.format_exception_only(error)
    except Exception as problem:  # what it carries may be anything; it is told all the same
        lines = [f"{type(error).__name__}, which cannot be printed ({type(problem).__name__})"]
    # The last line of a SyntaxError says what is wrong, those before show where.
    text = lines[-1 if isinstance(error, SyntaxError) else 0]
    hint = ""
    if isinstance(error, ValueError) and "read-only" in text:
        hint = _READ_ONLY_HINT
    elif text.startswith("bdb.BdbQuit") and not os.isatty(0):
        hint = _DEBUGGER_HINT
    return control.shorten(text.strip() + hint, MAX_SUMMARY_BYTES)


def format_error(error: BaseException) -> str:
    """Return an error with its traceback, without the frames of the runner."""
    trace = error.__traceback__
    while (
        trace is not None
        and trace.tb_next is not None
        and _is_ours(trace.tb_frame.f_code.co_filename)
    ):
        trace = trace.tb_next
    try:
        lines = traceback.format_exception(type(error), error, trace)
    except Exception:  # as in `summary`
        lines = [*traceback.format_tb(trace), summary(error)]
    return "".join(lines)


def exit_of(error: SystemExit) -> tuple[int, object]:
    """Return the code that an interpreter would exit with, and what it would say; None: nothing."""
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF, None  # as much of it as a process has: exit(3)
    return 1, error.code


def _is_ours(filename: str) -> bool:
    return filename.startswith(_HERE)
