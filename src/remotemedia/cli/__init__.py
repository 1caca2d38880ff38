"""The command `remotemedia`: one file per subcommand, and what they share.

Modules here import at their top only what every command needs; a command that runs pipelines
imports the rest where it does.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from remotemedia.cli.app import run_app

        sys.exit(run_app())
    except KeyboardInterrupt:  # before there is anything to bring to an end
        sys.exit(130)
