"""The command `remotemedia`: one file per subcommand, and what they share.

Modules here import at their top only what every command needs; a command that runs pipelines
imports the rest where it does.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["INTERRUPTED", "ending_at_once", "main"]

INTERRUPTED = 128 + 2
"""It was ended by Ctrl-C: as a shell shows a program that SIGINT ended."""


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        with ending_at_once():
            from remotemedia.cli.streams import leave_streams, open_streams

            open_streams()
            from remotemedia.cli.app import run_app

        try:
            sys.exit(run_app())
        finally:
            leave_streams()
    except KeyboardInterrupt:  # before there is anything to bring to an end
        sys.exit(INTERRUPTED)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Have Ctrl-C end this process at once and quietly, while there is nothing to bring to an end.

    For imports: some swallow a `KeyboardInterrupt`, so that the program would go on.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # it is ignored, as of a job in the background, or somebody else's to handle
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
